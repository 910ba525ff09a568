"""`[loop]`: what each stage of a later round is called, reads and starts from."""

from __future__ import annotations

from typing import Any

import pytest

from tether.config.load import parse_recipe
from tether.config.recipe import Recipe
from tether.errors import InputError
from tether.pipeline.sections import sections

STAGES: list[dict[str, Any]] = [
    {"name": "sft", "algorithm": "sft", "model": "base", "data": {"path": "chat.jsonl"}},
    {"name": "pairs", "algorithm": "sample", "model": "stage:sft", "data": {"path": "prompts.jsonl"}},
    {"name": "votes", "algorithm": "label", "responses": "stage:pairs"},
    {
        "name": "reward",
        "algorithm": "reward_model",
        "model": "stage:sft",
        "data": {"path": "stage:votes", "also": ["old.jsonl"]},
        "eval_data": {"path": "stage:votes", "split": "validation"},
    },
    {
        "name": "ppo",
        "algorithm": "ppo",
        "model": "stage:sft",
        "reference": "stage:sft",
        "reward": [{"use": "stage:reward"}, {"use": "mine:short", "weight": 0.5}],
        "data": {"path": "prompts.jsonl"},
        "seed": 40,
    },
    {
        "name": "evaluate",
        "algorithm": "evaluate",
        "model": "stage:ppo",
        "baseline": "stage:sft",
        "data": {"path": "new.jsonl"},
        "judge": "mine:gold",
    },
]
LOOP = {"rounds": 3, "first": "pairs", "carry": {"sft": "ppo"}, "gather": ["votes"]}


def parse(**loop: Any) -> Recipe:
    return parse_recipe({"run": {"name": "x", "seed": 5}, "stage": STAGES, "loop": LOOP | loop}, sections())


def test_three_rounds() -> None:
    recipe = parse()
    repeated = ["pairs", "votes", "reward", "ppo", "evaluate"]
    names = ["sft", *repeated, *(f"{n}-r2" for n in repeated), *(f"{n}-r3" for n in repeated)]
    assert [s.name for s in recipe.stages] == names
    told = {s.name: s.model_dump() for s in recipe.stages}
    # The newest policy answers, and goes on learning; what it is tethered to and compared with stays.
    assert [told[n]["model"] for n in ("pairs", "pairs-r2", "pairs-r3")] == ["stage:sft", "stage:ppo", "stage:ppo-r2"]
    assert told["ppo-r3"]["model"] == "stage:ppo-r2"
    assert told["ppo-r3"]["reference"] == "stage:sft"
    assert told["evaluate-r3"]["model"] == "stage:ppo-r3"
    assert told["evaluate-r3"]["baseline"] == "stage:sft"
    assert told["votes-r2"]["responses"] == "stage:pairs-r2"
    assert [t["use"] for t in told["ppo-r2"]["reward"]] == ["stage:reward-r2", "mine:short"]
    # Labels add up.
    assert told["reward"]["data"]["also"] == ("old.jsonl",)
    assert told["reward-r3"]["data"]["path"] == "stage:votes-r3"
    assert told["reward-r3"]["data"]["also"] == ("stage:votes", "stage:votes-r2", "old.jsonl")
    assert told["reward-r3"]["eval_data"]["also"] == ("stage:votes", "stage:votes-r2")
    # Draws are new.
    assert [told[n]["seed"] for n in ("pairs", "pairs-r2", "pairs-r3", "ppo", "ppo-r3")] == [None, 6, 7, 40, 42]


def test_one_round_is_the_recipe_as_written() -> None:
    assert [s.name for s in parse(rounds=1).stages] == [s["name"] for s in STAGES]
    assert all(s.seed in (None, 40) for s in parse(rounds=1).stages)


def test_without_gathering_each_round_reads_its_own() -> None:
    told = parse(gather=[]).stage("reward-r2").model_dump()
    assert told["data"]["path"] == "stage:votes-r2"
    assert told["data"]["also"] == ("old.jsonl",)


@pytest.mark.parametrize(
    ("loop", "says"),
    [
        ({"first": "pears"}, "[loop], field first: there is no stage 'pears'; did you mean 'pairs'?"),
        ({"carry": {"sft": "sft"}}, "[loop], field carry: 'sft' is not a repeated stage"),
        ({"carry": {"sftt": "ppo"}}, "[loop], field carry: there is no stage 'sftt'; did you mean 'sft'?"),
        ({"gather": ["vote"]}, "[loop], field gather: 'vote' is not a repeated stage; did you mean 'votes'?"),
        ({"carry": {}}, "rounds > 1 needs `first`"),
        ({"rounds": 0}, "[loop], field rounds: got 0, expected a whole number >= 1"),
    ],
)
def test_refusals(loop: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(**loop)
    assert says in str(caught.value)
