"""The one place where per-token losses become a number.

Shapes: `S` responses, `N` response tokens of a micro-batch. The denominators count the whole optimiser step, over all
its micro-batches and ranks, so that what is returned is this micro-batch's *share*: shares add up to the step's loss,
and their gradients to its gradient, however the step was cut.
"""

from __future__ import annotations

from typing import Literal, Protocol

from torch import Tensor

from tether.math.segments import segment_mean

Aggregation = Literal["token", "sequence", "constant"]


class Denominators(Protocol):
    """What an optimiser step holds over all micro-batches and ranks; `tether.types.Totals` is one."""

    @property
    def tokens(self) -> int:
        """Response tokens."""
        ...

    @property
    def sequences(self) -> int:
        """Responses."""
        ...


def aggregate(
    x: Tensor, lengths: Tensor, total: Denominators, how: Aggregation = "token", constant: int | None = None
) -> Tensor:
    """This micro-batch's share of the step's mean of `x`: (N,) and `lengths` (S,) → scalar.

        token      Σ x / total.tokens                        every token weighs the same (DAPO, Yu et al. 2025)
        sequence   Σ_s mean_t x / total.sequences            every response weighs the same (GRPO, Shao et al. 2024)
        constant   Σ x / (total.sequences · constant)        no length bias (Dr. GRPO, Liu et al. 2025)

    `constant` is usually the longest response allowed. Raises ValueError when `constant` is missing, not positive or
    given to another `how`, and for an unknown `how`.

    >>> import torch
    >>> from tether.types import Totals
    >>> x, lengths, total = torch.tensor([1.0, 3.0, 8.0]), torch.tensor([2, 1]), Totals(tokens=3, sequences=2, groups=2)
    >>> [aggregate(x, lengths, total, "token").item(), aggregate(x, lengths, total, "sequence").item()]
    [4.0, 5.0]
    >>> aggregate(x, lengths, total, "constant", constant=3).item()
    2.0
    """
    if (constant is not None) != (how == "constant") or (constant is not None and constant < 1):
        raise ValueError(f"`constant` is a positive number with how='constant' only, not {constant!r} with {how!r}")
    match how:
        case "token":
            return x.sum() / total.tokens
        case "sequence":
            return segment_mean(x, lengths).sum() / total.sequences
        case "constant":
            assert constant is not None  # the check above
            return x.sum() / (total.sequences * constant)
    raise ValueError(f"how={how!r} is not one of 'token', 'sequence', 'constant'")
