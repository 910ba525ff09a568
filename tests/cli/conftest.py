"""A folder to make mistakes in: tiny models, sound and broken ones, and sound data."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tether.cli import main

WORDS = "hello there how are you today I am fine thank you what is your name the cat sat on the mat " * 3
CONTEXT = 64
"""Longest context of every model here, in tokens."""

# The assistant's turn is announced in other words than it is written in.
NOT_PREFIX = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'answer:' }}{% endif %}"
)
NEVER_CLOSES = "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}{% endfor %}" + (
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

REWARDS = '''
"""Reward functions, most of them wrong."""
CONSTANT = 3

def good(completions, **_):
    return [float(len(c if isinstance(c, str) else c[0]["content"])) for c in completions]

def nan(completions, **_):
    return [float("nan")] * len(completions)

def none(completions, **_):
    return [None] * len(completions)

def short(completions, **_):
    return [1.0]

def scalar(completions, **_):
    return 1.0

def words(completions, **_):
    return ["good"] * len(completions)

def raises(completions, **_):
    raise KeyError("colour")

def constant(completions, **_):
    return [1.0] * len(completions)

def wants(completions, solution):
    return [1.0] * len(completions)
'''

FILES = {
    "good.jsonl": [{"prompt": f"hello cat {i}", "response": "how are you"} for i in range(4)],
    "prompts.jsonl": [{"prompt": f"what is {i}"} for i in range(4)],
    "held.jsonl": [{"prompt": f"name {i}"} for i in range(2)],
    "chat.jsonl": [
        {"messages": [{"role": "user", "content": f"hi {i}"}, {"role": "assistant", "content": "hello"}]}
        for i in range(4)
    ],
    "pairs.jsonl": [{"prompt": f"are you {i}", "chosen": "I am fine", "rejected": "mat"} for i in range(4)],
}
"""Data with nothing wrong in it."""


def jsonl(rows: list[dict[str, object]]) -> str:
    """Rows as a file's text."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def _tokenizer(folder: Path, size: int) -> None:
    from tether.data.bpe import train_tokenizer

    train_tokenizer([WORDS], size, folder)


def _save(folder: Path, kind: str, vocabulary: int = 300, **options: object) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=3,
        pad_token_id=4,
        **options,
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made = LlamaForCausalLM(config) if kind == "policy" else LlamaForSequenceClassification(config)
    made.save_pretrained(folder)


def _edit(folder: Path, file: str, **fields: object) -> None:
    table = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({k: v for k, v in (table | fields).items() if v is not None}))


def _without_end(folder: Path) -> None:
    for file in ("config.json", "generation_config.json"):
        _edit(folder, file, eos_token_id=None)
    _edit(folder, "tokenizer_config.json", eos_token=None)
    _template(folder, None)


def _template(folder: Path, text: str | None) -> None:
    _edit(folder, "tokenizer_config.json", chat_template=None)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    if text:
        (folder / "chat_template.jinja").write_text(text)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-500])


