"""Judgements → rows of the shape a trainer reads. Each shape is a row of the table `SHAPES`.

    preferences      prompt, chosen, rejected          reward models, DPO and its kin (TRL's explicit-prompt preference)
    rankings         prompt, responses, ranking        reward models on whole rankings
    unpaired         prompt, completion, label         KTO
    ratings          prompt, response, ratings         the mean of each rated attribute; SFT with a filter
    demonstrations   prompt, completion                SFT on the answers annotators wrote
    judgements       what each annotator said          analysis; `tether import` reads it back

Pure functions of the query and the newest judgement it may see: no clock, no chance, one order. Gold items tell about
annotators, not about responses, so no shape holds them but the last. An adjudication decides in place of the votes,
however few. Annotators are named by salted hashes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection, select

from tether.data.rows import Row
from tether.errors import InputError
from tether.feedback.asked import Asked, People, gather, guidelines_of, people
from tether.feedback.export import Export, export
from tether.feedback.margins import check_margin
from tether.feedback.orders import ORDERS, agreement
from tether.feedback.projects import Attribute, settings_of
from tether.feedback.records import Judgement, Query
from tether.feedback.schema import AnyRow, projects

DESIRABLE = Attribute(name="desirable", low=0, high=1)
"""What a rating project rates whose answers are KTO's labels."""


@dataclass(frozen=True, slots=True)
class Options:
    """How judgements become rows."""

    margin: str = "log_odds"
    """Of preferences: `log_odds` of the next vote, mean `strength`, `davidson` or `crowd`; see margins.py."""
    order: str = "worth"
    """Of rankings: `worth` (Davidson's strengths, Bradley–Terry with ties) or `mean_rank`."""
    held_out: float = 0.0
    """Share of the prompts whose rows say `split: "test"`, chosen by the prompt's hash, so never split in two."""
    min_votes: int = 1
    """Rows of fewer annotators are left out."""
    min_agreement: float = 0.0
    """Rows are left out where a smaller share of the votes agrees with the row."""
    salt: str = ""
    """Mixed into the hashes of annotators' names, which otherwise can be guessed by who knows the names."""

    def check(self) -> None:
        """InputError for a value that makes no sense."""
        check_margin(self.margin)
        if self.order not in ORDERS:
            raise InputError(f"order {self.order!r}: is none of {', '.join(ORDERS)}")
        if not 0 <= self.held_out < 1:
            raise InputError(f"held_out {self.held_out}: must be at least 0 and below 1")
        if self.min_votes < 1:
            raise InputError(f"min_votes {self.min_votes}: must be at least 1")
        if not 0 <= self.min_agreement <= 1:
            raise InputError(f"min_agreement {self.min_agreement}: must be between 0 and 1")


def preferences(db: Connection, query: Query, options: Options) -> list[Row]:
    """One row for each pair of an item's responses that the votes tell apart; see export.py."""
    rows = export(db, query, Export(options.margin, options.held_out, options.salt))
    return [row for row in rows if row["adjudicated"] or _enough(row["votes"], options)]


def _enough(votes: Mapping[str, int], options: Options) -> bool:
    total = sum(votes.values())
    return total >= options.min_votes and votes["chosen"] >= options.min_agreement * total


def rankings(db: Connection, query: Query, options: Options) -> list[Row]:
    """One row an item: the responses somebody ranked, their order in `ranking` (0 the best), and every vote."""
    who, rows = people(db, options.salt), []
    for asked in gather(db, query, held_out=options.held_out):
        row = _ranking(asked, who, options)
        enough = row and len(row["votes"]) >= options.min_votes and row["agreement"] >= options.min_agreement
        if row and (enough or row["adjudicated"]):
            rows.append(row)
    return rows


def _ranking(asked: Asked, who: People, options: Options) -> Row | None:
    votes = asked.rankings
    ranked = [r for r in asked.responses if any(r.id in (j.ranking or {}) for j in asked.decisive)]
    if len(ranked) < 2:
        return None

    def table_of(judged: Sequence[Judgement]) -> list[list[int | None]]:
        return [[(j.ranking or {}).get(r.id) for r in ranked] for j in judged]

    worths, table = ORDERS[options.order](table_of(asked.decisive)), table_of(votes)
    order = sorted({-worth for worth in worths})
    ranking = [order.index(-worth) for worth in worths]
    shared = _shared(asked, votes, who)
    return {
        "prompt": asked.prompt,
        "responses": [r.text for r in ranked],
        "ranking": ranking,
        "worths": worths,
        "order": options.order,
        "votes": [{"annotator": who.hidden(j.user), "ranking": row} for j, row in zip(votes, table, strict=True)],
        "agreement": agreement(ranking, table),
        "adjudicated": asked.last_word is not None,
        **shared,
        "checkpoints": [r.checkpoint for r in ranked],
        "ended": [r.ended for r in ranked],
        "ids": {
            "item": asked.item.key,
            "prompt": asked.item.prompt_key,
            "responses": [r.key for r in ranked],
            "judgements": [j.id for j in votes],
        },
        "meta": asked.item.meta or {},
    }


