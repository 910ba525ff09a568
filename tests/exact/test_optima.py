"""Where training ends: the policies that the papers' closed forms name, reached by real runs to 2 % total variation.

    DPO, PPO, REINFORCE, GRPO     π* ∝ π_ref · exp(r / β)                       (Rafailov et al. 2023, eq. 4)
    IPO                           π* ∝ π_ref · exp(E_{y'~μ} p*(y ≻ y') / τ)     (Azar et al. 2023, section 5)

Preferences are given without noise: as many labels each way as the true model says. Rewards are multiples of log 2, so
that Bradley–Terry's chances are 1/2, 2/3 and 4/5, and whole numbers of labels hold them exactly. Samples need no such
care: at the optimum r − β log π/π_ref is the same for every response, and with it the noise of the gradient is gone.
"""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.exact.conftest import IDS, LENGTHS, RESPONSES, World, given, log_probs
from tests.train.conftest import run_of
from torch import Tensor

from tether.train.context import Context
from tether.train.loop import train
from tether.types import Group, Prompt

PROMPT = Prompt((0, 1), text="a b")
_source = random.Random(11)
LEVELS = [_source.randrange(3) for _ in IDS]
LEVEL = dict(zip(IDS, LEVELS, strict=True))
REWARDS = torch.tensor(LEVELS, dtype=torch.float64) * math.log(2)  # (Y,)
SPREAD = 7.0
"""How unlike the annotators of `opinions` are."""


def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [LEVEL[tuple(ids)] * math.log(2) for ids in completion_ids]


def begin(algorithm: str, world: World, groups: list[Group], reward: Any = None, **fields: Any) -> Context:
    """A run in which every step sees all of the data."""
    plan = {"steps": 150, "batch_size": len(groups)} | fields.pop("train", {})
    return given(algorithm, world(0, layers=2), reward, train=plan, optim={"lr": 0.006, "schedule": "cosine"}, **fields)


def distribution(ctx: Context) -> Tensor:
    """(Y,) of the policy as it is."""
    return log_probs(ctx.roles["policy"].hf, PROMPT).detach().double().sum(1).exp()


def tilted(reference: Tensor, by: Tensor) -> Tensor:
    """(Y,) π_ref · exp(by) / Z."""
    weights = reference * by.exp()
    return weights / weights.sum()


def variation(one: Tensor, other: Tensor) -> float:
    """Total variation: half the sum of distances."""
    return float((one - other).abs().sum() / 2)


def arrives(ctx: Context, groups: list[Group], folder: Path, right: Tensor, **wrong: Tensor) -> None:
    """The run ends within 2 % of `right`, and started nowhere near; nor is `right` near any of `wrong`."""
    for name, other in {"start": distribution(ctx), **wrong}.items():
        assert variation(other, right) > 0.06, name
    train(run_of(ctx, groups, folder), [])
    assert variation(distribution(ctx), right) < 0.02


def labels() -> list[Group]:
    """Comparisons along two rings of all responses, as many each way as Bradley–Terry has it: 1:1, 2:1 or 4:1."""
    groups = []
    for step in (7, 16):
        for i in range(len(IDS)):
            better, worse = sorted((i, (i + step) % len(IDS)), key=lambda y: -LEVELS[y])
            for times, ranking in ((2 ** (LEVELS[better] - LEVELS[worse]), (0, 1)), (1, (1, 0))):
                groups += [Group(PROMPT, (RESPONSES[better], RESPONSES[worse]), {"ranking": ranking})] * times
    return groups


def test_dpo(world: World, tmp_path: Path):
    groups, beta = labels(), 0.5
    ctx = begin("dpo", world, groups, beta=beta)
    reference = distribution(ctx)
    others = {f"beta {b}": tilted(reference, REWARDS / b) for b in (0.4, 0.6)}
    arrives(ctx, groups, tmp_path, tilted(reference, REWARDS / beta), **others, against=tilted(reference, -REWARDS))


