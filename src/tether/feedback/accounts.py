"""Who may come in: users, passwords (argon2id), links (`invitations.py`), sessions; and the audit log.

Tokens are 32 random bytes and never stored, only their SHA-256: whoever reads the database cannot come in with it.
A sign-in makes a new session; a changed password ends all others. Failed sign-ins are counted in the audit log, by name
and by address, so that guessing is slowed whatever process answers.
"""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Connection, bindparam, delete, func, insert, or_, select, update

from tether.errors import InputError
from tether.feedback.facts import add_user, next_id
from tether.feedback.invitations import (
    Invite,
    add_invite,
    end_invite,
    end_password_links,
    invite_name,
    key_of,
    open_invite,
    open_invites,
    open_link,
)
from tether.feedback.projects import add_member
from tether.feedback.records import Missing, UserKind
from tether.feedback.schema import AnyRow, audit, invites, judgements, members, sessions, users

if TYPE_CHECKING:
    from argon2 import PasswordHasher

    from tether.feedback.store import Store

DAY = 86_400.0
SESSION = 14 * DAY
TRIES = 8
"""Failed sign-ins of a name from one address within `WINDOW` before they have to wait.

From all addresses together five times as many, of all names from one address ten times as many.
"""
WINDOW = 900.0
HASHES_AT_ONCE = 2
"""Passwords that are hashed at the same time: each takes 64 MiB and a while, and anybody may ask for it."""
_SHORTEST, _LONGEST = 10, 1000
_WRONG = "name or password is wrong"
_WHO = (
    select(users)
    .join_from(sessions, users)
    .where(sessions.c.key == bindparam("key"), sessions.c.expires > bindparam("now"), users.c.active)
)


class TooMany(InputError):
    """Too many failed sign-ins; wait."""


@dataclass(frozen=True, slots=True)
class User:
    """An account: a person, an AI judge or a simulated annotator."""

    id: int
    name: str
    kind: UserKind
    admin: bool
    active: bool
    signs_in: bool
    """Whether they have a password."""
    settings: dict[str, Any]
    """What the app remembers for them."""
    created: float


@dataclass(frozen=True, slots=True)
class Event:
    """A line of the audit log."""

    id: int
    user: int | None
    action: str
    about: dict[str, Any]
    created: float


