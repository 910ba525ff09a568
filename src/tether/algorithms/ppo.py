"""PPO with a learnt reward and a tether to the reference policy (Ziegler et al. 2019; Ouyang et al. 2022).

An iteration: sample responses; score them; subtract β·KL from each token's reward (or add it to the loss); turn rewards
into advantages by GAE over a learnt value function; a few epochs of PPO's clipped step on policy and value.
The value model is its own (from the reward model or the policy) or a second head on the policy's trunk.
Left out: the pretraining mix (PPO-ptx).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tether.config import OptimConfig, SamplingConfig, Section, TrainConfig, TrainSection
from tether.math.advantages import gae, shape_rewards
from tether.math.aggregate import aggregate
from tether.math.kl import KL_ESTIMATORS, adapt_beta
from tether.math.policy_losses import Clip, clip_fraction, clipped_policy_loss
from tether.math.segments import segment_sum, whiten
from tether.math.value_losses import explained_variance, value_clip_fraction, value_loss
from tether.types import Algorithm, Group, Metrics, RoleSpec, RolloutBatch

FUNCTION = re.compile(r"(?!stage:)[\w.]+:[\w.]+")
"""`module:function`, and not another stage."""


class KLConfig(Section):
    """The tether: how far from the reference costs how much."""

    use: Literal["shaping", "loss"] = "shaping"
    """`shaping` subtracts β·KL from each token's reward; `loss` adds β·KL to the objective and differentiates it."""
    estimator: Literal["k1", "k2", "k3"] = "k1"
    """Schulman's estimator of the per-token KL. k1 is unbiased for shaping; as a loss, k2 has the right gradient."""
    beta: float = Field(default=0.05, ge=0)
    """Weight of the KL; the first one when `controller` is `adaptive`."""
    controller: Literal["fixed", "adaptive"] = "fixed"
    """`adaptive` steers β so that the KL per response settles at `target` (Ziegler et al. 2019, section 2.2)."""
    target: float = Field(default=6.0, gt=0)
    """Nats per response the adaptive controller aims at."""
    horizon: int = Field(default=10000, ge=1)
    """Responses over which the adaptive controller closes a full error."""
    start: Literal[0, "any"] = 0
    """0: the run must start with policy and reference equal, and the self-test refuses if they are not."""


class ValueConfig(Section):
    """The value function."""

    model: str | Literal["reward", "policy", "shared"] = "policy"
    """Where it starts: `reward` (the reward model), `policy`, a folder or stage; `shared`: the policy's second head."""
    optim: OptimConfig | None = None
    """Its optimiser; the policy's when not given."""
    coef: float = Field(default=0.5, ge=0)
    """Weight of its loss beside the policy's."""
    clip: float = Field(default=0.2, ge=0)
    """Largest move from the old value that the loss rewards; 0 is no clip."""


class Config(TrainSection):
    """PPO against a reward model or a reward function."""

    reward: str
    """`stage:NAME` or folder of a reward model, or `module:function` with TRL's signature."""
    reference: str | None = None
    """The policy the KL is measured to; `model` when not given."""
    sampling: SamplingConfig = SamplingConfig()
    """How responses are drawn. top_k and top_p must be off."""
    num_responses: int = Field(default=1, ge=1)
    """Responses sampled for each prompt."""
    train: TrainConfig = TrainConfig(mini_epochs=4)
    """How long and in what portions."""
    kl: KLConfig = KLConfig()
    """The tether to the reference."""
    value: ValueConfig = ValueConfig()
    """The value function."""
    clip: float = Field(default=0.2, gt=0)
    """PPO's ε, below."""
    clip_high: float | None = Field(default=None, gt=0)
    """PPO's ε, above; `clip` when not given."""
    gamma: float = Field(default=1.0, gt=0, le=1)
    """Discount a token."""
    lam: float = Field(default=0.95, ge=0, le=1)
    """GAE's λ."""
    entropy_coef: float = Field(default=0.0, ge=0)
    """Weight of the entropy bonus."""
    whiten_advantages: bool = True
    """Advantages of an iteration to mean 0 and variance 1."""
    whiten_rewards: bool = False
    """Shaped rewards to variance 1, their mean kept."""
    missing_end: Literal["none", "penalty", "replace"] = "none"
    """For a response that did not end its turn: nothing, `missing_end_value` subtracted, or it replaces the score."""
    missing_end_value: float = 1.0
    """The penalty or the replacement."""
    target_kl: float | None = Field(default=None, gt=0)
    """Leave an iteration's remaining steps once the policy is this far (mean k3 a token) from the one that sampled."""
    eval_reward: str | None = None
    """What held-out answers are scored by beside the reward: something the policy is not trained on."""

    @model_validator(mode="after")
    def _possible(self) -> Config:
        if self.sampling.top_k or self.sampling.top_p < 1:
            raise ValueError(
                "sampling.top_k and sampling.top_p change the sampled distribution: leave them at 0 and 1 here"
            )
        if self.value.model == "reward" and FUNCTION.fullmatch(self.reward):
            raise ValueError(
                f"value.model = 'reward' starts from a reward model, but reward names the function '{self.reward}'; "
                "valid: 'policy', 'shared', a folder, or stage:NAME"
            )
        if self.train.keep == "best" and self.eval_reward is None:
            raise ValueError(
                "train.keep = 'best' needs eval_reward: the best checkpoint is never chosen by the training reward"
            )
        return self


