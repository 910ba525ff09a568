"""Rows that are wrong somewhere: refused in a sentence that says where, or harmless. Tables, whose rows are regular."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.feedback.test_imports import ARGILLA, HH, LISTED, TRL, TWO, put, task

from tether.config import DataConfig
from tether.errors import InputError
from tether.feedback.dataset import make_dataset
from tether.feedback.files import ENCODERS
from tether.feedback.foreign import Reading
from tether.feedback.imports import import_answers
from tether.feedback.projects import Attribute, Settings
from tether.feedback.records import NewItem, NewPrompt, NewResponse, Query
from tether.feedback.shapes import SHAPES, Options, rows_of
from tether.feedback.store import Store


@pytest.fixture
def store(tmp_path: Path):
    with Store.open(tmp_path / "s.db") as opened:
        yield opened


def completion(**more: Any) -> dict[str, Any]:
    return {"model": "m", "response": "a", "annotations": {"honesty": {"Rating": "4"}}, "overall_score": 7.5} | more


ULTRA = {"instruction": "p", "completions": [completion(), completion(response="b", overall_score=9)]}
RATED = ARGILLA["2 json"] | {
    "responses": {f"reply-{n}-helpful": [{"value": n, "user_id": "ann"}] for n in (1, 2)},
    "suggestions": None,
}
STARS = [{"from_name": "good", "to_name": f"answer{n}", "type": "rating", "value": {"rating": n}} for n in (1, 2)]
ORDER = [{"from_name": "r", "type": "ranker", "value": {"ranker": ["llm_c", "llm_a", "llm_b"]}}]
JUDGED = {
    "kind": "pair",
    "prompt": [{"role": "user", "content": "q"}],
    "shown": [{"text": text, "checkpoint": None, "ended": True} for text in "ab"],
    "annotator": "0a",
    "annotator_kind": "human",
    "action": "rank",
    "ranks": [1, 0],
    "ratings": [{"kind": 1}, {"kind": 5}],
    "gold": None,
    "order_known": True,
    "all_bad": False,
    "meta": {"n": 1},
    **dict.fromkeys(("correction", "skip", "rationale", "flag", "strength", "seconds", "created")),
}
GOOD = [*ARGILLA.values(), RATED, task(STARS, TWO), task(ORDER, LISTED), ULTRA, JUDGED, HH, TRL]
WRONG = [None, 3, -1, 2.5, 1e30, float("nan"), float("inf"), 10**20, True, "", "\0", "\ud83d", "x" * 999, "tie", "9"]
WRONG += [[], {}, [None], [[]], ["a"], {"a": 1}]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) within a value."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [found for key in keys for found in ((value, key), *places(value[key]))]


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(GOOD), st.randoms(use_true_random=False), st.sampled_from(WRONG), st.booleans())
def test_a_row_that_is_wrong_somewhere_is_refused_or_harmless(
    blank_store, row: dict[str, Any], lots: random.Random, wrong: Any, left_out: bool
):
    """Whatever is replaced or missing: one sentence and nothing added, or answers that every export can hold."""
    rows = [copy.deepcopy(row)]
    container, key = lots.choice(places(rows[0]))
    if left_out:
        del container[key]
    else:
        container[key] = copy.deepcopy(wrong)
    with Store.open(blank_store()) as store:
        try:
            import_answers(store, put(blank_store.folder, rows), "new", reading=Reading(suggestions=True))
        except InputError as error:
            lines = str(error).count("\n")
            assert (lines, store.projects(), store.users(), store.judgements()) == (0, [], [], [])
            return
        with store.reading() as db:
            for shape in SHAPES:
                made = rows_of(db, shape, Query(), Options())
                for encode in ENCODERS.values():
                    encode(made)


@pytest.fixture(scope="session")
def blank_store(tmp_path_factory: pytest.TempPathFactory):
    """Makes copies of an empty store: one after the other, in the same place."""
    folder = tmp_path_factory.mktemp("blank")
    Store.open(folder / "empty.db").close()

    def make() -> Path:
        (folder / "s.db").write_bytes((folder / "empty.db").read_bytes())
        return folder / "s.db"

    make.folder = folder  # type: ignore[attr-defined]
    return make


SAYS = {
    "response": (ULTRA | {"completions": [completion(response=None)]}, "completion 1, response: is NoneType, not text"),
    "instruction": (ULTRA | {"instruction": ""}, "needs an instruction"),
    "model": (ULTRA | {"completions": [completion(model={})]}, "completion 1, model: must be a name"),
    "annotations": (ULTRA | {"completions": [completion(annotations=3)]}, "completion 1, annotations: is int"),
    "score": (ULTRA | {"completions": [completion(overall_score=float("nan"))]}, "overall_score: is nan, not a number"),
    "alone": (ULTRA | {"completions": [completion(annotations=None)]}, "has 1 completions and no ratings"),
    "ten": (
        ULTRA | {"completions": [completion(response=f"{n}") for n in range(10)]},
        "10 responses; kind ranking takes 2 to 9",
    ),
    "no number": (RATED | {"responses": {"reply-1": [{"value": float("nan"), "user_id": "u"}]}}, "nan is no whole"),
    "role": (JUDGED | {"prompt": [{"role": "user"}]}, "prompt: Input should be text, or a list of messages"),
    "kind": (JUDGED | {"kind": "pairs"}, "kind: Input should be 'pair', 'ranking', 'rating' or 'edit'"),
    "shown": (JUDGED | {"shown": [{"text": "a", "checkpoint": None, "ended": 3}]}, r"shown\.0\.ended: .* boolean"),
    "one each": (JUDGED | {"ranks": [0]}, "ranks has 1 values for 2 responses shown"),
    "meta": (JUDGED | {"meta": "{"}, "meta: is no JSON"),
    "rank": (JUDGED | {"ranks": [0, 10**12]}, "ranks 0, 1, 2 … up to 999"),
}


@pytest.mark.parametrize("name", SAYS)
def test_what_is_wrong_with_a_row_is_said(name, store, tmp_path):
    row, says = SAYS[name]
    with pytest.raises(InputError, match=rf"f\.json, record 1.*{says}"):
        import_answers(store, put(tmp_path, [row]), "new")


@pytest.mark.parametrize("kind", ["parquet", "datasets"])
def test_judgements_come_back_from_a_table_too(kind, store, tmp_path):
    """Where `meta` is text, and a row has every attribute that any has."""
    for number, attribute in enumerate(("kind", "clear")):
        project = store.add_project(attribute, "rating", Settings(attributes=(Attribute(name=attribute),)))
        guideline = store.add_guideline("g", project)
        (prompt,) = store.add_prompts([NewPrompt(f"p{number}", meta={"half": "\ud83d"} if number else {})])
        store.add_items([NewItem(store.add_responses([NewResponse(prompt, "a")]), 1, "rating", project)])
        held = store.claim(store.add_user("ann"), project)
        rated = {held.responses[0].id: {attribute: 5}}
        store.submit(held.id, None, attribute, guideline=guideline, ratings=rated)
    make_dataset(store, tmp_path / "out", "judgements", kind=kind)
    with Store.open(tmp_path / "copy.db") as copied:
        settled = Settings(attributes=tuple(Attribute(name=name) for name in ("kind", "clear")))
        copied.add_project("p", "rating", settled)
        with pytest.raises(InputError, match=r"record 1: .*rate response 1 by kind, clear"):
            import_answers(copied, DataConfig(path=str(tmp_path / "out")), "p")
    make_dataset(store, tmp_path / "one", "judgements", kind=kind, query=Query(projects=(3,)))
    with Store.open(tmp_path / "copy2.db") as copied:
        assert import_answers(copied, DataConfig(path=str(tmp_path / "one")), "clear").answers == 1
        assert import_answers(copied, DataConfig(path=str(tmp_path / "one")), "clear").answers == 0
        with copied.reading() as db:
            (row,) = rows_of(db, "judgements", Query(), Options())
    assert row["meta"] == {"half": "\ud83d"}
    assert row["ratings"] == [{"clear": 5}]
    assert json.dumps(row["shown"]) == '[{"text": "a", "checkpoint": null, "ended": true}]'
