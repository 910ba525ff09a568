"""Random histories of claims, answers, skips, replays, undos and passing time: the invariants hold after each step."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import select

from tether.errors import InputError
from tether.feedback.records import Assignment, Judgement, NewItem, NewPrompt, NewResponse, Query
from tether.feedback.schema import assignments, items
from tether.feedback.store import Store

LEASE, OVERLAPS, USERS = 10.0, (1, 2, 2), 4


def _template() -> Path:
    """A store with three pairs and four users, made once."""
    file = Path(tempfile.mkdtemp()) / "template.db"
    with Store.open(file) as store:
        store.add_guideline("g")
        (prompt,) = store.add_prompts([NewPrompt("p")])
        ids = store.add_responses([NewResponse(prompt, t) for t in "ABCDEF"])
        store.add_items([NewItem(ids[2 * i : 2 * i + 2], n) for i, n in enumerate(OVERLAPS)])
        for i in range(USERS):
            store.add_user(f"user {i}")
    return file


TEMPLATE = _template()


class Histories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        file = Path(self.folder.name) / "s.db"
        shutil.copy(TEMPLATE, file)
        self.now = 100.0
        self.store = Store.open(file, clock=lambda: self.now, lease=LEASE)
        self.claims: dict[int, Assignment] = {}
        self.said: list[Judgement] = []
        self.exports: dict[int, list[object]] = {}

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    @rule(user=st.integers(1, USERS), limit=st.integers(1, 3))
    def claim(self, user: int, limit: int) -> None:
        for claim in self.store.claim_many(user, limit):
            assert claim.expires == self.now + LEASE
            self.claims[claim.id] = claim

    @rule(by=st.sampled_from([1.0, 6.0, 11.0]))
    def wait(self, by: float) -> None:
        self.now += by

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), skip=st.integers(0, 4).map(lambda n: n == 0), turned=st.booleans())
    def answer(self, data: st.DataObject, skip: bool, turned: bool) -> None:
        claim = self.claims[data.draw(st.sampled_from(sorted(self.claims)))]
        ids = [r.id for r in claim.responses]
        ranking = None if skip else {ids[turned]: 0, ids[not turned]: 1}
        state = self._state(claim.id)
        try:
            new = self.store.submit(
                claim.id, ranking, f"key {len(self.said)}", guideline=1, skip="why" if skip else None
            )
        except InputError:
            assert state != ("open", True)  # a live lease is never refused
        else:
            assert state[0] == "open"
            assert (new.id, new.ranking) == (len(self.said) + 1, ranking)
            self.said.append(new)

    @precondition(lambda self: self.said)
    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        old = data.draw(st.sampled_from([j for j in self.said if j.action != "undo"]))
        again = self.store.submit(old.assignment, None, old.submit_key, guideline=1, skip="something else")
        assert again == old

    @precondition(lambda self: self.said)
    @rule(data=st.data())
    def undo(self, data: st.DataObject) -> None:
        old = data.draw(st.sampled_from(self.said))
        in_force = old in self.store.judgements()
        try:
            new = self.store.undo(old.id, f"key {len(self.said)}")
        except InputError:
            assert not in_force
        else:
            assert in_force
            assert (new.id, new.supersedes) == (len(self.said) + 1, old.id)
            self.said.append(new)

    def _state(self, assignment: int) -> tuple[str, bool]:
        with self.store._engine.connect() as db:
            row = db.execute(select(assignments).where(assignments.c.id == assignment)).one()
        return row.state, row.expires > self.now

    @invariant()
    def places_are_never_overbooked(self) -> None:
        with self.store._engine.connect() as db:
            held = db.execute(select(assignments)).all()
            done = {row.id: row.done for row in db.execute(select(items.c.id, items.c.done))}
        assert len({(a.item_id, a.user_id) for a in held}) == len(held)
        given = [j for j in self.store.judgements() if j.action == "rank"]
        for item, overlap in enumerate(OVERLAPS, start=1):
            live = sum(a.item_id == item and a.state == "open" and a.expires > self.now for a in held)
            assert done[item] == sum(j.item == item for j in given) == len({j.user for j in given if j.item == item})
            assert done[item] + live <= overlap

    @invariant()
    def the_past_stays(self) -> None:
        assert self.store.last_judgement() == len(self.said)
        told = {j.id: j for a in {j.assignment for j in self.said} for j in self.store.history(a)}
        assert [told[i + 1] for i in range(len(self.said))] == self.said
        for until in (len(self.said) // 2, len(self.said)):
            rows = self.store.export(Query(until=until))
            assert self.exports.setdefault(until, rows) == rows


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=10, stateful_step_count=40, deadline=None)
