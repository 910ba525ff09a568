"""The sums: right, all there, and in one split each."""

from __future__ import annotations

import pytest

from tether.config import DataConfig
from tether.data.rows import read_rows
from tether.data.sums import SPLITS, read_sums
from tether.errors import InputError


def test_every_sum_is_right_and_in_one_split() -> None:
    seen: dict[str, str] = {}
    for split in SPLITS:
        for row in read_sums("sums", split):
            said = row["prompt"][0]["content"]
            assert seen.setdefault(said, split) == split
            assert int(row["answer"]) == sum(map(int, said.split("+")))
    assert len(seen) == 10_000
    for split, share in SPLITS.items():
        assert list(seen.values()).count(split) / 10_000 == pytest.approx(share / 100, abs=0.01)


def test_the_first_rows_are_a_fair_sample() -> None:
    firsts = {row["id"][0] for row in read_rows(DataConfig(path="demo:sums", limit=100))}
    assert firsts == set("0123456789")


def test_text_holds_prompt_and_answer() -> None:
    text, asked = read_sums("sums-text", "test"), read_sums("sums", "test")
    assert [row["text"] for row in text] == [f"{row['id']}={row['answer']}" for row in asked]


def test_unknown_names() -> None:
    with pytest.raises(InputError, match="there is no data set demo:sum; there are demo:sums, demo:sums-text"):
        read_sums("sum", "train")
    with pytest.raises(InputError, match="demo:sums has no split 'dev'; it has train, validation, test"):
        read_sums("sums", "dev")
