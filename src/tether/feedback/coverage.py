"""Do the prompts that were labelled look like the prompts that the policy will see?

A prompt's distance is 1 - cosine to the nearest labelled prompt; the labelled prompts' own, each to the nearest of the
others, say what is usual. Prompts come as texts, compared by hashed TF-IDF of words and of three characters in a row,
or as embeddings, by whatever made them.

Shapes: `n` labelled prompts, `m` prompts of the policy, `d` width of a vector.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tether.errors import InputError

_Floats = NDArray[np.float32]
_Ints = NDArray[np.int64]
_WORD = re.compile(r"\w+")
_WIDTH = 2048  # buckets of the hash: two texts with nothing in common come to a cosine of about ± 1/√2048
_ROWS = 1024  # prompts compared with all others at once
_SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
_MOST = 1000  # prompts of either side in the permutation test: its matrix of distances grows with the square


class Uncovered(NamedTuple):
    """A prompt of the policy and the labelled one most like it."""

    prompt: int
    """Its place among the policy's prompts."""
    nearest: int
    """The labelled prompt's place."""
    distance: float


class Quantile(NamedTuple):
    """The distance that a share of the prompts does not exceed."""

    share: float
    labelled: float
    """Of the labelled prompts, each to the nearest of the others."""
    policy: float
    """Of the policy's prompts, each to the nearest labelled one."""


