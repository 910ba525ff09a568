"""The preference store: who was asked what, in which order it was shown, and what they said.

Every change takes the write lock, then reads the clock, then decides: what it saw cannot change before it commits.
Hence, whatever the number of processes and wherever one is killed: an item's answers and live leases never exceed its
overlap, nobody gets an item twice, an answer whose submit returned is there, and one sent twice is stored once.

Its parts: `schema.py` and `migrations/` (tables), `connect.py` (opening, locking), `facts.py` (adding),
`claims.py` (handing out), `forms.py` and `work.py` (answers), `queries.py` and `export.py` (reading), `records.py`
(what goes in and out), `projects.py` and `accounts.py` (what is asked of whom, who may come in).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, Engine

from tether.feedback import accounts, claims, facts, projects, queries, work
from tether.feedback.accounts import Event, User
from tether.feedback.connect import connect, reading, wipe, writing
from tether.feedback.export import Export, export
from tether.feedback.projects import Guideline, Project, Settings
from tether.feedback.records import (
    Answer,
    Assignment,
    Dispute,
    ItemKind,
    Judgement,
    LastWord,
    NewItem,
    NewPrompt,
    NewResponse,
    Past,
    Progress,
    ProjectState,
    Query,
    UserKind,
    VotedPair,
)

EVERYTHING = Query()
"""All judgements in force."""


class Store:
    """One preference database. Safe to use from several threads and processes at once.

    `lease`, in seconds, is how long a place is held; None: as long as each project says.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.time, lease: float | None = None) -> None:
        self._engine = engine
        self._clock = clock
        self._lease = lease

    @classmethod
    def open(
        cls, where: str | os.PathLike[str], *, clock: Callable[[], float] = time.time, lease: float | None = None
    ) -> Store:
        """The store in an SQLite file or a PostgreSQL database, made or migrated when need be; else InputError."""
        return cls(connect(where), clock, lease)

    def close(self) -> None:
        """Close the connections to the database."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def now(self) -> float:
        """The store's clock, in seconds since 1970."""
        return self._clock()

    def reading(self) -> AbstractContextManager[Connection]:
        """A transaction that sees one state of the store."""
        return reading(self._engine)

    def writing(self, *, durable: bool = True) -> AbstractContextManager[Connection]:
        """A transaction that holds the write lock from the start. Read the clock within it; see connect.py."""
        return writing(self._engine, durable=durable)

    @property
    def lease(self) -> float | None:
        """Seconds that overrule the leases of all projects; None where they do not."""
        return self._lease

    def add_user(self, name: str, kind: UserKind = "human") -> int:
        """The id of the user of this name, added when new. InputError when the name is taken by another kind."""
        with writing(self._engine) as db:
            return facts.add_user(db, name, kind, self._clock())

    def user(self, user: int) -> User:
        """The user of this id, or Missing."""
        with reading(self._engine) as db:
            return accounts.one_user(db, user)

    def users(self) -> list[User]:
        """Every user, by id."""
        with reading(self._engine) as db:
            return accounts.all_users(db)

    def change_user(self, user: int, *, active: bool | None = None, settings: dict[str, Any] | None = None) -> None:
        """Lets a user in or not, or keeps what the app remembers for them. Missing: no such user."""
        with writing(self._engine) as db:
            accounts.change_user(db, user, active, settings)

    def forget_user(self, user: int, *, by: int | None = None) -> None:
        """Removes what tells who a user is, and their own words; their choices stay. Missing: no such user.

        `by` is whoever asks for it, for the audit log.
        """
        with writing(self._engine) as db:
            accounts.forget_user(db, user, self._clock(), by)
        wipe(self._engine)

    def record(self, user: int | None, action: str, /, **about: Any) -> None:
        """Adds a line to the audit log."""
        with writing(self._engine) as db:
            accounts.record(db, user, action, self._clock(), **about)

    def audit(self, limit: int = 100, before: int | None = None) -> list[Event]:
        """Lines of the audit log, the newest first; `before` is the id to go on from."""
        with reading(self._engine) as db:
            return accounts.events(db, limit, before)

    def add_project(self, name: str, kind: ItemKind = "pair", settings: Settings | None = None) -> int:
        """The id of the project of this name, made when new. InputError: a bad name, or one taken by another kind."""
        with writing(self._engine) as db:
            return projects.add_project(db, name, kind, settings or Settings(), self._clock())

    def project(self, project: int) -> Project:
        """The project of this id, or Missing."""
        with reading(self._engine) as db:
            return projects.one_project(db, project)

    def projects(self) -> list[Project]:
        """Every project by id; "default" only once something was asked in it."""
        with reading(self._engine) as db:
            return projects.all_projects(db)

    def projects_of(self, user: int) -> list[Project]:
        """The projects a user is a member of."""
        with reading(self._engine) as db:
            return projects.projects_of(db, user)

    def change_project(
        self, project: int, *, settings: Settings | None = None, state: ProjectState | None = None
    ) -> None:
        """New settings, a new state, or both. Missing: no such project."""
        with writing(self._engine) as db:
            projects.change_project(db, project, settings, state)

    def add_guideline(self, text: str, project: int | None = None) -> int:
        """The id of this text: a new one unless the very same text has one already. Puts it in force in `project`."""
        with writing(self._engine) as db:
            if project is not None:
                return projects.add_version(db, project, text, self._clock())
            return facts.add_guideline(db, text, self._clock())

    def guidelines(self, project: int) -> list[Guideline]:
        """The project's guidelines, the oldest first; the last is in force."""
        with reading(self._engine) as db:
            return projects.versions(db, project)

    def acknowledge(self, user: int, project: int, guideline: int) -> None:
        """Notes that the user has read this guideline. InputError unless it is the one in force."""
        with writing(self._engine) as db:
            projects.acknowledge(db, user, project, guideline, self._clock())

    def has_acknowledged(self, user: int, project: int) -> bool:
        """Whether the user has read the guideline in force; True where there is none."""
        with reading(self._engine) as db:
            return projects.has_acknowledged(db, user, project)

    def add_member(self, project: int, user: int) -> None:
        """Lets the user work on the project. Missing: no such project."""
        with writing(self._engine) as db:
            projects.add_member(db, project, user, self._clock())

    def remove_member(self, project: int, user: int) -> None:
        """Takes the user off the project; what they said stays."""
        with writing(self._engine) as db:
            projects.remove_member(db, project, user)

    def is_member(self, project: int, user: int) -> bool:
        """Whether the user works on the project."""
        with reading(self._engine) as db:
            return projects.is_member(db, project, user)

    def members(self, project: int) -> list[User]:
        """The users who work on the project."""
        with reading(self._engine) as db:
            return accounts.all_users(db, project)

    def add_prompts(self, new: Iterable[NewPrompt]) -> list[int]:
        """Ids of these prompts, in order; those already there are not added again."""
        with writing(self._engine) as db:
            return facts.add_prompts(db, list(new))

    def add_responses(self, new: Iterable[NewResponse]) -> list[int]:
        """Ids of these responses, in order; those already there are not added again. InputError: unknown prompt."""
        with writing(self._engine) as db:
            return facts.add_responses(db, list(new))

    def add_items(self, new: Iterable[NewItem]) -> list[int]:
        """Ids of these items, in order; those already there are not added again, but their overlap may rise.

        InputError: too few or many responses for the kind, the same one twice, unknown ones, answers to different
        prompts, an unknown project, or a gold ranking that is none or was another before.
        """
        with writing(self._engine) as db:
            return facts.add_items(db, list(new))

    def claim(self, user: int, project: int = 1, *, now: float | None = None) -> Assignment | None:
        """The next item of the project for this user, held until the lease ends; None when there is nothing to do.

        A user who holds one already gets the same again, its lease renewed. Missing: unknown user or project.
        """
        return next(iter(self.claim_many(user, 1, project=project, now=now)), None)

    def claim_many(
        self,
        user: int,
        limit: int,
        *,
        project: int = 1,
        among: Sequence[int] | None = None,
        now: float | None = None,
    ) -> list[Assignment]:
        """Up to `limit` items at once: those held first, then new ones by id; `among` restricts to some item ids."""
        with writing(self._engine, durable=False) as db:  # a claim lost with the power is claimed again
            return claims.claim(db, user, limit, project, among, self._at(now), self._lease)

    def held(self, user: int, assignment: int) -> Assignment:
        """An open assignment of this user. Missing: it is not theirs; Conflict: it is answered."""
        with reading(self._engine) as db:
            return claims.held(db, user, assignment)

    def heartbeat(self, user: int, assignment: int, *, now: float | None = None) -> float:
        """Renew the lease of an open assignment of this user; when it ends now, in seconds since 1970.

        Missing: it is not theirs; Conflict: it is answered, or its time ran out and others have its place.
        """
        with writing(self._engine, durable=False) as db:
            return claims.heartbeat(db, user, assignment, self._at(now), self._lease)

    def submit(
        self,
        assignment: int,
        ranking: Mapping[int, int] | None,
        submit_key: str,
        *,
        guideline: int,
        by: int | None = None,
        now: float | None = None,
        **more: Any,
    ) -> Judgement:
        """Store one answer; `more` are the other fields of `Answer`. Errors as of `submit_many`."""
        return self.submit_many([Answer(assignment, submit_key, guideline, ranking, **more)], by=by, now=now)[0]

    def submit_many(
        self, answers: Sequence[Answer], *, by: int | None = None, now: float | None = None
    ) -> list[Judgement]:
        """Store answers in one transaction: all of them, or none and an InputError. A replayed one returns the first.

        Missing: unknown guideline or assignment, or with `by`, a user id, an assignment of anyone else. Conflict: an
        assignment already answered (undo it first), or one whose lease ended and whose place others have taken since.
        InputError: an answer that makes no sense, is not what the item asks, or of other responses than were shown.
        """
        with writing(self._engine) as db:
            return work.submit(db, answers, by, self._at(now))

    def undo(self, judgement: int, submit_key: str, *, by: int | None = None, now: float | None = None) -> Judgement:
        """Take a judgement back by a new revision; its assignment is open again.

        Missing: unknown, or with `by`, a user id, anyone else's. Conflict: it is not in force.
        """
        with writing(self._engine) as db:
            return work.undo(db, judgement, submit_key, by, self._at(now), self._lease)

    def _at(self, now: float | None) -> float:
        """To be asked within a transaction: the clock is read under the lock."""
        return self._clock() if now is None else now

    def adjudicate(
        self,
        item: int,
        user: int,
        ranking: Mapping[int, int],
        submit_key: str,
        *,
        guideline: int,
        rationale: str | None = None,
        now: float | None = None,
    ) -> Judgement:
        """The last word on an item, in place of its votes; a later one replaces it. It takes no annotator's place.

        Missing: no such item, user or guideline. Conflict: a submit key used for something else. InputError: an item
        that is gold or not one to rank, or a ranking that leaves a response out.
        """
        with writing(self._engine) as db:
            told = LastWord(item, user, submit_key, guideline, ranking, rationale)
            return work.adjudicate(db, told, self._at(now))

    def judgements(self, query: Query = EVERYTHING) -> list[Judgement]:
        """The judgements in force (skips included), by id."""
        with reading(self._engine) as db:
            return queries.in_force(db, query)

    def voted_pairs(self, query: Query = EVERYTHING) -> list[VotedPair]:
        """The rankings in force, pair by pair, by their texts: comparable between stores."""
        with reading(self._engine) as db:
            return queries.voted_pairs(db, query)

    def mine(self, user: int, project: int, limit: int = 50, before: int | None = None) -> list[Past]:
        """The user's answers and skips in force, the newest first, with what was shown; `before` is a judgement id."""
        with reading(self._engine) as db:
            return queries.mine(db, user, project, limit, before)

    def disputed(self, project: int, limit: int = 50, among: tuple[int, ...] = ()) -> list[Dispute]:
        """Items whose annotators rank different responses first: the unsettled first, the most divided first.

        `among` restricts to some item ids.
        """
        with reading(self._engine) as db:
            return queries.disputed(db, project, limit, among)

    def adjudications(self, query: Query = EVERYTHING) -> dict[int, Judgement]:
        """Item → the last word on it."""
        with reading(self._engine) as db:
            return queries.adjudications(db, query)

    def gold(self, project: int) -> dict[int, dict[int, int]]:
        """Gold item → the ranking expected. Not for annotators' eyes."""
        with reading(self._engine) as db:
            return queries.gold(db, project)

    def progress(self, project: int) -> Progress:
        """How far the project is. Missing: there is no such project."""
        with reading(self._engine) as db:
            return queries.progress(db, project, self._clock())

    def history(self, assignment: int) -> list[Judgement]:
        """Every revision of one annotator's answer to one item, oldest first."""
        with reading(self._engine) as db:
            return queries.history(db, assignment)

    def last_judgement(self) -> int:
        """Id of the newest judgement, for `Query.until`; 0 when there is none."""
        with reading(self._engine) as db:
            return queries.last_judgement(db)

    def export(self, query: Query = EVERYTHING, how: Export | None = None) -> list[dict[str, Any]]:
        """Rows of prompt, chosen, rejected, margin, votes and origin; see export.py."""
        with reading(self._engine) as db:
            return export(db, query, how or Export())
