"""The only loop. It draws groups, lets the algorithm prepare a batch, learns from it, and keeps the books.

Parts: `train` (iterations, evaluation, checkpoints), `learn` (mini-epochs and mini-batches of one iteration), `step`
(one optimiser step over micro-batches), `Run` (what a checkpoint holds). It never asks an algorithm's name.
"""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tether.config import OptimConfig, TrainConfig
from tether.errors import InputError
from tether.models.plan import micro_batches
from tether.monitor.console import Progress
from tether.monitor.log import EventLog
from tether.monitor.trackers import Tracker, open_tracker
from tether.train.checkpoint import load_checkpoint, random_state, save_checkpoint, set_random_state, write_tensors
from tether.train.context import Context
from tether.train.cursor import Cursor
from tether.train.evaluate import evaluate_loss, evaluate_policy
from tether.train.optim import build_optimizer, learning_rate
from tether.types import Algorithm, Group, Metrics, RolloutBatch, Totals


@dataclass
class Run:
    """A training run's moving parts, and how they go into a checkpoint and out of it."""

    algorithm: Algorithm
    ctx: Context
    cursor: Cursor
    optims: dict[str, OptimConfig]
    """Trained role → its optimiser's settings."""
    folder: Path
    log: EventLog = field(init=False)
    optimizers: dict[str, torch.optim.Optimizer] = field(init=False)
    best: list[float] = field(default_factory=list)
    """[score, step] of the best held-out score so far; empty before the first."""
    last: Metrics = field(default_factory=dict)
    """The newest held-out metrics: a run cut after its last step still says what it came to."""

    def __post_init__(self) -> None:
        self.ctx.cursors["data"] = self.cursor
        self.optimizers = {name: build_optimizer(self.ctx.roles[name], config) for name, config in self.optims.items()}

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs to go on with the same bits."""
        return {
            "step": self.ctx.step,
            "algorithm": self.ctx.state,
            "token_budget": self.ctx.token_budget,
            "positions": {name: cursor.position for name, cursor in self.ctx.cursors.items()},
            "best": self.best,
            "last": self.last,
            "roles": {name: self.ctx.roles[name].state_dict() for name in self.optimizers},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "random": random_state(),
            "log": self.log.cursor(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """The reverse of `state`."""
        self.ctx.step, self.ctx.state = state["step"], state["algorithm"]
        self.ctx.token_budget = state["token_budget"]
        for name, position in state["positions"].items():
            self.ctx.cursors[name].position = position
        self.best, self.last = state["best"], state["last"]
        if self.ctx.sampler is not None:
            self.ctx.sampler.policy_version = self.ctx.step
        for name, optimizer in self.optimizers.items():
            self.ctx.roles[name].load_state_dict(state["roles"][name])
            optimizer.load_state_dict(state["optimizers"][name])
        set_random_state(state["random"])


def num_steps(config: Any, num_groups: int) -> int:
    """Iterations the recipe asks for; one pass over the data when it does not say."""
    plan: TrainConfig = config.train
    if plan.steps is not None:
        return plan.steps
    return max(1, math.ceil((plan.epochs or 1) * num_groups / plan.batch_size))


def train(run: Run, held_out: Sequence[Group]) -> Metrics:
    """Runs to the end, from the newest checkpoint if there is one. Returns the last held-out metrics."""
    ctx, plan = run.ctx, run.ctx.config.train
    total = num_steps(ctx.config, len(run.cursor.groups))
    save_every = plan.save_every or max(1, total // 20)
    eval_every = plan.eval_every or total
    saved = load_checkpoint(run.folder / "checkpoints")
    run.log = EventLog.open(run.folder, saved["log"] if saved else None)
    if saved is not None:
        run.restore(saved)
    tracked: contextlib.AbstractContextManager[Tracker | None] = contextlib.nullcontext()
    if plan.tracker != "none":
        tracked = contextlib.closing(open_tracker(plan.tracker, run.folder / plan.tracker, ctx.step))
    with run.log, tracked as tracker, Progress(ctx.config.name, total, start=ctx.step) as progress:
        if ctx.step == 0:
            run.last = evaluate(run, held_out)
        while ctx.step < total:
            began = time.perf_counter()
            metrics = iterate(run, total)
            run.log.time(ctx.step, {"seconds": time.perf_counter() - began})
            if ctx.step % plan.log_every == 0 or ctx.step == total:
                run.log.write(ctx.step, "train", metrics)
            progress.update(ctx.step, metrics)
            if ctx.step % eval_every == 0 or ctx.step == total:
                run.last = evaluate(run, held_out)
                metrics = metrics | run.last
            if tracker is not None:
                tracker.log(ctx.step, metrics)
            if ctx.step % save_every == 0 or ctx.step == total:
                save_checkpoint(run.folder / "checkpoints", ctx.step, run.state(), plan.keep_last)
    return run.last


def iterate(run: Run, total: int) -> Metrics:
    """One iteration: draw, prepare, learn, tell the sampler."""
    ctx = run.ctx
    drawn = run.cursor.draw(ctx.config.train.batch_size)
    for name, optimizer in run.optimizers.items():
        rate = learning_rate(run.optims[name], ctx.step, total)
        for group in optimizer.param_groups:
            group["lr"] = rate
    with torch.no_grad():
        batch, prepared = run.algorithm.prepare(ctx, drawn)
        mix = run.algorithm.mix
        if mix is not None and "mix" in ctx.cursors:
            batch = batch.replace(mix=ctx.batch(ctx.cursors["mix"].draw(mix.size(ctx.config))))
    metrics = {name: float(value) for name, value in prepared.items()}
    metrics |= learn(run, batch)
    metrics["optim/lr"] = learning_rate(next(iter(run.optims.values())), ctx.step, total)
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise InputError(
                f"stage '{ctx.config.name}', step {ctx.step + 1}: {name} is {value}; the newest checkpoint is whole"
            )
    ctx.step += 1
    if ctx.sampler is not None:
        ctx.sampler.policy_version = ctx.step
    return metrics


def learn(run: Run, batch: RolloutBatch) -> Metrics:
    """Mini-epochs over mini-batches; the mean of each metric over the optimiser steps taken."""
    plan = run.ctx.config.train
    size = plan.mini_batch_size or len(batch.groups)
    taken: list[Metrics] = []
    for epoch in range(plan.mini_epochs):
        order = list(range(len(batch.groups)))
        if size < len(order):
            random.Random(f"{run.ctx.seed}/{run.ctx.step}/{epoch}").shuffle(order)
        portions = math.ceil(len(order) / size)
        for i in range(portions):
            portion = batch.take(order[i * size : (i + 1) * size])
            taken.append(step(run, portion.replace(mix=share(batch.mix, i, portions))))
            if run.algorithm.enough(run.ctx, taken[-1]):
                break
        else:
            continue
        break
    values = {name: [m[name] for m in taken if name in m] for name in dict.fromkeys(n for m in taken for n in m)}
    return {name: sum(own) / len(own) for name, own in values.items()} | {"optim/steps": float(len(taken))}


def share(batch: RolloutBatch | None, i: int, portions: int) -> RolloutBatch | None:
    """The i-th of equal portions of other data, one for each optimiser step of a mini-epoch; None where it is empty."""
    if batch is None:
        return None
    count = len(batch.groups)
    members = range(i * count // portions, (i + 1) * count // portions)
    return batch.take(members) if members else None


def step(run: Run, batch: RolloutBatch) -> Metrics:
    """One optimiser step over `batch`, in as many micro-batches as its tokens need. Out of memory halves the budget."""
    ctx = run.ctx
    losses = [(batch, run.algorithm.loss)]
    if batch.mix is not None and run.algorithm.mix is not None:
        losses.append((batch.mix, run.algorithm.mix.loss))
    layout = next(iter(ctx.roles.values())).layout
    for name in run.optimizers:
        ctx.roles[name].train(True)
    while True:
        metrics: Metrics = {}
        for optimizer in run.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        try:
            for whole, loss_of in losses:
                whole = whole.replace(total=Totals(int(whole.lengths.sum()), len(whole.lengths), len(whole.groups)))
                for members in micro_batches(whole.groups, ctx.token_budget, layout):
                    loss, shares = loss_of(ctx, whole.take(members))
                    loss.backward()  # type: ignore[no-untyped-call]
                    for name, value in shares.items():
                        metrics[name] = metrics.get(name, 0.0) + value.detach()
            break
        except RuntimeError as error:
            ctx.halve_budget(error)
            run.log.write(ctx.step, "note", {"text": f"out of memory: token budget halved to {ctx.token_budget}"})
    for name, optimizer in run.optimizers.items():
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        metrics[f"optim/grad_norm/{name}"] = torch.nn.utils.clip_grad_norm_(parameters, run.optims[name].max_grad_norm)
        optimizer.step()
        ctx.roles[name].train(False)
    return {name: float(value) for name, value in metrics.items()}


def evaluate(run: Run, held_out: Sequence[Group]) -> Metrics:
    """Held-out metrics, logged; remembers the best weights when the recipe keeps them."""
    if not held_out:
        return {}
    ctx = run.ctx
    if ctx.scorer is not None:
        metrics, samples = evaluate_policy(ctx, held_out)
        run.log.write(ctx.step, "samples", {"rows": samples})
    else:
        metrics = evaluate_loss(run.algorithm, ctx, held_out)
    run.log.write(ctx.step, "eval", metrics)
    if ctx.config.train.keep == "best":
        keep_best(run, metrics)
    return metrics


def keep_best(run: Run, metrics: Metrics) -> None:
    """Writes `best.pt` where the held-out metric the algorithm is judged by has never been better."""
    name = run.algorithm.select
    score = -float(metrics[name[1:]]) if name.startswith("-") else float(metrics[name])
    if math.isfinite(score) and (not run.best or score > run.best[0]):
        run.best = [score, float(run.ctx.step)]
        write_tensors(run.folder / "best.pt", next(iter(run.ctx.roles.values())).state_dict())
