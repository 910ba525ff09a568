"""A run that is cut and resumed ends with the bits of one that was not: weights, optimisers, log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.conftest import Tiny, context, examples_for, run_of, stage, token_reward

from tether.algorithms import ALGORITHMS
from tether.monitor.log import EVENTS, read_events
from tether.train.checkpoint import checkpoints
from tether.train.loop import Run, train
from tether.types import Group

PLAN = {"steps": 6, "batch_size": 4, "save_every": 3, "eval_every": 2, "keep": "best"}
PPO = {
    "optim": {"lr": 1e-3, "schedule": "cosine", "warmup": 0.2},
    "train": PLAN | {"mini_batch_size": 3, "mini_epochs": 2},
    "kl": {"controller": "adaptive", "beta": 0.1, "target": 1.0, "horizon": 16},
    "eval_data": {"path": "x"},
    "eval_reward": "a:b",
}
POLICY = {
    "optim": {"lr": 1e-2, "schedule": "linear"},
    "train": PLAN | {"mini_batch_size": 3, "mini_epochs": 2},
    "kl": {"controller": "adaptive", "beta": 0.1, "target": 1.0, "horizon": 16},
    "sampling": {"max_new_tokens": 6},
    "eval_data": {"path": "x"},
    "eval_reward": "a:b",
}
SUPERVISED = {"optim": {"lr": 1e-2, "schedule": "linear"}, "train": PLAN, "eval_data": {"path": "x"}}
DIRECT = SUPERVISED | {"train": PLAN | {"mini_batch_size": 2}}
RUNS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "sft with noise": ("sft", "llama", SUPERVISED | {"neftune_alpha": 5.0}),
    "reward model with dropout": ("reward_model", "gpt2", SUPERVISED | {"dropout": True}),
    "ppo": ("ppo", "llama", PPO),
    "ppo on a shared trunk": ("ppo", "llama", PPO | {"value": {"model": "shared"}}),
    "grpo that draws again": ("grpo", "llama", POLICY | {"num_responses": 2, "zero_spread": "resample"}),
    "reinforce with a moving mean": ("reinforce", "llama", POLICY | {"baseline": "moving_mean", "loss": "ppo"}),
    "online dpo": ("online_dpo", "llama", POLICY),
    "dpo with a moving beta": ("dpo", "llama", DIRECT | {"beta_end": 0.01, "sft_coef": 0.1}),
    "orpo": ("orpo", "llama", DIRECT),
    "kto": ("kto", "llama", DIRECT),
    "spin": ("spin", "llama", DIRECT | {"sampling": {"max_new_tokens": 6}}),
    "process reward model with dropout": ("process_reward", "gpt2", SUPERVISED | {"dropout": True}),
    "reward model of several heads": ("reward_model", "llama", SUPERVISED | {"heads": 3}),
}


class Cut(Exception):
    """The moment a run is killed."""


def begin(tiny: Tiny, folder: Path, name: str) -> tuple[Run, list[Group]]:
    algorithm, architecture, fields = RUNS[name]
    model = tiny(architecture, resid_pdrop=0.1) if architecture == "gpt2" else tiny(architecture)
    need = ALGORITHMS[algorithm].data
    reward = token_reward if need == "prompts" else None
    ctx = context(stage(algorithm, model, **fields), reward, judge=reward)
    groups = examples_for(need, ctx.template, 14)
    return run_of(ctx, groups[:10], folder), groups[10:]


def cut_at(run: Run, step: int) -> None:
    """Kills the run in the middle of an iteration, after its first optimiser step."""
    whole = run.algorithm.loss
    calls = []

    def loss(ctx: Any, batch: Any) -> Any:
        if ctx.step == step:
            calls.append(1)
            if len(calls) == 2 or len(ctx.roles) == 1:
                raise Cut
        return whole(ctx, batch)

    run.algorithm = run.algorithm._replace(loss=loss)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("cut", [1, 4])
def test_cut_and_resumed(tiny: Tiny, tmp_path: Path, name: str, cut: int):
    straight, held_out = begin(tiny, tmp_path / "straight", name)
    metrics = train(straight, held_out)

    first, _ = begin(tiny, tmp_path / "cut", name)
    cut_at(first, cut)
    with pytest.raises(Cut):
        train(first, held_out)
    saved = [p.name for p in checkpoints(tmp_path / "cut" / "checkpoints")]
    assert saved == ([] if cut < 3 else ["step-00000003.pt"])
    torch.rand(5)  # another process stands elsewhere in its random numbers
    second, _ = begin(tiny, tmp_path / "cut", name)
    torch.rand(3 if saved else 0)
    assert train(second, held_out) == metrics

    for role in straight.ctx.roles:
        one, other = straight.ctx.roles[role].state_dict(), second.ctx.roles[role].state_dict()
        assert all(torch.equal(one[key], other[key]) for key in one), role
    for role in straight.optimizers:
        one, other = (run.optimizers[role].state_dict() for run in (straight, second))
        assert one["param_groups"] == other["param_groups"]
        for index, state in one["state"].items():
            assert all(torch.equal(value, other["state"][index][key]) for key, value in state.items())
    assert straight.ctx.state == second.ctx.state
    assert straight.best == second.best
    log = [(tmp_path / side / EVENTS).read_bytes() for side in ("straight", "cut")]
    assert log[0] == log[1]
    kept = [torch.load(tmp_path / side / "best.pt", weights_only=True) for side in ("straight", "cut")]
    assert all(torch.equal(kept[0][key], kept[1][key]) for key in kept[0])
    if second.ctx.sampler is not None:
        assert second.ctx.sampler.policy_version == 6
    if second.ctx.scorer is not None:
        betas = [e["kl/beta"] for e in read_events(tmp_path / "cut") if e["kind"] == "train"]
        assert len(set(betas)) == 6  # the controller moved, so that its state was needed


def test_a_resumed_sampler_knows_the_version_of_its_policy(tiny: Tiny, tmp_path: Path):
    first, held_out = begin(tiny, tmp_path, "ppo")
    cut_at(first, 4)
    with pytest.raises(Cut):
        train(first, held_out)
    second, _ = begin(tiny, tmp_path, "ppo")
    versions: list[int] = []
    prepare = second.algorithm.prepare

    def watched(ctx: Any, groups: Any) -> Any:
        batch, metrics = prepare(ctx, groups)
        versions.extend({r.policy_version for g in batch.groups for r in g.responses})
        return batch, metrics

    second.algorithm = second.algorithm._replace(prepare=watched)
    train(second, held_out)
    assert versions == [3, 4, 5]


def test_a_finished_run_is_not_run_again(tiny: Tiny, tmp_path: Path):
    run, held_out = begin(tiny, tmp_path, "sft with noise")
    metrics = train(run, held_out)
    log = (tmp_path / EVENTS).read_bytes()
    again, _ = begin(tiny, tmp_path, "sft with noise")
    assert train(again, held_out) == metrics
    assert (tmp_path / EVENTS).read_bytes() == log
