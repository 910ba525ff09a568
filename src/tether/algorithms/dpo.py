"""DPO and its family: the policy itself as the reward model of a comparison (Rafailov et al. 2023).

A response's reward is β·log π/π_ref, and a loss of `math.direct_losses` is fitted to pairs of them; all responses of a
group share a forward. A ranking counts as all its pairs, their mean first, so that every prompt weighs the same. The
reference's log-probs of the data are computed once and cached; SimPO and CPO have no reference and load none.
Both rewards may fall while their margin grows: the loss sees only the margin. `sft_coef` holds the chosen one up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, model_validator
from torch import Tensor

from tether.config import TrainSection
from tether.math.direct_losses import DIRECT_LOSSES, DirectLoss, pair_metrics
from tether.math.preference_losses import all_pairs
from tether.math.segments import segment_mean, segment_sum
from tether.types import Algorithm, Group, Metrics, RoleSpec, RolloutBatch


class Config(TrainSection):
    """Direct preference optimisation on comparisons."""

    loss: Literal["sigmoid", "ipo", "hinge", "robust", "simpo", "cpo"] = "sigmoid"
    """`sigmoid` is DPO, `hinge` SLiC; `simpo` and `cpo` need no reference. The fields below that are not given are as
    the loss's authors have them."""
    reference: str | None = None
    """What log-ratios are to; `model` when not given."""
    beta: float | None = Field(default=None, gt=0)
    """Weight of the tether: rewards are β·log-ratio. 0.1 when not given; 2 for `simpo`."""
    beta_end: float | None = Field(default=None, gt=0)
    """Where β goes linearly over `train.steps` iterations; it is constant when not given."""
    gamma: float | None = Field(default=None, ge=0)
    """By how much the reward of the chosen response of every pair is to be ahead. 0 when not given; 1 for `simpo`."""
    margin: Literal["none", "label"] = "none"
    """`label` asks rewards to differ by the pair's own `margin` too (Amini et al. 2024)."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Share ε of labels taken to be flipped: mixed in (conservative DPO), or allowed for exactly by `robust`."""
    length_normalised: bool | None = None
    """A response's log-ratio is the mean over its tokens, not their sum. Only for `ipo` and `simpo` when not given."""
    sft_coef: float | None = Field(default=None, ge=0)
    """Weight of −log π a token of the chosen responses beside the loss. 0 when not given; 1 for `cpo`."""

    @model_validator(mode="after")
    def _loss_uses_what_is_given(self) -> Config:
        if self.loss == "robust" and not self.label_smoothing:
            raise ValueError("loss = 'robust' is 'sigmoid' without label_smoothing; give the share of flipped labels")
        if self.reference is not None and not DIRECT_LOSSES[self.loss].reference:
            raise ValueError(f"loss = '{self.loss}' uses no reference; leave `reference` out")
        if self.beta_end is not None and self.train.steps is None:
            raise ValueError("beta_end is reached after train.steps iterations; give train.steps")
        return self

    @property
    def filled(self) -> DirectLoss:
        """The loss's row, with what the recipe sets instead of its authors' values."""
        row = DIRECT_LOSSES[self.loss]
        given = {name: getattr(self, name) for name in ("beta", "gamma", "length_normalised", "sft_coef")}
        return row._replace(**{name: value for name, value in given.items() if value is not None})


def roles(config: Config) -> dict[str, RoleSpec]:
    found = {"policy": RoleSpec("policy", config.model, optim=config.optim)}
    if config.filled.reference:
        found["reference"] = RoleSpec("policy", config.reference or config.model)
    return found


def beta_now(ctx: Any) -> float:
    """β of this iteration."""
    first, last = ctx.config.filled.beta, ctx.config.beta_end
    if last is None:
        return float(first)
    return float(first + (last - first) * min(1.0, ctx.step / max(1, ctx.config.train.steps - 1)))


def prepare(ctx: Any, groups: Sequence[Group]) -> tuple[RolloutBatch, Metrics]:
    batch = ctx.batch(groups)
    if ctx.config.filled.reference:
        batch = batch.replace(ref_logprobs=ctx.reference(groups))
    return batch, {"dpo/beta": beta_now(ctx)}


def loss(ctx: Any, batch: RolloutBatch) -> tuple[Tensor, Metrics]:
    config, beta = ctx.config, beta_now(ctx)
    row = config.filled
    logprobs = ctx.forward("policy", batch, ("logprobs",)).logprobs
    ratios = logprobs - batch.ref_logprobs if row.reference else logprobs
    scores = (segment_mean if row.length_normalised else segment_sum)(ratios, batch.lengths)  # (S,)

    pairs = all_pairs([group.labels["ranking"] for group in batch.groups])
    chosen, rejected = scores[pairs.better], scores[pairs.worse]  # (P,)
    weight = scores.new_tensor(pairs.share) / batch.total.groups
    labels = [batch.groups[i].labels.get("margin", 0.0) if config.margin == "label" else 0.0 for i in pairs.group]
    fit = row.loss(chosen, rejected, beta, row.gamma + scores.new_tensor(labels), config.label_smoothing)
    preference = (weight * fit).sum()
    nll = -(weight * segment_mean(logprobs, batch.lengths)[pairs.better]).sum()

    sums = segment_sum(logprobs.detach(), batch.lengths)
    metrics = {
        "dpo/loss": preference.detach(),
        "dpo/nll": nll.detach(),
        "dpo/chosen_logp": (weight * sums[pairs.better]).sum(),
        "dpo/rejected_logp": (weight * sums[pairs.worse]).sum(),
    }
    metrics |= {f"dpo/{name}": share for name, share in pair_metrics(beta * chosen, beta * rejected, weight).items()}
    return preference + row.sft_coef * nll if row.sft_coef else preference, metrics


DPO = Algorithm("dpo", Config, roles, "preference", prepare, loss, select="eval/accuracy")
