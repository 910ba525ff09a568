"""Asking again what somebody has answered: it shows whether they say the same, and counts as nothing else."""

from __future__ import annotations

import pytest
from sqlalchemy import select
from tests.feedback.test_projects_work import answer, ask, work_off

from tether.feedback.projects import Settings
from tether.feedback.records import Query
from tether.feedback.schema import assignments, items
from tether.feedback.store import Store
from tether.feedback.web.figures import figures

OFTEN = Settings(repeat_share=0.2, gold_share=0.0, lease=60, overlap=1)


@pytest.fixture
def store(database, clock):
    with Store.open(database, clock=clock) as opened:
        opened.add_guideline("g")
        yield opened


def role_of(store: Store, assignment: int) -> str:
    with store.reading() as db:
        return str(db.execute(select(assignments.c.role).where(assignments.c.id == assignment)).scalar_one())


def until_asked_again(store: Store, user: int, project: int):
    """Answers by the texts until the task in hand is a repeat."""
    while held := store.claim(user, project):
        if role_of(store, held.id) == "repeat":
            return held
        answer(store, held, ranking={r.id: int(r.text != "r0") for r in held.responses})
    raise AssertionError("nothing was asked again")


def test_some_items_come_again_once_long_after_and_among_others(store):
    project = store.add_project("p", settings=OFTEN)
    ordinary = ask(store, 150, project)
    user = store.add_user("u")
    asked = work_off(store, user, project)
    again = [at for at, item in enumerate(asked) if item in asked[:at]]
    assert sorted(set(asked)) == ordinary
    assert len(asked) == 150 + len(again)
    assert len({asked[at] for at in again}) == len(again)  # none a third time
    assert len(again) == pytest.approx(0.2 * (len(asked) - 20), abs=17)  # ± 3 standard deviations of 5.5
    assert all(at - asked.index(asked[at]) > 20 for at in again)
    assert again[-1] < len(asked) - 1 or asked[-1] in ordinary  # hidden among ordinary ones
    with store.reading() as db:
        orders = {}
        for row in db.execute(select(assignments)):
            orders.setdefault(row.item_id, []).append(tuple(row.shown))
    turned = [one != other for one, other in (shown for shown in orders.values() if len(shown) == 2)]
    assert 0 < sum(turned) < len(turned)  # the sides are drawn anew


def test_repeats_are_no_votes(store):
    project = store.add_project("p", settings=OFTEN)
    ask(store, 60, project)
    user = store.add_user("u")
    held = until_asked_again(store, user, project)
    before = store.progress(project)
    answer(store, held, ranking={r.id: int(r.text == "r0") for r in held.responses})  # the other way round
    after = store.progress(project)
    assert (after.answers, after.by_user) == (before.answers, before.by_user)
    assert held.item not in {d.item for d in store.disputed(project)}
    (row,) = store.export(Query(projects=(project,), items=(held.item,)))
    assert (row["chosen"], row["votes"]) == ("r0", {"chosen": 1, "rejected": 0, "ties": 0})
    with store.reading() as db:
        assert db.execute(select(items.c.done).where(items.c.id == held.item)).scalar_one() == 1
    assert store.mine(user, project, 1)[0].judgement.item == held.item  # who looks back sees both answers


def test_a_repeat_takes_no_place_and_loses_none(store, clock):
    project = store.add_project("p", settings=OFTEN)
    ask(store, 60, project, overlap=2)
    ann, bob = store.add_user("ann"), store.add_user("bob")
    held = until_asked_again(store, ann, project)
    assert store.claim(ann, project).id == held.id  # it stays theirs
    assert held.item in work_off(store, bob, project)  # and keeps nobody from the item, which is full now
    clock.forward(100)
    assert store.heartbeat(ann, held.id) == clock.now + 60
    clock.forward(100)
    assert store.claim(ann, project).id == held.id
    said = answer(store, held)
    assert store.undo(said.id, "u", by=ann).action == "undo"
    with store.reading() as db:
        assert db.execute(select(items.c.done).where(items.c.id == held.item)).scalar_one() == 2
    assert store.claim(ann, project).id == held.id
    store.submit(held.id, None, "again", guideline=1, skip="no")
    assert store.claim(ann, project).id != held.id


@pytest.mark.parametrize(("steady", "same"), [(True, 1.0), (False, 0.0)])
def test_the_share_of_the_same_answers_is_told(store, steady, same):
    project = store.add_project("p", settings=OFTEN)
    ask(store, 80, project)
    user, repeats = store.add_user("u"), 0
    while held := store.claim(user, project):
        again = role_of(store, held.id) == "repeat"
        repeats += again
        best = "r1" if again and not steady else "r0"
        answer(store, held, ranking={r.id: int(r.text != best) for r in held.responses})
    with store.reading() as db:
        row = figures(db, project, 0.0).quality[user]
    assert repeats > 5
    assert (row.repeats, row.consistency.estimate) == (repeats, same)


@pytest.mark.parametrize(("kind", "share"), [("human", 0.0), ("simulated", 0.2), ("ai", 0.2)])
def test_only_people_are_asked_again_and_only_where_the_project_wants_it(store, kind, share):
    project = store.add_project("p", settings=Settings(repeat_share=share))
    ordinary = ask(store, 60, project)
    assert work_off(store, store.add_user("u", kind), project) == ordinary