BREAK: dict[str, Callable[[Path], None]] = {
    "chat": lambda _: None,
    "no-template": lambda f: _template(f, None),
    "not-prefix": lambda f: _template(f, NOT_PREFIX),
    "never-closes": lambda f: _template(f, NEVER_CLOSES),
    "no-end": _without_end,
    "no-config": lambda f: (f / "config.json").unlink(),
    "bad-config": lambda f: (f / "config.json").write_text("{"),
    "unknown-type": lambda f: _edit(f, "config.json", model_type="martian", architectures=["Martian"]),
    "no-tokenizer": lambda f: [(f / n).unlink() for n in ("tokenizer.json", "tokenizer_config.json")] and None,
    "bad-tokenizer": lambda f: (f / "tokenizer.json").write_text('{"model": 1}') and None,
    "no-weights": lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin") and None,
    "cut-short": lambda f: _cut(f / "model.safetensors"),
}
"""Name of a model folder → what is done to a sound one to get it."""


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of model folders: those of `BREAK`, reward models, and one whose embedding is too small."""
    root = tmp_path_factory.mktemp("models")
    _save(root / "chat", "policy")
    _tokenizer(root / "chat", 300)
    for name, change in BREAK.items():
        if name != "chat":
            shutil.copytree(root / "chat", root / name)
            change(root / name)
    for name, kind, vocabulary, options in (
        ("small-embedding", "policy", 290, {}),
        ("reward", "reward", 300, {"num_labels": 1}),
        ("three-labels", "reward", 300, {"num_labels": 3}),
    ):
        _save(root / name, kind, vocabulary, **options)
        _tokenizer(root / name, 300)
    for name, kind in (("reward-other", "reward"), ("policy-other", "policy")):
        _save(root / name, kind, 310, num_labels=1)
        _tokenizer(root / name, 310)
    return root


@pytest.fixture
def bench(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the models, sound data and `bad_rewards.py` in it."""
    for model in models.iterdir():
        (tmp_path / model.name).symlink_to(model)
    for name, rows in FILES.items():
        (tmp_path / name).write_text(jsonl(rows))
    (tmp_path / "bad_rewards.py").write_text(REWARDS)
    (tmp_path / "breaks.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))  # `load_function` adds the working directory
    for name in ("bad_rewards", "breaks"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def sft(data: str = "good.jsonl", *sets: str, model: str = "chat") -> list[str]:
    """`tether sft`, two steps."""
    return learn("sft", data, *sets, model=model)


def reward(data: str = "pairs.jsonl", *sets: str, model: str = "chat") -> list[str]:
    """`tether reward`, two steps."""
    return learn("reward", data, *sets, model=model)


def ppo(data: str = "prompts.jsonl", *sets: str, model: str = "chat", by: str = "bad_rewards:good") -> list[str]:
    """`tether ppo`, one iteration of four short responses."""
    return pursue("ppo", data, *sets, model=model, by=by)


def pursue(verb: str, data: str, *sets: str, model: str = "chat", by: str = "bad_rewards:good") -> list[str]:
    """A verb that samples, one iteration of four short responses."""
    short = ("train.steps=1", "train.batch_size=4", "sampling.max_new_tokens=4")
    return [*single(verb, data, model, *short, *sets), "--reward", by]


def learn(verb: str, data: str, *sets: str, model: str = "chat") -> list[str]:
    """A verb that learns from data, two steps."""
    return single(verb, data, model, "train.steps=2", *sets)


def single(verb: str, data: str, model: str, *sets: str) -> list[str]:
    """One stage from flags, into `out`."""
    return [verb, "--model", model, "--data", data, "--out", "out", *(a for s in sets for a in ("--set", s))]


def recipe(*stages: str, head: str = '[run]\nname = "trial"\n') -> dict[str, str | bytes]:
    """`r.toml` with these stages."""
    return {"r.toml": head + "".join(f"[[stage]]\n{stage}\n" for stage in stages)}


def state(folder: Path) -> dict[str, str]:
    """File → hash of its bytes, of everything there but the lock."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != ".lock"]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(files)}


def looks_finished(folder: Path) -> list[str]:
    """What in a folder somebody could take for a result."""
    made = ("manifest.json", "model", "report.html", "groups.jsonl", "evaluation.json")
    return [str(p) for p in folder.rglob("*") if p.name in made]


def refused(args: list[str], says: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> str:
    """Runs a command that must be refused in one line with these words; the line."""
    capsys.readouterr()
    code = main(args)
    message = capsys.readouterr().err
    assert code == 2, message
    assert message.startswith("error: ")
    assert message.count("\n") == 1, message
    assert "Traceback" not in message
    assert [word for word in says if word not in message] == [], message
    return message


class Case(NamedTuple):
    """One mistake."""

    args: list[str]
    """What is typed after `tether`."""
    says: tuple[str, ...]
    """Words the message must hold: what is wrong, where, what is valid."""
    files: dict[str, str | bytes] = {}
    """What is in the working directory beside the `bench`."""


def refused_whole(case: Case, bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Makes the mistake: one sentence, and nothing half-written nor changed."""
    for name, content in case.files.items():
        path = bench / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = state(bench)
    refused(case.args, case.says, capsys)
    assert looks_finished(bench / "out") == []
    after = state(bench)
    assert {p: after.get(p) for p in before} == before
