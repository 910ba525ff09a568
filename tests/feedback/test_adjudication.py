"""Disputes and last words; what annotators and admins see of the work done. On both databases."""

from __future__ import annotations

import math

import pytest

from tether.errors import InputError
from tether.feedback.export import Export
from tether.feedback.projects import Settings
from tether.feedback.records import Conflict, Effort, Missing, NewItem, NewPrompt, NewResponse, Progress, Query, Shown
from tether.feedback.store import Store


@pytest.fixture
def store(database, clock):
    with Store.open(database, clock=clock) as opened:
        opened.add_guideline("g")
        yield opened


def ask(store: Store, num: int, overlap: int = 3, texts: str = "AB", **more) -> tuple[list[int], list[list[int]]]:
    """Items of responses with these texts, and the response ids of each."""
    prompts = store.add_prompts([NewPrompt(f"q{n}") for n in range(num)])
    ids = store.add_responses([NewResponse(p, t) for p in prompts for t in texts])
    sets = [ids[n * len(texts) : (n + 1) * len(texts)] for n in range(num)]
    return store.add_items([NewItem(s, overlap, **more) for s in sets]), sets


def say(store: Store, name: str, rankings: dict[int, dict[int, int] | None], project: int = 1, **more) -> None:
    """The user's answers (None: a skip) to these items, whatever order they are claimed in."""
    for held in store.claim_many(store.add_user(name), 50, project=project, among=list(rankings)):
        ranking = rankings[held.item]
        skip = "cannot say" if ranking is None else None
        store.submit(held.id, ranking, f"{name}/{held.item}", guideline=1, skip=skip, **more)


def test_disputes_are_items_with_different_best_responses(store):
    (one, two, three, four, five), sets = ask(store, 5, texts="ABC")
    a, b, c = zip(*sets, strict=True)
    ranked = {"A": (0, 1, 2), "B": (1, 0, 2), "b": (2, 0, 1), "C": (1, 2, 0)}
    for name, best in (("u", "AAAA"), ("v", "ABB-"), ("w", "AACb")):
        ranks = [dict(zip(sets[n], ranked[best[n]], strict=True)) if best[n] in ranked else None for n in range(4)]
        say(store, name, dict(zip((one, two, three, four), ranks, strict=True)))
    say(store, "u", {five: {a[4]: 0, b[4]: 0, c[4]: 1}})  # a tie for the best is not the same as a winner
    say(store, "v", {five: {a[4]: 0, b[4]: 1, c[4]: 1}})
    found = store.disputed(1)
    assert [d.item for d in found] == [three, four, five, two]  # 1/3, 1/2 and 1/2 agree; then 2/3
    assert [d.item for d in store.disputed(1, limit=2)] == [three, four]
    assert store.disputed(1, among=(four,)) == [d for d in found if d.item == four]
    assert [len(d.judgements) for d in found] == [3, 2, 2, 3]  # a skip is no vote
    assert (found[0].prompt, found[0].adjudication) == ("q2", None)
    assert sorted(found[0].responses, key=lambda r: r.id) == [Shown(a[2], "A"), Shown(b[2], "B"), Shown(c[2], "C")]
    store.undo(next(j.id for j in found[1].judgements), "u")
    assert [d.item for d in store.disputed(1)] == [three, five, two]


def test_the_order_an_adjudicator_sees_tells_no_source(store):
    """Responses of the same checkpoint come first in every item as it was added, and not as it is adjudicated."""
    items, sets = ask(store, 40)
    say(store, "u", {i: {a: 0, b: 1} for i, (a, b) in zip(items, sets, strict=True)})
    say(store, "v", {i: {a: 1, b: 0} for i, (a, b) in zip(items, sets, strict=True)})
    firsts = [d.responses[0].text for d in store.disputed(1)]
    assert 8 <= firsts.count("A") <= 32  # 20 ± 3.8 standard deviations of 3.2
    said = store.adjudicate(items[0], 1, dict.fromkeys(sets[0], 0), "k", guideline=1)
    assert said.shown == tuple(r.id for r in store.disputed(1, 50)[-1].responses)


