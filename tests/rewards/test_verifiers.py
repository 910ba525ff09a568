from __future__ import annotations

import re
from decimal import Decimal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tether.errors import InputError
from tether.rewards.answers import boxed, number_of
from tether.rewards.verifiers import VERIFIERS, build_verifier
from tether.types import Group, Prompt, Response


def grades(name, reference, *texts, under="answer", **options):
    prompt = Prompt((1,), text="what?", meta={"id": "p7", under: reference})
    scores = build_verifier(name, options)([Group(prompt, tuple(Response((2,), text) for text in texts))])
    assert scores.dtype == torch.float32
    assert scores.shape == (len(texts),)
    return scores.tolist()


def test_exact_answers():
    assert grades("exact", "new  york", "new york", " new york\n", "New York", "york") == [1, 1, 0, 0]
    assert grades("exact", "New York", "new york", ignore="case") == [1]
    assert grades("exact", "a b", "a b", "a  b", ignore="nothing") == [1, 0]
    assert grades("exact", ["UK", "United Kingdom"], "UK", "United Kingdom", "U") == [1, 1, 0]
    assert grades("exact", 4, "4", "4.0") == [1, 0]


def test_exact_answers_within_a_response():
    tag = r"<answer>(.*?)</answer>"
    texts = ("<think>5?</think>\n<answer>4\n</answer>", "<answer>4</answer> <answer>5</answer>", "4")
    assert grades("exact", "4", *texts, pattern=tag) == [1, 0, 0]
    assert grades("exact", "4", "it is 4", pattern=r"\d") == [1]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("7", "7"),
        ("12 - 5 = 7.", "7"),
        ("it is −3", "-3"),
        ("=-3", "-3"),
        ("3-5", "5"),
        ("(2)-5", "5"),
        ("1,234,567.5 in all", "1234567.5"),
        ("1, 2", "2"),
        ("$5", "5"),
        (".5", "0.5"),
        ("6.02e23", "6.02e23"),
        ("3/4", "0.75"),
        ("-3 / 4", "-0.75"),
        (r"\frac{3}{4}", "0.75"),
        (r"$-\dfrac{1}{2}$", "-0.5"),
        (r"first 3, so \boxed{4}, as in 5", "4"),
        (r"\boxed{3} no, \boxed{\frac{1}{4}}", "0.25"),
        (r"\boxed{x}", None),
        ("12{,}000", "12000"),
        ("50%", "50"),
        ("1/0", None),
        ("1e999999", "1e999999"),
        ("x2", None),
        ("", None),
        ("none", None),
        ("#### 72", "72"),
    ],
)
def test_the_number_an_answer_ends_in(text, number):
    found = number_of(text)
    assert (found is None) == (number is None)
    if number is not None:
        assert found == Decimal(number)


@given(st.integers(-(10**25), 10**25))
def test_whole_numbers_are_read_exactly(number):
    assert number_of(f"the answer is {number:,}.") == number
    assert grades("numeric", str(number), f"{number}", f"{number + 1}", tolerance=0) == [1, 0]


@given(st.text())
def test_no_text_is_too_strange_for_a_verifier(text):
    assert grades("numeric", "1", text)[0] in (0, 1)
    assert grades("exact", "1", text, pattern="(a)?b*")[0] in (0, 1)
    boxed(text)


def test_hostile_numbers_cost_nothing():
    long = "9" * 50_000
    hostile = ("1e999999", f"1/{long}", long, "9e999999/9e-999999", r"\boxed{" * 10_000, "1" + ",000" * 10_000)
    assert grades("numeric", "1", *hostile) == [0] * 6
    assert grades("numeric", "1e999999", "1e999999", "-1e999999", "1", relative=0.1) == [1, 0, 0]


