"""`--set`: what a value becomes and what a mistake says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tether.config.overrides import override_recipe, override_stage, parse_override
from tether.errors import InputError


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("train.lr=3e-5", ("train", "lr"), 3e-5),
        ("a = 3", ("a",), 3),
        ("a=true", ("a",), True),
        ("a=word", ("a",), "word"),
        ("a='3'", ("a",), "3"),
        ('a="x = y"', ("a",), "x = y"),
        ("a=[1, 2]", ("a",), [1, 2]),
        ("a={b = 1}", ("a",), {"b": 1}),
        ("a=k=v", ("a",), "k=v"),
        ("a=stage:sft", ("a",), "stage:sft"),
        ("a=/some/dir with space", ("a",), "/some/dir with space"),
        ("a=1\nb=2", ("a",), "1\nb=2"),
    ],
)
def test_values(text: str, path: tuple[str, ...], value: Any) -> None:
    parsed = parse_override(text)
    assert parsed == (path, value)
    assert type(parsed[1]) is type(value)


@pytest.mark.parametrize("text", ["a", "a=", "=3", "a..b=1", ".a=1", "a b=1", ""])
def test_not_an_override(text: str) -> None:
    with pytest.raises(InputError, match="expected FIELD=VALUE"):
        parse_override(text)


@pytest.mark.parametrize("text", ["a=[1", "a={b", "a='x", 'a="x'])
def test_broken_toml(text: str) -> None:
    with pytest.raises(InputError, match="the value is not valid TOML"):
        parse_override(text)


@given(st.lists(st.text("abc", min_size=1), min_size=1, max_size=4), st.integers() | st.booleans())
def test_sets_that_place_and_no_other(path: list[str], value: int | bool) -> None:
    before = {"other": {"x": [1, 2]}, "keep": 1}
    after = override_stage(before, [f"{'.'.join(path)}={str(value).lower()}"])
    place: Any = after
    for step in path:
        place = place[step]
    assert place == value
    assert type(place) is type(value)
    assert {k: v for k, v in after.items() if k != path[0]} == {"other": {"x": [1, 2]}, "keep": 1}
    assert before == {"other": {"x": [1, 2]}, "keep": 1}


def test_later_overrides_win() -> None:
    assert override_stage({}, ["a.b=1", "a.b=2", "a.c=3"]) == {"a": {"b": 2, "c": 3}}


def test_recipe_places() -> None:
    table = {"run": {"seed": 1}, "stage": [{"name": "x", "w": [{"v": 1}, {"v": 2}]}, {"name": "y"}]}
    changed = override_recipe(table, ["run.seed=2", "x.w.1.v=5", "y.z=1", "loop.rounds=1"])
    assert changed == {
        "run": {"seed": 2},
        "loop": {"rounds": 1},
        "stage": [{"name": "x", "w": [{"v": 1}, {"v": 5}]}, {"name": "y", "z": 1}],
    }
    assert table == {"run": {"seed": 1}, "stage": [{"name": "x", "w": [{"v": 1}, {"v": 2}]}, {"name": "y"}]}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sfft.a=1", "--set sfft.a=1: no stage is called 'sfft'; did you mean 'sft'?"),
        ("zzz.a=1", "--set zzz.a=1: no stage is called 'zzz'; valid: loop, run, sft"),
        ("lr=1", "--set lr=1: name the stage as well, STAGE.lr=1; valid: loop, run, sft"),
        ("sft.model.x=1", "--set sft.model.x=1: 'x' is not within a table; the recipe has 'base' there"),
        ("sft.w.7.v=1", "--set sft.w.7.v=1: '7' is not within a table; the recipe has [] there"),
    ],
)
def test_wrong_places(text: str, says: str) -> None:
    with pytest.raises(InputError) as error:
        override_recipe({"stage": [{"name": "sft", "model": "base", "w": []}]}, [text])
    assert str(error.value) == says
