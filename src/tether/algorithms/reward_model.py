"""Reward model: one score a response, fitted to comparisons or rankings (Ouyang et al. 2022).

    pairs           L = −log σ(r_w − r_l − m)                    every (better, worse) pair of a group: Bradley–Terry
    plackett_luce   L = Σ_i log(e^{r_i} + Σ_{j<i} e^{r_j}) − r_i  a group's ranking, drawn best first

All responses of a group share a forward. The mean over pairs is taken within a group first, so that a prompt with
C(K,2) pairs weighs as one comparison (Ouyang et al. 2022, eq. 1); a ranking counts with its whole likelihood. Ties are
left out of both. Labels may be smoothed (a share ε of them is wrong), and scores drawn to mean zero. With several
heads each is fitted by itself, on one trunk; the score that is reported is their mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tether.config import TrainSection
from tether.math.preference_losses import all_pairs, bradley_terry_loss, centering_loss, plackett_luce_loss
from tether.types import Algorithm, Group, Metrics, RoleSpec, RolloutBatch


class Config(TrainSection):
    """Reward modelling on comparisons."""

    loss: Literal["pairs", "plackett_luce"] = "pairs"
    """What a ranking of K responses is learnt as: all its pairs, or one draw after the other (for K = 2 the same)."""
    margin: Literal["none", "label"] = "none"
    """`label` asks the scores of a pair to differ by at least the pair's `margin` (Llama 2, eq. 2)."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Share ε of labels taken to be wrong."""
    centering: float = Field(default=0.0, ge=0)
    """Weight of (r_w + r_l)², which draws scores to mean zero and leaves differences alone (Eisenstein et al. 2023)."""
    heads: int = Field(default=1, ge=1)
    """Score heads on the one trunk, from unlike starts: how far they disagree says how little the score is known."""
    dropout: bool = False
    """Leave the model's own dropout on while training."""

    @model_validator(mode="after")
    def _pairs_have_margins(self) -> Config:
        if self.loss != "pairs" and (self.margin != "none" or self.label_smoothing):
            raise ValueError(f"margin and label_smoothing are about pairs; with loss = '{self.loss}' leave them out")
        return self


def roles(config: Config) -> dict[str, RoleSpec]:
    spec = RoleSpec("reward", config.model, optim=config.optim, dropout=config.dropout, num_heads=config.heads)
    return {"reward": spec}


def prepare(ctx: Any, groups: Sequence[Group]) -> tuple[RolloutBatch, Metrics]:
    return ctx.batch(groups), {}


def loss(ctx: Any, batch: RolloutBatch) -> tuple[Tensor, Metrics]:
    scores = ctx.forward("reward", batch, ("scores",)).scores
    heads = scores.view(len(scores), -1)  # (S, H)
    pairs = all_pairs([group.labels["ranking"] for group in batch.groups])
    chosen, rejected = heads[pairs.better], heads[pairs.worse]  # (P, H)
    weight = heads.new_tensor(pairs.share) / batch.total.groups  # (P,)
    if ctx.config.loss == "pairs":
        given = [g.labels.get("margin", 0.0) if ctx.config.margin == "label" else 0.0 for g in batch.groups]
        margins = heads.new_tensor([given[i] for i in pairs.group])[:, None]
        fit = bradley_terry_loss(chosen, rejected, margins, ctx.config.label_smoothing).mean(1)
        objective = (weight * fit).sum()
    else:
        ranks = batch.lengths.new_tensor([rank for group in batch.groups for rank in group.labels["ranking"]])
        terms = [plackett_luce_loss(head, ranks, batch.group_of) for head in heads.unbind(1)]
        objective = torch.stack(terms, 1).mean(1).sum() / batch.total.groups
    first, second = chosen.mean(1).detach(), rejected.mean(1).detach()  # (P,)
    metrics = {
        "rm/loss": objective.detach(),
        "rm/accuracy": (weight * torch.where(first == second, 0.5, (first > second).float())).sum(),
        "rm/margin": (weight * (first - second)).sum(),
        "rm/mean": (weight * (first + second) / 2).sum(),
    }
    if heads.shape[1] > 1:
        metrics["rm/disagreement"] = heads.detach().std(1, correction=0).sum() / batch.total.sequences
    if ctx.config.centering:
        objective = objective + ctx.config.centering * (weight * centering_loss(chosen, rejected).mean(1)).sum()
    return objective, metrics


REWARD_MODEL = Algorithm("reward_model", Config, roles, "preference", prepare, loss, select="eval/accuracy")
