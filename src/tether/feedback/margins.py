"""Who is chosen of two responses and by what margin, from all that was said. Each kind is a row of the table `MARGINS`.

    log_odds   of the next vote, from the votes on the two alone                         the majority chooses
    strength   mean strength of the votes on the two                                     the majority chooses
    davidson   Bradley–Terry with ties, from all votes on the item; items share ν        the margin's sign chooses
    crowd      Crowd-BT: a vote weighs as much as whoever cast it is reliable            the margin's sign chooses

Where few clear votes meet many slight ones the mean strength stands against the majority: negative for the chosen.

The last two are posterior log-odds that a response is the better one (see `ranking.Fit.log_odds`) and come from all
votes of the query at once. Two responses that nobody compared have no verdict, whatever a model would say of them.

An adjudication is the only vote that counts on its item. What the annotators said there still tells Crowd-BT how
reliable they are.

Shapes: `k` responses of an item.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tether.errors import InputError
from tether.feedback.aggregate import Tally, log_odds, majority, mean_strength, tally, vote_counts
from tether.feedback.crowd import crowd_bradley_terry
from tether.feedback.ranking import pooled_log_odds
from tether.feedback.records import Judgement

_Floats = NDArray[np.float64]
_DIGITS = 4  # Crowd-BT's search ends at moves of 1e-5: what is smaller is no difference


@dataclass(frozen=True, slots=True)
class Told:
    """What was said about an item."""

    responses: tuple[int, ...]
    votes: Sequence[Judgement]
    """The annotators' rankings."""
    last_word: Judgement | None
    """The adjudication."""

    @property
    def decisive(self) -> Sequence[Judgement]:
        """The rankings that count: the adjudication, or else the annotators'."""
        return self.votes if self.last_word is None else [self.last_word]


class Pair(NamedTuple):
    """Two responses of an item."""

    item: int
    first: int
    second: int


class Verdict(NamedTuple):
    """Which of a pair is chosen, and how clearly."""

    side: int
    """1: the first is chosen, -1: the second is, 0: neither."""
    margin: float
    """Of the first over the second."""


Kind = Callable[[Mapping[int, Told], Sequence[Pair]], list[Verdict]]
"""All that was said, by item, and the pairs that somebody compared → the verdict on each."""


def verdicts(kind: str, told: Mapping[int, Told]) -> dict[Pair, Verdict]:
    """The verdict on every pair that a decisive ranking holds. InputError for an unknown kind of margin."""
    check_margin(kind)
    pairs = [
        Pair(item, *two)
        for item, of in told.items()
        for two in combinations(of.responses, 2)
        if any(set(two) <= (j.ranking or {}).keys() for j in of.decisive)
    ]
    return dict(zip(pairs, MARGINS[kind](told, pairs), strict=True))


def check_margin(kind: str) -> None:
    """InputError for an unknown kind of margin."""
    if kind not in MARGINS:
        raise InputError(f"margin {kind!r}: is none of {', '.join(MARGINS)}")


def count(pair: Pair, votes: Sequence[Judgement]) -> Tally:
    """The votes on a pair, from its first response's side."""
    return tally((pair.first, pair.second), ((j.ranking or {}, j.strength) for j in votes))


def _counted(margin: Callable[[Tally], float]) -> Kind:
    def kind(told: Mapping[int, Told], pairs: Sequence[Pair]) -> list[Verdict]:
        counts = [count(pair, told[pair.item].decisive) for pair in pairs]
        return [Verdict(majority(votes), margin(votes)) for votes in counts]

    return kind


def davidson_verdicts(told: Mapping[int, Told], pairs: Sequence[Pair]) -> list[Verdict]:
    """Verdicts by Davidson's model of each item's decisive rankings, ridge 1; all items share how freely people tie."""
    widest = max((len(of.responses) for of in told.values()), default=0)
    if not widest:
        return []
    wins, ties = np.zeros((2, len(told), widest, widest))
    for row, of in enumerate(told.values()):
        size, rankings = len(of.responses), [j.ranking for j in of.decisive if j.ranking is not None]
        wins[row, :size, :size], ties[row, :size, :size] = vote_counts(of.responses, rankings)
    found = dict(zip(told, pooled_log_odds(wins, ties), strict=True))

    def log_odds_of(pair: Pair) -> float:
        place = told[pair.item].responses.index
        return float(found[pair.item][place(pair.first), place(pair.second)])

    return [_by_sign(log_odds_of(pair)) for pair in pairs]


def crowd_verdicts(told: Mapping[int, Told], pairs: Sequence[Pair]) -> list[Verdict]:
    """Verdicts by Crowd-BT, fitted to all rankings.

    A response has one strength in each of its items, as another project may ask something else about it; and where the
    item was adjudicated one by the annotators and another by the last word, which tells the margin. Those who have last
    words count as one more annotator, no better known than the others.
    """
    places: dict[tuple[int, int, bool], int] = {}
    people: dict[int | None, int] = {}
    votes, ties = [], []
    for item, of in told.items():
        for judgement in of.votes if of.last_word is None else (*of.votes, of.last_word):
            last, ranks = judgement is of.last_word, judgement.ranking or {}
            who = people.setdefault(None if last else judgement.user, len(people))
            for pair in combinations([r for r in of.responses if r in ranks], 2):
                better, worse = sorted(pair, key=ranks.__getitem__)
                one, other = (places.setdefault((item, r, last), len(places)) for r in (better, worse))
                if ranks[better] < ranks[worse]:
                    votes.append((who, one, other))
                else:
                    ties.append((one, other))
    fit = crowd_bradley_terry(votes, ties, num_items=len(places), num_annotators=len(people))
    settled = [told[pair.item].last_word is not None for pair in pairs]
    asked = [[places[p.item, r, last] for r in p[1:]] for p, last in zip(pairs, settled, strict=True)]
    return [_by_sign(float(found)) for found in fit.log_odds(asked)]


def _by_sign(log_odds: float) -> Verdict:
    margin = round(log_odds, _DIGITS)
    return Verdict((margin > 0) - (margin < 0), margin)


MARGINS: Mapping[str, Kind] = {
    "log_odds": _counted(log_odds),
    "strength": _counted(mean_strength),
    "davidson": davidson_verdicts,
    "crowd": crowd_verdicts,
}
"""The kinds of margin an export can carry."""
