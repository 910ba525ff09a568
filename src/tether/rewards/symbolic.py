r"""The verifier `symbolic`: answers that mean the same in mathematics, as math-verify judges (`0.5`, `\frac{1}{2}`).

A hostile expression (`9^{9^{9^9}}`) is never done, and no signal stops arithmetic once begun. So a process of its own
judges (`expressions.py`), which is killed when it takes too long, and started anew.
"""

from __future__ import annotations

import atexit
import functools
import json
import select
import subprocess
import sys
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from pydantic import Field, model_validator
from torch import Tensor

from tether.errors import InputError
from tether.rewards.answers import Referenced, graded, place_of, references
from tether.types import Group, Prompt

START_SECONDS = 120.0
"""To import sympy on a busy machine."""


class Judge:
    """The process that compares expressions; it runs from the first question on, and one question at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        atexit.register(self.stop)

    def ask(self, right: Sequence[str], said: str, seconds: float) -> str:
        """`equal`, `different`, `unreadable` (a right answer is), or `late`. InputError when it does not start."""
        with self._lock:
            process = self._process or self._started()
            assert process.stdin is not None
            process.stdin.write(json.dumps([list(right), said]).encode() + b"\n")
            verdict = _line(process, seconds)
            if not verdict:  # too slow, or it died of the question
                self.stop()
            return verdict or "late"

    def _started(self) -> subprocess.Popen[bytes]:
        script = str(Path(__file__).with_name("expressions.py"))
        self._process = process = subprocess.Popen(
            [sys.executable, "-P", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        if _line(process, START_SECONDS) != "ready":
            self.stop()
            raise InputError("math-verify does not start in a process of its own; try: python -c 'import math_verify'")
        return process

    def stop(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


def _line(process: subprocess.Popen[bytes], seconds: float) -> str:
    """A line it says within that time; empty where it does not."""
    assert process.stdout is not None
    poll = select.poll()
    poll.register(process.stdout, select.POLLIN | select.POLLHUP)
    return process.stdout.readline().decode().strip() if poll.poll(seconds * 1000) else ""


@functools.cache
def judge() -> Judge:
    """The one of this process."""
    return Judge()


class Symbolic(Referenced):
    r"""1 for an answer that is mathematically equal to the reference, else 0; needs math-verify (extra `verify`).

    Expressions are found in LaTeX (`$…$`, `\boxed{…}` first) or as plain numbers and terms.
    """

    seconds: float = Field(default=3.0, gt=0)
    """Time to understand and compare one answer; over it, it counts as wrong."""

    @model_validator(mode="after")
    def _installed(self) -> Symbolic:
        if find_spec("math_verify") is None:
            raise InputError("needs the package math-verify: pip install 'tether-rlhf[verify]'")
        return self

    def grade(self, text: str, prompt: Prompt) -> float:
        right = references(prompt, self.column)
        verdict = judge().ask(right, text, self.seconds)
        if verdict == "unreadable":
            raise InputError(
                f"{place_of(prompt)}: the reference answer {right[0]!r} is no expression that math-verify understands"
            )
        return float(verdict == "equal")

    def __call__(self, groups: Sequence[Group]) -> Tensor:
        return graded(groups, self.grade)
