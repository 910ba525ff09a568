"""Answers from elsewhere: every shape other tools write, once, under names of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tether.config import DataConfig
from tether.errors import InputError
from tether.feedback.accounts import Accounts
from tether.feedback.dataset import make_dataset
from tether.feedback.foreign import Reading, place_of
from tether.feedback.imports import import_answers
from tether.feedback.projects import Attribute, Settings
from tether.feedback.records import Answer, NewItem, NewPrompt, NewResponse, Query
from tether.feedback.shapes import SHAPES, Options, order_known, rows_of
from tether.feedback.store import Store


@pytest.fixture
def store(tmp_path: Path):
    with Store.open(tmp_path / "s.db") as opened:
        yield opened


@pytest.fixture
def any_store(database: str):
    """On each kind of database."""
    with Store.open(database) as opened:
        yield opened


def put(folder: Path, rows: list[dict[str, Any]], name: str = "f.json") -> DataConfig:
    (folder / name).write_text(json.dumps(rows), encoding="utf-8")
    return DataConfig(path=str(folder / name))


def heard(store: Store) -> dict[tuple[str, str], dict[str, Any]]:
    """(user, prompt) → what is stored, responses by their texts."""
    names = {user.id: user.name for user in store.users()}
    with store.reading() as db:
        rows = rows_of(db, "judgements", Query(), Options())
    found = {}
    for j, row in zip(sorted(store.judgements(), key=lambda j: j.id), rows, strict=True):
        texts = [r["text"] for r in row["shown"]]
        said = {"shown": texts}
        if row["ranks"] is not None:
            said["ranking"] = {t: rank for t, rank in zip(texts, row["ranks"], strict=True) if rank is not None}
        if row["ratings"] is not None:
            said["ratings"] = dict(zip(texts, row["ratings"], strict=True))
        for name in ("correction", "skip", "rationale", "seconds"):
            if row[name] is not None:
                said[name] = row[name]
        asked = row["prompt"] if isinstance(row["prompt"], str) else row["prompt"][-1]["content"]
        found[names[j.user], asked] = said | ({"all_bad": True} if row["all_bad"] else {})
    return found


RANKED = {"ann": ["reply-2", "reply-1"], "bob": ["reply-1", "reply-2"]}
FIELDS = {"prompt": "Say hi", "reply-1": "Hi", "reply-2": "Hello!"}


def ranks(order: list[str]) -> list[dict[str, Any]]:
    return [{"rank": at, "value": label} for at, label in enumerate(order, 1)]


ARGILLA = {
    "2 json": {
        "id": "a1",
        "fields": FIELDS,
        "metadata": {},
        "suggestions": {"order": {"value": RANKED["ann"], "score": None, "agent": "gpt"}},
        "responses": {
            "order": [{"value": value, "user_id": user} for user, value in RANKED.items()],
            "why": [{"value": "kinder", "user_id": "ann"}],
        },
        "vectors": {},
        "_server_id": "77",
    },
    "2 hub": {
        "id": "a1",
        "_server_id": "77",
        **FIELDS,
        "order.responses": list(RANKED.values()),
        "order.responses.users": list(RANKED),
        "order.responses.status": ["submitted"] * 2,
        "why.responses": ["kinder"],
        "why.responses.users": ["ann"],
        "why.responses.status": ["submitted"],
        "order.suggestion": RANKED["ann"],
        "order.suggestion.score": None,
        "order.suggestion.agent": "gpt",
    },
    "1 records": {
        "fields": FIELDS,
        "responses": [
            {
                "user_id": "ann",
                "values": {"order": {"value": ranks(RANKED["ann"])}, "why": {"value": "kinder"}},
                "status": "submitted",
            },
            {"user_id": "bob", "values": {"order": {"value": ranks(RANKED["bob"])}}, "status": "submitted"},
        ],
        "suggestions": [{"question_name": "order", "value": ranks(RANKED["ann"]), "agent": "gpt"}],
        "external_id": "a1",
    },
    "1 hub": {
        **FIELDS,
        "order": [
            {"user_id": user, "value": {"rank": [1, 2], "value": value}, "status": "submitted"}
            for user, value in RANKED.items()
        ],
        "why": {"user_id": ["ann"], "value": ["kinder"], "status": ["submitted"]},
        "order-suggestion": {"rank": [1, 2], "value": RANKED["ann"]},
        "order-suggestion-metadata": {"type": None, "score": None, "agent": "gpt"},
        "why-suggestion": None,
        "why-suggestion-metadata": {"type": None, "score": None, "agent": None},
        "external_id": "a1",
        "metadata": "{}",
    },
}
"""The same record as each version of Argilla writes it."""


@pytest.mark.parametrize("version", ARGILLA)
def test_every_version_of_argilla_says_the_same(version, store, tmp_path):
    found = import_answers(store, put(tmp_path, [ARGILLA[version]]), "arg", reading=Reading(suggestions=True))
    assert (found.records, found.items, found.answers, found.known, found.left_out) == (1, 1, 3, 0, 0)
    hi_first, shown = {"Hi": 0, "Hello!": 1}, {"shown": ["Hi", "Hello!"]}
    hello_first = {"Hi": 1, "Hello!": 0}
    assert heard(store) == {
        ("argilla:ann", "Say hi"): shown | {"ranking": hello_first, "rationale": "kinder"},
        ("argilla:bob", "Say hi"): shown | {"ranking": hi_first},
        ("argilla:gpt", "Say hi"): shown | {"ranking": hello_first},
    }
    assert {u.name: u.kind for u in store.users()} == {
        "argilla:ann": "human",
        "argilla:bob": "human",
        "argilla:gpt": "ai",
    }
    assert store.project(found.project).kind == "pair"
    assert all(order_known(j) for j in store.judgements())


def test_argilla_s_drafts_are_left_out_and_discarded_records_skipped(store, tmp_path):
    given = [("ann", "draft"), ("bob", "discarded"), ("cid", "submitted")]
    row = {
        "fields": FIELDS,
        "responses": [{"user_id": u, "values": {"best": {"value": "reply-1"}}, "status": s} for u, s in given],
    }
    found = import_answers(store, put(tmp_path, [row]), "arg")
    assert (found.answers, found.left_out) == (2, 1)
    assert heard(store)["argilla:bob", "Say hi"]["skip"] == "discarded in Argilla"
    assert heard(store)["argilla:cid", "Say hi"]["ranking"] == {"Hi": 0, "Hello!": 1}


def test_argilla_s_ratings_of_each_response_make_a_rating_project(store, tmp_path):
    fields = {"instruction": "Say hi", "generations-1": "Hi", "generations-2": "Yo"}
    values = {"generations-1-helpful": 4, "generations-2-helpful": 2, "context-free note": "fine"}
    row = {"fields": fields, "responses": {q: [{"value": v, "user_id": "u"}] for q, v in values.items()}}
    found = import_answers(store, put(tmp_path, [row]), "arg")
    project = store.project(found.project)
    assert project.kind == "rating"
    assert project.settings.attributes == (Attribute(name="helpful", low=1, high=5),)
    assert heard(store) == {
        ("argilla:u", "Say hi"): {
            "shown": ["Hi", "Yo"],
            "ratings": {"Hi": {"helpful": 4}, "Yo": {"helpful": 2}},
            "rationale": "fine",
        }
    }


def test_a_text_about_one_response_is_a_better_answer(store, tmp_path):
    turns = [{"role": "user", "content": "Say hi"}]
    row = {"fields": {"chat": turns, "response": "Yo"}, "responses": {"fix": [{"value": "Hello!", "user_id": "u"}]}}
    found = import_answers(store, put(tmp_path, [row]), "arg")
    assert store.project(found.project).kind == "edit"
    with store.reading() as db:
        (made,) = rows_of(db, "demonstrations", Query(), Options())
    assert made["prompt"] == turns
    assert made["completion"] == [{"role": "assistant", "content": "Hello!"}]


def task(result: list[dict[str, Any]], data: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A Label Studio task with one annotation."""
    annotation = {
        "id": 1001,
        "completed_by": {"id": 4, "email": "ann@example.org"},
        "result": result,
        "was_cancelled": False,
        "ground_truth": False,
        "created_at": "2024-03-09T22:16:08.728353Z",
        "lead_time": 4.25,
    }
    return {"id": 1, "data": data, "annotations": [annotation | more], "predictions": [], "project": 83}


