"""Prompts → sampled and scored groups, with all that every policy algorithm wants to know of them.

Sample; score, each reward apart; bring the scores to one scale; apply the rules for how a response ends; log-probs of
the sampler and of the reference; the KL and its coefficient. What is made of it is the algorithm's affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tether.math.kl import adapt_beta
from tether.math.scores import combine, end_rule, overlong
from tether.math.segments import segment_sum
from tether.types import Group, Metrics, RolloutBatch


def collect(ctx: Any, groups: Sequence[Group], k: int, dense: bool = False) -> tuple[RolloutBatch, Metrics]:
    """K responses of the current policy to each prompt: a batch with `logprobs` (N,), `rewards` (S,) and, where there
    is a reference, `ref_logprobs` (N,); and metrics. With `dense`, a reward that can pays its score step by step: into
    `token_rewards` (N,) instead of `rewards`.

    `ctx` is a training run's context, its section a `PolicySection`. With a reference, `ctx.state["beta"]` is this
    iteration's KL coefficient; an adaptive controller's next one waits beside it, because `loss` reads this one.
    """
    config = ctx.config
    batch = ctx.batch(ctx.generate(groups, k))
    responses = [r for g in batch.groups for r in g.responses]
    scored, weights = ctx.score_parts(batch.groups)
    proxy, parts = scored.total, scored.parts
    ended = torch.tensor([r.ended for r in responses], device=proxy.device)
    paid = scored.dense if dense else {}
    if paid:
        batch = batch.replace(token_rewards=torch.stack([weights[name] * own for name, own in paid.items()]).sum(0))
    at_end = [name for name in parts if name not in paid]
    rewards = torch.zeros_like(proxy)
    if at_end:
        scores, factors = [parts[name] for name in at_end], [weights[name] for name in at_end]
        rewards = combine(scores, factors, batch.group_of, config.normalise)
    rewards = end_rule(rewards, ended, config.missing_end, config.missing_end_value)
    rewards = rewards + overlong(
        batch.lengths, config.sampling.max_new_tokens, config.overlong_buffer, config.overlong_penalty
    )
    logprobs = batch.lengths.new_tensor([p for r in responses for p in r.logprobs], dtype=torch.float32)
    batch = batch.replace(logprobs=logprobs, rewards=rewards)
    metrics: Metrics = {"reward/proxy": proxy.mean(), "reward/std": proxy.std(unbiased=False)}
    if "reference" in ctx.roles:
        batch = batch.replace(ref_logprobs=ctx.infer("reference", batch.groups, ("logprobs",)).logprobs)
        metrics |= _steer(ctx, batch)
    metrics |= {"rollout/length": batch.lengths.float().mean(), "rollout/ended": ended.float().mean()}
    if len(parts) > 1:
        metrics |= {f"reward/part/{name}": part.mean() for name, part in parts.items()}
    metrics |= {f"reward/disagreement/{name}": apart.mean() for name, apart in scored.disagreement.items()}
    return batch, metrics


def _steer(ctx: Any, batch: RolloutBatch) -> Metrics:
    """The KL of this iteration's responses, and the coefficients of this one and the next."""
    kl_config = ctx.config.kl
    kl = segment_sum(batch.logprobs - batch.ref_logprobs, batch.lengths).mean().item()
    beta = ctx.state["beta"] = ctx.state.get("next_beta", kl_config.beta)
    if kl_config.controller == "adaptive":
        ctx.state["next_beta"] = adapt_beta(beta, kl, kl_config.target, len(batch.lengths), kl_config.horizon)
    return {"kl/ref": kl, "kl/beta": beta}
