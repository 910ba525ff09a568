"""Judgements → rows of prompt, chosen and rejected, with where each came from.

A pure function of the query and the newest judgement it may see: no clock, no chance, one order. Rows name prompts,
responses and items by the hash of their content, so two stores with the same facts export the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

from sqlalchemy import Connection

from tether.errors import InputError
from tether.feedback.asked import Asked, People, gather, guidelines_of, people
from tether.feedback.margins import Pair, Told, count, verdicts
from tether.feedback.records import Query
from tether.feedback.schema import AnyRow


@dataclass(frozen=True, slots=True)
class Export:
    """How judgements become rows."""

    margin: str = "log_odds"
    """`log_odds` (posterior log-odds of the next vote), `strength` (mean strength), `davidson` (Bradley–Terry with
    ties) or `crowd` (votes weighed by their annotators' reliability); see margins.py."""
    held_out: float = 0.0
    """Share of the prompts whose rows say `split: "test"`, chosen by the prompt's hash; see `asked.splits`."""
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
    if not 0 <= how.held_out < 1:
        raise InputError(f"held_out {how.held_out}: must be at least 0 and below 1")
    # Votes on gold items make no rows, but tell Crowd-BT how reliable annotators are.
    ranked = [asked for asked in gather(db, query, gold=True, held_out=how.held_out) if asked.decisive]
    told = {a.item.id: Told(tuple(r.id for r in a.responses), a.rankings, a.last_word) for a in ranked}
    found, who = verdicts(how.margin, told), people(db, how.salt)
    rows = []
    for asked in ranked:
        for first, second in combinations(asked.responses, 2) if asked.item.gold is None else ():
            verdict = found.get(Pair(asked.item.id, first.id, second.id))
            if verdict is not None and verdict.side > 0:
                rows.append(_row(asked, first, second, verdict.margin, who, how))
            elif verdict is not None and verdict.side < 0:
                rows.append(_row(asked, second, first, -verdict.margin, who, how))
    return rows


def _row(asked: Asked, chosen: AnyRow, rejected: AnyRow, margin: float, who: People, how: Export) -> dict[str, Any]:
    item, pair = asked.item, Pair(asked.item.id, chosen.id, rejected.id)
    votes = [j for j in asked.rankings if set(pair[1:]) <= (j.ranking or {}).keys()]
    judged, counts = votes if asked.last_word is None else [*votes, asked.last_word], count(pair, votes)
    row: dict[str, Any] = {
        "prompt": asked.prompt,
        "chosen": asked.said(chosen.text),
        "rejected": asked.said(rejected.text),
        "margin": margin,
        "margin_kind": how.margin,
        "votes": {"chosen": counts.wins, "rejected": counts.losses, "ties": counts.ties},
        "adjudicated": asked.last_word is not None,
        "annotators": [who.hidden(j.user) for j in votes],
        "guideline": guidelines_of(judged),
        "split": asked.split,
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
