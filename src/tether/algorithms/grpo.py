"""GRPO: several answers to a prompt compared with each other, no value model (Shao et al. 2024), and its descendants.

An iteration: sample K responses to each prompt; score them; the advantage of a response is its reward against its
group's mean, over the group's deviation; every token of the response has it. The KL to the reference is a loss (k3), or
subtracted from the rewards. A group's mean holds the response's own reward, so the gradient is (K − 1)/K of the true
one; beside a KL loss, which is whole, that acts as a β larger by K/(K − 1). `variant` names a published set of
settings; any field given beside it wins:

    dr_grpo   no deviation, a constant in place of the lengths (Liu et al. 2025)
    dapo      clip-higher, mean over tokens, no groups without spread, overlong answers punished (Yu et al. 2025)
    gspo      the ratio and the clip are the response's (Zheng et al. 2025)
    cispo     clipped ratios as weights, no token left out (MiniMax-M1 2025; the cap is ScaleRL's, Khatri et al. 2025)

Left out: masking of answers that were cut (see `missing_end`), and dual clipping.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tether.config import KLConfig, PolicySection, SamplingConfig
from tether.math.advantages import group_advantages, shape_rewards, zero_spread
from tether.math.kl import KL_ESTIMATORS
from tether.math.policy_losses import Clip, Surrogate, policy_objective
from tether.math.segments import expand, segment_sum
from tether.types import Algorithm, Group, Metrics, RoleSpec, RolloutBatch


def variants(longest: int) -> dict[str, dict[str, Any]]:
    """Variant → its settings, where `longest` is the most tokens a response may have.

    >>> variants(100)["dapo"]["overlong_buffer"]
    20
    """
    free = {"use": "loss", "estimator": "k3", "beta": 0.0}
    return {
        "grpo": {"kl": free | {"beta": 0.04}},
        "dr_grpo": {"scale": "none", "aggregation": "constant", "kl": free},
        "dapo": {
            "clip_high": 0.28,
            "aggregation": "token",
            "zero_spread": "resample",
            "overlong_buffer": longest // 5,  # the paper's 4,096 of 20,480 tokens
            "kl": free,
        },
        "gspo": {"loss": "gspo", "clip": 3e-4, "clip_high": 4e-4, "kl": free},
        "cispo": {"loss": "cispo", "clip": 1.0, "clip_high": 4.0, "aggregation": "token", "kl": free},
    }


class Config(PolicySection):
    """GRPO against a reward model or a reward function."""

    variant: Literal["grpo", "dr_grpo", "dapo", "gspo", "cispo"] = "grpo"
    """A published set of settings: the defaults of the other fields, `kl` and `overlong_buffer` included."""
    num_responses: int = Field(default=8, ge=2)
    """Responses sampled for each prompt and compared with each other."""
    kl: KLConfig = KLConfig(use="loss", estimator="k3", beta=0.04)
    """The tether to the reference; a loss here unless it says otherwise, and of weight 0 in the other variants."""
    loss: Literal["ppo", "gspo", "cispo"] = "ppo"
    """Clipped ratios of tokens, clipped ratios of responses, or clipped ratios as weights."""
    clip: float = Field(default=0.2, gt=0)
    """How far a ratio may fall below 1; `cispo`, which has no such limit, says 1.0."""
    clip_high: float | None = Field(default=None, gt=0)
    """How far a ratio may rise above 1; `clip` when not given."""
    aggregation: Literal["sequence", "token", "constant"] = "sequence"
    """Every response weighs the same, every token does, or sums of tokens over the longest response allowed."""
    scale: Literal["std", "batch", "none"] = "std"
    """What a reward's distance from its group's mean is divided by: the group's deviation, all rewards', or nothing."""
    zero_spread: Literal["keep", "drop", "resample"] = "keep"
    """Groups whose responses all score the same: learn nothing from them but the KL, leave them out, or also draw other
    prompts in their place. A batch of such groups alone is kept."""
    max_draws: int = Field(default=5, ge=1)
    """How often `resample` draws at most; then the batch is as large as it is."""

    @model_validator(mode="before")
    @classmethod
    def _variant(cls, given: Any) -> Any:
        """The variant's settings under the given ones."""
        if not isinstance(given, dict):
            return given
        sampling = given.get("sampling")
        longest = sampling.get("max_new_tokens") if isinstance(sampling, dict) else None
        longest = longest if isinstance(longest, int) else SamplingConfig().max_new_tokens
        settings = variants(longest).get(str(given.get("variant", "grpo")), {})
        kl = given.get("kl", {})
        return settings | given | ({"kl": settings["kl"] | kl} if settings and isinstance(kl, dict) else {})


