"""Our maths against TRL's own functions, called on the same numbers."""

from __future__ import annotations

import warnings
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from tether.math.logprobs import token_logprobs
from tether.math.preference_losses import bradley_terry_loss, centering_loss

pytest.importorskip("trl")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TRL's import, not ours
    from trl import RewardTrainer
    from trl.trainer.utils import entropy_from_logits, selective_log_softmax


def trl_reward_loss(scores: Tensor, margin: Tensor | None, centering: float | None) -> Tensor:
    """`RewardTrainer.compute_loss` itself, on a model that answers `scores` (2P, 1): chosen first, then rejected."""
    same = SimpleNamespace(gather_for_metrics=lambda x: x, gather=lambda x: x)

    class Model:
        training = True

        def __call__(self, **inputs: object) -> SimpleNamespace:
            return SimpleNamespace(logits=scores)

    # All that `compute_loss` reads of its trainer, so that the scores can be chosen here.
    trainer = SimpleNamespace(
        model=Model(),
        args=SimpleNamespace(center_rewards_coefficient=centering),
        accelerator=same,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {"attention_mask": torch.ones(len(scores), 2)} | ({} if margin is None else {"margin": margin})
    loss: Tensor = RewardTrainer.compute_loss(trainer, trainer.model, inputs)
    return loss


@pytest.mark.parametrize("centering", [None, 0.01, 1.0])
@pytest.mark.parametrize("with_margin", [False, True])
def test_reward_loss(with_margin: bool, centering: float | None):
    torch.manual_seed(0)
    scores = torch.randn(16, 1, dtype=torch.float64, requires_grad=True)
    margin = torch.rand(8, dtype=torch.float64) if with_margin else None
    expected = trl_reward_loss(scores, margin, centering)
    chosen, rejected = scores.squeeze(1).chunk(2)
    found = bradley_terry_loss(chosen, rejected, 0.0 if margin is None else margin).mean()
    found = found + (centering or 0.0) * centering_loss(chosen, rejected).mean()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(loss, scores, retain_graph=True)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk_elements", [5 * 50, 2**25])
def test_logprobs_and_entropy(temperature: float, chunk_elements: int):
    torch.manual_seed(0)
    hidden, weight = torch.randn(24, 8, requires_grad=True), torch.randn(50, 8, requires_grad=True)
    targets = torch.randint(50, (24,))
    found = token_logprobs(
        hidden, weight, targets, temperature=temperature, entropy=True, chunk_elements=chunk_elements
    )
    logits = (hidden @ weight.T).unsqueeze(0)
    expected = (
        selective_log_softmax(logits, targets.unsqueeze(0), temperature=temperature).squeeze(0),
        entropy_from_logits(logits / temperature).squeeze(0),
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert ours is not None
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        ours_gradient, theirs_gradient = (
            torch.autograd.grad(x.sum(), [hidden, weight], retain_graph=True) for x in (ours, theirs)
        )
        torch.testing.assert_close(ours_gradient, theirs_gradient, rtol=1e-4, atol=1e-4)
