"""Claiming items, submitting answers, taking them back. All functions want a connection that holds the write lock.

An item's place is taken by an answer (`items.done`) or by the live lease of an open assignment; the two together never
exceed its overlap. A skip gives its place back, and the item never returns to who skipped it.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    ScalarSelect,
    bindparam,
    exists,
    func,
    insert,
    select,
    update,
)

from tether.errors import InputError
from tether.feedback.facts import find, next_id
from tether.feedback.queries import by_submit_key, latest
from tether.feedback.records import Answer, Assignment, Judgement, Shown
from tether.feedback.schema import (
    AnyRow,
    assignments,
    guidelines,
    item_responses,
    items,
    judgements,
    prompts,
    responses,
    users,
)

_user: BindParameter[int] = bindparam("user")
_now: BindParameter[float] = bindparam("now")


def _others_live() -> ScalarSelect[int]:
    other = assignments.alias("other")
    live = (other.c.state == "open") & (other.c.expires > _now) & (other.c.user_id != _user)
    count = select(func.count()).select_from(other).where(other.c.item_id == items.c.id, live)
    return count.correlate(items).scalar_subquery()


_has_place: ColumnElement[bool] = items.c.done + _others_live() < items.c.overlap
_mine = assignments.alias("mine")
_never_had = ~exists().where(_mine.c.item_id == items.c.id, _mine.c.user_id == _user).correlate(items)
_limit: BindParameter[int] = bindparam("limit")

_WHO = select(
    users.c.name,
    select(func.coalesce(func.max(assignments.c.item_id), 0)).where(assignments.c.user_id == _user).scalar_subquery(),
).where(users.c.id == _user)

_HELD = (
    select(assignments.c.id, items.c.id.label("item"), items.c.key, assignments.c.shown)
    .join_from(assignments, items)
    .where(assignments.c.user_id == _user, assignments.c.state == "open", _has_place)
    .order_by(items.c.id)
    .limit(_limit)
)
_FRESH = (
    select(items.c.id.label("item"), items.c.key)
    .where(items.c.done < items.c.overlap, items.c.id > bindparam("after"), items.c.id <= bindparam("upto"))
    .where(_never_had, _has_place)
    .order_by(items.c.id)
    .limit(_limit)
)
_among = items.c.id.in_(bindparam("among", expanding=True))
_HELD_AMONG, _FRESH_AMONG = _HELD.where(_among), _FRESH.where(_among)

_TEXTS = (
    select(
        item_responses.c.item_id,
        responses.c.id,
        responses.c.key,
        responses.c.text,
        prompts.c.text.label("prompt"),
        prompts.c.messages,
    )
    .join_from(item_responses, responses)
    .join(prompts)
)
_OPEN = select(assignments, items.c.overlap, items.c.done).join_from(assignments, items)
_LIVE_OTHERS = select(_others_live()).where(items.c.id == bindparam("item"))

_RENEW = update(assignments).where(assignments.c.id == bindparam("the_id")).values(expires=bindparam("until"))
_CLOSE = (
    update(assignments)
    .where(assignments.c.id == bindparam("the_id"))
    .values(state=bindparam("to"), expires=bindparam("until"))
)
_COUNT = update(items).where(items.c.id == bindparam("the_id")).values(done=items.c.done + bindparam("more"))


def claim(
    db: Connection, user: int, limit: int, among: Sequence[int] | None, now: float, expires: float
) -> list[Assignment]:
    """Up to `limit` items: those the user holds first, then new ones in order of id, from `among` if that is given.

    InputError when there is no such user.
    """
    who = db.execute(_WHO, {"user": user}).first()
    if who is None:
        raise InputError(f"user {user}: there is no user with this id")
    name, newest = who
    given = {"user": user, "now": now} | ({} if among is None else {"among": list(among)})
    held = db.execute(_HELD if among is None else _HELD_AMONG, {**given, "limit": limit}).all()
    fresh: list[AnyRow] = []
    # Beyond the user's newest item there is nothing to skip over, so look there first; then pick up what others left.
    for after, upto in ((newest, 2**62), (0, newest)):
        if (left := limit - len(held) - len(fresh)) > 0:
            span = {**given, "limit": left, "after": after, "upto": upto}
            fresh += db.execute(_FRESH if among is None else _FRESH_AMONG, span).all()
    texts = _texts(db, [row.item for row in (*held, *fresh)])
    mine = [_assignment(row.id, user, row, texts[row.item], row.shown, expires) for row in held]
    if held:
        db.execute(_RENEW, [{"the_id": row.id, "until": expires} for row in held])
    if fresh:
        first = next_id(db, assignments)
        for at, row in enumerate(fresh):
            order = _shuffled(row.key, name, texts[row.item])
            mine.append(_assignment(first + at, user, row, texts[row.item], order, expires))
        db.execute(insert(assignments), [_assignment_row(a, now) for a in mine[len(held) :]])
    return mine


def submit(db: Connection, answers: Sequence[Answer], now: float) -> list[Judgement]:
    """Store these answers, or raise InputError and store none (the caller's transaction is rolled back)."""
    for answer in answers:
        _check_form(answer)
    wanted = {a.guideline for a in answers}
    versions = {row.id for row in find(db, select(guidelines.c.id), guidelines.c.id, wanted)}
    if missing := wanted - versions:
        raise InputError(f"guideline {min(missing)}: there is no such version; add it first")
    stored = {j.submit_key: j for j in by_submit_key(db, [a.submit_key for a in answers])}
    # A key sent twice in one call counts as its first sending.
    new = list({a.submit_key: a for a in reversed(answers) if a.submit_key not in stored}.values())[::-1]
    rows = _open_rows(db, new)
    # Answers that hold a place cannot take each other's, and go in together; one whose lease ended must look for one.
    held = all(rows[a.assignment].expires > now for a in new)
    for batch in [new] if held else [[a] for a in new]:
        for judgement in _store(db, batch, rows, now):
            stored[judgement.submit_key] = judgement
    for answer in answers:
        if stored[answer.submit_key].assignment != answer.assignment:
            raise InputError(f"submit key {answer.submit_key!r}: was used for another assignment; use a new one")
    return [stored[answer.submit_key] for answer in answers]


def undo(db: Connection, judgement: int, submit_key: str, now: float, expires: float) -> Judgement:
    """Append a revision that takes a judgement in force back, and open its assignment again. InputError otherwise."""
    if before := by_submit_key(db, [submit_key]):
        if before[0].supersedes != judgement or before[0].action != "undo":
            raise InputError(f"submit key {submit_key!r}: was used for something else; use a new one")
        return before[0]
    row = db.execute(select(judgements).where(judgements.c.id == judgement)).first()
    if row is None or latest(db, [row.assignment_id])[row.assignment_id].id != judgement or row.action == "undo":
        raise InputError(f"judgement {judgement}: is not one in force, so it cannot be taken back")
    item = db.execute(select(items.c.overlap, items.c.done).where(items.c.id == row.item_id)).one()
    if row.action == "rank":
        db.execute(_COUNT, {"the_id": row.item_id, "more": -1})
    elif item.done + _live_others(db, row.item_id, row.user_id, now) >= item.overlap:
        expires = now  # others have the places now: the user may still answer if one of them gives up
    db.execute(_CLOSE, {"the_id": row.assignment_id, "to": "open", "until": expires})
    kept = {name: getattr(row, name) for name in ("assignment_id", "item_id", "user_id", "guideline_id")}
    back = dict.fromkeys(("ranking", "strength", "skip_reason", "rationale", "seconds"))
    _insert(
        db,
        [
            kept
            | back
            | {
                "action": "undo",
                "all_bad": False,
                "submit_key": submit_key,
                "revision": row.revision + 1,
                "supersedes": judgement,
                "created": now,
            }
        ],
    )
    return by_submit_key(db, [submit_key])[0]


def _texts(db: Connection, wanted: Sequence[int]) -> dict[int, list[AnyRow]]:
    """Item → its responses, in the order of the item."""
    texts: dict[int, list[AnyRow]] = {item: [] for item in wanted}
    for row in find(db, _TEXTS.order_by(item_responses.c.position), item_responses.c.item_id, wanted):
        texts[row.item_id].append(row)
    return texts


def _shuffled(item_key: str, name: str, of_item: Sequence[AnyRow]) -> list[int]:
    """Response ids in an order that is random between annotators, and the same whenever it is drawn again."""
    return [
        r.id for r in sorted(of_item, key=lambda r: hashlib.sha256(f"{item_key}\0{name}\0{r.key}".encode()).digest())
    ]


def _assignment(
    identity: int, user: int, item: AnyRow, of_item: Sequence[AnyRow], order: Sequence[int], expires: float
) -> Assignment:
    texts = {row.id: row.text for row in of_item}
    return Assignment(
        id=identity,
        item=item.item,
        key=item.key,
        user=user,
        prompt=of_item[0].prompt,
        messages=tuple(of_item[0].messages or ()),
        responses=tuple(Shown(response, texts[response]) for response in order),
        expires=expires,
    )


def _assignment_row(assignment: Assignment, now: float) -> dict[str, Any]:
    return {
        "id": assignment.id,
        "item_id": assignment.item,
        "user_id": assignment.user,
        "shown": [response.id for response in assignment.responses],
        "state": "open",
        "claimed": now,
        "expires": assignment.expires,
    }


def _open_rows(db: Connection, new: Sequence[Answer]) -> dict[int, AnyRow]:
    """Assignment → its row and its item's places, every one checked to be open and answered once."""
    rows = {row.id: row for row in find(db, _OPEN, assignments.c.id, {a.assignment for a in new})}
    times = Counter(a.assignment for a in new)
    for answer in new:
        row = rows.get(answer.assignment)
        if row is None:
            raise InputError(f"assignment {answer.assignment}: there is no such assignment")
        if row.state != "open" or times[answer.assignment] > 1:
            raise InputError(f"assignment {answer.assignment}: is answered already; undo that answer first")
        if answer.ranking is not None and (strange := set(answer.ranking) - set(row.shown)):
            raise InputError(
                f"assignment {answer.assignment}: response {min(strange)} was not shown; rank some of {row.shown}"
            )
    return rows


def _check_form(answer: Answer) -> None:
    """Whether the answer makes sense by itself."""
    where = f"answer to assignment {answer.assignment}"
    if not 0 < len(answer.submit_key) <= 100:
        raise InputError(f"{where}: the submit key must have 1 to 100 characters")
    if (answer.ranking is None) == (answer.skip is None) or answer.skip == "":
        raise InputError(f"{where}: give either a ranking or a reason to skip")
    if answer.skip is not None and (answer.strength is not None or answer.all_bad):
        raise InputError(f"{where}: a skip has no strength and calls nothing bad")
    if answer.ranking is not None:
        ranks = answer.ranking.values()
        if len(answer.ranking) < 2 or any(type(rank) is not int or rank < 0 for rank in ranks):
            raise InputError(f"{where}: the ranking needs two or more responses, with ranks 0, 1, 2 …")
    if answer.strength is not None and not 0 <= answer.strength <= 3:
        raise InputError(f"{where}: strength {answer.strength} is not between 0 and 3")
    if answer.seconds is not None and not 0 <= answer.seconds < math.inf:
        raise InputError(f"{where}: seconds {answer.seconds} is no length of time")


def _live_others(db: Connection, item: int, user: int, now: float) -> int:
    return int(db.execute(_LIVE_OTHERS, {"item": item, "user": user, "now": now}).scalar_one())


def _store(db: Connection, batch: Sequence[Answer], rows: Mapping[int, AnyRow], now: float) -> list[Judgement]:
    if not batch:
        return []
    if len(batch) == 1 and rows[batch[0].assignment].expires <= now and batch[0].ranking is not None:
        row = _open_rows(db, batch)[batch[0].assignment]  # as it is after the batches before
        if row.done + _live_others(db, row.item_id, row.user_id, now) >= row.overlap:
            raise InputError(
                f"assignment {row.id}: its time ran out and others have answered the item since; claim another"
            )
    earlier = latest(db, [a.assignment for a in batch])
    _insert(db, [_judgement_row(a, rows[a.assignment], earlier.get(a.assignment), now) for a in batch])
    closed = [{"the_id": a.assignment, "to": "done" if a.skip is None else "skipped", "until": now} for a in batch]
    db.execute(_CLOSE, closed)
    given = Counter(rows[a.assignment].item_id for a in batch if a.skip is None)
    if given:
        db.execute(_COUNT, [{"the_id": item, "more": more} for item, more in sorted(given.items())])
    return by_submit_key(db, [a.submit_key for a in batch])


def _judgement_row(answer: Answer, row: AnyRow, before: Judgement | None, now: float) -> dict[str, Any]:
    ranking = None if answer.ranking is None else {str(k): answer.ranking[k] for k in sorted(answer.ranking)}
    return {
        "assignment_id": row.id,
        "item_id": row.item_id,
        "user_id": row.user_id,
        "guideline_id": answer.guideline,
        "action": "skip" if ranking is None else "rank",
        "ranking": ranking,
        "strength": answer.strength,
        "all_bad": answer.all_bad,
        "skip_reason": answer.skip,
        "rationale": answer.rationale,
        "seconds": answer.seconds,
        "submit_key": answer.submit_key,
        "revision": 0 if before is None else before.revision + 1,
        "supersedes": None if before is None else before.id,
        "created": now,
    }


def _insert(db: Connection, rows: Sequence[dict[str, Any]]) -> None:
    first = next_id(db, judgements)
    db.execute(insert(judgements), [{"id": first + at, **row} for at, row in enumerate(rows)])