def roles(config: Config) -> dict[str, RoleSpec]:
    policy = RoleSpec("policy", config.model, optim=config.optim)
    return {"policy": policy, "reference": RoleSpec("policy", config.reference or config.model)}


def prepare(ctx: Any, groups: Sequence[Group]) -> tuple[RolloutBatch, Metrics]:
    config = ctx.config
    batch, metrics = ctx.collect(groups, config.num_responses)
    if config.zero_spread == "resample":
        batch = refilled(ctx, batch)
    flat = zero_spread(batch.rewards, batch.group_of)
    metrics |= {"reward/zero_spread": flat.float().mean(), "rollout/groups": float(len(flat))}
    if config.zero_spread != "keep" and not flat.all():
        batch = batch.take([g for g, same in enumerate(flat.tolist()) if not same])

    shaping = config.kl.use == "shaping"
    kl = KL_ESTIMATORS[config.kl.estimator](batch.logprobs, batch.ref_logprobs) if shaping else None
    rewards = segment_sum(shape_rewards(batch.rewards, kl, ctx.state["beta"], batch.lengths), batch.lengths)
    metrics["reward/shaped"] = rewards.mean()
    advantages = group_advantages(rewards, batch.group_of, config.scale)
    return batch.replace(advantages=expand(advantages, batch.lengths)), metrics


def refilled(ctx: Any, batch: RolloutBatch) -> RolloutBatch:
    """`batch` and what was drawn in place of its groups without spread (DAPO's dynamic sampling).

    The KL controller keeps to the first draw: one step an iteration, and from the policy's own distribution of prompts.
    """
    state, wanted = dict(ctx.state), len(batch.groups)
    for _ in range(ctx.config.max_draws):
        found = int((~zero_spread(batch.rewards, batch.group_of)).sum())
        # A prompt drawn twice in one iteration would be given the same answers again.
        known = {g.prompt.token_ids for g in batch.groups}
        fresh = [g for g in ctx.draw(wanted - found) if g.prompt.token_ids not in known]
        if fresh:
            batch = joined(ctx, batch, ctx.collect(fresh, ctx.config.num_responses)[0])
    ctx.state.update(state)
    return batch


def joined(ctx: Any, one: RolloutBatch, other: RolloutBatch) -> RolloutBatch:
    """The groups of both, with all that `collect` has found."""
    columns = ("logprobs", "ref_logprobs", "rewards")
    both = {name: torch.cat([getattr(one, name), getattr(other, name)]) for name in columns}
    return ctx.batch([*one.groups, *other.groups]).replace(**both)  # type: ignore[no-any-return]


def loss(ctx: Any, batch: RolloutBatch) -> tuple[Tensor, Metrics]:
    config = ctx.config
    out = ctx.forward("policy", batch, ("logprobs", "entropy"))
    clip = Clip(config.clip, config.clip if config.clip_high is None else config.clip_high)
    kl = config.kl.estimator if config.kl.use == "loss" else None
    surrogate = Surrogate(config.loss, clip, config.aggregation, config.sampling.max_new_tokens, kl, ctx.state["beta"])
    return policy_objective(out.logprobs, out.entropy, batch, surrogate)


GRPO = Algorithm("grpo", Config, roles, "prompts", prepare, loss, select="eval/gold")
