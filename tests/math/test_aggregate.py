"""Aggregation: worked numbers, and that how a step is cut into micro-batches and ranks changes nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tether.math.aggregate import Aggregation, aggregate
from tether.types import Totals

x = torch.tensor([1.0, 2.0, 3.0, 10.0])
lengths = torch.tensor([3, 1])
total = Totals(tokens=4, sequences=2, groups=1)


@pytest.mark.parametrize(
    ("how", "constant", "worked"), [("token", None, 4.0), ("sequence", None, 6.0), ("constant", 8, 1.0)]
)
def test_by_hand(how: Aggregation, constant: int | None, worked: float):
    assert aggregate(x, lengths, total, how, constant).item() == worked


def test_default_is_token():
    assert aggregate(x, lengths, total).item() == 4.0


@pytest.mark.parametrize(("how", "constant"), [("constant", None), ("constant", 0), ("token", 3), ("mean", None)])
def test_bad_arguments(how: str, constant: int | None):
    with pytest.raises(ValueError, match="how"):
        aggregate(x, lengths, total, how, constant)  # type: ignore[arg-type]


def step(weight: torch.Tensor, cuts: list[list[int]], sizes: list[int], how: Aggregation) -> tuple[float, torch.Tensor]:
    """Loss and gradient of one optimiser step whose responses are dealt out as `cuts` say."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in sizes]
    whole = Totals(tokens=sum(sizes), sequences=len(sizes), groups=len(sizes))
    parameter = weight.clone().requires_grad_()
    value = 0.0
    for cut in cuts:
        tokens = (torch.cat([inputs[s] for s in cut]) @ parameter).tanh()
        share = aggregate(tokens, torch.tensor([sizes[s] for s in cut]), whole, how, 16 if how == "constant" else None)
        share.backward()
        value += share.item()
    assert parameter.grad is not None
    return value, parameter.grad


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 9), min_size=8, max_size=8),
    st.permutations(range(8)),
    st.sampled_from(["token", "sequence", "constant"]),
)
def test_cutting_a_step_changes_nothing(sizes: list[int], order: list[int], how: Aggregation):
    """1 × 8 micro-batches, 8 × 1, and two ranks × 4 whose gradients are summed: same value, same gradient."""
    weight = torch.tensor([0.3, -0.7, 1.1], dtype=torch.float64)
    value, gradient = step(weight, [list(range(8))], sizes, how)
    ones = step(weight, [[s] for s in order], sizes, how)
    ranks = [step(weight, [[s] for s in order[half : half + 4]], sizes, how) for half in (0, 4)]
    uneven = step(weight, [order[:1], order[1:3], order[3:]], sizes, how)
    for other in (ones, uneven, (ranks[0][0] + ranks[1][0], ranks[0][1] + ranks[1][1])):
        assert other[0] == pytest.approx(value, rel=1e-12, abs=1e-12)
        torch.testing.assert_close(other[1], gradient, rtol=1e-10, atol=1e-12)