class Accounts:
    """Accounts of a store. Safe to use from several threads and processes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._hasher = _hasher()
        self._hashing = threading.BoundedSemaphore(HASHES_AT_ONCE)
        # Compared for a name that is unknown, so that it takes as long as a wrong password.
        self._nobody = self._hasher.hash(secrets.token_hex())

    def has_admin(self) -> bool:
        """Whether somebody can administer the store."""
        query = select(func.count()).where(users.c.admin, users.c.active, users.c.password.is_not(None))
        with self._store.reading() as db:
            return bool(db.execute(query).scalar_one())

    def invite(self, *, admin: bool = False, project: int | None = None, lifetime: float = 7 * DAY) -> str:
        """A token by which one person can make an account, as an admin or as a member of a project."""
        with self._store.writing() as db:
            return add_invite(db, self._store.now(), lifetime, admin=admin, project_id=project)

    def invites(self, project: int | None = None) -> list[Invite]:
        """The invites still open, the oldest first: all, or those of a project."""
        with self._store.reading() as db:
            return open_invites(db, self._store.now(), project)

    def revoke(self, invite: str, by: int, project: int | None = None) -> None:
        """Ends the open invite of this name, asked for by user `by`. Missing: none is, or of another project."""
        with self._store.writing() as db:
            now = self._store.now()
            row = end_invite(db, invite, now, project)
            about = {"admin": row.admin, "project": row.project_id, "person": row.user_id}
            record(db, by, "invite_revoked", now, invite=invite, **about)

    def check_invite(self, token: str) -> None:
        """Missing unless the invite is good."""
        with self._store.reading() as db:
            open_invite(db, token, self._store.now())

    def password_link(self, person: int, by: int) -> str:
        """A token by which somebody who forgot their password sets a new one within a day; it ends those made before.

        `by` asks for it. InputError: a program, or somebody who is shut out or never had a password.
        """
        with self._store.writing() as db:
            now, user = self._store.now(), one_user(db, person)
            if user.kind != "human" or not (user.active and user.signs_in):
                raise InputError(f"{user.name} cannot sign in with a password, so there is none to set anew")
            end_password_links(db, person)
            token = add_invite(db, now, DAY, user_id=person)
            record(db, by, "password_link_made", now, person=person, invite=invite_name(token))
        return token

    def check_password_link(self, token: str) -> str:
        """The name of whose password it sets; Missing unless the link is good."""
        with self._store.reading() as db:
            return str(open_link(db, token, self._store.now()).name)

    def renew_password(self, token: str, password: str) -> int:
        """Sets the password of whom the link is for, ends all their sessions and the link, and returns their id.

        Missing: the link is unknown, used or too old. InputError: the password is too short or too long.
        """
        hashed = self._hash(password)
        with self._store.writing() as db:
            now = self._store.now()
            row = open_link(db, token, now)
            _set_password(db, row.user_id, hashed)
            record(db, row.user_id, "password_renewed", now, invite=invite_name(token))
        return int(row.user_id)

    def accept(self, token: str, name: str, password: str) -> int:
        """Makes the invited account and returns its id. Missing: the invite is unknown, used or too old.

        InputError: the name is taken or empty, the password too short or too long.
        """
        name = name.strip()
        hashed = self._hash(password)
        with self._store.writing() as db:
            now = self._store.now()
            row = open_invite(db, token, now)
            # Compared here: SQLite's own `lower` leaves letters such as É as they are, and PostgreSQL's may.
            if name.casefold() in (known.casefold() for known in db.execute(select(users.c.name)).scalars()):
                raise InputError(f"the name {name!r} is taken; choose another")
            user = add_user(db, name, "human", now)
            db.execute(update(users).where(users.c.id == user).values(password=hashed, admin=row.admin))
            db.execute(update(invites).where(invites.c.key == row.key).values(used_by=user))
            if row.project_id is not None:
                add_member(db, row.project_id, user, now)
            record(
                db, user, "account_made", now, admin=bool(row.admin), project=row.project_id, invite=invite_name(token)
            )
        return user

    def sign_in(self, name: str, password: str, address: str = "") -> str:
        """A new session's token. InputError: name or password wrong (it does not say which); TooMany: wait."""
        name = name.replace("\0", "").strip()[:200]  # it is recorded, and PostgreSQL reads no NUL
        query = select(users.c.id, users.c.password, users.c.active).where(users.c.name == name)
        with self._store.reading() as db:
            _slow_down(db, name, address, self._store.now())
            row = db.execute(query).first()
        known = row is not None and row.password is not None and row.active
        fits = self._fits(str(row.password) if known and row is not None else self._nobody, password)
        with self._store.writing() as db:
            now = self._store.now()
            _slow_down(db, name, address, now)  # again: many guesses at once are no way round it
            changed = db.execute(query).first() != row  # the password, while it was hashed
            if row is None or not known or not fits or changed:
                record(db, None, "sign_in_failed", now, name=name.lower(), address=address)
                token = None
            else:
                record(db, row.id, "signed_in", now, address=address)
                token = _open_session(db, row.id, now)
        if token is None:
            raise InputError(_WRONG)
        return token

    def token_for(self, user: int, lifetime: float = 365 * DAY) -> str:
        """A token by which a program works as this user."""
        with self._store.writing() as db:
            return _open_session(db, _row_of(db, user).id, self._store.now(), lifetime)

    def who(self, token: str) -> User | None:
        """The active user of a session; None when it is unknown, ended or too old."""
        with self._store.reading() as db:
            row = db.execute(_WHO, {"key": key_of(token), "now": self._store.now()}).first()
        return None if row is None else _user(row)

    def sign_out(self, token: str) -> None:
        """Ends the session."""
        with self._store.writing() as db:
            db.execute(delete(sessions).where(sessions.c.key == key_of(token)))

    def change_password(self, user: int, old: str, new: str, keep: str = "") -> None:
        """Sets a new password and ends all sessions but that of token `keep`. InputError: the old one is wrong."""
        hashed = self._hash(new)
        with self._store.reading() as db:
            before = _row_of(db, user).password
        if not self._fits(before or self._nobody, old) or before is None:
            raise InputError("the present password is wrong")
        with self._store.writing() as db:
            if _row_of(db, user).password != before:  # it was set anew while the old one was compared
                raise InputError("the present password is wrong")
            _set_password(db, user, hashed, keep)
            record(db, user, "password_changed", self._store.now())

    def _hash(self, password: str) -> str:
        if not _SHORTEST <= len(password) <= _LONGEST:
            raise InputError(f"the password must have {_SHORTEST} to {_LONGEST} characters")
        with self._hashing:
            return self._hasher.hash(password)

    def _fits(self, hashed: str, password: str) -> bool:
        from argon2.exceptions import VerifyMismatchError

        try:
            with self._hashing:
                return self._hasher.verify(hashed, password[: _LONGEST + 1])
        except VerifyMismatchError:
            return False


def record(db: Connection, user: int | None, action: str, now: float, /, **about: Any) -> None:
    """Adds a line to the audit log."""
    row = {"id": next_id(db, audit), "user_id": user, "action": action, "about": about or None, "created": now}
    db.execute(insert(audit), row)


