"""Best of n: its KL against a simulation of the very distribution, and the choice by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tether.math.best_of_n import best_of_n_kl, top_k


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_kl_is_that_of_the_distribution(n: int):
    """With m equally likely responses and no ties, the i-th worst is chosen with probability (i/m)ⁿ − ((i−1)/m)ⁿ."""
    m = 200_000
    upto = (torch.arange(m + 1, dtype=torch.float64) / m) ** n
    chosen = upto.diff()
    exact = float((chosen * (chosen * m).log()).sum())
    assert best_of_n_kl(n) == pytest.approx(exact, abs=1e-4)


def test_no_response_is_no_choice():
    with pytest.raises(ValueError, match="n = 0"):
        best_of_n_kl(0)


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), max_size=5), st.integers(1, 4))
def test_top_k_is_a_stable_sort(rows: list[list[int]], k: int):
    owners = torch.tensor([i for i, row in enumerate(rows) for _ in row], dtype=torch.long)
    scores = torch.tensor([float(x) for row in rows for x in row])
    expected = [sorted(range(len(row)), key=lambda i, row=row: -row[i])[:k] for row in rows]
    assert top_k(scores, owners, k) == expected


def test_entropy_bound():
    assert best_of_n_kl(64) < math.log(64)
