"""The verifier `code`: the program in a response, tried by the prompt's tests in a sandbox.

Tests come in a column, in one of three forms: Python statements that raise where the program is wrong (`["assert add(1,
2) == 3", …]`, or one text); what it prints for what it reads (`[{"input": "1 2", "output": "3"}, …]`); or the same as
`{"inputs": […], "outputs": […]}`. The program of a response is its last fenced block, or all of it.

Statements run in the answer's own interpreter, after it: an answer that ends early passes nothing, but one that sets
out to cheat (values that equal everything) can. Expected outputs never enter the sandbox: what is compared with them
cannot be fooled.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor

from tether.config import Section
from tether.errors import InputError
from tether.rewards.answers import column_of, place_of
from tether.rewards.sandbox import SandboxConfig, check_containment, run_program
from tether.types import Group, Prompt

TEST_COLUMNS = ("tests", "test_list", "test")
"""Where tests are looked for, best first, when no column is named."""

HARNESS = """
import json, os, sys

out = os.dup(1)
os.dup2(2, 1)
names = {"__name__": "answer"}
exec(compile(json.loads(sys.stdin.readline()), "answer.py", "exec"), names)
token, tests = json.loads(sys.stdin.readline())
for number, test in enumerate(tests):
    try:
        exec(compile(test, "test.py", "exec"), dict(names))
    except BaseException:
        continue
    os.write(out, f"{token} {number}\\n".encode())
"""
"""Runs an answer and then each test; says which passed, after a token that the answer could not know when it ran."""


class Exchange(NamedTuple):
    """What a program is given to read, and what it should print."""

    given: str
    wanted: str


Tests = list[str] | list[Exchange]


def tests_of(prompt: Prompt, column: str | None) -> Tests:
    """A prompt's tests: all statements, or all exchanges.

    >>> tests_of(Prompt((), meta={"tests": [{"input": "1", "output": 2}]}), None)
    [Exchange(given='1', wanted='2')]

    Raises:
        InputError: there is no such column, no test in it, or a test of another form.
    """
    found = column_of(prompt, (column,) if column else TEST_COLUMNS, "the list of tests")
    if isinstance(found, str):
        found = [found]
    if isinstance(found, Mapping) and {"inputs", "outputs"} <= found.keys():
        given, wanted = found["inputs"], found["outputs"]
        if len(given) != len(wanted):
            raise InputError(f"{place_of(prompt)}: its tests have {len(given)} inputs and {len(wanted)} outputs")
        found = [{"input": i, "output": o} for i, o in zip(given, wanted, strict=True)]
    if isinstance(found, list | tuple) and found:
        if all(isinstance(test, str) for test in found):
            return list(found)
        if all(isinstance(test, Mapping) and {"input", "output"} <= test.keys() for test in found):
            return [Exchange(str(test["input"]), str(test["output"])) for test in found]
    raise InputError(
        f"{place_of(prompt)}: its tests are {str(found)[:80]!r}; they must be a list of Python statements, or of "
        "tables with input and output"
    )


def program_in(text: str) -> str:
    """The last fenced block of a response; all of it where there is none.

    >>> program_in("So:\\n```python\\nprint(1)\\n```")
    'print(1)\\n'
    """
    blocks = re.findall(r"```[ \t]*(?:python|py)?3?[ \t]*\n(.*?)```", text, re.DOTALL | re.IGNORECASE)
    return blocks[-1] if blocks else text


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


class Code(Section):
    """The share of its tests that a program passes, or 1 where it passes all and else 0."""

    column: str | None = None
    """The prompt's column with the tests; `tests`, `test_list` or `test` when not given."""
    score: Literal["fraction", "all"] = "fraction"
    """`all` gives nothing for a part."""
    sandbox: SandboxConfig = SandboxConfig()
    """What the program may use: of all statements together, of each exchange."""
    workers: int | None = Field(default=None, ge=1)
    """Programs at a time; twice the processors when not given, because half of a program's time is waiting."""

    @model_validator(mode="after")
    def _contained(self) -> Code:
        check_containment(self.sandbox.containment)
        return self

    def __call__(self, groups: Sequence[Group]) -> Tensor:
        tried = [
            (program_in(response.text), tests)
            for group in groups
            if group.responses
            for tests in [tests_of(group.prompt, self.column)]
            for response in group.responses
        ]
        with ThreadPoolExecutor(self.workers or 2 * (os.cpu_count() or 1)) as pool:
            shares = list(pool.map(self._share, *zip(*tried, strict=True))) if tried else []
        passed = torch.tensor(shares, dtype=torch.float32)
        return passed if self.score == "fraction" else (passed == 1).float()

    def _share(self, program: str, tests: Tests) -> float:
        """Of the tests, passed."""
        statements = [test for test in tests if isinstance(test, str)]
        passed = self._statements(program, statements) if statements else 0
        for test in tests:
            if isinstance(test, Exchange):
                outcome = run_program(program, test.given, self.sandbox)
                passed += outcome.succeeded and _lines(outcome.stdout) == _lines(test.wanted)
        return passed / len(tests)

    def _statements(self, program: str, tests: Sequence[str]) -> int:
        """How many raise nothing."""
        token = secrets.token_hex(8)
        given: list[Any] = [program, [token, list(tests)]]
        outcome = run_program(HARNESS, "".join(json.dumps(part) + "\n" for part in given), self.sandbox)
        said = set(outcome.stdout.splitlines())
        return sum(f"{token} {number}" in said for number in range(len(tests)))