def test_the_last_word_stands_in_place_of_the_majority(store):
    (item,), ((a, b),) = ask(store, 1)
    for name, best in (("u", a), ("v", a), ("w", b)):
        say(store, name, {item: {a: int(best != a), b: int(best != b)}}, strength=2.0)
    before = store.last_judgement()
    assert [(r["chosen"], r["adjudicated"]) for r in store.export()] == [("A", False)]
    admin = store.add_user("admin")
    said = store.adjudicate(item, admin, {a: 1, b: 0}, "k", guideline=1, rationale="B is true")
    assert (said.action, said.revision, said.supersedes, said.rationale) == ("adjudicate", 0, None, "B is true")
    (row,) = store.export()
    assert (row["chosen"], row["rejected"], row["adjudicated"]) == ("B", "A", True)
    assert row["votes"] == {"chosen": 1, "rejected": 2, "ties": 0}  # what annotators said stays said
    assert row["margin"] == pytest.approx(math.log(2))
    assert store.export(how=Export(margin="strength"))[0]["margin"] == 1.0
    assert row["ids"]["judgements"] == [1, 2, 3, said.id]
    assert len(row["annotators"]) == 3
    assert [r["chosen"] for r in store.export(Query(until=before))] == ["A"]  # the past stays what it was
    assert store.adjudications() == {item: said}
    assert [j.action for j in store.judgements()] == ["rank"] * 3  # no vote among votes
    (dispute,) = store.disputed(1)
    assert dispute.adjudication == said


def test_a_later_last_word_replaces_an_earlier_one_of_whomever(store):
    (item,), ((a, b),) = ask(store, 1)
    first, second = store.add_user("x"), store.add_user("y")
    words = [
        store.adjudicate(item, first, {a: 0, b: 1}, "1", guideline=1),
        store.adjudicate(item, second, {a: 1, b: 0}, "2", guideline=1),
        store.adjudicate(item, first, {a: 0, b: 0}, "3", guideline=1),
    ]
    assert [(w.supersedes, w.revision) for w in words] == [(None, 0), (1, 0), (2, 1)]
    assert store.adjudications() == {item: words[2]}
    assert store.export() == []  # the last word may be that there is no difference
    assert store.adjudications(Query(until=2)) == {item: words[1]}
    with pytest.raises(Conflict, match="not one in force"):
        store.undo(1, "u")
    store.undo(3, "u", by=first)
    assert store.adjudications() == {}
    again = store.adjudicate(item, second, {a: 0, b: 1}, "5", guideline=1)
    assert (again.supersedes, [r["chosen"] for r in store.export()]) == (4, ["A"])
    assert store.adjudicate(item, second, {a: 1, b: 0}, "5", guideline=1) == again  # a replay


def test_an_adjudication_takes_no_place_and_closes_none(store):
    (item,), ((a, b),) = ask(store, 1, overlap=1)
    held = store.claim(store.add_user("u"))
    admin = store.add_user("admin")
    store.adjudicate(item, admin, {a: 0, b: 1}, "k", guideline=1)
    assert store.claim(admin) is None  # who has settled it is not asked
    assert store.submit(held.id, {a: 1, b: 0}, "u", guideline=1).action == "rank"
    assert store.progress(1).answers == 1
    own = store.history(2)[0].assignment
    with pytest.raises(Conflict, match="answered already"):
        store.submit(own, {a: 0, b: 1}, "z", guideline=1)


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"item": 99}, Missing, "item 99: there is no such item"),
        ({"user": 99}, Missing, "no user with this id"),
        ({"guideline": 9}, Missing, "no guideline with this id"),
        ({"ranking": {1: 0, 2: 1}}, InputError, r"rank all of its responses, \[1, 2, 3\]"),
        ({"ranking": {1: 0, 2: 1, 9: 2}}, InputError, "and no other"),
        ({"ranking": {1: 0, 2: 1, 3: -1}}, InputError, "ranks 0, 1, 2"),
        ({"submit_key": ""}, InputError, "submit key"),
        ({"submit_key": "u/1"}, Conflict, "used for something else"),
        ({"rationale": "a\0b"}, InputError, "contains NUL"),
        ({"item": 2}, InputError, "not gold"),
    ],
)
def test_a_last_word_that_makes_no_sense_is_refused(store, more, error, message):
    (item,), (ids,) = ask(store, 1, texts="ABC")
    store.add_items([NewItem(ids[:2], gold={ids[0]: 0, ids[1]: 1})])
    say(store, "u", {item: dict.fromkeys(ids, 0)})
    good = {"item": item, "user": 1, "ranking": {1: 0, 2: 1, 3: 2}, "submit_key": "k", "guideline": 1}
    with pytest.raises(InputError, match=message) as caught:
        store.adjudicate(**{**good, **more})
    assert type(caught.value) is error
    assert store.adjudicate(**good).id == 2


