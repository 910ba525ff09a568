"""Reading judgements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, exists, func, select

from tether.feedback.facts import find
from tether.feedback.records import Judgement, Query, VotedPair
from tether.feedback.schema import AnyRow, assignments, item_responses, items, judgements, prompts, responses, users

_SAID = select(responses.c.id, responses.c.text, prompts.c.text.label("prompt")).join_from(responses, prompts)
_ALL = select(judgements, assignments.c.shown).join_from(judgements, assignments)


def last_judgement(db: Connection) -> int:
    """Id of the newest judgement; 0 when there is none."""
    return int(db.execute(select(func.coalesce(func.max(judgements.c.id), 0))).scalar_one())


def in_force(db: Connection, query: Query) -> list[Judgement]:
    """The answers (skips too) of `query` that nothing up to `query.until` replaced or took back, by id."""
    later = judgements.alias("later")
    replaced: ColumnElement[bool] = later.c.supersedes == judgements.c.id
    chosen = _ALL.where(judgements.c.action.not_in(("undo", "adjudicate")))
    if query.until is not None:
        chosen = chosen.where(judgements.c.id <= query.until)
        replaced &= later.c.id <= query.until
    chosen = _filtered(chosen, query).where(~exists().where(replaced).correlate(judgements))
    return [_judgement(row) for row in db.execute(chosen.order_by(judgements.c.id))]


def voted_pairs(db: Connection, query: Query) -> list[VotedPair]:
    """The rankings of `query` on pairs, in words: what is the same in every store that holds the same texts."""
    judged = [j for j in in_force(db, query) if j.ranking is not None and len(j.shown) == 2]
    texts = {row.id: row for row in find(db, _SAID, responses.c.id, {r for j in judged for r in j.shown})}
    pairs = []
    for j in judged:
        first, second = sorted(j.shown, key=lambda r: str(texts[r].text))
        ranks = j.ranking or {}
        if first in ranks and second in ranks:
            side = (ranks[first] > ranks[second]) - (ranks[first] < ranks[second])
            pairs.append(VotedPair(texts[first].prompt, texts[first].text, texts[second].text, side, j.user))
    return pairs


def history(db: Connection, assignment: int) -> list[Judgement]:
    """Every judgement of an assignment, replaced and undone ones included, oldest first."""
    rows = db.execute(_ALL.where(judgements.c.assignment_id == assignment).order_by(judgements.c.id))
    return [_judgement(row) for row in rows]


def by_submit_key(db: Connection, keys: Sequence[str]) -> list[Judgement]:
    """The judgements stored under these keys, in no promised order; missing ones are left out."""
    return [_judgement(row) for row in find(db, _ALL, judgements.c.submit_key, keys)]


def latest(db: Connection, of: Sequence[int]) -> dict[int, Judgement]:
    """Assignment → its newest judgement; assignments without one are left out."""
    found = sorted(find(db, _ALL, judgements.c.assignment_id, of), key=lambda row: int(row.id))
    return {row.assignment_id: _judgement(row) for row in found}


def _filtered(chosen: Select[Any], query: Query) -> Select[Any]:
    for column, values in (
        (judgements.c.item_id, query.items),
        (judgements.c.user_id, query.users),
        (judgements.c.guideline_id, query.guidelines),
    ):
        if values:
            chosen = chosen.where(column.in_(values))
    if query.projects:
        chosen = chosen.join(items, items.c.id == judgements.c.item_id).where(items.c.project_id.in_(query.projects))
    if query.user_kinds:
        chosen = chosen.join(users, users.c.id == judgements.c.user_id).where(users.c.kind.in_(query.user_kinds))
    if query.checkpoints:
        other = func.coalesce(responses.c.checkpoint, "").not_in(query.checkpoints)
        strange = exists().where(
            item_responses.c.item_id == judgements.c.item_id, responses.c.id == item_responses.c.response_id, other
        )
        chosen = chosen.where(~strange.correlate(judgements))
    return chosen


def _judgement(row: AnyRow) -> Judgement:
    return Judgement(
        id=row.id,
        assignment=row.assignment_id,
        item=row.item_id,
        user=row.user_id,
        guideline=row.guideline_id,
        action=row.action,
        ranking=None if row.ranking is None else {int(key): rank for key, rank in row.ranking.items()},
        strength=row.strength,
        all_bad=row.all_bad,
        skip=row.skip_reason,
        rationale=row.rationale,
        seconds=row.seconds,
        submit_key=row.submit_key,
        revision=row.revision,
        supersedes=row.supersedes,
        created=row.created,
        shown=tuple(row.shown),
        ratings=None if row.ratings is None else {int(key): values for key, values in row.ratings.items()},
        correction=row.correction,
        flag=row.flag,
    )
