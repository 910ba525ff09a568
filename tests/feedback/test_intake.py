"""Files of prompts and responses as what a project asks."""

from __future__ import annotations

import json

import pytest

from tether.errors import InputError
from tether.feedback.intake import Added, add_questions, read_file, read_lines, read_upload
from tether.feedback.projects import Attribute, Settings, one_project
from tether.feedback.schema import items, prompts, responses
from tether.feedback.store import Store

TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


def upload(*rows, name="rows.jsonl"):
    return read_upload("".join(json.dumps(row) + "\n" for row in rows).encode(), name)


def texts(question):
    return [response.text for response in question.responses]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "p"}, []),
        ({"instruction": "p", "responses": ["a", "b", "c"]}, ["a", "b", "c"]),
        ({"prompt": "p", "completions": ["a", "b"], "ranking": [1, 0]}, ["a", "b"]),
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, ["a", "b"]),
        ({"chosen": "\n\nHuman: p\n\nAssistant: a", "rejected": "\n\nHuman: p\n\nAssistant: b"}, ["a", "b"]),
        ({"question": "p", "answer": "a"}, ["a"]),
        ({"prompt": "p", "completion": "a", "label": True}, ["a"]),
        ({"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}]}, ["a"]),
        ({"messages": [{"role": "user", "content": "p"}]}, []),
        ({"prompt": {"text": "p", "messages": [], "token_ids": [1]}, "responses": [{"text": "a"}]}, ["a"]),
    ],
)
def test_every_format_is_understood(row, says):
    (question,) = upload(row)
    assert question.prompt.text == "p"
    assert texts(question) == says


def test_a_conversation_is_what_is_answered():
    (question,) = upload({"prompt": [*TURNS, {"role": "user", "content": "and?"}], "topic": "greeting"})
    assert (question.prompt.text, len(question.prompt.messages)) == ("and?", 3)
    assert question.prompt.meta["topic"] == "greeting"
    assert question.said == [*TURNS, {"role": "user", "content": "and?"}]


def test_single_responses_are_gathered_by_their_prompt():
    rows = [{"prompt": p, "response": r, "checkpoint": c} for p, r, c in (("p", "a", "x"), ("q", "b", "x"))]
    first, second = upload(*rows, {"prompt": "p", "response": "c", "checkpoint": "y"})
    assert (texts(first), texts(second)) == (["a", "c"], ["b"])
    assert [r.checkpoint for r in first.responses] == ["x", "y"]


def test_a_sample_stage_says_who_wrote_it(tmp_path):
    asked = {"text": "p", "messages": TURNS[:1], "token_ids": [5], "meta": {"score": float("nan")}}
    row = {"prompt": asked, "labels": {}}
    row["responses"] = [{"text": "a", "token_ids": [6, 0], "ended": True}, {"text": "b", "ended": False}]
    folder = tmp_path / "sft"
    folder.mkdir()
    (folder / "groups.jsonl").write_text(json.dumps(row))
    (question,) = read_file(folder / "groups.jsonl", "runs/sft/groups.jsonl")
    first, second = question.responses
    assert (first.token_ids, first.ended, first.checkpoint) == ([6, 0], True, "sft")
    assert (second.ended, second.checkpoint) == (False, "sft")
    assert (question.prompt.token_ids, question.prompt.meta) == ([5], {"score": None})


def test_pasted_lines_are_prompts_or_objects():
    assert [q.prompt.text for q in read_lines("one\n\n  two \n")] == ["one", "two"]
    assert [texts(q) for q in read_lines('{"prompt": "p", "responses": ["a", "b"]}\n')] == [["a", "b"]]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"prompt": "p"}, {"prompt": 3}], "rows.jsonl, row 2, column 'prompt': is int"),
        ([{"colour": "red"}], "rows.jsonl: found columns colour"),
        ([{"text": "only text"}], "rows.jsonl: holds text data"),
        (
            [{"prompt": "p", "responses": ["a"]}, {"prompt": "p", "responses": None}],
            "row 1, column 'responses': must be a list of two or more",
        ),
        ([{"prompt": "p", "responses": ["a", "b"]}, {"prompt": "p"}], "row 2, column 'responses': must be"),
        ([{"prompt": "p", "responses": ["a", "b"], "checkpoints": ["x"]}], "row 1: checkpoints must name"),
        ([{"prompt": "p", "responses": ["a", "b"], "gold": True}], "row 1, column 'gold'"),
        ([{"prompt": {"text": "p"}, "responses": [{}]}], "row 1: is no group of a sample stage"),
        ([{"prompt": {"text": 3}, "responses": []}], "row 1: is no group of a sample stage (prompt.text: "),
        ([{"prompt": {"text": "p", "messages": ["m"]}, "responses": []}], "(prompt.messages.0: "),
        ([{"prompt": {"text": "p"}, "responses": [{"text": "a", "token_ids": 3}]}], "(responses.0.token_ids: "),
        ([{"prompt": {"text": "p", "meta": 3}, "responses": []}], "(prompt.meta: "),
        ([{"prompt": "a\0b"}], "prompt 1: contains NUL"),
    ],
)
def test_bad_rows_are_named(rows, says):
    with pytest.raises(InputError) as error:
        upload(*rows)
    assert says in str(error.value)


