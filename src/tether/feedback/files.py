"""Rows → a file or a folder: JSONL, Parquet, CSV, or what `datasets.load_from_disk` loads.

Written under a temporary name and renamed, so nobody ever sees half of it. The same rows give the same bytes (by the
same versions of pyarrow and datasets). CSV is for reading in a spreadsheet: lists and objects are JSON text, and a text
that a spreadsheet would run as a formula gets an apostrophe before it, so train from one of the others.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tether.data.rows import Row
from tether.errors import InputError

if TYPE_CHECKING:
    import pyarrow

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # the last four: full width
"""What a cell must not begin with, lest a spreadsheet compute it (OWASP, "CSV Injection")."""


def jsonl(rows: Sequence[Row]) -> bytes:
    """One JSON object a line.

    >>> jsonl([{"prompt": "Grüß", "margin": 0.5}]).decode()
    '{"prompt": "Grüß", "margin": 0.5}\\n'
    """
    text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    return text.encode("utf-8", "backslashreplace")  # half a character stays a JSON escape


def csv_file(rows: Sequence[Row]) -> bytes:
    """Comma-separated values, quoted as RFC 4180 says, with a byte order mark: spreadsheets take UTF-8 for it.

    >>> csv_file([{"a": "=1+1", "b": -1, "c": [1]}]).decode("utf-8-sig").splitlines()
    ['a,b,c', "'=1+1,-1,[1]"]
    """
    out = io.StringIO(newline="")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.writer(out)
    writer.writerow([_cell(name) for name in columns])
    writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)
    return out.getvalue().encode("utf-8-sig", "replace")


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA) else text


def parquet(rows: Sequence[Row]) -> bytes:
    """One Parquet file; see `columnar` for what is made uniform."""
    return _parquet(tables({"train": rows})["train"])


def _parquet(table: pyarrow.Table) -> bytes:
    import pyarrow
    import pyarrow.parquet

    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink)
    return bytes(sink.getvalue().to_pybytes())


def tables(splits: Mapping[str, Sequence[Row]]) -> dict[str, pyarrow.Table]:
    """A table for each split, all of one schema, whatever the rows of a split leave out."""
    import pyarrow

    whole = pyarrow.Table.from_pylist(columnar([row for rows in splits.values() for row in rows]))
    ends = list(accumulate(map(len, splits.values())))
    return {
        split: whole.slice(end - len(rows), len(rows)) for (split, rows), end in zip(splits.items(), ends, strict=True)
    }


def columnar(rows: Sequence[Row]) -> list[Row]:
    """Rows of which every column has one type and every row every column.

    `meta` becomes JSON text, `guideline` a list; where some prompts are conversations, plain ones become such.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    chats = any(isinstance(row.get("prompt"), list) for row in rows)
    return [{name: _uniform(name, row.get(name), chats) for name in columns} for row in rows]


_SIDES = {"prompt": "user", **dict.fromkeys(("chosen", "rejected", "completion", "response"), "assistant")}


def _uniform(name: str, value: Any, chats: bool) -> Any:
    if name == "meta":
        text = json.dumps(value, ensure_ascii=False, sort_keys=True)
        return text.encode("utf-8", "backslashreplace").decode()  # half a character stays a JSON escape
    if name == "guideline":
        return value if isinstance(value, list) else [value]
    if chats and name in _SIDES and isinstance(value, str):
        return [{"role": _SIDES[name], "content": value}]
    return value


ENCODERS: Mapping[str, Callable[[Sequence[Row]], bytes]] = {".jsonl": jsonl, ".csv": csv_file, ".parquet": parquet}
"""File ending → rows to bytes."""
FORMATS = ("jsonl", "csv", "parquet", "datasets")
"""What a folder can hold."""


def is_file_name(out: Path) -> bool:
    """Whether this names a file, by its ending, and not a folder.

    InputError where the ending is that of another file: letters, of what is no folder yet.

    >>> is_file_name(Path("a.jsonl")), is_file_name(Path("v1.2")), is_file_name(Path("data"))
    (True, False, False)
    """
    ending = out.suffix.lower()
    if ending not in ENCODERS and ending[1:].isalpha() and not out.is_dir():
        raise InputError(f"{out}: files end in {', '.join(ENCODERS)}; a folder's name must not end in '{out.suffix}'")
    return ending in ENCODERS


def write_file(rows: Sequence[Row], path: Path) -> str:
    """Writes one file, in place of one that may be there, and returns the SHA-256 of its bytes.

    InputError: an ending that is none of `ENCODERS`, or a place that cannot be written to.
    """
    encode = ENCODERS.get(path.suffix.lower())
    if encode is None:
        raise InputError(f"{path}: files end in {', '.join(ENCODERS)}, not '{path.suffix}'")
    content = encode(rows)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write(temporary, content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return hashlib.sha256(content).hexdigest()


def write_folder(splits: Mapping[str, Sequence[Row]], folder: Path, kind: str, others: Mapping[str, str]) -> str:
    """Writes a folder with one file a split (or a saved `DatasetDict`) and other texts by name, such as its card.

    Returns the SHA-256 over the data's names and bytes, the other texts apart. InputError: an unknown kind,
    something is there already, or a place that cannot be written to.
    """
    if kind not in FORMATS:
        raise InputError(f"format {kind!r}: is none of {', '.join(FORMATS)}")
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise InputError(f"{folder}: is there already and not empty; give a new folder, or remove it first")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    with _writable(folder):
        temporary.mkdir(parents=True)
        try:
            _fill(temporary, splits, kind)
            sha256 = folder_hash(temporary)
            for name, text in others.items():
                _write(temporary / name, text.encode("utf-8", "replace"))
            temporary.replace(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return sha256


def _fill(folder: Path, splits: Mapping[str, Sequence[Row]], kind: str) -> None:
    if kind == "datasets":
        _save(splits, folder)
    elif kind == "parquet":
        for split, table in tables(splits).items():
            _write(folder / f"{split}.parquet", _parquet(table))
    else:
        for split, rows in splits.items():
            _write(folder / f"{split}.{kind}", ENCODERS[f".{kind}"](rows))


@contextmanager
def _writable(place: Path) -> Iterator[None]:
    """InputError where the system refuses."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{place}: cannot be written ({error.strerror or error})") from None


def folder_hash(folder: Path) -> str:
    """SHA-256 over the names and bytes of all files but Markdown pages."""
    state = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".md"):
        content = file.read_bytes()
        state.update(f"{file.relative_to(folder).as_posix()}\0{len(content)}\0".encode() + content)
    return state.hexdigest()


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _save(splits: Mapping[str, Sequence[Row]], folder: Path) -> None:
    import datasets

    bars = datasets.utils.logging.is_progress_bar_enabled()
    datasets.utils.logging.disable_progress_bar()
    try:
        made = {}
        for split, table in tables(splits).items():
            # Its own fingerprint would be drawn by chance.
            fingerprint = hashlib.sha256(jsonl(splits[split])).hexdigest()[:16]
            made[split] = datasets.Dataset(datasets.table.InMemoryTable(table), fingerprint=fingerprint)
        datasets.DatasetDict(made).save_to_disk(str(folder))
    finally:
        if bars:
            datasets.utils.logging.enable_progress_bar()
