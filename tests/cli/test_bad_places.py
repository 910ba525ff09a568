"""Folders that cannot be written, disks that fill, runs that were cut: one sentence, no harm to what was there."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import jsonl, looks_finished, ppo, recipe, refused, sft, state

from tether.cli import main

Capture = pytest.CaptureFixture[str]

FLAKY = '''
"""A reward that fails once it was asked as often as the file `asks` allows."""
from pathlib import Path

def flaky(completions, **_):
    left = Path("asks")
    if left.exists():
        count = int(left.read_text())
        if count == 0:
            raise RuntimeError("the service is down")
        left.write_text(str(count - 1))
    return [float(len(c)) for c in completions]
'''
SFT = 'name = "sft"\nalgorithm = "sft"\nmodel = "chat"\ndata.path = "good.jsonl"\ntrain.steps = 1'
PAIRS = 'name = "pairs"\nalgorithm = "sample"\nmodel = "stage:sft"\ndata.path = "prompts.jsonl"'


def tether(*args: str, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """The real command in a new process."""
    command = [sys.executable, "-c", "import sys; from tether.cli import main; sys.exit(main())", *args]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=250, **options)


class TestWhatWasThereStays:
    """A finished artifact outlives every mistake in what would have taken its place."""

    @pytest.fixture
    def finished(self, bench: Path, capsys: Capture) -> dict[str, str]:
        """`out` holds a finished SFT; its files."""
        assert main(sft()) == 0, capsys.readouterr().err
        assert len(looks_finished(bench / "out")) == 2
        return state(bench / "out")

    @pytest.mark.parametrize(
        ("args", "says"),
        [
            (sft("gone.jsonl"), "no such file"),
            (sft("long.jsonl"), "over the limit"),
            (sft("good.jsonl", "train.stepz=1"), "did you mean 'steps'"),
            (sft("good.jsonl", "optim.lr=1e30"), "sft/loss is nan"),
            (sft(model="small-embedding"), "embeds only 290"),
            (ppo(by="bad_rewards:nan"), "finite number"),
            (ppo(by="flaky:flaky"), "the service is down"),
        ],
    )
    def test_after_a_mistake(
        self, args: list[str], says: str, finished: dict[str, str], bench: Path, capsys: Capture
    ) -> None:
        (bench / "long.jsonl").write_text(jsonl([{"prompt": "zq" * 60, "response": "fine"}]))
        (bench / "flaky.py").write_text(FLAKY)
        (bench / "asks").write_text("1")
        refused(args, (says,), capsys)
        after = state(bench / "out")
        assert {name: after.get(name) for name in finished} == finished
        assert [name for name in after if name not in finished and not name.startswith("unfinished/")] == []
        capsys.readouterr()
        assert main(["show", "out"]) == 0
        assert "sft" in capsys.readouterr().out
        assert main(sft()) == 0
        assert "done before" in capsys.readouterr().out

    def test_until_something_takes_its_place(self, finished: dict[str, str], bench: Path) -> None:
        assert main(sft("good.jsonl", "train.steps=3")) == 0
        after = state(bench / "out")
        assert after.keys() == finished.keys()
        assert after["manifest.json"] != finished["manifest.json"]
        assert after["model/model.safetensors"] != finished["model/model.safetensors"]

    def test_what_others_put_there(self, finished: dict[str, str], bench: Path, capsys: Capture) -> None:
        (bench / "theirs").mkdir()
        (bench / "theirs" / "thesis.tex").write_text("all of it")
        refused([a if a != "out" else "theirs" for a in sft()], ("theirs", "did not write", "new folder"), capsys)
        assert list(state(bench / "theirs")) == ["thesis.tex"]


class TestOutputFolder:
    @pytest.mark.parametrize("out", ["good.jsonl", "good.jsonl/out", "good.jsonl/a/b", "/proc/out", "/dev/null/out"])
    def test_that_cannot_be(self, out: str, bench: Path, capsys: Capture) -> None:
        before = state(bench)
        refused([out if a == "out" else a for a in sft()], ("cannot write to", out, "--out"), capsys)
        assert state(bench) == before

    def test_a_name_too_long(self, bench: Path, capsys: Capture) -> None:
        refused(["x" * 300 if a == "out" else a for a in sft()], ("cannot write to", "too long"), capsys)

    def test_a_stage_s_folder_is_a_file(self, bench: Path, capsys: Capture) -> None:
        (bench / "r.toml").write_text(str(recipe(SFT)["r.toml"]))
        (bench / "out").mkdir()
        (bench / "out" / "sft").write_text("not a folder")
        refused(["run", "r.toml", "--out", "out"], ("out/sft",), capsys)
        assert (bench / "out" / "sft").read_text() == "not a folder"

    def test_another_process_is_there(self, bench: Path, capsys: Capture) -> None:
        (bench / "out").mkdir()
        hold = "import fcntl; f = open('out/.lock', 'w'); fcntl.flock(f, 2); print('held', flush=True); input()"
        with subprocess.Popen(
            [sys.executable, "-c", hold], cwd=bench, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            refused(sft(), ("another process is running in out", "--out"), capsys)
            other.communicate("\n", timeout=250)
        assert main(sft()) == 0

    def test_read_only(self, mount: Callable[..., Path], bench: Path, capsys: Capture) -> None:
        disk = mount("ro")
        refused([str(disk / "out") if a == "out" else a for a in sft()], ("cannot write to", "Read-only"), capsys)
        assert list(disk.iterdir()) == []

    def test_read_only_with_a_finished_run(self, mount: Callable[..., Path], bench: Path, capsys: Capture) -> None:
        disk = mount("rw")
        out = str(disk / "out")
        assert main([out if a == "out" else a for a in sft()]) == 0
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        refused(["report", out], ("Read-only",), capsys)
        capsys.readouterr()
        assert main(["show", out]) == 0


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """`mount(options)`: a disk of its own; skipped where mounting is not allowed."""
    made: list[Path] = []

    def make(options: str) -> Path:
        disk = tmp_path / f"disk-{len(made)}"
        disk.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
        made.append(disk)
        return disk

    yield make
    for disk in made:
        subprocess.run(["umount", str(disk)], check=True)


class TestFullDisk:
    @pytest.mark.parametrize("size", [4, 8, 16, 24, 40, 64, 96, 128, 192])
    def test_training(self, size: int, mount: Callable[..., Path], bench: Path, capsys: Capture) -> None:
        """A disk of `size` kB fills at another place each: the marker, a checkpoint, the model, the tokenizer."""
        disk = mount(f"size={size}k")
        out = disk / "out"
        args = [str(out) if a == "out" else a for a in sft("good.jsonl", "train.save_every=1")]
        message = refused(args, ("No space left on device",), capsys)
        assert str(disk) in message
        assert not (out / "manifest.json").exists()
        assert not (out / "model").exists()
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        assert main(args) == 0, capsys.readouterr().err  # once there is room, the same command goes on

    def test_a_whole_run_up_to_its_report(self, mount: Callable[..., Path], bench: Path, capsys: Capture) -> None:
        (bench / "r.toml").write_text(str(recipe(SFT, PAIRS)["r.toml"]))
        disk = mount("size=4m")
        args = ["run", "r.toml", "--out", str(disk / "out")]
        assert main(args) == 0
        used = sum(p.stat().st_size for p in (disk / "out" / "pairs").rglob("*") if p.is_file())
        assert used > 0
        (disk / "out" / "report.html").unlink()
        with (disk / "filler").open("wb", buffering=0) as filler:
            for size in (1 << 16, 1 << 12):
                while True:
                    try:
                        filler.write(b"\0" * size)
                    except OSError:
                        break
        refused(args, ("No space left on device",), capsys)
        assert not (disk / "out" / "report.html").exists()
        (disk / "filler").unlink()
        assert main(args) == 0

    def test_a_file_over_the_limit(self, bench: Path) -> None:
        """RLIMIT_FSIZE, as a quota would."""
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # noqa: E731
        done = tether(*sft("good.jsonl", "train.save_every=1"), cwd=bench, preexec_fn=limit)
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1, done.stderr
        assert "File too large" in done.stderr
        assert looks_finished(bench / "out") == []


class TestCutRuns:
    """A PPO run whose reward service went down in its third iteration."""

    ARGS = [*ppo("prompts.jsonl", "train.steps=4", "train.save_every=1", by="flaky:flaky")]

    @pytest.fixture
    def cut(self, bench: Path, capsys: Capture) -> Path:
        """What it left, the service up again."""
        (bench / "flaky.py").write_text(FLAKY)
        (bench / "asks").write_text("3")
        refused(self.ARGS, ("flaky:flaky", "the service is down"), capsys)
        assert looks_finished(bench / "out") == []
        (bench / "asks").unlink()
        assert len(list((bench / "out/unfinished/checkpoints").glob("step-*.pt"))) == 2
        return bench / "out" / "unfinished"

    def test_go_on(self, cut: Path, capsys: Capture) -> None:
        capsys.readouterr()
        assert main(self.ARGS) == 0
        assert "self-test" not in capsys.readouterr().out
        assert not cut.exists()

    @pytest.mark.parametrize("how", ["cut short", "empty", "noise", "one byte", "not a checkpoint"])
    def test_with_a_damaged_checkpoint(self, how: str, cut: Path, capsys: Capture) -> None:
        import torch

        last = sorted((cut / "checkpoints").glob("step-*.pt"))[-1]
        content = last.read_bytes()
        if how == "not a checkpoint":
            torch.save({"a": 1}, last)
        else:
            half = len(content) // 2
            flipped = content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
            damaged = {"cut short": content[:half], "empty": b"", "noise": b"\x07" * 500, "one byte": flipped}
            last.write_bytes(damaged[how])
        refused(self.ARGS, (f"checkpoint {last.relative_to(Path.cwd())} is damaged", "remove it"), capsys)
        assert looks_finished(Path("out")) == []
        last.unlink()
        assert main(self.ARGS) == 0

    def test_with_a_log_that_is_not_its_own(self, cut: Path, capsys: Capture) -> None:
        (cut / "events.jsonl").write_text("")
        refused(self.ARGS, ("events.jsonl", "does not fit its checkpoint"), capsys)

    def test_with_a_damaged_marker(self, cut: Path, capsys: Capture) -> None:
        (cut / "started.json").write_text("{")
        refused(self.ARGS, ("started.json is damaged", "remove it"), capsys)

    def test_seen_before_they_are_done(self, cut: Path, capsys: Capture) -> None:
        for verb in ("show", "report"):
            refused([verb, "out"], ("out", "holds no run"), capsys)


def test_all_mistakes_of_a_recipe_at_once(bench: Path, capsys: Capture) -> None:
    """Before anything is run: the folder is not even made."""
    stages = (
        SFT.replace("good", "gone"),
        PAIRS.replace("prompts", "chat"),
        SFT.replace('"sft"', '"more"', 1).replace('"chat"', '"no-weights"'),
    )
    (bench / "r.toml").write_text(str(recipe(*stages)["r.toml"]))
    capsys.readouterr()
    assert main(["run", "r.toml", "--out", "out"]) == 2
    first, *rest = capsys.readouterr().err.splitlines()
    assert first == "error: 3 problems"
    assert [line.split(": ")[0] for line in rest] == [
        "  stage 'sft', field data.path",
        "  stage 'pairs', field data.path",
        "  stage 'more', field model",
    ]
    assert not (bench / "out").exists()


@pytest.mark.parametrize("package", ["sqlalchemy", "alembic", "vaderSentiment"])
def test_a_package_that_is_missing(package: str, bench: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    label = 'name = "votes"\nalgorithm = "label"\nresponses = "stage:pairs"'
    (bench / "r.toml").write_text(str(recipe(SFT, PAIRS, label)["r.toml"]))
    refused(["run", "r.toml", "--out", "out"], ("stage 'votes'", package, "pip install 'tether-rlhf[demo]'"), capsys)
    assert not (bench / "out").exists()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (sft("bad.jsonl"), "bad.jsonl, line 1: not UTF-8"),
        (sft("d", "data.split=dev"), 'Unknown split "dev"'),
        (sft(model="cut-short"), "cut short"),
        (ppo(by="bad_rewards:raises"), "KeyError: 'colour'"),
        (["sample", "./gone", "hello"], "no such folder"),
    ],
)
def test_nothing_else_is_printed(args: list[str], says: str, bench: Path) -> None:
    """In a process of its own: no library warns, no progress bar is drawn, no traceback follows."""
    (bench / "bad.jsonl").write_bytes(b'{"text": "\xff"}\n')
    (bench / "d").mkdir()
    (bench / "d" / "train.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    done = tether(*args, cwd=bench)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert looks_finished(bench / "out") == []