def events(db: Connection, limit: int, before: int | None = None) -> list[Event]:
    """Lines of the audit log, the newest first."""
    query = select(audit).order_by(audit.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(audit.c.id < before)
    return [Event(row.id, row.user_id, row.action, row.about or {}, row.created) for row in db.execute(query)]


def one_user(db: Connection, user: int) -> User:
    """The user of this id, or Missing."""
    return _user(_row_of(db, user))


def all_users(db: Connection, project: int | None = None) -> list[User]:
    """Users by id; those who work on a project when one is given."""
    query = select(users).order_by(users.c.id)
    if project is not None:
        query = query.join_from(users, members).where(members.c.project_id == project)
    return [_user(row) for row in db.execute(query)]


def change_user(db: Connection, user: int, active: bool | None, settings: dict[str, Any] | None) -> None:
    """Lets a user in or not (which ends their sessions and links), or keeps new settings."""
    new: dict[str, Any] = {} if active is None else {"active": active}
    new |= {} if settings is None else {"settings": settings}
    if new:
        db.execute(update(users).where(users.c.id == _row_of(db, user).id).values(new))
    if active is False:
        db.execute(delete(sessions).where(sessions.c.user_id == user))
        end_password_links(db, user)


def forget_user(db: Connection, user: int, now: float, by: int | None = None) -> None:
    """Removes what tells who somebody is: name, password, settings, sessions, and what they said beside their answers.

    The answers stay (choices, ratings, corrections) under the name "deleted-ID" (and more letters where somebody else
    is called that): counts and agreement stay right. `by` is whoever asks for it.
    """
    before, name = _row_of(db, user).name, f"deleted-{user}"
    if db.execute(select(users.c.id).where(users.c.name == name, users.c.id != user)).first() is not None:
        name += f"-{secrets.token_hex(4)}"
    gone = {"name": name, "password": None, "settings": None, "active": False, "admin": False}
    db.execute(update(users).where(users.c.id == user).values(gone))
    db.execute(delete(sessions).where(sessions.c.user_id == user))
    end_password_links(db, user)
    db.execute(delete(members).where(members.c.user_id == user))
    db.execute(update(judgements).where(judgements.c.user_id == user).values(rationale=None, flag=None))
    tried = (audit.c.action == "sign_in_failed") & (audit.c.about["name"].as_string() == before.lower())
    db.execute(update(audit).where((audit.c.user_id == user) | tried).values(about=None))
    record(db, by, "user_forgotten", now, user=user)


def _hasher() -> PasswordHasher:
    from argon2 import PasswordHasher

    return PasswordHasher()


def _open_session(db: Connection, user: int, now: float, lifetime: float = SESSION) -> str:
    db.execute(delete(sessions).where(sessions.c.expires <= now))
    token = secrets.token_urlsafe(32)
    db.execute(insert(sessions), {"key": key_of(token), "user_id": user, "created": now, "expires": now + lifetime})
    return token


def _set_password(db: Connection, user: int, hashed: str, keep: str = "") -> None:
    """Also ends all sessions of the user but that of token `keep`, and their links for a new password."""
    db.execute(update(users).where(users.c.id == user).values(password=hashed))
    db.execute(delete(sessions).where(sessions.c.user_id == user, sessions.c.key != key_of(keep)))
    end_password_links(db, user)


def _slow_down(db: Connection, name: str, address: str, now: float) -> None:
    """TooMany when a name or an address has failed too often of late."""
    named, at = audit.c.about["name"].as_string(), audit.c.about["address"].as_string()
    query = select(named.label("name"), at.label("address")).where(
        audit.c.action == "sign_in_failed",
        audit.c.created > now - WINDOW,
        or_(named == name.lower(), at == address),
    )
    failed = db.execute(query).all()
    of_name = [row for row in failed if row.name == name.lower()]
    of_address = [row for row in failed if row.address == address]
    both = sum(row.address == address for row in of_name)
    if both >= TRIES or len(of_name) >= 5 * TRIES or len(of_address) >= 10 * TRIES:
        raise TooMany(f"too many failed sign-ins; wait {WINDOW / 60:.0f} minutes")


def _row_of(db: Connection, user: int) -> AnyRow:
    row = db.execute(select(users).where(users.c.id == user)).first()
    if row is None:
        raise Missing(f"user {user}: there is no user with this id")
    return row


def _user(row: AnyRow) -> User:
    kind, signs_in = cast("UserKind", row.kind), row.password is not None
    return User(row.id, row.name, kind, row.admin, row.active, signs_in, dict(row.settings or {}), row.created)
