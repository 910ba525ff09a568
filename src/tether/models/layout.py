"""Groups → the rows a trunk reads, and where on those rows the flat axis lies. Nothing else knows about padding.

Three layouts, same numbers:

- `rows`: one row a response, `[prompt | response | pads]`. Padding comes last, so a causal trunk needs no mask at all.
- `tree`: one row a group, `[prompt | r1 | … | rK | pads]`. Positions restart after the prompt for every response, and a
  mask lets a response see the prompt and itself. The prompt is computed once.
- `varlen`: one row in all, `[prompt | response | prompt | response | …]`, with no pad and the bounds of its sequences,
  which flash attention keeps apart. Other attention is told by a mask as wide as the row: right, but slow.

Shapes: `B` rows, `T` cells of a row, `S` responses, `N` trained response tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from tether.errors import InputError
from tether.types import Group

Kind = Literal["rows", "tree", "varlen"]


class View(NamedTuple):
    """How far back the layers of one type look."""

    layer_type: str | None = None
    """The trunk's own name of the type (`full_attention`, `sliding_attention` …); None: one mask serves every layer."""
    window: int | None = None
    """Sliding window: a token sees the `window` positions that end with its own."""
    chunk: int | None = None
    """Chunked attention: a token sees its own chunk of positions only."""


class MaskStyle(NamedTuple):
    """The form in which a trunk takes an explicit 4-D attention mask."""

    views: tuple[View, ...] = (View(),)
    """One view, or one for each layer type: then the mask is a dictionary by type."""
    additive: torch.dtype | None = None
    """None: boolean, true where attended. A dtype: 0 where attended, its lowest number elsewhere."""


@dataclass(frozen=True, slots=True)
class Laid:
    """Groups as rows, and the way back to the flat axis."""

    input_ids: Tensor
    """(B, T) int64 token ids, pads last."""
    position_ids: Tensor
    """(B, T) int64 positions."""
    attention: Tensor | dict[str, Tensor] | None
    """(B, 1, T, T) mask in the trunk's style, one for each layer type, or None: plain causal."""
    predict: Tensor
    """(N,) int64 cell of the (B*T) hidden states that predicts each trained token."""
    last: Tensor
    """(S,) int64 cell of each response's last real token."""
    targets: Tensor
    """(N,) int64 the trained tokens."""
    own: Tensor
    """(N,) int64 cell of each trained token itself."""
    bounds: Tensor | None = None
    """(S+1,) int32 first cell of each packed sequence, then T; None: a row is one sequence."""
    longest: int = 0
    """Cells of the longest packed sequence."""

    @property
    def num_cells(self) -> int:
        """Cells computed, pads included: B * T."""
        return self.input_ids.numel()


def width(group: Group, kind: Kind) -> int:
    """Cells the group needs in a row, pads apart."""
    lengths = [len(r.token_ids) for r in group.responses]
    if kind == "varlen":
        return len(group.prompt.token_ids) * len(lengths) + sum(lengths)
    return len(group.prompt.token_ids) + (sum(lengths) if kind == "tree" else max(lengths, default=0))


def height(group: Group, kind: Kind) -> int:
    """Rows the group needs."""
    return len(group.responses) if kind == "rows" else 1


def lay_out(
    groups: Sequence[Group],
    kind: Kind,
    mask_style: MaskStyle = MaskStyle(),  # noqa: B008 (immutable)
    pad_id: int = 0,
    device: torch.device | str = "cpu",
) -> Laid:
    """Rows of `groups` on `device`. The flat axis is group by group, response by response, trained tokens only.

    Raises `InputError` where a trained token has no token before it to be predicted from.
    """
    if kind == "tree" and all(len(g.responses) == 1 for g in groups):
        kind = "rows"  # the same rows, and no mask to build
    if kind == "varlen":
        return _packed(groups, device)
    row_width = max((width(g, kind) for g in groups), default=0)
    cells = _cells(groups, kind, row_width, pad_id)
    grid = torch.tensor(cells.ids, device=device).view(-1, row_width)
    flat = _flat(cells, device)
    if kind == "rows":
        return Laid(grid, torch.arange(row_width, device=device).expand(grid.shape), None, *flat)
    prompts = torch.tensor([len(g.prompt.token_ids) for g in groups], device=device)
    places = torch.tensor(cells.positions, device=device).view(grid.shape)
    seen = _tree_mask(torch.tensor(cells.starts, device=device).view(grid.shape), prompts)
    return Laid(grid, places, _styled(seen, places, mask_style), *flat)


