"""Crowd-BT: strengths of items and reliabilities of annotators from one set of votes (Chen et al. 2013).

    P(annotator a says i is better than j) = η_a σ(s_i - s_j) + (1 - η_a) σ(s_j - s_i)

η_a = 1 says what the strengths say, ½ is noise (a spammer), 0 always says the opposite. Strengths have a normal prior
where the paper has a virtual node, reliabilities one that expects people to be right more often than not: it tells the
fit from its mirror image, and picks the wrong one where most votes are reversed.

The paper maximises over strengths and reliabilities together. With three votes a pair strengths then explain every vote
and every η becomes 1, so here strengths are integrated out by expectation propagation (Minka 2001): each vote is judged
by what the others say of its two items. A tie, √(σ(s_i - s_j) σ(s_j - s_i)), draws the two together and says nothing of
whoever called it: honest people tie equals.

Shapes: `n` items, `A` annotators, `V` votes, `E` votes and ties; `P` groups of `k` items.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tether.errors import InputError

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]
_STEPS = 5000
_TOLERANCE = 1e-5  # largest move of a strength or reliability that ends the search
_DAMPING = 0.7  # how far a vote's message moves to what it should be: all move at once, and full moves can swing
_PATIENCE = 100  # rounds after which swings that don't die by themselves are damped more and more
_LEAST = 0.05  # the most damping
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(24)

Standing = Literal["sound", "chance", "reversed"]
"""An annotator's interval for η: wholly above ½, around it, wholly below."""


class Block(NamedTuple):
    """The groups of k items that comparisons link, for one k."""

    items: _Ints
    """(P, k)."""
    covariance: _Floats
    """(P, k, k) of their strengths, given the reliabilities."""


@dataclass(frozen=True)
class CrowdFit:
    """What votes say of the items and of those who cast them."""

    strengths: _Floats
    """(n,) posterior means, with mean 0 in each group; 0 for an item that was compared to none."""
    blocks: Sequence[Block]
    """The groups: strengths compare only within one."""
    reliability: _Floats
    """(A,) η."""
    errors: _Floats
    """(A,) standard errors of η."""
    votes: _Ints
    """(A,) votes of each annotator, ties left out."""
    steps: int
    """Rounds it took."""

    def standing(self, level: float = 0.95) -> list[Standing]:
        """For each annotator whether votes follow the strengths, are noise as far as can be told, or are reversed."""
        reach = NormalDist().inv_cdf((1 + level) / 2) * self.errors
        low, high = self.reliability - reach, self.reliability + reach
        return ["sound" if a > 0.5 else "reversed" if b < 0.5 else "chance" for a, b in zip(low, high, strict=True)]

    def log_odds(self, pairs: ArrayLike) -> _Floats:
        """(Q,) posterior log-odds that the first of each pair (Q, 2) is the better to someone reliable.

        See `ranking.Fit.log_odds`. InputError when no comparisons link the two of a pair.
        """
        one, other = _rows("pairs", pairs, 2).T
        block, row, place = np.full((3, len(self.strengths)), -1)
        for number, (items, _) in enumerate(self.blocks):
            block[items], row[items], place[items] = number, np.arange(len(items))[:, None], np.arange(items.shape[1])
        if len(apart := np.flatnonzero((block[one] < 0) | (block[one] != block[other]) | (row[one] != row[other]))):
            raise InputError(f"items {one[apart[0]]} and {other[apart[0]]}: no comparisons link them")
        variance = np.zeros(len(one))
        for number, (_, covariance) in enumerate(self.blocks):
            here = np.flatnonzero(block[one] == number)
            of, a, b = covariance[row[one[here]]], place[one[here]], place[other[here]]
            each = np.arange(len(here))
            variance[here] = of[each, a, a] + of[each, b, b] - 2 * of[each, a, b]
        found: _Floats = (self.strengths[one] - self.strengths[other]) / np.sqrt(1 + np.pi / 8 * variance)
        return found


