"""Several real processes on one database, some of them killed: the promises of the store's first lines."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time

import pytest
from sqlalchemy import select

from tether.feedback.records import NewItem, NewPrompt, NewResponse
from tether.feedback.schema import items, judgements
from tether.feedback.store import Store

LEASE = 0.5  # where annotators are killed; a slow machine lets some living ones run late too
LABEL = """
import random, sys, time
from tether.errors import InputError
from tether.feedback.store import Store
store = Store.open(sys.argv[1], lease=float(sys.argv[3]))
user, rng = store.add_user(sys.argv[2]), random.Random(sys.argv[2])
num_done = 0
while claims := store.claim_many(user, rng.randint(1, 4)):
    for claim in claims:
        if num_done == int(sys.argv[5]):
            time.sleep(3600)  # to be killed
        time.sleep(float(sys.argv[4]))
        key = f"{user}/{claim.item}"
        ranking = {r.id: rank for rank, r in enumerate(claim.responses)}
        try:
            for _ in range(1 + (rng.random() < 0.2)):  # some answers are sent twice
                done = store.submit(claim.id, ranking, key, guideline=1)
        except InputError as late:
            assert "time ran out" in str(late)
        else:
            print(done.id, key, flush=True)
            num_done += 1
"""


def ask(where: str, num: int, overlap: int) -> None:
    with Store.open(where) as store:
        store.add_guideline("g")
        prompts = store.add_prompts([NewPrompt(f"p{i}") for i in range(num)])
        ids = store.add_responses([NewResponse(p, t) for p in prompts for t in "AB"])
        store.add_items([NewItem(ids[2 * i : 2 * i + 2], overlap) for i in range(num)])


def annotate(where: str, name: str, lease: float = 600, pace: float = 0, most: int = -1) -> subprocess.Popen[str]:
    """Answers all there is, or waits to be killed after `most`."""
    command = [sys.executable, "-c", LABEL, where, name, str(lease), str(pace), str(most)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def acknowledged(worker: subprocess.Popen[str]) -> dict[int, str]:
    lines = worker.communicate(timeout=250)[0].splitlines(keepends=True)
    told = [line.split() for line in lines if line.endswith("\n")]
    return {int(number): key for number, key in told}


def check_all_done(where: str, num: int, overlap: int, told: dict[int, str]) -> None:
    with Store.open(where) as store, store.reading() as db:
        rows = db.execute(select(judgements)).all()
        done = list(db.scalars(select(items.c.done)))
        if db.dialect.name == "sqlite":
            assert db.exec_driver_sql("PRAGMA integrity_check").scalars().all() == ["ok"]
    stored = {row.id: row.submit_key for row in rows}
    votes = {(row.item_id, row.user_id) for row in rows}
    assert told.items() <= stored.items()  # nothing acknowledged was lost or changed
    assert done == [overlap] * num
    assert len(stored) == num * overlap == len(votes)  # each item answered `overlap` times, by different users
    assert sorted(stored) == list(range(1, len(stored) + 1))


def test_four_processes_share_the_work(database):
    ask(database, num=60, overlap=3)
    workers = [annotate(database, f"user {i}") for i in range(4)]
    told = [acknowledged(worker) for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 4
    assert sum(map(len, told)) == 180
    check_all_done(database, 60, 3, {k: v for one in told for k, v in one.items()})


@pytest.mark.slow
def test_killed_processes_lose_nothing_that_was_acknowledged(database):
    ask(database, num=100, overlap=2)
    rng = random.Random(0)
    told: dict[int, str] = {}
    killed = 0
    for _ in range(3):
        workers = [annotate(database, f"user {i}", LEASE, pace=0.05, most=10) for i in range(3)]
        for worker in workers:
            assert worker.stdout is not None
            first = worker.stdout.readline()  # it is at work; now let it get somewhere
            told[int(first.split()[0])] = first.split()[1]
        time.sleep(rng.uniform(0.0, 0.3))
        for worker in workers:
            worker.send_signal(signal.SIGKILL)
        for worker in workers:
            told |= acknowledged(worker)
            killed += worker.returncode == -signal.SIGKILL
    assert killed == 9
    assert 9 <= len(told) <= 9 * 10
    time.sleep(LEASE)  # what the dead held is free again
    for i in range(3):
        told |= acknowledged(annotate(database, f"user {i}"))
    check_all_done(database, 100, 2, told)


def test_processes_that_open_a_new_store_at_once_make_one(new_database):
    script = "import sys; from tether.feedback.store import Store; print(Store.open(sys.argv[1]).add_user('me'))"
    command = [sys.executable, "-c", script, new_database(empty=True)]
    openers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [opener.communicate(timeout=250)[0].strip() for opener in openers] == ["1"] * 4


def test_a_store_outlives_the_death_of_its_server(postgresql_server):
    """What was acknowledged is there, and whoever asks next gets a new connection."""
    with Store.open(postgresql_server.new(empty=False)) as store:
        store.add_guideline("g")
        (prompt,) = store.add_prompts([NewPrompt("p")])
        store.add_items([NewItem(store.add_responses([NewResponse(prompt, t) for t in "AB"]))])
        held = store.claim(store.add_user("u"))
        ranking = {r.id: 0 for r in held.responses}
        said = store.submit(held.id, ranking, "k", guideline=1)
        with store.reading():  # two connections in the pool
            assert store.last_judgement() == 1
        postgresql_server.restart()
        assert store.submit(held.id, ranking, "k", guideline=1) == said
        assert store.judgements() == [said]
    postgresql_server.drop_all()
