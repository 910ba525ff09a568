"""Key-value caches of the rows that are being decoded, and which kind a model can use.

`SlotCache` (continuous): rows are right-aligned in one preallocated buffer, so a row can leave and another take its
place at any step. `LockstepCache`: all rows have the same length from prompt to end, so there is no padding and the
model's own cache, of whatever kind, is right; with `cached=False` it has none and reads the whole row at each step.
`probe` finds the first of these that gives the model's own logits.

Shapes: `B` rows, `T` columns of a prefill, `V` vocabulary.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from tether.models.role import Role

Kind = Literal["continuous", "lockstep", "uncached"]
KINDS: tuple[Kind, ...] = ("continuous", "lockstep", "uncached")


class Prefill(NamedTuple):
    """Prompts that were read once, for all their samples."""

    cache: DynamicCache
    """Row i holds prompt i, left-padded."""
    logits: Tensor
    """(prompts, V) after each prompt."""
    lengths: list[int]
    """Tokens of each prompt."""
    ids: Tensor | None = None
    """(prompts, T) the prompts' tokens where all have one length."""


class Cache(Protocol):
    """The rows being decoded."""

    num_rows: int
    same_length: bool
    """Whether only prompts of one length can be decoded together, and rows only start together."""

    def prefill(self, prompts: Sequence[tuple[int, ...]]) -> Prefill:
        """Read prompts; no row is added yet."""
        ...

    def admit(self, prefill: Prefill, index: Sequence[int]) -> None:
        """Add a row for each entry of `index` (a prompt of `prefill`), after those that are there."""
        ...

    def step(self, tokens: Tensor) -> Tensor:
        """(B, V) logits after one more token (B,) a row."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows stay, in this order: place i is taken by row rows[i], which is at or after i."""
        ...


class SlotLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer's keys and values: rows right-aligned in a buffer of which a step reads `rows`, columns `low:high`."""

    def __init__(self, like: Any, max_rows: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.is_initialized = True
        self.rows = self.low = self.high = 0
        # Zeros, for a weight of 0 times uninitialised memory may be NaN.
        self.buffers = [
            states.new_zeros(max_rows, states.shape[1], 0, states.shape[3]) for states in (like.keys, like.values)
        ]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write one column and return all that are in use, this one included."""
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[: self.rows, :, self.high : self.high + 1] = states
        keys, values = (buffer[: self.rows, :, self.low : self.high + 1] for buffer in self.buffers)
        return keys, values

    def get_seq_length(self) -> int:
        """Columns in use before this step."""
        return self.high - self.low

    def reserve(self, columns: int) -> None:
        """Move the columns in use to the left end of a buffer of at least `columns`."""
        used = self.high - self.low
        for n, buffer in enumerate(self.buffers):
            live = buffer[: self.rows, :, self.low : self.high].clone()
            if buffer.shape[2] < columns:
                self.buffers[n] = buffer = buffer.new_zeros(*buffer.shape[:2], columns, buffer.shape[3])
            buffer[: self.rows, :, :used] = live

    def write(self, rows: slice, states: Any, source: Tensor, width: int) -> None:
        """Put the last `width` columns of rows `source` of a prefill before column `high`."""
        for buffer, new in zip(self.buffers, (states.keys, states.values), strict=True):
            buffer[rows, :, self.high - width : self.high] = new[:, :, -width:].index_select(0, source)

    def move(self, rows: Sequence[tuple[int, int]]) -> None:
        """Copy row `source` onto row `to` for each (to, source); few at a time, so slices beat an index."""
        for buffer in self.buffers:
            live = buffer[:, :, self.low : self.high]
            for to, source in rows:
                live[to] = live[source]


class SlotCache:
    """Continuous batching: row b fills columns `start[b]` to `high`, so a step writes the same column of every row.

    Wants prompts longest first: then a new prompt always fits to the left of `high`. Sliding-window layers keep all
    columns too; the trunk's own mask narrows them.
    """

    same_length = False

    def __init__(self, role: Role, max_rows: int) -> None:
        self.role = role
        self.max_rows = max_rows
        self.num_rows = 0
        self.low = self.high = self.columns = 0
        self.cache = DynamicCache()
        self.layers: list[SlotLayer] = []
        self.start = torch.empty(0, dtype=torch.int64, device=role.device)
        self.padded = False
        self.positions = _takes_positions(role)

    def prefill(self, prompts: Sequence[tuple[int, ...]]) -> Prefill:
        width = max(map(len, prompts))
        device = self.role.device
        ids = torch.tensor([(0,) * (width - len(p)) + p for p in prompts], device=device)
        pads = torch.tensor([[width - len(p)] for p in prompts], device=device)
        columns = torch.arange(width, device=device)
        cache = DynamicCache()
        positions = (columns - pads).clamp_(min=0) if self.positions else None
        padded = any(len(p) < width for p in prompts)
        logits = self.role.decode(ids, positions, columns >= pads if padded else None, cache)
        return Prefill(cache, logits, [len(p) for p in prompts])

    def admit(self, prefill: Prefill, index: Sequence[int]) -> None:
        lengths = [prefill.lengths[i] for i in index]
        width = max(lengths)
        if not self.layers:
            self.layers = [SlotLayer(layer, self.max_rows) for layer in prefill.cache.layers]
            self.cache.layers = list(self.layers)
        if not self.num_rows:
            self.low = self.high = 0
            self._show()
            self._reserve(width)
            self.high = width
        source = torch.tensor(index, device=self.start.device)
        for layer, states in zip(self.layers, prefill.cache.layers, strict=True):
            layer.high = self.high
            layer.write(slice(self.num_rows, self.num_rows + len(index)), states, source, width)
        self.num_rows += len(index)
        begins = torch.tensor([self.high - n for n in lengths], device=self.start.device)
        self._set_start(torch.cat([self.start, begins]))

    def step(self, tokens: Tensor) -> Tensor:
        self._reserve(1)
        start = self.start.unsqueeze(-1)
        seen = torch.arange(self.low, self.high + 1, device=start.device) >= start if self.padded else None
        positions = self.high - start if self.positions else None
        logits = self.role.decode(tokens.unsqueeze(-1), positions, seen, self.cache)
        self.high += 1
        self._show()
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        index = torch.tensor(rows, dtype=torch.int64, device=self.start.device)
        moved = [(new, old) for new, old in enumerate(rows) if new != old]
        for layer in self.layers:
            layer.move(moved)
        self.num_rows = len(rows)
        self._set_start(self.start[index])

    def _set_start(self, start: Tensor) -> None:
        begins = start.tolist()
        self.start = start
        self.low = min(begins, default=self.high)
        self.padded = any(begin != self.low for begin in begins)
        self._show()

    def _show(self) -> None:
        for layer in self.layers:
            layer.rows, layer.low, layer.high = self.num_rows, self.low, self.high

    def _reserve(self, more: int) -> None:
        """Room for `more` columns after `high`."""
        if self.high + more <= self.columns:
            return
        needed = self.high - self.low + more
        # Each time costs a copy of everything in use; room for half as much again makes it rare.
        columns = needed + max(needed // 2, 64)
        for layer in self.layers:
            layer.reserve(columns)
        self.columns = max(columns, self.columns)
        self.start = self.start - self.low
        self.low, self.high = 0, self.high - self.low
        self._show()


class LockstepCache:
    """Static batches for any other model: rows of one length start together, so no row has padding.

    With `cached=False` the model has no usable cache either and reads every row anew at each step.
    """

    same_length = True

    def __init__(self, role: Role, cached: bool) -> None:
        self.role = role
        self.cached = cached
        self.num_rows = 0
        self.cache = DynamicCache()
        self.ids = torch.empty(0, 0, dtype=torch.int64, device=role.device)
        self.positions = _takes_positions(role)

    def prefill(self, prompts: Sequence[tuple[int, ...]]) -> Prefill:
        ids = torch.tensor(prompts, device=self.role.device)
        cache = self._fresh()
        return Prefill(cache, self._decode(ids, 0, cache), [len(p) for p in prompts], ids)

    def admit(self, prefill: Prefill, index: Sequence[int]) -> None:
        assert prefill.ids is not None, "a prefill of another kind of cache"
        if self.cached:
            self.cache = copy.deepcopy(prefill.cache)
        self.ids = prefill.ids
        self.keep(index)

    def step(self, tokens: Tensor) -> Tensor:
        self.ids = torch.cat([self.ids, tokens.unsqueeze(-1)], dim=-1)
        if not self.cached:
            return self._decode(self.ids, 0, self._fresh())
        return self._decode(self.ids[:, -1:], self.ids.shape[1] - 1, self.cache)

    def keep(self, rows: Sequence[int]) -> None:
        index = torch.tensor(rows, dtype=torch.int64, device=self.ids.device)
        self.ids = self.ids[index]
        self.num_rows = len(rows)
        if self.cached and rows:
            self.cache.reorder_cache(index)  # type: ignore[arg-type]

    def _fresh(self) -> DynamicCache:
        return DynamicCache(config=self.role.hf.config)

    def _decode(self, ids: Tensor, past: int, cache: DynamicCache) -> Tensor:
        positions = torch.arange(past, past + ids.shape[1], device=ids.device).expand_as(ids)
        return self.role.decode(ids, positions if self.positions else None, None, cache)


def make_cache(role: Role, max_rows: int, kind: Kind) -> Cache:
    """An empty cache of the kind that `probe` found."""
    return SlotCache(role, max_rows) if kind == "continuous" else LockstepCache(role, cached=kind == "lockstep")


@torch.no_grad()
def probe(role: Role) -> tuple[Kind, str]:
    """The fastest kind of cache that gives `role`'s own logits, and why no faster one does (empty: none is faster)."""
    reasons: list[str] = []
    for kind in KINDS[:-1]:
        reason = _unfit(role) if kind == "continuous" else ""
        reason = reason or _differs(role, kind)
        if not reason:
            return kind, "; ".join(reasons)
        reasons.append(f"not {kind}: {reason}")
    return KINDS[-1], "; ".join(reasons)


def _unfit(role: Role) -> str:
    """Why rows of such a model cannot be cut out of its cache, from the layers of the cache it asks for."""
    # A sliding window is fine: its layers are given the whole past and the trunk's mask narrows it.
    layers = {type(layer) for layer in DynamicCache(config=role.hf.config).layers}
    others = layers - {DynamicLayer, DynamicSlidingWindowLayer}
    return f"its cache has {' and '.join(sorted(layer.__name__ for layer in others))}" if others else ""


def _differs(role: Role, kind: Kind) -> str:
    """How this kind of cache strays from the model's own logits on two random rows; empty when it does not."""
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(role.vocab_size, (2, 9), generator=random).tolist()
    lengths = (6, 3) if kind == "continuous" else (5, 5)
    fed = [tuple(row[:n]) for row, n in zip(ids, lengths, strict=True)]
    # A half-precision model's logits move by about 1 % with the shape of a batch; a wrong cache moves them by far more.
    tolerance = 1e-4 if next(role.parameters()).dtype == torch.float32 else 0.05
    cache = make_cache(role, 2, kind)
    try:
        prefill = cache.prefill(fed)
        cache.admit(prefill, (0, 1))
        given = [prefill.logits]
        for step in range(3):
            tokens = [row[n + step] for row, n in zip(ids, lengths, strict=True)]
            given.append(cache.step(torch.tensor(tokens, device=role.device)))
    except Exception as error:  # whatever a foreign cache raises, the next kind is tried and the log says why
        return f"{type(error).__name__}: {error}"
    for step, logits in enumerate(given):
        for row, n, mine in zip(ids, lengths, logits, strict=True):
            truth = LockstepCache(role, cached=False).prefill([tuple(row[: n + step])]).logits[0]
            off = ((mine - truth).abs().max() / truth.abs().max()).item()
            if not off <= tolerance:
                return f"its logits would be off by {off:.1%}"
    return ""


def _takes_positions(role: Role) -> bool:
    """Whether the trunk is told positions; one that is not (ALiBi, recurrence) derives them from the mask."""
    return "position_ids" in inspect.signature(role.trunk.forward).parameters
