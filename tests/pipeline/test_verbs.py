"""One stage from flags, and talking to what came out: on any causal model, chat template or none."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import tether
from tether.cli import main
from tether.errors import InputError

Capture = pytest.CaptureFixture[str]
SHORT = ["--set", "train.steps=2", "--set", "train.batch_size=4"]
SAMPLING = ["--set", "sampling.max_new_tokens=6"]


@pytest.mark.parametrize("model", ["llama", "gpt2"])
class TestOneStage:
    def test_sft(self, model: str, bench: Path, capsys: Capture) -> None:
        args = ["sft", "--model", model, "--data", "demos.jsonl", "--out", "made", *SHORT]
        assert main(args) == 0
        AutoModelForCausalLM.from_pretrained("made/model")
        AutoTokenizer.from_pretrained("made/model")
        steps = [json.loads(line)["step"] for line in Path("made/events.jsonl").read_text().splitlines()]
        assert steps == [1, 2]
        capsys.readouterr()
        assert main(args) == 0
        assert capsys.readouterr().out == "sft: done before\n"

    def test_reward(self, model: str, bench: Path) -> None:
        assert main(["reward", "--model", model, "--data", "pairs.jsonl", "--out", "made", *SHORT]) == 0
        reward = AutoModelForSequenceClassification.from_pretrained("made/model")
        assert reward.config.num_labels == 1
        ppo = ["ppo", "--model", model, "--data", "prompts.jsonl", "--reward", "made", "--out", "played"]
        assert main([*ppo, *SHORT, *SAMPLING]) == 0
        assert json.loads(Path("played/manifest.json").read_text())["inputs"].keys() == {"model", "reward", "data.path"}

    def test_ppo_with_a_function(self, model: str, bench: Path, capsys: Capture) -> None:
        """The reward is its length: plain text in, plain text out."""
        ppo = ["ppo", "--model", model, "--data", "prompts.jsonl", "--reward", "lengths:long_ones", "--out", "made"]
        assert main([*ppo, *SHORT, *SAMPLING]) == 0
        events = [json.loads(line) for line in Path("made/events.jsonl").read_text().splitlines()]
        assert all(event["reward/proxy"] > 0 for event in events if event["kind"] == "train")
        capsys.readouterr()
        assert main(["show", "made", "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert shown["stages"]["ppo"]["steps"] == 2
        assert main(["report", "made"]) == 0
        assert Path(capsys.readouterr().out.strip()).read_text().startswith("<!")


def test_a_stage_needs_a_run(bench: Path, capsys: Capture) -> None:
    assert main(["sft", "--model", "stage:first", "--data", "demos.jsonl", "--out", "made"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("model", ["llama", "gpt2", "base"])
class TestTalking:
    def test_sample(self, model: str, bench: Path, capsys: Capture) -> None:
        args = ["sample", model, "hello cat", "what is", "-k", "2", "--max-new-tokens", "5", "--json"]
        assert main(args) == 0
        first = capsys.readouterr().out
        rows = [json.loads(line) for line in first.splitlines()]
        assert [row["prompt"] for row in rows] == ["hello cat", "hello cat", "what is", "what is"]
        assert rows[0]["response"] != rows[1]["response"]
        assert main(args) == 0
        assert capsys.readouterr().out == first
        assert main([*args, "--seed", "1"]) == 0
        assert capsys.readouterr().out != first

    def test_chat(self, model: str, bench: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
        """Turns until an empty line, well past the little models' context of 64 tokens."""
        turns = ["hello there how are you", *(f"what is your name {i}" for i in range(6))]
        monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(turns) + "\n\nnot said\n"))
        assert main(["chat", model, "--max-new-tokens", "8"]) == 0
        said = capsys.readouterr().out
        assert said.count("you> ") == len(turns) + 1
        assert said.count("model> ") == len(turns)


class TestFromPython:
    def test_a_file_a_table_and_overrides(self, bench: Path) -> None:
        stage = {"name": "sft", "algorithm": "sft", "model": "gpt2", "data": {"path": "demos.jsonl"}}
        table = {"run": {"name": "mine"}, "stage": [stage]}
        toml = '[run]\nname = "mine"\n[[stage]]\nname = "sft"\nalgorithm = "sft"\nmodel = "gpt2"\n'
        Path("mine.toml").write_text(toml + 'data = { path = "demos.jsonl" }\n')
        folder = tether.run("mine.toml", ["sft.train.steps=1"])
        assert folder == Path("runs/mine")
        assert tether.show(folder)["stages"]["sft"]["steps"] == 1
        made = (folder / "sft" / "manifest.json").stat().st_mtime_ns
        assert tether.run(Path("mine.toml"), ["sft.train.steps=1"]) == folder
        assert tether.run(table, ["sft.train.steps=1"], out="runs/mine") == folder
        assert (folder / "sft" / "manifest.json").stat().st_mtime_ns == made
        assert tether.write_report(folder) == folder / "report.html"

    def test_a_mistake(self, bench: Path) -> None:
        stage = {"name": "sft", "algorithm": "sft", "model": "gpt2", "modle": 1, "data": {"path": "demos.jsonl"}}
        with pytest.raises(InputError, match=r"^recipe: stage 'sft', field modle: unknown; did you mean 'model'\?$"):
            tether.run({"run": {"name": "x"}, "stage": [stage]})
        assert not Path("runs").exists()

    def test_nothing_else(self) -> None:
        with pytest.raises(AttributeError, match="module 'tether' has no attribute 'rum'"):
            tether.rum  # noqa: B018
