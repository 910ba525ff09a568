"""A short recipe, its data, the real command, and a way to start it a hundred times."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tether.config import DataConfig
from tether.data.rows import read_rows

HERE = Path(__file__).parent
DATA = {
    "chat": ("chitchat-chat", "train", 64),
    "chat_held_out": ("chitchat-chat", "validation", 16),
    "prompts": ("chitchat-prompts", "train", 64),
    "prompts_held_out": ("chitchat-prompts", "validation", 12),
    "prompts_new": ("chitchat-prompts", "test", 16),
}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}

Tether = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny.toml and what it reads: a few of the demo's rows, so that a start need not read them all."""
    folder = tmp_path_factory.mktemp("data")
    for name, (source, split, limit) in DATA.items():
        rows = read_rows(DataConfig(path=f"demo:{source}", split=split, limit=limit))
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "tiny.toml").write_text((HERE / "tiny.toml").read_text())
    return folder


@pytest.fixture(scope="session")
def tether() -> Tether:
    """Runs the installed command in a new process."""

    def run(*args: str | Path, cwd: Path, stdin: str = "", timeout: float = 900) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name("tether")), *map(str, args)]
        return subprocess.run(
            command, cwd=cwd, input=stdin, env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout
        )

    return run


class Launcher:
    """Forks of one process that has imported everything (launcher.py); one run at a time."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.pid = 0

    def start(self, cwd: Path, seen: Path | None = None) -> None:
        """Starts `tether run tiny.toml --out out`, its output appended to `log.txt`."""
        args = ["run", "tiny.toml", "--out", "out"]
        job: dict[str, Any] = {"args": args, "cwd": str(cwd), "log": str(cwd / "log.txt"), "seen": seen and str(seen)}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job).encode() + b"\n")
        self.pid = int(self.line())

    def ended(self, seconds: float) -> bool:
        """Whether the run ends within this time."""
        return bool(select.select([self.process.stdout], [], [], seconds)[0])

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(self.pid, signal.SIGKILL)

    def status(self) -> int:
        """The exit status once the run has ended; -9 where it was killed."""
        return int(self.line())

    def line(self) -> bytes:
        """What the launcher says next."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    command = [sys.executable, str(HERE / "launcher.py")]
    # Unbuffered: `select` must see what has been said.
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT, bufsize=0
    ) as process:
        started = Launcher(process)
        assert started.line() == b"up\n"
        yield started
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def new_place(data: Path, tmp_path: Path) -> Callable[[], Path]:
    """Makes working directories with the recipe and its data in them."""
    numbers = count()

    def make() -> Path:
        cwd = tmp_path / f"place{next(numbers)}"
        cwd.mkdir()
        link_data(data, cwd)
        return cwd

    return make


@pytest.fixture(scope="session")
def whole(data: Path, tether: Tether, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of tiny.toml that nothing disturbed. Look, don't touch."""
    cwd = tmp_path_factory.mktemp("whole")
    link_data(data, cwd)
    done = tether("run", "tiny.toml", "--out", "out", cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return cwd / "out"


def link_data(data: Path, cwd: Path) -> None:
    """The recipe and its data in another working directory, under the same relative names."""
    for file in data.iterdir():
        (cwd / file.name).symlink_to(file)


WORDS = "hello there how are you today I am fine thank you what is your name the cat sat on the mat " * 3
FILES = {
    "demos.jsonl": [{"prompt": f"hello cat {i}", "response": "how are you"} for i in range(8)],
    "more.jsonl": [{"prompt": f"your name {i}", "response": "I am fine"} for i in range(8)],
    "prompts.jsonl": [{"prompt": f"what is {i}"} for i in range(8)],
    "pairs.jsonl": [{"prompt": f"are you {i}", "chosen": "I am fine", "rejected": "mat"} for i in range(8)],
}
REWARD = "def long_ones(completions, **_):\n    return [float(len(c)) for c in completions]\n"


def make_model(folder: Path, architecture: str) -> None:
    """A tiny random model without a chat template."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    from tether.data.bpe import train_tokenizer

    tokenizer = train_tokenizer([WORDS], 300, folder)
    tokenizer.chat_template = None
    (folder / "chat_template.jinja").unlink()
    tokenizer.save_pretrained(folder)
    shared = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.random.fork_rng():
        torch.manual_seed(1)
        if architecture == "gpt2":
            GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=64, **shared)).save_pretrained(
                folder
            )
        else:
            config = LlamaConfig(
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=2,
                max_position_embeddings=64,
                **shared,
            )
            LlamaForCausalLM(config).save_pretrained(folder)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny random models: `llama` and `gpt2`."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("llama", "gpt2"):
        make_model(folder / name, name)
    return folder


@pytest.fixture
def bench(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with both models, plain text data and a reward function's module, `lengths`."""
    shutil.copytree(models, tmp_path, dirs_exist_ok=True)
    for name, rows in FILES.items():
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "lengths.py").write_text(REWARD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "lengths", raising=False)
    return tmp_path
