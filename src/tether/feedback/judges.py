"""AI judges as annotators: asked both ways round, and measured against people before their labels are let out.

Where the judge is, and how it is asked, is not this room's business: it comes as a function (`Ask`).
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from tether.errors import InputError
from tether.feedback.agreement import krippendorff_alpha, raw_agreement
from tether.feedback.annotators import Verdict, ranks_by, strength_of
from tether.feedback.records import Assignment, Judgement, UserKind, VotedPair
from tether.types import Interval, Message

Pair = tuple[str, Sequence[Message], str, str]
"""Guideline, conversation, first and second answer."""
Ask = Callable[[Sequence[Pair]], Sequence[tuple[float, float] | str]]
"""Pairs → the chance that the first is better, as shown and with the sides swapped; or why there is no telling."""


class Asked(NamedTuple):
    """An item, and the guideline to judge it by."""

    assignment: Assignment
    guideline: str


@runtime_checkable
class Reader(Protocol):
    """An annotator who reads guideline and conversation, and does better with many items at once."""

    @property
    def name(self) -> str:
        """Name of the user in the store."""
        ...

    @property
    def kind(self) -> UserKind:
        """`ai`."""
        ...

    def read(self, asked: Sequence[Asked]) -> list[Verdict]:
        """A verdict on each item."""
        ...


@dataclass(frozen=True)
class JudgeAnnotator:
    """A judge as a user of kind `ai`.

    Of more than two responses each pair is asked about, and they are ranked by the mean chance to be better.
    """

    name: str
    ask: Ask
    tie: float = 0.1
    """Two responses tie when the chances of either to be the better differ by less."""
    kind: UserKind = "ai"

    def read(self, asked: Sequence[Asked]) -> list[Verdict]:
        """Verdicts whose rationale is JSON: `{"both_ways": [[as shown, swapped], …]}`, from the first shown's side."""
        pairs: list[Pair] = []
        for one, guideline in asked:
            messages = one.messages or ({"role": "user", "content": one.prompt},)
            pairs += [(guideline, messages, a.text, b.text) for a, b in combinations(one.responses, 2)]
        said = iter(self.ask(pairs))
        return [
            self._verdict(len(one.responses), [next(said) for _ in combinations(one.responses, 2)]) for one, _ in asked
        ]

    def _verdict(self, count: int, said: Sequence[tuple[float, float] | str]) -> Verdict:
        leans: list[tuple[float, float]] = []
        for lean in said:
            if isinstance(lean, str):
                return Verdict(None, skip=lean[:500])
            leans.append(lean)
        chance = [0.0] * count
        for (a, b), lean in zip(combinations(range(count), 2), leans, strict=True):
            chance[a] += sum(lean) / 2 / (count - 1)
            chance[b] += (1 - sum(lean) / 2) / (count - 1)
        rationale = json.dumps({"both_ways": [[round(p, 4) for p in lean] for lean in leans]})
        strength = strength_of(abs(chance[0] - chance[1]), self.tie) if count == 2 else None
        return Verdict(ranks_by(chance, self.tie), strength, rationale=rationale)


class Flips(NamedTuple):
    """How often a verdict changed sides when the answers did."""

    flipped: int
    decided: int
    """Pairs on which both orders named a winner."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the rate of nothing is None.

        >>> Flips(1, 4).as_dict()
        {'flipped': 1, 'decided': 4, 'rate': 0.25}
        """
        return self._asdict() | {"rate": self.flipped / self.decided if self.decided else None}


def flips_in(judged: Iterable[Judgement]) -> Flips:
    """Counts the flips that judges' rationales tell of."""
    both_ways = [
        (shown - 0.5, swapped - 0.5)
        for j in judged
        if (j.rationale or "").startswith('{"both_ways"')
        for shown, swapped in json.loads(j.rationale or "")["both_ways"]
    ]
    products = [shown * swapped for shown, swapped in both_ways]
    return Flips(sum(p < 0 for p in products), sum(p != 0 for p in products))


class Calibration(NamedTuple):
    """A judge against the majority of people, over the pairs both judged (first better, second better, tie)."""

    pairs: int
    agreement: Interval
    """Share of pairs on which they say the same."""
    alpha: Interval
    """Krippendorff's α of the two: 0 is what chance would give."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"pairs": self.pairs, "agreement": self.agreement.as_dict(), "alpha": self.alpha.as_dict()}


def calibrate(judge: Iterable[VotedPair], people: Iterable[VotedPair]) -> Calibration:
    """Compares a judge's votes with people's, pair by pair; the stores they come from may differ.

    A ranking of k counts as its C(k,2) pairs. The pairs of a prompt are resampled together.
    """
    table, said = _majorities(people), _majorities(judge)
    both = [pair for pair in said if pair in table]
    ratings = np.array([(said[pair], table[pair]) for pair in both], dtype=np.int64).reshape(-1, 2)
    numbers = {prompt: number for number, (prompt, *_) in enumerate(both)}
    of = [numbers[prompt] for prompt, *_ in both]
    return Calibration(len(both), raw_agreement(ratings, clusters=of), krippendorff_alpha(ratings, clusters=of))


def _majorities(votes: Iterable[VotedPair]) -> dict[tuple[str, str, str], int]:
    """Pair → 0, 1 or 2 where most find the first better, neither, the second."""
    sums: dict[tuple[str, str, str], int] = defaultdict(int)
    for vote in votes:
        sums[vote.prompt, vote.first, vote.second] += vote.side
    return {pair: (total > 0) - (total < 0) + 1 for pair, total in sums.items()}


def refuse_uncalibrated(found: Calibration, min_agreement: float, min_pairs: int) -> None:
    """InputError when too few pairs were judged by both, or judge and people agree too little."""
    if found.pairs < min_pairs:
        raise InputError(
            f"people and the judge have {found.pairs} pairs in common, and calibration.min_pairs is {min_pairs}; "
            "nothing is exported"
        )
    alpha = found.alpha.estimate
    if math.isnan(alpha) or alpha < min_agreement:
        raise InputError(
            f"the judge agrees with people at Krippendorff's alpha {alpha:.2f} on {found.pairs} pairs, and "
            f"calibration.min_agreement is {min_agreement}; nothing is exported"
        )
