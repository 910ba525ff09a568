"""The stages of AI feedback as a recipe runs them: critique and revision, a judge's labels, the gate at export."""

from __future__ import annotations

import json
import os
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import tether
from tether.config.judge import ConstitutionConfig
from tether.config.load import parse_stage
from tether.errors import InputError
from tether.feedback.constitution import drawn, load_constitution
from tether.feedback.label import label_pairs
from tether.feedback.records import Query
from tether.feedback.store import Store
from tether.pipeline.artifacts import read_jsonl
from tether.pipeline.sections import sections

PRINCIPLES = """
[[principle]]
name = "kind"
critique = "What is unkind in it?"
revise = "Say it kindly."
compare = "Prefer the kinder answer."

[[principle]]
name = "brief"
critique = "What is too long in it?"
revise = "Say it briefly."
compare = "Prefer the briefer answer."
"""

CRITIQUE = {"name": "critique", "algorithm": "critique", "model": "base", "revisions": 2}
SFT = {"name": "sft", "algorithm": "sft", "model": "base", "data": {"path": "stage:critique"}, "train": {"steps": 1}}
SAMPLE = {"name": "pairs", "algorithm": "sample", "model": "base", "num_responses": 2}
LABEL = {"name": "votes", "algorithm": "label", "responses": "stage:pairs", "annotators": "judge", "held_out": 0.25}


