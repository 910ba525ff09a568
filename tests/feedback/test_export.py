"""Votes to rows: who won, by how much, from where; the same for the same facts."""

from __future__ import annotations

import math

import pytest

from tether.feedback.aggregate import Tally, log_odds, majority, mean_strength, tally
from tether.feedback.export import Export
from tether.feedback.records import Answer, NewItem, NewPrompt, NewResponse, Query
from tether.feedback.shapes import Options, rows_of
from tether.feedback.store import Store


def fill(store: Store, votes: list[str], prompt: NewPrompt | None = None) -> None:
    """One pair; each vote is `a`, `b` or `=`, with strength 2 for the first, else 1."""
    store.add_guideline("g")
    (p,) = store.add_prompts([prompt or NewPrompt("hi", token_ids=[1, 2], meta={"id": "row 7"})])
    a, b = store.add_responses([NewResponse(p, "A", [3, 9], True, "sft"), NewResponse(p, "B", [4], False, "rl")])
    store.add_items([NewItem([a, b], overlap=len(votes))])
    for n, said in enumerate(votes):
        held = store.claim(store.add_user(f"user {n}"))
        ranking = {"a": {a: 0, b: 1}, "b": {a: 1, b: 0}, "=": {a: 0, b: 0}}[said]
        store.submit(held.id, ranking, str(n), guideline=1, strength=2.0 if n == 0 else 1.0)


def test_a_row_by_hand(tmp_path):
    with Store.open(tmp_path / "s.db") as store:
        fill(store, ["b", "b", "a", "="])
        (row,) = store.export()
        (strong,) = store.export(how=Export(margin="strength", salt="pepper"))
    assert (row["prompt"], row["chosen"], row["rejected"]) == ("hi", "B", "A")
    assert row["votes"] == {"chosen": 2, "rejected": 1, "ties": 1}
    assert row["margin"] == pytest.approx(math.log(3.5 / 2.5))
    assert row["margin_kind"] == "log_odds"
    assert strong["margin"] == pytest.approx((2 + 1 - 1) / 4)
    assert row["token_ids"] == {"prompt": [1, 2], "chosen": [4], "rejected": [3, 9]}
    assert row["ended"] == {"chosen": False, "rejected": True}
    assert row["checkpoints"] == {"chosen": "rl", "rejected": "sft"}
    assert (row["guideline"], row["meta"]) == (1, {"id": "row 7"})
    assert row["ids"]["judgements"] == [1, 2, 3, 4]
    assert len(set(row["annotators"])) == 4
    assert not any("user" in name for name in row["annotators"])
    assert not set(row["annotators"]) & set(strong["annotators"])  # the salt hides names


def test_a_conversation_stays_one(tmp_path):
    turns = ({"role": "user", "content": "hi"},)
    with Store.open(tmp_path / "s.db") as store:
        fill(store, ["a"], NewPrompt("hi", turns))
        (row,) = store.export()
    assert row["prompt"] == list(turns)
    assert row["chosen"] == [{"role": "assistant", "content": "A"}]
    assert "token_ids" not in row  # the prompt's are unknown


def test_why_an_item_was_asked_goes_with_its_row(tmp_path):
    why = {"arm": "active", "propensity": 0.25, "score": 0.7}
    with Store.open(tmp_path / "s.db") as store:
        fill(store, ["a"])
        project = store.add_project("other")
        (p,) = store.add_prompts([NewPrompt("hey")])
        a, b = store.add_responses([NewResponse(p, "A"), NewResponse(p, "B")])
        store.add_items([NewItem([a, b], 1, project=project, selection=why)])
        held = store.claim(store.add_user("x"), project)
        store.submit(held.id, {a: 1, b: 0}, "k", guideline=1)
        plain, chosen = store.export()
    assert chosen["selection"] == why
    assert "selection" not in plain


def test_a_tied_vote_gives_no_row(tmp_path):
    with Store.open(tmp_path / "s.db") as store:
        fill(store, ["a", "b", "="])
        assert store.export() == []


def test_a_ranking_gives_its_pairs(tmp_path):
    with Store.open(tmp_path / "s.db") as store:
        store.add_guideline("g")
        (p,) = store.add_prompts([NewPrompt("p")])
        ids = store.add_responses([NewResponse(p, name) for name in "ABCD"])
        store.add_items([NewItem(ids, overlap=1)])
        held = store.claim(store.add_user("u"))
        store.submit(held.id, {ids[3]: 0, ids[0]: 1, ids[1]: 1}, "k", guideline=1)  # D > A = B, C unranked
        assert [(r["chosen"], r["rejected"]) for r in store.export()] == [("D", "A"), ("D", "B")]


