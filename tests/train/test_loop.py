"""The loop: a step does not depend on how it is cut, portions are what the recipe says, trouble is named."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.conftest import Tiny, context, examples, examples_for, run_of, stage, token_reward
from torch import Tensor

from tether.algorithms import ALGORITHMS
from tether.errors import InputError
from tether.models.role import Role
from tether.monitor.log import read_events
from tether.train.checkpoint import load_checkpoint
from tether.train.context import Context
from tether.train.evaluate import evaluate_loss, evaluate_policy
from tether.train.loop import Run, num_steps, step, train
from tether.types import Group, RolloutBatch

# ε this large makes AdamW's step follow the size of the gradient; else rounding of a tiny one decides a whole step.
STEADY = {"lr": 0.05, "eps": 0.01, "max_grad_norm": 100.0}


def ready(tiny: Tiny, folder: Path, algorithm: str, fields: dict[str, Any], count: int = 10) -> tuple[Run, list[Group]]:
    section = stage(algorithm, tiny(), **({"optim": STEADY} | fields))
    need = ALGORITHMS[algorithm].data
    ctx = context(section, token_reward if need == "prompts" else None)
    groups = examples_for(need, ctx.template, count)
    return run_of(ctx, groups, folder), groups


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [e for e in read_events(folder) if e["kind"] == kind]


def weights(ctx: Context) -> dict[str, Tensor]:
    return {f"{name}.{key}": value for name, role in ctx.roles.items() for key, value in role.state_dict().items()}


def nudge(role: Role) -> None:
    """Off the reference: where log-ratios are 0, rounding decides which of a pair is ahead."""
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in role.parameters():
            parameter += 0.05 * torch.randn_like(parameter)


KINDS = [
    ("sft", {}),
    ("sft", {"aggregate": "sequence"}),
    ("lm", {}),
    ("reward_model", {"label_smoothing": 0.1, "centering": 0.1}),
    ("ppo", {"num_responses": 2, "entropy_coef": 0.1}),
    ("ppo", {"value": {"model": "shared"}, "kl": {"use": "loss", "estimator": "k2"}}),
    ("grpo", {"num_responses": 3}),
    ("grpo", {"num_responses": 3, "variant": "dr_grpo", "kl": {"use": "shaping", "estimator": "k1", "beta": 0.1}}),
    ("grpo", {"num_responses": 3, "variant": "dapo"}),
    ("grpo", {"num_responses": 3, "variant": "gspo"}),
    ("grpo", {"num_responses": 3, "variant": "cispo"}),
    ("reinforce", {"num_responses": 2}),
    ("reinforce", {"num_responses": 1, "loss": "ppo", "baseline": "batch_norm", "credit": "token"}),
    ("online_dpo", {"num_responses": 3}),
    ("dpo", {"sft_coef": 0.5, "label_smoothing": 0.1}),
    ("dpo", {"loss": "ipo", "beta": 1.0}),
    ("dpo", {"loss": "simpo"}),
    ("kto", {}),
    ("orpo", {}),
    ("spin", {"sampling": {"max_new_tokens": 6}}),
    ("process_reward", {}),
    ("process_reward", {"aggregate": "sequence"}),
    ("reward_model", {"loss": "plackett_luce", "heads": 3}),
]


@pytest.mark.parametrize(("algorithm", "fields"), KINDS)
@pytest.mark.parametrize("layout", ["rows", "tree", "varlen"])
def test_a_step_does_not_depend_on_its_micro_batches(
    tiny: Tiny, tmp_path: Path, algorithm: str, fields: dict[str, Any], layout: str
):
    found: list[dict[str, Tensor]] = []
    metrics: list[dict[str, float]] = []
    for budget in (16, 100_000):
        plan = {"token_budget": budget, "layout": layout}
        run, groups = ready(tiny, tmp_path, algorithm, fields | {"train": plan})
        nudge(next(iter(run.ctx.roles.values())))
        start = {name: value.clone() for name, value in weights(run.ctx).items()}
        torch.manual_seed(0)
        with torch.no_grad():
            batch, _ = run.algorithm.prepare(run.ctx, groups)
        metrics.append(step(run, batch))
        found.append(weights(run.ctx))
    moved = max((found[0][name] - start[name]).abs().max().item() for name in start)
    assert moved > 1e-3
    for name in start:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=0, atol=2e-6, msg=name)
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-3, abs=1e-5)


def test_mini_batches_hold_every_group_once_a_pass_in_changing_order(tiny: Tiny, tmp_path: Path):
    plan = {"steps": 2, "batch_size": 8, "mini_batch_size": 3, "mini_epochs": 2, "token_budget": 4096}
    run, _ = ready(tiny, tmp_path, "sft", {"train": plan}, 8)
    seen: list[list[str]] = []
    totals = []

    def watched(ctx: Context, batch: RolloutBatch) -> Any:
        seen.append([g.prompt.meta["id"] for g in batch.groups])
        totals.append(batch.total.groups)
        return ALGORITHMS["sft"].loss(ctx, batch)

    run.algorithm = run.algorithm._replace(loss=watched)
    train(run, [])
    assert totals == [3, 3, 2] * 4
    for first in range(0, 12, 3):
        assert Counter(name for part in seen[first : first + 3] for name in part) == Counter(f"p{i}" for i in range(8))
    sets = [[frozenset(part) for part in seen[i : i + 3]] for i in range(0, 12, 3)]
    assert sets[0] != sets[1]
    assert [e["optim/steps"] for e in events(tmp_path, "train")] == [6.0, 6.0]


def test_gradients_are_clipped_to_the_norm_that_is_asked_for(tiny: Tiny, tmp_path: Path):
    run, groups = ready(tiny, tmp_path, "sft", {"optim": {"max_grad_norm": 0.01}})
    batch = run.ctx.batch(groups)
    parameters = list(run.ctx.roles["policy"].parameters())
    whole = torch.autograd.grad(run.algorithm.loss(run.ctx, batch)[0], parameters)
    norm = math.sqrt(sum(float(g.square().sum()) for g in whole))
    assert norm > 0.1
    metrics = step(run, batch)
    assert metrics["optim/grad_norm/policy"] == pytest.approx(norm, rel=1e-4)
    for parameter, gradient in zip(parameters, whole, strict=True):
        torch.testing.assert_close(parameter.grad, gradient * 0.01 / norm, rtol=1e-3, atol=1e-8)


def test_every_role_follows_its_own_schedule(tiny: Tiny, tmp_path: Path):
    slow = {"lr": 0.002, "schedule": "linear"}
    fields = {"optim": {"lr": 0.001}, "value": {"optim": slow}, "train": {"steps": 4, "batch_size": 4}}
    run, _ = ready(tiny, tmp_path, "ppo", fields)
    train(run, [])
    assert [e["optim/lr"] for e in events(tmp_path, "train")] == [0.001] * 4
    assert run.optimizers["value"].param_groups[0]["lr"] == pytest.approx(0.002 / 4)


def test_held_out_metrics_by_hand(tiny: Tiny, tmp_path: Path):
    run, groups = ready(tiny, tmp_path, "sft", {"train": {"token_budget": 32}})
    logprobs = run.ctx.infer("policy", groups, ("logprobs",)).logprobs
    assert evaluate_loss(run.algorithm, run.ctx, groups) == {"eval/loss": pytest.approx(-logprobs.mean().item())}

    run, groups = ready(tiny, tmp_path, "reward_model", {"train": {"token_budget": 32}})
    scores = run.ctx.infer("reward", groups, ("scores",)).scores.view(-1, 3).tolist()
    right = [(a > b) + (a > c) + (b > c) for a, b, c in scores]
    found = evaluate_loss(run.algorithm, run.ctx, groups)
    assert found["eval/accuracy"] == pytest.approx(sum(right) / 3 / len(groups))
    assert set(found) == {"eval/loss", "eval/accuracy", "eval/margin", "eval/mean"}


def test_held_out_answers_by_hand(tiny: Tiny):
    kl = {"start": "any"}
    ctx = context(stage("ppo", tiny(), reference=tiny(seed=1), kl=kl), token_reward)
    prompts = [Group(g.prompt) for g in examples(ctx.template, 5, 1)]
    metrics, rows = evaluate_policy(ctx, prompts)
    again, _ = evaluate_policy(ctx, prompts)
    assert metrics == again  # the same prompts get the same draws, so that curves compare policies
    assert ctx.sampler is not None
    answers = ctx.sampler.generate([g.prompt for g in prompts], 1, seed=ctx.seed + 7_919)
    assert [row["answer"] for row in rows] == [g.responses[0].text for g in answers]
    policy, reference = (ctx.infer(name, answers, ("logprobs",)).logprobs for name in ("policy", "reference"))
    ids = [list(g.responses[0].token_ids) for g in answers]
    assert metrics["eval/kl"] == pytest.approx(float((policy - reference).sum()) / 5, rel=1e-3)
    assert metrics["eval/proxy"] == pytest.approx(sum(token_reward(ids)) / 5)
    assert metrics["eval/length"] == pytest.approx(sum(map(len, ids)) / 5)
    assert metrics["eval/ended"] == sum(i[-1] == ctx.template.end_id for i in ids) / 5
    assert [row["proxy"] for row in rows] == pytest.approx(token_reward(ids), abs=1e-4)


def test_the_best_weights_are_kept(tiny: Tiny, tmp_path: Path):
    # Eight examples learnt by heart: the held-out loss falls and then rises.
    plan = {"steps": 12, "batch_size": 8, "eval_every": 1, "keep": "best"}
    fields = {"train": plan, "optim": {"lr": 0.02}, "eval_data": {"path": "x"}}
    run, groups = ready(tiny, tmp_path, "sft", fields, 16)
    run.cursor.groups = groups[:8]
    last = train(run, groups[8:])
    losses = {e["step"]: e["eval/loss"] for e in events(tmp_path, "eval")}
    assert set(losses) == set(range(13))
    best = min(losses, key=lambda s: losses[s])
    assert 0 < best < 12
    assert losses[12] == last["eval/loss"] > losses[best]
    assert run.best == [pytest.approx(-losses[best]), best]
    kept = context(stage("sft", tiny()))
    kept.roles["policy"].load_state_dict(torch.load(tmp_path / "best.pt", weights_only=True))
    assert evaluate_loss(run.algorithm, kept, groups[8:])["eval/loss"] == pytest.approx(losses[best])


def test_the_first_loss_that_is_not_a_number_is_named_with_its_step(tiny: Tiny, tmp_path: Path):
    # One step of this size overflows the weights, so the second step has no finite loss.
    fields = {"optim": {"lr": 1e30}, "train": {"steps": 4, "batch_size": 4, "save_every": 1}}
    run, _ = ready(tiny, tmp_path, "sft", fields)
    with pytest.raises(InputError, match=r"stage 'tried', step 2: sft/loss is nan"):
        train(run, [])
    saved = load_checkpoint(tmp_path / "checkpoints")
    assert saved is not None
    assert saved["step"] == 1
    assert [e["step"] for e in events(tmp_path, "train")] == [1]


class Full(torch.OutOfMemoryError):
    """What a full device raises."""


def limit(ctx: Context, cells: int) -> None:
    """A device with room for this many cells of a micro-batch."""

    def check(module: Any, args: tuple[Any, ...]) -> None:
        if args[0].num_cells > cells:
            raise Full("out of memory")

    for role in ctx.roles.values():
        role.register_forward_pre_hook(check)


@pytest.mark.parametrize("algorithm", ["sft", "reward_model", "ppo"])
def test_out_of_memory_halves_the_budget_and_changes_nothing_else(tiny: Tiny, tmp_path: Path, algorithm: str):
    fields = {"train": {"steps": 2, "batch_size": 8, "token_budget": 1024}}
    free, groups = ready(tiny, tmp_path / "free", algorithm, fields)
    held_out = groups[8:] if algorithm != "ppo" else []
    train(free, held_out)
    short, _ = ready(tiny, tmp_path / "short", algorithm, fields)
    limit(short.ctx, 70)
    train(short, held_out)
    assert free.ctx.token_budget == 1024
    assert short.ctx.token_budget == 64
    notes = [e["text"] for e in events(tmp_path / "short", "note")]
    assert notes[-1] == "out of memory: token budget halved to 64"
    expected = weights(free.ctx)
    for name, value in weights(short.ctx).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=5e-5, msg=name)
    assert events(tmp_path / "free", "train")[-1].keys() == events(tmp_path / "short", "train")[-1].keys()


def test_a_model_that_fits_nowhere_says_so(tiny: Tiny, tmp_path: Path):
    run, _ = ready(tiny, tmp_path, "sft", {"train": {"steps": 1}})
    limit(run.ctx, 3)
    with pytest.raises(Full):
        train(run, [])


@pytest.mark.parametrize(("plan", "steps"), [({"steps": 7}, 7), ({"epochs": 0.5}, 2), ({"epochs": 2.0}, 5), ({}, 3)])
def test_number_of_steps(tiny: Tiny, plan: dict[str, Any], steps: int):
    assert num_steps(stage("sft", tiny(), train={"batch_size": 4, **plan}), 10) == steps


def test_evaluation_out_of_memory(tiny: Tiny, tmp_path: Path):
    run, groups = ready(tiny, tmp_path, "sft", {})
    expected = evaluate_loss(run.algorithm, run.ctx, groups)
    limit(run.ctx, 70)
    assert evaluate_loss(run.algorithm, run.ctx, groups) == pytest.approx(expected)
    assert run.ctx.token_budget == 64
    limit(run.ctx, 3)
    with pytest.raises(Full):
        evaluate_loss(run.algorithm, run.ctx, groups)


def test_metrics_go_to_tensorboard_when_asked(tiny: Tiny, tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, _ = ready(tiny, tmp_path, "sft", {"train": {"steps": 2, "batch_size": 2, "tracker": "tensorboard"}})
    train(run, [])
    written = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("sft/loss")
    logged = events(tmp_path, "train")
    assert [scalar.step for scalar in written] == [1, 2]
    assert [scalar.value for scalar in written] == pytest.approx([event["sft/loss"] for event in logged])
