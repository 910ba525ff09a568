"""Random histories of a project: claims, heartbeats, answers, skips, replays, undos, last words, passing time, pauses.

Before each step the test works out from the tables alone what must happen; after each, the invariants hold.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import delete, select, update
from tests.feedback.conftest import Clock

from tether.feedback import claims
from tether.feedback.projects import Settings
from tether.feedback.records import Assignment, Conflict, Judgement, Missing, NewItem, NewPrompt, NewResponse, Query
from tether.feedback.schema import AnyRow, assignments, items, judgements, projects
from tether.feedback.store import Store

LEASE, USERS, ADMINS = 10.0, (1, 2, 3), (3, 4)
OVERLAPS = (1, 1, 2, 2, 2, 3)
PLAN = Settings(lease=LEASE, gold_share=0.3, repeat_share=0.2)


CLOCK = Clock(100.0)


def set_up(store: Store) -> int:
    """A project of six pairs and two gold ones, with three annotators and two admins, one of them an annotator."""
    store.add_guideline("g")
    project = store.add_project("p2543", settings=PLAN)  # a name by which many turns are drawn for repeats
    (prompt,) = store.add_prompts([NewPrompt("p")])
    ids = store.add_responses([NewResponse(prompt, t) for t in "ABCDEFGHIJKLMNOP"])
    new = [NewItem(ids[2 * i : 2 * i + 2], n, project=project) for i, n in enumerate(OVERLAPS)]
    gold = [NewItem(ids[i : i + 2], project=project, gold={ids[i]: 0, ids[i + 1]: 1}) for i in (12, 14)]
    store.add_items([*new, *gold])
    for i in range(4):
        store.add_user(f"user {i}")
    return project


class Tables:
    """What is in the database at one moment, and what follows from it."""

    def __init__(self, store: Store, now: float) -> None:
        self.now = now
        with store.reading() as db:
            self.items = {row.id: row for row in db.execute(select(items))}
            self.held = {row.id: row for row in db.execute(select(assignments))}
            self.said = db.execute(select(judgements).order_by(judgements.c.id)).all()

    def live(self, item: int, but: int = 0) -> int:
        """Leases of the item that have not ended, those of user `but` aside."""
        others = [row for row in self.held.values() if row.item_id == item and row.user_id != but]
        return sum(self._is_live(row) for row in others if row.role == "annotate")

    def has_place(self, item: int, user: int) -> bool:
        return self.items[item].done + self.live(item, but=user) < self.items[item].overlap

    def can_answer(self, row: AnyRow) -> bool:
        if row.role == "repeat":  # it takes no place
            return row.state == "open"
        return row.state == "open" and (self._is_live(row) or self.has_place(row.item_id, row.user_id))

    def can_claim(self, user: int) -> list[int]:
        """Ordinary items that the user never had, with a place."""
        had = {row.item_id for row in self.held.values() if row.user_id == user}
        return [i for i, row in self.items.items() if i not in had and row.gold is None and self.has_place(i, user)]

    def in_force(self) -> dict[int, AnyRow]:
        replaced = {row.supersedes for row in self.said}
        return {row.id: row for row in self.said if row.action != "undo" and row.id not in replaced}

    def _is_live(self, row: AnyRow) -> bool:
        return bool(row.state == "open" and row.expires > self.now)


class Histories(RuleBasedStateMachine):
    store: Store
    project: int
    steps = repeats = 0

    def __init__(self) -> None:
        super().__init__()
        CLOCK.now = 100.0
        with self.store.writing() as db:
            db.execute(delete(judgements))
            db.execute(delete(assignments))
            db.execute(update(items).values(done=0))
            db.execute(update(projects).values(state="open", settings=PLAN.model_dump(mode="json")))
        self.state = "open"
        self.quota: int | None = None
        self.claims: dict[tuple[int, int, str], int] = {}
        self.said: list[Judgement] = []
        self.exports: dict[int, list[Any]] = {}

    def an_assignment(self, data: st.DataObject, now: Tables) -> AnyRow:
        """One that was claimed; mostly one that is open, if there is any."""
        claimed = sorted(self.claims.values())
        opened = [i for i in claimed if now.held[i].state == "open"]
        return now.held[data.draw(st.sampled_from(opened * 4 + claimed))]

    @property
    def tables(self) -> Tables:
        return Tables(self.store, CLOCK.now)

    def keep(self, new: Judgement) -> None:
        assert new.id == len(self.said) + 1
        self.said.append(new)

    def key(self) -> str:
        return f"key {len(self.said)}"

    @rule(user=st.sampled_from(USERS), limit=st.sampled_from([1, 1, 1, 2, 3, 8]))
    def claim(self, user: int, limit: int) -> None:
        before = self.tables
        given = self.store.claim_many(user, limit, project=self.project)
        fresh = [a for a in given if a.id not in before.held]
        assert len(given) <= limit
        for a in given:
            assert (a.expires, a.project, a.user) == (CLOCK.now + LEASE, self.project, user)
            role = self.tables.held[a.id].role
            assert self.claims.setdefault((user, a.item, role), a.id) == a.id  # nobody gets an item twice
            assert role == "annotate" or (user, a.item, "annotate") in self.claims  # but to be asked again, once
        if self.state != "open":
            assert given == []
        done = sum(
            row.state == "done" and row.role == "annotate" and row.user_id == user for row in before.held.values()
        )
        assert not fresh or self.quota is None or done + len(given) <= self.quota
        self.check_strewn(before, user, fresh)
        if self.state == "open" and len(given) < limit and (self.quota is None or done + len(given) < self.quota):
            assert self.tables.can_claim(user) == []  # nothing was held back
            mine = [row for row in before.held.values() if row.user_id == user and row.state == "open"]
            assert {row.id for row in mine if before.can_answer(row)} <= {a.id for a in given}

    @rule(user=st.sampled_from(USERS), turned=st.booleans())
    def work(self, user: int, turned: bool) -> None:
        """One claimed and answered at once, as most are."""
        self.claim(user, 1)
        for a in self.store.claim_many(user, 1, project=self.project):
            first, second = (r.id for r in a.responses)
            self.keep(self.store.submit(a.id, {first: int(turned), second: int(not turned)}, self.key(), guideline=1))

    def check_strewn(self, before: Tables, user: int, fresh: list[Assignment]) -> None:
        again = [a.item in {row.item_id for row in before.held.values() if row.user_id == user} for a in fresh]
        type(self).repeats += sum(again)
        strewn = [r or before.items[a.item].gold is not None for r, a in zip(again, fresh, strict=True)]
        if any(strewn):  # when the last one was chosen, an ordinary item was still to be had
            last = len(strewn) - 1 - strewn[::-1].index(True)
            assert len(before.can_claim(user)) > strewn[:last].count(False)

    @rule(by=st.sampled_from([1.0, 6.0, 11.0, 11.0]))
    def wait(self, by: float) -> None:
        CLOCK.now += by

    @rule(state=st.sampled_from(["open"] * 6 + ["paused", "closed"]))
    def change_state(self, state: Any) -> None:
        self.state = state
        self.store.change_project(self.project, state=state)

    @rule(quota=st.sampled_from([None] * 6 + [1, 2, 4]))
    def change_quota(self, quota: int | None) -> None:
        self.quota = quota
        self.store.change_project(self.project, settings=PLAN.model_copy(update={"quota": quota}))

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), user=st.sampled_from((None, *USERS)))
    def heartbeat(self, data: st.DataObject, user: int | None) -> None:
        before = self.tables
        row = self.an_assignment(data, before)
        user = user or row.user_id
        try:
            until = self.store.heartbeat(user, row.id)
        except Missing:
            assert user != row.user_id
        except Conflict:
            assert not before.can_answer(row)
        else:
            assert (user, until) == (row.user_id, CLOCK.now + LEASE)
            assert before.can_answer(row)
            assert self.tables.held[row.id].expires == until

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), skip=st.sampled_from([None, None, "why"]), turned=st.booleans())
    def answer(self, data: st.DataObject, skip: str | None, turned: bool) -> None:
        before = self.tables
        row = self.an_assignment(data, before)
        ranking = None if skip else {row.shown[turned]: 0, row.shown[not turned]: 1}
        try:
            new = self.store.submit(row.id, ranking, self.key(), guideline=1, skip=skip, by=row.user_id)
        except Conflict:
            assert row.state != "open" or not (skip or before.can_answer(row))
        else:
            assert row.state == "open"
            assert skip or before.can_answer(row)
            assert (new.action, new.ranking, new.user) == ("skip" if skip else "rank", ranking, row.user_id)
            self.keep(new)

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def answer_for_another(self, data: st.DataObject) -> None:
        row = self.tables.held[data.draw(st.sampled_from(sorted(self.claims.values())))]
        with pytest.raises(Missing):
            self.store.submit(row.id, dict.fromkeys(row.shown, 0), self.key(), guideline=1, by=row.user_id % 3 + 1)

    @precondition(lambda self: self.said)
    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        old = data.draw(st.sampled_from(self.said))
        if old.action == "undo":
            again = self.store.undo(old.supersedes or 0, old.submit_key)
        elif old.action == "adjudicate":
            again = self.store.adjudicate(old.item, old.user, {}, old.submit_key, guideline=1)
        else:
            again = self.store.submit(old.assignment, None, old.submit_key, guideline=1, skip="something else")
        assert again == old

    @precondition(lambda self: self.said)
    @rule(data=st.data(), by=st.sampled_from((None, None, *USERS)))
    def undo(self, data: st.DataObject, by: int | None) -> None:
        before = self.tables
        in_force = before.in_force()
        old = data.draw(st.sampled_from([j for j in self.said if j.id in in_force] * 4 + self.said))
        try:
            new = self.store.undo(old.id, self.key(), by=by)
        except Missing:
            assert by not in (None, old.user)
        except Conflict:
            assert old.id not in in_force
        else:
            assert by in (None, old.user)
            assert old.id in in_force
            assert (new.action, new.supersedes) == ("undo", old.id)
            self.keep(new)

    @rule(item=st.integers(1, len(OVERLAPS)), user=st.sampled_from(ADMINS), best=st.sampled_from([0, 1, None]))
    def adjudicate(self, item: int, user: int, best: int | None) -> None:
        before = self.tables
        chain = [j.id for j in before.said if j.item_id == item and before.held[j.assignment_id].role == "adjudicate"]
        pair = (2 * item - 1, 2 * item)
        new = self.store.adjudicate(
            item, user, {r: int(n != best) for n, r in enumerate(pair)}, self.key(), guideline=1
        )
        assert new.supersedes == max(chain, default=None)
        assert self.store.adjudications()[item] == new
        assert self.tables.items == before.items  # it takes no place, and gives none
        self.keep(new)

    @rule(data=st.data())
    def export(self, data: st.DataObject) -> None:
        until = data.draw(st.integers(0, len(self.said)))
        rows = self.store.export(Query(until=until))
        assert self.exports.setdefault(until, rows) == rows  # whatever happened since
        assert {row["ids"]["item"] for row in rows} <= {r.key for r in self.tables.items.values() if r.gold is None}
        words = {j.supersedes for j in self.said[:until]}
        settled = {j.item for j in self.said[:until] if j.action == "adjudicate" and j.id not in words}
        told = {row["ids"]["item"] for row in rows if row["adjudicated"]}
        assert told <= {self.tables.items[i].key for i in settled}

    @invariant()
    def the_promises_hold(self) -> None:
        type(self).steps += 1
        now = self.tables
        ranked = [row for row in now.in_force().values() if row.action == "rank"]
        given = [row for row in ranked if now.held[row.assignment_id].role == "annotate"]
        answers = Counter(row.item_id for row in given)
        for item, row in now.items.items():
            assert row.done == answers[item] == len({j.user_id for j in given if j.item_id == item})
            assert row.done + now.live(item) <= row.overlap
        states = {"rank": "done", "skip": "skipped", "undo": "open"}
        newest = {row.assignment_id: row for row in now.said}
        for row in now.held.values():
            if row.role == "adjudicate":
                assert row.state == "done"
            else:
                assert row.state == (states[newest[row.id].action] if row.id in newest else "open")
        # What was said stays said, in the order it was said.
        assert [(r.id, r.submit_key, r.action, r.ranking, r.supersedes) for r in now.said] == [
            (j.id, j.submit_key, j.action, j.ranking and {str(r): k for r, k in j.ranking.items()}, j.supersedes)
            for j in self.said
        ]


@pytest.fixture
def machine(database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Histories]]:
    with Store.open(database, clock=CLOCK) as opened:

        class OnThisDatabase(Histories):
            store, project, steps, repeats = opened, set_up(opened), 0, 0

        monkeypatch.setattr(claims, "_APART", 1)
        yield OnThisDatabase


def test_random_histories_keep_the_promises(machine):
    """With TETHER_HISTORIES=110, ten thousand steps on each database; by default, 1,500."""
    num = int(os.environ.get("TETHER_HISTORIES", "15"))
    run_state_machine_as_test(machine, settings=settings(max_examples=num, stateful_step_count=100, deadline=None))
    print(machine.steps, "steps,", machine.repeats, "items asked again")
    assert machine.steps >= 75 * num
    assert machine.repeats > 0
