"""Reading judgements."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import combinations
from statistics import median
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, case, exists, func, select

from tether.feedback.facts import content_key, find
from tether.feedback.records import Dispute, Effort, Judgement, Missing, Past, Progress, Query, Shown, VotedPair
from tether.feedback.schema import (
    AnyRow,
    assignments,
    item_responses,
    items,
    judgements,
    projects,
    prompts,
    responses,
    users,
)

_SAID = select(responses.c.id, responses.c.text, prompts.c.text.label("prompt")).join_from(responses, prompts)
_ALL = select(judgements, assignments.c.shown).join_from(judgements, assignments)
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
    .order_by(item_responses.c.position)
)
_by_annotator = judgements.c.action.not_in(("undo", "adjudicate"))
_votes = _by_annotator & (assignments.c.role == "annotate")
_ordinary = items.c.gold.is_(None)


def last_judgement(db: Connection) -> int:
    """Id of the newest judgement; 0 when there is none."""
    return int(db.execute(select(func.coalesce(func.max(judgements.c.id), 0))).scalar_one())


def in_force(db: Connection, query: Query) -> list[Judgement]:
    """The answers and skips of `query` that nothing up to `query.until` replaced or took back, by id; no repeats."""
    return [_judgement(row) for row in db.execute(_standing(_ALL.where(_votes), query))]


def repeats(db: Connection, query: Query) -> list[Judgement]:
    """What annotators said, as of `query`, when they were asked again what they had answered, by id."""
    chosen = _ALL.where(_by_annotator, assignments.c.role == "repeat")
    return [_judgement(row) for row in db.execute(_standing(chosen, query))]


def adjudications(db: Connection, query: Query) -> dict[int, Judgement]:
    """Item → the last word on it, as of `query.until`. Like votes, they are chosen by user, kind of user and so on."""
    rows = db.execute(_standing(_ALL.where(judgements.c.action == "adjudicate"), query))
    return {row.item_id: _judgement(row) for row in rows}


def mine(db: Connection, user: int, project: int, limit: int, before: int | None) -> list[Past]:
    """The user's newest answers and skips in force in the project, with what was shown; `before` is a judgement id."""
    query = Query(users=(user,), projects=(project,))
    chosen = _standing(_ALL.where(_by_annotator), query).order_by(None).order_by(judgements.c.id.desc()).limit(limit)
    if before is not None:
        chosen = chosen.where(judgements.c.id < before)
    found = [_judgement(row) for row in db.execute(chosen)]
    texts = item_texts(db, {j.item for j in found})
    return [Past(j, *words_of(texts[j.item], j.shown)) for j in found]


def gold(db: Connection, project: int) -> dict[int, dict[int, int]]:
    """Gold item → the ranking expected, for who judges the annotators."""
    rows = db.execute(select(items.c.id, items.c.gold).where(items.c.project_id == project, items.c.gold.is_not(None)))
    return {row.id: {int(response): rank for response, rank in row.gold.items()} for row in rows}


def disputed(db: Connection, project: int, limit: int, among: tuple[int, ...] = ()) -> list[Dispute]:
    """Items that two or more annotators ranked, not all with the same response (or tie) first.

    Those without an adjudication come before those with one, the most divided first. Gold items are none of them.
    `among` restricts to some item ids.
    """
    ranked = _ALL.where(judgements.c.action == "rank", assignments.c.role == "annotate")
    chosen = ranked.with_only_columns(judgements.c.item_id, judgements.c.ranking, items.c.key).where(_ordinary)
    firsts: dict[int, Counter[frozenset[str]]] = defaultdict(Counter)
    keys: dict[int, str] = {}
    for row in db.execute(_standing(chosen, Query(projects=(project,), items=among))):
        keys[row.item_id], best = row.key, min(row.ranking.values())
        firsts[row.item_id][frozenset(response for response, rank in row.ranking.items() if rank == best)] += 1
    settled = adjudications(db, Query(projects=(project,), items=among))
    agreed = {item: max(votes.values()) / votes.total() for item, votes in firsts.items()}
    divided = sorted(
        (item for item, share in agreed.items() if share < 1), key=lambda item: (item in settled, agreed[item], item)
    )[:limit]
    rankings: dict[int, list[Judgement]] = defaultdict(list)
    for row in find(db, _standing(ranked, Query()), judgements.c.item_id, divided):
        rankings[row.item_id].append(_judgement(row))
    texts = item_texts(db, divided)
    words = {item: words_of(texts[item], blind_order(keys[item], texts[item])) for item in divided}
    return [Dispute(i, keys[i], *words[i], tuple(rankings[i]), settled.get(i)) for i in divided]


