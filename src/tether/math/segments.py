"""Sums, scans and shifts inside each response of the flat token axis.

Shapes: `S` responses, `N` response tokens. `lengths` (S,) int64 says how many of the N tokens each response has, in
order; it sums to N. Nothing here pads its result, and no value ever crosses from one response into another.
"""

from __future__ import annotations

import torch
from torch import Tensor


def segment_ids(lengths: Tensor) -> Tensor:
    """(N,) int64: the index of the response each token belongs to.

    >>> segment_ids(torch.tensor([2, 1])).tolist()
    [0, 0, 1]
    """
    return torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)


def expand(x: Tensor, lengths: Tensor) -> Tensor:
    """(S,) → (N,): a response's value repeated on each of its tokens.

    >>> expand(torch.tensor([1.5, 3.0]), torch.tensor([2, 1])).tolist()
    [1.5, 1.5, 3.0]
    """
    return torch.repeat_interleave(x, lengths)


def segment_sum(x: Tensor, lengths: Tensor) -> Tensor:
    """(N,) → (S,): the sum of each response's tokens, 0 for one without any. `x` is floating.

    >>> segment_sum(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2, 1])).tolist()
    [3.0, 4.0]
    """
    # Not index_add: its atomics on CUDA would sum in another order each run.
    return torch.segment_reduce(x, "sum", lengths=lengths) if len(lengths) else x


def segment_mean(x: Tensor, lengths: Tensor) -> Tensor:
    """(N,) → (S,): the mean of each response's tokens, 0 for one without any. `x` is floating.

    >>> segment_mean(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2, 1])).tolist()
    [1.5, 4.0]
    """
    return segment_sum(x, lengths) / lengths.clamp(min=1)


def group_mean(x: Tensor, group_of: Tensor) -> Tensor:
    """(S,) → (S,): the mean over each one's group of `group_of` (S,), whatever the order. `x` is floating.

    >>> group_mean(torch.tensor([1.0, 4.0, 3.0]), torch.tensor([0, 1, 0])).tolist()
    [2.0, 4.0, 2.0]
    """
    return segment_mean(x[group_of.argsort(stable=True)], torch.bincount(group_of))[group_of]


def last_index(lengths: Tensor) -> Tensor:
    """(S,) int64: where on the flat axis each response's last token is. Raises ValueError for an empty response.

    >>> last_index(torch.tensor([2, 1])).tolist()
    [1, 2]
    """
    if bool((lengths < 1).any()):
        raise ValueError(f"response {int(lengths.argmin())} has no token, so it has no last token")
    return lengths.cumsum(0) - 1


def next_in_segment(x: Tensor, lengths: Tensor, last: float) -> Tensor:
    """(N,) → (N,): at each token the value of the next token of the same response; `last` at a response's last token.

    >>> next_in_segment(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2, 1]), 0.0).tolist()
    [2.0, 0.0, 0.0]
    """
    return x.roll(-1).index_fill(0, last_index(lengths), last)


def reverse_scan(x: Tensor, decay: float, lengths: Tensor) -> Tensor:
    """(N,) → (N,): y_t = x_t + decay · y_{t+1} inside each response, with nothing after its last token.

    The recurrence itself, so exact; one vectorised step for all responses per token of the longest.

    >>> reverse_scan(torch.tensor([1.0, 2.0, 4.0]), 0.5, torch.tensor([2, 1])).tolist()
    [2.0, 2.0, 4.0]
    """
    if not len(x):
        return x
    owner = segment_ids(lengths)
    time = torch.arange(len(x), device=x.device) - (lengths.cumsum(0) - lengths)[owner]
    # Time first, left aligned: the zeros after a response's end leave its carry at 0 until its last token.
    grid = x.new_zeros(int(lengths.max()), len(lengths)).index_put((time, owner), x)
    carry = torch.zeros_like(grid[0])
    scanned = []
    for row in grid.flip(0).unbind(0):
        carry = row + decay * carry
        scanned.append(carry)
    return torch.stack(scanned).flip(0)[time, owner]


def whiten(x: Tensor, *, shift_mean: bool = True) -> Tensor:
    """(N,) → (N,): mean 0 and variance 1 over all tokens of the batch; constant input gives 0.

    With `shift_mean=False` the mean is put back, so only the spread changes (rewards, where the sign means something).

    >>> whiten(torch.tensor([1.0, 3.0])).tolist()
    [-1.0, 1.0]
    """
    mean = x.mean()
    # The population variance: one token has spread 0, not NaN.
    white = (x - mean) * (x.var(correction=0) + 1e-8).rsqrt()
    return white if shift_mean else white + mean
