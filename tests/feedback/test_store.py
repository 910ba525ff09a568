"""The store by itself: what goes in comes out, once, and leases, undo and replay keep their promises."""

from __future__ import annotations

import subprocess
import sys

import pytest
from sqlalchemy import Engine, event, select, update
from tests.feedback.conftest import Clock

from tether.errors import InputError
from tether.feedback import open_store
from tether.feedback.export import Export
from tether.feedback.records import Answer, NewItem, NewPrompt, NewResponse, Query
from tether.feedback.schema import secrets
from tether.feedback.store import Store


@pytest.fixture
def store(database: str, clock: Clock):
    with Store.open(database, clock=clock, lease=60) as opened:
        yield opened


def pairs(store: Store, num: int = 1, overlap: int = 2, responses: int = 2) -> list[int]:
    prompts = store.add_prompts([NewPrompt(f"prompt {i}", token_ids=[i, 1]) for i in range(num)])
    new = [NewResponse(p, f"answer {k}", [p, k], checkpoint="sft") for p in prompts for k in range(responses)]
    ids = store.add_responses(new)
    return store.add_items([NewItem(ids[i * responses : (i + 1) * responses], overlap) for i in range(num)])


def vote(store: Store, user: int, best: int | None = None, key: str | None = None, **more):
    """Claim the next item and prefer response `best`, or the one with the lowest id."""
    claimed = store.claim(user)
    assert claimed is not None
    ids = sorted(r.id for r in claimed.responses)
    best = ids[0] if best is None else best
    ranking = {i: int(i != best) for i in ids}
    return store.submit(claimed.id, ranking, key or f"{user}/{claimed.item}", guideline=1, **more)


def test_ranking_comes_back_as_given_whatever_the_side_it_was_shown_on(store):
    store.add_guideline("Prefer the kinder one.")
    (item,) = pairs(store, overlap=8, responses=4)
    orders = set()
    for name in "abcdefgh":
        claimed = store.claim(store.add_user(name))
        ids = sorted(r.id for r in claimed.responses)
        ranking = {ids[0]: 3, ids[1]: 1, ids[2]: 1, ids[3]: 0}  # a tie in the middle; ranks as the user gave them
        stored = store.submit(claimed.id, ranking, name, guideline=1)
        orders.add(stored.shown)
        assert stored.shown == tuple(r.id for r in claimed.responses)
        assert {r.id: r.text for r in claimed.responses} == {i: f"answer {k}" for k, i in enumerate(ids)}
    found = store.judgements(Query(items=(item,)))
    assert [j.ranking for j in found] == [ranking] * 8
    assert len(orders) > 3  # eight annotators, 24 orders


def test_partial_rankings_strength_all_bad_and_skips_come_back(store):
    store.add_guideline("g")
    pairs(store, overlap=3, responses=3)
    a, b, c = (store.add_user(n) for n in "abc")
    first = store.claim(a)
    ids = [r.id for r in first.responses]
    got = store.submit(
        first.id, {ids[2]: 0, ids[0]: 1}, "a", guideline=1, strength=2.5, all_bad=True, rationale="why", seconds=7.5
    )
    assert (got.ranking, got.strength, got.all_bad) == ({ids[2]: 0, ids[0]: 1}, 2.5, True)
    assert (got.rationale, got.seconds) == ("why", 7.5)
    skip = store.submit(store.claim(b).id, None, "b", guideline=1, skip="cannot read it")
    assert (skip.action, skip.skip, skip.ranking) == ("skip", "cannot read it", None)
    assert store.claim(b) is None  # what was skipped doesn't return
    vote(store, c)
    assert len(store.judgements()) == 3


def test_overlap_is_kept_by_live_leases_and_given_back_by_expired_ones(store, clock):
    store.add_guideline("g")
    pairs(store, overlap=2)
    a, b, c = (store.add_user(n) for n in "abc")
    held_a, held_b = store.claim(a), store.claim(b)
    assert store.claim(c) is None
    clock.now += 30
    assert store.claim(a).id == held_a.id  # the same again, renewed
    clock.now += 45  # b's lease has ended, a's has not
    held_c = store.claim(c)
    assert held_c is not None
    store.submit(held_c.id, _first_best(held_c), "c", guideline=1)
    with pytest.raises(InputError, match="time ran out"):
        store.submit(held_b.id, _first_best(held_b), "b", guideline=1)
    store.submit(held_a.id, _first_best(held_a), "a", guideline=1)
    assert [j.user for j in store.judgements()] == [c, a]


