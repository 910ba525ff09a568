"""Running programs nobody has read: one Python program, its input, and what it printed.

With containment `full` (Linux; as root, or where users may make namespaces of their own) a program

- sees no network, no process and no environment variable of this machine, and of its files only the system's folders
  and Python's own, read-only: no home, no /proc, no /tmp, no open file but its input and outputs;
- writes only to a folder in memory that is gone when it ends;
- runs as nobody, without a capability or a way to one;
- is bounded in processor time and address space (each of its processes), in processes and threads, in output, in
  open files, and in seconds; what it left running ends with it.

So its memory is at most `processes` × `memory_mb` + `disk_mb`, and its input and outputs. Not contained: faults of the
kernel that a program without privileges can reach (there is no filter of system calls), the load it makes, and, where
this is not root, System V shared memory till it ends. Whatever in /usr everyone may read and run, it may too.

With containment `limits` (any Unix) only those on time, memory, output and processes hold, the last not for root: a
program reads and writes what this user may, connects, and may leave processes running. For programs you trust.
"""

from __future__ import annotations

import functools
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Literal, NamedTuple

from pydantic import Field

from tether.config import Section
from tether.errors import InputError

JAIL = Path(__file__).with_name("jail.py")
GRACE = 10.0
"""Seconds beyond the program's own in which the machine must have started and ended it."""


class SandboxConfig(Section):
    """What a program may use. What goes beyond is stopped, and counts as failed."""

    cpu_seconds: int = Field(default=5, ge=1)
    """Processor seconds of each process."""
    wall_seconds: float = Field(default=10.0, gt=0)
    """Seconds from start to end."""
    memory_mb: int = Field(default=512, ge=64)
    """Address space of each process."""
    processes: int = Field(default=8, ge=1)
    """Processes and threads at a time, the program itself included."""
    output_kb: int = Field(default=256, ge=1)
    """Of each of standard output and standard error, and of each file it writes."""
    disk_mb: int = Field(default=16, ge=1)
    """All the files it writes, which are in memory."""
    containment: Literal["full", "limits"] = "full"
    """`full`, or an error where that cannot be had. `limits` is for programs you trust: network and files are open."""


class Outcome(NamedTuple):
    """How a program ended."""

    end: Literal["exit", "signal", "time", "output"]
    """It ended itself; a signal ended it (24: processor time); it took too long; it printed too much."""
    code: int
    """Exit code or signal; 0 otherwise."""
    stdout: str
    """What it printed, as UTF-8, anything else replaced."""
    stderr: str
    """What it printed to standard error, likewise."""

    @property
    def succeeded(self) -> bool:
        """It ended itself with exit code 0, within all limits."""
        return self.end == "exit" and self.code == 0


def run_program(program: str, stdin: str = "", config: SandboxConfig | None = None) -> Outcome:
    """Run a Python program (standard library only) on `stdin`, within the limits; returns when nothing of it is left.

    >>> run_program("print(input()[::-1])", "olleh").stdout
    'hello\\n'

    Raises:
        InputError: this machine cannot contain it.
    """
    config = config or SandboxConfig()
    source = program.encode(errors="replace")
    limits = (
        config.cpu_seconds,
        config.memory_mb << 20,
        config.processes,
        config.output_kb << 10,
        config.disk_mb << 20,
    )
    with (
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as printed,
        tempfile.TemporaryFile() as complained,
        tempfile.TemporaryDirectory() as folder,
    ):
        given.write(source + stdin.encode(errors="replace"))
        given.seek(0)
        arguments = [config.containment, len(source), config.wall_seconds, *limits]
        status = _run(arguments, given, printed, complained, folder, config.wall_seconds + GRACE)
        outputs = [_read(file, config.output_kb << 10) for file in (printed, complained)]
    kind, _, rest = status.partition(" ")
    if kind == "error":
        raise InputError(
            f"this machine cannot contain untrusted programs ({rest}): that takes Linux 5.12 or later, and root or "
            "user namespaces; containment = 'limits' runs them bounded in time and memory alone, for programs you trust"
        )
    too_much = any(len(text) >= config.output_kb << 10 for text in outputs)
    stdout, stderr = (text.decode(errors="replace") for text in outputs)
    if kind == "time":
        return Outcome("time", 0, stdout, stderr)
    if too_much:
        return Outcome("output", 0, stdout, stderr)
    return Outcome("signal" if kind == "signal" else "exit", int(rest), stdout, stderr)


def _run(
    arguments: Sequence[object],
    stdin: IO[bytes],
    stdout: IO[bytes],
    stderr: IO[bytes],
    folder: str,
    seconds: float,
) -> str:
    """The first line of the jail's report; `signal 9` where it was killed before it could make one."""
    reading, writing = os.pipe()
    containment, *numbers = map(str, arguments)
    command = [os.path.realpath(sys.executable), "-I", "-S", str(JAIL), containment, str(writing), *numbers]
    try:
        jail = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=folder,
            env={},
            pass_fds=(writing,),
            start_new_session=True,
        )
        os.close(writing)
        said = _until_closed(reading, seconds)
        if said is None:
            os.killpg(jail.pid, signal.SIGKILL)
        jail.wait()
    finally:
        os.close(reading)
    lines = ["time"] if said is None else said.decode(errors="replace").splitlines()
    return lines[0] if lines else "signal 9"


def _until_closed(pipe: int, seconds: float) -> bytes | None:
    """What is written to a pipe till its other end is closed; None where that takes too long.

    `Popen.wait` with a time limit sleeps up to 50 ms at a time, twice what a small program takes.
    """
    poll = select.poll()
    poll.register(pipe, select.POLLIN | select.POLLHUP)
    deadline, said = time.monotonic() + seconds, b""
    while poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        more = os.read(pipe, 4096)
        if not more:
            return said
        said += more
    return None


def _read(file: IO[bytes], most: int) -> bytes:
    file.seek(0)
    return file.read(most)


@functools.cache
def check_containment(containment: Literal["full", "limits"]) -> None:
    """InputError on a machine where programs cannot be contained so. Looked at once."""
    outcome = run_program("print(1)", config=SandboxConfig(containment=containment))
    if not outcome.succeeded:
        said = (outcome.stderr.strip().splitlines() or [""])[-1]
        raise InputError(f"a program in the sandbox does not start here: {outcome.end} {outcome.code} {said}".rstrip())
