"""Work within a project: its state, quota, leases and gold items; each kind of item; who may touch what."""

from __future__ import annotations

import pytest

from tether.errors import InputError
from tether.feedback.projects import Attribute, Settings
from tether.feedback.records import Conflict, Judgement, Missing, NewItem, NewPrompt, NewResponse, Query
from tether.feedback.store import Store


@pytest.fixture
def store(database, clock):
    with Store.open(database, clock=clock) as opened:
        opened.add_guideline("g")
        yield opened


def ask(
    store: Store,
    num: int,
    project: int = 1,
    *,
    shown: int = 2,
    first: int = 0,
    overlap: int = 1,
    gold: bool = False,
    kind=None,
) -> list[int]:
    """Items of the prompts `q<first>` …; a gold one expects the first response to be the best."""
    prompts = store.add_prompts([NewPrompt(f"q{n}") for n in range(first, first + num)])
    ids = store.add_responses([NewResponse(p, f"r{k}") for p in prompts for k in range(shown)])
    sets = [ids[n * shown : (n + 1) * shown] for n in range(num)]
    expected = [dict(zip(s, range(shown), strict=True)) if gold else None for s in sets]
    return store.add_items(
        [NewItem(s, overlap, project=project, kind=kind, gold=e) for s, e in zip(sets, expected, strict=True)]
    )


def answer(store: Store, held, **more) -> Judgement:
    said = more or {"ranking": {r.id: n for n, r in enumerate(held.responses)}}
    return store.submit(held.id, said.pop("ranking", None), f"key {held.id}", guideline=1, **said)


def work_off(store: Store, user: int, project: int) -> list[int]:
    """The items the user answers until there are no more."""
    asked = []
    while held := store.claim(user, project):
        asked.append(answer(store, held).item)
    return asked


def test_projects_do_not_mix(store):
    p, q = store.add_project("p"), store.add_project("q")
    in_p, in_q, in_default = ask(store, 2, p, overlap=2), ask(store, 3, q), ask(store, 2)
    assert len({*in_p, *in_q, *in_default}) == 7  # the same responses, once for each project
    assert in_default == ask(store, 2)
    user = store.add_user("u")
    assert work_off(store, user, q) == in_q
    assert work_off(store, user, p) == in_p  # whose ids are below what the user had last
    held = store.claim(user)
    assert (held.item, held.project) == (in_default[0], 1)
    assert store.claim(user, p) is None  # what is held elsewhere is not handed out here
    assert [j.item for j in store.judgements(Query(projects=(q,)))] == in_q
    with pytest.raises(Missing, match="no project 9"):
        store.claim(user, 9)
    with pytest.raises(InputError, match="no project 9"):
        ask(store, 1, 9)


@pytest.mark.parametrize("state", ["paused", "closed"])
def test_a_project_that_is_not_open_hands_out_nothing_and_takes_what_is_held(store, state):
    project = store.add_project("p")
    ask(store, 2, project)
    user = store.add_user("u")
    held = store.claim(user, project)
    store.change_project(project, state=state)
    assert store.claim(user, project) is None
    assert store.heartbeat(user, held.id) > 0
    assert answer(store, held).action == "rank"
    store.change_project(project, state="open")
    assert store.claim(user, project) is not None


def test_a_quota_counts_answers_and_what_is_held(store):
    project = store.add_project("p", settings=Settings(quota=3))
    ask(store, 10, project, overlap=2)
    u, v = store.add_user("u"), store.add_user("v")
    held = store.claim_many(u, 5, project=project)
    assert len(held) == 3
    assert [h.id for h in store.claim_many(u, 5, project=project)] == [h.id for h in held]
    answer(store, held[0], skip="no")  # a skip is not an answer
    first = answer(store, held[1])
    assert len(store.claim_many(u, 5, project=project)) == 2
    assert len(work_off(store, u, project)) == 2
    assert store.claim(u, project) is None
    store.undo(first.id, "undo")
    assert store.claim(u, project).item == first.item
    assert len(work_off(store, v, project)) == 3


