"""GRPO and its descendants, and RLOO, against TRL 1.16's own code on the same numbers: values and gradients.

TRL's losses are its `_compute_loss` itself, called on a trainer that holds only what that method reads; its advantages
are the very lines of its source, run on our rewards. What TRL does otherwise than the papers:

- `loss_type="cispo"` caps the ratio at `epsilon_high` itself and has no lower limit; MiniMax-M1's range is
  [1 − ε_low, 1 + ε_high]. So TRL's `epsilon_high = 5` is our `clip = 1, clip_high = 4`. Its clip ratio leaves out
  tokens of negative advantage, whose weights it clips all the same.
- `loss_type="dapo"` is DAPO's mean over tokens alone: clip-higher is a setting beside it, and neither dynamic sampling
  nor the overlong punishment comes with it.
- RLOO clips the ratio of the whole response, Π_t r_t; the paper takes one on-policy step, where no ratio shows.
"""

from __future__ import annotations

import inspect
import random
import textwrap
import warnings
from collections import defaultdict
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from tether.math.advantages import Scale, group_advantages, leave_one_out, shape_rewards, zero_spread
from tether.math.aggregate import Aggregation
from tether.math.policy_losses import Clip, Surrogate, policy_objective
from tether.math.segments import expand, segment_sum
from tether.types import Group, Prompt, Response, RolloutBatch

pytest.importorskip("trl")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TRL's import, not ours
    from trl.trainer.grpo_trainer import GRPOTrainer
    from trl.trainer.rloo_trainer import RLOOTrainer
    from trl.trainer.utils import nanstd

LONGEST = 12
SHAPES = [
    (groups, k, seed) for seed, (groups, k) in enumerate([(1, 2), (2, 3), (3, 4), (5, 2), (4, 6), (8, 8), (6, 3)] * 3)
]


class Case(NamedTuple):
    """A batch with padding on the right, and the same without."""

    mask: Tensor  # (S, T)
    logprobs: Tensor  # (S, T), the current policy's: the leaf of every gradient
    old: Tensor  # (S, T)
    ref: Tensor  # (S, T)
    rewards: Tensor  # (S,)
    batch: RolloutBatch

    @property
    def flat(self) -> Tensor:
        return self.logprobs[self.mask.bool()]


def case(num_groups: int, k: int, seed: int) -> Case:
    source = random.Random(seed)
    torch.manual_seed(seed)
    lengths = [source.randint(1, LONGEST) for _ in range(num_groups * k)]
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).double()
    old, moved, away = (torch.randn(mask.shape, dtype=torch.float64) for _ in range(3))
    old = -old.abs()
    # What stands under the padding is deliberately large.
    logprobs = torch.where(mask.bool(), old + 0.3 * moved, 9.0).requires_grad_()
    groups = [
        Group(Prompt((1,)), tuple(Response((2,) * n) for n in lengths[g * k : (g + 1) * k])) for g in range(num_groups)
    ]
    ref = old + 0.5 * away
    columns = {"logprobs": old[mask.bool()], "ref_logprobs": ref[mask.bool()]}
    batch = RolloutBatch.of(groups, old, **columns)
    # Few values, so that some groups have no spread.
    rewards = torch.tensor([float(source.choice([0, 0, 1, 2])) for _ in lengths], dtype=torch.float64)
    return Case(mask, logprobs, old, ref, rewards, batch)


def trl_loss(trainer: Any, case: Case, advantages: Tensor, **settings: Any) -> tuple[Tensor, dict[str, list[float]]]:
    """TRL's loss of one batch in one accumulation step, and its metrics."""
    arguments = {
        "delta": None,
        "use_bias_correction_kl": False,
        "steps_per_generation": 1,
    }
    given = {
        "loss_type": "grpo",
        "beta": 0.0,
        "epsilon_low": 0.2,
        "epsilon_high": 0.2,
        "importance_sampling_level": "token",
        "max_completion_length": LONGEST,
    }
    stub = SimpleNamespace(
        **(given | settings),
        args=SimpleNamespace(**arguments),
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(
            gather=lambda x: x, gather_for_metrics=lambda x: x, reduce=lambda x, reduction: x, num_processes=1
        ),
        _get_per_token_logps_and_entropies=lambda *_, **__: (case.logprobs, -case.logprobs.detach(), None),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
    )
    tokens = case.mask.long()
    inputs = {
        "prompt_ids": tokens[:, :1],
        "prompt_mask": tokens[:, :1],
        "completion_ids": tokens,
        "completion_mask": tokens,
        "advantages": advantages,
        "old_per_token_logps": case.old,
        "old_logps": (case.old * case.mask).sum(1),
        "ref_per_token_logps": case.ref,
        "num_items_in_batch": case.mask.sum(),
    }
    return trainer._compute_loss(stub, stub.model, inputs), stub._metrics["train"]


def lines_of(function: Any, first: str, last: str) -> str:
    """The source from the line that begins with `first` to the one that begins with `last`."""
    lines = inspect.getsource(function).splitlines()
    begin = next(i for i, line in enumerate(lines) if line.strip().startswith(first))
    end = next(i for i, line in enumerate(lines) if i > begin and line.strip().startswith(last))
    return textwrap.dedent("\n".join(lines[begin : end + 1]))


