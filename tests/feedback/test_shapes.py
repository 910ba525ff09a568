"""Every shape of an export: its numbers by hand, and that training reads it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from tether.config import DataConfig
from tether.data.load import check_data
from tether.errors import InputError
from tether.feedback.files import write_file, write_folder
from tether.feedback.orders import mean_ranks, strengths
from tether.feedback.projects import Attribute, Settings
from tether.feedback.records import NewItem, NewPrompt, NewResponse, Query
from tether.feedback.shapes import SHAPES, Options, rows_of
from tether.feedback.store import Store

ALL = Query()


@pytest.fixture
def store(tmp_path: Path):
    with Store.open(tmp_path / "s.db") as opened:
        opened.add_guideline("g")
        yield opened


def ask(store: Store, texts: str, prompt: NewPrompt | None = None, *, overlap: int = 9, **more) -> dict[str, int]:
    """An item of one-letter responses; their ids by letter."""
    (p,) = store.add_prompts([prompt or NewPrompt("hi", meta={"id": "row 7"})])
    ids = store.add_responses([NewResponse(p, text, checkpoint=f"model {text}") for text in texts])
    store.add_items([NewItem(ids, overlap, **more)])
    return dict(zip(texts, ids, strict=True))


def answer(store: Store, name: str, project: int = 1, kind: str = "human", **said) -> int:
    held = store.claim(store.add_user(name, kind), project)
    assert held is not None
    ranking = said.pop("ranking", None)
    return store.submit(held.id, ranking, f"{name}/{held.id}", guideline=1, **said).id


def order(ids: dict[str, int], said: str) -> dict[int, int]:
    """`b>a=c` → ranks by id."""
    return {ids[letter]: rank for rank, group in enumerate(said.split(">")) for letter in group.split("=")}


def rows(store: Store, shape: str, **options) -> list[dict]:
    with store.reading() as db:
        return rows_of(db, shape, ALL, Options(**options))


def test_a_ranking_by_hand(store):
    ids = ask(store, "abcd")
    for name, said in (("u", "a>b>c"), ("v", "a>c=b"), ("w", "b>a")):
        answer(store, name, ranking=order(ids, said))
    (row,) = rows(store, "rankings", order="mean_rank")
    assert (row["prompt"], row["responses"]) == ("hi", ["a", "b", "c"])  # nobody ranked d
    assert row["worths"] == pytest.approx([-1 / 3, -2.5 / 3, -1.75], abs=1e-6)  # places 0, 0, 1; 1, 1.5, 0; 2, 1.5
    assert row["ranking"] == [0, 1, 2]
    assert [vote["ranking"] for vote in row["votes"]] == [[0, 1, 2], [0, 1, 1], [1, 0, None]]
    assert row["agreement"] == pytest.approx(5 / 7)  # all three of u, two of v (a tie is none), none of w
    assert row["checkpoints"] == ["model a", "model b", "model c"]
    assert row["ids"]["judgements"] == [1, 2, 3]
    assert (row["guideline"], row["split"], row["meta"]) == (1, "train", {"id": "row 7"})
    assert rows(store, "rankings")[0]["ranking"] == [0, 1, 2]
    assert rows(store, "rankings", min_votes=4) == rows(store, "rankings", min_agreement=0.8) == []


def test_worths_are_the_mode_of_davidsons_posterior():
    """Found again by a general optimiser: priors of variance 1 on both log-strengths and on ln ν."""

    def minus_log_posterior(x):
        first, second, log_tie = x
        better, worse = math.exp((first - second) / 2), math.exp((second - first) / 2)
        total = better + worse + math.exp(log_tie)
        votes = 3 * math.log(better / total) + math.log(worse / total) + 2 * (log_tie - math.log(total))
        return -votes + (first**2 + second**2 + log_tie**2) / 2

    mode = minimize(minus_log_posterior, np.zeros(3), options={"gtol": 1e-10}).x
    votes = [[0, 1]] * 3 + [[1, 0]] + [[0, 0]] * 2
    assert strengths(votes) == pytest.approx([mode[0], mode[1]], abs=2e-6)
    assert strengths([[0, 1], [1, 0]]) == strengths([[0, 0]]) == [0.0, 0.0]


@given(st.lists(st.permutations(range(4)), min_size=1, max_size=6))
def test_both_orders_follow_a_unanimous_vote_and_do_not_mind_who_is_listed_first(votes):
    for worths in (strengths, mean_ranks):
        unanimous = worths([votes[0]] * 3)
        assert sorted(range(4), key=lambda i: -unanimous[i]) == sorted(range(4), key=lambda i: votes[0][i])
        assert worths([vote[::-1] for vote in votes]) == pytest.approx(worths(votes)[::-1], abs=2e-6)


def test_thumbs_by_hand(store):
    ids = ask(store, "abc")
    answer(store, "u", ranking=order(ids, "a>b>c"))
    answer(store, "v", ranking=order(ids, "a=c>b"))
    answer(store, "w", ranking=order(ids, "a=b=c"))
    answer(store, "x", ranking=order(ids, "a>b>c"), all_bad=True)
    found = {row["completion"]: row for row in rows(store, "unpaired")}
    assert {text: (row["label"], row["votes"]) for text, row in found.items()} == {
        "a": (True, {"desirable": 2, "undesirable": 1}),
        "b": (False, {"desirable": 0, "undesirable": 2}),
        "c": (False, {"desirable": 1, "undesirable": 2}),
    }
    assert found["a"]["ids"]["judgements"] == [1, 2, 4]
    assert found["b"]["checkpoint"] == "model b"
    assert [row["completion"] for row in rows(store, "unpaired", min_agreement=0.9)] == ["b"]


def test_thumbs_of_a_rating_project_by_hand(store):
    def rate(name: str, low: int, votes: str, also: tuple[Attribute, ...] = ()) -> None:
        asked = (Attribute(name=name, low=low, high=1 if low == 0 else 5), *also)
        project = store.add_project(f"{name} {low}", "rating", Settings(attributes=asked))
        ids = ask(store, "ab", kind="rating", project=project)
        for number, (a, b) in enumerate(zip(votes[::2], votes[1::2], strict=True)):
            said = {ids["a"]: {name: int(a)}, ids["b"]: {name: int(b)}}
            for rated in said.values():
                rated |= {one.name: 7 for one in also}
            answer(store, f"{number}", project, ratings=said)

    rate("brief", 0, "0000")  # another question
    rate("desirable", 1, "1111")  # another scale
    assert rows(store, "unpaired") == []
    rate("desirable", 0, "100110", (Attribute(name="kind"),))  # a: 1, 0, 1; b: 0, 1, 0
    found = {row["completion"]: row for row in rows(store, "unpaired")}
    assert {text: (row["label"], row["votes"]) for text, row in found.items()} == {
        "a": (True, {"desirable": 2, "undesirable": 1}),
        "b": (False, {"desirable": 1, "undesirable": 2}),
    }
    assert rows(store, "unpaired", min_votes=4) == rows(store, "unpaired", min_agreement=0.7) == []
    ids = ask(store, "abc")
    answer(store, "u", ranking=order(ids, "c>a>b"))  # nothing of a ranking's middle, one more against b
    assert {row["completion"]: row["votes"]["undesirable"] for row in rows(store, "unpaired")} == {
        "a": 1,
        "b": 3,
        "c": 0,
    }


def test_a_response_gathers_votes_of_all_its_items(store):
    ids = ask(store, "abc")
    answer(store, "u", ranking=order(ids, "a>b>c"))
    store.add_items([NewItem([ids["a"], ids["c"]], 1)])
    answer(store, "u", ranking=order(ids, "a>c"))
    found = {row["completion"]: (row["label"], len(row["ids"]["items"])) for row in rows(store, "unpaired")}
    assert found == {"a": (True, 2), "c": (False, 2)}


def test_ratings_by_hand(store):
    project = store.add_project("r", "rating", Settings(attributes=(Attribute(name="kind"), Attribute(name="brief"))))
    ids = ask(store, "ab", kind="rating", project=project)
    for name, (a, b) in {"u": (7, 1), "v": (4, 1)}.items():
        answer(store, name, project, ratings={ids["a"]: {"kind": a, "brief": 2}, ids["b"]: {"kind": b, "brief": 3}})
    first, second = rows(store, "ratings")
    assert (first["prompt"], first["response"], first["votes"]) == ("hi", "a", 2)
    assert first["ratings"]["kind"] == {"mean": 5.5, "deviation": pytest.approx(math.sqrt(4.5)), "count": 2}
    assert second["ratings"]["kind"] == {"mean": 1.0, "deviation": 0.0, "count": 2}
    assert rows(store, "ratings", min_votes=3) == []
    with pytest.raises(InputError, match="ratings have no majority"):
        rows(store, "ratings", min_agreement=0.5)


def test_demonstrations_are_the_annotators_words(store):
    project = store.add_project("e", "edit")
    turns = ({"role": "user", "content": "hi"},)
    ask(store, "a", NewPrompt("hi", turns), kind="edit", project=project, overlap=2)
    answer(store, "u", project, correction="Hello there!")
    answer(store, "v", project, skip="no")
    (row,) = rows(store, "demonstrations")
    assert row["prompt"] == list(turns)
    assert row["completion"] == [{"role": "assistant", "content": "Hello there!"}]
    assert row["originals"] == ["a"]
    assert len(row["annotators"]) == 1


def test_judgements_tell_all_but_names(store):
    ids = ask(store, "ab")
    answer(store, "ann", ranking=order(ids, "b>a"), strength=2.0, rationale="b is kind", seconds=4.5)
    answer(store, "bob", kind="simulated", skip="cannot tell")
    first, second = rows(store, "judgements", salt="s")
    shown = [r["text"] for r in first["shown"]]
    assert sorted(shown) == ["a", "b"]
    assert first["ranks"] == [int(text == "a") for text in shown]
    assert {k: first[k] for k in ("strength", "rationale", "seconds", "annotator_kind", "order_known")} == {
        "strength": 2.0,
        "rationale": "b is kind",
        "seconds": 4.5,
        "annotator_kind": "human",
        "order_known": True,
    }
    assert (second["action"], second["skip"], second["ranks"]) == ("skip", "cannot tell", None)
    assert "ann" not in (first["annotator"], second["annotator"])


def test_gold_items_are_only_in_the_judgements(store):
    (p,) = store.add_prompts([NewPrompt("q")])
    a, b = store.add_responses([NewResponse(p, "a"), NewResponse(p, "b")])
    store.add_items([NewItem([a, b], 1, gold={a: 0, b: 1})])
    ids = ask(store, "ab")
    user = store.add_user("u")
    for held in store.claim_many(user, 2, among=[1, 2]) or []:
        store.submit(held.id, {r.id: n for n, r in enumerate(held.responses)}, str(held.id), guideline=1)
    judged = rows(store, "judgements")
    assert {row["prompt"] for row in rows(store, "rankings")} == {"hi"}
    assert {row["prompt"] for row in rows(store, "unpaired")} == {"hi"}
    assert [row["gold"] for row in judged if row["prompt"] == "hi"] == [None]
    assert all(sorted(row["gold"]) == [0, 1] for row in judged if row["prompt"] == "q")
    assert ids


def test_an_adjudication_decides_however_few_voted(store):
    ids = ask(store, "abc")
    answer(store, "u", ranking=order(ids, "a>b>c"))
    answer(store, "v", ranking=order(ids, "a>c>b"))
    store.adjudicate(1, store.add_user("chair"), order(ids, "c>a=b"), "last", guideline=1)
    (row,) = rows(store, "rankings", min_votes=9)
    assert (row["responses"], row["ranking"], row["adjudicated"]) == (["a", "b", "c"], [1, 1, 0], True)
    assert [vote["ranking"] for vote in row["votes"]] == [[0, 1, 2], [0, 2, 1]]
    assert row["agreement"] == pytest.approx(1 / 6)  # v put c before b too
    thumbs = {r["completion"]: r["label"] for r in rows(store, "unpaired", min_votes=9)}
    assert thumbs == {"a": False, "b": False, "c": True}
    assert {(r["chosen"], r["rejected"]) for r in rows(store, "preferences", min_votes=9)} == {("c", "a"), ("c", "b")}
    assert [r["action"] for r in rows(store, "judgements")] == ["rank", "rank", "adjudicate"]


def test_few_votes_and_close_ones_are_left_out(store):
    for votes, texts in (("aab", "ab"), ("cc", "cd")):
        ids = ask(store, texts, NewPrompt(texts), overlap=len(votes))
        other = {texts[0]: texts[1], texts[1]: texts[0]}
        for number, best in enumerate(votes):
            answer(store, f"{number}", ranking=order(ids, f"{best}>{other[best]}"))
    assert [r["chosen"] for r in rows(store, "preferences")] == ["a", "c"]
    assert [r["chosen"] for r in rows(store, "preferences", min_votes=3)] == ["a"]
    assert [r["chosen"] for r in rows(store, "preferences", min_agreement=0.7)] == ["c"]


NEEDS = {
    "preferences": ("preference", "unpaired", "prompts"),
    "rankings": ("preference", "unpaired", "prompts"),
    "unpaired": ("unpaired", "responses", "prompts"),
    "ratings": ("responses", "prompts"),
    "demonstrations": ("responses", "prompts"),
    "judgements": ("prompts",),
}
"""Shape → what of training its rows are good for."""


@pytest.fixture(scope="module", params=["text", "conversation", "both"])
def full(request, tmp_path_factory):
    """A store with answers of every kind, about plain prompts, conversations, or some of both."""
    with Store.open(tmp_path_factory.mktemp("full") / "s.db") as store:
        store.add_guideline("g")
        project = store.add_project("r", "rating", Settings(attributes=(Attribute(name="kind"),)))
        editing = store.add_project("e", "edit")
        for number in range(4):
            chat = request.param == "conversation" or (request.param == "both" and number % 2)
            turns = [{"role": "user", "content": f"q {number}"}] if chat else []
            prompt = NewPrompt(f"q {number}", turns, meta={"id": number} if number else {"other": "x"})
            ids = ask(store, "abc", prompt, overlap=1)
            answer(store, "u", ranking=order(ids, "a>b>c"), rationale="=1+1")
            ids = ask(store, "ab", prompt, kind="rating", project=project, overlap=1)
            answer(store, "u", project, ratings={i: {"kind": 3} for i in ids.values()})
            ask(store, "a", prompt, kind="edit", project=editing, overlap=1)
            answer(store, "u", editing, correction="better")
        yield request.param, store


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "datasets"])
@pytest.mark.parametrize("shape", SHAPES)
def test_training_reads_every_shape(shape, kind, full, tmp_path):
    _, store = full
    found = rows(store, shape)
    write_folder({"train": found}, tmp_path / "out", kind, {})
    for need in NEEDS[shape]:
        check_data(DataConfig(path=str(tmp_path / "out"), limit=None), need)
    if kind != "datasets":
        write_file(found, tmp_path / f"one.{kind}")
        check_data(DataConfig(path=str(tmp_path / f"one.{kind}")), NEEDS[shape][0])


@pytest.mark.parametrize("shape", SHAPES)
def test_every_column_is_documented(shape, full):
    page = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text(encoding="utf-8")
    columns = {name for row in rows(full[1], shape) for name in row}
    assert {name for name in columns if f"`{name}`" not in page} == set()


@pytest.mark.slow
def test_trl_takes_the_preferences_for_explicit_prompt_preferences(full, tmp_path):
    """TRL's own word for it."""
    from trl.data_utils import is_conversational, maybe_extract_prompt

    kind, store = full
    for row in rows(store, "preferences"):
        three = {k: row[k] for k in ("prompt", "chosen", "rejected")}
        assert maybe_extract_prompt(three) == three  # the prompt is explicit: there is nothing to split off
        assert kind == "both" or is_conversational(three) == (kind == "conversation")


@pytest.mark.parametrize(
    ("shape", "options", "says"),
    [
        ("pairs", {}, "'pairs': is none of preferences, rankings"),
        ("rankings", {"order": "best"}, "'best': is none of worth, mean_rank"),
        ("preferences", {"margin": "x"}, "margin 'x'"),
        ("preferences", {"held_out": 1.0}, "held_out 1.0"),
        ("preferences", {"min_votes": 0}, "min_votes 0"),
        ("preferences", {"min_agreement": 1.5}, "min_agreement 1.5"),
        ("demonstrations", {"min_votes": 2}, "leave them out"),
        ("judgements", {"min_votes": 2}, "leave them out"),
    ],
)
def test_what_makes_no_sense_is_said(store, shape, options, says):
    with pytest.raises(InputError, match=says):
        rows(store, shape, **options)
