"""A project's numbers as its admins see them: agreement, bias, and how each annotator works.

They are functions of the judgements, so they are kept until there is a new one; where they take long, a while more.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from typing import NamedTuple

from sqlalchemy import Connection, select

from tether.feedback.asked import gather
from tether.feedback.card import Facts, facts_about
from tether.feedback.facts import find
from tether.feedback.quality import AnnotatorQuality, Choice, Vote, annotator_quality
from tether.feedback.queries import gold as gold_of
from tether.feedback.queries import last_judgement, repeats
from tether.feedback.records import Judgement, Query
from tether.feedback.schema import responses
from tether.feedback.shapes import order_known
from tether.feedback.store import Store

_REASONS = 5
_SHARE = 0.05  # of the time may go into the numbers of one project


class Flagged(NamedTuple):
    """Somebody said that something is wrong with an item."""

    item: int
    user: int
    flag: str
    created: float


@dataclass(frozen=True)
class Figures:
    """A project's numbers."""

    facts: Facts
    quality: Mapping[int, AnnotatorQuality]
    """By user, of items with two responses or more. Of a ranking, one comparison counts, of two responses drawn by the
    item: the tests want independence."""
    days: tuple[tuple[str, int], ...]
    """Answers and skips by day (UTC), days without any left out."""
    flagged: tuple[Flagged, ...]
    """The newest first."""
    skips: tuple[tuple[str, int], ...]
    """The commonest reasons why items that are not gold were skipped, and how often each was given."""
    until: int
    """The last judgement they know of."""
    made: float


class Board:
    """The figures of a store's projects. Safe to use from several threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: dict[int, tuple[Figures, float]] = {}
        self._lock = threading.Lock()

    def of(self, project: int) -> Figures:
        """The project's figures: the newest, or such as are not older than twenty times what it takes to make them."""
        with self._lock:
            if (kept := self._kept.get(project)) is not None:
                found, stale = kept
                if found.until == self._store.last_judgement() or time.monotonic() < stale:
                    return found
            start = time.monotonic()
            with self._store.reading() as db:
                found = figures(db, project, self._store.now())
            end = time.monotonic()
            self._kept[project] = found, end + (end - start) / _SHARE
            return found

    def clear(self) -> None:
        """Keeps nothing: somebody's own words are to be gone."""
        with self._lock:
            self._kept.clear()


def figures(db: Connection, project: int, now: float) -> Figures:
    """Everything counted anew."""
    everything = gather(db, Query(projects=(project,)), gold=True)
    ordinary = [asked for asked in everything if asked.item.gold is None]
    judged = sorted((j for asked in everything for j in asked.judged), key=lambda j: j.id)
    skips = Counter(j.skip for asked in ordinary for j in asked.judged if j.skip is not None)
    days = Counter(datetime.fromtimestamp(j.created, UTC).strftime("%Y-%m-%d") for j in judged)
    again = repeats(db, Query(projects=(project,)))
    newest = sorted([*judged, *again], key=lambda j: -j.id)
    flagged = [Flagged(j.item, j.user, j.flag, j.created) for j in newest if j.flag]
    rows = annotator_quality(votes(db, [*judged, *again], gold_of(db, project)))
    return Figures(
        facts=facts_about(db, ordinary, ""),
        quality={int(row.annotator): row for row in rows},
        days=tuple(sorted(days.items())),
        flagged=tuple(flagged),
        skips=tuple(skips.most_common(_REASONS)),
        until=last_judgement(db),
        made=now,
    )


def votes(db: Connection, judged: Sequence[Judgement], gold: Mapping[int, Mapping[int, int]]) -> Iterator[Vote]:
    """Judgements as votes on two, one each: the pair, or two responses that the item draws by its number."""
    said = [j for j in judged if len(j.shown) >= 2]
    texts = find(db, select(responses.c.id, responses.c.text), responses.c.id, {r for j in said for r in j.shown})
    words = {row.id: len(row.text.split()) for row in texts}
    for j in said:
        expected = gold.get(j.item, {})
        first, second = sorted(drawn_pair(j.item, j.shown, expected), key=j.shown.index)
        choice, known = _choice(j, first, second), _better(expected, first, second)
        lengths = (words[first], words[second])
        yield Vote(str(j.user), j.item, first, second, choice, j.seconds, *lengths, known, order_known(j))


def drawn_pair(item: int, of: Iterable[int], gold: Mapping[int, int] | None = None) -> tuple[int, int]:
    """Two of an item's responses, the same for everybody; of a gold item two that its ranking tells apart.

    >>> drawn_pair(1, [7, 8])
    (7, 8)
    """
    order = sorted(of, key=lambda response: hashlib.sha256(f"{item} {response}".encode()).digest())
    pairs = [(min(two), max(two)) for two in combinations(order, 2)]
    return next((two for two in pairs if _better(gold or {}, *two) is not None), pairs[0])


def _choice(j: Judgement, first: int, second: int) -> Choice:
    if j.skip is not None:
        return "skip"
    if j.ranking is None or first not in j.ranking or second not in j.ranking:
        return "other"
    return _side(j.ranking, first, second)


def _side(ranking: Mapping[int, int], first: int, second: int) -> Choice:
    if ranking[first] == ranking[second]:
        return "tie"
    return "first" if ranking[first] < ranking[second] else "second"


def _better(gold: Mapping[int, int], first: int, second: int) -> int | None:
    if first not in gold or second not in gold:
        return None
    return {"first": first, "second": second}.get(_side(gold, first, second))
