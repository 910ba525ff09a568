"""Online DPO: comparisons of the policy's own fresh samples, judged by the reward (Guo et al. 2024).

An iteration: sample K responses to each prompt; score them; the best and the worst make a pair, and a loss of DPO's
family is fitted to the pairs. A prompt whose responses all score the same gives none. β is `kl.beta`, and may be
adaptive. Left out: the pairs that the other responses make.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, model_validator
from torch import Tensor

from tether.config import KLConfig, PolicySection
from tether.math.direct_losses import DIRECT_LOSSES, pair_metrics
from tether.math.preference_losses import all_pairs
from tether.math.segments import segment_mean, segment_sum
from tether.types import Algorithm, Group, Metrics, RoleSpec, RolloutBatch


class Config(PolicySection):
    """DPO on fresh samples, ranked by a reward model or a reward function."""

    num_responses: int = Field(default=2, ge=2)
    """Responses sampled for each prompt; the best and the worst of them are learnt from."""
    loss: Literal["sigmoid", "ipo", "hinge"] = "sigmoid"
    """As of `dpo`."""
    kl: KLConfig = KLConfig(beta=0.1)
    """`beta`, its controller and `start`; the loss itself is the tether, so `use` and `estimator` have no part here."""

    @model_validator(mode="after")
    def _tether_is_the_loss(self) -> Config:
        if (self.kl.use, self.kl.estimator) != ("shaping", "k1"):
            raise ValueError("kl.use and kl.estimator have no part here, where the loss is the tether: leave them out")
        if not self.kl.beta:
            raise ValueError("kl.beta must be above 0: it is the β of DPO's loss")
        return self


def roles(config: Config) -> dict[str, RoleSpec]:
    start = config.reference or config.model
    return {"policy": RoleSpec("policy", config.model, optim=config.optim), "reference": RoleSpec("policy", start)}


def prepare(ctx: Any, groups: Sequence[Group]) -> tuple[RolloutBatch, Metrics]:
    batch, metrics = ctx.collect(groups, ctx.config.num_responses)
    scores = batch.rewards.view(len(batch.groups), -1)  # (G, K)
    best, worst = scores.argmax(1).tolist(), scores.argmin(1).tolist()
    tied = scores.amax(1) == scores.amin(1)
    pairs = []
    for group, *places, tie in zip(batch.groups, best, worst, tied.tolist(), strict=True):
        ranking = (0, 0) if tie else (0, 1)
        pairs.append(Group(group.prompt, tuple(group.responses[i] for i in places), {"ranking": ranking}))
    # With every response a group of its own, `take` is a choice of responses.
    alone = batch.replace(groups=tuple(Group(g.prompt, (r,)) for g in batch.groups for r in g.responses))
    kept = alone.take([g * scores.shape[1] + i for g, pair in enumerate(zip(best, worst, strict=True)) for i in pair])
    return ctx.batch(pairs).replace(ref_logprobs=kept.ref_logprobs), metrics | {"dpo/tied": tied.float().mean()}


def loss(ctx: Any, batch: RolloutBatch) -> tuple[Tensor, Metrics]:
    row, beta = DIRECT_LOSSES[ctx.config.loss], ctx.state["beta"]
    log_ratios = ctx.forward("policy", batch, ("logprobs",)).logprobs - batch.ref_logprobs
    scores = (segment_mean if row.length_normalised else segment_sum)(log_ratios, batch.lengths)
    pairs = all_pairs([group.labels["ranking"] for group in batch.groups])
    won, lost = scores[pairs.better], scores[pairs.worse]
    share = scores.new_full((len(pairs.better),), 1 / batch.total.groups)
    objective = (share * row.loss(won, lost, beta, 0.0, 0.0)).sum()
    about = {f"dpo/{name}": value for name, value in pair_metrics(beta * won, beta * lost, share).items()}
    return objective, {"dpo/loss": objective.detach(), **about}


ONLINE_DPO = Algorithm("online_dpo", Config, roles, "prompts", prepare, loss, select="eval/gold")
