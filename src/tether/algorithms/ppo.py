"""PPO with a learnt reward and a tether to the reference policy (Ziegler et al. 2019; Ouyang et al. 2022).

An iteration: sample responses; score them; subtract β·KL from each token's reward (or add it to the loss); turn rewards
into advantages by GAE over a learnt value function; a few epochs of PPO's clipped step on policy and value.
The value model is its own (from the reward model or the policy) or a second head on the policy's trunk. With `ptx`, the
same steps also learn language modelling on other text (PPO-ptx, Ouyang et al. 2022, eq. 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from pydantic import Field, model_validator
from torch import Tensor

from tether.config import DataConfig, OptimConfig, PolicySection, Section, TrainConfig
from tether.config.policy import FUNCTION
from tether.math.advantages import gae, shape_rewards
from tether.math.aggregate import aggregate
from tether.math.kl import KL_ESTIMATORS
from tether.math.policy_losses import Clip, Surrogate, policy_objective
from tether.math.segments import segment_sum, whiten
from tether.math.value_losses import explained_variance, value_clip_fraction, value_loss
from tether.types import Algorithm, Group, Metrics, Mix, RoleSpec, RolloutBatch


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


class PtxConfig(Section):
    """PPO-ptx: the policy keeps modelling the text it was pretrained on."""

    data: DataConfig
    """Plain text."""
    coef: float = Field(default=27.8, ge=0)
    """Weight γ of its mean negative log-likelihood a token (27.8 in Ouyang et al. 2022)."""
    batch_size: int = Field(default=32, ge=1)
    """Blocks of text of an iteration, shared out among the optimiser steps of each mini-epoch."""


class Config(PolicySection):
    """PPO against a reward model or a reward function."""

    train: TrainConfig = TrainConfig(mini_epochs=4)
    """How long and in what portions."""
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
    target_kl: float | None = Field(default=None, gt=0)
    """Leave an iteration's remaining steps once the policy is this far (mean k3 a token) from the one that sampled."""
    ptx: PtxConfig | None = None
    """The pretraining mix; none when not given."""

    @model_validator(mode="after")
    def _possible(self) -> Config:
        if self.value.model == "reward" and (not isinstance(self.reward, str) or FUNCTION.fullmatch(self.reward)):
            found = f"the function '{self.reward}'" if isinstance(self.reward, str) else f"{len(self.reward)} rewards"
            raise ValueError(
                f"value.model = 'reward' starts from a reward model, but reward names {found}; "
                "valid: 'policy', 'shared', a folder, or stage:NAME"
            )
        return self


def roles(config: Config) -> dict[str, RoleSpec]:
    shared = config.value.model == "shared"
    found = {
        "policy": RoleSpec("policy", config.model, optim=config.optim, value_head=shared),
        "reference": RoleSpec("policy", config.reference or config.model),
    }
    if not shared:
        start = {"reward": str(config.reward), "policy": config.model}.get(config.value.model, config.value.model)
        found["value"] = RoleSpec("value", start, optim=config.value.optim or config.optim)
    return found


def value_role(config: Config) -> str:
    """The role whose trunk the value head sits on."""
    return "policy" if config.value.model == "shared" else "value"


def prepare(ctx: Any, groups: Sequence[Group]) -> tuple[RolloutBatch, Metrics]:
    config = ctx.config
    batch, metrics = ctx.collect(groups, config.num_responses, dense=True)
    values = ctx.infer(value_role(config), batch.groups, ("values",)).values
    kl = KL_ESTIMATORS[config.kl.estimator](batch.logprobs, batch.ref_logprobs) if config.kl.use == "shaping" else None
    token_rewards = shape_rewards(batch.rewards, kl, ctx.state["beta"], batch.lengths)
    if batch.token_rewards is not None:  # a process reward model's, paid where a step ends
        token_rewards = token_rewards + batch.token_rewards
    if config.whiten_rewards:
        token_rewards = whiten(token_rewards, shift_mean=False)
    advantages, returns = gae(token_rewards, values, batch.lengths, config.gamma, config.lam)
    metrics |= {
        "reward/shaped": segment_sum(token_rewards, batch.lengths).mean(),
        "value/explained_variance": explained_variance(values, returns),
    }
    return batch.replace(
        values=values,
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
    kl = config.kl.estimator if config.kl.use == "loss" else None

    policy, metrics = policy_objective(
        out.logprobs, out.entropy, batch, Surrogate("ppo", clip, "token", kl=kl, beta=ctx.state["beta"])
    )
    value = mean(value_loss(values, batch.values, batch.returns, config.value.clip or None))
    objective = policy + config.value.coef * value - config.entropy_coef * mean(out.entropy)
    metrics |= {
        "value/loss": value.detach(),
        "value/clip_frac": mean(value_clip_fraction(values.detach(), batch.values, config.value.clip or None)),
    }
    return objective, metrics


def enough(ctx: Any, metrics: Metrics) -> bool:
    return ctx.config.target_kl is not None and metrics["policy/approx_kl"] > ctx.config.target_kl


def ptx_loss(ctx: Any, batch: RolloutBatch) -> tuple[Tensor, Metrics]:
    # As the text was pretrained on: at temperature 1, whatever the policy is sampled at.
    logprobs = ctx.forward("policy", batch, ("logprobs",), temperature=1.0).logprobs
    nll = aggregate(-logprobs, batch.lengths, batch.total)
    return ctx.config.ptx.coef * nll, {"policy/ptx_loss": nll.detach()}


PTX = Mix(lambda c: c.ptx and c.ptx.data, "ptx.data", "text", lambda c: int(c.ptx.batch_size), ptx_loss)
PPO = Algorithm("ppo", Config, roles, "prompts", prepare, loss, enough, select="eval/gold", mix=PTX)