def crowd_bradley_terry(
    votes: ArrayLike,
    ties: ArrayLike = (),
    *,
    num_items: int,
    num_annotators: int,
    ridge: float = 0.25,
    prior: tuple[float, float] = (3.0, 1.0),
) -> CrowdFit:
    """Fit to `votes` (V, 3), rows of annotator, winner, loser, and `ties` (T, 2), rows of two items called equal.

    `ridge` is the precision of each strength's prior: at 0.25 two people who are always right agree on three pairs of
    four. How reliable people are in all, but hardly in what order, rests on it when overlap is low. `prior` is how many
    votes, right and wrong, each annotator is imagined to have cast before.

    >>> good = [(a, i, j) for a in range(3) for i in range(5) for j in range(i + 1, 5)]
    >>> fit = crowd_bradley_terry(good + [(3, j, i) for _, i, j in good[:10]], num_items=5, num_annotators=4)
    >>> (-fit.strengths).argsort().tolist(), fit.standing()
    ([0, 1, 2, 3, 4], ['sound', 'sound', 'sound', 'reversed'])
    """
    cast, equal = _rows("votes", votes, 3), _rows("ties", ties, 2)
    _check_range("annotator", cast[:, 0], num_annotators)
    _check_range("item", np.concatenate([cast[:, 1:].ravel(), equal.ravel()]), num_items)
    if not (ridge > 0 and prior[0] > prior[1] > 0):
        raise InputError(f"ridge {ridge} and prior {prior}: must be positive, and more votes imagined right than wrong")
    voter, pairs = cast[:, 0], np.concatenate([cast[:, 1:], equal])
    blocks = _blocks(_linked(pairs, num_items))
    messages = np.zeros((2, len(pairs)))
    strengths, reliability = np.zeros(num_items), np.full(num_annotators, prior[0] / sum(prior))
    for step in range(1, _STEPS + 1):
        belief = _believe(blocks, pairs, messages, num_items, ridge)
        damping = max(_LEAST, _DAMPING * min(1.0, _PATIENCE / step))
        messages, chance = _heard(belief, messages, reliability[voter], damping)
        trusted = _trust(chance, voter, reliability, prior)
        change = max(np.abs(belief.strengths - strengths).max(initial=0), np.abs(trusted - reliability).max(initial=0))
        strengths, reliability = belief.strengths, trusted
        if change <= _TOLERANCE * damping and step > 1:
            found = [Block(items, covariance) for items, covariance in zip(blocks, belief.covariances, strict=True)]
            errors = _trust_slope_and_bend(chance, voter, reliability, prior)[1] ** -0.5
            return CrowdFit(strengths, found, reliability, errors, np.bincount(voter, minlength=num_annotators), step)
    raise RuntimeError(f"Crowd-BT still moved after {_STEPS} rounds")


class _Belief(NamedTuple):
    """The strengths' posterior, from the prior and a normal message of each vote and tie about its difference."""

    strengths: _Floats  # (n,)
    covariances: list[_Floats]  # of each block (P, k, k)
    gap: _Floats  # (E,) mean of the difference of strengths
    variance: _Floats  # (E,)


def _believe(blocks: Sequence[_Ints], pairs: _Ints, messages: _Floats, num_items: int, ridge: float) -> _Belief:
    strengths, variance, covariances = np.zeros(num_items), np.zeros(len(pairs)), []
    for items in blocks:
        num, size = items.shape
        place = np.full(num_items, -1)
        place[items.ravel()] = np.arange(items.size)
        inside = np.flatnonzero(place[pairs[:, 0]] >= 0)
        group, first = np.divmod(place[pairs[inside, 0]], size)
        second = place[pairs[inside, 1]] % size
        precision, pull = np.zeros((num, size, size)), np.zeros((num, size))
        for one, other in ((first, second), (second, first)):
            np.add.at(precision, (group, one, one), messages[0, inside])
            np.add.at(precision, (group, one, other), -messages[0, inside])
        np.add.at(pull, (group, first), messages[1, inside])
        np.add.at(pull, (group, second), -messages[1, inside])
        covariance = np.asarray(np.linalg.inv(precision + ridge * np.eye(size)), dtype=np.float64)
        strengths[items] = np.einsum("pij,pj->pi", covariance, pull)
        own = covariance[group, first, first] + covariance[group, second, second]
        variance[inside] = own - 2 * covariance[group, first, second]
        covariances.append(covariance)
    return _Belief(strengths, covariances, strengths[pairs[:, 0]] - strengths[pairs[:, 1]], variance)


