"""Micro-batches: which groups share a forward. It decides speed and memory, never a result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from tether.models.layout import Kind, height, width
from tether.models.role import Role
from tether.types import Group, Outputs


def micro_batches(groups: Sequence[Group], token_budget: int, layout: Kind) -> list[list[int]]:
    """Indices of `groups` in micro-batches of at most `token_budget` cells, pads included; longest first.

    Groups of like length share rows. A group over the budget is a micro-batch of its own.
    """
    order = sorted(range(len(groups)), key=lambda i: (-width(groups[i], layout), i))
    plan: list[list[int]] = []
    rows = widest = cells = 0
    for i in order:
        own, more = width(groups[i], layout), height(groups[i], layout)
        cells = cells + own if layout == "varlen" else (rows + more) * widest
        if not plan or cells > token_budget:
            plan.append([])
            rows, widest, cells = 0, own, own  # in descending order the first group is the widest
        plan[-1].append(i)
        rows += more
    return plan


def infer(
    role: Role,
    groups: Sequence[Group],
    want: tuple[str, ...],
    *,
    temperature: float = 1.0,
    token_budget: int = 1024,
) -> Outputs:
    """`role`'s outputs for all `groups`, without gradient, in their order on the flat axis.

    Out of memory, the budget halves for the groups that are left.
    """
    pieces: list[Outputs] = []
    done: list[int] = []
    left = list(range(len(groups)))
    while left:
        plan = micro_batches([groups[i] for i in left], token_budget, role.layout)
        short_of_memory = False
        for batch in plan:
            members = [left[i] for i in batch]
            try:
                with torch.no_grad():
                    pieces.append(role(role.lay_out([groups[i] for i in members]), want, temperature))
            except RuntimeError as error:
                if not out_of_memory(error) or len(members) == 1:
                    raise
                short_of_memory = True
                break
            done += members
        if short_of_memory:
            token_budget = max(1, token_budget // 2)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        finished = set(done)
        left = [i for i in left if i not in finished]
    return _in_order(pieces, done, groups)


def out_of_memory(error: BaseException) -> bool:
    """Whether a device (or the host) had no room for a tensor; a smaller token budget may then do."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _in_order(pieces: Sequence[Outputs], done: Sequence[int], groups: Sequence[Group]) -> Outputs:
    """Concatenated pieces, whose groups are `done`, brought back to the order of `groups`."""
    per_token = _inverse(done, [sum(r.num_trained for r in g.responses) for g in groups])
    per_response = _inverse(done, [len(g.responses) for g in groups])

    def column(name: str, order: Sequence[int]) -> Tensor | None:
        parts = [part for part in (getattr(piece, name) for piece in pieces) if part is not None]
        if not parts:
            return None
        return torch.cat(parts)[torch.tensor(order, dtype=torch.long, device=parts[0].device)]

    return Outputs(
        logprobs=column("logprobs", per_token),
        entropy=column("entropy", per_token),
        values=column("values", per_token),
        steps=column("steps", per_token),
        scores=column("scores", per_response),
    )


def _inverse(done: Iterable[int], sizes: Sequence[int]) -> list[int]:
    """For each place in the original order, its place after the groups were run in the order `done`."""
    start_of = [0] * len(sizes)
    start = 0
    for i in done:
        start_of[i] = start
        start += sizes[i]
    return [n for i, size in enumerate(sizes) for n in range(start_of[i], start_of[i] + size)]
