"""What a second run does: nothing where nothing changed, and only what a change reaches."""

from __future__ import annotations

import copy
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tether
from tether.errors import InputError
from tether.pipeline.place import source_of

TRAIN = {"steps": 1, "batch_size": 4}
RECIPE: dict[str, Any] = {
    "run": {"name": "small", "seed": 1},
    "stage": [
        {"name": "first", "algorithm": "sft", "model": "llama", "data": {"path": "demos.jsonl"}, "train": TRAIN},
        {"name": "other", "algorithm": "sft", "model": "llama", "data": {"path": "more.jsonl"}, "train": TRAIN},
        {
            "name": "replies",
            "algorithm": "sample",
            "model": "stage:first",
            "data": {"path": "prompts.jsonl"},
            "sampling": {"max_new_tokens": 4},
        },
        {
            "name": "play",
            "algorithm": "ppo",
            "model": "stage:first",
            "reward": "lengths:long_ones",
            "data": {"path": "prompts.jsonl"},
            "train": TRAIN,
            "sampling": {"max_new_tokens": 4},
        },
    ],
}
"""Two trainings that know nothing of each other, and two stages after the first."""


def made_at(run: Path) -> dict[str, int]:
    """Stage → when its manifest was written, in nanoseconds."""
    return {path.parent.name: path.stat().st_mtime_ns for path in run.glob("*/manifest.json")}


def rerun(sets: list[str], recipe: dict[str, Any] = RECIPE, **options: Any) -> set[str]:
    """Runs the recipe once more; which stages ran."""
    before = made_at(Path("runs/small"))
    # A run is a process of its own outside of tests: it has not imported the reward function's old source.
    sys.modules.pop("lengths", None)
    assert tether.run(recipe, sets, **options) == Path("runs/small")
    return {name for name, when in made_at(Path("runs/small")).items() if when != before.get(name)}