TWO = {"prompt": "Say hi", "answer1": "Hi", "answer2": "Yo"}
LISTED = {"prompt": "Say hi", "items": [{"id": f"llm_{n}", "title": n, "body": n * 2} for n in "abc"]}


@pytest.mark.parametrize(
    ("data", "type", "value", "said"),
    [
        (TWO, "pairwise", {"selected": "right"}, {"ranking": {"Hi": 1, "Yo": 0}}),
        (TWO, "choices", {"choices": ["answer1"]}, {"ranking": {"Hi": 0, "Yo": 1}}),
        (TWO, "choices", {"choices": ["Answer 2 is better"]}, {"ranking": {"Hi": 1, "Yo": 0}}),
        (TWO, "choices", {"choices": ["Tie"]}, {"ranking": {"Hi": 0, "Yo": 0}}),
        (TWO, "choices", {"choices": ["Both bad"]}, {"ranking": {"Hi": 0, "Yo": 0}, "all_bad": True}),
        (LISTED, "ranker", {"ranker": ["llm_c", "llm_a", "llm_b"]}, {"ranking": {"cc": 0, "aa": 1, "bb": 2}}),
        (LISTED, "ranker", {"ranker": {"rank": ["llm_b", "llm_a"], "_": ["llm_c"]}}, {"ranking": {"bb": 0, "aa": 1}}),
    ],
)
def test_label_studio_s_controls(data, type, value, said, store, tmp_path):
    why = {"from_name": "why", "to_name": "prompt", "type": "textarea", "value": {"text": ["because"]}}
    result = [{"from_name": "pw", "to_name": "a,b", "type": type, "value": value}, why]
    found = import_answers(store, put(tmp_path, [task(result, data)]), "ls")
    ((who, told),) = heard(store).items()
    assert who == ("label-studio:ann@example.org", "Say hi")
    assert {name: told[name] for name in said} == said
    assert (told["rationale"], told["seconds"]) == ("because", 4.25)
    assert told["shown"] == (["Hi", "Yo"] if data is TWO else ["aa", "bb", "cc"])
    (judged,) = store.judgements()
    assert judged.created == pytest.approx(1710022568.728353)
    assert found.answers == 1


