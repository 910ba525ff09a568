"""The records every room speaks, and the protocols between rooms. Nothing here imports torch.

Shapes: `S` responses, `N` trained response tokens (the flat axis), `G` groups, `K` responses of a group.
A `Group` (one prompt and its K responses) is the only unit of training data; a `RolloutBatch` is a list of groups
and the tensors an algorithm has computed for them, on the flat axis. There is no padding in any record.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Tensor

Message = Mapping[str, str]
"""One turn of a conversation: `{"role": "user", "content": "hello"}`."""

Metrics = dict[str, Any]
"""`room/name` → a float or a detached scalar tensor. What `Algorithm.loss` returns is each micro-batch's *share* of the
step's value, so shares add up to the value whatever the micro-batches were."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the policy answers. Token ids are the source of truth; `text` and `messages` are for people."""

    token_ids: tuple[int, ...]
    """The prompt as the model reads it, template and begin-of-sequence token included."""
    messages: tuple[Message, ...] = ()
    """The conversation so far; empty when the prompt is plain text."""
    text: str = ""
    """The last user turn, or the plain prompt, for showing."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Whatever came with it: `id`, `split`, `row`, a reference answer …"""


@dataclass(frozen=True, slots=True)
class Response:
    """One continuation of a prompt. `token_ids` ends with the end-of-turn token if and only if `ended`."""

    token_ids: tuple[int, ...]
    """The continuation, the end-of-turn token included when there is one."""
    text: str = ""
    """The continuation as a person reads it, without the end-of-turn token."""
    ended: bool = True
    """Whether the model closed its turn (false: it ran into the length limit)."""
    logprobs: tuple[float, ...] | None = None
    """The sampler's own log-prob of each token at the sampling temperature; None when it was not sampled here."""
    trained: tuple[bool, ...] | None = None
    """Which tokens count (the flat axis holds only these); None means all of them."""
    policy_version: int = 0
    """The optimiser step of the policy that wrote it."""
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_trained(self) -> int:
        """How many places this response has on the flat axis."""
        return len(self.token_ids) if self.trained is None else sum(self.trained)


@dataclass(frozen=True, slots=True)
class Group:
    """One prompt and its K responses: SFT K=1, a comparison K=2, PPO K=1 or n; K=0 is a prompt still to be answered.

    `labels`, each by response and never by screen side: `ranking` (K,) ranks with 0 the best and ties equal,
    `margin` and `strength` (floats), `rewards` (K,); with K=1 `desirable` (bool), or `steps`: whether each step is
    right, one for each token of the response that is `trained`, the last of its step.
    """

    prompt: Prompt
    responses: tuple[Response, ...] = ()
    labels: Mapping[str, Any] = field(default_factory=dict)


class Interval(NamedTuple):
    """An estimate and the interval around it; NaN where the data cannot tell."""

    estimate: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float | None]:
        """For JSON: NaN becomes None.

        >>> Interval(0.5, 0.25, float("nan")).as_dict()
        {'estimate': 0.5, 'low': 0.25, 'high': None}
        """
        return {name: None if math.isnan(value) else value for name, value in self._asdict().items()}


class Totals(NamedTuple):
    """What one optimiser step holds, over all its micro-batches and ranks: the global denominators of every mean."""

    tokens: int
    sequences: int
    groups: int


Column = Any
"""A tensor, or None where it was not asked for. Not `Tensor | None`: who reads a column has asked for it."""


def _axis(name: str) -> Any:
    return field(default=None, metadata={"axis": name})


@dataclass(frozen=True)
class RolloutBatch:
    """Groups and what was computed for them. Row order everywhere is group by group, response by response.

    A column nobody has computed is None; an algorithm reads only the columns its own `prepare` set.
    """

    groups: tuple[Group, ...]
    """The G groups, whose responses' trained tokens make the flat axis."""
    total: Totals
    """Denominators of the optimiser step this batch is a part of."""
    lengths: Tensor = _axis("S")
    """(S,) int64: trained tokens of each response; sums to N."""
    group_of: Tensor = _axis("S")
    """(S,) int64: index of each response's group within this batch."""
    logprobs: Tensor = _axis("N")
    """(N,) log π_old(token | before) at the sampling temperature: the policy that sampled."""
    ref_logprobs: Tensor = _axis("N")
    """(N,) log π_ref(token | before)."""
    values: Tensor = _axis("N")
    """(N,) V_old(state that predicts the token)."""
    rewards: Tensor = _axis("S")
    """(S,) the score of each response, before any KL shaping."""
    token_rewards: Tensor = _axis("N")
    """(N,) per-token rewards, KL shaping included."""
    advantages: Tensor = _axis("N")
    """(N,) how much better a token was than expected; carries no gradient."""
    returns: Tensor = _axis("N")
    """(N,) the value function's target."""
    mix: RolloutBatch | None = None
    """Other examples that the same optimiser steps learn from, with a loss of their own (see `Mix`)."""

    @classmethod
    def of(cls, groups: Sequence[Group], like: Tensor, **columns: Any) -> RolloutBatch:
        """A batch of `groups`; `like` is any tensor on the wanted device. Totals count this batch alone."""
        lengths = [r.num_trained for g in groups for r in g.responses]
        owners = [i for i, g in enumerate(groups) for _ in g.responses]
        whole = like.new_tensor
        return cls(
            groups=tuple(groups),
            total=Totals(sum(lengths), len(lengths), len(groups)),
            lengths=whole(lengths).long(),
            group_of=whole(owners).long(),
            **columns,
        )

    @functools.cached_property
    def _starts(self) -> tuple[list[int], list[int]]:
        """Each group's first response, and each response's first token; found once, however many portions are taken."""
        first = itertools.accumulate((len(group.responses) for group in self.groups), initial=0)
        start: Iterator[int] = itertools.accumulate(self.lengths.tolist(), initial=0)
        return list(first), list(start)

    def replace(self, **columns: Any) -> RolloutBatch:
        """A copy with some columns set."""
        return dataclasses.replace(self, **columns)

    def take(self, indices: Sequence[int]) -> RolloutBatch:
        """The sub-batch of these groups, in this order. Totals stay the whole step's."""
        first, start = self._starts
        rows = [s for g in indices for s in range(first[g], first[g + 1])]
        places = {"S": rows, "N": [n for s in rows for n in range(start[s], start[s + 1])]}
        columns = {}
        for column in dataclasses.fields(self):
            tensor = getattr(self, column.name)
            if "axis" in column.metadata and tensor is not None:
                columns[column.name] = tensor[places[column.metadata["axis"]]]
        owners = [i for i, g in enumerate(indices) for _ in self.groups[g].responses]
        columns["group_of"] = self.group_of.new_tensor(owners)
        return dataclasses.replace(self, groups=tuple(self.groups[g] for g in indices), **columns)