@dataclass(frozen=True)
class Coverage:
    """How far the policy's prompts are from the labelled ones."""

    labelled: int
    policy: int
    """How many prompts of either, each text once."""
    distance: float
    """Median distance of the policy's prompts to the nearest labelled one."""
    usual: float
    """The same of the labelled prompts, each to the nearest of the others."""
    far: float
    """Share of the policy's prompts that are farther off than 95 % of the labelled ones; .05 where they are alike."""
    auc: float
    """Chance that a prompt of the policy is farther off than a labelled one; .5 where they are alike."""
    p: float
    """p-value of a permutation test, by the energy distance, of both being drawn alike."""
    worst: tuple[Uncovered, ...]
    """The farthest of the policy's prompts, farthest first."""
    quantiles: tuple[Quantile, ...]
    """Of the distances, from near to far."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        names = ("labelled", "policy", "distance", "usual", "far", "auc", "p")
        lists = {name: [one._asdict() for one in getattr(self, name)] for name in ("worst", "quantiles")}
        return {name: getattr(self, name) for name in names} | lists


def coverage(
    labelled: Sequence[str] | NDArray[Any],
    policy: Sequence[str] | NDArray[Any],
    *,
    num_worst: int = 10,
    num: int = 999,
    seed: int = 0,
) -> Coverage:
    """Compare texts, or embeddings (n, d) and (m, d).

    Prompts that are there twice count once. The test, with `num` permutations, looks at a thousand prompts of either
    side at most, drawn by `seed`; the rest looks at all. InputError: fewer than two prompts, or an empty or infinite
    vector.

    >>> asked = ["How do I boil an egg?", "How do I boil rice?", "How do I fry an egg?", "How do I fry rice?"]
    >>> found = coverage(asked, ["How do I fry an egg?", "Prove that √2 is irrational."], num_worst=1)
    >>> found.worst[0].prompt, found.far
    (1, 0.5)
    """
    vectors, kept = [], []
    for name, prompts, fewest in (("labelled", labelled, 2), ("policy", policy, 1)):
        kept.append(_distinct(prompts))
        if len(kept[-1]) < fewest:
            raise InputError(f"{name} prompts: {len(kept[-1])} different ones are too few, there must be {fewest}")
        vectors.append([prompts[at] for at in kept[-1]])
    known, seen = _vectors(*vectors)
    own, _ = _nearest(known, known, leave_out=True)
    distance, nearest = _nearest(seen, known)
    ordered = np.sort(own)
    below, not_above = (np.searchsorted(ordered, distance, side) for side in ("left", "right"))
    farthest = np.argsort(-distance, kind="stable")[:num_worst]
    return Coverage(
        labelled=len(known),
        policy=len(seen),
        distance=float(np.median(distance)),
        usual=float(np.median(own)),
        far=float((distance > np.quantile(own, 0.95)).mean()),
        auc=float((below + not_above).mean() / (2 * len(own))),
        p=_energy_test(known, seen, num, seed),
        worst=tuple(Uncovered(int(kept[1][at]), int(kept[0][nearest[at]]), float(distance[at])) for at in farthest),
        quantiles=tuple(Quantile(q, float(np.quantile(own, q)), float(np.quantile(distance, q))) for q in _SHARES),
    )


def text_vectors(texts: Sequence[str]) -> _Floats:
    """(n, 2048) TF-IDF of length 1: (1 + ln tf) (1 + ln (1+n)/(1+df)), each feature hashed to a bucket and a sign.

    Features are lower-case words and every three characters in a row, so that spelling, inflection and scripts without
    spaces do no harm. A text of less than three characters without a word has none, and is at distance 1 from all.

    >>> a, b, c = text_vectors(["Boil two eggs", "boil  two EGGS!", "Prove it"])
    >>> bool(a @ b > 0.9), bool(abs(a @ c) < 0.2)
    (True, True)
    """
    counted = [Counter(_features(text)) for text in texts]
    seen = Counter(feature for counts in counted for feature in counts)
    idf = {feature: 1 + math.log((1 + len(texts)) / (1 + df)) for feature, df in seen.items()}
    vectors = np.zeros((len(texts), _WIDTH), dtype=np.float32)
    for row, counts in zip(vectors, counted, strict=True):
        for feature, count in counts.items():
            bucket, sign = _bucket(feature)
            row[bucket] += sign * (1 + math.log(count)) * idf[feature]
    return _unit(vectors)


def _features(text: str) -> list[str]:
    squeezed = " ".join(text.lower().split())
    return [f"{word} " for word in _WORD.findall(squeezed)] + [squeezed[i : i + 3] for i in range(len(squeezed) - 2)]


@lru_cache(maxsize=1 << 18)
def _bucket(feature: str) -> tuple[int, int]:
    code = int.from_bytes(hashlib.blake2b(feature.encode("utf-8", "surrogatepass"), digest_size=4).digest())
    return code % _WIDTH, 1 if code >> 31 else -1


def _distinct(prompts: Sequence[str] | NDArray[Any]) -> list[int]:
    """Places of the first of each."""
    first: dict[Any, int] = {}
    for at, prompt in enumerate(prompts):
        first.setdefault(prompt if isinstance(prompt, str) else np.asarray(prompt).tobytes(), at)
    return list(first.values())


def _vectors(labelled: Sequence[Any], policy: Sequence[Any]) -> tuple[_Floats, _Floats]:
    """Vectors of length 1; those of texts share one idf, so that the permutation test may exchange them."""
    texts = [isinstance(prompt, str) for prompt in (*labelled, *policy)]
    if all(texts):
        both = text_vectors([*labelled, *policy])
        return both[: len(labelled)], both[len(labelled) :]
    if any(texts):
        raise InputError("prompts: some are texts and some embeddings")
    known, seen = np.asarray(labelled, dtype=np.float32), np.asarray(policy, dtype=np.float32)
    if known.ndim != 2 or known.shape[1:] != seen.shape[1:]:
        raise InputError(f"embeddings of shapes {known.shape} and {seen.shape}: must be (n, d) and (m, d)")
    for name, vectors in (("labelled", known), ("policy", seen)):
        if len(bad := np.flatnonzero(~np.isfinite(vectors).all(1) | ~vectors.any(1))):
            raise InputError(f"{name} embeddings, prompt {bad[0]}: must be finite and not all 0")
    return _unit(known), _unit(seen)


def _unit(vectors: _Floats) -> _Floats:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(length > 0, length, 1)).astype(np.float32)


def _nearest(of: _Floats, among: _Floats, leave_out: bool = False) -> tuple[_Floats, _Ints]:
    """For each of the first the distance to the nearest of the second, and its place; not the one in the same place."""
    distance, place = np.zeros(len(of), dtype=np.float32), np.zeros(len(of), dtype=np.int64)
    for start in range(0, len(of), _ROWS):
        part = slice(start, start + _ROWS)
        cosine = of[part] @ among.T
        if leave_out:
            own = np.arange(len(cosine))
            cosine[own, own + start] = -np.inf
        place[part] = cosine.argmax(1)
        distance[part] = np.maximum(0, 1 - cosine.max(1))
    return distance, place


def _energy_test(first: _Floats, second: _Floats, num: int, seed: int) -> float:
    """The share of permutations, the real arrangement one of them, with an energy distance as large or larger.

    2 E|X - Y| - E|X - X'| - E|Y - Y'|     (Székely & Rizzo 2004)
    """
    rng = np.random.default_rng(seed)
    drawn = [x if len(x) <= _MOST else x[rng.permutation(len(x))[:_MOST]] for x in (first, second)]
    both, size = np.concatenate(drawn), len(drawn[0])
    apart = np.sqrt(np.maximum(0, 2 - 2 * (both @ both.T).astype(np.float64)))
    np.fill_diagonal(apart, 0)
    side = np.zeros((num + 1, len(both)))  # 1: of the first
    side[:, :size] = 1
    side[1:] = rng.permuted(side[1:], axis=1)
    within = ((side @ apart) * side).sum(1)
    between = side @ apart.sum(1) - within
    rest = apart.sum() - within - 2 * between
    other = len(both) - size
    energy = 2 * between / (size * other) - within / size**2 - rest / other**2
    return float((energy >= energy[0] - 1e-12).mean())
