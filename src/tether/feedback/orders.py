"""Many rankings of one item's responses become one. Each way is a row of the table `ORDERS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

from tether.feedback.aggregate import vote_counts
from tether.feedback.ranking import davidson

_RIDGE = 1.0  # a normal prior of variance 1 on each log-strength: three votes to none is no certainty
_DIGITS = 6  # strengths closer than this are a tie

Votes = Sequence[Sequence[int | None]]
"""Annotators × responses: ranks, 0 the best, None where not ranked."""


def strengths(votes: Votes) -> list[float]:
    """Davidson's log-strengths (Bradley–Terry with ties, ridge 1) of the pairs the rankings order or tie.

    >>> strengths([[0, 1], [0, 1], [0, 0]])[0] > 0 == sum(strengths([[0, 1], [0, 1], [0, 0]]))
    True
    """
    rankings = [{at: rank for at, rank in enumerate(ranks) if rank is not None} for ranks in votes]
    wins, ties = vote_counts(range(len(votes[0])), rankings)
    return [round(float(s), _DIGITS) + 0.0 for s in davidson(wins, ties, ridge=_RIDGE).strengths]


def mean_ranks(votes: Votes) -> list[float]:
    """Minus the mean rank of each response over those who ranked it, ties sharing the mean of their places.

    >>> mean_ranks([[0, 1, 1], [0, 1, None]])  # places 0, 1.5, 1.5 and 0, 1
    [0.0, -1.25, -1.5]
    """
    places: list[list[float]] = [[] for _ in votes[0]]
    for ranks in votes:
        given = [rank for rank in ranks if rank is not None]
        for at, rank in enumerate(ranks):
            if rank is not None:
                places[at].append(sum(r < rank for r in given) + (given.count(rank) - 1) / 2)
    return [round(-sum(p) / len(p), _DIGITS) + 0.0 for p in places]


ORDERS: Mapping[str, Callable[[Votes], list[float]]] = {"worth": strengths, "mean_rank": mean_ranks}
"""How votes become an order: what each response is worth, the more the better."""


def agreement(ranking: Sequence[int], votes: Votes) -> float:
    """Share of the votes' comparisons of two that the ranking agrees with.

    >>> agreement([0, 1, 2], [[0, 1, 2], [1, 0, None]])  # all three of the one, not the one of the other
    0.75
    """
    agreeing, total = 0, 0
    for ranks in votes:
        for (one, i), (other, k) in combinations(zip(ranks, ranking, strict=True), 2):
            if one is not None and other is not None:
                total += 1
                agreeing += (one > other) - (one < other) == (i > k) - (i < k)
    return agreeing / total if total else 0.0
