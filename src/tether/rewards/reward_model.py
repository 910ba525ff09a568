"""Rewards from a trained reward model: its scalar at each response's last token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from tether.models.plan import infer
from tether.models.role import Role
from tether.types import Group


@dataclass(frozen=True)
class RewardModelScorer:
    """Groups → (S,) float32 scores, of several heads their mean. It reads the policy's token ids, so both must have the
    same tokenizer."""

    role: Role
    """The reward model."""
    token_budget: int = 1024
    """Tokens of one forward, prompts included: speed and memory only."""

    def __call__(self, groups: Sequence[Group]) -> Tensor:
        return self.heads(groups).mean(1)

    def heads(self, groups: Sequence[Group]) -> Tensor:
        """(S, H) the score of every head."""
        scores: Tensor = infer(self.role, groups, ("scores",), token_budget=self.token_budget).scores
        return scores.view(len(scores), -1)
