"""The event log: what a run measured, one JSON object a line, the same bytes every time the run is repeated.

`events.jsonl` holds only what the seed decides; what the clock decides goes to `timing.jsonl` beside it. A checkpoint
stores `cursor()`, and `EventLog.open(folder, cursor)` cuts both files back to it, so a run that was killed and
resumed writes the log it would have written undisturbed.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from tether.errors import InputError

Kind = Literal["train", "eval", "samples", "note", "alarm"]
"""What an event is: a training step's metrics, an evaluation's, held-out answers, a remark, a guard's warning."""

EVENTS = "events.jsonl"
TIMING = "timing.jsonl"
NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: scalar tensors become numbers, NaN and ±Inf the strings "nan", "inf", "-inf"."""
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(float(value))
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if hasattr(value, "tolist"):  # a tensor or an array, of any size
        return plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a {type(value).__name__} cannot go into the event log")


class EventLog:
    """Appends to `events.jsonl` and `timing.jsonl` in `folder`; every line reaches the operating system at once.

    >>> log = EventLog.open("runs/mine/ppo")                                   # doctest: +SKIP
    >>> log.write(1, "train", {"reward/proxy": 0.25, "kl/ref": 0.01})          # doctest: +SKIP
    >>> log.time(1, {"seconds": 4.2, "tokens_per_second": 812.0})              # doctest: +SKIP
    """

    def __init__(self, path: str | Path) -> None:
        """Go on at the end of the files in the folder `path`, a torn last line removed; new files if there are none."""
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        self._files = {name: (self.path / name).open("ab") for name in (EVENTS, TIMING)}
        for name, file in self._files.items():
            file.truncate(_whole_lines(self.path / name))

    @classmethod
    def open(cls, path: str | Path, cursor: Mapping[str, int] | None = None) -> Self:
        """The log as it was when `cursor()` returned `cursor`; emptied when `cursor` is None (a run from its start).

        Raises InputError when a file is shorter than the cursor or the cursor is inside a line: then it is another log.
        """
        folder = Path(path)
        for name in (EVENTS, TIMING):
            file, offset = folder / name, 0 if cursor is None else cursor[name]
            content = file.read_bytes() if file.exists() else b""
            if len(content) < offset or (offset and content[offset - 1 : offset] != b"\n"):
                raise InputError(
                    f"{file} does not fit its checkpoint: no line ends at byte {offset} of its {len(content)}; "
                    "restore the file, or delete the stage's folder to run it again"
                )
            if file.exists():
                os.truncate(file, offset)
        return cls(folder)

    def write(self, step: int, kind: Kind, content: Mapping[str, Any]) -> None:
        """Append one event. `content` must not depend on the clock; see `time` for what does."""
        self._append(EVENTS, {"step": step, "kind": kind}, content)

    def time(self, step: int, content: Mapping[str, Any]) -> None:
        """Append one line of durations and rates to `timing.jsonl`."""
        self._append(TIMING, {"step": step}, content)

    def cursor(self) -> dict[str, int]:
        """Byte length of each file, which is on disk when this returns."""
        for file in self._files.values():
            os.fsync(file.fileno())
        return {name: os.fstat(file.fileno()).st_size for name, file in self._files.items()}

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, name: str, head: dict[str, Any], content: Mapping[str, Any]) -> None:
        if clash := head.keys() & content.keys():
            raise ValueError(f"an event cannot set {sorted(clash)}")
        # ASCII: a lone surrogate in a sampled text must not stop a run, nor a torn line end inside a character.
        line = json.dumps(head | plain(content), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
        self._files[name].write(line.encode("ascii") + b"\n")
        self._files[name].flush()


def read_events(path: str | Path) -> list[dict[str, Any]]:
    """The events of a JSONL file, or of the `events.jsonl` in a folder; a torn last line is left out, no file is [].

    Metrics (names with a `/`) that are "nan", "inf" or "-inf" come back as floats. Raises InputError, with the line's
    number, for a line in the middle that is not a JSON object.
    """
    file = Path(path)
    if file.is_dir():
        file = file / EVENTS
    if not file.exists():
        return []
    events = []
    for number, line in enumerate(file.read_bytes().split(b"\n")[:-1], start=1):
        try:
            event = json.loads(line)
        except ValueError as error:
            raise InputError(f"{file}, line {number}: not a line of JSON ({error})") from None
        if not isinstance(event, dict):
            raise InputError(f"{file}, line {number}: an event is a JSON object, not {type(event).__name__}")
        events.append({key: _number(item) if "/" in key else item for key, item in event.items()})
    return events


def _number(value: Any) -> Any:
    return NON_FINITE.get(value, value) if isinstance(value, str) else value


def _whole_lines(file: Path) -> int:
    """Bytes of `file` up to its last line end."""
    return file.read_bytes().rfind(b"\n") + 1