def test_label_studio_s_ratings_are_about_what_they_point_at(store, tmp_path):
    stars = [("answer1", 4), ("answer2", 2)]
    result = [{"from_name": "helpful", "to_name": t, "type": "rating", "value": {"rating": n}} for t, n in stars]
    import_answers(store, put(tmp_path, [task(result, TWO)]), "ls")
    assert heard(store)["label-studio:ann@example.org", "Say hi"]["ratings"] == {
        "Hi": {"helpful": 4},
        "Yo": {"helpful": 2},
    }


def test_label_studio_s_cancelled_annotation_is_a_skip_and_a_prediction_an_ai_s(store, tmp_path):
    row = task([], TWO, was_cancelled=True, completed_by=9)
    chosen = [{"from_name": "pw", "to_name": "t", "type": "pairwise", "value": {"selected": "left"}}]
    row["predictions"] = [{"model_version": "m1", "result": chosen}]
    import_answers(store, put(tmp_path, [row]), "ls", kind="pair", reading=Reading(suggestions=True))
    told = heard(store)
    assert told["label-studio:9", "Say hi"]["skip"] == "cancelled in Label Studio"
    assert told["label-studio:m1", "Say hi"]["ranking"] == {"Hi": 0, "Yo": 1}


def test_fields_can_be_named(store, tmp_path):
    data = {"topic": "Say hi", "x": "Hi", "y": "Yo"}
    config = put(tmp_path, [task([{"from_name": "c", "type": "choices", "value": {"choices": ["y"]}}], data)])
    with pytest.raises(InputError, match=r"f.json, record 1: cannot tell prompt and responses among .*topic, x, y"):
        import_answers(store, config, "ls")
    assert store.projects() == []  # nothing is left of what was refused
    import_answers(store, config, "ls", reading=Reading("topic", ("x", "y")))
    assert heard(store)["label-studio:ann@example.org", "Say hi"]["ranking"] == {"Hi": 1, "Yo": 0}


