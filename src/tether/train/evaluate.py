"""Held-out evaluation during training: the same examples, or the same prompts with the same seed, every time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from tether.evals.diversity import distinct_n
from tether.math.segments import segment_sum
from tether.models.plan import micro_batches
from tether.train.context import Context
from tether.types import Algorithm, Group, Metrics

EVAL_SEED = 7_919
"""Added to the stage's seed: held-out answers share no draw with training's."""


def evaluate_loss(algorithm: Algorithm, ctx: Context, groups: Sequence[Group]) -> Metrics:
    """The algorithm's own loss metrics on held-out `groups`, as `eval/…`. Out of memory halves the budget."""
    role = next(iter(ctx.roles.values()))
    while True:
        metrics: Metrics = {}
        try:
            with torch.no_grad():
                # As of iteration 0: what an algorithm samples to prepare has the same seed every time.
                batch, _ = algorithm.prepare(replace(ctx, step=0), groups)
                for members in micro_batches(batch.groups, ctx.token_budget, role.layout):
                    for name, share in algorithm.loss(ctx, batch.take(members))[1].items():
                        key = "eval/" + name.split("/", 1)[1]
                        metrics[key] = metrics.get(key, 0.0) + float(share)
            return metrics
        except RuntimeError as error:
            ctx.halve_budget(error)


def evaluate_policy(ctx: Context, groups: Sequence[Group]) -> tuple[Metrics, list[dict[str, Any]]]:
    """One answer of the policy to each held-out prompt: metrics, and (prompt, answer, scores) rows to look at."""
    assert ctx.sampler is not None
    answered = ctx.sampler.generate([g.prompt for g in groups], 1, seed=ctx.seed + EVAL_SEED)
    responses = [g.responses[0] for g in answered]
    proxy = ctx.score(answered)
    logprobs = proxy.new_tensor([p for r in responses for p in r.logprobs or ()])
    lengths = torch.tensor([r.num_trained for r in responses], device=proxy.device)
    log_ratio = logprobs - ctx.infer("reference", answered, ("logprobs",)).logprobs
    metrics: Metrics = {
        "eval/proxy": proxy.mean().item(),
        "eval/kl": segment_sum(log_ratio, lengths).mean().item(),
        "eval/length": lengths.float().mean().item(),
        "eval/ended": sum(r.ended for r in responses) / len(responses),
        "eval/distinct_2": distinct_n([r.text for r in responses], 2),
    }
    columns = {"proxy": proxy.tolist()}
    if ctx.judge is not None:
        gold = ctx.judge(answered)
        metrics["eval/gold"] = gold.mean().item()
        columns["gold"] = gold.tolist()
    samples = [
        {"prompt": g.prompt.text, "answer": r.text, **{name: round(column[i], 4) for name, column in columns.items()}}
        for i, (g, r) in enumerate(zip(answered, responses, strict=True))
    ]
    return metrics, samples
