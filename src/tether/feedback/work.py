"""Answers, their taking back, and last words. All functions want a connection that holds the write lock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, exists, func, insert, select, update

from tether.errors import InputError
from tether.feedback.claims import check_place, holds_place, lease_of, live_others
from tether.feedback.facts import check_ranking, check_text, find, next_id
from tether.feedback.forms import check_fit, check_form, check_submit_key
from tether.feedback.queries import blind_order, by_submit_key, item_texts, latest
from tether.feedback.records import Answer, Conflict, Judgement, LastWord, Missing
from tether.feedback.schema import AnyRow, assignments, guidelines, items, judgements, projects, users

_OPEN = (
    select(assignments, items.c.kind, items.c.overlap, items.c.done, projects.c.settings)
    .join_from(assignments, items)
    .join(projects)
)
_later = judgements.alias("later")
_GIVEN = (
    select(
        judgements,
        items.c.overlap,
        items.c.done,
        assignments.c.role,
        projects.c.settings,
        exists().where(_later.c.supersedes == judgements.c.id).label("replaced"),
    )
    .join_from(judgements, items, judgements.c.item_id == items.c.id)
    .join(projects)
    .join(assignments, judgements.c.assignment_id == assignments.c.id)
    .where(judgements.c.id == bindparam("the_id"))
)
_CLOSE = (
    update(assignments)
    .where(assignments.c.id == bindparam("the_id"))
    .values(state=bindparam("to"), expires=bindparam("until"))
)
_COUNT = update(items).where(items.c.id == bindparam("the_id")).values(done=items.c.done + bindparam("more"))
_GUIDELINES = select(guidelines.c.id)
_NEWEST_WORD = (
    select(func.max(judgements.c.id))
    .join_from(judgements, assignments)
    .where(judgements.c.item_id == bindparam("item"), assignments.c.role == "adjudicate")
)
_ACTIONS = {"pair": "rank", "ranking": "rank", "rating": "rate", "edit": "edit"}
_NOTHING: dict[str, Any] = dict.fromkeys(
    ("ranking", "strength", "skip_reason", "rationale", "seconds", "ratings", "correction", "flag")
) | {"all_bad": False}


def submit(db: Connection, answers: Sequence[Answer], by: int | None, now: float) -> list[Judgement]:
    """Store these answers, or raise InputError and store none (the caller's transaction is rolled back).

    With `by`, a user id, an assignment of anyone else is Missing.
    """
    for answer in answers:
        check_form(answer)
    wanted = {a.guideline for a in answers}
    versions = {row.id for row in find(db, _GUIDELINES, guidelines.c.id, wanted)}
    if missing := wanted - versions:
        raise Missing(f"guideline {min(missing)}: there is no such version; add it first")
    stored = {j.submit_key: j for j in by_submit_key(db, [a.submit_key for a in answers])}
    # A key sent twice in one call counts as its first sending.
    new = list({a.submit_key: a for a in reversed(answers) if a.submit_key not in stored}.values())[::-1]
    rows = _open_rows(db, new, by)
    # Answers that hold a place do not take each other's, and go in together; one whose lease ended must look for one.
    held = all(holds_place(rows[a.assignment], now) for a in new)
    for batch in [new] if held else [[a] for a in new]:
        if not held and batch[0].skip is None:
            check_place(db, _open_rows(db, batch, None)[batch[0].assignment], now)  # as it is after the batches before
        for judgement in _store(db, batch, rows, now):
            stored[judgement.submit_key] = judgement
    for answer in answers:
        before = stored[answer.submit_key]
        if before.assignment != answer.assignment or before.action in ("undo", "adjudicate"):
            raise Conflict(f"submit key {answer.submit_key!r}: was used for something else; use a new one")
        if by not in (None, before.user):
            raise _no_assignment(answer.assignment)
    return [stored[answer.submit_key] for answer in answers]


def undo(db: Connection, judgement: int, submit_key: str, by: int | None, now: float, lease: float | None) -> Judgement:
    """Append a revision that takes a judgement in force back, and open its assignment again.

    Conflict: it is not in force. Missing: there is no such judgement, or it is not that of the user `by`.
    """
    check_submit_key(submit_key, f"taking back judgement {judgement}")
    row = db.execute(_GIVEN, {"the_id": judgement}).first()
    if row is None or by not in (None, row.user_id):
        raise Missing(f"judgement {judgement}: there is no such judgement")
    if before := by_submit_key(db, [submit_key]):
        if before[0].supersedes != judgement or before[0].action != "undo":
            raise Conflict(f"submit key {submit_key!r}: was used for something else; use a new one")
        return before[0]
    if row.replaced or row.action == "undo":
        raise Conflict(f"judgement {judgement}: is not one in force, so it cannot be taken back")
    if row.action != "adjudicate":
        _reopen(db, row, now, now + lease_of(row, lease))
    kept = {name: getattr(row, name) for name in ("assignment_id", "item_id", "user_id", "guideline_id")}
    told = {"action": "undo", "submit_key": submit_key, "supersedes": judgement, "created": now}
    _insert(db, [kept | _NOTHING | told | {"revision": row.revision + 1}])
    return by_submit_key(db, [submit_key])[0]


def adjudicate(db: Connection, last_word: LastWord, now: float) -> Judgement:
    """Settle an item by a ranking of all its responses. It takes no place; a later one replaces it.

    Missing: no such item, user or guideline. Conflict: the submit key was used for something else. InputError: the item
    is not one to rank, or is gold, or the ranking leaves a response out.
    """
    check_text(last_word.rationale, f"adjudication of item {last_word.item}: rationale")
    check_submit_key(last_word.submit_key, f"adjudication of item {last_word.item}")
    if before := by_submit_key(db, [last_word.submit_key]):
        if (before[0].action, before[0].item, before[0].user) != ("adjudicate", last_word.item, last_word.user):
            raise Conflict(f"submit key {last_word.submit_key!r}: was used for something else; use a new one")
        return before[0]
    shown = _to_be_settled(db, last_word)
    assignment = _last_words_of(db, last_word, shown, now)
    earlier = latest(db, [assignment]).get(assignment)
    newest = db.execute(_NEWEST_WORD, {"item": last_word.item}).scalar_one()
    told = {
        "assignment_id": assignment,
        "item_id": last_word.item,
        "user_id": last_word.user,
        "guideline_id": last_word.guideline,
        "action": "adjudicate",
        "ranking": _by_text(last_word.ranking),
        "rationale": last_word.rationale,
        "submit_key": last_word.submit_key,
        "revision": 0 if earlier is None else earlier.revision + 1,
        "supersedes": newest,
        "created": now,
    }
    _insert(db, [_NOTHING | told])
    return by_submit_key(db, [last_word.submit_key])[0]


def _to_be_settled(db: Connection, last_word: LastWord) -> list[int]:
    """The responses of the item in the order an adjudicator sees them, everything about the last word checked."""
    for table, identity, name in ((users, last_word.user, "user"), (guidelines, last_word.guideline, "guideline")):
        if db.execute(select(table.c.id).where(table.c.id == identity)).first() is None:
            raise Missing(f"{name} {identity}: there is no {name} with this id")
    item = db.execute(select(items).where(items.c.id == last_word.item)).first()
    where = f"item {last_word.item}"
    if item is None:
        raise Missing(f"{where}: there is no such item")
    if item.kind not in ("pair", "ranking") or item.gold is not None:
        raise InputError(f"{where}: only pairs and rankings that are not gold are adjudicated")
    check_ranking(f"adjudication of {where}", last_word.ranking)
    of_item = item_texts(db, [item.id])[item.id]
    its = {row.id for row in of_item}
    if set(last_word.ranking) != its:
        raise InputError(f"adjudication of {where}: rank all of its responses, {sorted(its)}, and no other")
    return blind_order(item.key, of_item)


def _last_words_of(db: Connection, last_word: LastWord, shown: Sequence[int], now: float) -> int:
    """The assignment that keeps this user's last words on the item. It is closed: nobody can answer it."""
    mine = (assignments.c.item_id == last_word.item) & (assignments.c.user_id == last_word.user)
    known = db.execute(select(assignments.c.id).where(mine, assignments.c.role == "adjudicate")).scalar()
    if known is not None:
        return int(known)
    new = next_id(db, assignments)
    row = {"id": new, "item_id": last_word.item, "user_id": last_word.user, "shown": shown, "role": "adjudicate"}
    db.execute(insert(assignments), row | {"state": "done", "claimed": now, "expires": now})
    return new


def _reopen(db: Connection, row: AnyRow, now: float, expires: float) -> None:
    """Give the place that the answer took, if any, to a lease of its annotator."""
    counts = row.role != "repeat"
    if counts and row.action != "skip":
        db.execute(_COUNT, {"the_id": row.item_id, "more": -1})
    elif counts and row.done + live_others(db, row.item_id, row.user_id, now) >= row.overlap:
        expires = now  # others have the places now: the user may still answer if one of them gives up
    db.execute(_CLOSE, {"the_id": row.assignment_id, "to": "open", "until": expires})


def _no_assignment(assignment: int) -> Missing:
    return Missing(f"assignment {assignment}: there is no such assignment")


def _open_rows(db: Connection, new: Sequence[Answer], by: int | None) -> dict[int, AnyRow]:
    """Assignment → its row and its item's places, every one checked to be open, fitting and answered once."""
    rows = {row.id: row for row in find(db, _OPEN, assignments.c.id, {a.assignment for a in new})}
    times = Counter(a.assignment for a in new)
    for answer in new:
        row = rows.get(answer.assignment)
        if row is None or by not in (None, row.user_id):
            raise _no_assignment(answer.assignment)
        if row.state != "open" or times[answer.assignment] > 1:
            raise Conflict(f"assignment {answer.assignment}: is answered already; undo that answer first")
        check_fit(answer, row)
    return rows


def _store(db: Connection, batch: Sequence[Answer], rows: Mapping[int, AnyRow], now: float) -> list[Judgement]:
    if not batch:
        return []
    earlier = latest(db, [a.assignment for a in batch])
    _insert(db, [_judgement_row(a, rows[a.assignment], earlier.get(a.assignment), now) for a in batch])
    closed = [{"the_id": a.assignment, "to": "done" if a.skip is None else "skipped", "until": now} for a in batch]
    db.execute(_CLOSE, closed)
    counted = [rows[a.assignment] for a in batch if a.skip is None]
    given = Counter(row.item_id for row in counted if row.role != "repeat")
    if given:
        db.execute(_COUNT, [{"the_id": item, "more": more} for item, more in sorted(given.items())])
    return by_submit_key(db, [a.submit_key for a in batch])


def _judgement_row(answer: Answer, row: AnyRow, before: Judgement | None, now: float) -> dict[str, Any]:
    return {
        "assignment_id": row.id,
        "item_id": row.item_id,
        "user_id": row.user_id,
        "guideline_id": answer.guideline,
        "action": "skip" if answer.skip is not None else _ACTIONS[row.kind],
        "ranking": _by_text(answer.ranking),
        "strength": answer.strength,
        "all_bad": answer.all_bad,
        "skip_reason": answer.skip,
        "rationale": answer.rationale,
        "seconds": answer.seconds,
        "submit_key": answer.submit_key,
        "revision": 0 if before is None else before.revision + 1,
        "supersedes": None if before is None else before.id,
        "created": now,
        "ratings": _by_text(answer.ratings),
        "correction": answer.correction,
        "flag": answer.flag,
    }


def _by_text(of_response: Mapping[int, Any] | None) -> dict[str, Any] | None:
    """As JSON keeps it: keys are text."""
    return None if of_response is None else {str(key): of_response[key] for key in sorted(of_response)}


def _insert(db: Connection, rows: Sequence[dict[str, Any]]) -> None:
    first = next_id(db, judgements)
    db.execute(insert(judgements), [{"id": first + at, **row} for at, row in enumerate(rows)])
