"""What a majority is worth: by hand, against simulation, and in the docs."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from tether.errors import InputError
from tether.feedback.overlap import accuracy_of, agreement_of, bits, majority_accuracy, table

PAGE = Path(__file__).parents[2] / "docs" / "annotation.md"


@pytest.mark.parametrize("annotators", [1, 3, 5])
def test_majority_against_every_way_to_vote(annotators: int) -> None:
    p, right = 0.7, 0.0
    for votes in product((0, 1), repeat=annotators):
        if sum(votes) > annotators / 2:
            right += p ** sum(votes) * (1 - p) ** (annotators - sum(votes))
    assert majority_accuracy(p, annotators) == pytest.approx(right, abs=1e-12)


def test_accuracy_and_agreement_are_each_others_inverse() -> None:
    assert [accuracy_of(agreement_of(p)) for p in (0.5, 0.7, 1.0)] == pytest.approx([0.5, 0.7, 1.0])
    with pytest.raises(InputError, match=r"agreement 0\.4: of two independent annotators is between 0\.5 and 1"):
        accuracy_of(0.4)


def test_a_majority_that_can_be_split_is_refused() -> None:
    with pytest.raises(InputError, match="needs an odd number"):
        majority_accuracy(0.8, 2)


def test_bits_by_hand() -> None:
    assert bits(0.75) == pytest.approx(1 - (0.75 * 0.4150374993 + 0.25 * 2))


def test_the_page_has_the_table_as_computed() -> None:
    assert table() in PAGE.read_text(encoding="utf-8")