def _heard(belief: _Belief, messages: _Floats, trust: _Floats, damping: float) -> tuple[_Floats, _Floats]:
    """New messages (2, E), precision and precision × mean; and (V,) what the others say of the winner's chance to win.

    A vote's message is what makes the belief without it, once multiplied, match the mean and variance of that belief
    times the vote's likelihood. A vote that contradicts the rest would widen it; here it only moves the mean, so that
    every belief is a proper one. Normal integrals are sums over 24 nodes.
    """
    spread = 1 / (1 / belief.variance - messages[0])
    mean = spread * (belief.gap / belief.variance - messages[1])
    gaps = mean[:, None] + np.sqrt(spread)[:, None] * _NODES  # (E, nodes)
    win = _sigmoid(gaps)
    likelihood = 0.5 / np.cosh(np.clip(gaps / 2, -300, 300))
    likelihood[: len(trust)] = (1 - trust[:, None]) + (2 * trust[:, None] - 1) * win[: len(trust)]
    mass = likelihood * _WEIGHTS
    mass = mass / mass.sum(1, keepdims=True)
    matched = (mass * gaps).sum(1)
    sharp = 1 / np.minimum((mass * (gaps - matched[:, None]) ** 2).sum(1), spread)
    new = np.stack([sharp - 1 / spread, sharp * matched - mean / spread])
    chance = (win[: len(trust)] @ _WEIGHTS) / _WEIGHTS.sum()
    return messages + damping * (new - messages), chance


def _trust(chance: _Floats, voter: _Ints, reliability: _Floats, prior: tuple[float, float]) -> _Floats:
    """(A,) the likeliest η given each vote's chance: a concave function of η, by Newton's method kept inside (0, 1)."""
    found = reliability
    for _ in range(50):
        slope, bend = _trust_slope_and_bend(chance, voter, found, prior)
        moved = np.clip(found + slope / bend, found / 2, (1 + found) / 2)
        if np.abs(moved - found).max(initial=0) < 1e-10:
            return moved
        found = moved
    return found


def _trust_slope_and_bend(
    chance: _Floats, voter: _Ints, reliability: _Floats, prior: tuple[float, float]
) -> tuple[_Floats, _Floats]:
    """(A,) and (A,): first derivative of the log-posterior in each η, and the second negated."""
    size, trust = len(reliability), reliability[voter]
    score = (2 * chance - 1) / (trust * chance + (1 - trust) * (1 - chance))
    slope = np.bincount(voter, score, size) + prior[0] / reliability - prior[1] / (1 - reliability)
    bend = np.bincount(voter, score**2, size) + prior[0] / reliability**2 + prior[1] / (1 - reliability) ** 2
    return slope, bend


def _linked(pairs: _Ints, num_items: int) -> _Ints:
    """(n,) the smallest item that each is linked to."""
    groups = np.arange(num_items)
    while True:
        closer = groups.copy()
        for side in (0, 1):
            np.minimum.at(closer, groups[pairs[:, side]], groups[pairs].min(1))  # the whole group's label falls
        closer = closer[closer]
        if (closer == groups).all():
            return groups
        groups = closer


def _blocks(groups: _Ints) -> list[_Ints]:
    """(P, k) items of the groups of each size from 2."""
    of_size: dict[int, list[_Ints]] = defaultdict(list)
    order = np.argsort(groups, kind="stable")
    for items in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1):
        of_size[len(items)].append(items)
    return [np.stack(of_size[size]) for size in sorted(of_size) if size > 1]


def _rows(name: str, rows: ArrayLike, width: int) -> _Ints:
    array = np.asarray(rows)
    if not array.size:
        return np.zeros((0, width), dtype=np.int64)
    if array.ndim != 2 or array.shape[1] != width or not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"{name} of shape {array.shape} and type {array.dtype}: must be rows of {width} integers")
    if len(same := np.flatnonzero(array[:, -1] == array[:, -2])):
        raise InputError(f"{name}, row {same[0]}: compares item {array[same[0], -1]} with itself")
    return array.astype(np.int64)


def _check_range(name: str, numbers: _Ints, size: int) -> None:
    if len(wrong := numbers[(numbers < 0) | (numbers >= size)]):
        raise InputError(f"{name} {wrong[0]}: must be from 0 to {size - 1}")


def _sigmoid(values: _Floats) -> _Floats:
    found: _Floats = 0.5 * (1 + np.tanh(values / 2))
    return found
