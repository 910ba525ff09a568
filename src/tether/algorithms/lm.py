"""Plain language modelling: −log p of every token of running text. It makes the base model; it is not feedback.

Left out: document masking within a block (documents share a block, each ended by the end-of-turn token).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from tether.config import TrainSection
from tether.math.aggregate import aggregate
from tether.types import Algorithm, Group, Metrics, RoleSpec, RolloutBatch


class Config(TrainSection):
    """Language-model training on blocks of text."""


def roles(config: Config) -> dict[str, RoleSpec]:
    return {"policy": RoleSpec("policy", config.model, optim=config.optim)}


def prepare(ctx: Any, groups: Sequence[Group]) -> tuple[RolloutBatch, Metrics]:
    return ctx.batch(groups), {}


def loss(ctx: Any, batch: RolloutBatch) -> tuple[Tensor, Metrics]:
    nll = aggregate(-ctx.forward("policy", batch, ("logprobs",)).logprobs, batch.lengths, batch.total)
    return nll, {"lm/loss": nll.detach()}


LM = Algorithm("lm", Config, roles, "text", prepare, loss)
