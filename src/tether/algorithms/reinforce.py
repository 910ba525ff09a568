"""REINFORCE: the policy gradient itself (Williams 1992), with a choice of baseline and no value model.

An iteration: sample responses; score them; subtract β·KL from each token's reward (or add it to the loss); what a
token is credited with, less a baseline, is its advantage. The baselines:

    none            0
    moving_mean     an exponential mean of earlier returns
    leave_one_out   the mean return of the prompt's other responses (RLOO, Ahmadian et al. 2024)
    greedy          the score of the greedy answer to the prompt (ReMax, Li et al. 2023)
    batch_norm      advantages to mean 0 and variance 1 over the batch's tokens (REINFORCE++, Hu 2025)

All but the last leave the gradient unbiased (a moving mean from its second iteration on). Left out: ratios of whole
responses, which are GSPO's in `grpo`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator
from torch import Tensor

from tether.config import PolicySection
from tether.math.advantages import leave_one_out, moving_mean, shape_rewards
from tether.math.kl import KL_ESTIMATORS
from tether.math.policy_losses import Clip, Surrogate, policy_objective
from tether.math.scores import end_rule, overlong
from tether.math.segments import expand, reverse_scan, segment_sum, whiten
from tether.types import Algorithm, Group, Metrics, RoleSpec, RolloutBatch


class Config(PolicySection):
    """REINFORCE against a reward model or a reward function."""

    num_responses: int = Field(default=4, ge=1)
    """Responses sampled for each prompt; `leave_one_out` compares them with each other."""
    baseline: Literal["none", "moving_mean", "leave_one_out", "greedy", "batch_norm"] = "leave_one_out"
    """What a response's return is measured against."""
    baseline_decay: float = Field(default=0.95, ge=0, lt=1)
    """How much of a moving mean stays from one iteration to the next."""
    credit: Literal["response", "token"] = "response"
    """What a token is credited with: the return of its response, or the rewards from the token on. They differ by the
    KL that tokens before it have cost."""
    loss: Literal["reinforce", "ppo"] = "reinforce"
    """The plain gradient, for one step on each sample; or PPO's clipped ratios, which allow several."""
    clip: float = Field(default=0.2, gt=0)
    """How far the ratio of `ppo` may be from 1."""
    aggregation: Literal["constant", "token", "sequence"] = "constant"
    """Sums of tokens over the longest response allowed (the unbiased gradient, up to that factor), a mean over tokens,
    or one over responses, each response's own mean first."""

    @model_validator(mode="after")
    def _possible(self) -> Config:
        if self.baseline == "leave_one_out" and self.num_responses < 2:
            raise ValueError(
                "baseline = 'leave_one_out' compares a prompt's responses: num_responses must be 2 or more"
            )
        if self.baseline == "greedy" and self.normalise != "none":
            raise ValueError("baseline = 'greedy' compares scores as they are: normalise must be 'none'")
        several = self.train.mini_epochs > 1 or (self.train.mini_batch_size or 1 << 62) < self.train.batch_size
        if self.loss == "reinforce" and several:
            raise ValueError(
                "train.mini_epochs and train.mini_batch_size ask for several steps on one batch, and "
                "loss = 'reinforce' is right for the first alone; valid with them: loss = 'ppo'"
            )
        return self


def roles(config: Config) -> dict[str, RoleSpec]:
    tether = RoleSpec("policy", config.reference or config.model)
    return {"policy": RoleSpec("policy", config.model, optim=config.optim), "reference": tether}


def prepare(ctx: Any, groups: Sequence[Group]) -> tuple[RolloutBatch, Metrics]:
    config = ctx.config
    batch, metrics = ctx.collect(groups, config.num_responses)
    kl = KL_ESTIMATORS[config.kl.estimator](batch.logprobs, batch.ref_logprobs) if config.kl.use == "shaping" else None
    token_rewards = shape_rewards(batch.rewards, kl, ctx.state["beta"], batch.lengths)
    totals = segment_sum(token_rewards, batch.lengths)
    to_go = reverse_scan(token_rewards, 1.0, batch.lengths)
    returns = to_go if config.credit == "token" else expand(totals, batch.lengths)
    advantages = BASELINES[config.baseline](ctx, batch, returns, totals)
    return batch.replace(advantages=advantages), metrics | {"reward/shaped": totals.mean()}


def no_baseline(ctx: Any, batch: RolloutBatch, returns: Tensor, totals: Tensor) -> Tensor:
    return returns


def past_mean(ctx: Any, batch: RolloutBatch, returns: Tensor, totals: Tensor) -> Tensor:
    baseline, ctx.state["baseline"] = moving_mean(totals, ctx.state.get("baseline"), ctx.config.baseline_decay)
    return returns - baseline


def others_mean(ctx: Any, batch: RolloutBatch, returns: Tensor, totals: Tensor) -> Tensor:
    return returns - expand(leave_one_out(totals, batch.group_of), batch.lengths)


def greedy_score(ctx: Any, batch: RolloutBatch, returns: Tensor, totals: Tensor) -> Tensor:
    config = ctx.config
    best = ctx.batch(ctx.sampler.generate([g.prompt for g in batch.groups], 1, seed=ctx.seed, greedy=True))
    ended = best.lengths.new_tensor([g.responses[0].ended for g in best.groups]).bool()
    scores = end_rule(ctx.score(best.groups), ended, config.missing_end, config.missing_end_value)
    late = overlong(best.lengths, config.sampling.max_new_tokens, config.overlong_buffer, config.overlong_penalty)
    return returns - expand((scores + late)[batch.group_of], batch.lengths)


def batch_mean(ctx: Any, batch: RolloutBatch, returns: Tensor, totals: Tensor) -> Tensor:
    return whiten(returns)


BASELINES: dict[str, Callable[[Any, RolloutBatch, Tensor, Tensor], Tensor]] = {
    "none": no_baseline,
    "moving_mean": past_mean,
    "leave_one_out": others_mean,
    "greedy": greedy_score,
    "batch_norm": batch_mean,
}
"""Name → (context, batch, what each token is credited with (N,), returns of the responses (S,)) → advantages (N,)."""


def loss(ctx: Any, batch: RolloutBatch) -> tuple[Tensor, Metrics]:
    config, beta = ctx.config, ctx.state["beta"]
    tether = config.kl.estimator if config.kl.use == "loss" else None
    clip, longest = Clip(config.clip, config.clip), config.sampling.max_new_tokens
    out = ctx.forward("policy", batch, ("logprobs", "entropy"))
    surrogate = Surrogate(config.loss, clip, config.aggregation, longest, tether, beta)
    return policy_objective(out.logprobs, out.entropy, batch, surrogate)


REINFORCE = Algorithm("reinforce", Config, roles, "prompts", prepare, loss, select="eval/gold")