def test_the_lease_is_the_projects_unless_the_store_was_opened_with_one(store, clock, database):
    project = store.add_project("p", settings=Settings(lease=60))
    ask(store, 1, project)
    ask(store, 1)
    user = store.add_user("u")
    assert store.claim(user).expires == clock.now + 1800
    assert store.claim(user, project).expires == clock.now + 60
    with Store.open(database, clock=clock, lease=5) as other:
        assert other.claim(user, project).expires == clock.now + 5


def test_a_heartbeat_keeps_the_place_and_gives_none_back_that_is_gone(store, clock):
    project = store.add_project("p", settings=Settings(lease=60))
    ask(store, 1, project)
    u, v = store.add_user("u"), store.add_user("v")
    held = store.claim(u, project)
    for _ in range(5):
        clock.now += 50
        assert store.heartbeat(u, held.id) == clock.now + 60
        assert store.claim(v, project) is None
    assert store.held(u, held.id).expires == clock.now + 60
    clock.now += 61
    assert store.heartbeat(u, held.id) == clock.now + 60  # nobody has taken the place
    clock.now += 61
    other = store.claim(v, project)
    with pytest.raises(Conflict, match="time ran out"):
        store.heartbeat(u, held.id)
    with pytest.raises(Conflict, match="time ran out"):
        answer(store, held)
    answer(store, other)
    with pytest.raises(Conflict, match="answered already"):
        store.heartbeat(v, other.id)
    with pytest.raises(Conflict, match="answered already"):
        store.held(v, other.id)


def test_a_clock_that_goes_back_fills_no_place_twice(store, clock):
    """As where two servers' clocks differ: one gives the place to somebody else while the other still holds it."""
    project = store.add_project("p", settings=Settings(overlap=2, lease=60))
    ask(store, 2, project, overlap=2)
    u, v, w = (store.add_user(name) for name in "uvw")
    held = store.claim_many(u, 2, project=project)
    clock.now += 61
    for other in (v, w):
        answer(store, store.claim(other, project))
    clock.now -= 30
    assert store.claim(u, project).item == held[1].item
    with pytest.raises(Conflict, match="time ran out"):
        store.heartbeat(u, held[0].id)
    with pytest.raises(Conflict, match="time ran out"):
        answer(store, held[0])
    answer(store, held[1])
    assert store.progress(project).answers == 3


def test_held_is_what_was_claimed(store):
    ask(store, 1, shown=4)
    user = store.add_user("u")
    claimed = store.claim(user)
    assert store.held(user, claimed.id) == claimed
    assert claimed.kind == "ranking"


def test_nobody_touches_what_is_anothers(store):
    ask(store, 2)
    u, v = store.add_user("u"), store.add_user("v")
    held, other = store.claim(u), store.claim(v)
    ranking = {r.id: 0 for r in held.responses}
    for act in (
        lambda: store.held(v, held.id),
        lambda: store.heartbeat(v, held.id),
        lambda: store.submit(held.id, ranking, "x", guideline=1, by=v),
        lambda: store.held(v, 99),
    ):
        with pytest.raises(Missing, match="there is no such assignment"):
            act()
    mine = store.submit(held.id, ranking, "k", guideline=1, by=u)
    with pytest.raises(Missing, match="there is no such assignment"):  # nor by guessing its key
        store.submit(held.id, ranking, "k", guideline=1, by=v)
    with pytest.raises(Conflict, match="was used for something else"):
        store.submit(other.id, {r.id: 0 for r in other.responses}, "k", guideline=1, by=v)
    for judgement in (mine.id, 99):
        with pytest.raises(Missing, match="there is no such judgement"):
            store.undo(judgement, "undo", by=v)
    undone = store.undo(mine.id, "undo", by=u)
    with pytest.raises(Missing, match="there is no such judgement"):
        store.undo(mine.id, "undo", by=v)
    assert store.history(held.id) == [mine, undone]
    assert store.history(other.id) == []


