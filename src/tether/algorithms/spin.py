"""SPIN: self-play against the policy's own start, with demonstrations alone (Chen et al. 2024, eq. 4.7).

A round is a stage. The opponent is the policy the stage starts from, frozen; the player learns to tell each
demonstration from the opponent's answer to the same prompt, by DPO's loss with the opponent for its reference. The next
round starts from what this one makes: another `spin` stage with `model = "stage:…"`.
Answers are drawn as they are needed, which is the same as drawing all at the start: the opponent does not change. An
answer that is the demonstration itself teaches nothing and is counted. Of a conversation the first turn is played.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field, model_validator
from torch import Tensor

from tether.config import SamplingConfig, TrainSection
from tether.math.direct_losses import pair_metrics, sigmoid_loss
from tether.math.segments import segment_sum
from tether.types import Algorithm, Group, Metrics, Response, RoleSpec, RolloutBatch


class Config(TrainSection):
    """Self-play fine-tuning on demonstrations."""

    beta: float = Field(default=0.1, gt=0)
    """The paper's λ: weight of the tether to the opponent."""
    sampling: SamplingConfig = SamplingConfig()
    """How the opponent answers. top_k and top_p must be off: it plays its own distribution."""

    @model_validator(mode="after")
    def _opponent_as_it_is(self) -> Config:
        if self.sampling.top_k > 0 or self.sampling.top_p < 1:
            raise ValueError("the opponent plays its own distribution: leave sampling.top_k and top_p at 0 and 1")
        return self


def roles(config: Config) -> dict[str, RoleSpec]:
    # The sampler answers with the role called `policy`: the opponent. The first role is what the stage makes.
    return {"player": RoleSpec("policy", config.model, optim=config.optim), "policy": RoleSpec("policy", config.model)}


def prepare(ctx: Any, groups: Sequence[Group]) -> tuple[RolloutBatch, Metrics]:
    answers = [group.responses[0] for group in ctx.generate(groups, 1)]
    games = [Group(g.prompt, (first_turn(g.responses[0]), a)) for g, a in zip(groups, answers, strict=True)]
    batch = ctx.batch(games).replace(ref_logprobs=ctx.infer("policy", games, ("logprobs",)).logprobs)
    same = sum(g.responses[0].token_ids == g.responses[1].token_ids for g in games)
    return batch, {"rollout/length": batch.lengths[1::2].float().mean(), "spin/same": same / len(games)}


def first_turn(response: Response) -> Response:
    """A demonstration as far as the opponent, who answers the prompt, could have given it."""
    if response.trained is None or all(response.trained):
        return response
    return replace(response, token_ids=response.token_ids[: response.trained.index(False)], trained=None)


def loss(ctx: Any, batch: RolloutBatch) -> tuple[Tensor, Metrics]:
    logprobs = ctx.forward("player", batch, ("logprobs",)).logprobs
    rewards = ctx.config.beta * segment_sum(logprobs - batch.ref_logprobs, batch.lengths)
    shown, answered = rewards.view(-1, 2).unbind(1)
    weight = shown.new_full(shown.shape, 1 / batch.total.groups)
    objective = (weight * sigmoid_loss(shown, answered, 1.0)).sum()
    about = pair_metrics(shown, answered, weight)
    return objective, {"spin/loss": objective.detach(), **{f"spin/{name}": share for name, share in about.items()}}


SPIN = Algorithm("spin", Config, roles, "responses", prepare, loss, select="eval/accuracy")
