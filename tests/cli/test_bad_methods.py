"""Bad inputs to methods, labels, rewards and rounds: one sentence each, exit code 2, nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Case, learn, pursue, recipe, refused, refused_whole, reward

RUN = ["run", "r.toml", "--out", "out"]
A = "a.jsonl"


def a_row(**columns: Any) -> dict[str, str | bytes]:
    """`a.jsonl` of one row."""
    return {A: json.dumps(columns) + "\n"}


def term(**fields: Any) -> str:
    """`--set reward=` one table."""
    return f"reward=[{inline(fields)}]"


def inline(value: Any) -> str:
    """A value as TOML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {inline(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value)


def grpo(*sets: str, data: str = "prompts.jsonl", by: str = "bad_rewards:good") -> list[str]:
    """`tether grpo`."""
    return pursue("grpo", data, *sets, by=by)


def ppo(**fields: Any) -> list[str]:
    """`tether ppo` with one term of reward."""
    return pursue("ppo", "prompts.jsonl", term(**fields))


DATA = {
    "a ranking too short": Case(
        reward(A), ("row 1", "2 responses and 1 in its ranking"), a_row(prompt="a", responses=["b", "c"], ranking=[1])
    ),
    "a ranking of words": Case(
        reward(A),
        ("row 1", "'ranking', item 2", "'last'"),
        a_row(prompt="a", responses=["b", "c"], ranking=[1, "last"]),
    ),
    "a ranking of nothing": Case(reward(A), ("'responses'", "empty list"), a_row(prompt="a", responses=[], ranking=[])),
    "a ranking of equals": Case(
        learn("dpo", A),
        ("group 1", "no response above another"),
        a_row(prompt="a", responses=["b", "c"], ranking=[1, 1]),
    ),
    "thumbs of equals": Case(
        learn("kto", A),
        ("no example is left", "1 ranked all alike"),
        a_row(prompt="a", responses=["b"] * 2, ranking=[1, 1]),
    ),
    "a thumb that is a word": Case(
        learn("kto", A), ("'label'", "'good'", "true or false"), a_row(prompt="a", response="b", label="good")
    ),
    "no thumbs": Case(learn("kto", "good.jsonl"), ("prompt_response data", "unpaired (prompt + response + label)")),
    "steps without a label": Case(
        learn("process-reward", A),
        ("row 1", "2 steps and 1 in its labels"),
        a_row(prompt="a", steps=["b", "c"], labels=[1]),
    ),
    "a step's label a share": Case(
        learn("process-reward", A), ("'labels', item 1", "0.7"), a_row(prompt="a", steps=["b"], labels=[0.7])
    ),
    "a step in two": Case(
        learn("process-reward", A),
        ("row 1", "2 labels", "3 steps"),
        a_row(prompt="a", steps=["b\nc", "d"], labels=[1, 0]),
    ),
    "steps that are pairs": Case(
        learn("process-reward", "pairs.jsonl"), ("preference data", "prompt + steps + labels")
    ),
    "a fold of none": Case(
        learn("sft", "good.jsonl", "data.fold=4/3"), ("data.fold", "'4/3' is no fold", "1/3 or -1/3")
    ),
    "a fold with nothing in it": Case(
        learn("sft", "good.jsonl", "data.fold=1/1000"), ("no example is left of 4", "4 of other folds")
    ),
    "a fold of text": Case(learn("lm", A, "data.fold=1/2"), (A, "fold = '1/2'", "no"), a_row(text="hello there")),
    "also a file that is gone": Case(
        learn("sft", "good.jsonl", 'data.also=["gone.jsonl"]'), ("data.also.0", "gone.jsonl")
    ),
    "also another kind": Case(
        learn("sft", "good.jsonl", 'data.also=["pairs.jsonl"]'), ("data.also.0", "preference data")
    ),
    "also a word": Case(learn("sft", "good.jsonl", "data.also=good.jsonl"), ("data.also", "list of strings")),
    "no such task": Case(grpo(data="gym:chain_summ", by="gym"), ("gym:chain_summ", "did you mean 'chain_sum'?")),
    "no such setting": Case(grpo(data="gym:chain_sum?terms=3", by="gym"), ("'terms'", "min_terms")),
    "the task's verifier elsewhere": Case(grpo(by="gym"), ("stage 'grpo'", "prompt 1", "gym:TASK")),
    "no such split of sums": Case(
        grpo("data.split=dev", data="demo:sums", by="exact"), ("'dev'", "train, validation, test")
    ),
}

REWARDS = {
    "nearly a verifier": Case(grpo(by="exactt"), ("stage 'grpo', field reward", "did you mean 'exact'?")),
    "an option misspelt": Case(
        grpo(term(use="exact", options={"colum": "x"})), ("'exact'", "colum", "did you mean 'column'")
    ),
    "an option out of range": Case(grpo(term(use="numeric", options={"tolerance": -1})), ("tolerance", "got -1")),
    "no expression": Case(grpo(term(use="regex", options={"pattern": "("})), ("'regex'", "no regular expression")),
    "no reference answer": Case(
        grpo(by="exact"), ("stage 'grpo'", "prompt 1", "'answer' or 'response'", "option `column`")
    ),
    "options of a function": Case(
        grpo(term(use="bad_rewards:good", options={"a": 1})), ("takes no options", "judge and")
    ),
    "options of a list": Case(grpo(term(use=["regex"], options={"pattern": "a"})), ("reward.0", "not of a list")),
    "a weight without end": Case(grpo("reward=[{use='exact', weight=inf}]"), ("reward.0.weight", "got inf")),
    "one name twice": Case(grpo("reward=[{use='exact'}, {use='exact'}]"), ("two rewards are called 'exact'", "`name`")),
    "no rewards": Case(grpo("reward=[]"), ("field reward", "a string or a list of tables")),
    "a member that is gone": Case(grpo(term(use=["reward", "./gone"])), ("reward.0.use", "'./gone'", "no such folder")),
    "no such ensemble": Case(grpo(term(use=["reward"], ensemble="median")), ("ensemble", "'mean', 'min' or 'lower'")),
    "steps of a verifier": Case(ppo(use="exact", steps="min"), ("reward.0.use", "'exact' scores no steps")),
    "steps of other tokens": Case(ppo(use="reward-other", steps="min"), ("reward-other", "cannot score steps")),
    "dense without steps": Case(ppo(use="reward", dense=True), ("reward.0", "say with `steps`")),
    "a judge without a model": Case(grpo(by="judge"), ("reward 'judge', field model", "missing")),
    "a judge that is gone": Case(
        grpo(term(use="judge", options={"model": "./gone"})), ("reward.0.use", "no such folder")
    ),
    "a judge that cannot write": Case(
        grpo(term(use="judge", options={"model": "reward"})), ("reward.0.use", "not a causal language model")
    ),
    "a judge's key": Case(
        grpo(term(use="judge", options={"model": "x", "url": "http://localhost:1", "key_env": "NO_SUCH_KEY"})),
        ("environment variable NO_SUCH_KEY", "not set"),
    ),
    "a judge that cannot read so much": Case(
        grpo(term(use="judge", options={"model": "chat"})), ("stage 'grpo'", "no verdict", "context of 64")
    ),
    "a buffer as long as answers": Case(grpo("overlong_buffer=4"), ("overlong_buffer = 4", "max_new_tokens = 4")),
}

METHODS = {
    "one response to compare": Case(grpo("num_responses=1"), ("num_responses", "got 1", ">= 2")),
    "no such variant": Case(grpo("variant=drgrpo"), ("variant", "'drgrpo'", "'dr_grpo'")),
    "old samples for a plain gradient": Case(
        pursue("reinforce", "prompts.jsonl", "train.mini_epochs=2"), ("train.mini_epochs", "loss = 'ppo'")
    ),
    "two tethers": Case(pursue("online-dpo", "prompts.jsonl", "kl.use=loss"), ("kl.use", "the loss is the tether")),
    "robust to nothing": Case(learn("dpo", "pairs.jsonl", "loss=robust"), ("'robust'", "label_smoothing")),
    "no margins": Case(learn("dpo", "pairs.jsonl", "margin=label"), ("group 1 has no margin",)),
    "a reference of other tokens": Case(
        learn("dpo", "pairs.jsonl", "reference=policy-other"), ("reference policy-other", "another tokenizer")
    ),
    "nobody to mismatch": Case(learn("kto", "pairs.jsonl", "train.batch_size=1"), ("train.batch_size", "2 or more")),
    "an opponent held back": Case(learn("spin", "good.jsonl", "sampling.top_p=0.5"), ("sampling.top_k and top_p",)),
    "margins of rankings": Case(
        reward("pairs.jsonl", "loss=plackett_luce", "margin=label"), ("margin", "plackett_luce")
    ),
    "text that is none": Case(
        pursue("ppo", "prompts.jsonl", "ptx.data.path=good.jsonl"),
        ("ptx.data.path", "prompt_response data", "text (text)"),
    ),
}

PAIRS = 'name = "pairs"\nalgorithm = "sample"\nmodel = "chat"\ndata.path = "prompts.jsonl"\nsampling.max_new_tokens = 4'
VOTES = 'name = "votes"\nalgorithm = "label"\nresponses = "stage:pairs"\n'
JUDGED = VOTES + 'annotators = "judge"\njudge.model = "chat"\n'
CRITIQUE = (
    'name = "mend"\nalgorithm = "critique"\nmodel = "chat"\ndata.path = "prompts.jsonl"\nconstitution.path = "c.toml"'
)
BEST = (
    'name = "best"\nalgorithm = "best_of_n"\nmodel = "chat"\nreward = "bad_rewards:good"\ndata.path = "prompts.jsonl"\n'
)
STEPS = 'name = "steps"\nalgorithm = "process_reward"\nmodel = "chat"\ndata.path = "s.jsonl"'
GRPO = 'name = "grpo"\nalgorithm = "grpo"\nmodel = "chat"\ndata.path = "prompts.jsonl"\nreward = "stage:steps"'
SFT = 'name = "sft"\nalgorithm = "sft"\nmodel = "chat"\ndata.path = "good.jsonl"\ntrain.steps = 1'
HELD = GRPO.replace('"chat"', '"stage:sft"\nreference = "stage:sft"').replace("stage:steps", "bad_rewards:good")
TWICE = '[run]\nname = "trial"\n[loop]\nrounds = 2\n'


def rounds(loop: str) -> dict[str, str | bytes]:
    """`r.toml` of two rounds."""
    return recipe(SFT, PAIRS, head=TWICE + loop)


MEMBERS = ["reward", "reward-other"]


def selecting(models: list[str], pairs: str = "", num: int | None = 2, **fields: Any) -> dict[str, str | bytes]:
    """`r.toml` of a label stage that selects."""
    table = {"models": models} | ({} if num is None else {"num": num}) | fields
    return recipe(f"{PAIRS}\n{pairs}", f"{VOTES}select = {inline(table)}")


STAGES = {
    "a judge who is not named": Case(RUN, ("'votes'", "table `judge`"), recipe(PAIRS, VOTES + 'annotators = "judge"')),
    "a judge nobody asks": Case(RUN, ("judge is for annotators",), recipe(PAIRS, VOTES + 'judge.model = "chat"')),
    "a judge's people gone": Case(
        RUN, ("'votes'", "gone.sqlite", "preference store"), recipe(PAIRS, JUDGED + 'calibration.path = "gone.sqlite"')
    ),
    "a judge's people are prose": Case(
        RUN,
        ("'votes'", "c.sqlite", "no SQLite file"),
        recipe(PAIRS, JUDGED + 'calibration.path = "c.sqlite"') | {"c.sqlite": "hello"},
    ),
    "an ensemble of one": Case(RUN, ("field select.models", "got 1", "two or more"), selecting(["reward"])),
    "one model twice": Case(RUN, ("field select.models", "'reward' is there twice"), selecting(["reward"] * 2)),
    "a member that is no stage": Case(RUN, ("select.models.0", "no stage 'gone'"), selecting(["stage:gone", "reward"])),
    "a member that scores nothing": Case(
        RUN,
        ("field select.models.1", "stage:pairs", "responses, not a reward model"),
        selecting(["reward", "stage:pairs"]),
    ),
    "a member that is a stage unsaid": Case(
        RUN, ("field select.models.0", "'pairs' is no folder here", "say stage:pairs"), selecting(["pairs", "reward"])
    ),
    "a model that is a stage unsaid": Case(
        RUN, ("'pairs', field model", "say stage:sft"), recipe(SFT, PAIRS.replace('"chat"', '"sft"'))
    ),
    "a member without a head": Case(RUN, ("field select.models.1", "chat"), selecting(["reward", "chat"])),
    "a member that is a function": Case(
        RUN,
        ("field select.models.0", "'bad_rewards:good' is no reward model"),
        selecting(["bad_rewards:good", "reward"]),
    ),
    "no uniform arm": Case(RUN, ("select.uniform", "got 0", "> 0 and <= 1"), selecting(MEMBERS, uniform=0)),
    "nothing to select": Case(RUN, ("field select.num", "missing"), selecting(MEMBERS, num=None)),
    "rankings to select": Case(
        RUN, ("field select", "stage:pairs has 3", "num_responses to 2"), selecting(MEMBERS, pairs="num_responses = 3")
    ),
    "principles gone": Case(
        RUN, ("'mend', field constitution.path", "c.toml", "demo:kindness"), recipe(PAIRS, CRITIQUE)
    ),
    "half a principle": Case(
        RUN, ("c.toml", "principle.0.critique"), recipe(PAIRS, CRITIQUE) | {"c.toml": '[[principle]]\nname = "a"\n'}
    ),
    "all of them the best": Case(RUN, ("keep = 8", "num_responses = 8"), recipe(BEST + "keep = 8")),
    "steps scored as a whole": Case(
        RUN,
        ("'grpo', field reward", "stage:steps scores steps", 'steps = "min"'),
        recipe(STEPS, GRPO) | {"s.jsonl": json.dumps({"prompt": "a", "steps": ["b"], "labels": [1]})},
    ),
    "rounds of nothing": Case(RUN, ("[loop]", "`first`", "`carry`"), rounds("")),
    "rounds from nowhere": Case(
        RUN, ("[loop], field first", "did you mean 'pairs'"), rounds('first = "pair"\ncarry = {sft = "pairs"}\n')
    ),
    "carrying what is not there": Case(
        RUN, ("[loop], field carry", "'ppo'"), rounds('first = "pairs"\ncarry = {sft = "ppo"}\n')
    ),
    "a second round that starts elsewhere": Case(
        RUN,
        ("stage 'grpo-r2', field reference", "stage:sft is not stage:grpo", 'kl.start = "any"'),
        recipe(SFT, HELD, head=TWICE + 'first = "grpo"\ncarry = {sft = "grpo"}\n'),
    ),
    "gathering what is made once": Case(
        RUN, ("field gather", "'sft'"), rounds('first = "pairs"\ncarry = {sft = "pairs"}\ngather = ["sft"]\n')
    ),
}

CASES = {
    f"{table}: {name}": case
    for table, cases in (("data", DATA), ("reward", REWARDS), ("method", METHODS), ("stage", STAGES))
    for name, case in cases.items()
}


@pytest.mark.parametrize("name", CASES)
def test_one_sentence_and_nothing_half_written(name: str, bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused_whole(CASES[name], bench, capsys)


def test_a_stage_that_made_nothing_to_learn_from(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = 'name = "again"\nalgorithm = "sft"\nmodel = "chat"\ndata = {path = "stage:pairs", fold = "1/1000"}'
    (bench / "r.toml").write_text(str(recipe(PAIRS, data)["r.toml"]))
    refused(RUN, ("stage 'again', data stage:pairs", "of its 4 examples", "none can be used", "fold 1/1000"), capsys)
    assert not (bench / "out" / "again" / "manifest.json").exists()
