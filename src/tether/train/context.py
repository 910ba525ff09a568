"""What an algorithm is handed, and all it sees of the other rooms: config, roles, a sampler, a scorer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tether.data.template import Template
from tether.models.plan import infer, out_of_memory
from tether.models.role import Role
from tether.types import Group, Outputs, RolloutBatch, Sampler, Scorer


@dataclass
class Context:
    """The hands of an algorithm. `step` and `state` are the run's own; a checkpoint holds both."""

    config: Any
    """The stage's section of the recipe."""
    roles: dict[str, Role]
    """Name → model; frozen ones included."""
    template: Template
    """How text and conversations become tokens."""
    seed: int
    """The stage's seed; sampling at iteration t draws from (seed, t)."""
    sampler: Sampler | None = None
    """Answers prompts with the policy's current weights."""
    scorer: Scorer | None = None
    """What the policy is trained on."""
    judge: Scorer | None = None
    """What held-out answers are scored by: nothing that is trained on."""
    token_budget: int = 1024
    """Tokens of a micro-batch; halves when memory runs out."""
    step: int = 0
    """Iterations done."""
    state: dict[str, float] = field(default_factory=dict)
    """What an algorithm remembers between iterations (an adaptive β, a moving baseline)."""

    @property
    def device(self) -> torch.device:
        """Where the first role lives."""
        return next(iter(self.roles.values())).device

    @property
    def temperature(self) -> float:
        """Divides the logits of every log-prob, as it did in sampling."""
        sampling = getattr(self.config, "sampling", None)
        return 1.0 if sampling is None else float(sampling.temperature)

    def halve_budget(self, error: RuntimeError) -> None:
        """After running out of memory: half the tokens of a micro-batch. Raises any other `error`, and the last one."""
        if not out_of_memory(error) or self.token_budget < 32:
            raise error
        self.token_budget //= 2

    def batch(self, groups: Sequence[Group]) -> RolloutBatch:
        """`groups` as a batch on this context's device."""
        return RolloutBatch.of(groups, torch.empty(0, device=self.device))

    def generate(self, groups: Sequence[Group], k: int) -> list[Group]:
        """K fresh responses of the current policy to each prompt."""
        assert self.sampler is not None
        return self.sampler.generate([g.prompt for g in groups], k, seed=self.seed * 1_000_003 + self.step)

    def score(self, groups: Sequence[Group]) -> Tensor:
        """(S,) float32 rewards."""
        assert self.scorer is not None
        return self.scorer(groups).to(self.device)

    def forward(self, role: str, batch: RolloutBatch, want: tuple[str, ...]) -> Outputs:
        """One forward of a micro-batch, with gradient where enabled."""
        model = self.roles[role]
        outputs: Outputs = model(model.lay_out(batch.groups), want, self.temperature)
        return outputs

    def infer(self, role: str, groups: Sequence[Group], want: tuple[str, ...]) -> Outputs:
        """Forward without gradient, over as many micro-batches as it takes; flat, in order."""
        return infer(self.roles[role], groups, want, temperature=self.temperature, token_budget=self.token_budget)