def blind_order(item_key: str, of_item: Sequence[AnyRow]) -> list[int]:
    """The ids of an item's responses, in an order that tells nothing of where they came from."""
    return [r.id for r in sorted(of_item, key=lambda r: content_key(item_key, r.key))]


def item_texts(db: Connection, wanted: Collection[int]) -> dict[int, list[AnyRow]]:
    """Item → its responses in the order of the item, each with `id`, `key`, `text`, and the `prompt` and `messages`."""
    texts: dict[int, list[AnyRow]] = {item: [] for item in wanted}
    for row in find(db, _TEXTS, item_responses.c.item_id, wanted):
        texts[row.item_id].append(row)
    return texts


def words_of(
    of_item: Sequence[AnyRow], order: Iterable[int]
) -> tuple[str, tuple[Mapping[str, str], ...], tuple[Shown, ...]]:
    """Prompt, messages and responses of an item, as `item_texts` gives it; the responses, by id, in this order."""
    texts = {row.id: row.text for row in of_item}
    messages = tuple(of_item[0].messages or ())
    return of_item[0].prompt, messages, tuple(Shown(response, texts[response]) for response in order)


def progress(db: Connection, project: int, now: float) -> Progress:
    """How far the project is, at the time `now`. Missing: there is no such project."""
    if db.execute(select(projects.c.id).where(projects.c.id == project)).first() is None:
        raise Missing(f"project {project}: there is no such project")
    done = func.coalesce(func.sum(case((items.c.done >= items.c.overlap, 1), else_=0)), 0)
    sums = select(func.count(), done, *(func.coalesce(func.sum(items.c[name]), 0) for name in ("done", "overlap")))
    counts = db.execute(sums.where(items.c.project_id == project, _ordinary)).one()
    live = (assignments.c.state == "open") & (assignments.c.expires > now)
    held = select(func.count()).select_from(assignments).join(items).where(items.c.project_id == project, live)
    said: dict[int, list[AnyRow]] = defaultdict(list)
    told = (judgements.c.user_id, judgements.c.action, judgements.c.seconds, _ordinary.label("ordinary"))
    chosen = _ALL.with_only_columns(*told).where(_votes)
    for row in db.execute(_standing(chosen, Query(projects=(project,)))):
        said[row.user_id].append(row)
    return Progress(
        items=counts[0],
        done=counts[1],
        answers=counts[2],
        wanted=counts[3],
        skips=sum(row.action == "skip" and row.ordinary for rows in said.values() for row in rows),
        gold=len(gold(db, project)),
        open=db.execute(held).scalar_one(),
        by_user=tuple(_effort(user, said[user]) for user in sorted(said)),
    )


def _effort(user: int, said: Sequence[AnyRow]) -> Effort:
    skips = sum(row.action == "skip" for row in said)
    seconds = [row.seconds for row in said if row.action != "skip" and row.seconds is not None]
    return Effort(user, len(said) - skips, skips, median(seconds) if seconds else None)


def voted_pairs(db: Connection, query: Query) -> list[VotedPair]:
    """The rankings of `query`, pair by pair, in words: what is the same in every store that holds the same texts.

    Of two responses with the same text nothing is said.
    """
    ranked = [(j.user, j.ranking) for j in in_force(db, query) if j.ranking is not None]
    texts = {row.id: row for row in find(db, _SAID, responses.c.id, {r for _, ranks in ranked for r in ranks})}
    pairs = []
    for user, ranks in ranked:
        for first, second in combinations(sorted(ranks, key=lambda r: str(texts[r].text)), 2):
            if texts[first].text != texts[second].text:
                side = (ranks[first] > ranks[second]) - (ranks[first] < ranks[second])
                pairs.append(VotedPair(texts[first].prompt, texts[first].text, texts[second].text, side, user))
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


def _standing(chosen: Select[Any], query: Query) -> Select[Any]:
    """The judgements of `query` that nothing up to `query.until` replaced or took back, by id."""
    later = judgements.alias("later")
    replaced: ColumnElement[bool] = later.c.supersedes == judgements.c.id
    if query.until is not None:
        chosen = chosen.where(judgements.c.id <= query.until)
        replaced &= later.c.id <= query.until
    return _filtered(chosen, query).where(~exists().where(replaced).correlate(judgements)).order_by(judgements.c.id)


def _filtered(chosen: Select[Any], query: Query) -> Select[Any]:
    chosen = chosen.join(items, items.c.id == judgements.c.item_id)
    for column, values in (
        (items.c.project_id, query.projects),
        (judgements.c.item_id, query.items),
        (judgements.c.user_id, query.users),
        (judgements.c.guideline_id, query.guidelines),
    ):
        if values:
            chosen = chosen.where(column.in_(values))
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
