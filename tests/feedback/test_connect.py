"""The write lock: who waits for it waits in a queue; and which commits wait for the disk. On both databases."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import Connection

from tether.feedback.connect import connect, reading, writing


def waits_for_the_disk(db: Connection) -> bool:
    if db.dialect.name == "sqlite":
        return db.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2  # FULL; NORMAL is 1
    return db.exec_driver_sql("SHOW synchronous_commit").scalar_one() == "on"


def test_only_what_may_be_lost_does_not_wait_for_the_disk(database: str) -> None:
    engine = connect(database)
    said = []
    for durable in (True, False, True):  # the pool hands the same connection out again
        with writing(engine, durable=durable) as db:
            said.append(waits_for_the_disk(db))
    assert said == [True, False, True]
    engine.dispose()


@pytest.mark.parametrize("threads", [24])
def test_nobody_waits_much_longer_than_the_others(database: str, threads: int) -> None:
    """With SQLite's own way of waiting, one thread took hundreds of turns while another got none."""
    engine = connect(database)
    turns = [0] * threads
    together = threading.Barrier(threads + 1)
    over = threading.Event()

    def work(who: int) -> None:
        together.wait()
        while not over.is_set():
            with writing(engine, durable=False) as db:
                db.exec_driver_sql(f"UPDATE users SET created = {who}")
                turns[who] += 1

    workers = [threading.Thread(target=work, args=(who,)) for who in range(threads)]
    for worker in workers:
        worker.start()
    together.wait()
    over.wait(1.0)
    over.set()
    for worker in workers:
        worker.join()
    assert min(turns) > sum(turns) / threads / 10, turns
    engine.dispose()


def test_readers_do_not_wait_for_the_writer(database: str) -> None:
    engine = connect(database)
    with writing(engine) as db, reading(engine) as other:
        db.exec_driver_sql("UPDATE projects SET name = 'new' WHERE id = 1")
        assert other.exec_driver_sql("SELECT name FROM projects WHERE id = 1").scalar_one() == "default"
    engine.dispose()
