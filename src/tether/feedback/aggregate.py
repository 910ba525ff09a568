"""Many votes on one pair become one label: who won, and by what margin.

A vote is seen from the first response of the pair: +strength it is better, -strength it is worse, 0 a tie.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Tally(NamedTuple):
    """The votes on a pair, from its first response's side."""

    wins: int
    losses: int
    ties: int
    strength: float
    """Sum of the signed strengths; a vote that gives none counts 1."""


def tally(pair: tuple[int, int], votes: Iterable[tuple[Mapping[int, int], float | None]]) -> Tally:
    """Count the (ranking, strength) votes that rank both responses of `pair`.

    >>> tally((7, 9), [({7: 0, 9: 1}, 2.0), ({7: 1, 9: 0}, None), ({7: 0, 9: 0}, 0.0)])
    Tally(wins=1, losses=1, ties=1, strength=1.0)
    """
    counts = {1: 0, -1: 0, 0: 0}
    total = 0.0
    for ranking, strength in votes:
        if pair[0] in ranking and pair[1] in ranking:
            side = (ranking[pair[1]] > ranking[pair[0]]) - (ranking[pair[1]] < ranking[pair[0]])
            counts[side] += 1
            total += side * (1.0 if strength is None else strength)
    return Tally(counts[1], counts[-1], counts[0], total)


def vote_counts(
    responses: Sequence[int], rankings: Iterable[Mapping[int, int]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(wins, ties), both (k, k), of an item's k responses over its rankings: what the fits of ranking.py want.

    A ranking maps responses to ranks, 0 the best; equal ranks tie, and responses it leaves out are compared to none.

    >>> wins, ties = vote_counts([7, 8, 9], [{7: 0, 8: 1, 9: 1}, {9: 0, 7: 1}])
    >>> wins.tolist(), ties.tolist()
    ([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]], [[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    """
    places = {response: place for place, response in enumerate(responses)}
    wins, ties = np.zeros((len(places), len(places))), np.zeros((len(places), len(places)))
    for ranking in rankings:
        ranked = [(places[response], rank) for response, rank in ranking.items() if response in places]
        for one, own in ranked:
            for other, rank in ranked:
                wins[one, other] += own < rank
                ties[one, other] += own == rank and one != other
    return wins, ties


def majority(votes: Tally) -> int:
    """1 when the first response has more votes, -1 when the second has, 0 when they have as many."""
    return (votes.wins > votes.losses) - (votes.wins < votes.losses)


def log_odds(votes: Tally) -> float:
    """ln of the odds that the next vote goes to the first response: p ~ Beta(1, 1), a tie half a vote to each.

        ln (wins + ties/2 + 1) / (losses + ties/2 + 1)

    Grows with the number of votes: three to none says more than one to none.
    """
    first, second = votes.wins + votes.ties / 2 + 1, votes.losses + votes.ties / 2 + 1
    # To the last digit the same from either side.
    return math.log(first / second) if first >= second else -math.log(second / first)


def mean_strength(votes: Tally) -> float:
    """Mean signed strength over all votes, ties as 0: how clear the difference was to people, -3 to 3."""
    return votes.strength / (votes.wins + votes.losses + votes.ties)