def test_gold_items_are_strewn_among_the_others_for_everybody(store):
    project = store.add_project("p", settings=Settings(gold_share=0.3))
    ordinary = ask(store, 60, project, overlap=3)
    gold = ask(store, 12, project, first=200, gold=True)
    seen = {name: work_off(store, store.add_user(name), project) for name in ("u", "v", "w")}
    for asked in seen.values():
        assert [i for i in asked if i in ordinary] == ordinary
        assert set(asked) - set(ordinary) == set(gold)  # 26 turns wanted of about 86, and only 12 to give
        assert asked[-1] not in gold  # they end when there is nothing left to hide them among
        early = [n for n, i in enumerate(asked[:30]) if i in gold]
        assert 3 <= len(early) <= 12  # 9 ± 2.4 standard deviations of 2.5
    orders = [[i for i in asked if i in gold] for asked in seen.values()]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert store.claim(store.add_user("x"), project) is None  # nothing but gold is left


def test_gold_items_come_at_the_same_turns_however_many_are_claimed_at_once(store):
    turns = []
    for name, at_once in (("p", 1), ("q", 5)):
        project = store.add_project(name, settings=Settings(gold_share=0.4))
        ask(store, 30, project)
        gold = ask(store, 30, project, first=200, gold=True)
        user, asked = store.add_user("u"), []
        while held := store.claim_many(user, at_once, project=project):
            assert [h.id for h in held] == sorted(h.id for h in held)
            assert len(held) <= at_once
            asked += [answer(store, h).item in gold for h in held]
        assert asked.count(False) == 30
        turns.append(asked)
    assert turns[0] != turns[1]  # the name of the project is in the hash
    assert [sum(t) for t in turns] == pytest.approx([20, 20], abs=11)  # 20 ± 3 standard deviations of 3.7


def test_no_gold_when_the_project_wants_none(store):
    project = store.add_project("p", settings=Settings(gold_share=0.0))
    ordinary = ask(store, 30, project)
    ask(store, 5, project, first=200, gold=True)
    assert work_off(store, store.add_user("u"), project) == ordinary


def test_what_is_asked_already_cannot_become_gold(store):
    ask(store, 1)
    with pytest.raises(InputError, match="is there already, with gold None"):
        ask(store, 1, gold=True)
    gold = ask(store, 1, first=5, gold=True)
    assert ask(store, 1, first=5, gold=True) == ask(store, 1, first=5) == gold  # and stays it
    assert len(store.gold(1)) == 1
    ids = store.add_responses([NewResponse(2, "r0"), NewResponse(2, "r1")])
    with pytest.raises(InputError, match="cannot become"):
        store.add_items([NewItem(ids, gold={ids[0]: 1, ids[1]: 0})])


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (NewItem([1, 2, 3], kind="pair"), "3 responses; kind pair takes 2"),
        (NewItem([1], kind="ranking"), "1 responses; kind ranking takes 2 to 9"),
        (NewItem(range(1, 11)), "10 responses; kind ranking takes 2 to 9"),
        (NewItem([1, 2], kind="edit"), "2 responses; kind edit takes 1"),
        (NewItem([], kind="rating"), "0 responses; kind rating takes 1 to 9"),
        (NewItem([1, 2], kind="quiz"), "kind 'quiz' is none of pair, ranking, rating, edit"),
        (NewItem([1], kind="rating", gold={1: 0}), "only a pair or a ranking can be gold"),
        (NewItem([1, 2], gold={}), "gold: the ranking needs two or more"),
        (NewItem([1, 2], gold={1: 0, 2: 0.5}), "with ranks 0, 1, 2"),
        (NewItem([1, 2], gold={1: 0, 3: 1}), "ranks response 3, which is none of them"),
    ],
)
def test_items_that_make_no_sense_are_refused(store, item, message):
    (prompt,) = store.add_prompts([NewPrompt("p")])
    store.add_responses([NewResponse(prompt, str(n)) for n in range(10)])
    with pytest.raises(InputError, match=message):
        store.add_items([item])


SCALES = Settings(attributes=(Attribute(name="kind"), Attribute(name="true", low=0, high=1)))


