"""KL estimators against exact expectations over a small vocabulary, and the coefficient's controller."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tether.math.kl import KL_ESTIMATORS, adapt_beta, k1, k2, k3

logit_lists = st.lists(st.floats(-3, 3), min_size=5, max_size=5)
quick = settings(deadline=None, max_examples=50)


def kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p ‖ q) of two rows of log-probs, exactly."""
    return (p.exp() * (p - q)).sum()


def test_by_hand():
    logprobs, ref = torch.tensor([0.5, 0.25]).log(), torch.tensor([0.25, 0.5]).log()
    ln2 = math.log(2)
    torch.testing.assert_close(k1(logprobs, ref), torch.tensor([ln2, -ln2]))
    torch.testing.assert_close(k2(logprobs, ref), torch.full((2,), ln2**2 / 2))
    torch.testing.assert_close(k3(logprobs, ref), torch.tensor([0.5 - 1 + ln2, 2 - 1 - ln2]))


@pytest.mark.parametrize("name", ["k1", "k2", "k3"])
def test_zero_at_the_reference(name: str):
    logprobs = torch.randn(9)
    assert KL_ESTIMATORS[name](logprobs, logprobs).abs().max() == 0


@quick
@given(logit_lists, logit_lists)
def test_expected_values(policy: list[float], reference: list[float]):
    """k1 and k3 are unbiased; k2 and k3 are never negative."""
    p, q = (torch.tensor(x, dtype=torch.float64).log_softmax(-1) for x in (policy, reference))
    for estimator in (k1, k3):
        torch.testing.assert_close((p.exp() * estimator(p, q)).sum(), kl(p, q), rtol=1e-9, atol=1e-9)
    assert k2(p, q).min() >= 0
    assert k3(p, q).min() >= -1e-12


@quick
@given(logit_lists, logit_lists)
def test_expected_gradients(policy: list[float], reference: list[float]):
    """As a loss on samples of the policy: k1 pulls nowhere, k2 down KL(π ‖ π_ref), k3 down KL(π_ref ‖ π)."""
    logits = torch.tensor(policy, dtype=torch.float64).requires_grad_()
    q = torch.tensor(reference).double().log_softmax(-1)

    def gradient(value: Tensor) -> Tensor:
        return torch.autograd.grad(value, logits)[0]

    def as_loss(name: str) -> Tensor:
        p = logits.log_softmax(-1)
        return gradient((p.detach().exp() * KL_ESTIMATORS[name](p, q)).sum())

    close = {"rtol": 1e-8, "atol": 1e-9}
    torch.testing.assert_close(as_loss("k1"), torch.zeros_like(q), **close)
    torch.testing.assert_close(as_loss("k2"), gradient(kl(logits.log_softmax(-1), q)), **close)
    torch.testing.assert_close(as_loss("k3"), gradient(kl(q, logits.log_softmax(-1))), **close)


def test_k3_keeps_digits_near_the_reference():
    # l²/2 = 4.5e-8, below the 6e-8 that separates fp32 numbers near 1.
    assert k3(torch.tensor([3e-4]), torch.tensor([0.0])).item() == pytest.approx(4.5e-8, rel=5e-3)


def test_adapt_beta_by_hand():
    assert adapt_beta(1.0, kl=6.6, target=6.0, num_responses=256, horizon=1024) == pytest.approx(1.025)
    assert adapt_beta(1.0, kl=600.0, target=6.0, num_responses=256, horizon=1024) == pytest.approx(1.05)
    assert adapt_beta(1.0, kl=0.0, target=6.0, num_responses=256, horizon=1024) == pytest.approx(0.95)
    assert adapt_beta(0.3, kl=6.0, target=6.0, num_responses=256, horizon=1024) == 0.3


@quick
@given(st.floats(-100, 100), st.integers(0, 10**9))
def test_beta_stays_positive(kl: float, num_responses: int):
    assert 0.8 <= adapt_beta(1.0, kl, target=6.0, num_responses=num_responses, horizon=100) <= 1.2


def test_beta_settles_at_the_target():
    """A tether whose KL falls as 3/β: the controller finds β = 0.5 for a target of 6 from either side."""
    for beta in (0.05, 5.0):
        for _ in range(400):
            beta = adapt_beta(beta, kl=3 / beta, target=6.0, num_responses=64, horizon=256)
        assert beta == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"kl": float("nan")}, "KL is nan"),
        ({"kl": float("inf")}, "KL is inf"),
        ({"target": 0.0}, "target"),
        ({"horizon": 0}, "horizon"),
    ],
)
def test_bad_arguments(bad: dict[str, float], says: str):
    good = {"kl": 1.0, "target": 6.0, "num_responses": 8, "horizon": 100}
    with pytest.raises(ValueError, match=says):
        adapt_beta(0.1, **{**good, **bad})
