"""The command line: quick to start, one sentence for a mistake, and every verb reaching the pipeline."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import tether
from tether import cli
from tether.cli import LEARN, PURSUE, facts_lines, main
from tether.errors import InputError, Unavailable

ROOT = Path(__file__).parents[2]
RECIPE = """
[run]
name = "trial"

[[stage]]
name = "sft"
algorithm = "sft"
model = "base"
data.path = "a.jsonl"
"""


def run_tether(*args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """The real command in a new process."""
    command = [sys.executable, "-c", "import sys; from tether.cli import main; sys.exit(main())", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=250, **options)


@pytest.mark.parametrize("verb", [c.name or c.callback.__name__ for c in cli.app.registered_commands if c.callback])
def test_help_of_every_verb(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    assert f"Usage: tether {verb}" in capsys.readouterr().out


def test_help_loads_nothing_heavy() -> None:
    code = "import sys; from tether.cli import main; main(['--help']); print('LOADED', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split("LOADED")[1].split()}
    assert not loaded & {
        "torch",
        "transformers",
        "datasets",
        "peft",
        "pydantic",
        "rich",
        "numpy",
        "jinja2",
        "sqlalchemy",
    }
    verbs = ("run", *LEARN, *PURSUE, "sample", "chat", "annotate", "label", "export", "import", "show", "report")
    for verb in (*verbs, "coverage", "learning-curve", "recipe", "doctor"):
        assert re.search(rf"^  {verb} ", done.stdout, re.MULTILINE)


def test_help_is_quick() -> None:
    """Processor time, which other work on the machine does not stretch; the best of five."""
    seconds = []
    for _ in range(5):
        before = os.times()
        assert run_tether("--help").returncode == 0
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert 0 < min(seconds) < 0.3


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"tether {tether.__version__}\n"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["trian"], "No such command 'trian'"),
        (["sft", "--model", "x"], "Missing option '--data'"),
        (["sft", "--model", "x", "--data", "y", "--out", "z", "--lr", "1"], "No such option"),
        (["sample", "base", "hi", "-k", "0"], "Invalid value for '-k'"),
        (["sample", "base", "hi", "--temperature", "warm"], "Invalid value for '--temperature'"),
        (["recipe", "chek"], "No such command 'chek'"),
    ],
)
def test_wrong_usage(args: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["recipe", "check", "nothing.toml"], "error: nothing.toml: no such file, and no shipped recipe of this name"),
        (["run", "nothing.toml"], "error: nothing.toml: no such file, and no shipped recipe of this name"),
        (["show", "nothing"], "error: nothing: no such run; expected a run's folder, or its name under runs/"),
        (["report", "nothing"], "error: nothing: no such run; expected a run's folder, or its name under runs/"),
        (
            ["sft", "--model", "base", "--data", "d", "--out", "o", "--set", "optim.lr=fast"],
            "error: options: stage 'sft', field optim.lr: got 'fast', expected a number > 0",
        ),
        (
            ["ppo", "--model", "m", "--data", "d", "--out", "o", "--reward", "r", "--set", "clipp=1"],
            "error: options: stage 'ppo', field clipp: unknown; did you mean 'clip'?",
        ),
    ],
)
def test_mistakes_are_one_sentence(
    args: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(args) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(says)
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_no_prompt(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("\n\n")
    with empty.open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert main(["sample", "base"]) == 2
    assert capsys.readouterr().err.startswith("error: no prompt given")


def test_recipe_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.toml"
    path.write_text(RECIPE)
    assert main(["recipe", "check", str(path), "--set", "sft.train.steps=3"]) == 0
    assert capsys.readouterr().out == f"{path}: fine; 1 stage into runs/trial: sft (sft)\n"
    path.write_text(RECIPE.replace('"trial"', "3") + "seeed = 1\n")
    assert main(["recipe", "check", str(path)]) == 2
    first, *rest = capsys.readouterr().err.splitlines()
    assert first == f"error: {path}: 2 problems"
    assert [line.split(":")[0] for line in rest] == ["  [run], field name", "  stage 'sft', field seeed"]


def test_recipe_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert {"sft", "reward_model", "ppo"} <= set(
        schema["properties"]["stage"]["items"]["properties"]["algorithm"]["enum"]
    )


def test_every_shipped_recipe_checks(capsys: pytest.CaptureFixture[str]) -> None:
    from tether.config import shipped_recipes

    assert {"base", "quickstart"} <= {path.stem for path in shipped_recipes()}
    for path in shipped_recipes():
        assert main(["recipe", "check", path.stem]) == 0, capsys.readouterr().err
        assert f"{path.stem}: fine;" in capsys.readouterr().out


class TestErrorsOfTheVerbs:
    """`main` turns what a verb raises into an exit code; what it does not know keeps its traceback."""

    @pytest.mark.parametrize(
        ("error", "code", "says"),
        [
            (InputError("a.jsonl: empty"), 2, "error: a.jsonl: empty\n"),
            (Unavailable("store away"), 2, "error: store away\n"),
            (OSError(errno.ENOSPC, "No space left on device"), 2, "error: No space left on device\n"),
            (OSError(errno.EROFS, "Read-only file system", "/out/x"), 2, "error: /out/x: Read-only file system\n"),
            (KeyboardInterrupt(), 130, "interrupted\n"),
        ],
    )
    def test_known(
        self,
        error: BaseException,
        code: int,
        says: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        def fail(_: str) -> Path:
            raise error

        monkeypatch.setattr(cli, "run_folder", fail)
        assert main(["show", "x"]) == code
        assert capsys.readouterr().err == says

    @pytest.mark.parametrize("error", [ValueError("a bug"), OSError(errno.EIO, "broken disk")])
    def test_bug(self, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(_: str) -> Path:
            raise error

        monkeypatch.setattr(cli, "run_folder", fail)
        with pytest.raises(type(error)):
            main(["show", "x"])


# A shell that starts the tests in the background has them ignore Ctrl-C; a terminal does not.
WAITING = """
import signal, sys
from tether.cli import main
class Input:
    def __iter__(self):
        print("waiting", flush=True)
        yield from sys.__stdin__
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.stdin = Input()
sys.exit(main(["sample", "base"]))
"""


def test_interrupt_of_the_real_command() -> None:
    """Ctrl-C in a terminal: one word, exit code 130, no traceback."""
    leader, follower = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", WAITING], stdin=follower, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    os.close(follower)
    assert child.stdout is not None
    assert child.stdout.readline() == "waiting\n"
    time.sleep(0.1)  # now it most likely reads; if it does not yet, the answer is the same
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=250)
    os.close(leader)
    assert (child.returncode, out, err) == (130, "", "interrupted\n")


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    import torch

    from tether.models.load import _device, _dtype

    device = _device("auto")
    assert facts["use"]["device"] == device.type
    assert facts["use"]["dtype"] == str(_dtype("auto", device)).removeprefix("torch.")
    installed = metadata.version("torch")  # some builds say more of themselves: 2.11.0+cu130
    assert torch.__version__.startswith(installed)
    assert facts["versions"]["torch"] == installed
    assert facts["use"]["threads"] == torch.get_num_threads()
    assert facts["hardware"]["cpu_cores"] >= 1
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    extras = project["optional-dependencies"]
    assert set(facts["extras"]) == set(extras) - {"dev"}
    assert {facts["extras"][extra] for extra in re.findall(r"\w+", extras["dev"][0].partition("[")[2])} == {"installed"}
    assert len(facts["versions"]) == 2 + len(project["dependencies"])
    assert facts["base_model"]["present"] is True
    assert facts["warnings"] == [] or facts["use"]["free_disk_gb"] < 2
    assert main(["doctor"]) == 0
    assert f"versions.torch         {installed}\n" in capsys.readouterr().out


def test_every_algorithm_has_a_verb() -> None:
    from tether.algorithms import ALGORITHMS

    verbs = {algorithm for algorithm, _ in (*LEARN.values(), *PURSUE.values())}
    assert verbs == set(ALGORITHMS)


def test_facts_lines() -> None:
    facts = {"a": {"b": 0.123456, "c": True}, "list": [{"x": None}, {"x": 2}], "plain": ["u", "v"], "none": []}
    assert facts_lines(facts) == [
        "a.b       0.1235",
        "a.c       yes",
        "list.0.x  -",
        "list.1.x  2",
        "plain     u, v",
        "none      -",
    ]