HH = {"chosen": "\n\nHuman: Say hi\n\nAssistant: Hello!", "rejected": "\n\nHuman: Say hi\n\nAssistant: No."}
TRL = {
    "prompt": [{"role": "user", "content": "Say hi"}],
    "chosen": [{"role": "assistant", "content": "Hello!"}],
    "rejected": [{"role": "assistant", "content": "No."}],
}


@pytest.mark.parametrize("row", [HH, TRL, {"prompt": "Say hi", "chosen": "Hello!", "rejected": "No."}])
def test_what_training_reads_becomes_answers_of_one_user(row, store, tmp_path):
    found = import_answers(store, put(tmp_path, [row]), "old", reading=Reading(annotator="hh"))
    assert heard(store)["hh", "Say hi"]["ranking"] == {"Hello!": 0, "No.": 1}
    assert not order_known(store.judgements()[0])  # the file lists the chosen first, whatever was on the screen
    assert store.project(found.project).kind == "pair"


def test_nobody_s_account_is_taken_for_an_imported_annotator(store, tmp_path):
    accounts = Accounts(store)
    accounts.accept(accounts.invite(), "ann", "a long password")
    with pytest.raises(InputError, match="user 'ann': has an account here"):
        import_answers(store, put(tmp_path, [HH]), "old", reading=Reading(annotator="ann"))
    assert store.judgements() == []


def test_rankings_and_thumbs(store, tmp_path):
    ranked = {"prompt": "p", "responses": ["a", "b", "c"], "ranking": [2, 1, 2]}
    found = import_answers(store, put(tmp_path, [ranked]), "r")
    assert heard(store)["imported", "p"]["ranking"] == {"a": 1, "b": 0, "c": 1}
    assert store.project(found.project).kind == "ranking"
    thumbs = [{"prompt": "q", "completion": "a", "label": True}, {"prompt": "q", "completion": "b", "label": False}]
    import_answers(store, put(tmp_path, thumbs), "k")
    with store.reading() as db:
        rows = rows_of(db, "ratings", Query(), Options())
    assert {r["response"]: r["ratings"]["desirable"]["mean"] for r in rows} == {"a": 1, "b": 0}


CHAT = {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "c"}]}


@pytest.mark.parametrize("labels", [(True, False, False), (True, True, True), (False, False, False)])
def test_thumbs_come_back_and_so_do_the_judgements_made_of_them(labels, store, tmp_path):
    told = [{"prompt": "q", "completion": "a"}, {"prompt": "q", "completion": "b"}, CHAT]
    rows = [row | {"label": label} for row, label in zip(told, labels, strict=True)]
    found = import_answers(store, put(tmp_path, rows), "k")
    assert store.project(found.project).settings.attributes == (Attribute(name="desirable", low=0, high=1),)
    make_dataset(store, tmp_path / "j.jsonl", "judgements")
    with Store.open(tmp_path / "copy.db") as copy:
        import_answers(copy, DataConfig(path=str(tmp_path / "j.jsonl")), "k")
        for one in (store, copy):
            with one.reading() as db:
                made = rows_of(db, "unpaired", Query(), Options())
            assert [{name: row[name] for name in ("prompt", "completion", "label")} for row in made] == rows
            assert all(sum(row["votes"].values()) == 1 for row in made)


