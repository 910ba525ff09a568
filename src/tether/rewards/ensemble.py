"""Several reward models as one: their mean, the most pessimistic of them, or the mean less what they disagree by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tether.errors import InputError
from tether.types import Group, Scorer

How = Literal["mean", "min", "lower"]

REDUCE: dict[str, Callable[[Tensor, float], Tensor]] = {
    "mean": lambda scores, penalty: scores.mean(1),
    "min": lambda scores, penalty: scores.amin(1),
    "lower": lambda scores, penalty: scores.mean(1) - penalty * scores.std(1, correction=0),
}
"""Members' scores (S, M), λ → (S,)."""


@dataclass(frozen=True)
class Ensemble:
    """Groups → (S,) one reward from M reward models (other seeds, other data), or from the heads of one.

        mean    (1/M) Σ r_m
        min     min_m r_m                        worst-case optimisation (Coste et al. 2024)
        lower   mean_m r_m − λ · std_m r_m       their uncertainty-weighted one, with the variance there

    The deviation is that of the M members, not corrected for their number. Members should be on one scale: train them
    alike. Heads of one reward model are members of their own. Raises InputError without a scorer, for an unknown `how`,
    for a λ that is negative or not finite, and where a member does not give one finite score a response.
    """

    scorers: tuple[Scorer, ...]
    how: How = "mean"
    penalty: float = 1.0
    """λ of `lower`."""

    def __post_init__(self) -> None:
        if not self.scorers:
            raise InputError("an ensemble needs at least one reward model")
        if self.how not in REDUCE:
            raise InputError(f"ensemble: '{self.how}' is no way to join scores; valid: {', '.join(REDUCE)}")
        if not 0 <= self.penalty < float("inf"):
            raise InputError(f"ensemble: penalty {self.penalty} must be a finite number, 0 or more")

    def __call__(self, groups: Sequence[Group]) -> Tensor:
        return self.components(groups)[0]

    def members(self, groups: Sequence[Group]) -> Tensor:
        """(S, M) every member's own scores, fp32."""
        count = sum(len(group.responses) for group in groups)
        columns: list[Tensor] = []
        for number, scorer in enumerate(self.scorers):
            heads = getattr(scorer, "heads", None)
            scores: Tensor = (scorer(groups)[:, None] if heads is None else heads(groups)).float()
            if len(scores) != count or not bool(scores.isfinite().all()):
                raise InputError(f"ensemble: member {number} gave no finite score for some of {count} responses")
            columns.append(scores)
        return torch.cat([scores.to(columns[0].device) for scores in columns], 1)

    def components(self, groups: Sequence[Group]) -> tuple[Tensor, dict[str, Tensor]]:
        """The reward (S,), and by name each member's scores (S,) and their deviation (S,) as `disagreement`."""
        scores = self.members(groups)
        parts = {f"member_{m}": own for m, own in enumerate(scores.unbind(1))}
        return REDUCE[self.how](scores, self.penalty), parts | {"disagreement": scores.std(1, correction=0)}