@dataclass(frozen=True)
class Outputs:
    """What one forward of a role gives, on the flat axis; what was not asked for is None."""

    logprobs: Column = None
    """(N,) log-prob of each trained token at the given temperature, fp32."""
    entropy: Column = None
    """(N,) entropy in nats of the distribution each token was drawn from."""
    values: Column = None
    """(N,) value of the state that predicts each token."""
    scores: Column = None
    """(S,) scalar head at the last real token of each response; (S, H) of a role with H > 1 heads."""
    steps: Column = None
    """(N,) scalar head at each trained token itself: a process reward model's logit of a step that ends there."""


class Sampler(Protocol):
    """Answers prompts."""

    policy_version: int
    """The optimiser step of the weights it answers with; written on every response."""

    def generate(self, prompts: Sequence[Prompt], k: int, *, seed: int, greedy: bool = False) -> list[Group]:
        """K sampled responses for each prompt, in the order of `prompts`; the same seed gives the same answers.

        With `greedy` each token is the likeliest one, whatever the seed.
        """
        ...


Scorer = Callable[[Sequence[Group]], "Tensor"]
"""Groups → (S,) float32 rewards of their responses."""


@dataclass(frozen=True)
class RoleSpec:
    """One model an algorithm works with. The first of an algorithm's roles is what its stage produces."""

    kind: Literal["policy", "reward", "value"]
    """Which head: next-token logits, one score a response, or one value a token."""
    model: str
    """Where its weights start, as the recipe says it."""
    optim: Any = None
    """Its `OptimConfig`; None for a frozen role."""
    value_head: bool = False
    """A policy that also predicts values from its own trunk."""
    num_heads: int = 1
    """Scores a response of a reward model gets: an ensemble of heads on one trunk."""
    dropout: bool = False
    """Leave the model's own dropout on in training. Off in every role of policy optimisation."""
    embedding_noise: float = 0.0
    """NEFTune's α: uniform noise of α/√(T·d) on the embeddings of a training forward."""


class Mix(NamedTuple):
    """Other data an algorithm learns from in the same optimiser steps (PPO-ptx's pretraining mix)."""

    data: Callable[[Any], Any]
    """Config → the `DataConfig` of it, or None where the recipe wants none."""
    field: str
    """Where in the section that stands."""
    need: Literal["text", "prompts", "responses", "preference", "unpaired", "steps"]
    """What its examples must hold."""
    size: Callable[[Any], int]
    """Config → examples of an iteration; its optimiser steps share them out."""
    loss: Callable[[Any, RolloutBatch], tuple[Tensor, Metrics]]
    """As the algorithm's own."""


def _never(ctx: Any, metrics: Metrics) -> bool:
    return False


class Algorithm(NamedTuple):
    """One row of the table in `algorithms`: everything the loop knows about an algorithm."""

    name: str
    config: type[Any]
    """Its section of the recipe."""
    roles: Callable[[Any], dict[str, RoleSpec]]
    """Config → the models it needs."""
    data: Literal["text", "prompts", "responses", "preference", "unpaired", "steps"]
    """What its examples must hold."""
    prepare: Callable[[Any, Sequence[Group]], tuple[RolloutBatch, Metrics]]
    """(context, drawn groups) → the batch to learn from and what to log about it; no gradient."""
    loss: Callable[[Any, RolloutBatch], tuple[Tensor, Metrics]]
    """(context, micro-batch) → its share of the step's loss, and shares of metrics."""
    enough: Callable[[Any, Metrics], bool] = _never
    """(context, metrics of an optimiser step) → whether to leave the rest of this batch unlearnt."""
    select: str = "-eval/loss"
    """The held-out metric the best checkpoint is chosen by; a leading minus means less is better."""
    mix: Mix | None = None
    """Other data learnt from beside its own."""