def test_ultrafeedback_is_a_model_s_ranking(store, tmp_path):
    def completion(model: str, text: str, overall: float, honest: str) -> dict[str, Any]:
        told = {"honesty": {"Rating": honest, "Rationale": "…"}, "helpfulness": {"Rating": "3"}}
        return {"model": model, "response": text, "annotations": told, "overall_score": overall}

    whole = [completion("m1", "a", 7.5, "4"), completion("m2", "b", 9, "5"), completion("m3", "c", 7.5, "2")]
    partly = [completion("m1", "d", 1, "N/A"), completion("m2", "e", 2, "5")]
    rows = [{"instruction": f"p{n}", "completions": given} for n, given in enumerate((whole, partly))]
    import_answers(store, put(tmp_path, rows), "uf")
    told = heard(store)
    assert told["ultrafeedback", "p0"]["ranking"] == {"a": 1, "b": 0, "c": 1}
    assert told["ultrafeedback", "p0"]["ratings"]["b"] == {"honesty": 5, "helpfulness": 3}
    assert told["ultrafeedback", "p1"]["ranking"] == {"d": 1, "e": 0}
    assert "ratings" not in told["ultrafeedback", "p1"]
    assert store.users()[0].kind == "ai"


def test_a_file_is_imported_once(any_store, tmp_path):
    config = put(tmp_path, list(ARGILLA.values()))  # the same record four times
    first = import_answers(any_store, config, "arg")
    before = (any_store.judgements(), [u.name for u in any_store.users()], len(any_store.audit()))
    again = import_answers(any_store, config, "arg")
    assert (first.items, first.answers, first.known) == (1, 2, 6)
    assert (again.items, again.answers, again.known) == (0, 0, 8)
    assert (any_store.judgements(), [u.name for u in any_store.users()], len(any_store.audit())) == before


def test_whoever_was_forgotten_is_not_brought_back(store, tmp_path):
    config = put(tmp_path, [ARGILLA["2 json"]])
    import_answers(store, config, "arg")
    (ann,) = [user.id for user in store.users() if user.name == "argilla:ann"]
    store.forget_user(ann)
    again = import_answers(store, config, "arg")
    assert (again.answers, again.known) == (0, 2)
    assert {user.name for user in store.users()} == {f"deleted-{ann}", "argilla:bob"}


def test_an_imported_item_is_done_unless_more_answers_are_wanted(store, tmp_path):
    config = put(tmp_path, [ARGILLA["2 json"]])
    found = import_answers(store, config, "arg")
    user = store.add_user("new")
    assert store.claim(user, found.project) is None
    import_answers(store, config, "arg", overlap=3)
    held = store.claim(user, found.project)
    store.submit(held.id, {r.id: n for n, r in enumerate(held.responses)}, "k", guideline=1)
    assert store.claim(store.add_user("late"), found.project) is None


def test_later_files_add_to_the_same_items_whatever_place_is_held(any_store, tmp_path):
    found = import_answers(any_store, put(tmp_path, [ARGILLA["2 json"]]), "arg", overlap=3)
    assert any_store.claim(any_store.add_user("new"), found.project) is not None  # takes the third place
    row = ARGILLA["2 json"] | {"responses": {"order": [{"value": RANKED["bob"], "user_id": "cid"}]}}
    more = import_answers(any_store, put(tmp_path, [row]), "arg")
    assert (more.items, more.answers) == (0, 1)
    assert any_store.progress(found.project).answers == 3


