"""What the values of other tools' questions mean."""

from __future__ import annotations

from typing import Any

import pytest

from tether.errors import InputError
from tether.feedback.foreign import Part, Reading, Said, answer_of, sort_fields
from tether.feedback.label_studio import read_label_studio

FIELDS = sort_fields({"prompt": "Say hi", "reply-1": "Hi", "reply-2": "Yo"}, Reading(), "f")


def said(**values: Any) -> Said | None:
    parts = [Part(question, value) for question, value in values.items()]
    return answer_of(parts, FIELDS, "u", Reading(), "f, record 1")


@pytest.mark.parametrize("why", ["reply-2 is rude", "None", "see point 2", "b"])
def test_a_remark_is_no_choice_beside_a_ranking(why):
    for values in ({"order": ["reply-1", "reply-2"], "why": why}, {"why": why, "order": ["reply-1", "reply-2"]}):
        told = said(**values)
        assert (told.ranks, told.rationale, told.all_bad) == ((0, 1), why, False)


def test_a_remark_is_no_choice_beside_a_choice_or_ratings():
    told = said(best="reply-1", why="reply-2 is rude", more="short")
    assert (told.ranks, told.rationale) == ((0, 1), "why: reply-2 is rude\nmore: short")
    told = said(**{"reply-1-good": 2, "reply-2-good": 4, "why": "reply-2 is polite"})
    assert (told.ranks, told.ratings, told.rationale) == (None, ({"good": 2}, {"good": 4}), "reply-2 is polite")
    assert said(best="Reply 2 is better").ranks == (1, 0)


@pytest.mark.parametrize(
    "values",
    [
        {"one": "reply-1", "two": "reply-2"},
        {"one": "reply-1", "two": "tie"},
        {"one": "reply 1 is better", "two": "I like reply-2"},
        {"one": ["reply-1", "reply-2"], "two": ["reply-2", "reply-1"]},
    ],
)
def test_questions_that_contradict_each_other_are_refused(values):
    with pytest.raises(InputError, match="f, record 1: questions 'one' and 'two' order the responses differently"):
        said(**values)
    assert said(**(values | {"two": values["one"]})).ranks == (0, 1)


def studio(*result: dict[str, Any], answers: int = 3) -> Said:
    data = {"prompt": "Say hi", **{f"answer{n}": f"text {n}" for n in range(1, answers + 1)}}
    (record,) = read_label_studio([{"data": data, "annotations": [{"result": result}]}], "f", Reading(), False)
    return record.said[0]


def control(type: str, to: str = "x", **value: Any) -> dict[str, Any]:
    return {"from_name": "c", "to_name": to, "type": type, "value": value}


def test_choices_ticked_together_tie():
    assert studio(control("choices", choices=["answer3", "answer1"])).ranks == (0, None, 0)
    assert studio(control("choices", choices=["answer3"])).ranks == (1, 1, 0)


def test_left_is_the_field_that_the_control_names_first():
    for names, ranks in (("answer2,answer1", (0, 1)), ("answer1,answer2", (1, 0)), ("one,other", (1, 0))):
        assert studio(control("pairwise", names, selected="right"), answers=2).ranks == ranks
        assert studio(control("pairwise", names, selected="left"), answers=2).ranks == ranks[::-1]


def test_what_is_written_is_no_choice():
    chosen = control("choices", choices=["answer2"])
    told = studio(
        control("textarea", text=["answer1"]), chosen, control("textarea", text=["answer1 is bad", "answer3"])
    )
    assert (told.ranks, told.rationale) == ((1, 0, 1), "c: answer1\nc: answer1 is bad\nanswer3")
