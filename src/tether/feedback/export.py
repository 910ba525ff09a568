"""Judgements → rows of prompt, chosen and rejected, with where each came from.

A pure function of the query and the newest judgement it may see: no clock, no chance, one order. Rows name prompts,
responses and items by the hash of their content, so two stores with the same facts export the same.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from sqlalchemy import Connection, select

from tether.errors import InputError
from tether.feedback.aggregate import Tally, majority, margin_of, tally
from tether.feedback.facts import find
from tether.feedback.queries import in_force
from tether.feedback.records import Judgement, Query
from tether.feedback.schema import AnyRow, item_responses, items, prompts, responses, users


@dataclass(frozen=True, slots=True)
class Export:
    """How judgements become rows."""

    margin: str = "log_odds"
    """`log_odds` (posterior log-odds of the next vote) or `strength` (mean strength); see aggregate.py."""
    held_out: float = 0.0
    """Share of the prompts whose rows say `split: "test"`, chosen by the prompt's hash, so never split in two."""
    salt: str = ""
    """Mixed into the hashes of annotators' names, which otherwise can be guessed by who knows the names."""


def export(db: Connection, query: Query, how: Export) -> list[dict[str, Any]]:
    """One row for each pair of an item's responses that the votes tell apart, by item; ties give no row.

    InputError for an unknown margin or a share outside [0, 1).
    """
    margin_of(how.margin)
    if not 0 <= how.held_out < 1:
        raise InputError(f"held_out {how.held_out}: must be at least 0 and below 1")
    of_item: dict[int, list[Judgement]] = defaultdict(list)
    for judgement in in_force(db, query):
        if judgement.ranking is not None:
            of_item[judgement.item].append(judgement)
    names = {row.id: row.name for row in db.execute(select(users.c.id, users.c.name))}
    rows = []
    for item, its_responses in items_of(db, sorted(of_item)):
        rows += list(_rows(item, its_responses, of_item[item.id], names, how))
    return rows


def split_of(prompt_key: str, held_out: float) -> str:
    """`test` for a share `held_out` of the prompts, else `train`: a function of the prompt's content hash.

    >>> split_of("8" + "0" * 63, 0.6), split_of("8" + "0" * 63, 0.5)
    ('test', 'train')
    """
    return "test" if int(prompt_key[:13], 16) < held_out * 16**13 else "train"


def pseudonym(name: str, salt: str) -> str:
    """A hash in place of an annotator's name; whoever does not know the salt cannot check a guess."""
    return hashlib.sha256(f"{salt}\0{name}".encode()).hexdigest()[:16]


def items_of(db: Connection, wanted: Sequence[int]) -> Iterator[tuple[AnyRow, list[AnyRow]]]:
    """Items by id, each with its prompt, and its responses in order."""
    query = select(
        *(items.c[name] for name in ("id", "key", "kind", "project_id", "gold")),
        prompts.c.key.label("prompt_key"),
        *(prompts.c[name] for name in ("text", "messages", "token_ids", "meta")),
    ).join_from(items, prompts)
    links = select(item_responses.c.item_id, responses).join_from(item_responses, responses)
    of_item: dict[int, list[AnyRow]] = defaultdict(list)
    for row in find(db, links.order_by(item_responses.c.position), item_responses.c.item_id, wanted):
        of_item[row.item_id].append(row)
    for row in sorted(find(db, query, items.c.id, wanted), key=lambda row: int(row.id)):
        yield row, of_item[row.id]


def _rows(
    item: AnyRow, its: Sequence[AnyRow], judged: Sequence[Judgement], names: Mapping[int, str], how: Export
) -> Iterator[dict[str, Any]]:
    for first, second in combinations(its, 2):
        votes = [j for j in judged if j.ranking is not None and {first.id, second.id} <= j.ranking.keys()]
        counts = tally((first.id, second.id), ((j.ranking or {}, j.strength) for j in votes))
        match majority(counts):
            case 1:
                yield _row(item, first, second, counts, votes, names, how)
            case -1:
                yield _row(item, second, first, counts.turned(), votes, names, how)


def _row(
    item: AnyRow,
    chosen: AnyRow,
    rejected: AnyRow,
    counts: Tally,
    votes: Sequence[Judgement],
    names: Mapping[int, str],
    how: Export,
) -> dict[str, Any]:
    versions = sorted({j.guideline for j in votes})
    row: dict[str, Any] = {
        "prompt": item.messages or item.text,
        "chosen": said(item, chosen),
        "rejected": said(item, rejected),
        "margin": margin_of(how.margin)(counts),
        "margin_kind": how.margin,
        "votes": {"chosen": counts.wins, "rejected": counts.losses, "ties": counts.ties},
        "annotators": [pseudonym(names[j.user], how.salt) for j in votes],
        "guideline": versions[0] if len(versions) == 1 else versions,
        "split": split_of(item.prompt_key, how.held_out),
        "checkpoints": {"chosen": chosen.checkpoint, "rejected": rejected.checkpoint},
        "ended": {"chosen": chosen.ended, "rejected": rejected.ended},
        "ids": {
            "item": item.key,
            "prompt": item.prompt_key,
            "chosen": chosen.key,
            "rejected": rejected.key,
            "judgements": [j.id for j in votes],
        },
        "meta": item.meta or {},
    }
    tokens = {"prompt": item.token_ids, "chosen": chosen.token_ids, "rejected": rejected.token_ids}
    return row | ({"token_ids": tokens} if all(tokens.values()) else {})


def said(item: AnyRow, response: AnyRow) -> Any:
    """Text for a text prompt; for a conversation, the turn that continues it."""
    return [{"role": "assistant", "content": response.text}] if item.messages else response.text
