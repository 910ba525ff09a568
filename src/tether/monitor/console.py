"""What a person sees while a stage runs: a bar with rate, time left and the last metrics; plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self, TextIO

from tether.monitor.metrics import number
from tether.monitor.trackers import scalars

SHOWN = 4
"""Metrics beside the bar."""
QUIET_SECONDS = 10.0
"""Without a terminal, the longest silence at the beginning; it grows to a twentieth of the time spent."""


class Progress:
    """A stage's progress, as a context manager.

    >>> with Progress("sft", total=100) as progress:                           # doctest: +SKIP
    ...     progress.update(1, {"sft/loss": 3.2})
    """

    def __init__(
        self,
        stage: str,
        total: int,
        start: int = 0,
        *,
        file: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`start` steps of `total` are done already (a resumed run). `file` is standard output if not given."""
        self.stage, self.total, self.start = stage, max(total, 1), start
        self._file = file or sys.stdout
        self._clock = clock
        self._live = _Bar(stage, self.total, start, self._file) if self._file.isatty() else None
        self._step, self._metrics = start, ""
        self._began = self._said_at = clock()
        self._said_step: int | None = None

    def __enter__(self) -> Self:
        self._began = self._said_at = self._clock()
        if self._live:
            self._live.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.end()
        elif self._said_step != self._step and self._step > self.start:
            self._say()

    def update(self, step: int, metrics: Mapping[str, Any]) -> None:
        """`step` steps are done and these are the newest numbers; the first few of them are shown."""
        self._step = step
        self._metrics = "  ".join(f"{name} {number(value)}" for name, value in list(scalars(metrics).items())[:SHOWN])
        if self._live:
            self._live.update(step, self._rate(), self._metrics)
            return
        now = self._clock()
        tenth = 10 * step // self.total > 10 * (self._said_step or self.start) // self.total
        if self._said_step is None or tenth or now - self._said_at >= max(QUIET_SECONDS, (now - self._began) / 20):
            self._say()

    def note(self, text: str) -> None:
        """A remark between the lines; control characters (a model's, say) are made harmless."""
        line = f"{self.stage}: {printable(text)}"
        if self._live:
            self._live.note(line)
        else:
            print(line, file=self._file, flush=True)

    def _rate(self) -> float:
        """Steps per second of this process."""
        spent = self._clock() - self._began
        return (self._step - self.start) / spent if spent > 0 else 0.0

    def _say(self) -> None:
        rate = self._rate()
        left = f", {duration((self.total - self._step) / rate)} left" if rate and self._step < self.total else ""
        share = f"{100 * self._step // self.total:3d} %"
        pace = f"  {pace_text(rate)}{left}" if rate else ""
        metrics = f"  {self._metrics}" if self._metrics else ""
        print(f"{self.stage}  {self._step}/{self.total} {share}{pace}{metrics}", file=self._file, flush=True)
        self._said_at, self._said_step = self._clock(), self._step


class _Bar:
    """The live display, by rich."""

    def __init__(self, stage: str, total: int, start: int, file: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[rate]}", markup=False),
            TextColumn("{task.fields[metrics]}", style="dim", markup=False),
            console=Console(file=file),
        )
        self._task = self._progress.add_task(stage, total=total, completed=start, rate="", metrics="")

    def begin(self) -> None:
        self._progress.start()

    def end(self) -> None:
        self._progress.stop()

    def update(self, step: int, rate: float, metrics: str) -> None:
        self._progress.update(self._task, completed=step, rate=pace_text(rate), metrics=metrics)

    def note(self, line: str) -> None:
        self._progress.console.print(line, markup=False, highlight=False)


def printable(text: str) -> str:
    """`text` without the control characters that could move a terminal's cursor or recolour it; newlines stay."""
    return "".join(c if c == "\n" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def pace_text(rate: float) -> str:
    """Steps per second, or seconds per step when that is the larger number."""
    if rate <= 0:
        return ""
    return f"{number(rate)} steps/s" if rate >= 1 else f"{number(1 / rate)} s/step"


def duration(seconds: float) -> str:
    """`75` → "1 min 15 s"; the two largest units that are not zero."""
    whole = round(seconds)
    if whole < 1:
        return f"{seconds:.1f} s"
    sizes = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    parts: list[str] = []
    for unit, size in sizes:
        count, whole = divmod(whole, size)
        if count or parts:
            parts.append(f"{count} {unit}" if count else "")
    return " ".join(part for part in parts[:2] if part)
