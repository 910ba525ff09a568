"""Programs at work on a project: its overlap, guideline and settings hold for them as for people."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from tether.errors import InputError
from tether.feedback.annotators import Rater, Verdict
from tether.feedback.judges import JudgeAnnotator, Pair
from tether.feedback.label import label_project
from tether.feedback.projects import Attribute, Settings
from tether.feedback.records import NewItem, NewPrompt, NewResponse
from tether.feedback.store import Store


@pytest.fixture
def store(tmp_path: Path):
    with Store.open(tmp_path / "s.db") as opened:
        yield opened


def project(store: Store, num: int = 40, kind: str = "pair", **settings) -> int:
    """Items of responses of 1, 2, … words."""
    made = store.add_project("p", kind, Settings(**settings))
    store.add_guideline("Prefer the longer.", made)
    size = 2 if kind == "pair" else 3
    prompts = store.add_prompts([NewPrompt(f"p{n}") for n in range(num)])
    ids = store.add_responses([NewResponse(p, "x " * k) for p in prompts for k in range(1, size + 1)])
    overlap = settings.get("overlap", 3)
    store.add_items([NewItem(ids[at : at + size], overlap, kind, made) for at in range(0, len(ids), size)])
    return made


def likes_long(name: str, **faults: float) -> Rater:
    return Rater(name, lambda text: len(text) / 10, **faults)


class Refuses:
    """An annotator who never answers."""

    name = "refuses"
    kind = "simulated"

    def compare(self, prompt: str, responses: Sequence[str], rng: random.Random) -> Verdict:
        return Verdict(None, skip="cannot")


def test_work_is_shared_and_the_overlap_kept(store):
    made = project(store)
    raters = [likes_long(f"r{n}") for n in range(6)]
    report = label_project(store, made, raters)
    assert (report.items, report.votes, report.ties) == (40, 120, 0)
    assert report.agreement.estimate == 1
    each = Counter(j.user for j in store.judgements())
    assert len(each) == 6
    assert 10 <= min(each.values()) <= max(each.values()) <= 30  # 20 ± 3 standard deviations
    assert set(Counter(j.item for j in store.judgements()).values()) == {3}
    assert {j.guideline for j in store.judgements()} == {store.project(made).guideline.id}
    assert label_project(store, made, raters).as_dict() == report.as_dict()


def test_places_taken_by_people_stay_theirs(store):
    made = project(store, num=5, overlap=2)
    person = store.add_user("ann")
    for held in store.claim_many(person, 5, project=made):
        store.submit(held.id, {r.id: n for n, r in enumerate(held.responses)}, str(held.id), guideline=1)
    label_project(store, made, [likes_long(f"r{n}") for n in range(3)])
    judged = store.judgements()
    assert len(judged) == 10
    assert sum(j.user == person for j in judged) == 5


def test_a_place_left_by_a_skip_goes_to_another(store):
    made = project(store, num=6, overlap=1)
    report = label_project(store, made, [Refuses(), likes_long("r")])
    assert (report.votes, report.skips) == (6, len([j for j in store.judgements() if j.skip]))
    assert 0 < report.skips <= 6


def test_it_goes_on_where_it_was_cut_and_ends_the_same(store, tmp_path):
    def fails_after(count: int, rater: Rater) -> Rater:
        left = iter(range(count))

        def opinion(text: str) -> float:
            next(left)
            return rater.opinion(text)

        return Rater(rater.name, opinion, noise=0.2)

    made = project(store, num=150)
    raters = [likes_long(f"r{n}", noise=0.2) for n in range(3)]
    with pytest.raises(StopIteration):
        label_project(store, made, [raters[0], fails_after(250, raters[1]), raters[2]], seed=3)
    cut = store.judgements()
    assert 0 < len(cut) < 450
    label_project(store, made, raters, seed=3)
    with Store.open(tmp_path / "whole.db") as whole:
        label_project(whole, project(whole, num=150), raters, seed=3)

        def said(one: Store) -> set:
            return {(j.item, j.user, tuple(sorted(j.ranking.items())), j.shown) for j in one.judgements()}

        assert said(store) == said(whole)


def test_a_project_without_ties_and_strengths_gets_none(store):
    made = project(store, num=60, kind="ranking", overlap=1, ties=False, strength=False)
    label_project(store, made, [Rater("same", lambda text: 0.0)])
    judged = store.judgements()
    assert all(sorted(j.ranking.values()) == [0, 1, 2] for j in judged)
    assert all(j.strength is None for j in judged)
    best = Counter(j.shown.index(min(j.ranking, key=j.ranking.get)) for j in judged)
    assert min(best[side] for side in range(3)) > 8  # 20 ± 3 standard deviations: the side does not decide


def test_what_was_taken_back_is_answered_again_however_often(store):
    made = project(store, num=1, overlap=1)
    for times in range(1, 4):
        assert label_project(store, made, [likes_long("r")]).votes == 1
        assert len(store.history(1)) == 2 * times - 1
        store.undo(store.judgements()[0].id, f"undo {times}")


def test_a_judge_is_asked_both_ways_round_by_the_project_s_guideline(store):
    made = project(store, num=4, overlap=1)
    asked: list[Pair] = []

    def ask(pairs: Sequence[Pair]) -> list[tuple[float, float]]:
        asked.extend(pairs)
        return [(0.9, 0.8) if len(first) > len(second) else (0.1, 0.2) for _, _, first, second in pairs]

    report = label_project(store, made, [JudgeAnnotator("judge", ask)])
    assert {pair[0] for pair in asked} == {"Prefer the longer."}
    assert (report.votes, report.flips.flipped, report.flips.decided) == (4, 0, 4)
    assert store.users()[0].kind == "ai"
    texts = {r: len(text) for r, text in enumerate(["x ", "x x "] * 4, 1)}
    assert all(max(j.shown, key=texts.get) == min(j.ranking, key=j.ranking.get) for j in store.judgements())


def test_what_cannot_be_labelled_is_said(store):
    with pytest.raises(InputError, match="kind rating"):
        label_project(store, store.add_project("r", "rating", Settings(attributes=(Attribute(name="a"),))), [])
    with pytest.raises(InputError, match="no guideline"):
        label_project(store, store.add_project("q"), [])
    made = project(store)
    with pytest.raises(InputError, match="two have the same name"):
        label_project(store, made, [likes_long("r"), likes_long("r")])
    store.change_project(made, state="paused")
    with pytest.raises(InputError, match="is paused; open it first"):
        label_project(store, made, [likes_long("r")])
