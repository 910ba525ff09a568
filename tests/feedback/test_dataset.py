"""Exports as files: whole or not at all, the same bytes each time, pseudonymous, with a card and a receipt."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tether.errors import InputError
from tether.feedback.dataset import make_dataset, receipts, store_salt
from tether.feedback.files import FORMULA, csv_file, folder_hash, jsonl, write_file, write_folder
from tether.feedback.records import Answer, NewItem, NewPrompt, NewResponse, Query
from tether.feedback.shapes import Options
from tether.feedback.store import Store

NAMES = ("ann@example.org", "bob@example.org", "carol@example.org")
GUIDE = "Prefer the kinder answer.\n```\nno code\n```"


def fill(store: Store, prompts: int = 30) -> None:
    """Pairs that three annotators answer: ann and bob always prefer `good`, carol every other time."""
    project = store.add_project("kind ones")
    guideline = store.add_guideline(GUIDE, project)
    asked = store.add_prompts([NewPrompt(f"prompt {i}") for i in range(prompts)])
    ids = store.add_responses([NewResponse(p, text, checkpoint=text) for p in asked for text in ("good", "bad")])
    store.add_items([NewItem(ids[i : i + 2], 3, project=project) for i in range(0, 2 * prompts, 2)])
    good = set(ids[::2])
    for name in NAMES:
        held = store.claim_many(store.add_user(name), prompts, project=project)
        answers = []
        for number, one in enumerate(held):
            likes_good = name != NAMES[2] or number % 2
            ranking = {r.id: int((r.id in good) != likes_good) for r in one.responses}
            answers.append(Answer(one.id, f"{name} {number}", guideline, ranking, seconds=3.0, rationale="because"))
        store.submit_many(answers)


@pytest.fixture
def store(tmp_path: Path):
    with Store.open(tmp_path / "s.db") as opened:
        fill(opened)
        yield opened


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "datasets"])
def test_the_same_export_has_the_same_bytes(kind, store, tmp_path):
    options = Options(held_out=0.3)
    first = make_dataset(store, tmp_path / "one", options=options, kind=kind)
    store.undo(1, "undo")
    again = make_dataset(store, tmp_path / "two", options=options, kind=kind, query=Query(until=first.last_judgement))
    other = make_dataset(store, tmp_path / "three", options=options, kind=kind)
    assert first.sha256 == again.sha256 == folder_hash(tmp_path / "one") == folder_hash(tmp_path / "two")
    assert other.sha256 != first.sha256  # the undone vote is gone
    cards = [(tmp_path / name / "README.md").read_text() for name in ("one", "two")]
    assert cards[0].replace('"one"', '"two"').replace("# one", "# two") == cards[1]
    assert [r.sha256 for r in receipts(store)] == [other.sha256, again.sha256, first.sha256]


def test_a_receipt_says_how_to_make_it_again(store, tmp_path):
    user = store.add_user("admin")
    made = make_dataset(store, tmp_path / "a.jsonl", query=Query(projects=(2,)), options=Options(min_votes=2), by=user)
    (kept,) = receipts(store)
    assert kept == made
    assert (kept.num_rows, kept.user, kept.last_judgement) == (30, user, 90)
    assert kept.query | {"until": None} == {
        **{name: [] for name in ("items", "users", "user_kinds", "guidelines", "checkpoints")},
        **{"projects": [2], "until": None, "shape": "preferences", "kind": "jsonl", "salt": "store's"},
        **{"margin": "log_odds", "order": "worth", "held_out": 0.0, "min_votes": 2, "min_agreement": 0.0},
    }


def test_splits_are_files_and_share_no_prompt(store, tmp_path):
    make_dataset(store, tmp_path / "out", options=Options(held_out=0.3))
    train, test = (
        [json.loads(x) for x in (tmp_path / f"out/{s}.jsonl").read_text().splitlines()] for s in ("train", "test")
    )
    assert len(train) + len(test) == 30
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in test}
    assert {row["split"] for row in test} == {"test"}


@pytest.mark.parametrize("shape", ["preferences", "rankings", "unpaired", "judgements"])
def test_nothing_in_it_tells_who_annotated(shape, store, tmp_path):
    make_dataset(store, tmp_path / "out", shape)
    everything = "".join(p.read_text() for p in (tmp_path / "out").iterdir())
    assert not re.search("ann@|bob@|carol@|example.org", everything)
    assert store_salt(store) not in everything


def test_the_salt_is_drawn_once_a_store_and_can_be_given(store, tmp_path):
    def pseudonyms(name: str, **options) -> set[str]:
        make_dataset(store, tmp_path / name, options=Options(**options))
        rows = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        return {a for row in rows for a in row["annotators"]}

    own = pseudonyms("a.jsonl")
    assert len(store_salt(store)) == 64
    assert pseudonyms("b.jsonl") == own
    assert len(own) == 3
    assert not pseudonyms("c.jsonl", salt="pepper") & own
    with Store.open(tmp_path / "other.db") as other:
        assert store_salt(other) != store_salt(store)
    store.forget_user(1)
    assert len(pseudonyms("d.jsonl") & own) == 2


def test_the_card_counts(store, tmp_path):
    make_dataset(store, tmp_path / "out", query=Query(projects=(2,)), options=Options(held_out=0.3), license="cc0-1.0")
    text = (tmp_path / "out" / "README.md").read_text()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["license"] == "cc0-1.0"
    assert front["size_categories"] == ["n<1K"]
    assert "preferences" in front["tags"]
    assert front["configs"][0]["data_files"] == [
        {"split": "train", "path": "train.jsonl"},
        {"split": "test", "path": "test.jsonl"},
    ]
    for said in (
        "90 answers of 3 annotators (3 human) on 30 items about 30 prompts of 1 project: kind ones",
        "said the same 66.7%",  # ann and bob always, each of them with carol half of the time
        "| bad | 30 |",
        "| good | 30 |",
        "| human | 30 | 33.3% | 0 | 3.0 |",
        "Ties: 0.0% of 90 comparisons",
        "All responses bad: 0.0% of 90 answers",
        "Skipped: 0.0% of 90 turns",
        "(kind ones, version 1), of 90 answers:\n\n````text\n" + GUIDE + "\n````",
        "all judgements up to number 90",
        "72.6 ± 1.5 %",
        "Few annotators (3)",
        "shown in an order drawn for each annotator",
    ):
        assert said in text
    assert "came from elsewhere" not in text
    assert re.search(r"The first shown of two won \d+\.\d% of 90 untied pairs", text)


def test_the_card_leaves_the_licence_to_whoever_publishes(store, tmp_path):
    make_dataset(store, tmp_path / "out", kind="datasets")
    front = yaml.safe_load((tmp_path / "out" / "README.md").read_text().split("---\n")[1])
    assert front["license"] == "unknown"
    assert "configs" not in front


def test_a_saved_dataset_loads(store, tmp_path):
    import datasets

    make_dataset(store, tmp_path / "out", options=Options(held_out=0.3), kind="datasets")
    loaded = datasets.load_from_disk(str(tmp_path / "out"))
    assert loaded.num_rows["train"] + loaded.num_rows["test"] == 30
    assert {"prompt", "chosen", "rejected", "margin"} <= set(loaded["train"].column_names)
    assert loaded["train"][0]["votes"].keys() == {"chosen", "rejected", "ties"}


@pytest.mark.parametrize("kind", ["parquet", "datasets"])
def test_splits_are_of_one_schema_whatever_their_rows_leave_out(kind, tmp_path):
    """So that the folder loads: here plain prompts, no tokens and no origin in one, the contrary in the other."""
    import datasets

    plain = {"prompt": "p", "chosen": "a", "rejected": "b", "checkpoints": None, "meta": {"half": "\ud83d"}}
    said = {side: [{"role": role, "content": side}] for side, role in (("prompt", "user"), ("chosen", "assistant"))}
    full = plain | said | {"token_ids": {"prompt": [1]}, "checkpoints": {"chosen": "m"}, "meta": {"n": 1}}
    write_folder({"train": [plain, plain], "test": [full]}, tmp_path / "out", kind, {})
    if kind == "datasets":
        loaded = datasets.load_from_disk(str(tmp_path / "out"))
    else:
        loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    train, test = loaded["train"], loaded["test"]
    assert train.features == test.features
    assert (len(train), len(test)) == (2, 1)
    assert (train[0]["prompt"], train[1]["token_ids"]) == ([{"role": "user", "content": "p"}], None)
    assert (test[0]["prompt"], test[0]["token_ids"]) == (said["prompt"], {"prompt": [1]})
    assert json.loads(train[0]["meta"]) == plain["meta"]


@pytest.mark.parametrize(
    ("out", "more", "says"),
    [
        ("a.jsonl", {"options": Options(held_out=0.1)}, "one file would mix"),
        ("a", {"kind": "xml"}, "'xml': is none of jsonl, csv, parquet, datasets"),
        ("a.txt", {}, r"a\.txt: files end in \.jsonl, \.csv, \.parquet; a folder's name must not end in '\.txt'"),
        ("v1.2.XLSX", {"kind": "csv"}, r"must not end in '\.XLSX'"),
        ("taken", {}, "is there already and not empty"),
        ("taken/mine/a.jsonl", {}, r"taken/mine/a\.jsonl: cannot be written"),
        ("taken/mine/a", {}, "taken/mine/a: cannot be written"),
        ("new", {"query": Query(users=(77,))}, "nothing to export as preferences"),
        ("new", {"shape": "pairs"}, "'pairs': is none of"),
    ],
)
def test_what_cannot_be_is_said_and_leaves_nothing(out, more, says, store, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=says):
        make_dataset(store, tmp_path / out, **more)
    assert sorted(tmp_path.rglob("*")) == before
    assert receipts(store) == []


@pytest.mark.parametrize("name", ["v1.2", "polite", ".hidden", "there.old", "run.2b", "a.parquet.1"])
def test_a_folder_s_name_may_have_dots(name, store, tmp_path):
    if name == "there.old":  # no doubt about it
        (tmp_path / name).mkdir()
    make_dataset(store, tmp_path / name)
    assert (tmp_path / name / "train.jsonl").is_file()


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.jsonl"
    write_file([{"a": 1}], path)
    with pytest.raises(ValueError, match="JSON compliant"):
        write_file([{"a": float("nan")}], path)
    with pytest.raises(ValueError, match="JSON compliant"):
        write_folder({"train": [{"a": 1}], "test": [{"a": float("nan")}]}, tmp_path / "b", "jsonl", {})
    assert path.read_text() == '{"a": 1}\n'
    assert list(tmp_path.iterdir()) == [path]


@given(st.text(max_size=20), st.sampled_from(["", *FORMULA, " ="]))
def test_no_cell_is_a_formula_and_no_row_breaks(text, start):
    content = csv_file([{"a": start + text, "b": -1.5}, {"a": [start + text], "b": None}]).decode("utf-8-sig")
    header, first, second = csv.reader(io.StringIO(content, newline=""))
    assert header == ["a", "b"]
    assert not first[0].lstrip(" ").startswith(FORMULA)
    assert not second[0].startswith(FORMULA)
    assert (first[1], second[1]) == ("-1.5", "")  # numbers stay numbers


@given(st.text(max_size=20).map(lambda text: text + "\ud800"))
def test_jsonl_gives_back_what_it_got(text):
    assert json.loads(jsonl([{"a": text}]).decode("utf-8")) == {"a": text}


def test_query_pins_the_newest_judgement(store, tmp_path):
    made = make_dataset(store, tmp_path / "a.jsonl", query=replace(Query(), until=10**9))
    assert made.last_judgement == 90
