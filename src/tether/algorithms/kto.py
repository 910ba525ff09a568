"""KTO: learning from single responses, each desirable or not (Ethayarajh et al. 2024).

A response's value is how far its log-ratio log π/π_ref is above or below a baseline z, saturating both ways as
people's sense of gain and loss does. z estimates KL(π ‖ π_ref) from mismatched pairs, each prompt of an iteration with
the next response that answers another; no gradient goes through it. It is of the policy an iteration starts with, so
with several optimiser steps an iteration the later ones use a slightly old z. A loss that saturates may give up a
likely undesirable response for many unlikely ones: mark responses that the policy itself would give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tether.config import TrainSection
from tether.math.direct_losses import kto_baseline, kto_loss
from tether.math.segments import segment_sum
from tether.types import Algorithm, Group, Metrics, RoleSpec, RolloutBatch


class Config(TrainSection):
    """Kahneman–Tversky optimisation on desirable and undesirable responses."""

    reference: str | None = None
    """What log-ratios are to; `model` when not given."""
    beta: float = Field(default=0.1, gt=0)
    """Weight of the tether, and how soon gains and losses saturate."""
    desirable_weight: float = Field(default=1.0, gt=0)
    """λ_D. With n_D desirable and n_U undesirable examples λ_D·n_D / (λ_U·n_U) should be 1 to 1.33 (eq. 9)."""
    undesirable_weight: float = Field(default=1.0, gt=0)
    """λ_U."""

    @model_validator(mode="after")
    def _something_to_mismatch(self) -> Config:
        if self.train.batch_size < 2:
            raise ValueError("the baseline pairs prompts with others' responses: train.batch_size must be 2 or more")
        return self


def roles(config: Config) -> dict[str, RoleSpec]:
    return {
        "policy": RoleSpec("policy", config.model, optim=config.optim),
        "reference": RoleSpec("policy", config.reference or config.model),
    }


def prepare(ctx: Any, groups: Sequence[Group]) -> tuple[RolloutBatch, Metrics]:
    z = 0.0
    if others := mismatched(groups, ctx.roles["policy"].max_tokens):
        policy, reference = (ctx.infer(role, others, ("logprobs",)).logprobs for role in ("policy", "reference"))
        z = kto_baseline(segment_sum(policy - reference, ctx.batch(others).lengths))
    desirable = [bool(group.labels["desirable"]) for group in groups]
    ctx.state |= {"baseline": z, "desirable": sum(desirable) / len(desirable)}
    batch = ctx.batch(groups).replace(ref_logprobs=ctx.reference(groups))
    return batch, {"kto/baseline": z, "kto/desirable": ctx.state["desirable"]}


def mismatched(groups: Sequence[Group], max_tokens: int) -> list[Group]:
    """Each prompt with the next response that answers another, cut to the context; none if all prompts are alike."""
    found = []
    for i, group in enumerate(groups):
        after = (groups[(i + j) % len(groups)] for j in range(1, len(groups)))
        other = next((g for g in after if g.prompt.token_ids != group.prompt.token_ids), None)
        if other is not None:
            room, response = max_tokens - len(group.prompt.token_ids), other.responses[0]
            marks = response.trained and response.trained[:room]
            cut = replace(response, token_ids=response.token_ids[:room], trained=marks)
            found.append(Group(group.prompt, (cut,)))
    return found


def loss(ctx: Any, batch: RolloutBatch) -> tuple[Tensor, Metrics]:
    config, z, count = ctx.config, ctx.state["baseline"], batch.total.sequences
    logprobs = ctx.forward("policy", batch, ("logprobs",)).logprobs
    log_ratios = segment_sum(logprobs - batch.ref_logprobs, batch.lengths)
    good = batch.lengths.new_tensor([group.labels["desirable"] for group in batch.groups]).bool()
    weights = (config.desirable_weight, config.undesirable_weight)
    objective = kto_loss(log_ratios, good, z, config.beta, *weights).sum() / count

    rewards = config.beta * log_ratios.detach()
    ahead = rewards - config.beta * z
    right = torch.where(ahead == 0, 0.5, ((ahead > 0) == good).float())
    metrics = {"kto/loss": objective.detach(), "kto/accuracy": right.sum() / count}
    share = ctx.state["desirable"]
    for name, members, part in (("desirable", good, share), ("undesirable", ~good, 1 - share)):
        if part:
            metrics[f"kto/{name}_reward"] = rewards[members].sum() / (part * count)
    return objective, metrics


KTO = Algorithm("kto", Config, roles, "unpaired", prepare, loss, select="eval/accuracy")
