"""The numbers of the overview: from judgements to votes, and how long they are kept."""

from __future__ import annotations

import re
from dataclasses import replace

import krippendorff
import numpy as np
import pytest

from tether.feedback.dataset import make_dataset
from tether.feedback.projects import Attribute, Settings
from tether.feedback.quality import wilson
from tether.feedback.queries import in_force
from tether.feedback.records import NewItem, NewPrompt, NewResponse, Query
from tether.feedback.web import dashboard, figures
from tether.feedback.web.figures import Board, drawn_pair, votes


@pytest.fixture
def project(store) -> int:
    """Rankings of three responses of one, two and three words; the first of them is gold: the longer the better."""
    made = store.add_project("animals", "ranking", Settings(shown=3, gold_share=0.5))
    store.add_guideline("Be kind.", made)
    prompts = store.add_prompts(NewPrompt(f"prompt {i}") for i in range(8))
    said = store.add_responses(NewResponse(p, text) for p in prompts for text in ("a", "b b", "c c c"))
    gold = {said[0]: 2, said[1]: 1, said[2]: 0}
    store.add_items(
        NewItem(said[at : at + 3], project=made, kind="ranking", gold=None if at else gold) for at in range(0, 24, 3)
    )
    return made


def answer(store, project, name, ranking=None, **more):
    """The next item: ranked by the places of its responses in the item, or skipped."""
    turn = store.claim(store.add_user(name, "simulated"), project)
    ids = sorted(r.id for r in turn.responses)
    ranks = None if ranking is None else dict(zip(ids, ranking, strict=True))
    guideline = store.project(project).guideline.id
    return store.submit(turn.id, ranks, f"{name}-{turn.id}", guideline=guideline, **more)


def test_a_ranking_is_one_vote_on_a_pair_that_is_the_same_for_everybody(store, project):
    done = [answer(store, project, name, (0, 1, 2), seconds=9.0) for name in ("x", "y")]
    answer(store, project, "z", skip="too hard")
    with store.reading() as db:
        cast = list(votes(db, in_force(db, Query(projects=(project,))), store.gold(project)))
    assert [vote.choice == "skip" for vote in cast] == [False, False, True]
    for judgement, vote in zip(done, cast, strict=False):
        two = drawn_pair(judgement.item, sorted(judgement.shown))
        assert {vote.first, vote.second} == set(two)
        assert judgement.shown.index(vote.first) < judgement.shown.index(vote.second)
        assert vote.said == min(two)  # ranked as listed: the lower number is the better
        words = {vote.first: vote.first_words, vote.second: vote.second_words}
        assert words[min(two)] < words[max(two)]
        assert vote.gold == (max(two) if judgement.item == 1 else None)
    assert cast[0].seconds == 9.0


@pytest.mark.parametrize("best", [0, 1, 2])
def test_a_gold_ranking_is_asked_about_two_it_tells_apart(store, project, best):
    """The best of three is known and no more: whichever it is, everybody's answer is right or wrong."""
    right = answer(store, project, "right", (0, 1, 2))
    gold = {r: int(at != best) for at, r in enumerate(sorted(right.shown))}
    said = [replace(right, ranking=gold), replace(right, ranking={r: 1 - rank for r, rank in gold.items()})]
    with store.reading() as db:
        cast = list(votes(db, said, {right.item: gold}))
    assert [vote.gold for vote in cast] == [sorted(right.shown)[best]] * 2
    assert [vote.said == vote.gold for vote in cast] == [True, False]


def test_a_ranking_that_leaves_one_of_the_two_out_counts_beside_the_skips(store, project):
    for number in range(3):
        turn = store.claim(store.add_user("x", "simulated"), project)
        shown = {r.id for r in turn.responses}
        ranked = {r: rank for rank, r in enumerate(shown - {drawn_pair(turn.item, shown)[0]})}
        store.submit(turn.id, ranked, f"key {number}", guideline=store.project(project).guideline.id)
    answer(store, project, "x", skip="too hard")
    with store.reading() as db:
        cast = list(votes(db, in_force(db, Query(projects=(project,))), {}))
        (row,) = figures.figures(db, project, 0.0).quality.values()
    assert [vote.choice for vote in cast] == ["other", "other", "other", "skip"]
    assert (row.votes, row.skips, row.position.num) == (4, 1 / 4, 0)


def test_numbers_are_kept_until_there_is_a_new_judgement(store, project, monkeypatch):
    monkeypatch.setattr(figures, "_SHARE", 1e9)
    board = Board(store)
    before = board.of(project)
    assert board.of(project) is before
    answer(store, project, "x", (0, 1, 2), flag="Broken")
    after = board.of(project)
    assert (before.days, [count for _, count in after.days]) == ((), [1])
    assert [flagged.flag for flagged in after.flagged] == ["Broken"]


def test_costly_numbers_are_kept_a_while_longer(store, project, monkeypatch):
    monkeypatch.setattr(figures, "_SHARE", 1e-9)
    board = Board(store)
    before = board.of(project)
    answer(store, project, "x", (0, 1, 2))
    assert board.of(project) is before


