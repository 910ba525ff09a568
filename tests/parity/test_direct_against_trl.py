"""The losses of direct methods against TRL's own methods, value and gradient, on responses of many lengths.

TRL ignores `label_smoothing` in DPO's sigmoid, hinge and IPO losses; its CPO's sigmoid loss, which is the same formula
on other scores, does not, and stands in for DPO's here.
"""

from __future__ import annotations

import random
import warnings
from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from tether.math.direct_losses import DIRECT_LOSSES, kto_baseline, kto_loss, orpo_loss, sigmoid_loss
from tether.math.segments import segment_mean, segment_sum

pytest.importorskip("trl")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TRL's import, not ours
    from trl import DPOTrainer, KTOTrainer
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

SHAPES = range(24)
ACCELERATOR = SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x)


class Case(NamedTuple):
    """Random responses, flat as ours and padded as TRL's."""

    lengths: Tensor
    """(S,)"""
    policy: Tensor
    """(N,) log-probs, with gradient."""
    reference: Tensor
    """(N,)"""
    mask: Tensor
    """(S, T) where responses stand, after prompts of many lengths."""

    def padded(self, flat: Tensor) -> Tensor:
        """(S, T−1): what a model says of each next token, 0 where nothing is asked."""
        inside = self.mask[:, 1:].bool()
        return torch.zeros(inside.shape, dtype=flat.dtype).masked_scatter(inside, flat)


def case(seed: int, responses: int) -> Case:
    generator, source = torch.Generator().manual_seed(seed), random.Random(seed)
    lengths = torch.tensor([source.randint(1, 9) for _ in range(responses)])
    prompts = [source.randint(1, 5) for _ in range(responses)]
    width = max(p + n for p, n in zip(prompts, lengths.tolist(), strict=True))
    rows = [[0] * p + [1] * n + [0] * (width - p - n) for p, n in zip(prompts, lengths.tolist(), strict=True)]
    noise = torch.rand(2, int(lengths.sum()), generator=generator, dtype=torch.float64)
    policy, reference = (-3 * noise - 1e-3).unbind()
    return Case(lengths, policy.requires_grad_(), reference, torch.tensor(rows))


