"""Labels that are not pairs: rankings, single thumbs, steps; read, tokenised, cut, and refused with a place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tether.config import DataConfig
from tether.data.load import load_groups, unpaired
from tether.data.steps import step_ends, stepwise
from tether.data.template import Template
from tether.errors import InputError
from tether.types import Group, Prompt, Response

ASK = [{"role": "user", "content": "hello there"}]
RANKED = {"prompt": ASK, "responses": ["I am fine", "what", "the cat sat"], "ranking": [1, 0, 1]}
STEPS = {"prompt": ASK, "steps": ["I am fine", "what is that", "the cat sat"], "labels": [True, False, 1]}


@pytest.fixture
def load(tmp_path: Path, base: Template) -> Any:
    def load(rows: list[dict[str, Any]], need: Any, context: int = 128, **section: Any) -> Any:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return load_groups(DataConfig(path=str(path), **section), base, context, need=need)

    return load


def shown(template: Template, group: Group) -> list[str]:
    return [template.decode(r.token_ids, special=True) for r in group.responses]


def test_a_ranking_comes_back_as_given(load: Any, base: Template) -> None:
    (group,), report = load([RANKED], "preference")
    assert group.labels == {"ranking": (1, 0, 1)}
    assert shown(base, group) == ["I am fine<|end|>", "what<|end|>", "the cat sat<|end|>"]
    assert report.format == "ranking"


def test_thumbs(load: Any, base: Template) -> None:
    rows = [{"prompt": ASK, "completion": "I am fine", "label": True}, {"prompt": ASK, "completion": "no", "label": 0}]
    groups, report = load(rows, "unpaired")
    assert [g.labels for g in groups] == [{"desirable": True}, {"desirable": False}]
    assert report.format == "unpaired"
    (one, _), report = load(rows, "responses")
    assert one.prompt.meta["label"] is True
    assert report.format == "prompt_response"


def test_comparisons_as_thumbs(load: Any, base: Template) -> None:
    pair = {"prompt": ASK, "chosen": "I am fine", "rejected": "what"}
    good, bad = load([pair], "unpaired")[0]
    assert (shown(base, good), good.labels) == (["I am fine<|end|>"], {"desirable": True})
    assert (shown(base, bad), bad.labels) == (["what<|end|>"], {"desirable": False})
    assert [g.labels["desirable"] for g in load([RANKED], "unpaired")[0]] == [False, True, False]


def test_the_middle_of_a_ranking_is_neither() -> None:
    responses = tuple(Response((i,)) for i in range(4))
    found = unpaired(Group(Prompt((9,)), responses, {"ranking": (2, 0, 1, 2)}))
    assert [(g.responses[0].token_ids, g.labels["desirable"]) for g in found] == [
        ((0,), False),
        ((1,), True),
        ((3,), False),
    ]
    assert unpaired(Group(Prompt((9,)), responses[:2], {"ranking": (1, 1)})) == []


def test_steps_are_marked_where_they_end(load: Any, base: Template) -> None:
    (group,), report = load([STEPS], "steps")
    (response,) = group.responses
    assert group.labels == {"steps": (True, False, True)}
    assert base.decode(response.token_ids) == "I am fine\nwhat is that\nthe cat sat"
    ends = [i for i, end in enumerate(response.trained) if end]
    upto = [base.decode(response.token_ids[: i + 1]) for i in ends]
    assert upto == ["I am fine\n", "I am fine\nwhat is that\n", "I am fine\nwhat is that\nthe cat sat"]
    assert report.format == "steps"
    (other,), _ = load([STEPS], "steps", step_delimiter=" ; ")
    assert base.decode(other.responses[0].token_ids) == "I am fine ; what is that ; the cat sat"


def test_a_cut_chain_keeps_the_labels_of_what_is_left(load: Any) -> None:
    (whole,), _ = load([STEPS], "steps")
    ends = [i for i, end in enumerate(whole.responses[0].trained) if end]
    context = len(whole.prompt.token_ids) + ends[1] + 1
    (short,), report = load([STEPS], "steps", context=context, on_too_long="truncate_response")
    assert short.labels == {"steps": (True, False)}
    assert short.responses[0].num_trained == 2
    assert report.truncated == 1


@pytest.mark.parametrize(
    ("row", "need", "says"),
    [
        (RANKED | {"ranking": [1, 0]}, "preference", "row 1: has 3 responses and 2 in its ranking"),
        (RANKED | {"ranking": [1, 0, "2"]}, "preference", "column 'ranking', item 3: is '2', not a whole number"),
        (RANKED | {"ranking": [1, 0, True]}, "preference", "item 3: is True, not a whole number"),
        (RANKED | {"responses": []}, "preference", "column 'responses': is an empty list"),
        (STEPS | {"labels": [True, "no", True]}, "steps", "column 'labels', item 2: is 'no', not true or false"),
        (STEPS | {"labels": [1, 2, 0]}, "steps", "item 2: is 2, not true or false"),
        (STEPS | {"steps": ["a", "b\nc", "d"]}, "steps", "row 1: has 3 labels, but its tokens make 4 steps"),
        (STEPS | {"steps": ["a", " ", "d"]}, "steps", "has 3 labels, but its tokens make 2 steps"),
        ({"prompt": ASK, "completion": "a", "label": "up"}, "unpaired", "column 'label': is 'up', not true or false"),
        ({"prompt": ASK, "completion": "a"}, "unpaired", "holds prompt_response data"),
        (STEPS, "preference", "holds steps data"),
    ],
)
def test_refusals_name_the_place(load: Any, row: dict[str, Any], need: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        load([row], need)
    assert says in str(caught.value)


words = st.sampled_from(["I am fine", "what", "the cat sat", "you are", "x", "é\u200b"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # the template never changes
@given(st.lists(words, min_size=1, max_size=6), st.sampled_from(["\n", "\n\n", " ки"]))
def test_every_step_has_its_end(base: Template, steps: list[str], delimiter: str) -> None:
    prompt = base.prompt(ASK)
    group = stepwise(prompt, steps, [True] * len(steps), base, delimiter)
    (response,) = group.responses
    ends = step_ends(response.token_ids, base.decode, delimiter)
    assert len(ends) == len(steps)
    assert [i for i, end in enumerate(response.trained) if end] == list(ends)
    for number, end in enumerate(ends, 1):
        assert steps[number - 1] in base.decode(response.token_ids[: end + 1])
