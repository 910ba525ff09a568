"""Several scorers as one: their weighted sum, with every part kept for the log."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tether.errors import InputError
from tether.math.segments import segment_sum
from tether.rewards.ensemble import Ensemble
from tether.types import Group, Scorer


class Part(NamedTuple):
    """One scorer of a sum."""

    name: str
    """What it is logged as: `reward/NAME`."""
    scorer: Scorer
    weight: float = 1.0
    """May be negative: then the score is a cost."""
    dense: bool = False
    """It can pay its score where it is earned: it has `token_rewards` too, which sum to it."""


class Scores(NamedTuple):
    """What a weighted sum is made of, each by response."""

    total: Tensor
    """(S,) Σ weight · score."""
    parts: dict[str, Tensor]
    """Name → (S,) scores before their weight."""
    disagreement: dict[str, Tensor]
    """Name → (S,) how far the members of a part that is an ensemble are apart."""
    dense: dict[str, Tensor]
    """Name → (N,) what a dense part pays at each token, before its weight; it sums to the part's score."""


@dataclass(frozen=True)
class WeightedSum:
    """Groups → (S,) Σ weight · score. `components` gives the scores too.

    Raises InputError when there is no part, a name comes twice, a weight is not finite, or a part does not give one
    finite score a response.
    """

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise InputError("a weighted sum of rewards needs at least one scorer")
        names = [part.name for part in self.parts]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"two scorers are named {twice[0]!r}; each needs a name of its own")
        for part in self.parts:
            if not math.isfinite(part.weight):
                raise InputError(f"scorer {part.name!r} has weight {part.weight}; it must be a finite number")

    @property
    def weights(self) -> dict[str, float]:
        """Each part's weight by name."""
        return {part.name: part.weight for part in self.parts}

    def __call__(self, groups: Sequence[Group]) -> Tensor:
        return self.components(groups).total

    def components(self, groups: Sequence[Group]) -> Scores:
        """The sum and what it is made of."""
        count = sum(len(group.responses) for group in groups)
        scores: dict[str, Tensor] = {}
        apart: dict[str, Tensor] = {}
        dense: dict[str, Tensor] = {}
        for part in self.parts:
            if part.dense:
                dense[part.name] = paid = part.scorer.token_rewards(groups)  # type: ignore[attr-defined]
                lengths = torch.tensor([r.num_trained for g in groups for r in g.responses], device=paid.device)
                own = segment_sum(paid, lengths)
            elif isinstance(part.scorer, Ensemble):
                own, about = part.scorer.components(groups)
                apart[part.name] = about["disagreement"]
            else:
                own = part.scorer(groups).float()
            if own.shape != (count,):
                raise InputError(
                    f"scorer {part.name!r} gave scores of shape {tuple(own.shape)} for {count} responses; it must give "
                    "one for each"
                )
            finite = own.isfinite()
            if not finite.all():
                place = int((~finite).nonzero()[0])
                raise InputError(f"scorer {part.name!r} gave {own[place].item()} for response {place} of {count}")
            scores[part.name] = own
        device = next(iter(scores.values())).device
        weighted = [scores[part.name].to(device) * part.weight for part in self.parts]
        return Scores(torch.stack(weighted).sum(0), scores, apart, dense)