def trl_advantages(trainer: Any, rewards: Tensor, k: int, **settings: Any) -> dict[str, Tensor]:
    """TRL's own lines from rewards to advantages; also `rewards`, after its KL penalty."""
    generate = trainer._generate_and_score_completions
    if trainer is GRPOTrainer:
        code = lines_of(generate, "mean_grouped_rewards = ", "advantages = rewards - mean") + "\n"
        code += lines_of(generate, "if self.scale_rewards != ", "advantages = advantages /")
    else:
        code = lines_of(generate, "# Include the KL penalty", "advantages = (advantages - ")
    scope = {"torch": torch, "nanstd": nanstd, "gather": lambda x: x}
    names = {"rewards": rewards, "num_generations": k} | settings
    exec(code, scope, names)
    return names


GRPO_LOSSES: dict[str, tuple[dict[str, Any], str, Aggregation, Clip]] = {
    "grpo": ({}, "ppo", "sequence", Clip()),
    "grpo with a tether": ({"beta": 0.3}, "ppo", "sequence", Clip()),
    "bnpo": ({"loss_type": "bnpo", "beta": 0.1}, "ppo", "token", Clip()),
    "dr_grpo": ({"loss_type": "dr_grpo", "beta": 0.1}, "ppo", "constant", Clip()),
    "dapo": ({"loss_type": "dapo", "epsilon_high": 0.28}, "ppo", "token", Clip(0.2, 0.28)),
    "cispo": ({"loss_type": "cispo", "epsilon_high": 1.3, "beta": 0.1}, "cispo", "token", Clip(1.0, 0.3)),
    "gspo": (
        {"importance_sampling_level": "sequence", "epsilon_low": 0.05, "epsilon_high": 0.06, "beta": 0.1},
        "gspo",
        "sequence",
        Clip(0.05, 0.06),
    ),
    "gspo over dapo": (
        {"importance_sampling_level": "sequence", "loss_type": "dapo", "epsilon_low": 0.05, "epsilon_high": 0.06},
        "gspo",
        "token",
        Clip(0.05, 0.06),
    ),
}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", GRPO_LOSSES)
def test_losses(name: str, shape: tuple[int, int, int]):
    settings, loss, how, clip = GRPO_LOSSES[name]
    made = case(*shape)
    advantages = torch.randn(len(made.rewards), dtype=torch.float64)
    expected, theirs = trl_loss(GRPOTrainer, made, advantages, **settings)
    surrogate = Surrogate(loss, clip, how, LONGEST, "k3" if "beta" in settings else None, settings.get("beta", 0.0))
    batch = made.batch.replace(advantages=expand(advantages, made.batch.lengths))
    found, metrics = policy_objective(made.flat, -made.flat.detach(), batch, surrogate)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)
    gradients = [torch.autograd.grad(x, made.logprobs, retain_graph=True)[0] for x in (found, expected)]
    assert float(gradients[0].abs().max()) > 1e-4 or float(metrics["policy/clip_frac"]) > 0
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-8)
    assert float(metrics["policy/entropy"]) == pytest.approx(theirs["entropy"][0])
    if loss == "ppo":
        assert float(metrics["policy/clip_frac"]) == pytest.approx(theirs["clip_ratio/region_mean"][0])
    elif loss == "cispo":
        assert float(metrics["policy/clip_frac"]) >= theirs["cispo_clip_ratio"][0] - 1e-6


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("scale", "theirs"), [("std", "group"), ("batch", "batch"), ("none", "none")])
def test_group_advantages(scale: Scale, theirs: str, shape: tuple[int, int, int]):
    made = case(*shape)
    there = trl_advantages(GRPOTrainer, made.rewards, shape[1], self=SimpleNamespace(scale_rewards=theirs))
    found = group_advantages(made.rewards, made.batch.group_of, scale)
    torch.testing.assert_close(found, there["advantages"], rtol=1e-5, atol=1e-8)
    if scale == "std":
        flat = there["std_rewards"].view(-1, shape[1])[:, 0] < 1e-8
        assert zero_spread(made.rewards, made.batch.group_of).tolist() == flat.tolist()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("beta", [0.0, 0.2])
def test_leave_one_out(beta: float, shape: tuple[int, int, int]):
    """RLOO's advantages, the KL shaping of its rewards included, and the gradient of its on-policy step."""
    made = case(*shape)
    settings = {"self": SimpleNamespace(beta=beta, normalize_advantages=False), "completion_mask": made.mask}
    there = trl_advantages(
        RLOOTrainer,
        made.rewards,
        shape[1],
        **settings,
        old_per_token_logps=made.old,
        ref_per_token_logps=made.ref,
    )
    batch = made.batch
    shaped = shape_rewards(made.rewards, batch.logprobs - batch.ref_logprobs, beta, batch.lengths)
    totals = segment_sum(shaped, batch.lengths)
    torch.testing.assert_close(totals, there["rewards"], rtol=1e-5, atol=1e-8)
    advantages = totals - leave_one_out(totals, batch.group_of)
    torch.testing.assert_close(advantages, there["advantages"], rtol=1e-5, atol=1e-8)

    on_policy = made._replace(old=made.logprobs.detach())
    expected, _ = trl_loss(RLOOTrainer, on_policy, advantages)
    batch = batch.replace(advantages=expand(advantages, batch.lengths), logprobs=made.flat.detach())
    (wanted,) = torch.autograd.grad(expected, made.logprobs)
    for loss in ("reinforce", "ppo"):
        found, _ = policy_objective(made.flat, -made.flat.detach(), batch, Surrogate(loss, Clip(), "constant", 1))
        (gradient,) = torch.autograd.grad(found, made.logprobs)
        torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-8)
