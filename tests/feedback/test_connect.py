"""The write lock: who waits for it waits in a queue; and which commits wait for the disk. On both databases."""

from __future__ import annotations

import threading
from collections.abc import Callable

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


def test_a_writer_sees_what_was_committed_before_it_had_the_lock(new_database: Callable[..., str]) -> None:
    """Also on a server whose transactions keep to the state they saw first, which is that before they had to wait."""
    where = new_database()
    engine = connect(where)
    if engine.dialect.name == "postgresql":
        with writing(engine) as db:
            name = db.exec_driver_sql("SELECT current_database()").scalar_one()
            db.exec_driver_sql(f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'")
    engine.dispose()
    engine = connect(where)

    def add_one() -> None:
        with writing(engine) as db:
            newest = db.exec_driver_sql("SELECT coalesce(max(id), 0) FROM guidelines").scalar_one()
            db.exec_driver_sql(
                f"INSERT INTO guidelines (id, key, text, created) VALUES ({newest + 1}, '{newest}', '', 0)"
            )

    first = connect(where)
    with writing(first) as db:
        other = threading.Thread(target=add_one)
        other.start()
        other.join(0.3)  # it waits for the lock
        db.exec_driver_sql("INSERT INTO guidelines (id, key, text, created) VALUES (1, 'first', '', 0)")
    other.join()
    with reading(engine) as db:
        assert db.exec_driver_sql("SELECT count(*) FROM guidelines").scalar_one() == 2
    first.dispose()
    engine.dispose()


def test_a_reader_sees_one_state(database: str) -> None:
    engine = connect(database)
    count = "SELECT count(*) FROM users"
    with reading(engine) as db:
        before = db.exec_driver_sql(count).scalar_one()
        with writing(engine) as other:
            other.exec_driver_sql("INSERT INTO users (id, name, kind, created) VALUES (1, 'u', 'human', 0)")
        assert db.exec_driver_sql(count).scalar_one() == before == 0
    with reading(engine) as db:
        assert db.exec_driver_sql(count).scalar_one() == 1
    engine.dispose()