def _packed(groups: Sequence[Group], device: torch.device | str) -> Laid:
    """Rows without their pads, end to end in one row."""
    cells = _cells(groups, "rows", 0, 0)
    sizes = [len(g.prompt.token_ids) + len(r.token_ids) for g in groups for r in g.responses]
    predict, last, targets, own = _flat(cells, device)
    return Laid(
        torch.tensor([cells.ids], device=device),
        torch.tensor([[n for size in sizes for n in range(size)]], device=device),
        None,
        predict,
        last,
        targets,
        own,
        bounds=torch.tensor([0, *accumulate(sizes)], dtype=torch.int32, device=device),
        longest=max(sizes),
    )


class _Cells(NamedTuple):
    """Rows one after the other, as lists; what is not explained here is as in `Laid`."""

    ids: list[int]
    positions: list[int]
    """Tree only: in rows they count up from 0."""
    starts: list[int]
    """Tree only: first cell of the response that a cell belongs to; 0 in the prompt."""
    predict: list[int]
    last: list[int]
    targets: list[int]
    own: list[int]


def _flat(cells: _Cells, device: torch.device | str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`predict`, `last`, `targets` and `own` as tensors."""
    predict, last, targets, own = (
        torch.tensor(x, dtype=torch.long, device=device) for x in (cells.predict, cells.last, cells.targets, cells.own)
    )
    return predict, last, targets, own


def _cells(groups: Sequence[Group], kind: Kind, row_width: int, pad_id: int) -> _Cells:
    """Fills the rows, each of at least `row_width` cells, and notes where the flat axis lies on them."""
    cells = _Cells([], [], [], [], [], [], [])
    ids, positions, starts, predict, last, targets, own = cells
    for group in groups:
        prompt = group.prompt.token_ids
        base = len(ids)  # first cell of the row
        if kind == "tree":
            ids += prompt
            positions += range(len(prompt))
            starts += [0] * len(prompt)
        for response in group.responses:
            tokens: Sequence[int] = response.token_ids
            if kind == "rows":
                base = len(ids)
                ids += prompt
            start = len(ids)
            ids += tokens
            before = [base + len(prompt) - 1, *range(start, start + len(tokens))]
            last.append(before[-1])
            before.pop()
            places: Sequence[int] = range(start, start + len(tokens))
            if response.trained is not None:
                before, tokens, places = (
                    [x for x, counts in zip(column, response.trained, strict=True) if counts]
                    for column in (before, tokens, places)
                )
            predict += before
            targets += tokens
            own += places
            if not prompt and (before[:1] == [base - 1] or not response.token_ids):
                raise InputError("a prompt has no tokens, so nothing predicts the first token of its response")
            if kind == "rows":
                ids += [pad_id] * (row_width + base - len(ids))
            else:
                positions += range(len(prompt), len(prompt) + len(response.token_ids))
                starts += [start - base] * len(response.token_ids)
        if kind == "tree":
            pads = row_width + base - len(ids)
            starts += [len(ids) - base] * pads
            ids += [pad_id] * pads
            positions += [0] * pads
    return cells


def _tree_mask(starts: Tensor, prompts: Tensor) -> Tensor:
    """(B, T, T) bool: a cell sees the cells up to itself that are the prompt's or its own response's.

    `starts` (B, T) first cell of each cell's response, `prompts` (B,) prompt lengths. A pad sees the prompt and pads:
    no row of the mask is empty, because softmax over nothing is NaN and NaN times a zero gradient is NaN.
    """
    cells = torch.arange(starts.shape[1], device=starts.device)
    seen = cells >= starts[:, :, None]
    seen |= (cells < prompts[:, None])[:, None, :]
    seen &= cells <= cells[:, None]
    return seen


def _styled(seen: Tensor, positions: Tensor, style: MaskStyle) -> Tensor | dict[str, Tensor]:
    masks: dict[str | None, Tensor] = {}
    for view in style.views:
        mask = seen
        if view.window is not None:
            mask = mask & (positions[:, :, None] - positions[:, None, :] < view.window)
        if view.chunk is not None:
            chunks = positions // view.chunk
            mask = mask & (chunks[:, :, None] == chunks[:, None, :])
        mask = mask[:, None]
        if style.additive is not None:
            lowest = torch.finfo(style.additive).min
            mask = torch.zeros(mask.shape, dtype=style.additive, device=mask.device).masked_fill_(~mask, lowest)
        masks[view.layer_type] = mask
    if None in masks:
        return masks[None]
    return {str(name): mask for name, mask in masks.items()}
