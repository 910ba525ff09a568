from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from trl.rewards import think_format_reward

from tether.errors import InputError
from tether.rewards.function import FunctionScorer, load_function
from tether.types import Group, Prompt, Response

CHAT = ({"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"})
GROUPS = [
    Group(Prompt((1, 2), CHAT, "hi", {"id": "a", "answer": "4"}), (Response((5, 6), "hello"), Response((7,), "oh"))),
    Group(Prompt((3,), (), "once", {"id": "b", "level": 2}), (Response((8, 9, 10), "upon a"),)),
]


def test_the_function_sees_what_trl_would_show_it():
    seen = {}

    def reward(prompts, completions, **kwargs):
        seen.update(kwargs, prompts=prompts, completions=completions)
        return [1, 2.5, True]

    rewards = FunctionScorer(reward)(GROUPS)
    assert rewards.tolist() == [1, 2.5, 1]
    assert rewards.dtype == torch.float32
    assert seen["prompts"] == [list(CHAT), list(CHAT), "once"]
    assert seen["completions"] == [
        [{"role": "assistant", "content": "hello"}],
        [{"role": "assistant", "content": "oh"}],
        "upon a",
    ]
    assert seen["completion_ids"] == [[5, 6], [7], [8, 9, 10]]
    assert seen["answer"] == ["4", "4", None]
    assert seen["level"] == [None, None, 2]
    assert seen["id"] == ["a", "a", "b"]
    seen["log_metric"]("x", 1.0)


def test_a_reward_function_of_trl_works_unchanged():
    group = Group(Prompt((1,), CHAT), (Response((5,), "<think>\nwell\n</think>\nyes"), Response((6,), "<think>\nyes")))
    assert FunctionScorer(think_format_reward)([group]).tolist() == [1.0, 0.0]


def test_only_named_arguments_are_passed():
    assert FunctionScorer(lambda completions, answer: [len(a or "") for a in answer])(GROUPS).tolist() == [1, 1, 0]
    assert FunctionScorer(lambda completion_ids, level=None: map(len, completion_ids))(GROUPS).tolist() == [2, 1, 3]
    assert FunctionScorer(lambda prompts, **kw: [len(kw)] * 3, columns=["level"])(GROUPS).tolist() == [6, 6, 6]
    with pytest.raises(InputError, match=r"wants solution, which the data does not have; there are: id, answer, level"):
        FunctionScorer(lambda completions, solution: [])(GROUPS)


def test_numbers_of_every_kind_are_numbers():
    for given in (np.array([1, 2, 3]), torch.tensor([1, 2, 3]), [np.float32(1), torch.tensor(2.0), 3], (1, 2, 3)):
        assert FunctionScorer(lambda completions, given=given: given)(GROUPS).tolist() == [1, 2, 3]


def test_a_coroutine_function_is_awaited():
    async def reward(completions, **kwargs):
        return [0.5] * len(completions)

    assert FunctionScorer(reward)(GROUPS).tolist() == [0.5] * 3


def test_no_responses_no_call():
    def reward(completions):
        raise AssertionError

    assert FunctionScorer(reward)([Group(Prompt((1,)))]).shape == (0,)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1.0, None, 2.0], r"gave None for response 1 to prompt a \('oh'\); a reward must be a finite number"),
        ([1.0, 2.0, math.nan], r"gave nan for response 0 to prompt b"),
        ([math.inf, 2.0, 3.0], r"gave inf for response 0 to prompt a"),
        (["1", 2.0, 3.0], r"gave '1' for response 0 to prompt a"),
        ([[1.0], 2.0, 3.0], r"gave \[1.0\] for response 0 to prompt a"),
        (np.array([[1.0, 2.0]] * 3), r"gave array\(\[1., 2.\]\) for response 0 to prompt a"),
        (torch.tensor([1.0, math.nan, 0.0]), r"gave nan for response 1 to prompt a"),
        ([1.0, 2.0], r"gave 2 rewards for 3 responses"),
        ([], r"gave 0 rewards for 3 responses"),
        (None, r"gave a NoneType; it must give a list of 3 numbers"),
        (1.0, r"gave a float"),
        ("abc", r"gave a str"),
    ],
)
def test_a_bad_reward_names_function_and_sample(given, message):
    def reward(completions):
        return given

    with pytest.raises(InputError, match=rf"^reward function [\w.]*:.*reward {message}"):
        FunctionScorer(reward)(GROUPS)


def test_an_exception_names_function_and_batch_and_keeps_its_cause():
    def reward(completions):
        return [{}["x"]]

    with pytest.raises(InputError, match=r"reward failed on 3 responses to prompts a to b: KeyError: 'x'") as caught:
        FunctionScorer(reward)(GROUPS)
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and Path(sys.modules[name].__file__).is_relative_to(tmp_path):
            del sys.modules[name]


def test_functions_come_from_the_working_directory_first(here):
    (here / "colorsys.py").write_text(
        "def f(completions):\n    import beside_it\n    return [beside_it.x]\nnot_one = 3\n"
    )
    (here / "beside_it.py").write_text("x = 4.0\n")
    sys.modules.pop("colorsys", None)
    function = load_function("colorsys:f")
    assert function([]) == [4.0]
    assert sys.path[0] != str(here)
    with pytest.raises(InputError, match=r"'colorsys:g': module 'colorsys' has no 'g'; its functions are: f"):
        load_function("colorsys:g")
    with pytest.raises(InputError, match=r"'colorsys:not_one' is of type int; it must be callable"):
        load_function("colorsys:not_one")


def test_what_cannot_be_loaded(here):
    (here / "broken_one.py").write_text("import not_there_at_all\n")
    (here / "broken_two.py").write_text("def f(:\n")
    for name, message in {
        "no_such_module:f": r"cannot be imported from .* there is no module 'no_such_module'",
        "broken_one:f": r"ModuleNotFoundError: No module named 'not_there_at_all'",
        "broken_two:f": r"SyntaxError",
        "math": r"must be named as module:function",
        ":f": r"must be named as module:function",
        "math:": r"must be named as module:function",
    }.items():
        with pytest.raises(InputError, match=message):
            load_function(name)


def test_dotted_names_reach_into_classes():
    assert load_function("pathlib:Path.cwd")() == Path.cwd()
