"""Active selection as a recipe runs it: an ensemble scores the sampled pairs, and only some are labelled."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tether
from tether.data.template import Template
from tether.errors import InputError
from tether.feedback.active import information
from tether.pipeline.artifacts import hash_path, read_jsonl
from tether.pipeline.place import Place, inputs_of, model_at
from tether.pipeline.sections import LabelSection
from tether.rewards.ensemble import Ensemble
from tether.rollout.rows import from_rows
from tether.types import Group

WORDS = ("I am fine", "the cat sat on the mat", "hello", "what is that name")


@pytest.fixture
def work(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with prompts and comparisons."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(data / "prompts.jsonl", tmp_path)
    pairs = [{"prompt": "how are you", "chosen": w + " today", "rejected": w} for w in WORDS]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    return tmp_path


def recipe() -> dict[str, Any]:
    learn = {"algorithm": "reward_model", "model": "base", "data": {"path": "pairs.jsonl"}}
    learn |= {"train": {"steps": 2, "batch_size": 4}, "optim": {"lr": 1e-3}}
    prompts = {"path": "prompts.jsonl", "limit": 40, "max_tokens": 128, "on_too_long": "drop"}
    sample = {"algorithm": "sample", "model": "base", "data": prompts}
    sample |= {"num_responses": 2, "sampling": {"max_new_tokens": 12}}
    chosen = {"models": ["stage:one", "stage:two"], "num": 12, "uniform": 0.5}
    stages = [
        {"name": "one", "seed": 1, **learn},
        {"name": "two", "seed": 2, **learn, "heads": 2},
        {"name": "sampled", **sample},
        {"name": "votes", "algorithm": "label", "responses": "stage:sampled", "held_out": 0.25, "select": chosen},
    ]
    return {"run": {"name": "r", "out": "out"}, "stage": stages}


def as_toml(table: dict[str, Any]) -> str:
    """A recipe as the file that `launcher` runs."""

    def inline(value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{key} = {inline(inner)}" for key, inner in value.items()) + "}"
        return json.dumps(value)

    tables = [("[run]", table["run"]), *(("[[stage]]", stage) for stage in table["stage"])]
    return "".join(f"{head}\n" + "".join(f"{k} = {inline(v)}\n" for k, v in of.items()) for head, of in tables)


def read(file: Path) -> Any:
    return json.loads(file.read_text())


def scores(folder: Path, groups: list[Group]) -> Any:
    """(E, P, 2) as an ensemble of a policy's stage scores the same groups."""
    place = Place(folder, folder / "votes", LabelSection(name="votes", responses="stage:sampled"), 0)
    template = Template.load(model_at("base"))
    names = ("stage:one", "stage:two")
    members = tuple(place.scorer(name, template, device="cpu", token_budget=512) for name in names)
    return Ensemble(members).members(groups).double().numpy().T.reshape(3, len(groups), 2)


def test_the_chosen_are_labelled_and_say_why(work: Path, capsys: pytest.CaptureFixture[str]):
    folder = tether.run(recipe())
    votes, groups = folder / "votes", from_rows(read_jsonl(folder / "sampled" / "groups.jsonl"))
    selection, labels = read(votes / "selection.json"), read(votes / "labels.json")
    rows = read_jsonl(votes / "preferences.jsonl")
    chosen = {groups[row["group"]].prompt.text: row for row in selection["chosen"]}
    assert (len(chosen), labels["items"], labels["votes"]) == (12, 12, 36)
    assert selection["pool"] == labels["selection"]["pool"] == len(groups) - labels["identical"]
    assert 0 < len(rows) < 12
    for row in rows:
        assert row["selection"] == {k: v for k, v in chosen[row["prompt"][-1]["content"]].items() if k != "group"}
    expected = information(scores(folder, groups))
    assert [row["score"] for row in selection["chosen"]] == pytest.approx(
        [expected[row["group"]] for row in selection["chosen"]], abs=1e-6
    )
    assert expected.max() > 1e-4  # else this would say nothing
    base = 0.5 * 12 / selection["pool"]
    active = np.array([(row["propensity"] - base) / row["score"] for row in selection["chosen"]])
    assert active == pytest.approx(active.mean())  # none of them at 1: chance in proportion to the score
    said = labels["selection"]
    assert said["uniform"] + said["active"] == 12
    assert said["decided"]["chosen"] == len(rows) / 12
    assert f"of {selection['pool']} ({said['uniform']} chosen uniformly" in capsys.readouterr().out

    inputs = read(votes / "manifest.json")["inputs"]
    assert inputs["select.models.0"] == read(folder / "one" / "manifest.json")["key"]
    with pytest.raises(InputError, match=rf"select\.num = 99: {len(groups)} pairs were sampled, of which .* different"):
        tether.run(recipe(), ["votes.select.num=99"])
    shutil.copytree(folder / "one" / "model", work / "ill")
    weights = load_file(work / "ill" / "model.safetensors")
    save_file(weights | {"score.weight": weights["score.weight"] * np.nan}, work / "ill" / "model.safetensors")
    with pytest.raises(InputError, match=r"stage 'votes': select\.models: ill gave no finite score for some of"):
        tether.run(recipe(), ['votes.select.models=["stage:two", "ill"]'])
    assert inputs_of({"select": {"models": ["ill"]}}, {}, "votes") == {"select.models.0": hash_path(Path("ill"))}


@pytest.mark.slow
def test_killed_it_chooses_and_exports_the_same(work: Path, launcher: Any):
    """Killed before every change up to the export, its own included."""
    (work / "tiny.toml").write_text(as_toml(recipe()))
    whole = tether.run("tiny.toml")
    before = work / "again"
    before.mkdir()
    for file in work.glob("*.*"):
        shutil.copy(file, before)
    shutil.copytree(whole, before / "out")
    shutil.rmtree(before / "out" / "votes")
    seen = before / "seen.txt"
    seen.touch()
    while "preferences.jsonl" not in seen.read_text():
        launcher.start(before, seen)
        assert launcher.status() == -9, (before / "log.txt").read_text()
    assert "os.rename STAGE/unfinished/selection.json" in seen.read_text()
    launcher.start(before)
    assert launcher.status() == 0, (before / "log.txt").read_text()
    for name in ("selection.json", "preferences.jsonl", "labels.json", "train.jsonl", "validation.jsonl"):
        assert (before / "out" / "votes" / name).read_bytes() == (whole / "votes" / name).read_bytes(), name