@pytest.fixture(scope="session")
def once(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `runs` folder with the recipe run once."""
    return tmp_path_factory.mktemp("once") / "runs"


@pytest.fixture
def ran(bench: Path, once: Path) -> Path:
    """The working directory after a first run."""
    if once.exists():
        shutil.copytree(once, bench / "runs")
    else:
        assert rerun([]) == {"first", "other", "replies", "play"}
        shutil.copytree(bench / "runs", once)
    return bench


def edit(name: str, old: str, new: str) -> None:
    """Changes an input file."""
    text = Path(name).read_text()
    assert old in text
    Path(name).write_text(text.replace(old, new, 1))


def nudge_weights() -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file("llama/model.safetensors")
    tensors["model.norm.weight"] += 0.5
    save_file(tensors, "llama/model.safetensors", {"format": "pt"})


ALL = {"first", "other", "replies", "play"}


class TestWhatRuns:
    @pytest.mark.parametrize(
        ("sets", "stages"),
        [
            ([], set()),
            (["first.optim.lr=1e-3"], ALL - {"other"}),
            (["other.optim.lr=1e-3"], {"other"}),
            (["other.seed=7"], {"other"}),
            (["replies.num_responses=3"], {"replies"}),
            (["play.kl.beta=0.2"], {"play"}),
            (["replies.num_responses=3", "other.train.steps=2"], {"replies", "other"}),
            (["run.seed=2"], ALL),
            (["run.name=small"], set()),
        ],
    )
    def test_after_a_changed_field(self, sets: list[str], stages: set[str], ran: Path) -> None:
        assert rerun(sets) == stages
        assert rerun(sets) == set()

    @pytest.mark.parametrize(
        ("change", "stages"),
        [
            (lambda: edit("demos.jsonl", "cat 0", "dog 0"), ALL - {"other"}),
            (lambda: edit("more.jsonl", "name 0", "dog 0"), {"other"}),
            (lambda: edit("prompts.jsonl", "what is 0", "what was 0"), {"replies", "play"}),
            (lambda: edit("lengths.py", "float(len(c))", "-float(len(c))"), {"play"}),
            (nudge_weights, ALL),
            (lambda: os.utime("demos.jsonl"), set()),
            (lambda: shutil.rmtree("runs/small/other"), {"other"}),
            (lambda: Path("runs/small/report.html").unlink(), set()),
        ],
    )
    def test_after_a_changed_file(self, change: Callable[[], None], stages: set[str], ran: Path) -> None:
        change()
        assert rerun([]) == stages
        assert rerun([]) == set()
        assert Path("runs/small/report.html").is_file()

    def test_there_and_back(self, ran: Path) -> None:
        """The bits of the first run come back."""
        weights = Path("runs/small/play/model/model.safetensors")
        first = weights.read_bytes()
        assert rerun(["play.optim.lr=1e-2"]) == {"play"}
        assert weights.read_bytes() != first
        assert rerun([]) == {"play"}
        assert weights.read_bytes() == first

    def test_another_order_or_a_new_stage(self, ran: Path) -> None:
        """Keys are of what stages read, not of where they stand."""
        recipe = copy.deepcopy(RECIPE)
        recipe["stage"][0:2] = recipe["stage"][1::-1]
        recipe["stage"].append({**recipe["stage"][2], "name": "again"})
        assert rerun([], recipe) == {"again"}

    def test_a_changed_reward_function_is_used(self, ran: Path) -> None:
        edit("lengths.py", "float(len(c))", "-float(len(c))")
        assert rerun([]) == {"play"}
        events = [json.loads(line) for line in Path("runs/small/play/events.jsonl").read_text().splitlines()]
        assert [e["reward/proxy"] < 0 for e in events if e["kind"] == "train"] == [True]


class TestOneStage:
    def test_alone(self, ran: Path) -> None:
        assert rerun(["replies.num_responses=3", "play.kl.beta=0.2"], only_stage="replies") == {"replies"}
        assert rerun(["replies.num_responses=3"]) == set()

    def test_refused_on_what_is_not_there(self, bench: Path) -> None:
        with pytest.raises(InputError, match=r"^stage 'replies' needs stage:first, which is not done; run the whole"):
            tether.run(RECIPE, only_stage="replies")

    def test_refused_on_what_has_changed(self, ran: Path) -> None:
        """Else its artifact would claim to be made from weights that never were."""
        with pytest.raises(InputError, match=r"^stage 'replies' needs stage:first, which is not done"):
            tether.run(RECIPE, ["first.optim.lr=1e-3"], only_stage="replies")
        assert rerun(["first.optim.lr=1e-3"], only_stage="first") == {"first"}
        assert rerun(["first.optim.lr=1e-3"], only_stage="replies") == {"replies"}

    def test_what_is_out_of_date_is_not_shown(self, ran: Path) -> None:
        assert list(tether.show("runs/small")["stages"]) == ["first", "other", "replies", "play"]
        rerun(["first.optim.lr=1e-3"], only_stage="first")
        assert list(tether.show("runs/small")["stages"]) == ["first", "other"]

    def test_unknown(self, bench: Path) -> None:
        with pytest.raises(InputError, match=r"^no stage 'replay' in recipe; it has first, other, replies, play$"):
            tether.run(RECIPE, only_stage="replay")
        assert not Path("runs").exists()


class TestWhatIsHashed:
    def test_names_that_only_look_like_files(self, bench: Path) -> None:
        """`value.model = "reward"` is a word, and `model = "base"` the shipped model, whatever folders there are."""
        for name in ("reward", "policy", "base/model"):
            Path(name).mkdir(parents=True)
        Path("base/model/config.json").write_text("{}")
        assert source_of("value.model", "reward") is None
        assert source_of("value.model", "policy") is None
        shipped = source_of("model", "base")
        assert shipped is not None
        assert shipped.parent == Path(tether.__file__).parent
        assert source_of("kl.estimator", "lengths.py") is None

    def test_functions(self, bench: Path) -> None:
        found = source_of("reward", "lengths:long_ones")
        assert found is not None
        assert found.samefile("lengths.py")
        packaged = source_of("judge", "tether.feedback.annotators:gold_reward")
        assert packaged is not None
        assert packaged.name == "annotators.py"
        assert source_of("reward", "no_such_module:f") is None
        assert source_of("data.path", "demo:chitchat-chat") is None

    def test_a_stage_s_artifact_is_its_model(self, ran: Path) -> None:
        """Its log and durations are not what another run reads."""
        assert source_of("model", "runs/small/first") == Path("runs/small/first/model")


@pytest.mark.slow
class TestTheCommand:
    """tiny.toml, as a user runs it."""

    @pytest.fixture
    def finished(self, whole: Path, new_place: Callable[[], Path]) -> Path:
        cwd = new_place()
        shutil.copytree(whole, cwd / "out")
        return cwd

    def test_done_in_seconds(self, finished: Path) -> None:
        """Nothing is written, torch is not imported; processor time, which other work does not stretch."""
        before = {path: path.stat().st_mtime_ns for path in (finished / "out").rglob("*") if path.name != ".lock"}
        code = (
            "import sys; from tether.cli import main; code = main(sys.argv[1:]); "
            "print(sorted({'torch', 'transformers', 'datasets', 'numpy'} & sys.modules.keys())); sys.exit(code)"
        )
        for _ in range(3):  # a neighbour on the same core stretches even that
            started = os.times()
            done = subprocess.run(
                [sys.executable, "-c", code, "run", "tiny.toml", "--out", "out"],
                cwd=finished,
                capture_output=True,
                text=True,
                check=True,
            )
            ended = os.times()
            took = ended.children_user + ended.children_system - started.children_user - started.children_system
            if took < 1.5:
                break
        lines = done.stdout.splitlines()
        stages = ("sft", "pairs", "votes", "reward", "ppo", "evaluate")
        assert lines[:-2] == [f"{stage}: done before" for stage in stages]
        assert lines[-2].startswith("run out: done in ")
        assert lines[-1] == "[]"
        assert took < 1.5
        after = {path: path.stat().st_mtime_ns for path in (finished / "out").rglob("*") if path.name != ".lock"}
        assert after == before

    def test_one_changed_field(self, finished: Path, tether: Any) -> None:
        before = made_at(finished / "out")
        sets = ["--set", "evaluate.sampling.temperature=0.9"]
        done = tether("run", "tiny.toml", "--out", "out", *sets, cwd=finished)
        assert done.returncode == 0, done.stderr
        after = made_at(finished / "out")
        assert [name for name in after if after[name] != before[name]] == ["evaluate"]
        assert done.stdout.count("done before") == 5

    def test_another_process_is_running(self, new_place: Callable[[], Path], launcher: Any, tether: Any) -> None:
        cwd = new_place()
        launcher.start(cwd)
        while not (cwd / "out" / "sft").exists():  # made under the lock
            assert not launcher.ended(0.01)
        os.kill(launcher.pid, signal.SIGSTOP)  # however long the second one takes
        second = tether("run", "tiny.toml", "--out", "out", cwd=cwd)
        launcher.kill()
        assert launcher.status() == -9
        says = "error: another process is running in out; wait for it or choose another --out\n"
        assert (second.returncode, second.stdout, second.stderr) == (2, "", says)

    def test_even_when_all_is_done(self, finished: Path, tether: Any) -> None:
        with (finished / "out" / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            second = tether("run", "tiny.toml", "--out", "out", cwd=finished)
        assert second.returncode == 2
        assert second.stderr.startswith("error: another process is running in out")

    def test_show_and_report(self, finished: Path, tether: Any) -> None:
        shown = tether("show", "out", "--json", cwd=finished)
        stages = json.loads(shown.stdout)["stages"]
        assert list(stages) == ["sft", "pairs", "votes", "reward", "ppo", "evaluate"]
        assert 0 <= stages["evaluate"]["metrics"]["reward_model"]["accuracy"]["estimate"] <= 1
        page = (finished / "out" / "report.html").read_bytes()
        (finished / "out" / "report.html").unlink()
        assert tether("report", "out", cwd=finished).stdout == "out/report.html\n"
        assert (finished / "out" / "report.html").read_bytes() == page