def test_export_of_the_past_does_not_change(tmp_path):
    with Store.open(tmp_path / "s.db") as store:
        fill(store, ["a", "a", "b"])
        then = store.last_judgement()
        past = store.export(Query(until=then))
        mine = store.judgements()[0]
        store.undo(mine.id, "undo")
        held = store.claim(mine.user)
        store.submit(held.id, {i: 1 - r for i, r in mine.ranking.items()}, "now b", guideline=1)
        assert store.export()[0]["chosen"] == "B"
        assert store.export(Query(until=then)) == past
        assert store.export(Query(until=0)) == []


def test_same_facts_in_another_store_export_the_same(tmp_path):
    rows = []
    for name in ("one", "two"):
        with Store.open(tmp_path / name) as store:
            if name == "two":
                store.add_prompts([NewPrompt("something before")])
            fill(store, ["a", "a", "b"])
            rows.append(store.export())
    assert rows[0] == rows[1]


def test_a_split_is_by_prompt_and_of_the_share_asked_for(tmp_path):
    with Store.open(tmp_path / "s.db") as store:
        store.add_guideline("g")
        user = store.add_user("u")
        prompts = store.add_prompts([NewPrompt(f"p{i}") for i in range(400)])
        ids = store.add_responses([NewResponse(p, t) for p in prompts for t in "ABC"])
        items = [NewItem(pair, 1) for i in range(0, 1200, 3) for pair in (ids[i : i + 2], ids[i + 1 : i + 3])]
        store.add_items(items)
        held = store.claim_many(user, 800)
        votes = [{r.id: n for n, r in enumerate(h.responses)} for h in held]
        store.submit_many([Answer(h.id, str(h.id), 1, vote) for h, vote in zip(held, votes, strict=True)])
        rows = store.export(how=Export(held_out=0.25))
    test = {r["prompt"] for r in rows if r["split"] == "test"}
    train = {r["prompt"] for r in rows if r["split"] == "train"}
    assert len(rows) == 800
    assert not test & train
    assert 70 <= len(test) <= 130  # 100 ± 3.5 standard deviations of 8.7


@pytest.mark.parametrize("shape", ["preferences", "rankings", "judgements"])
def test_the_same_words_are_in_one_split_whatever_their_tokens(tmp_path, shape):
    """A sampled prompt knows its token ids, an imported one does not: to a trainer they are the same."""
    with Store.open(tmp_path / "s.db") as store:
        store.add_guideline("g")
        user = store.add_user("u")
        talk = [{"role": "user", "content": "hi"}]
        for tokens in ((), (5, 6), (7,)):
            new = [NewPrompt(f"p{i}", token_ids=tokens) for i in range(60)]
            prompts = store.add_prompts([*new, NewPrompt("p0", messages=talk, token_ids=tokens)])
            ids = store.add_responses([NewResponse(p, t) for p in prompts for t in "AB"])
            store.add_items([NewItem(ids[2 * i : 2 * i + 2], 1) for i in range(61)])
        held = store.claim_many(user, 183)
        votes = [{r.id: n for n, r in enumerate(h.responses)} for h in held]
        store.submit_many([Answer(h.id, str(h.id), 1, vote) for h, vote in zip(held, votes, strict=True)])
        with store.reading() as db:
            rows = rows_of(db, shape, Query(), Options(held_out=0.5))
    assert len(rows) == 183
    assert len({row["ids"]["prompt"] for row in rows}) == 183
    splits = {split: {str(r["prompt"]) for r in rows if r["split"] == split} for split in ("train", "test")}
    assert min(map(len, splits.values())) > 15
    assert not splits["train"] & splits["test"]


def test_tallies_by_hand():
    votes = [({1: 0, 2: 1}, 3.0), ({1: 0, 2: 2}, None), ({1: 1, 2: 0}, 1.0), ({1: 0, 2: 0}, 2.0), ({1: 0, 3: 1}, 2.0)]
    counts = tally((1, 2), votes)
    assert counts == Tally(2, 1, 1, 3.0)
    turned = tally((2, 1), votes)
    assert turned == Tally(1, 2, 1, -3.0)
    assert (majority(counts), majority(turned), majority(Tally(1, 1, 5, 0.0))) == (1, -1, 0)
    assert mean_strength(counts) == 0.75
    assert log_odds(counts) == math.log(3.5 / 2.5) == -log_odds(turned)
    assert all(log_odds(Tally(a, b, 0, 0)) == -log_odds(Tally(b, a, 0, 0)) for a in range(9) for b in range(9))
    assert log_odds(Tally(3, 0, 0, 3)) > log_odds(Tally(1, 0, 0, 1)) > 0
