"""ORPO: imitation and preference in one step, without a reference (Hong et al. 2024, eq. 6).

    L = −log π(chosen) a token + λ·(−log σ(log odds(chosen) − log odds(rejected)))

with the odds of a response's mean log-prob. A ranking counts as all its pairs, their mean first. Unlike the authors'
code the first term is over response tokens only, as in sft.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field
from torch import Tensor

from tether.config import TrainSection
from tether.math.direct_losses import orpo_loss, pair_metrics
from tether.math.preference_losses import all_pairs
from tether.math.segments import segment_mean
from tether.types import Algorithm, Group, Metrics, RoleSpec, RolloutBatch


class Config(TrainSection):
    """Odds-ratio preference optimisation on comparisons."""

    odds_coef: float = Field(default=0.1, gt=0)
    """Weight λ of the odds-ratio term."""


def roles(config: Config) -> dict[str, RoleSpec]:
    return {"policy": RoleSpec("policy", config.model, optim=config.optim)}


def prepare(ctx: Any, groups: Sequence[Group]) -> tuple[RolloutBatch, Metrics]:
    return ctx.batch(groups), {}


def loss(ctx: Any, batch: RolloutBatch) -> tuple[Tensor, Metrics]:
    means = segment_mean(ctx.forward("policy", batch, ("logprobs",)).logprobs, batch.lengths)
    pairs = all_pairs([group.labels["ranking"] for group in batch.groups])
    chosen, rejected, weight = means[pairs.better], means[pairs.worse], means.new_tensor(pairs.share)
    weight = weight / batch.total.groups
    nll, odds = -(weight * chosen).sum(), (weight * orpo_loss(chosen, rejected)).sum()
    objective = nll + ctx.config.odds_coef * odds
    about = pair_metrics(chosen, rejected, weight)
    metrics = {
        "orpo/loss": objective.detach(),
        "orpo/nll": nll.detach(),
        "orpo/odds_loss": odds.detach(),
        "orpo/accuracy": about["accuracy"],
        "orpo/margin": about["margin"],
    }
    return objective, metrics


ORPO = Algorithm("orpo", Config, roles, "preference", prepare, loss, select="eval/accuracy")