def unpaired(db: Connection, query: Query, options: Options) -> list[Row]:
    """One row a response: whether more annotators put it alone or with others at the top than at the bottom.

    A response called unacceptable counts as at the bottom; in an answer that ties all, none is at either end.
    In a rating project that rates `DESIRABLE`, 1 is the top and 0 the bottom.
    """
    who, rows = people(db, options.salt), []
    rating = db.execute(select(projects.c.id, projects.c.settings).where(projects.c.kind == "rating"))
    thumbs = {row.id for row in rating if DESIRABLE in settings_of(row.settings).attributes}
    for response, of_response in _by_response(gather(db, query, held_out=options.held_out)):
        ends = [(asked, j, end) for asked in of_response for j, end in _ends(asked, response.id, thumbs) if end]
        ups, downs = (sum(end == side for *_, end in ends) for side in (1, -1))
        few = len(ends) < options.min_votes or max(ups, downs) < options.min_agreement * len(ends)
        adjudicated = any(asked.last_word is not None for asked, *_ in ends)
        if ups == downs or (few and not adjudicated):
            continue
        first, votes = of_response[0], [j for _, j, _ in ends]
        rows.append(
            {
                "prompt": first.prompt,
                "completion": first.said(response.text),
                "label": ups > downs,
                "votes": {"desirable": ups, "undesirable": downs},
                "adjudicated": adjudicated,
                **_shared(first, votes, who),
                **_single(response, [asked for asked, *_ in ends], votes),
                "meta": first.item.meta or {},
            }
        )
    return rows


def _ends(asked: Asked, response: int, thumbs: Container[int]) -> list[tuple[Judgement, int]]:
    """The answers that count, each with 1 where it puts the response at the top, -1 at the bottom, else 0."""
    if asked.item.project_id not in thumbs:
        return [(j, _end(j, response)) for j in asked.decisive]
    rated = [(j, (j.ratings or {}).get(response, {}).get(DESIRABLE.name)) for j in asked.judged]
    return [(j, {0: -1, 1: 1}.get(value, 0)) for j, value in rated if value is not None]


def _end(judgement: Judgement, response: int) -> int:
    """1 where the response is ranked first, -1 last or unacceptable, 0 between or where all are tied."""
    ranking = judgement.ranking or {}
    if judgement.all_bad:
        return -1
    if response not in ranking or min(ranking.values()) == max(ranking.values()):
        return 0
    return (ranking[response] == min(ranking.values())) - (ranking[response] == max(ranking.values()))


def ratings(db: Connection, query: Query, options: Options) -> list[Row]:
    """One row a response: for each attribute the mean of its ratings, their standard deviation and number."""
    if options.min_agreement:
        raise InputError("min_agreement: ratings have no majority to agree with; leave it out")
    who, rows = people(db, options.salt), []
    for response, of_response in _by_response(gather(db, query, held_out=options.held_out)):
        rated = [(a, j) for a in of_response for j in a.judged if (j.ratings or {}).get(response.id)]
        if not rated or len(rated) < options.min_votes:
            continue
        first, votes = of_response[0], [j for _, j in rated]
        values: dict[str, list[int]] = defaultdict(list)
        for judgement in votes:
            for attribute, value in (judgement.ratings or {})[response.id].items():
                values[attribute].append(value)
        rows.append(
            {
                "prompt": first.prompt,
                "response": first.said(response.text),
                "ratings": {name: _summary(values[name]) for name in sorted(values)},
                "votes": len(votes),
                **_shared(first, votes, who),
                **_single(response, [asked for asked, _ in rated], votes),
                "meta": first.item.meta or {},
            }
        )
    return rows


def _summary(values: Sequence[int]) -> Row:
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "deviation": deviation, "count": len(values)}


def demonstrations(db: Connection, query: Query, options: Options) -> list[Row]:
    """One row for each better answer an annotator wrote, with the responses it was written in view of."""
    if options.min_votes > 1 or options.min_agreement:
        raise InputError("min_votes and min_agreement: nobody votes on a written answer; leave them out")
    who = people(db, options.salt)
    return [
        {
            "prompt": asked.prompt,
            "completion": asked.said(j.correction),
            "originals": [r.text for r in asked.responses],
            **_shared(asked, [j], who),
            "ids": {
                "item": asked.item.key,
                "prompt": asked.item.prompt_key,
                "responses": [r.key for r in asked.responses],
                "judgements": [j.id],
            },
            "meta": asked.item.meta or {},
        }
        for asked in gather(db, query, held_out=options.held_out)
        for j in asked.judged
        if j.correction is not None
    ]