def same(case: Case, ours: Tensor, theirs: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(ours, theirs.to(ours.dtype), rtol=tolerance, atol=tolerance)
    gradients = [torch.autograd.grad(loss, case.policy, retain_graph=True)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=tolerance, atol=tolerance)


class Model:
    """Answers one call after the other with log-probs decided before."""

    training = True

    def __init__(self, answers: list[Tensor]) -> None:
        self.answers = answers

    def __call__(self, **inputs: Any) -> SimpleNamespace:
        logprobs = self.answers.pop(0)
        zero = torch.zeros_like(logprobs)
        return SimpleNamespace(log_probs=logprobs, entropy=zero, mean_logits=zero, is_top1=zero.bool())


def trainer(model: Model, **settings: Any) -> Any:
    """All that the `_compute_loss` of TRL's trainers reads, so that log-probs can be chosen here."""
    return SimpleNamespace(
        model=model,
        accelerator=ACCELERATOR,
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        **settings,
    )


def trl_dpo(case: Case, loss: str, beta: float, label_smoothing: float) -> Tensor:
    """`DPOTrainer._compute_loss` itself; the first half of the responses is chosen, the second rejected."""
    model = Model([case.padded(case.policy)])
    of = trainer(
        model,
        ld_alpha=None,
        f_divergence_type="reverse_kl",
        loss_types=[loss],
        loss_weights=[1.0],
        use_weighting=False,
        beta=beta,
        label_smoothing=label_smoothing,
    )
    chosen, rejected = segment_sum(case.reference, case.lengths).chunk(2)
    inputs = {
        "input_ids": torch.ones_like(case.mask),
        "attention_mask": torch.ones_like(case.mask),
        "completion_mask": case.mask,
        "ref_chosen_logps": chosen,
        "ref_rejected_logps": rejected,
    }
    found: Tensor = DPOTrainer._compute_loss(of, model, inputs, False)
    return found


@pytest.mark.parametrize(
    ("ours", "theirs", "smoothing", "mean"),
    [
        ("sigmoid", "sigmoid", 0.0, False),
        ("sigmoid", "sigmoid_norm", 0.0, True),
        ("hinge", "hinge", 0.0, False),
        ("ipo", "ipo", 0.0, True),
        ("robust", "robust", 0.2, False),
        ("robust", "robust", 0.0, False),
    ],
)
def test_dpo(ours: str, theirs: str, smoothing: float, mean: bool):
    for seed in SHAPES:
        beta = random.Random(seed).choice([0.05, 0.1, 0.5, 1.0])
        given = case(seed, 2 * (1 + seed % 5))
        scores = (segment_mean if mean else segment_sum)(given.policy - given.reference, given.lengths)
        found = DIRECT_LOSSES[ours].loss(*scores.chunk(2), beta, 0.0, smoothing).mean()
        same(given, found, trl_dpo(given, theirs, beta, smoothing))


def trl_cpo(scores: Tensor, loss: str, beta: float, smoothing: float, gamma: float) -> Tensor:
    of = SimpleNamespace(
        alpha=0.0, beta=beta, loss_type=loss, label_smoothing=smoothing, simpo_gamma=gamma, accelerator=ACCELERATOR
    )
    return CPOTrainer.cpo_loss(of, *scores.chunk(2))[0].mean()  # type: ignore[no-any-return]


@pytest.mark.parametrize(("name", "theirs"), [("simpo", "simpo"), ("cpo", "sigmoid")])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_simpo_and_cpo(name: str, theirs: str, smoothing: float):
    row = DIRECT_LOSSES[name]
    for seed in SHAPES:
        given = case(seed, 2 * (1 + seed % 5))
        gamma = 0.3 * (seed % 6) if name == "simpo" else 0.0
        scores = (segment_mean if row.length_normalised else segment_sum)(given.policy, given.lengths)
        found = row.loss(*scores.chunk(2), row.beta, gamma, smoothing).mean()
        same(given, found, trl_cpo(scores, theirs, row.beta, smoothing, gamma))


@pytest.mark.parametrize("smoothing", [0.1, 0.4])
def test_conservative_dpo(smoothing: float):
    for seed in SHAPES:
        given = case(seed, 2 * (1 + seed % 5))
        scores = segment_sum(given.policy - given.reference, given.lengths)
        found = sigmoid_loss(*scores.chunk(2), 0.1, 0.0, smoothing).mean()
        same(given, found, trl_cpo(scores, "sigmoid", 0.1, smoothing, 0.0))


def trl_kto(case: Case, other: Case, desirable: Tensor, beta: float, weights: tuple[float, float]) -> Tensor:
    """`KTOTrainer._compute_loss` itself; `other` are the mismatched pairs."""
    model = Model([other.padded(other.policy), case.padded(case.policy)])
    of = trainer(
        model,
        calculate_KL=True,
        loss_type="kto",
        beta=beta,
        desirable_weight=weights[0],
        undesirable_weight=weights[1],
    )
    of._compute_kl_logps = lambda model, batch: KTOTrainer._compute_kl_logps(of, model, batch)
    inputs = {
        "input_ids": torch.ones_like(case.mask),
        "attention_mask": torch.ones_like(case.mask),
        "completion_mask": case.mask,
        "KL_input_ids": torch.ones_like(other.mask),
        "KL_attention_mask": torch.ones_like(other.mask),
        "KL_completion_mask": other.mask,
        "label": desirable,
        "ref_logps": segment_sum(case.reference, case.lengths),
        "ref_KL_logps": segment_sum(other.reference, other.lengths),
    }
    found: Tensor = KTOTrainer._compute_loss(of, model, inputs, False)
    return found


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 1.33)])
def test_kto(weights: tuple[float, float]):
    baselines = []
    for seed in SHAPES:
        source = random.Random(seed)
        given, other = case(seed, 1 + seed % 7), case(seed + 1000, 1 + seed % 7)
        desirable = torch.tensor([source.random() < 0.5 for _ in given.lengths])
        z = kto_baseline(segment_sum(other.policy - other.reference, other.lengths))
        baselines.append(z)
        log_ratios = segment_sum(given.policy - given.reference, given.lengths)
        found = kto_loss(log_ratios, desirable, z, 0.1, *weights).mean()
        same(given, found, trl_kto(given, other, desirable, 0.1, weights))
    assert 0 < sum(z > 0 for z in baselines) < len(baselines)  # both sides of the clamp


def test_orpo():
    def scores(given: Case) -> Tensor:
        return segment_mean(given.policy, given.lengths)

    theirs: Callable[..., Any] = ORPOTrainer.odds_ratio_loss
    of = SimpleNamespace(beta=0.1, accelerator=ACCELERATOR)
    for seed in SHAPES:
        given = case(seed, 2 * (1 + seed % 5))
        expected = -theirs(of, *scores(given).chunk(2))[0].mean()  # TRL works it out in float32
        same(given, 0.1 * orpo_loss(*scores(given).chunk(2)).mean(), expected, tolerance=1e-5)