def test_numeric_tolerances_by_hand():
    assert grades("numeric", "0.3333", "1/3", tolerance=1e-4) == [1]
    assert grades("numeric", "0.3333", "1/3") == [0]
    assert grades("numeric", "200", "190", "189.9", "210", relative=0.05) == [1, 0, 1]
    assert grades("numeric", "Tom has 72. #### 72", "72", "73", "none", under="solution") == [1, 0, 0]
    with pytest.raises(InputError, match="prompt p7: the reference answer 'many' holds no number"):
        grades("numeric", "many", "1")


def test_formats_are_of_the_whole_answer():
    shape = r"<think>.*</think>\s*<answer>.*</answer>"
    texts = ("<think>a\nb</think>\n<answer>c</answer>", "x<think></think><answer></answer>", "")
    assert grades("format", None, *texts, pattern=shape) == [1, 0, 0]


def test_regex_searches_and_compares():
    assert grades("regex", None, "a cat", "a dog", pattern="cat|cow") == [1, 0]
    assert grades("regex", "7", "x = 7 ", "x = 8, y = 7", "7", pattern=r"x = (\d+)", column="answer") == [1, 0, 0]


def test_symbolic_answers():
    pytest.importorskip("math_verify")
    texts = ("so 0.5", r"\boxed{\frac{2}{4}}", "2", "no idea")
    assert grades("symbolic", r"\frac{1}{2}", *texts, seconds=60) == [1, 1, 0, 0]
    assert grades("symbolic", "x^2+2x+1", r"\boxed{(x+1)^2}", r"$x^2 + 2x$", seconds=60) == [1, 0]
    assert grades("symbolic", r"$\sqrt{2}$", r"$\sqrt{8}/2$", seconds=60) == [1]
    with pytest.raises(InputError, match=r"prompt p7: the reference answer .* is no expression that math-verify"):
        grades("symbolic", "$$", "1", seconds=60)


def test_a_hostile_expression_costs_its_time_and_no_more():
    pytest.importorskip("math_verify")
    hostile = (r"\boxed{9^{9^{9^{9}}}}", r"\boxed{999999999!}", "$" + "(" * 3000 + "1" + ")" * 3000 + "$")
    for text in hostile:
        assert grades("symbolic", "2", text, seconds=1) == [0]
    assert grades("symbolic", "2", "2", seconds=60) == [1]


def test_references_are_looked_for_in_known_columns():
    assert grades("exact", "a", "a", under="response") == [1]
    assert grades("exact", "a", "a", under="solution") == [1]
    two = Group(Prompt((1,), meta={"solution": "b", "answer": "a"}), (Response((2,), "a"),))
    assert build_verifier("exact", {})([two]).tolist() == [1]
    assert build_verifier("exact", {"column": "solution"})([two]).tolist() == [0]
    with pytest.raises(
        InputError, match=r"prompt p7: .* in column 'answer' or 'response' or 'solution', but its columns are id, gold"
    ):
        grades("exact", "a", "a", under="gold")
    with pytest.raises(InputError, match=r"the reference answer is \{\}; it must be text or a number"):
        grades("exact", {}, "a")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("exakt", {}, "there is no verifier 'exakt'; did you mean 'exact'?"),
        ("exact", {"ignor": "case"}, "verifier 'exact', field ignor: unknown; did you mean 'ignore'?"),
        ("exact", {"ignore": "all"}, "field ignore: got 'all', expected 'nothing', 'space' or 'case'"),
        ("exact", {"pattern": "("}, "field pattern: '(' is no regular expression"),
        ("numeric", {"tolerance": -1}, "field tolerance: got -1, expected a number >= 0"),
        ("format", {}, "field pattern: missing; expected a string"),
        ("code", {"sandbox": {"wall_seconds": 0}}, "field sandbox.wall_seconds: got 0, expected a number > 0"),
    ],
)
def test_bad_options_are_named(name, options, message):
    with pytest.raises(InputError, match=re.escape(message)):
        build_verifier(name, options)


def test_options_are_described():
    for section in VERIFIERS.values():
        assert section.__doc__
        assert all(field.description for field in section.model_fields.values())