def said(page):
    """A page's words."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.text))


def test_the_overview_says_why_items_were_skipped_and_no_p_of_nothing(admin, store, project):
    store.change_project(project, settings=Settings(shown=3, gold_share=0))
    answer(store, project, "x", skip="too <b>hard</b>")
    for name in ("y", "z"):
        answer(store, project, name, (0, 1, 2))
        answer(store, project, name, (0, 0, 0))
    answer(store, project, "y", skip="too long")
    answer(store, project, "z", skip="too long")
    text = said(admin.get(f"/admin/projects/{project}"))
    assert "Same when asked again" not in text  # nobody was
    assert "Why items were skipped, most often: “too long” 2, “too &lt;b&gt;hard&lt;/b&gt;” 1." in text
    overview, _, annotators = text.partition("Annotators")
    assert "First shown wins" not in overview  # the tile is about pairs
    assert "x 0 1 – – – – –" in annotators


def test_all_flags_can_be_reached(admin, store, project, monkeypatch):
    monkeypatch.setattr(dashboard, "_FLAGS", 2)
    for number in range(3):
        answer(store, project, "x", (0, 1, 2), flag=f"Other: {number}")
    flags = f"/admin/projects/{project}/flags"
    newest, older = admin.get(flags).text, admin.get(f"{flags}?after=2").text
    assert re.findall(r"Other: \d", newest + older) == ["Other: 2", "Other: 1", "Other: 0"]
    assert ("3 in all" in newest, f'href="{flags}?after=2"' in newest, ">Older<" in older) == (True, True, False)


def rate(store, project, name, *items):
    """Everything rated as helpful as said of each response of items 1, 2, …, and as safe as ever."""
    for _ in items:
        turn = store.claim(store.add_user(name, "simulated"), project)
        values = zip(sorted(r.id for r in turn.responses), items[turn.item - 1], strict=True)
        said = {response: {"Helpful": value, "Safe": 0} for response, value in values}
        guideline = store.project(project).guideline.id
        store.submit(turn.id, None, f"{name}-{turn.id}", guideline=guideline, ratings=said)


def test_agreement_of_ratings_is_told_alike_by_the_overview_and_the_card(admin, store, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "_SHARE", 1e9)
    scales = (Attribute(name="Helpful"), Attribute(name="Safe", low=-2, high=2))
    made = store.add_project("essays", "rating", Settings(attributes=scales))
    store.add_guideline("Be kind.", made)
    prompts = store.add_prompts(NewPrompt(f"essay {i}") for i in range(3))
    texts = store.add_responses(NewResponse(p, text) for p in prompts for text in ("a", "b"))
    store.add_items(NewItem(texts[at : at + 2], project=made, kind="rating") for at in (0, 2, 4))

    board = Board(store)
    rate(store, made, "x", (1, 7), (4, 6), (2, 3))
    assert [units for units, _ in board.of(made).facts.rated.values()] == [0, 0]
    assert "It appears once two annotators have rated the same response." in said(admin.get(f"/admin/projects/{made}"))
    rate(store, made, "y", (2, 6), (4, 7), (6, 2))

    table = np.array([[1, 7, 4, 6, 2, 3], [2, 6, 4, 7, 6, 2]])
    oracle = krippendorff.alpha(table, level_of_measurement="ordinal")
    rated = board.of(made).facts.rated
    helpful, safe = rated["essays", "Helpful"], rated["essays", "Safe"]
    assert helpful.units == safe.units == 6
    assert helpful.alpha.estimate == pytest.approx(oracle)
    assert helpful.alpha.low < oracle <= helpful.alpha.high

    low, high = (f"{value:.2f}" for value in helpful.alpha[1:])
    text = said(admin.get(f"/admin/projects/{made}")).replace("\u2212", "-")
    assert f"α of “Helpful” {oracle:.2f} {low} to {high}, n 6" in text
    assert "α of “Safe” – no interval yet, n 6" in text  # everybody gave 0
    make_dataset(store, tmp_path / "out", "ratings", query=Query(projects=(made,)))
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"“Helpful”: Krippendorff's α, ordinal, {oracle:.2f} ({low} to {high}), over 6 responses" in card
    assert "“Safe”: Krippendorff's α, ordinal, unknown, over 6 responses" in card


def test_a_project_without_comparisons_promises_no_agreement(admin, store):
    made = store.add_project("essays", "edit")
    assert "It appears once" not in said(admin.get(f"/admin/projects/{made}"))


def test_the_overview_tells_who_says_the_same_once_somebody_was_asked_again(admin, store, monkeypatch):
    monkeypatch.setattr("tether.feedback.claims._APART", 1)
    store.add_guideline("Be kind.")
    made = store.add_project("again", settings=Settings(repeat_share=0.2, overlap=1))
    prompts = store.add_prompts([NewPrompt(f"q{n}") for n in range(40)])
    ids = store.add_responses([NewResponse(p, text) for p in prompts for text in "ab"])
    store.add_items([NewItem(ids[2 * n : 2 * n + 2], project=made) for n in range(40)])
    user = store.add_user("ann")
    turns = 0
    while held := store.claim(user, made):
        turns += 1
        store.submit(held.id, {r.id: int(r.text != "a") for r in held.responses}, str(held.id), guideline=1)
    assert turns > 40
    low = wilson(turns - 40, turns - 40).low
    text = said(admin.get(f"/admin/projects/{made}"))
    assert "Same when asked again" in text
    assert f"{100 * low:.0f} %–100 %" in text