def test_a_rating_rates_every_response_by_every_attribute(store):
    project = store.add_project("p", "rating", SCALES)
    (item,) = ask(store, 1, project, shown=1, kind="rating")
    held = store.claim(store.add_user("u"), project)
    (shown,) = held.responses
    for ratings, message in (
        (None, "wants a ratings"),
        ({}, "rate every response shown"),
        ({shown.id: {"kind": 3}}, "by kind, true"),
        ({shown.id: {"kind": 3, "true": 1, "odd": 1}}, "by kind, true"),
        ({shown.id: {"kind": 8, "true": 1}}, "kind of response 1 is 8, not a number 1 to 7"),
        ({shown.id: {"kind": 3, "true": True}}, "is True, not a number 0 to 1"),
        ({shown.id: {"kind": 3, "true": 0}, 7: {"kind": 3, "true": 0}}, "and no other"),
    ):
        with pytest.raises(InputError, match=message):
            answer(store, held, ratings=ratings, correction="x")
    with pytest.raises(InputError, match="takes no ranking"):
        answer(store, held, ratings={shown.id: {"kind": 3, "true": 0}}, ranking={shown.id: 0, 2: 1})
    said = answer(store, held, ratings={shown.id: {"kind": 3, "true": 0}}, flag="Harmful", correction="better")
    assert (said.action, said.ranking, said.ratings) == ("rate", None, {shown.id: {"kind": 3, "true": 0}})
    assert (said.flag, said.correction) == ("Harmful", "better")
    assert store.judgements(Query(items=(item,))) == [said]
    assert store.progress(project).done == 1
    assert store.export() == []  # ratings are no votes on pairs
    assert store.undo(said.id, "undo").action == "undo"
    assert store.progress(project).done == 0


def test_an_edit_wants_a_better_answer(store):
    project = store.add_project("p", "edit")
    ask(store, 1, project, shown=1, kind="edit")
    held = store.claim(store.add_user("u"), project)
    assert held.kind == "edit"
    for more, message in (
        ({"correction": " \n"}, "the correction is empty"),
        ({"ratings": {1: {"kind": 1}}}, "wants a correction"),
        ({"correction": "a\ud800"}, "half of a character"),
        ({"correction": "x", "skip": "y"}, "either an answer"),
    ):
        with pytest.raises(InputError, match=message):
            answer(store, held, **more)
    said = answer(store, held, correction="As it should be.")
    assert (said.action, said.correction, store.progress(project).done) == ("edit", "As it should be.", 1)


def test_a_pair_takes_ratings_and_a_correction_beside_its_ranking(store):
    project = store.add_project("p", settings=SCALES)
    ask(store, 1, project)
    ask(store, 1)
    user = store.add_user("u")
    held = store.claim(user, project)
    ratings = {r.id: {"kind": 7, "true": 1} for r in held.responses}
    ranking = {r.id: 0 for r in held.responses}
    with pytest.raises(InputError, match="wants a ranking"):
        answer(store, held, ratings=ratings)
    said = answer(store, held, ratings=ratings, ranking=ranking, correction="neither")
    assert (said.action, said.ratings, said.correction) == ("rank", ratings, "neither")
    with pytest.raises(InputError, match="its project rates no attributes"):
        answer(store, store.claim(user), ratings=ratings, ranking=ranking)


def test_a_skip_may_say_what_is_wrong_with_the_item(store):
    ask(store, 1)
    said = answer(store, store.claim(store.add_user("u")), skip="I would rather not read this", flag="Harmful")
    assert (said.action, said.flag) == ("skip", "Harmful")


def test_what_cannot_be_kept_is_shown_as_a_replacement(store):
    (prompt,) = store.add_prompts([NewPrompt("a\0b", [{"role": "user", "content": "a\0b"}])])
    ids = store.add_responses([NewResponse(prompt, "c\ud800d", meta={"odd": "\0"}), NewResponse(prompt, "e")])
    store.add_items([NewItem(ids)])
    held = store.claim(store.add_user("u"))
    assert (held.prompt, {r.text for r in held.responses}) == ("a\ufffdb", {"c\ufffdd", "e"})
    assert held.messages == ({"role": "user", "content": "a\ufffdb"},)
    assert store.add_responses([NewResponse(prompt, "c\ud800d"), NewResponse(prompt, "c\ufffdd")]) == [ids[0], 3]
    for add in (store.add_guideline, store.add_user):
        with pytest.raises(InputError, match="contains NUL"):
            add("a\0b")