@pytest.mark.parametrize("name", ["rows.txt", "../../etc/passwd", "", "a\\b"])
def test_a_name_is_no_path(name):
    with pytest.raises(InputError, match="files end in"):
        read_upload(b"{}", name)


def test_a_message_names_the_file_as_it_was_sent():
    with pytest.raises(InputError, match=r"^mine\.csv, line 2: has another number of fields"):
        read_upload(b"prompt,topic\nonly one\n", "C:\\Users\\me\\mine.csv")


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "here.sqlite") as opened:
        yield opened


def asked(store, kind, rows, **settings):
    project = store.add_project(f"{kind} {settings}", kind, Settings(**settings))
    with store.writing() as db:
        added = add_questions(db, one_project(db, project), upload(*rows))
        assert add_questions(db, one_project(db, project), upload(*rows)) == added
        found = db.execute(items.select().where(items.c.project_id == project)).all()
    return added, found


@pytest.mark.parametrize(
    ("kind", "shown", "said", "expected"),
    [
        ("pair", 2, ["a", "b"], Added(1, 1, 0, 0)),
        ("pair", 2, ["a", "b", "c", "a", "d", "e"], Added(1, 2, 1, 1)),
        ("pair", 2, ["a", "a"], Added(1, 0, 1, 1)),
        ("ranking", 4, list("abcdefg"), Added(1, 2, 0, 0)),
        ("ranking", 4, list("abcde"), Added(1, 1, 0, 1)),
        ("rating", 1, ["a", "b"], Added(1, 2, 0, 0)),
        ("edit", 2, ["a", "b"], Added(1, 2, 0, 0)),
    ],
)
def test_responses_become_items_of_the_size_shown(store, kind, shown, said, expected):
    attributes = (Attribute(name="good"),) if kind == "rating" else ()
    added, found = asked(
        store, kind, [{"prompt": "p", "responses": said}], shown=shown, attributes=attributes, overlap=5
    )
    assert added == expected
    assert [(row.kind, row.overlap) for row in found] == [(kind, 5)] * expected.items


def test_gold_rows_are_gold(store):
    rows = [{"prompt": str(i), "chosen": "good", "rejected": "bad", "gold": str(i == 1)} for i in range(3)]
    _, found = asked(store, "pair", rows)
    with store.reading() as db:
        written = {row.id: row.text for row in db.execute(responses.select())}
    golden = [{written[int(i)]: rank for i, rank in row.gold.items()} for row in found if row.gold]
    assert golden == [{"good": 0, "bad": 1}]


def test_nothing_is_stored_by_halves(store):
    project = store.add_project("rated", "rating", Settings(attributes=(Attribute(name="good"),)))
    rows = [{"prompt": str(i), "chosen": "a", "rejected": "b", "gold": i == 9} for i in range(10)]
    with (
        pytest.raises(InputError, match=r"^prompt 10: only a pair or a ranking can be gold, not kind rating"),
        store.writing() as db,
    ):
        add_questions(db, one_project(db, project), upload(*rows))
    with store.reading() as db:
        assert db.execute(prompts.select()).all() == []


def test_a_gold_row_of_too_many_responses_for_the_kind_is_named(store):
    row = {"prompt": "p", "responses": ["a", "b", "c"], "ranking": [0, 1, 2], "gold": True}
    with pytest.raises(InputError, match=r"^prompt 1: is gold with 3 different responses; kind pair takes 2$"):
        asked(store, "pair", [row])
