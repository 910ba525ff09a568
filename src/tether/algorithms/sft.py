"""SFT: supervised fine-tuning on demonstrations, L = −Σ log π(y_t | x, y_<t) over response tokens only.

Prompt tokens, other speakers' turns and tool output are no part of the loss; the end-of-turn token is.
Sequence packing is `train.layout`, and like every layout it changes no number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, model_validator
from torch import Tensor

from tether.config import TrainSection
from tether.math.aggregate import aggregate
from tether.types import Algorithm, Group, Metrics, RoleSpec, RolloutBatch


class Config(TrainSection):
    """Supervised fine-tuning."""

    aggregate: Literal["token", "sequence"] = "token"
    """Mean over the step's response tokens, or over its responses (each response's own mean first)."""
    neftune_alpha: float = Field(default=0.0, ge=0)
    """NEFTune noise on the embeddings while training (Jain et al. 2023); 0 is none, 5 is the paper's."""

    @model_validator(mode="after")
    def _noise_needs_rows(self) -> Config:
        if self.neftune_alpha and self.train.layout == "varlen":
            raise ValueError(
                "neftune_alpha scales its noise by the length of a row, and under train.layout = 'varlen' that is a "
                "whole micro-batch; valid with it: 'auto', 'rows', 'tree'"
            )
        return self


def roles(config: Config) -> dict[str, RoleSpec]:
    return {"policy": RoleSpec("policy", config.model, optim=config.optim, embedding_noise=config.neftune_alpha)}


def prepare(ctx: Any, groups: Sequence[Group]) -> tuple[RolloutBatch, Metrics]:
    return ctx.batch(groups), {}


def loss(ctx: Any, batch: RolloutBatch) -> tuple[Tensor, Metrics]:
    logprobs = ctx.forward("policy", batch, ("logprobs",)).logprobs
    nll = aggregate(-logprobs, batch.lengths, batch.total, ctx.config.aggregate)
    return nll, {"sft/loss": nll.detach()}


SFT = Algorithm("sft", Config, roles, "responses", prepare, loss)
