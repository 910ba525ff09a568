"""Rewards from a process reward model: a probability for every step of a response, and what is made of them.

Shapes: `S` responses, `M` steps of all of them, `N` trained tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from tether.data.steps import Decode, mark_steps
from tether.errors import InputError
from tether.models.plan import infer
from tether.models.role import Role
from tether.types import Group

Aggregate = Literal["min", "product", "last"]
RUNNING: dict[str, Callable[[Tensor], Tensor]] = {
    "min": lambda p: p.cummin(0).values,
    "product": lambda p: p.cumprod(0),
    "last": lambda p: p,
}
"""How the steps up to each become one number: (M,) → (M,) for one response."""


class Steps(NamedTuple):
    """The scored steps of some groups, response by response."""

    right: Tensor
    """(M,) probability σ(score) that each step is right."""
    lengths: Tensor
    """(S,) int64 steps of each response; a response of no text has none."""
    ends: tuple[tuple[int, ...], ...]
    """For each response, the index among its tokens of each step's last one."""


@dataclass(frozen=True)
class ProcessScorer:
    """Groups → (S,) float32: the steps' probabilities as one number a response, in [0, 1]; 0 where there is no step.

        min       the weakest step            product   all steps right, if they were independent (Lightman et al. 2023)
        last      the last step

    It reads the policy's token ids, so both must have the same tokenizer. Raises InputError for an unknown `how`, an
    empty delimiter, or a role with several heads.
    """

    role: Role
    """The process reward model."""
    decode: Decode
    delimiter: str = "\n"
    how: Aggregate = "min"
    token_budget: int = 1024
    """Tokens of one forward, prompts included: speed and memory only."""

    def __post_init__(self) -> None:
        if self.role.num_heads != 1:
            raise InputError(f"process reward: the model has {self.role.num_heads} heads; a step needs exactly 1")
        if self.how not in RUNNING:
            raise InputError(f"process reward: '{self.how}' is no way to join steps; valid: {', '.join(RUNNING)}")
        if not self.delimiter:
            raise InputError("process reward: the delimiter of steps is empty; valid: any text, such as a line break")

    def __call__(self, groups: Sequence[Group]) -> Tensor:
        return torch.stack([p[-1] if len(p) else p.new_zeros(()) for p in self._running(self.steps(groups))])

    def steps(self, groups: Sequence[Group]) -> Steps:
        """Every step of every response, scored in one forward a micro-batch, without gradient."""
        marked = [Group(g.prompt, (mark_steps(r, self.decode, self.delimiter),)) for g in groups for r in g.responses]
        ends = tuple(tuple(i for i, end in enumerate(g.responses[0].trained or ()) if end) for g in marked)
        right = infer(self.role, marked, ("steps",), token_budget=self.token_budget).steps.sigmoid()
        return Steps(right, torch.tensor([len(e) for e in ends], device=right.device), ends)

    def weakest_step(self, groups: Sequence[Group]) -> list[int | None]:
        """For each response the index of the step least likely right, the first of equals; None without a step."""
        steps = self.steps(groups)
        return [int(p.argmin()) if len(p) else None for p in torch.split(steps.right, steps.lengths.tolist())]

    def token_rewards(self, groups: Sequence[Group]) -> Tensor:
        """(N,) dense rewards of `groups`' trained tokens: at a step's end, what the step changed; 0 elsewhere.

            reward of step k = agg(p_1 … p_k) − agg(p_1 … p_{k−1}),   agg of no step = 0

        They sum to the response's score, so more steps earn no more: shaping by a potential (Ng et al. 1999). A step
        that ends at a token which is not trained is credited to the next trained one, or to the last before.
        """
        steps = self.steps(groups)
        responses = [r for g in groups for r in g.responses]
        pieces = []
        for response, ends, running in zip(responses, steps.ends, self._running(steps), strict=True):
            change = running.diff(prepend=running.new_zeros(1))
            trained = response.trained or (True,) * len(response.token_ids)
            places = [i for i, counts in enumerate(trained) if counts]
            rewards = running.new_zeros(len(places))
            for end, reward in zip(ends, change, strict=True):
                at = next((n for n, place in enumerate(places) if place >= end), len(places) - 1)
                if places:
                    rewards[at] += reward
            pieces.append(rewards)
        return torch.cat(pieces)

    def _running(self, steps: Steps) -> list[Tensor]:
        return [RUNNING[self.how](p) for p in torch.split(steps.right, steps.lengths.tolist())]
