"""Value loss and explained variance: worked numbers, properties, scikit-learn."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tether.math.value_losses import explained_variance, value_clip_fraction, value_loss

triples = st.lists(st.tuples(*[st.floats(-5, 5)] * 3), min_size=2, max_size=9)


@pytest.mark.parametrize(
    ("value", "old", "target", "clip", "loss", "gradient"),
    [
        (3.0, 1.0, 0.0, None, 4.5, 3.0),
        (3.0, 1.0, 3.0, 0.5, 1.125, 0.0),  # moved past the clip towards the return: ½ (1.5 − 3)², no gradient
        (3.0, 1.0, 0.0, 0.5, 4.5, 3.0),  # moved away from it: the free error is the worse one
        (1.2, 1.0, 0.0, 0.5, 0.72, 1.2),  # within the clip
    ],
)
def test_by_hand(value: float, old: float, target: float, clip: float | None, loss: float, gradient: float):
    values = torch.tensor([value], dtype=torch.float64, requires_grad=True)
    found = value_loss(values, torch.tensor([old]), torch.tensor([target]), clip)
    assert found.item() == pytest.approx(loss, rel=1e-6)
    assert torch.autograd.grad(found, values)[0].item() == pytest.approx(gradient)


@settings(deadline=None, max_examples=50)
@given(triples, st.floats(0.01, 3))
def test_clip_only_raises_the_loss(rows: list[tuple[float, float, float]], clip: float):
    values, old, returns = torch.tensor(rows, dtype=torch.float64).unbind(1)
    free = value_loss(values, old, returns, None)
    assert bool((value_loss(values, old, returns, clip) >= free).all())
    torch.testing.assert_close(value_loss(values, old, returns, 100.0), free)
    torch.testing.assert_close(value_loss(old, old, returns, clip), value_loss(old, old, returns, None))


def test_clip_fraction_is_where_the_held_value_differs():
    values, old = torch.tensor([1.0, 1.5, 1.75, -2.0]), torch.ones(4)
    assert value_clip_fraction(values, old, 0.5).tolist() == [0.0, 0.0, 1.0, 1.0]
    assert value_clip_fraction(values, old, None).tolist() == [0.0] * 4


def test_explained_variance_by_hand():
    returns = torch.tensor([1.0, 2.0, 3.0])
    assert explained_variance(returns, returns).item() == 1.0
    assert explained_variance(returns + 7, returns).item() == pytest.approx(1.0)  # a constant offset is no variance
    assert explained_variance(torch.full((3,), 5.0), returns).item() == pytest.approx(0.0)
    assert explained_variance(-returns, returns).item() == pytest.approx(-3.0)
    assert explained_variance(returns, torch.ones(3)).item() == 0.0


@settings(deadline=None, max_examples=50)
@given(triples)
def test_explained_variance_equals_scikit_learn(rows: list[tuple[float, float, float]]):
    metrics = pytest.importorskip("sklearn.metrics")
    values, returns, _ = torch.tensor(rows, dtype=torch.float64).unbind(1)
    if returns.var(correction=0) > 1e-3:
        expected = metrics.explained_variance_score(returns.numpy(), values.numpy())
        assert explained_variance(values, returns).item() == pytest.approx(expected, rel=1e-6, abs=1e-6)
