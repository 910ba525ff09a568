"""Segment operations against plain Python loops over ragged lists."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tether.math.segments import (
    expand,
    last_index,
    next_in_segment,
    reverse_scan,
    segment_ids,
    segment_mean,
    segment_sum,
    whiten,
)

numbers = st.floats(-10, 10, width=32)
ragged = st.lists(st.lists(numbers, min_size=1, max_size=7), min_size=1, max_size=6)
quick = settings(deadline=None, max_examples=60)


def flat(rows: list[list[float]]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([x for row in rows for x in row]).double(), torch.tensor([len(row) for row in rows])


def test_by_hand():
    lengths = torch.tensor([3, 1, 2])
    x = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert segment_ids(lengths).tolist() == [0, 0, 0, 1, 2, 2]
    assert last_index(lengths).tolist() == [2, 3, 5]
    assert segment_sum(x, lengths).tolist() == [6.0, 4.0, 11.0]
    assert segment_mean(x, lengths).tolist() == [2.0, 4.0, 5.5]
    assert expand(torch.tensor([7, 8, 9]), lengths).tolist() == [7, 7, 7, 8, 9, 9]
    assert next_in_segment(x, lengths, -1.0).tolist() == [2.0, 3.0, -1.0, -1.0, 6.0, -1.0]
    assert reverse_scan(x, 0.5, lengths).tolist() == [1 + 0.5 * 3.5, 3.5, 3.0, 4.0, 8.0, 6.0]


@quick
@given(ragged, st.floats(0, 1))
def test_equal_to_loops(rows: list[list[float]], decay: float):
    x, lengths = flat(rows)
    scanned, shifted = [], []
    for row in rows:
        carry, out = 0.0, []
        for value in reversed(row):
            carry = value + decay * carry
            out.append(carry)
        scanned += reversed(out)
        shifted += [*row[1:], 0.5]
    torch.testing.assert_close(reverse_scan(x, decay, lengths).tolist(), scanned, rtol=0, atol=1e-12)
    assert next_in_segment(x, lengths, 0.5).tolist() == shifted
    torch.testing.assert_close(segment_sum(x, lengths).tolist(), [sum(row) for row in rows], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        expand(segment_mean(x, lengths), lengths), segment_mean(x, lengths)[segment_ids(lengths)]
    )


@quick
@given(ragged)
def test_a_broken_response_stays_alone(rows: list[list[float]]):
    """A NaN or an infinity in one response reaches no other."""
    x, lengths = flat(rows)
    broken = torch.cat([torch.tensor([float("nan"), float("inf")]).double(), x, torch.tensor([float("nan")]).double()])
    around = torch.tensor([2, *lengths.tolist(), 1])
    torch.testing.assert_close(reverse_scan(broken, 0.9, around)[2:-1], reverse_scan(x, 0.9, lengths))
    torch.testing.assert_close(segment_sum(broken, around)[1:-1], segment_sum(x, lengths))
    torch.testing.assert_close(next_in_segment(broken, around, 0.0)[2:-1], next_in_segment(x, lengths, 0.0))


def test_gradients():
    lengths = torch.tensor([3, 1, 2])
    x = torch.randn(6, dtype=torch.float64, requires_grad=True)
    for operation in (segment_sum, segment_mean, lambda y, n: reverse_scan(y, 0.7, n), lambda y, _: whiten(y)):
        assert torch.autograd.gradcheck(lambda y, f=operation: f(y, lengths), (x,))


def test_empty_responses():
    lengths = torch.tensor([2, 0])
    assert segment_sum(torch.tensor([1.0, 2.0]), lengths).tolist() == [3.0, 0.0]
    assert segment_mean(torch.tensor([1.0, 2.0]), lengths).tolist() == [1.5, 0.0]
    assert reverse_scan(torch.tensor([1.0, 2.0]), 1.0, lengths).tolist() == [3.0, 2.0]
    with pytest.raises(ValueError, match="response 1 has no token"):
        last_index(lengths)


def test_no_responses():
    nothing, none = torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    for result in (segment_sum(nothing, none), segment_mean(nothing, none), reverse_scan(nothing, 0.5, none)):
        assert result.shape == (0,)
    assert next_in_segment(nothing, none, 0.0).shape == (0,)


def test_lengths_that_do_not_fit_are_refused():
    with pytest.raises(RuntimeError):
        segment_sum(torch.ones(3), torch.tensor([2, 2]))


@quick
@given(st.lists(numbers, min_size=2, max_size=30), st.floats(0.5, 20), st.floats(-5, 5))
def test_whiten(xs: list[float], scale: float, shift: float):
    x = torch.tensor(xs).double()
    white = whiten(x)
    assert abs(white.mean().item()) < 1e-9
    torch.testing.assert_close(whiten(x, shift_mean=False), white + x.mean())
    if x.std() > 0.1:
        assert abs(white.var(correction=0).item() - 1) < 1e-4
        torch.testing.assert_close(whiten(x * scale + shift), white, rtol=1e-4, atol=1e-4)


def test_whiten_without_spread():
    assert whiten(torch.tensor([3.0])).tolist() == [0.0]
    assert whiten(torch.full((4,), 2.5)).tolist() == [0.0] * 4
    assert whiten(torch.full((4,), 2.5), shift_mean=False).tolist() == [2.5] * 4