def test_gold_items_are_neither_disputed_nor_exported(store):
    _, ((a, b),) = ask(store, 1, overlap=9)
    (gold,) = store.add_items([NewItem([a, b], kind="ranking", gold={a: 0, b: 1})])
    project = store.add_project("p", settings=Settings(gold_share=0.5))
    items, sets = ask(store, 20, project=project)
    more = store.add_items([NewItem(s, kind="ranking", project=project, gold={s[0]: 0, s[1]: 1}) for s in sets])
    for name, best in (("u", 0), ("v", 1)):
        user = store.add_user(name)
        while held := store.claim(user, project):
            ids = sorted(r.id for r in held.responses)
            store.submit(held.id, {r: int(n != best) for n, r in enumerate(ids)}, f"{name}{held.id}", guideline=1)
    answered = {j.item for j in store.judgements()}
    assert answered & set(more)
    assert {d.item for d in store.disputed(project)} == set(items)
    assert store.export() == []
    assert store.gold(project) == {i: {s[0]: 0, s[1]: 1} for i, s in zip(more, sets, strict=True)}
    assert store.gold(1) == {gold: {a: 0, b: 1}}


def test_mine_are_my_answers_as_i_saw_them(store):
    items, sets = ask(store, 4)
    other, others = ask(store, 1, project=store.add_project("p"))
    best_first = {i: {a: 0, b: 1} for i, (a, b) in zip(items, sets, strict=True)}
    say(store, "u", best_first | {items[3]: None})
    say(store, "u", {other[0]: {others[0][0]: 0, others[0][1]: 1}}, project=2)
    say(store, "v", best_first)
    told = store.mine(1, 1)
    assert [(t.judgement.item, t.judgement.action) for t in told] == [
        (items[3], "skip"),
        *((i, "rank") for i in reversed(items[:3])),
    ]
    assert all(tuple(r.id for r in t.responses) == t.judgement.shown for t in told)
    assert {(t.prompt, t.messages) for t in told} == {(f"q{n}", ()) for n in range(4)}
    assert [t.judgement.id for t in store.mine(1, 1, limit=2, before=4)] == [3, 2]
    store.undo(3, "undo")
    assert [t.judgement.id for t in store.mine(1, 1)] == [4, 2, 1]
    assert [t.judgement.id for t in store.mine(1, 2)] == [5]


def test_progress_by_hand(store, clock):
    project = store.add_project("p", settings=Settings(lease=60, gold_share=0.0))
    _, sets = ask(store, 4, overlap=2, project=project)
    store.add_items([NewItem(s, kind="ranking", project=project, gold={s[0]: 0, s[1]: 1}) for s in sets])
    assert store.progress(project) == Progress(4, 0, 0, 8, 0, 4, 0, ())
    u, v = store.add_user("u"), store.add_user("v")
    for user, seconds in ((u, (3.0, 9.0, None, 4.0)), (v, (1.0,))):
        for n, took in enumerate(seconds):
            held = store.claim(user, project)
            ranking = {r.id: 0 for r in held.responses}
            store.submit(held.id, ranking, f"{user}/{n}", guideline=1, seconds=took)
    held = store.claim(v, project)
    store.submit(held.id, None, "skip", guideline=1, skip="no", seconds=50.0)
    store.undo(4, "back")
    done = Progress(4, 1, 4, 8, 1, 4, 1, (Effort(u, 3, 0, 6.0), Effort(v, 1, 1, 1.0)))
    assert store.progress(project) == done
    clock.now += 61  # the lease of what was taken back has ended
    assert store.progress(project).open == 0
    assert store.progress(1) == Progress(0, 0, 0, 0, 0, 0, 0, ())
    with pytest.raises(Missing, match="no such project"):
        store.progress(9)
