"""What an algorithm is handed, and all it sees of the other rooms: config, roles, a sampler, a scorer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tether.data.template import Template
from tether.models.plan import infer, out_of_memory
from tether.models.reference import ReferenceTable
from tether.models.role import Role
from tether.rewards.combine import Scores, WeightedSum
from tether.rollout.collect import collect
from tether.train.cursor import Cursor
from tether.types import Group, Metrics, Outputs, RolloutBatch, Sampler, Scorer


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
    cursors: dict[str, Cursor] = field(default_factory=dict)
    """Where the run stands in its `data`, and in its `mix` where it has one."""
    known: ReferenceTable | None = None
    """The reference's log-probs of the data, where the data hold responses and there is a reference."""

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

    def collect(self, groups: Sequence[Group], k: int, dense: bool = False) -> tuple[RolloutBatch, Metrics]:
        """K scored responses to each prompt, and what to log of them; see `rollout.collect`."""
        return collect(self, groups, k, dense)

    def draw(self, count: int) -> list[Group]:
        """The next `count` examples of the data, beyond those the loop has drawn."""
        return self.cursors["data"].draw(count)

    def score(self, groups: Sequence[Group]) -> Tensor:
        """(S,) float32 rewards; of several, their weighted sum."""
        assert self.scorer is not None
        return self.scorer(groups).to(self.device)

    def score_parts(self, groups: Sequence[Group]) -> tuple[Scores, dict[str, float]]:
        """The rewards' sum and each one's own scores by name, and the weights."""
        if not isinstance(self.scorer, WeightedSum):
            score = self.score(groups)
            return Scores(score, {"reward": score}, {}, {}), {"reward": 1.0}
        scored = self.scorer.components(groups)
        parts, dense = ({n: x.to(self.device) for n, x in have.items()} for have in (scored.parts, scored.dense))
        return scored._replace(total=scored.total.to(self.device), parts=parts, dense=dense), self.scorer.weights

    def reference(self, groups: Sequence[Group]) -> Tensor:
        """(N,) the reference's log-probs of `groups`: looked up where they are of the data, else computed."""
        if self.known is None:
            self.known = ReferenceTable(self.roles["reference"], self.temperature, self.token_budget)
        return self.known.of(groups)

    def forward(
        self, role: str, batch: RolloutBatch, want: tuple[str, ...], temperature: float | None = None
    ) -> Outputs:
        """One forward of a micro-batch, with gradient where enabled; at the run's temperature if none is given."""
        model = self.roles[role]
        heat = self.temperature if temperature is None else temperature
        outputs: Outputs = model(model.lay_out(batch.groups), want, heat)
        return outputs

    def infer(self, role: str, groups: Sequence[Group], want: tuple[str, ...]) -> Outputs:
        """Forward without gradient, over as many micro-batches as it takes; flat, in order."""
        return infer(self.roles[role], groups, want, temperature=self.temperature, token_budget=self.token_budget)