def judgements(db: Connection, query: Query, options: Options) -> list[Row]:
    """One row for each answer in force, by responses in the order shown; skips, gold items and adjudications too."""
    if options.min_votes > 1 or options.min_agreement:
        raise InputError("min_votes and min_agreement: are for shapes that gather votes; leave them out")
    who = people(db, options.salt)
    named = {row.id: row.name for row in db.execute(select(projects.c.id, projects.c.name))}
    everything = gather(db, query, gold=True, held_out=options.held_out)
    told = [(j, asked) for asked in everything for j in (*asked.judged, asked.last_word) if j is not None]
    return [_judgement(j, asked, who, named) for j, asked in sorted(told, key=lambda pair: pair[0].id)]


def _judgement(j: Judgement, asked: Asked, who: People, named: Mapping[int, str]) -> Row:
    item, responses = asked.item, {r.id: r for r in asked.responses}
    gold = item.gold or {}
    return {
        "project": named[item.project_id],
        "kind": item.kind,
        "prompt": asked.prompt,
        "shown": [
            {"text": r.text, "checkpoint": r.checkpoint, "ended": r.ended} for r in (responses[i] for i in j.shown)
        ],
        "annotator": who.hidden(j.user),
        "annotator_kind": who.kinds[j.user],
        "action": j.action,
        "ranks": None if j.ranking is None else [j.ranking.get(i) for i in j.shown],
        "ratings": None if j.ratings is None else [dict(j.ratings[i]) for i in j.shown],
        **{name: getattr(j, name) for name in ("correction", "strength", "all_bad", "skip", "flag", "rationale")},
        "gold": [gold.get(str(i)) for i in j.shown] if gold else None,
        **{name: getattr(j, name) for name in ("seconds", "created", "guideline")},
        "order_known": order_known(j),
        "split": asked.split,
        "ids": {
            "item": item.key,
            "prompt": item.prompt_key,
            "shown": [responses[i].key for i in j.shown],
            "judgement": j.id,
        },
        "meta": item.meta or {},
    }


IMPORTED = "imported:"
"""How the submit key of an answer begins that was given elsewhere."""
UNKNOWN_ORDER = f"{IMPORTED}unknown-order:"
"""How it begins when nobody recorded in which order the responses were on the screen."""


def order_known(judgement: Judgement) -> bool:
    """Whether `shown` is what the annotator saw; where it is not, the answer can say nothing about position bias."""
    return not judgement.submit_key.startswith(UNKNOWN_ORDER)


def _by_response(everything: Sequence[Asked]) -> Iterator[tuple[AnyRow, list[Asked]]]:
    """Each response, in the order first asked about, with all items that hold it."""
    of_response: dict[int, list[Asked]] = defaultdict(list)
    rows: dict[int, AnyRow] = {}
    for asked in everything:
        for response in asked.responses:
            of_response[response.id].append(asked)
            rows[response.id] = response
    for identity, response in rows.items():
        yield response, of_response[identity]


def _shared(asked: Asked, votes: Sequence[Judgement], who: People) -> Row:
    return {
        "annotators": [who.hidden(j.user) for j in votes],
        "guideline": guidelines_of(votes),
        "split": asked.split,
    }


def _single(response: AnyRow, items: Sequence[Asked], votes: Sequence[Judgement]) -> Row:
    return {
        "checkpoint": response.checkpoint,
        "ended": response.ended,
        "ids": {
            "prompt": items[0].item.prompt_key,
            "response": response.key,
            "items": sorted({asked.item.key for asked in items}),
            "judgements": [j.id for j in votes],
        },
    }


SHAPES: Mapping[str, Callable[[Connection, Query, Options], list[Row]]] = {
    "preferences": preferences,
    "rankings": rankings,
    "unpaired": unpaired,
    "ratings": ratings,
    "demonstrations": demonstrations,
    "judgements": judgements,
}
"""Shape → its rows."""


def rows_of(db: Connection, shape: str, query: Query, options: Options) -> list[Row]:
    """The rows of a shape. InputError for an unknown shape, or options that make no sense."""
    if shape not in SHAPES:
        raise InputError(f"shape {shape!r}: is none of {', '.join(SHAPES)}")
    options.check()
    return SHAPES[shape](db, query, options)
