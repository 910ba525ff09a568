"""A run killed at any moment and resumed ends with the bits of a run that was not.

`whole` runs in a process of its own, what is killed in forks: that both come to the same says so of the processes too.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

STAGES = ("sft", "pairs", "votes", "reward", "ppo", "evaluate")
KILLS = {"sft": 5, "pairs": 3, "votes": 3, "reward": 5, "ppo": 6, "evaluate": 3}
"""Kills wanted in each stage: 25."""
ROUNDS = 4
"""Runs over which they may be spread: a stage may be over before its moment has come. More where a slow machine has
that happen so often that a stage, or more than five kills, are missing."""


def stage_of(out: Path) -> str | None:
    """The first stage that is not done; None when all are."""
    return next((name for name in STAGES if not (out / name / "manifest.json").is_file()), None)


def comparable(file: Path) -> Any:
    """What must be the same in two runs: a file's bytes, or JSON without `timing`."""
    if file.name in ("manifest.json", "report.json"):
        content = json.loads(file.read_text())
        content.pop("timing")
        return content
    return file.read_bytes()


def contents(out: Path) -> dict[str, Any]:
    """Every file of a run that must be the same in another, and the folders that are empty.

    Left out: durations, the page (which shows them), and the store, whose clock differs; its votes are compared by
    their export.
    """
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        if path.name in ("timing.jsonl", "report.html", ".lock") or path.name.startswith("preferences.sqlite"):
            continue
        if path.is_file():
            found[path.relative_to(out).as_posix()] = comparable(path)
        elif not any(path.iterdir()):
            found[path.relative_to(out).as_posix()] = "an empty folder"
    return found


def assert_same(out: Path, whole: Path) -> None:
    """Everything but timing is the same, and nothing is left over."""
    mine, theirs = contents(out), contents(whole)
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if mine[name] != theirs[name]] == []
    assert (out / "report.html").is_file()
    stores = [sorted(p.name for p in (folder / "votes").glob("preferences.sqlite*")) for folder in (out, whole)]
    assert stores[0] == stores[1]


def half_written(out: Path) -> list[str]:
    """What is being written just now: files and folders with temporary names, and an open store."""
    with contextlib.suppress(FileNotFoundError):  # renamed while we look
        return [path.name for path in out.rglob("*") if path.name.endswith((".tmp", ".part", "-wal"))]
    return []


def test_what_is_compared(whole: Path) -> None:
    """The comparison covers what it should: weights, logs, preferences, evaluation, reports."""
    names = contents(whole).keys()
    models = [f"{stage}/model/model.safetensors" for stage in ("sft", "reward", "ppo")]
    logs = [f"{stage}/events.jsonl" for stage in ("sft", "reward", "ppo")]
    manifests = [f"{stage}/manifest.json" for stage in STAGES]
    others = ["pairs/groups.jsonl", "votes/preferences.jsonl", "evaluate/evaluation.json", "report.json"]
    assert {*models, *logs, *manifests, *others} <= set(names)
    summaries = [json.loads((whole / stage / "manifest.json").read_text())["summary"] for stage in ("sft", "reward")]
    assert any(summary["kept_step"] for summary in summaries), "the best weights are always the first"


def test_killed_at_random_moments(whole: Path, new_place: Callable[[], Path], launcher: Any) -> None:
    """SIGKILL at random moments spread over all stages, resumed each time."""
    rng = random.Random(20)
    seconds = {s: json.loads((whole / s / "manifest.json").read_text())["timing"]["seconds"] for s in STAGES}
    wanted, hits, writing = Counter(KILLS), Counter[str](), Counter[str]()
    for turn in range(3 * ROUNDS):
        cwd = new_place()
        out = cwd / "out"
        while (stage := stage_of(out)) is not None:
            target = next((s for s in STAGES[STAGES.index(stage) :] if wanted[s] > 0), None)
            if target is None:
                break
            before = STAGES[STAGES.index(target) - 1] if target != STAGES[0] else None
            launcher.start(cwd)
            # To the stage's beginning (a resumed run is there already), then to a moment within it.
            while before and not (out / before / "manifest.json").is_file() and not launcher.ended(0.01):
                pass
            ended = launcher.ended(rng.uniform(0, 0.6 * seconds[target]))
            if not ended and rng.random() < 0.3:  # on to the next thing that is written
                while not half_written(out) and not launcher.ended(0.001):
                    pass
            launcher.kill()
            hit = stage_of(out) or "report"
            if hit != target:
                seconds[target] /= 2  # came too late: `whole` ran on a slower machine
            if launcher.status() != 0:
                hits[hit] += 1
                wanted[hit] -= 1
                writing.update(half_written(out)[:1])
        launcher.start(cwd)
        assert launcher.status() == 0, (cwd / "log.txt").read_text()
        assert_same(out, whole)
        enough = hits.total() >= 20 and all(hits[stage] for stage in STAGES)
        if not +wanted or (turn >= ROUNDS - 1 and enough):
            break
    print(f"\nkills by stage: {dict(hits)}; in the middle of writing: {dict(writing)}")
    assert enough


def test_killed_before_every_kind_of_change_to_the_disk(
    whole: Path, new_place: Callable[[], Path], launcher: Any
) -> None:
    """SIGKILL just before each file is opened to be written, renamed or removed, and each folder made or removed.

    The same file in two stages counts once, and so do the files of different steps.
    """
    cwd = new_place()
    seen = cwd / "seen.txt"
    kills = 0
    launcher.start(cwd, seen)
    while status := launcher.status():
        assert status == -9, (cwd / "log.txt").read_text()
        kills += 1
        launcher.start(cwd, seen)
    assert_same(cwd / "out", whole)
    changes = seen.read_text().splitlines()
    print(f"\nkills before a change to the disk: {kills}")
    assert kills == len(changes) == len(set(changes))
    for event, place in (
        ("os.rename", "STAGE/unfinished/checkpoints/step-0.tmp"),
        ("os.remove", "STAGE/unfinished/checkpoints/step-0.pt"),
        ("os.rename", "STAGE/unfinished/best.tmp"),
        ("os.rename", "STAGE/unfinished/.model.part"),
        ("os.rename", "STAGE/unfinished/manifest.json.tmp"),
        ("os.rename", "STAGE/unfinished/manifest.json"),
        ("os.truncate", "STAGE/unfinished/events.jsonl"),
        ("sqlite3.connect", "STAGE/unfinished/preferences.sqlite"),
        ("os.rename", "STAGE/unfinished/evaluation.json.tmp"),
        ("os.rename", "report.json.tmp"),
        ("os.rename", "done.json.tmp"),
    ):
        assert f"{event} {place}" in changes
