"""Simulated annotators at work over HTTP, as people work: claim, judge, submit; with the mishaps people have.

Verdicts follow from the seed, the annotator and what is shown; mishaps from the seed, the annotator and `life`, the
number of its earlier starts, so that one who crashed on a task does not crash on it for ever.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from tether.errors import InputError
from tether.feedback.annotators import Annotator, Verdict
from tether.feedback.client import Client, Task
from tether.feedback.records import Conflict

_ASK_AGAIN = 0.25  # seconds between claims while there is nothing to do


@dataclass(frozen=True)
class Habits:
    """How a simulated annotator works. Chances are per task."""

    batch: int = 1
    """Tasks claimed at a time, 1 to 5."""
    crash: float = 0.0
    """Chance of going away after claiming, without a word."""
    twice: float = 0.0
    """Chance of sending the answer twice, as a browser does that lost the reply."""
    late: float = 0.0
    """Chance of answering only once the lease has ended."""
    speed: float | None = None
    """Words they say to have read a second; None: they report the time it took."""
    linger: float = 0.0
    """Seconds of asking again when there is nothing to do: what others leave comes back when their leases end."""


class Call(NamedTuple):
    """One request that was answered, as the annotator saw it."""

    what: Literal["claim", "answer"]
    began: float
    """Seconds since 1970."""
    seconds: float
    retries: int
    """How often it had to be sent again."""
    submit_key: str | None = None
    """Of an answer: from now on it must never be lost."""


class Outcome(NamedTuple):
    """What came of one start."""

    answers: int
    skips: int
    late: int
    """Answers refused because others had answered meanwhile."""
    crashed: bool
    """It went away in the midst of its work; the caller ends the process, if it is one."""


def annotate(
    client: Client,
    project: int,
    annotator: Annotator,
    *,
    habits: Habits | None = None,
    seed: int = 0,
    life: int = 0,
    told: Callable[[Call], object] = lambda call: None,
) -> Outcome:
    """Works on a project's pairs and rankings until there is nothing left to do. `told` hears of every answered call.

    The guideline in force is acknowledged unread. InputError: tasks of another kind, or the server stays away.
    """
    habits = habits or Habits()
    mishaps = _chance(seed, annotator.name, life)
    count = {"answers": 0, "skips": 0, "late": 0}
    current = client.guideline(project)
    if not current["acknowledged"]:
        client.acknowledge(project, current["version"])
    idle_since = time.monotonic()
    while True:
        tasks: list[Task] = _timed(client, told, "claim", None, lambda: client.claim(project, habits.batch))
        claimed = time.monotonic()
        if not tasks and claimed - idle_since >= habits.linger:
            return Outcome(**count, crashed=False)
        for task in tasks:
            if mishaps.random() < habits.crash:
                return Outcome(**count, crashed=True)
            if mishaps.random() < habits.late:
                time.sleep(max(0.0, claimed + task.lease_seconds - time.monotonic()) + 0.01)
            count[_answer(client, task, annotator, habits, seed, mishaps, told)] += 1
        if tasks:
            idle_since = time.monotonic()
        else:
            time.sleep(_ASK_AGAIN)


def _answer(
    client: Client,
    task: Task,
    annotator: Annotator,
    habits: Habits,
    seed: int,
    mishaps: random.Random,
    told: Callable[[Call], object],
) -> Literal["answers", "skips", "late"]:
    if task.kind not in ("pair", "ranking"):
        raise InputError(f"project {task.project}: simulated annotators judge pairs and rankings, not kind {task.kind}")
    began = time.monotonic()
    chance = _chance(seed, annotator.name, task.prompt, *sorted(task.responses))
    said = _said(annotator.compare(task.prompt, task.responses, chance), task, chance)
    said["seconds"] = time.monotonic() - began if habits.speed is None else _words(task) / habits.speed
    key = hashlib.sha256(f"{seed}\0{annotator.name}\0{task.assignment}".encode()).hexdigest()
    try:
        for _ in range(1 + (mishaps.random() < habits.twice)):
            _timed(client, told, "answer", key, lambda: client.answer(task, key, **said))
    except Conflict:
        return "late"
    return "skips" if "skip" in said else "answers"


def _said(verdict: Verdict, task: Task, chance: random.Random) -> dict[str, Any]:
    """The verdict in the terms the project allows: where it knows no ties, they are broken at random."""
    if verdict.ranking is None:
        return {"skip": verdict.skip or task.options["skip_reasons"][0]}
    ranks: list[int] = list(verdict.ranking)
    if not task.options["ties"]:
        order = sorted(range(len(ranks)), key=lambda at: (ranks[at], chance.random()))
        ranks = [order.index(at) for at in range(len(ranks))]
    said: dict[str, Any] = {"ranking": ranks}
    if task.options["strength"] and verdict.strength is not None:
        said["strength"] = verdict.strength
    if task.options["rationale"] != "off" and (verdict.rationale or task.options["rationale"] == "required"):
        said["rationale"] = verdict.rationale or "simulated"
    return said


def _words(task: Task) -> int:
    return len(task.prompt.split()) + sum(len(text.split()) for text in task.responses)


def _chance(*of: object) -> random.Random:
    return random.Random(hashlib.sha256("\0".join(map(str, of)).encode()).digest())


def _timed(
    client: Client,
    told: Callable[[Call], object],
    what: Literal["claim", "answer"],
    key: str | None,
    call: Callable[[], Any],
) -> Any:
    began, start, before = time.time(), time.perf_counter(), client.retries
    reply = call()
    told(Call(what, began, time.perf_counter() - start, client.retries - before, key))
    return reply
