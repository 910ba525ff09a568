"""Process reward model: a score at the end of every step, fitted to which steps are right (Lightman et al. 2023).

    L = −log σ(s_t) where the step that ends at token t is right, −log σ(−s_t) where it is wrong

A response is marked only at the last token of each step, so the flat axis of its batch is the axis of steps, and one
forward reads every step of a chain. Steps after the first wrong one may be left unmarked, as the paper does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from tether.config import TrainSection
from tether.math.aggregate import aggregate
from tether.math.preference_losses import step_loss
from tether.types import Algorithm, Group, Metrics, RoleSpec, RolloutBatch


class Config(TrainSection):
    """Process reward modelling on step labels."""

    aggregate: Literal["token", "sequence"] = "token"
    """Mean over all steps (`token`: a step has one), or over responses (each response's own mean first)."""
    dropout: bool = False
    """Leave the model's own dropout on while training."""


def roles(config: Config) -> dict[str, RoleSpec]:
    return {"reward": RoleSpec("reward", config.model, optim=config.optim, dropout=config.dropout)}


def prepare(ctx: Any, groups: Sequence[Group]) -> tuple[RolloutBatch, Metrics]:
    return ctx.batch(groups), {}


def loss(ctx: Any, batch: RolloutBatch) -> tuple[Tensor, Metrics]:
    scores = ctx.forward("reward", batch, ("steps",)).steps  # (N,)
    right = scores.new_tensor([label for group in batch.groups for label in group.labels["steps"]])
    objective = aggregate(step_loss(scores, right), batch.lengths, batch.total, ctx.config.aggregate)
    found = ((scores.detach() > 0) == (right > 0.5)).float()
    metrics = {
        "prm/loss": objective.detach(),
        "prm/accuracy": found.sum() / batch.total.tokens,
        "prm/right": right.sum() / batch.total.tokens,
        "prm/score": scores.detach().sigmoid().sum() / batch.total.tokens,
    }
    return objective, metrics


PROCESS_REWARD = Algorithm("process_reward", Config, roles, "steps", prepare, loss)