def roles(config: Config) -> dict[str, RoleSpec]:
    shared = config.value.model == "shared"
    found = {
        "policy": RoleSpec("policy", config.model, optim=config.optim, value_head=shared),
        "reference": RoleSpec("policy", config.reference or config.model),
    }
    if not shared:
        start = {"reward": config.reward, "policy": config.model}.get(config.value.model, config.value.model)
        found["value"] = RoleSpec("value", start, optim=config.value.optim or config.optim)
    return found


def value_role(config: Config) -> str:
    """The role whose trunk the value head sits on."""
    return "policy" if config.value.model == "shared" else "value"


def end_rule(config: Config, scores: Tensor, ended: Tensor) -> Tensor:
    """Scores (S,) after the rule for responses that did not end their turn; `ended` (S,) bool."""
    if config.missing_end == "none":
        return scores
    changed = scores - config.missing_end_value if config.missing_end == "penalty" else config.missing_end_value
    return torch.where(ended, scores, changed)


def prepare(ctx: Any, groups: Sequence[Group]) -> tuple[RolloutBatch, Metrics]:
    config = ctx.config
    batch = ctx.batch(ctx.generate(groups, config.num_responses))
    responses = [r for g in batch.groups for r in g.responses]
    proxy = ctx.score(batch.groups)  # (S,)
    ended = torch.tensor([r.ended for r in responses], device=proxy.device)
    scores = end_rule(config, proxy, ended)

    logprobs = batch.lengths.new_tensor([p for r in responses for p in r.logprobs], dtype=torch.float32)
    ref_logprobs = ctx.infer("reference", batch.groups, ("logprobs",)).logprobs
    values = ctx.infer(value_role(config), batch.groups, ("values",)).values
    kl = KL_ESTIMATORS[config.kl.estimator](logprobs, ref_logprobs)
    # `loss` reads this iteration's β too, so the controller's next one waits beside it.
    beta = ctx.state["beta"] = ctx.state.get("next_beta", config.kl.beta)

    token_rewards = shape_rewards(scores, kl if config.kl.use == "shaping" else None, beta, batch.lengths)
    if config.whiten_rewards:
        token_rewards = whiten(token_rewards, shift_mean=False)
    advantages, returns = gae(token_rewards, values, batch.lengths, config.gamma, config.lam)

    kl_per_response = segment_sum(logprobs - ref_logprobs, batch.lengths).mean().item()
    if config.kl.controller == "adaptive":
        count, horizon = len(responses), config.kl.horizon
        ctx.state["next_beta"] = adapt_beta(beta, kl_per_response, config.kl.target, count, horizon)
    metrics = {
        "reward/proxy": proxy.mean(),
        "reward/std": proxy.std(unbiased=False),
        "reward/shaped": segment_sum(token_rewards, batch.lengths).mean(),
        "kl/ref": kl_per_response,
        "kl/beta": beta,
        "rollout/length": batch.lengths.float().mean(),
        "rollout/ended": ended.float().mean(),
        "value/explained_variance": explained_variance(values, returns),
    }
    return batch.replace(
        logprobs=logprobs,
        ref_logprobs=ref_logprobs,
        values=values,
        rewards=scores,
        token_rewards=token_rewards,
        advantages=whiten(advantages) if config.whiten_advantages else advantages,
        returns=returns,
    ), metrics


def loss(ctx: Any, batch: RolloutBatch) -> tuple[Tensor, Metrics]:
    config = ctx.config
    mean = partial(aggregate, lengths=batch.lengths, total=batch.total)
    shared = value_role(config) == "policy"
    out = ctx.forward("policy", batch, ("logprobs", "entropy", "values") if shared else ("logprobs", "entropy"))
    values = out.values if shared else ctx.forward("value", batch, ("values",)).values
    clip = Clip(config.clip, config.clip if config.clip_high is None else config.clip_high)

    policy = mean(clipped_policy_loss(out.logprobs, batch.logprobs, batch.advantages, clip))
    value = mean(value_loss(values, batch.values, batch.returns, config.value.clip or None))
    entropy = mean(out.entropy)
    objective = policy + config.value.coef * value - config.entropy_coef * entropy
    if config.kl.use == "loss":
        estimate = KL_ESTIMATORS[config.kl.estimator](out.logprobs, batch.ref_logprobs)
        objective = objective + ctx.state["beta"] * mean(estimate)

    logprobs = out.logprobs.detach()
    metrics = {
        "policy/loss": policy.detach(),
        "policy/entropy": entropy.detach(),
        "policy/clip_frac": mean(clip_fraction(logprobs, batch.logprobs, batch.advantages, clip)),
        "policy/approx_kl": mean(KL_ESTIMATORS["k3"](batch.logprobs, logprobs)),
        "policy/ratio": mean((logprobs - batch.logprobs).exp()),
        "value/loss": value.detach(),
        "value/clip_frac": mean(value_clip_fraction(values.detach(), batch.values, config.value.clip or None)),
    }
    return objective, metrics


def enough(ctx: Any, metrics: Metrics) -> bool:
    return ctx.config.target_kl is not None and metrics["policy/approx_kl"] > ctx.config.target_kl


PPO = Algorithm("ppo", Config, roles, "prompts", prepare, loss, enough, select="eval/gold")
