"""Links that let one person in once: to make an account, or to set a new password of the account they have.

As of sessions, only the hash of a token is kept. Its first digits are the invite's name, on pages and in the audit log.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, true

from tether.feedback.records import Missing
from tether.feedback.schema import AnyRow, invites, projects, users

_NAMED = 12
"""Hexadecimal digits of a token's hash that name its invite."""


@dataclass(frozen=True, slots=True)
class Invite:
    """A link that is still open."""

    name: str
    """The start of its token's hash: it tells one from another, and nobody comes in with it."""
    admin: bool
    """Whether it makes an admin."""
    project: str | None
    """The name of the project it makes somebody a member of."""
    person: str | None
    """Whose password it sets; None: it makes an account."""
    created: float
    expires: float


def key_of(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def invite_name(token: str) -> str:
    """What an invite is called where its token must not be."""
    return key_of(token)[:_NAMED]


def add_invite(db: Connection, now: float, lifetime: float, **about: Any) -> str:
    """The token of a new invite; `about` are columns: admin, project_id, user_id."""
    token = secrets.token_urlsafe(32)
    db.execute(insert(invites), {"key": key_of(token), "created": now, "expires": now + lifetime, **about})
    return token


def open_invites(db: Connection, now: float, project: int | None = None) -> list[Invite]:
    """The invites still open, the oldest first: all, or those of a project."""
    query = (
        select(invites, projects.c.name.label("project"), users.c.name.label("person"))
        .outerjoin_from(invites, projects, projects.c.id == invites.c.project_id)
        .outerjoin(users, users.c.id == invites.c.user_id)
        .where(_still_open(now), _of(project))
        .order_by(invites.c.created, invites.c.key)
    )
    return [
        Invite(row.key[:_NAMED], row.admin, row.project, row.person, row.created, row.expires)
        for row in db.execute(query)
    ]


def open_invite(db: Connection, token: str, now: float) -> AnyRow:
    """The invite of a token that makes an account, or Missing."""
    query = select(invites).where(invites.c.key == key_of(token), invites.c.user_id.is_(None), _still_open(now))
    row = db.execute(query).first()
    if row is None:
        raise Missing("this invitation is unknown, used or too old; ask for a new one")
    return row


def open_link(db: Connection, token: str, now: float) -> AnyRow:
    """The invite of a token that sets a password, with its person's name, or Missing."""
    query = select(invites, users.c.name).join_from(invites, users, users.c.id == invites.c.user_id)
    row = db.execute(query.where(invites.c.key == key_of(token), _still_open(now))).first()
    if row is None:
        raise Missing("this link is unknown, used or too old; ask for a new one")
    return row


def end_invite(db: Connection, name: str, now: float, project: int | None = None) -> AnyRow:
    """Ends the open invite of this name, and returns what it was. Missing: there is none, or of another project."""
    named = func.substr(invites.c.key, 1, _NAMED) == name
    row = db.execute(select(invites).where(_still_open(now), _of(project), named)).first()
    if row is None:
        raise Missing(f"invitation {name}: is not open; it was used or revoked, or is too old")
    db.execute(delete(invites).where(invites.c.key == row.key))
    return row


def end_password_links(db: Connection, user: int) -> None:
    """Ends the open links that would set the password of this user."""
    db.execute(delete(invites).where(invites.c.user_id == user, invites.c.used_by.is_(None)))


def _still_open(now: float) -> ColumnElement[bool]:
    return invites.c.used_by.is_(None) & (invites.c.expires > now)


def _of(project: int | None) -> ColumnElement[bool]:
    return true() if project is None else invites.c.project_id == project
