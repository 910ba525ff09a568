"""Starts the command line again and again without paying for its imports: one process has them, each run is its fork.

A line of JSON in, `{"args", "cwd", "log", "seen"}`; the run's process id out, then its exit status. With `seen`, the
run kills itself with SIGKILL just before the first change to the disk under `cwd/out` that the file `seen` does not
list.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import tether.algorithms
import tether.feedback.annotators
import tether.pipeline.evaluate_stage
import tether.pipeline.label_stage
import tether.pipeline.sample_stage
import tether.pipeline.show
import tether.pipeline.train_stage  # noqa: F401
from tether.cli import main

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "sqlite3.connect"}


def kill_before_new_changes(out: Path, seen: Path) -> None:
    """Installs the hook. The same change in two stages counts once, and so do those of numbered files."""
    known = set(seen.read_text().splitlines()) if seen.exists() else set()

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            if not isinstance(args[0], str) or not (args[2] & (os.O_WRONLY | os.O_RDWR)):
                return
        elif event not in CHANGES:
            return
        if not isinstance(args[0], str | os.PathLike):
            return
        # `shutil.rmtree` removes names within an open folder.
        within = args[1] if event in ("os.remove", "os.rmdir") else -1
        path = Path(os.readlink(f"/proc/self/fd/{within}") if within >= 0 else os.getcwd(), args[0])
        if not path.is_relative_to(out):
            return
        place = path.relative_to(out).as_posix()
        change = f"{event} {re.sub('[0-9]+', '0', re.sub('^[a-z]+/', 'STAGE/', place))}"
        if change in known or place == ".lock":
            return
        known.add(change)
        with seen.open("a") as file:
            file.write(change + "\n")
        os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def work(job: dict[str, Any]) -> int:
    """The run itself, in the fork."""
    os.chdir(job["cwd"])
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if job.get("seen"):
        kill_before_new_changes(Path(job["cwd"], "out"), Path(job["seen"]))
    try:
        return main(job["args"])
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    print("up", flush=True)
    for line in iter(sys.stdin.readline, ""):
        child = os.fork()
        if child == 0:
            os._exit(work(json.loads(line)))
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
