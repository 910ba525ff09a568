"""An annotator's turns at items, by numbers that tell nothing of anybody else.

Assignments, judgements, items and responses are numbered across the whole store: their ids would show how much others
do in the meantime, and which items were added late, as gold ones often are. So what the app shows an annotator are
their own turns, 1, 2, 3 … in the order they got them, and responses by position. Nobody can even name another's turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, Integer, bindparam, func, select

from tether.errors import InputError
from tether.feedback import claims, projects, queries
from tether.feedback.projects import Project
from tether.feedback.records import Assignment, Conflict, Judgement, Missing, Past
from tether.feedback.schema import LARGEST, assignments, items
from tether.feedback.store import Store

MOST_HELD = 5
"""Turns one annotator may hold at once."""

_mine = select(assignments.c.id).where(assignments.c.user_id == bindparam("user"))
_EARLIER = select(func.count()).select_from(_mine.where(assignments.c.id < bindparam("first")).subquery())
_SINCE = _mine.where(assignments.c.id.between(bindparam("first"), bindparam("last"))).order_by(assignments.c.id)
_NTH = _mine.order_by(assignments.c.id).offset(bindparam("skipped", type_=Integer)).limit(1)
_PROJECT = select(items.c.project_id).join_from(assignments, items).where(assignments.c.id == bindparam("turn"))


@dataclass(frozen=True, slots=True)
class Turn:
    """One annotator's turn at one item."""

    number: int
    """Its number among the annotator's own."""
    assignment: Assignment
    project: Project
    lease_seconds: float
    """How long the place is still held; 0 when that time is over."""


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer in force, to look at again."""

    number: int
    past: Past


def project_for(db: Connection, user: int, project: int) -> Project:
    """A project the user works on; Missing for any other."""
    found = projects.one_project(db, project)
    if not projects.is_member(db, project, user):
        raise Missing(f"project {project}: there is no such project")
    return found


def take(store: Store, user: int, project: int, limit: int) -> list[Turn]:
    """Up to `limit` turns in the order they were given out: those held first. Conflict: the guideline is unread."""
    with store.writing(durable=False) as db:  # a claim lost with the power is claimed again
        found = project_for(db, user, project)
        if not projects.has_acknowledged(db, user, project):
            raise Conflict("the guideline has changed; read it and say so before you go on")
        taken = claims.claim(db, user, limit, project, None, store.now(), store.lease)
        numbers = numbers_of(db, user, [assignment.id for assignment in taken])
    turns = [_turn(store, numbers[assignment.id], assignment, found) for assignment in taken]
    # By item the order would show gold: it stands where it was given out, not where its id belongs.
    return sorted(turns, key=lambda turn: turn.number)


def held(store: Store, user: int, number: int) -> Turn:
    """An open turn. Missing: the user has no such turn; Conflict: it is answered."""
    with store.reading() as db:
        return held_in(db, store, user, number)


def held_in(db: Connection, store: Store, user: int, number: int) -> Turn:
    """`held`, within a transaction."""
    identity = identity_of(db, user, number)
    with by_number(number, identity):
        assignment = claims.held(db, user, identity)
    return _turn(store, number, assignment, project_for(db, user, assignment.project))


def renew(store: Store, user: int, number: int) -> float:
    """Renews the lease of an open turn; seconds it lasts now. Missing and Conflict as `Store.heartbeat`."""
    turn = held(store, user, number)
    with by_number(number, turn.assignment.id):
        until = store.heartbeat(user, turn.assignment.id)
    return max(0.0, until - store.now())


def stored_answer(db: Connection, user: int, number: int, submit_key: str) -> Judgement | None:
    """What was stored for this turn under this key, if anything."""
    found = queries.history(db, identity_of(db, user, number))
    return next((judgement for judgement in found if judgement.submit_key == submit_key), None)


def take_back(store: Store, user: int, number: int, submit_key: str) -> Judgement:
    """Takes the answer of a turn back; the same key again returns the same.

    Conflict: there is none in force, or its project hands out nothing, so that the task might never be found again.
    """
    with store.reading() as db:
        identity = identity_of(db, user, number)
        found = queries.history(db, identity)
        state = projects.one_project(db, db.execute(_PROJECT, {"turn": identity}).scalar_one()).state
    if not found:
        raise Conflict(f"task {number}: is not answered yet, so there is nothing to take back")
    replayed = next((j for j in found if j.submit_key == submit_key and j.supersedes is not None), None)
    if replayed is None and state != "open":
        raise Conflict(f"task {number}: its project is {state}, so its answer stays as it is")
    before = replayed.supersedes if replayed is not None and replayed.action == "undo" else found[-1].id
    try:
        return store.undo(int(before or 0), submit_key, by=user)
    except Conflict:
        raise Conflict(f"task {number}: its answer is taken back already, or this key was used before") from None


def past(store: Store, user: int, project: int, limit: int, before: int | None) -> list[Answered]:
    """The user's own answers in force, the newest first; `before` is the number of a turn to go on from."""
    with store.reading() as db:
        project_for(db, user, project)
        newest = queries.history(db, identity_of(db, user, before)) if before is not None else []
    mine = store.mine(user, project, limit, newest[-1].id if newest else None)
    with store.reading() as db:
        numbers = numbers_of(db, user, [one.judgement.assignment for one in mine])
    return [Answered(numbers[one.judgement.assignment], one) for one in mine]


def done_by_project(db: Connection, user: int) -> dict[int, int]:
    """Project id → how many items the user has answered in it; what was asked again counts once."""
    mine = (assignments.c.user_id == user) & (assignments.c.state == "done") & (assignments.c.role == "annotate")
    query = select(items.c.project_id, func.count()).select_from(assignments).join(items).where(mine)
    return {row[0]: row[1] for row in db.execute(query.group_by(items.c.project_id))}


def numbers_of(db: Connection, user: int, ids: Sequence[int]) -> dict[int, int]:
    """Assignment id → its number among the user's own. Turns are only ever added, so a number stays."""
    if not ids:
        return {}
    span = {"user": user, "first": min(ids), "last": max(ids)}
    earlier = int(db.execute(_EARLIER, span).scalar_one())
    return {identity: earlier + at for at, identity in enumerate(db.execute(_SINCE, span).scalars(), 1)}


def identity_of(db: Connection, user: int, number: int) -> int:
    """The id of the user's turn of this number, or Missing."""
    found = db.execute(_NTH, {"user": user, "skipped": number - 1}).scalar() if 0 < number <= LARGEST else None
    if found is None:
        raise Missing(f"task {number}: there is no such task")
    return int(found)


@contextmanager
def by_number(number: int, identity: int) -> Iterator[None]:
    """Errors of the store speak of assignments by id; an annotator is told the same of their task."""
    try:
        yield
    except InputError as error:
        about = str(error).replace(f"answer to assignment {identity}:", f"task {number}:")
        raise type(error)(about.replace(f"assignment {identity}:", f"task {number}:")) from None


def _turn(store: Store, number: int, assignment: Assignment, project: Project) -> Turn:
    left = round(max(0.0, assignment.expires - store.now()), 3)
    return Turn(number, assignment, project, left)