@pytest.fixture
def bench(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with some prompts and two principles."""
    shutil.copy(data / "prompts.jsonl", tmp_path / "prompts.jsonl")
    (tmp_path / "two.toml").write_text(PRINCIPLES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prompts(limit: int) -> dict[str, Any]:
    return {"path": "prompts.jsonl", "limit": limit, "max_tokens": 128, "on_too_long": "drop"}


def recipe(*stages: dict[str, Any]) -> dict[str, Any]:
    return {"run": {"name": "r", "seed": 1}, "stage": list(stages)}


def critique(limit: int, new: int = 24) -> dict[str, Any]:
    more = {"data": prompts(limit), "constitution": {"path": "two.toml"}, "sampling": {"max_new_tokens": new}}
    return CRITIQUE | more


def pairs(limit: int) -> dict[str, Any]:
    return SAMPLE | {"data": prompts(limit), "sampling": {"max_new_tokens": 12}}


@pytest.mark.slow
def test_answers_are_criticised_revised_and_learnt_from(bench):
    folder = tether.run(recipe(critique(24), SFT))
    transcripts = read_jsonl(folder / "critique" / "transcripts.jsonl")
    groups = read_jsonl(folder / "critique" / "groups.jsonl")
    summary = json.loads((folder / "critique" / "manifest.json").read_text())["summary"]
    assert summary["prompts"] == len(transcripts) == len(groups) + sum(summary["dropped"].values())
    assert summary["responses"] == len(groups) >= 1
    kept = [row for row in transcripts if row["dropped"] is None]
    for row, group in zip(kept, groups, strict=True):
        first, second = row["steps"]
        assert first["after"] == second["before"]
        assert second["after"] == row["answer"] == group["responses"][0]["text"] != ""
        assert group["responses"][0]["ended"]
        assert group["responses"][0]["logprobs"] is None
        assert row["prompt"] == group["prompt"]["messages"]
        assert group["responses"][0]["meta"]["principles"] == [first["principle"], second["principle"]]
    used = {step["principle"] for row in transcripts for step in row["steps"]}
    assert used == {"kind", "brief"}
    assert all(row["dropped"] in (None, "too_long", "unended", "empty") for row in transcripts)
    assert json.loads((folder / "sft" / "manifest.json").read_text())["summary"]["examples"] == len(groups)


@pytest.mark.slow
def test_the_gate_lets_labels_out_only_where_the_judge_agrees_with_people(bench):
    """Nothing is asked again when the gate's height changes."""
    judged = LABEL | {"judge": {"model": "base", "tie": 0.0}, "constitution": {"path": "two.toml"}}
    folder = tether.run(recipe(pairs(24), judged))
    labels = json.loads((folder / "votes" / "labels.json").read_text())
    assert labels["votes"] == labels["items"]
    assert labels["spent"]["questions"] == 2 * labels["items"]
    assert labels["spent"]["tokens_in"] > 50 * labels["items"]
    assert labels["flips"]["decided"] == labels["items"]
    assert "calibration" not in labels
    with Store.open(folder / "votes" / "preferences.sqlite") as store:
        verdicts = {vote.prompt: vote for vote in store.voted_pairs(Query(user_kinds=("ai",)))}
        assert {j.guideline for j in store.judgements()} == {1, 2}
    exported = read_jsonl(folder / "votes" / "preferences.jsonl")
    assert len(exported) == labels["items"] - labels["ties"]

    class Person:
        """Says what the judge said, or the contrary."""

        kind = "human"

        def __init__(self, name: str, agrees: bool) -> None:
            self.name, self.agrees = name, agrees

        def compare(self, prompt, responses, rng):
            from tether.feedback.annotators import Verdict

            vote = verdicts[prompt]
            better = vote.first if (vote.side == -1) is self.agrees else vote.second
            return Verdict(tuple(int(text != better) for text in responses))

    groups = read_jsonl(folder / "pairs" / "groups.jsonl")
    for name, agrees in (("alike", True), ("contrary", False)):
        with Store.open(bench / f"{name}.sqlite") as people:
            label_pairs(people, groups, [Person("p", agrees)], guideline="Which is better?", overlap=1)
    journal = (folder / ".judge" / "votes.jsonl").read_bytes()

    contrary = judged | {"calibration": {"path": "contrary.sqlite", "min_agreement": 0.3, "min_pairs": 10}}
    with pytest.raises(
        InputError, match=r"the judge agrees with people at Krippendorff's alpha -.*nothing is exported"
    ):
        tether.run(recipe(pairs(24), contrary))
    assert not (folder / "votes" / "unfinished" / "preferences.jsonl").exists()
    few = judged | {"calibration": {"path": "alike.sqlite", "min_pairs": 1000}}
    with pytest.raises(InputError, match=r"min_pairs is 1000"):
        tether.run(recipe(pairs(24), few))
    alike = judged | {"calibration": {"path": "alike.sqlite", "min_agreement": 0.9, "min_pairs": 10}}
    tether.run(recipe(pairs(24), alike))
    labels = json.loads((folder / "votes" / "labels.json").read_text())
    assert labels["calibration"]["alpha"]["estimate"] == 1.0
    assert read_jsonl(folder / "votes" / "preferences.jsonl") == exported
    assert (folder / ".judge" / "votes.jsonl").read_bytes() == journal


@pytest.mark.slow
def test_a_judge_behind_a_server_labels_and_its_cost_is_told(bench, monkeypatch, capsys):
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.headers["Authorization"] == "Bearer sesame"
            text = asked["messages"][0]["content"]
            better = "A" if text.index("<answer_a>") % 2 else "B"  # as good as chance, and the same for both orders
            usage = {"prompt_tokens": 100, "completion_tokens": 5}
            content = json.dumps(
                {"choices": [{"message": {"content": json.dumps({"answer": better})}}], "usage": usage}
            ).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("JUDGE_KEY", "sesame")
    url = f"http://127.0.0.1:{server.server_port}/v1"
    judge = {"model": "m", "url": url, "key_env": "JUDGE_KEY", "price_in": 3.0, "price_out": 15.0}
    try:
        folder = tether.run(recipe(pairs(8), LABEL | {"judge": judge}))
    finally:
        server.shutdown()
        server.server_close()
    labels = json.loads((folder / "votes" / "labels.json").read_text())
    items = labels["items"]
    cost = 2 * items * (100 * 3.0 + 5 * 15.0) / 1e6
    assert labels["flips"] == {"flipped": items, "decided": items, "rate": 1.0}  # always the same side
    assert labels["ties"] == items
    assert labels["spent"]["cost"] == pytest.approx(cost)
    said = capsys.readouterr().out
    assert f"{items} votes on {items} items; 100% changed sides with the order; {2 * items} requests" in said
    everything = b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file())
    assert b"sesame" not in everything