def test_the_card_claims_nothing_of_how_others_annotated(store, tmp_path):
    import_answers(
        store, put(tmp_path, [ARGILLA["2 json"] | {"responses": {"best": [{"value": "1", "user_id": "u"}]}}]), "a"
    )
    make_dataset(store, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "1 answer came from elsewhere" in text
    assert "worked alone" not in text
    assert "What these annotators were told is not known." in text


def test_records_of_two_equal_responses_are_passed_over(store, tmp_path):
    same = {"prompt": "p", "chosen": "a", "rejected": "a"}
    found = import_answers(store, put(tmp_path, [same, same | {"rejected": "b"}]), "old")
    assert (found.records, found.identical, found.answers) == (2, 1, 1)


def test_a_store_s_judgements_come_back(store, tmp_path):
    """Exported and imported again, every shape is the same but for names and numbers."""
    settings = Settings(attributes=(Attribute(name="kind"),), overlap=2)
    guideline, project = store.add_guideline("g"), store.add_project("p", "pair", settings)
    turns = [{"role": "user", "content": "q"}]
    for n, prompt in enumerate([NewPrompt("p", meta={"id": "7"}), NewPrompt("q", turns)]):
        (p,) = store.add_prompts([prompt])
        ids = store.add_responses([NewResponse(p, text, ended=text == "a", checkpoint="m") for text in "ab"])
        store.add_items([NewItem(ids, 2, project=project, gold={ids[0]: 0, ids[1]: 1} if n else None)])
    answers = []
    for name in ("ann", "bob"):
        for held in store.claim_many(store.add_user(name), 2, project=project):
            ids = [r.id for r in held.responses]
            said = {"ratings": {i: {"kind": 3} for i in ids}, "rationale": name, "seconds": 2.5, "strength": 1.0}
            ranking = dict(zip(ids, (0, 1), strict=True))
            answers.append(Answer(held.id, f"{name}{held.id}", guideline, ranking, **said))
    store.submit_many(answers)
    make_dataset(store, tmp_path / "j.jsonl", "judgements")
    with Store.open(tmp_path / "copy.db") as copy:
        found = import_answers(copy, DataConfig(path=str(tmp_path / "j.jsonl")), "p")
        assert found.answers == len(answers) == len(store.judgements())
        assert import_answers(copy, DataConfig(path=str(tmp_path / "j.jsonl")), "p").answers == 0
        for shape in SHAPES:
            if shape != "demonstrations":
                assert without_names(store, shape) == without_names(copy, shape), shape


def test_a_copy_asks_what_was_asked(store, tmp_path):
    """Of two responses each, or skipped by all: the answers alone do not say of what kind the project was."""
    for kind, skip in (("ranking", None), ("pair", "unclear"), ("edit", "unclear")):
        project = store.add_project(kind, kind)
        guideline, (prompt,) = store.add_guideline("g", project), store.add_prompts([NewPrompt(kind)])
        ids = store.add_responses([NewResponse(prompt, text) for text in ("ab" if kind != "edit" else "a")])
        store.add_items([NewItem(ids, 1, kind, project)])
        held = store.claim(store.add_user("ann"), project)
        ranking = None if skip else dict.fromkeys(ids, 0)
        store.submit(held.id, ranking, kind, guideline=guideline, skip=skip)
        file, asked = tmp_path / f"{kind}.jsonl", Query(projects=(project,))
        make_dataset(store, file, "judgements", query=asked)
        with Store.open(tmp_path / f"{kind}.db") as copy:
            found = import_answers(copy, DataConfig(path=str(file)), "p")
            assert (copy.project(found.project).kind, found.answers) == (kind, 1)
    with Store.open(tmp_path / "other.db") as copy:
        found = import_answers(copy, DataConfig(path=str(tmp_path / "ranking.jsonl")), "p", kind="pair")
        assert copy.project(found.project).kind == "pair"


def without_names(store: Store, shape: str) -> list[Any]:
    with store.reading() as db:
        rows = rows_of(db, shape, Query(), Options())
    for row in rows:
        row["num"] = len(row.pop("annotators", []))
        for name in ("annotator", "guideline"):
            row.pop(name, None)
        for name in ("judgement", "judgements"):
            row["ids"].pop(name, None)
        if shape == "rankings":  # an item lists its responses as they were first met
            order = sorted(range(len(row["responses"])), key=row["responses"].__getitem__)
            for of in (row, row["ids"], *row["votes"]):
                of.pop("annotator", None)
                of |= {
                    name: [v[at] for at in order] for name, v in of.items() if isinstance(v, list) and name != "votes"
                }
    return sorted(rows, key=json.dumps)


BAD = {
    "text": ([{"text": "words"}], {}, "f.json: holds text data; it holds no answers"),
    "steps": ([{"prompt": "p", "steps": ["a"], "labels": [1]}], {}, "holds steps data; train a process reward model"),
    "columns": ([{"a": 1}], {}, "found columns a"),
    "format": ([HH], {"format": "csv"}, "'csv': is none of auto, argilla, label-studio"),
    "row": ([TRL, TRL | {"chosen": 3}], {}, "f.json, row 2"),
    "no answers": ([ARGILLA["1 records"] | {"responses": []}], {}, "holds no answers"),
    "rank": (
        [ARGILLA["2 json"] | {"responses": {"o": [{"value": ["reply-1", "reply-9"], "user_id": "u"}]}}],
        {},
        "record 1, question 'o': ranks .*but the responses are reply-1, reply-2",
    ),
    "rating of what": (
        [ARGILLA["2 json"] | {"responses": {"quality": [{"value": 3, "user_id": "u"}]}}],
        {},
        "record 1, question 'quality': 3 does not say which",
    ),
    "not argilla": ([{"fields": FIELDS, "responses": {"o": ["x"]}}], {}, "record 1: is no record that Argilla exports"),
    "not label studio": (
        [{"data": TWO, "annotations": [{"completed_by": 1}]}],
        {},
        "record 1: is no task that Label Studio exports",
    ),
    "buckets": (
        [task([{"from_name": "r", "type": "ranker", "value": {"ranker": {"x": ["llm_a"], "y": ["llm_b"]}}}], LISTED)],
        {},
        "record 1, question 'r': sorts responses into x, y",
    ),
    "other kind": (
        [{"prompt": "p", "responses": ["a", "b", "c"], "ranking": [0, 1, 2]}],
        {},
        "record 1: .*kind pair takes 2",
    ),
    "only skips": ([task([], TWO, was_cancelled=True)], {"project": "new"}, "record 1: all answers are skips"),
    "completion": (
        [{"instruction": "p", "completions": [{"response": "a", "annotations": {"h": {"Rating": "x"}}}]}],
        {},
        r"record 1, completion 1, annotations.h.Rating: 'x'",
    ),
    "judgement": (
        [{"shown": [], "annotator": "a", "action": "rank", "ranks": []}],
        {},
        "record 1: is no row of a `judg",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said_and_nothing_is_added(name, store, tmp_path):
    rows, options, says = BAD[name]
    store.add_project("there", "pair")
    before = (len(store.projects()), len(store.users()), len(store.audit()))
    with pytest.raises(InputError, match=says):
        import_answers(store, put(tmp_path, rows), **({"project": "there"} | options))
    assert (len(store.projects()), len(store.users()), len(store.audit())) == before


def test_the_bad_record_among_many_good_ones_is_named(any_store, tmp_path):
    rows = [{"prompt": f"p{n}", "chosen": "a", "rejected": "b"} for n in range(450)]
    rows[333]["chosen"] = "\0"
    rows[333]["prompt"] = ""
    with pytest.raises(InputError, match="row 334"):
        import_answers(any_store, put(tmp_path, rows), "old")
    rows[333] = {"prompt": "p", "responses": ["a", "b", "c"], "ranking": [0, 1, 2]}
    named = [
        {"prompt": r["prompt"], "responses": r.get("responses", ["a", "b"]), "ranking": r.get("ranking", [0, 1])}
        for r in rows
    ]
    with pytest.raises(InputError, match=r"record 334: .*kind pair takes 2"):
        import_answers(any_store, put(tmp_path, named), "old", kind="pair")
    assert any_store.judgements() == []


def test_labels_that_mean_nothing_are_nobody_s():
    assert place_of("3", ["a", "b"]) is None
    assert place_of(True, ["a", "b"]) is None
    assert place_of("reply-3", ["reply-1", "reply-2"]) is None
    assert [place_of(n, ["response_5", "response_7"]) for n in ("7", "5", "1")] == [1, 0, None]
