"""Judgements → rows of prompt, chosen and rejected, with where each came from.

A pure function of the query and the newest judgement it may see: no clock, no chance, one order. Rows name prompts,
responses and items by the hash of their content, so two stores with the same facts export the same.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from sqlalchemy import Connection, func, select

from tether.errors import InputError
from tether.feedback.facts import content_key, find
from tether.feedback.margins import Pair, Told, check_margin, count, verdicts
from tether.feedback.queries import adjudications, in_force
from tether.feedback.records import Judgement, Query
from tether.feedback.schema import AnyRow, item_responses, items, prompts, responses, users


@dataclass(frozen=True, slots=True)
class Export:
    """How judgements become rows."""

    margin: str = "log_odds"
    """`log_odds` (posterior log-odds of the next vote), `strength` (mean strength), `davidson` (Bradley–Terry with
    ties) or `crowd` (votes weighed by their annotators' reliability); see margins.py."""
    held_out: float = 0.0
    """Share of the prompts whose rows say `split: "test"`, chosen by the prompt's hash; see `splits`."""
    salt: str = ""
    """Mixed into the hashes of annotators' names, which otherwise can be guessed by who knows the names."""


def export(db: Connection, query: Query, how: Export) -> list[dict[str, Any]]:
    """One row for each pair of an item's responses that the votes tell apart, by item; ties give no row.

    The majority chooses, or the margin's own sign where a model weighs the votes; see margins.py. An adjudication
    stands in place of the votes (`adjudicated` is true): `votes` still counts the annotators, while the margin is that
    of the one adjudicating vote, ln 2 as log-odds and 1 as strength. Gold items give no rows. Rows of items that were
    chosen by active selection say so in `selection`: arm, propensity, score (see active.py); others have no such key.

    InputError for an unknown margin or a share outside [0, 1).
    """
    check_margin(how.margin)
    if not 0 <= how.held_out < 1:
        raise InputError(f"held_out {how.held_out}: must be at least 0 and below 1")
    of_item: dict[int, list[Judgement]] = defaultdict(list)
    for judgement in in_force(db, query):
        if judgement.ranking is not None:
            of_item[judgement.item].append(judgement)
    settled = adjudications(db, query)
    names = {row.id: row.name for row in db.execute(select(users.c.id, users.c.name))}
    everything = list(items_of(db, sorted(of_item.keys() | settled.keys())))
    told = {item.id: Told(tuple(r.id for r in its), of_item[item.id], settled.get(item.id)) for item, its in everything}
    found, split = verdicts(how.margin, told), splits(db, how.held_out)
    rows = []
    for item, its in everything:
        for first, second in combinations(its, 2) if item.gold is None else ():
            verdict = found.get(Pair(item.id, first.id, second.id))
            if verdict is not None and verdict.side > 0:
                rows.append(_row(item, first, second, told[item.id], verdict.margin, names, split, how))
            elif verdict is not None and verdict.side < 0:
                rows.append(_row(item, second, first, told[item.id], -verdict.margin, names, split, how))
    return rows


def splits(db: Connection, held_out: float) -> Callable[[str], str]:
    """Which split the prompt of a key is in: `test` for a share `held_out` of the prompts, else `train`.

    Decided by the prompt's content hash. The same words may be stored more than once, with different token ids or
    none: such prompts go where the first of them goes.
    """
    if not held_out:
        return lambda key: "train"
    several = select(prompts.c.text).group_by(prompts.c.text).having(func.count() > 1)
    query = select(prompts.c.key, prompts.c.text, prompts.c.messages).where(prompts.c.text.in_(several))
    known: dict[str, str] = {}
    first = {
        row.key: known.setdefault(content_key(row.text, row.messages), row.key)
        for row in db.execute(query.order_by(prompts.c.id))
    }
    return lambda key: "test" if int(first.get(key, key)[:13], 16) < held_out * 16**13 else "train"


def pseudonym(name: str, salt: str) -> str:
    """A hash in place of an annotator's name; whoever does not know the salt cannot check a guess."""
    return hashlib.sha256(f"{salt}\0{name}".encode()).hexdigest()[:16]


def items_of(db: Connection, wanted: Sequence[int]) -> Iterator[tuple[AnyRow, list[AnyRow]]]:
    """Items by id, each with its prompt, and its responses in order."""
    query = select(
        *(items.c[name] for name in ("id", "key", "kind", "project_id", "gold", "selection")),
        prompts.c.key.label("prompt_key"),
        *(prompts.c[name] for name in ("text", "messages", "token_ids", "meta")),
    ).join_from(items, prompts)
    links = select(item_responses.c.item_id, responses).join_from(item_responses, responses)
    of_item: dict[int, list[AnyRow]] = defaultdict(list)
    for row in find(db, links.order_by(item_responses.c.position), item_responses.c.item_id, wanted):
        of_item[row.item_id].append(row)
    for row in sorted(find(db, query, items.c.id, wanted), key=lambda row: int(row.id)):
        yield row, of_item[row.id]


def _row(
    item: AnyRow,
    chosen: AnyRow,
    rejected: AnyRow,
    told: Told,
    margin: float,
    names: Mapping[int, str],
    split: Callable[[str], str],
    how: Export,
) -> dict[str, Any]:
    pair = Pair(item.id, chosen.id, rejected.id)
    votes = [j for j in told.votes if j.ranking is not None and set(pair[1:]) <= j.ranking.keys()]
    judged, counts = votes if told.last_word is None else [*votes, told.last_word], count(pair, votes)
    versions = sorted({j.guideline for j in judged})
    row: dict[str, Any] = {
        "prompt": item.messages or item.text,
        "chosen": said(item, chosen),
        "rejected": said(item, rejected),
        "margin": margin,
        "margin_kind": how.margin,
        "votes": {"chosen": counts.wins, "rejected": counts.losses, "ties": counts.ties},
        "adjudicated": told.last_word is not None,
        "annotators": [pseudonym(names[j.user], how.salt) for j in votes],
        "guideline": versions[0] if len(versions) == 1 else versions,
        "split": split(item.prompt_key),
        "checkpoints": {"chosen": chosen.checkpoint, "rejected": rejected.checkpoint},
        "ended": {"chosen": chosen.ended, "rejected": rejected.ended},
        "ids": {
            "item": item.key,
            "prompt": item.prompt_key,
            "chosen": chosen.key,
            "rejected": rejected.key,
            "judgements": [j.id for j in judged],
        },
        "meta": item.meta or {},
    }
    tokens = {"prompt": item.token_ids, "chosen": chosen.token_ids, "rejected": rejected.token_ids}
    why_asked = {} if item.selection is None else {"selection": item.selection}
    return row | why_asked | ({"token_ids": tokens} if all(tokens.values()) else {})


def said(item: AnyRow, response: AnyRow) -> Any:
    """Text for a text prompt; for a conversation, the turn that continues it."""
    return [{"role": "assistant", "content": response.text}] if item.messages else response.text
