"""Files → rows, and the one sentence each broken file gets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tether.config import DataConfig
from tether.data.rows import read_rows
from tether.errors import InputError

ROWS = [{"prompt": "one", "answer": "1"}, {"prompt": 'zwei, "2"\nż😀', "answer": "2"}]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    import pandas

    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    elif path.suffix == ".csv":
        pandas.DataFrame(rows).to_csv(path, index=False)
    else:
        pandas.DataFrame(rows).to_parquet(path)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet", "A.JSONL"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write(tmp_path / name.lower(), ROWS).rename(path)
    assert read_rows(DataConfig(path=str(path))) == ROWS
    assert read_rows(DataConfig(path=str(path), limit=1)) == ROWS[:1]


def test_a_folder_of_splits(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", ROWS)
    write(tmp_path / "validation.csv", ROWS[:1])
    assert read_rows(DataConfig(path=str(tmp_path))) == ROWS
    assert read_rows(DataConfig(path=str(tmp_path), split="validation")) == ROWS[:1]


def test_what_save_to_disk_wrote(tmp_path: Path) -> None:
    import datasets

    one = datasets.Dataset.from_list(ROWS)
    one.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": one, "test": one.select([1])}).save_to_disk(str(tmp_path / "two"))
    assert read_rows(DataConfig(path=str(tmp_path / "one"))) == ROWS
    assert read_rows(DataConfig(path=str(tmp_path / "two"), split="test")) == ROWS[1:]
    with pytest.raises(InputError, match="has no split 'dev'; it has train, test"):
        read_rows(DataConfig(path=str(tmp_path / "two"), split="dev"))


def test_columns_renamed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ROWS)
    rows = read_rows(DataConfig(path=str(path), rename={"answer": "response"}))
    assert rows[0] == {"prompt": "one", "response": "1"}
    with pytest.raises(InputError, match="'reply', but the columns are prompt, answer"):
        read_rows(DataConfig(path=str(path), rename={"reply": "response"}))


def test_windows_files_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\r\n{"text": "b"}')
    assert read_rows(DataConfig(path=str(path))) == [{"text": "a"}, {"text": "b"}]


BROKEN = [
    ("a.jsonl", b"", "is empty"),
    ("a.jsonl", b"\n \n", "is empty"),
    ("a.json", b"[]", "is empty"),
    ("a.csv", b"prompt,response\n", "is empty"),
    ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', r"line 2: not UTF-8 text \(byte 24\)"),
    ("a.csv", b"text\n\xe9\n", r"line 2: not UTF-8 text \(byte 5\)"),
    ("a.jsonl", b'{"text": "a"}\n{"text": \n', "line 2: not valid JSON"),
    ("a.jsonl", b'{"text": "a"}\n\n["a"]\n', "line 3: is a list, not an object"),
    ("a.json", b'[{"text": "a"},\n oops]', "line 2: not valid JSON"),
    ("a.jsonl", b'{"text": "a"}\n{"text": ' + b"[" * 100_000, "line 2: lists and objects are nested too deep"),
    ("a.json", b"[" * 100_000, "nested too deep"),
    ("a.json", b'{"text": "a"}\n{"text": "b"}', r"one object a line use \.jsonl"),
    ("a.json", b'{"text": "a"}', "must be a list of objects"),
    ("a.json", b'[{"text": "a"}, 3]', "must be a list of objects"),
    ("a.csv", b"prompt,response\na,b\nc\n", "line 3: has another number of fields"),
    ("a.csv", b"prompt,response\na,b,c\n", "line 2: has another number of fields"),
    ("a.csv", b'prompt\n"never closed\n', "not valid CSV"),
    ("a.parquet", b"PAR1 not really", "not a Parquet file"),
    ("a.txt", b"hello", r"files end in \.jsonl, \.json, \.csv, \.parquet, not '\.txt'"),
]


@pytest.mark.parametrize(("name", "content", "says"), BROKEN, ids=[f"{n}-{s[:25]}" for n, _, s in BROKEN])
def test_a_broken_file_gets_one_sentence(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        read_rows(DataConfig(path=str(tmp_path / name)))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_has_one_split(tmp_path: Path) -> None:
    """Else a held-out section naming the training file would evaluate on it."""
    path = write(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(InputError, match="only split is 'train', not 'validation'"):
        read_rows(DataConfig(path=str(path), split="validation"))


def test_what_is_not_there(tmp_path: Path) -> None:
    for path in (str(tmp_path / "none.jsonl"), "none.csv", "./none", "/none/at/all"):
        with pytest.raises(InputError, match="no such file"):
            read_rows(DataConfig(path=path))
    with pytest.raises(InputError, match="neither a file here nor data that `datasets` can load"):
        read_rows(DataConfig(path="nobody/nothing"))
    with pytest.raises(InputError, match="a folder that `datasets` cannot load"):
        read_rows(DataConfig(path=str(tmp_path)))
    with pytest.raises(InputError, match="there is no data set demo:chat"):
        read_rows(DataConfig(path="demo:chat"))


text = st.text(alphabet=st.characters(codec="utf-8"), max_size=30)


@given(rows=st.lists(st.fixed_dictionaries({"prompt": text, "n": st.integers()}), min_size=1, max_size=5))
def test_jsonl_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> None:
    """Line separators such as U+2028 within a string end no line."""
    path = tmp_path_factory.mktemp("jsonl") / "a.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    assert read_rows(DataConfig(path=str(path))) == rows