def test_a_late_answer_is_taken_while_nobody_else_has_the_place(store, clock):
    store.add_guideline("g")
    pairs(store, overlap=1)
    late = store.claim(store.add_user("a"))
    clock.now += 1e6
    assert store.submit(late.id, _first_best(late), "a", guideline=1).user == 1


def _first_best(claimed) -> dict[int, int]:
    return {r.id: rank for rank, r in enumerate(claimed.responses)}


def test_nobody_gets_an_item_twice_and_everybody_gets_every_item(store):
    store.add_guideline("g")
    items = pairs(store, num=7, overlap=3)
    users = [store.add_user(n) for n in "abc"]
    for user in users:
        assert [vote(store, user).item for _ in items] == items
        assert store.claim(user) is None
    store.add_items([NewItem(_responses(store, items[3]), overlap=4)])  # a fourth opinion on one
    assert all(store.claim(user) is None for user in users)
    assert store.claim(store.add_user("d")).item == items[3]


def _responses(store: Store, item: int) -> list[int]:
    return list(store.judgements(Query(items=(item,)))[0].shown)


def test_adding_again_adds_nothing(store):
    first = pairs(store, num=3)
    assert pairs(store, num=3) == first
    assert pairs(store, num=4)[:3] == first
    assert store.add_guideline("g") == store.add_guideline("g") == 1
    assert store.add_guideline("h") == 2
    assert store.add_user("a", "ai") == store.add_user("a", "ai")
    p = store.add_prompts([NewPrompt("x"), NewPrompt("y"), NewPrompt("x")])
    assert p[0] == p[2] != p[1]
    assert store.add_prompts([NewPrompt("x", token_ids=[1])]) != [p[0]]  # tokens are the truth
    kinds = [{"ended": False}, {"checkpoint": "rl"}, {"sampling": {"seed": 1}}, {"token_ids": [5]}, {}]
    assert len(set(store.add_responses([NewResponse(p[0], "r", **k) for k in kinds]))) == len(kinds)


def test_replay_returns_the_first_answer(store):
    store.add_guideline("g")
    pairs(store, num=2, overlap=1)
    user = store.add_user("a")
    first = vote(store, user, key="k")
    ids = list(first.ranking)
    again = store.submit(first.assignment, dict.fromkeys(ids, 0), "k", guideline=1, strength=3)
    assert again == first
    other = store.claim(user)
    with pytest.raises(InputError, match="something else"):
        store.submit(other.id, _first_best(other), "k", guideline=1)
    twice = Answer(other.id, "z", 1, _first_best(other))
    assert store.submit_many([twice, twice])[0] == store.submit_many([twice])[0]
    assert len(store.judgements()) == 2


def test_undo_is_a_revision_and_opens_the_item_again(store):
    store.add_guideline("g")
    pairs(store, overlap=1)
    a, b = store.add_user("a"), store.add_user("b")
    first = vote(store, a, strength=1.0)
    before = store.last_judgement()
    undone = store.undo(first.id, "u")
    assert (undone.action, undone.revision, undone.supersedes, undone.ranking) == ("undo", 1, first.id, None)
    assert store.undo(first.id, "u") == undone  # replay
    with pytest.raises(InputError, match="something else"):
        store.submit(first.assignment, first.ranking, "u", guideline=1)
    assert store.judgements() == []
    assert store.claim(b) is None  # the place is held for who took it back
    with pytest.raises(InputError, match="not one in force"):
        store.undo(first.id, "v")
    with pytest.raises(InputError, match="not one in force"):
        store.undo(undone.id, "v")
    for key in ("", "k" * 101, "half \ud800"):
        with pytest.raises(InputError, match=r"submit.key"):
            store.undo(first.id, key)
    second = vote(store, a, key="again", best=max(first.ranking))
    assert (second.revision, second.supersedes) == (2, undone.id)
    assert store.judgements() == [second]
    assert store.history(first.assignment) == [first, undone, second]
    assert store.judgements(Query(until=before)) == [first]  # the past stays what it was


def test_undoing_a_skip_waits_for_a_place(store):
    store.add_guideline("g")
    pairs(store, overlap=1)
    a, b = store.add_user("a"), store.add_user("b")
    skipped = store.submit(store.claim(a).id, None, "s", guideline=1, skip="tired")
    answer = vote(store, b)
    store.undo(skipped.id, "u")
    assert store.claim(a) is None
    store.undo(answer.id, "w")
    assert store.claim(a) is None  # b's place is held again
    vote(store, b, key="b2")
    assert [j.user for j in store.judgements()] == [b]