def test_a_constitution_is_read_and_drawn_from(bench):
    principles = load_constitution(ConstitutionConfig(path="two.toml"))
    assert [p.name for p in principles] == ["kind", "brief"]
    assert {drawn(principles, 0, i).name for i in range(20)} == {"kind", "brief"}
    assert [drawn(principles, 7, i) for i in range(9)] == [drawn(principles[::-1], 7, i) for i in range(9)]
    shipped = load_constitution(ConstitutionConfig(path="demo:kindness"))
    assert len({p.name for p in shipped}) == len(shipped) >= 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file or directory; give a TOML file or one of demo:kindness"),
        ("[[principle", "is not valid TOML"),
        ("", "field principle: missing"),
        ("principle = []", "field principle: "),
        (PRINCIPLES.replace("revise", "rewrite"), r"field principle.0.revise: missing"),
        (PRINCIPLES.replace('"Say it kindly."', '""'), r"field principle.0.revise: got ''"),
        (PRINCIPLES.replace("brief", "kind"), "two principles are named 'kind'"),
    ],
)
def test_a_bad_constitution_is_one_sentence(tmp_path, text, message):
    file = tmp_path / "bad.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError, match=message):
        load_constitution(ConstitutionConfig(path=str(file)))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, "needs a table `judge`"),
        ({"annotators": "vader", "judge": {"model": "m"}}, "judge is for annotators = 'judge'"),
        ({"annotators": "vader", "constitution": {"path": "x"}}, "constitution is for annotators"),
        ({"judge": {"model": "m", "url": "localhost:8000"}}, "url"),
        ({"judge": {"model": "m", "key_env": "K"}}, "give its url"),
    ],
)
def test_what_a_label_stage_may_say(more, message):
    with pytest.raises(InputError, match=message):
        parse_stage(LABEL | more, sections())


def test_a_judge_is_a_reward(bench):
    """Grades of the shipped model, the same when the stage is resumed: they come from its folder."""
    from tether.pipeline.judges import judge_reward
    from tether.pipeline.place import Place
    from tether.types import Group, Prompt, Response

    section = parse_stage({"name": "x", "algorithm": "sft", "model": "base", "data": {"path": "p"}}, sections())
    place = Place(bench, bench / "x", section, 0)
    group = Group(Prompt((1,), (), "Hi"), (Response((2,), "hello"), Response((2,), "go away")))
    first = judge_reward(place, {"model": "base", "guideline": "Be kind."})([group])
    assert first.shape == (2,)
    assert 1 < first.min() < first.max() < 5
    lines = (bench / "x" / "judge.jsonl").read_text()
    assert judge_reward(place, {"model": "base", "guideline": "Be kind."})([group]).tolist() == first.tolist()
    assert (bench / "x" / "judge.jsonl").read_text() == lines
    compared = judge_reward(place, {"model": "base", "ask": "compare"})([group])
    assert compared.sum().item() == pytest.approx(1)
    with pytest.raises(InputError, match="reward 'judge', field ask: got 'guess', expected"):
        judge_reward(place, {"model": "base", "ask": "guess"})
    with pytest.raises(InputError, match="reward 'judge', field model: missing"):
        judge_reward(place, {})


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"judge": {"model": "m", "url": "http://127.0.0.1:9/v1", "key_env": "NO_SUCH_KEY"}}, "NO_SUCH_KEY is not set"),
        ({"judge": {"model": "base"}, "constitution": {"path": "gone.toml"}}, "constitution gone.toml"),
        ({"judge": {"model": "base"}, "calibration": {"path": "gone.sqlite"}}, "gone.sqlite: there is no such file"),
    ],
)
def test_what_a_judge_needs_is_looked_at_before_anything_is_asked(bench, more, message):
    from tether.pipeline.judges import check_judging

    with pytest.raises(InputError, match=message):
        check_judging(parse_stage(LABEL | more, sections()))
    assert not os.path.exists("gone.sqlite")
