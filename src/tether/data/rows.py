"""Files → rows (dictionaries). JSONL, JSON, CSV, Parquet, whatever `datasets` loads, and the demo sets."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tether.config import DataConfig
from tether.errors import InputError

Row = dict[str, Any]


def read_rows(config: DataConfig) -> list[Row]:
    """The rows a data section names, columns renamed, at most `limit` of them.

    Raises:
        InputError: no such file, split or column; not text, not JSON; nothing in it.
    """
    rows = list(islice(_source(config), config.limit))
    if not rows:
        raise InputError(f"{config.path}: is empty; it holds no example")
    for old, new in config.rename.items():
        if old not in rows[0]:
            raise InputError(f"{config.path}: rename names column '{old}', but the columns are {', '.join(rows[0])}")
        rows = [{new if name == old else name: value for name, value in row.items()} for row in rows]
    return rows


def _source(config: DataConfig) -> Iterator[Row]:
    scheme, _, name = config.path.partition(":")
    if scheme in MADE:
        return iter(MADE[scheme](name, config.split))
    path = Path(config.path)
    if path.is_file():
        if config.split != "train":
            raise InputError(f"{path}: is one file, whose only split is 'train', not '{config.split}'")
        reader = READERS.get(path.suffix.lower())
        if reader is None:
            raise InputError(f"{path}: files end in {', '.join(READERS)}, not '{path.suffix}'")
        return reader(path)
    if path.is_dir():
        named = next((f for end in READERS if (f := path / f"{config.split}{end}").is_file()), None)
        return READERS[named.suffix](named) if named else _saved(config)
    if path.suffix.lower() in READERS or path.is_absolute() or config.path.startswith("."):
        raise InputError(f"{path}: no such file")
    return _hub(config)


def _demo(name: str, split: str) -> Iterable[Row]:
    from tether.data.demo import read_demo
    from tether.data.sums import NAMES, read_sums

    return (read_sums if name in NAMES else read_demo)(name, split)


def _gym(name: str, split: str) -> Iterable[Row]:
    from tether.data.gym import read_gym

    return read_gym(name, split)


MADE: dict[str, Callable[[str, str], Iterable[Row]]] = {"demo": _demo, "gym": _gym}
"""`SCHEME:NAME` → (name, split) → rows that are made here, from packages alone."""


def _text(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(f"{path}, line {line}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None


_DEEP = "lists and objects are nested too deep to be read"


def _jsonl(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_text(path).split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                place = f"{path}, line {number}"
                raise InputError(f"{place}: not valid JSON ({error.msg} at column {error.colno})") from None
            except RecursionError:
                raise InputError(f"{path}, line {number}: {_DEEP}") from None
            if not isinstance(row, dict):
                raise InputError(f"{path}, line {number}: is a {type(row).__name__}, not an object with named columns")
            yield row


def _json(path: Path) -> Iterator[Row]:
    try:
        rows = json.loads(_text(path))
    except json.JSONDecodeError as error:
        place = f"{path}, line {error.lineno}"
        raise InputError(f"{place}: not valid JSON ({error.msg}); for one object a line use .jsonl") from None
    except RecursionError:
        raise InputError(f"{path}: {_DEEP}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path}: must be a list of objects with named columns")
    yield from rows


def _csv(path: Path) -> Iterator[Row]:
    reader = csv.DictReader(io.StringIO(_text(path)), strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise InputError(f"{path}, line {reader.line_num}: has another number of fields than the first line")
            yield row
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not valid CSV ({error})") from None


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow.parquet

    try:
        rows: list[Row] = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise InputError(f"{path}: not a Parquet file ({str(error).splitlines()[0]})") from None
    yield from rows


READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}
"""File ending → its reader."""


def _saved(config: DataConfig) -> Iterator[Row]:
    """A folder `Dataset.save_to_disk` wrote, or any other that `datasets` loads."""
    import datasets

    try:
        if (Path(config.path) / "dataset_info.json").is_file() or (Path(config.path) / "dataset_dict.json").is_file():
            found = datasets.load_from_disk(config.path)
            if isinstance(found, datasets.DatasetDict):
                if config.split not in found:
                    raise InputError(f"{config.path}: has no split '{config.split}'; it has {', '.join(found)}")
                found = found[config.split]
            return iter(found)
        return _loaded(config)
    except InputError:
        raise
    except Exception as error:  # the library raises its own and Python's errors alike
        what = "a folder that `datasets` cannot load"
        raise InputError(f"{config.path} (split '{config.split}'): {what}: {_reason(error)}") from error


def _hub(config: DataConfig) -> Iterator[Row]:
    try:
        return _loaded(config)
    except Exception as error:  # likewise
        what = "neither a file here nor data that `datasets` can load"
        raise InputError(f"{config.path} (split '{config.split}'): {what}: {_reason(error)}") from error


def _loaded(config: DataConfig) -> Iterator[Row]:
    import datasets

    bars = datasets.utils.logging.is_progress_bar_enabled()
    datasets.utils.logging.disable_progress_bar()
    try:
        return iter(datasets.load_dataset(config.path, split=config.split))
    finally:
        if bars:
            datasets.utils.logging.enable_progress_bar()


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