def test_undoing_a_skip_returns_the_item_when_there_is_a_place(store):
    store.add_guideline("g")
    pairs(store, overlap=1)
    a = store.add_user("a")
    skipped = store.submit(store.claim(a).id, None, "s", guideline=1, skip="tired")
    store.undo(skipped.id, "u")
    assert vote(store, a, key="t").action == "rank"


def test_a_bad_answer_among_many_stores_none(store):
    store.add_guideline("g")
    pairs(store, num=3, overlap=1)
    held = store.claim_many(store.add_user("a"), 3)
    answers = [Answer(h.id, str(h.id), 1, _first_best(h)) for h in held]
    with pytest.raises(InputError, match="response 999 was not shown"):
        store.submit_many([*answers[:2], Answer(held[2].id, "x", 1, {999: 0, held[2].responses[0].id: 1})])
    assert store.judgements() == []
    assert [j.id for j in store.submit_many(answers)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"ranking": None}, "either an answer .* or a reason"),
        ({"skip": "no"}, "either an answer .* or a reason"),
        ({"ranking": None, "skip": ""}, "either an answer .* or a reason"),
        ({"ranking": None, "skip": "x", "strength": 1.0}, "a skip has no strength"),
        ({"ranking": {1: 0}}, "two or more responses"),
        ({"ranking": {1: 0, 2: -1}}, "ranks 0, 1, 2"),
        ({"ranking": {1: 0, 2: True}}, "ranks 0, 1, 2"),
        ({"ranking": {1: 0, 77: 1}}, "response 77 was not shown"),
        ({"strength": 3.1}, "not between 0 and 3"),
        ({"strength": float("nan")}, "not between 0 and 3"),
        ({"seconds": float("inf")}, "no length of time"),
        ({"submit_key": ""}, "submit key"),
        ({"guideline": 9}, "guideline 9"),
        ({"assignment": 99}, "no such assignment"),
    ],
)
def test_an_answer_that_makes_no_sense_is_refused_by_name(store, more, message):
    store.add_guideline("g")
    pairs(store)
    claimed = store.claim(store.add_user("a"))
    good = {"assignment": claimed.id, "submit_key": "k", "guideline": 1, "ranking": {1: 0, 2: 1}}
    with pytest.raises(InputError, match=message):
        store.submit_many([Answer(**{**good, **more})])
    assert store.submit_many([Answer(**good)])[0].id == 1
    with pytest.raises(InputError, match="answered already"):
        store.submit_many([Answer(**{**good, "submit_key": "other"})])


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda s: s.add_items([NewItem([1])]), "two or more different"),
        (lambda s: s.add_items([NewItem([1, 1])]), "two or more different"),
        (lambda s: s.add_items([NewItem([1, 3])]), "different prompts"),
        (lambda s: s.add_items([NewItem([1, 50])]), "no response 50"),
        (lambda s: s.add_items([NewItem([1, 2], overlap=0)]), "at least 1"),
        (lambda s: s.add_responses([NewResponse(9, "x")]), "no prompt 9"),
        (lambda s: s.add_user("", "human"), "1 to 200"),
        (lambda s: s.add_user("x", "robot"), "none of human, ai, simulated"),
        (lambda s: (s.add_user("x"), s.add_user("x", "ai")), "is of kind human"),
        (lambda s: s.claim(42), "no user with this id"),
        (lambda s: s.export(how=Export(margin="guess")), "none of log_odds, strength"),
        (lambda s: s.export(how=Export(held_out=1.0)), "below 1"),
    ],
)
def test_bad_input_is_one_sentence(store, act, message):
    pairs(store, num=2)
    with pytest.raises(InputError, match=message):
        act(store)