@pytest.mark.parametrize(
    ("algorithm", "fields"),
    [
        ("ppo", {"num_responses": 4, "lam": 1.0, "whiten_advantages": False}),
        ("reinforce", {"num_responses": 4}),
        ("grpo", {"variant": "dr_grpo", "num_responses": 4, "train": {"mini_epochs": 2}}),
    ],
)
def test_policy_gradient_tethered_by_shaping(world: World, tmp_path: Path, algorithm: str, fields: dict[str, Any]):
    groups, beta = [Group(PROMPT)] * 32, 1.0
    kl = {"use": "shaping", "estimator": "k1", "beta": beta}
    ctx = begin(algorithm, world, groups, reward, kl=kl, **fields)
    reference = distribution(ctx)
    others = {f"beta {b}": tilted(reference, REWARDS / b) for b in (0.7, 1.5)}
    arrives(ctx, groups, tmp_path, tilted(reference, REWARDS / beta), **others)


def opinions() -> tuple[list[Group], Tensor]:
    """Six annotators' rankings of all responses, and p*(y ≻ y') (Y, Y): the share of them that put y first.

    No Bradley–Terry model has these: chances of 0 and 1 are among them.
    """
    groups, wins = [], torch.full((len(IDS), len(IDS)), 0.0, dtype=torch.float64)
    for _ in range(6):
        liking = [level * SPREAD + _source.gauss(0, SPREAD) for level in LEVELS]
        order = sorted(range(len(IDS)), key=lambda y: -liking[y])
        ranks = torch.tensor(order).argsort()
        wins += (ranks[:, None] < ranks).double() / 6
        groups.append(Group(PROMPT, RESPONSES, {"ranking": tuple(ranks.tolist())}))
    return groups, wins + torch.eye(len(IDS)) / 2


@pytest.mark.parametrize("length_normalised", [False, True])
def test_ipo(world: World, tmp_path: Path, length_normalised: bool):
    """Its loss on all pairs is least squares: the gap of two scores is to be (p*(y ≻ y') − 1/2) / τ.

    With every pair equally often (μ uniform) the scores that fit best are f(y) + c, f(y) = E_{y'~μ} p*(y ≻ y') / τ. If
    scores are sums of log-ratios, that is the paper's policy. If they are means, as its authors ran it, the log-ratio
    is |y| (f(y) + c), and c is what makes probabilities add up to 1.
    """
    tau = 0.3 if length_normalised else 0.2
    groups, wins = opinions()
    ctx = begin("dpo", world, groups, loss="ipo", beta=tau, length_normalised=length_normalised)
    reference, fit = distribution(ctx), wins.mean(1) / tau
    sums, means = tilted(reference, fit), shifted(reference, fit)
    right, other = (means, sums) if length_normalised else (sums, means)
    arrives(ctx, groups, tmp_path, right, other_scores=other, half=tilted(reference, fit / 2))


def shifted(reference: Tensor, fit: Tensor) -> Tensor:
    """(Y,) π_ref · exp(|y| (f + c)) with the c whose sum is 1, by bisection."""
    low, high = -100.0, 100.0
    for _ in range(100):
        middle = (low + high) / 2
        policy = reference * (LENGTHS * (fit + middle)).exp()
        low, high = (low, middle) if policy.sum() > 1 else (middle, high)
    return policy


@pytest.mark.parametrize("algorithm", ["kto", "orpo", "online_dpo"])
def test_without_a_closed_form_at_least_the_right_way(world: World, tmp_path: Path, algorithm: str):
    """KTO saturates, ORPO has no reference, and online DPO's labels know only which is better.

    KTO sees responses as often as the reference writes them. Of each just one, it would give up a likely undesirable
    one, whose loss cannot grow past 1, to push many unlikely ones down.
    """
    reference = distribution(begin("sft", world, [Group(PROMPT)]))
    groups = [Group(PROMPT)] * 32
    if algorithm == "kto":
        often = [math.ceil(100 * chance) for chance in reference.tolist()]
        thumbs = [Group(PROMPT, (r,), {"desirable": level == 2}) for r, level in zip(RESPONSES, LEVELS, strict=True)]
        groups = [thumb for thumb, times in zip(thumbs, often, strict=True) for _ in range(times)]
    elif algorithm == "orpo":
        groups = [Group(PROMPT, RESPONSES, {"ranking": tuple(2 - level for level in LEVELS)})]
    ctx = begin(algorithm, world, groups, reward if algorithm == "online_dpo" else None, train={"steps": 30})
    train(run_of(ctx, groups, tmp_path), [])
    reached, good = distribution(ctx), torch.tensor(LEVELS) == 2
    assert reached[good].sum() > reference[good].sum() + 0.2
    assert reached @ REWARDS > reference @ REWARDS + 0.1
