"""Rows → examples, in each format of the field."""

from __future__ import annotations

from typing import Any

import pytest

from tether.data.formats import Example, detect, understand
from tether.errors import InputError

USER = {"role": "user", "content": "hi"}
BOT = {"role": "assistant", "content": "hello"}
CRY = {"role": "assistant", "content": "go away"}


def read(*rows: Any) -> list[Example]:
    return understand(rows, detect(list(rows[0]), "rows"), "rows", "train")


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (["text"], "text"),
        (["prompt"], "prompts"),
        (["question", "level"], "prompts"),
        (["prompt", "response"], "prompt_response"),
        (["prompt", "completion"], "prompt_response"),
        (["question", "answer", "text"], "prompt_response"),
        (["instruction", "output"], "prompt_response"),
        (["messages"], "messages"),
        (["id", "conversations"], "messages"),
        (["chosen", "rejected"], "preference"),
        (["prompt", "chosen", "rejected", "messages"], "preference"),
        (["prompt", "completion", "label"], "unpaired"),
        (["prompt", "completions", "labels"], "steps"),
        (["question", "steps", "labels"], "steps"),
        (["prompt", "responses", "ranking"], "ranking"),
        (["prompt", "completions", "ranks"], "ranking"),
    ],
)
def test_columns_tell_the_format(columns: list[str], found: str) -> None:
    assert detect(columns, "rows") == found


def test_when_nothing_fits() -> None:
    with pytest.raises(InputError) as caught:
        detect(["frage", "antwort"], "a.jsonl")
    for word in (
        "a.jsonl",
        "frage, antwort",
        "prompt_response (prompt + response)",
        "preference (chosen + rejected)",
        "text",
    ):
        assert word in str(caught.value)


def test_other_columns_go_along() -> None:
    (example,) = read({"prompt": "2 + 2", "response": "4", "solution": "four", "votes": 3})
    assert (example.prompt, example.responses) == ("2 + 2", ("4",))
    assert example.meta == {"solution": "four", "votes": 3, "row": 1, "split": "train", "id": "1"}
    assert read({"text": "a", "id": "mine"})[0].meta["id"] == "mine"


def test_prompts_and_responses_as_messages() -> None:
    (example,) = read({"prompt": [USER], "completion": [BOT]})
    assert (example.prompt, example.responses) == ([USER], ("hello",))


def test_sharegpt_is_a_conversation() -> None:
    (example,) = read({"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]})
    assert example.conversation == (USER, BOT)


HH = "\n\nHuman: hi\n\nAssistant: "


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [USER], "chosen": "hello", "rejected": "go away"},
        {"prompt": [USER], "chosen": [BOT], "rejected": [CRY]},
        {"prompt": [USER], "chosen": [USER, BOT], "rejected": [USER, CRY]},
        {"chosen": [USER, BOT], "rejected": [USER, CRY]},
        {"prompt": None, "chosen": [USER, BOT], "rejected": [USER, CRY]},
        {"chosen": HH + "hello", "rejected": HH + "go away"},
    ],
)
def test_every_shape_of_a_preference_is_the_same_example(row: dict[str, Any]) -> None:
    (example,) = read(row)
    assert (example.prompt, example.responses) == ([USER], ("hello", "go away"))


def test_ultrafeedback_repeats_a_prompt_given_as_text() -> None:
    (example,) = read({"prompt": "hi", "chosen": [USER, BOT], "rejected": [USER, CRY]})
    assert example.responses == ("hello", "go away")
    assert example.prompt == [USER]


def test_a_long_hh_dialogue() -> None:
    said = "\n\nHuman: a\n\nAssistant: b\nc\n\nHuman: d\n\nAssistant: "
    (example,) = read({"chosen": said + "yes\n\nno", "rejected": said + "no"})
    assert example.prompt == [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b\nc"},
        {"role": "user", "content": "d"},
    ]
    assert example.responses == ("yes\n\nno", "no")


BAD = [
    ({"text": None}, r"row 1, column 'text': is empty \(null\), not text"),
    ({"text": 3}, "column 'text': is int, not text"),
    ({"text": "\ud800"}, "half a surrogate pair"),
    ({"prompt": None}, r"column 'prompt': is empty \(null\)"),
    ({"prompt": ""}, "the prompt is empty"),
    ({"prompt": []}, "is an empty list"),
    ({"prompt": 3.5}, "is float"),
    ({"prompt": [USER, BOT]}, "ends with an assistant's turn"),
    ({"prompt": ["hi"]}, "message 1: is str, not an object with role and content"),
    ({"prompt": [{"role": "boss", "content": "hi"}]}, "message 1: role 'boss' is none of"),
    ({"prompt": [{"role": ["user"], "content": "hi"}]}, "message 1: role"),
    ({"prompt": [USER | {"content": None}]}, r"message 1, content: is empty \(null\)"),
    ({"prompt": "a", "response": None}, "column 'response'"),
    ({"prompt": "a", "response": [BOT, BOT]}, "has 2 messages; a response is one"),
    ({"messages": "hi"}, "column 'messages': is str"),
    ({"prompt": "a", "chosen": "b", "rejected": None}, "column 'rejected'"),
    ({"prompt": [USER], "chosen": [{"role": "user", "content": "other"}, BOT], "rejected": [BOT]}, "not the prompt's"),
    ({"chosen": "b", "rejected": "c"}, "no prompt column, and not a dialogue"),
    ({"chosen": [USER, BOT], "rejected": [USER | {"content": "yo"}, BOT]}, "share no turns"),
    ({"chosen": [BOT], "rejected": [CRY]}, "share no turns"),
    (
        {"chosen": [USER, USER], "rejected": [USER, USER | {"content": "yo"}]},
        "must be the assistant's turn, not the user's",
    ),
    ({"prompt": "a", "response": [USER]}, "must be the assistant's turn, not the user's"),
    ({"chosen": [USER, BOT, CRY], "rejected": [USER, BOT, BOT]}, "ends with an assistant's turn"),
]


@pytest.mark.parametrize(("row", "says"), BAD, ids=[says[:40] for _, says in BAD])
def test_a_bad_row_gets_one_sentence(row: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        read(row)
    assert "rows, row 1" in str(caught.value)


def test_a_column_missing_later_on_names_the_row() -> None:
    with pytest.raises(InputError, match="row 2: has no column 'response'; its columns are prompt"):
        read({"prompt": "a", "response": "b"}, {"prompt": "a"})