@pytest.mark.parametrize(
    "act",
    [
        lambda s: s.claim(2**70),
        lambda s: s.claim(1, 2**70),
        lambda s: s.claim_many(1, 1, among=[2**70]),
        lambda s: s.held(1, 2**70),
        lambda s: s.heartbeat(1, 2**70),
        lambda s: s.submit(2**70, {1: 0, 2: 1}, "k", guideline=1),
        lambda s: s.submit(1, {1: 0, 2: 1}, "k", guideline=2**70),
        lambda s: s.undo(2**70, "k"),
        lambda s: s.adjudicate(2**70, 1, {1: 0, 2: 1}, "k", guideline=1),
        lambda s: s.mine(1, 1, before=2**70),
        lambda s: s.judgements(Query(users=(2**70,))),
        lambda s: s.add_project("half \ud800"),
    ],
)
def test_what_no_database_holds_is_refused(store, act):
    store.add_user("a")
    with pytest.raises(InputError, match=r"too large for the database|there is no"):
        act(store)
    assert store.add_user("b") == 2  # and nothing is stuck


@pytest.mark.parametrize("package", ["sqlalchemy", "alembic"])
def test_without_its_packages_the_error_names_the_extra(package, tmp_path):
    script = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from tether.errors import InputError\nfrom tether.feedback import open_store\n"
        "try: open_store(sys.argv[1])\nexcept InputError as error: print(error)"
    )
    told = subprocess.run([sys.executable, "-c", script, str(tmp_path / "s.db")], capture_output=True, text=True)
    assert told.stdout.strip() == f"the preference store needs the package {package}: pip install 'tether-rlhf[demo]'"


def test_open_store_makes_one(tmp_path):
    with open_store(tmp_path / "s.db") as store:
        assert store.last_judgement() == 0


def test_queries_choose_by_user_kind_guideline_checkpoint_and_time(store):
    store.add_guideline("g")
    store.add_guideline("h")
    pairs(store, overlap=3)
    person, judge = store.add_user("p"), store.add_user("j", "ai")
    by_person = vote(store, person)
    held = store.claim(judge)
    by_judge = store.submit(held.id, _first_best(held), "j", guideline=2)
    assert store.judgements(Query(user_kinds=("ai",))) == [by_judge]
    assert store.judgements(Query(users=(person,))) == [by_person]
    assert store.judgements(Query(guidelines=(2,))) == [by_judge]
    assert store.judgements(Query(checkpoints=("sft",))) == [by_person, by_judge]
    assert store.judgements(Query(checkpoints=("rl",))) == []
    assert store.judgements(Query(items=(99,))) == []
    assert store.judgements(Query(until=by_person.id)) == [by_person]


def test_a_vote_takes_few_statements_and_sixty_at_once_no_more_than_five(store):
    """What makes hundreds of votes a second; benchmarks/annotate.py measures the rates, which other work changes."""
    store.add_guideline("g")
    pairs(store, num=65, overlap=3)
    users = [store.add_user(n) for n in "abc"]
    asked: list[str] = []

    def heard(_db, _cursor, statement, _parameters, _context, _many) -> None:
        asked.append(statement)

    def taken(work) -> int:
        asked.clear()
        work()
        return len(asked)

    def at_once(user: int, num: int) -> None:
        held = store.claim_many(user, num)
        assert len(held) == num
        store.submit_many([Answer(h.id, f"m{h.id}", 1, _first_best(h)) for h in held])

    event.listen(Engine, "before_cursor_execute", heard)
    try:
        one_by_one = [taken(lambda: vote(store, users[0])) for _ in range(65)]
        at_a_time = [
            taken(lambda num=num, user=user: at_once(user, num)) for user, num in zip(users[1:], (5, 60), strict=True)
        ]
    finally:
        event.remove(Engine, "before_cursor_execute", heard)
    assert max(one_by_one) <= 20
    assert at_a_time[0] == at_a_time[1] <= 20


def test_people_draw_sides_by_a_secret_of_the_store_and_programs_by_their_names(tmp_path):
    orders = []
    for secret in ("0", "1"):
        with Store.open(tmp_path / f"{secret}.db") as store:
            with store.writing() as db:
                db.execute(update(secrets).values(value=secret * 64))
            pairs(store, num=30)
            claimed = [store.claim_many(store.add_user(kind, kind), 30) for kind in ("human", "simulated")]
            orders.append([[[r.text for r in one.responses] for one in of_user] for of_user in claimed])
    (people, programs), (others, same) = orders
    assert people != others
    assert programs == same


def test_every_store_has_a_secret_of_its_own(tmp_path):
    values = set()
    for name in "ab":
        with Store.open(tmp_path / name) as store, store.reading() as db:
            values.add(db.execute(select(secrets.c.value)).scalar_one())
    assert len(values) == 2
    assert {len(value) for value in values} == {64}
