"""Active selection: which of many candidate pairs to ask people about, with a uniform arm and recorded propensities.

Shapes: `E` members of an ensemble, `P` candidate pairs, `n` pairs chosen.

Off unless somebody calls it. What was chosen, and with which probability, goes beside each item, so that what was asked
is never mistaken for what is typical: `population_mean` weighs it back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tether.errors import InputError
from tether.types import Interval

_Floats = NDArray[np.float64]
_Z = 1.959964  # of a 95 % interval

Arm = Literal["uniform", "active"]


class Selected(NamedTuple):
    """A chosen pair, and how it came to be chosen."""

    pair: int
    """Its place among the candidates."""
    arm: Arm
    """What it was drawn for."""
    propensity: float
    """Probability with which it was to be chosen, by either arm: above 0, at most 1."""
    score: float
    """What the active arm went by."""

    def record(self) -> dict[str, Any]:
        """For JSON: what an item keeps of its selection."""
        return {"arm": self.arm, "propensity": self.propensity, "score": self.score}


class Weighed(NamedTuple):
    """A mean over the chosen pairs, and what it says of all the pairs they were chosen from."""

    chosen: float
    """Over the chosen as they are."""
    all: Interval
    """Weighed back by propensities (Hájek's estimate)."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON: NaN becomes None."""
        return {"chosen": None if np.isnan(self.chosen) else self.chosen, "all": self.all.as_dict()}


class Choice(NamedTuple):
    """Which pairs were labelled, and what their labels say of all the pairs they were chosen from."""

    uniform: int
    active: int
    decided: Weighed
    """Share of pairs that the votes tell apart."""
    agreement: Weighed
    """Share of a pair's annotators, taken two at a time, who said the same; over the pairs with two votes or more."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "uniform": self.uniform,
            "active": self.active,
            "decided": self.decided.as_dict(),
            "agreement": self.agreement.as_dict(),
        }


def choice(records: Sequence[Mapping[str, Any]], counts: ArrayLike) -> Choice:
    """What votes on chosen pairs come to: `records` (n) are as `Selected.record` gives them.

    `counts` are (n, 3) votes for the first response, the second and neither.
    """
    votes = np.asarray(counts, dtype=np.int64).reshape(len(records), 3)
    propensity = np.array([record["propensity"] for record in records], dtype=np.float64)
    cast = votes.sum(1)
    shared = cast > 1
    agreeing = (votes * (votes - 1)).sum(1)[shared] / (cast * (cast - 1))[shared]
    arms = [record["arm"] for record in records]
    return Choice(
        uniform=arms.count("uniform"),
        active=arms.count("active"),
        decided=_weighed((votes[:, 0] != votes[:, 1]).astype(np.float64), propensity),
        agreement=_weighed(agreeing, propensity[shared]),
    )


def _weighed(values: _Floats, propensities: _Floats) -> Weighed:
    if not len(values):
        return Weighed(float("nan"), Interval(*[float("nan")] * 3))
    return Weighed(float(values.mean()), population_mean(values, propensities))


def information(scores: ArrayLike) -> _Floats:
    """(P,) nats a vote is expected to tell about the ensemble: BALD (Houlsby et al. 2011).

        I = H(mean_e p_e) − mean_e H(p_e),   p_e = σ(s_e1 − s_e2)

    `scores` are (E, P, 2): every member's score of a pair's first and second response. High where members are each
    sure and disagree, zero where all say the same, be it "a toss-up". InputError for another shape, fewer than two
    members or a score that is not finite.

    >>> information([[[9.0, 0.0], [0.0, 0.0]], [[0.0, 9.0], [0.0, 0.0]]]).round(2)  # at odds; both unsure
    array([0.69, 0.  ])
    """
    given = np.asarray(scores, dtype=np.float64)
    if given.ndim != 3 or given.shape[0] < 2 or given.shape[2] != 2:
        raise InputError(f"scores of shape {given.shape}: must be members (two or more) × pairs × 2 responses")
    if not np.isfinite(given).all():
        member, pair, _ = (int(at[0]) for at in np.nonzero(~np.isfinite(given)))
        raise InputError(f"scores: member {member} gave pair {pair} a score that is not finite")
    margin = given[:, :, 0] - given[:, :, 1]
    log_first, log_second = -np.logaddexp(0, -margin), -np.logaddexp(0, margin)
    own = -(np.exp(log_first) * log_first + np.exp(log_second) * log_second).mean(0)
    joint = -sum(p * np.log(np.maximum(p, 1e-300)) for p in (np.exp(log_first).mean(0), np.exp(log_second).mean(0)))
    found: _Floats = np.maximum(joint - own, 0.0)
    return found


def select_pairs(
    scores: ArrayLike, num: int, *, uniform: float = 0.25, power: float = 1.0, seed: int = 0
) -> list[Selected]:
    """`num` different pairs: a share `uniform` of them any pairs, the rest those of high score, in random order.

    Pair i's probability of being chosen is exactly its propensity

        π_i = u n / P + q_i,   q_i ∝ score_i^power with Σ q_i = (1 − u) n, and no π_i above 1

    by systematic sampling with these probabilities from randomly ordered pairs (Madow 1949; Hartley & Rao 1962): pairs
    lie end to end on a line, each as long as its π_i, and every point a whole step from a random start takes the pair
    it falls in. Where within the pair it falls says for which arm. So the uniform arm on its own is a sample in which
    every pair has the chance u n / P; it has u n pairs on average. Chance in proportion to the score, rather than the
    n highest, keeps a batch from asking the same thing many times (Kirsch et al. 2023); a higher `power` is greedier,
    0 is uniform. Propensities are given the candidates: of a later round, given what earlier ones left.

    InputError: scores (P,) that are negative or not finite, more pairs than there are, a share of 0 (some pairs could
    not be chosen and their like never be known) or above 1, a negative power.

    >>> [chosen.pair for chosen in select_pairs([0.0, 9.0, 0.0, 9.0], 2, uniform=0.01, seed=1)]
    [3, 1]
    """
    given = np.asarray(scores, dtype=np.float64)
    if given.ndim != 1 or not (np.isfinite(given) & (given >= 0)).all():
        raise InputError(f"scores of shape {given.shape}: must be one finite number, 0 or more, for each pair")
    if not 1 <= num <= len(given):
        raise InputError(f"{num} pairs to choose: must be between 1 and the number of candidates, {len(given)}")
    if not 0 < uniform <= 1:
        raise InputError(f"uniform {uniform}: the share of the uniform arm must be above 0 and at most 1")
    if not 0 <= power < float("inf"):
        raise InputError(f"power {power}: must be a finite number, 0 or more")
    base = uniform * num / len(given)
    weights = (given / (given.max() or 1.0)) ** power
    propensity = np.minimum(base + _proportional(weights, (1 - uniform) * num, 1 - base), 1.0)

    rng = np.random.default_rng(seed)
    order = rng.permutation(len(given))
    ends = np.cumsum(propensity[order])
    ends *= num / ends[-1]
    points = rng.random() + np.arange(num)
    place = np.minimum(np.searchsorted(ends, points, side="right"), len(given) - 1)  # a last point may round up
    within = points - np.concatenate([[0.0], ends])[place]
    arms: list[Arm] = ["uniform" if at < base else "active" for at in within]
    chosen = [
        Selected(int(i), arm, float(propensity[i]), float(given[i])) for i, arm in zip(order[place], arms, strict=True)
    ]
    return [chosen[i] for i in rng.permutation(num)]


def population_mean(values: ArrayLike, propensities: ArrayLike, population: int | None = None) -> Interval:
    """The mean over all candidates of what is known of the chosen ones, such as how far their annotators agree.

        Hájek              Σ (y_i/π_i) / Σ (1/π_i)
        Horvitz–Thompson   (1/P) Σ y_i/π_i              with `population` P

    Horvitz and Thompson's (1952) is unbiased; Hájek's, a ratio, is so only nearly, but varies less where y and π have
    little to do with each other, and needs no P. The 95 % interval is normal, with Hájek's (1964) variance for samples
    of fixed size and no order, n/(n−1) Σ (1 − π_i)(e_i/π_i − B)², B the mean of e_i/π_i weighted by 1 − π_i, where e is
    y/P, or (y − mean)/Σ(1/π); it needs some tens of pairs, and is too narrow for a handful. The chosen must be those of
    one call; a later one tells of what it had to choose from.

    InputError unless there is one finite value and one propensity above 0, at most 1, for each of one or more pairs,
    and no fewer candidates than pairs.

    >>> population_mean([1.0, 0.0, 0.0], [0.8, 0.4, 0.4]).estimate  # the first stands for 1.25, the others for 2.5
    0.2
    """
    y, chance = np.asarray(values, dtype=np.float64), np.asarray(propensities, dtype=np.float64)
    if y.ndim != 1 or y.shape != chance.shape or not len(y) or not np.isfinite(y).all():
        raise InputError(
            f"values {y.shape}, propensities {chance.shape}: give a finite one of each for one or more pairs"
        )
    if not ((chance > 0) & (chance <= 1)).all():
        raise InputError("propensities: must be above 0 and at most 1")
    if population is not None and population < len(y):
        raise InputError(f"population {population}: must be the number of candidates, of which {len(y)} were chosen")
    if population is None:
        total = float((1 / chance).sum())
        mean = float((y / chance).sum()) / total
        parts = (y - mean) / total / chance
    else:
        parts = y / population / chance
        mean = float(parts.sum())
    out = 1 - chance
    if not out.any():
        return Interval(mean, mean, mean)  # all were asked
    if len(y) < 2:
        return Interval(mean, float("nan"), float("nan"))
    centre = (out * parts).sum() / out.sum()
    error = float(np.sqrt(len(y) / (len(y) - 1) * (out * (parts - centre) ** 2).sum()))
    return Interval(mean, mean - _Z * error, mean + _Z * error)


def _proportional(weights: _Floats, total: float, cap: float) -> _Floats:
    """(P,) shares of `total` in proportion to weights, none above `cap`; what is over goes to the others.

    Where those with weight are all at the cap, the rest is spread evenly over those without. `total` is at most P caps.
    """
    share = np.full(len(weights), cap)
    free = np.ones(len(weights), dtype=bool)
    while free.any():
        left = total - cap * float((~free).sum())
        among = weights * free
        among = among if among.any() else free.astype(np.float64)
        wanted = left * among / among.sum()
        over = free & (wanted > cap)
        if not over.any():
            return np.where(free, wanted, cap)
        free &= ~over
    return share
