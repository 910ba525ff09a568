"""What is opened and what refused; the write lock, whose waiters queue; which commits wait for the disk."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

from tether.errors import InputError, Unavailable
from tether.feedback import connect
from tether.feedback.connect import reading, writing
from tether.feedback.store import Store


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    engine = connect.connect(database)
    yield engine
    engine.dispose()


def waits_for_the_disk(db: Connection) -> bool:
    if db.dialect.name == "sqlite":
        return db.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2  # FULL; NORMAL is 1
    return db.exec_driver_sql("SHOW synchronous_commit").scalar_one() == "on"


def test_only_what_may_be_lost_does_not_wait_for_the_disk(engine: Engine) -> None:
    said = []
    for durable in (True, False, True):  # the pool hands the same connection out again
        with writing(engine, durable=durable) as db:
            said.append(waits_for_the_disk(db))
    assert said == [True, False, True]


def in_the_queue(engine: Engine, work: Callable[[], None]) -> threading.Thread:
    """A thread that runs `work` and has just begun to wait for the write lock."""
    waiting = connect._turns[engine]._waiting
    before = len(waiting)
    thread = threading.Thread(target=work)
    thread.start()
    while len(waiting) == before:
        time.sleep(0.001)
    return thread


def test_first_come_first_served(engine: Engine) -> None:
    """With SQLite's own way of waiting, one thread took hundreds of turns while another got none."""
    order = []

    def work(who: int) -> None:
        with writing(engine):
            order.append(who)

    with writing(engine):
        threads = [in_the_queue(engine, partial(work, who)) for who in range(24)]
    work(24)  # it comes back at once, and still after all who waited
    assert order == list(range(25))
    for thread in threads:
        thread.join()


def test_a_write_within_a_write_says_so_and_waits_for_nobody(engine: Engine) -> None:
    with writing(engine), pytest.raises(RuntimeError, match="writing to the store already"), writing(engine):
        pass
    with writing(engine):
        pass


@pytest.mark.parametrize("others", [0, 1])
def test_who_is_called_away_holds_nobody_up(engine: Engine, others: int) -> None:
    """Ctrl-C while the main thread waits."""
    held, let_go, done = threading.Event(), threading.Event(), []

    def hold() -> None:
        with writing(engine):
            held.set()
            let_go.wait()

    def call_away(*_: object) -> None:
        raise KeyboardInterrupt

    def write() -> None:
        with writing(engine):
            done.append(True)

    def interrupt() -> None:
        while not connect._turns[engine]._waiting:
            time.sleep(0.001)
        threads.extend(in_the_queue(engine, write) for _ in range(others))
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, call_away)
    try:
        threads = [threading.Thread(target=hold), threading.Thread(target=interrupt)]
        threads[0].start()
        held.wait()
        threads[1].start()
        with pytest.raises(KeyboardInterrupt), writing(engine):
            pass
    finally:
        signal.signal(signal.SIGUSR1, before)
        let_go.set()
    write()
    for thread in threads:
        thread.join()
    assert done == [True] * (1 + others)


def test_readers_do_not_wait_for_the_writer(engine: Engine) -> None:
    with writing(engine) as db, reading(engine) as other:
        db.exec_driver_sql("UPDATE projects SET name = 'new' WHERE id = 1")
        assert other.exec_driver_sql("SELECT name FROM projects WHERE id = 1").scalar_one() == "default"


def test_a_writer_sees_what_was_committed_before_it_had_the_lock(new_database: Callable[..., str]) -> None:
    """Also on a server whose transactions keep to the state they saw first, which is that before they had to wait."""
    where = new_database()
    engine = connect.connect(where)
    if engine.dialect.name == "postgresql":
        with writing(engine) as db:
            name = db.exec_driver_sql("SELECT current_database()").scalar_one()
            db.exec_driver_sql(f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'")
    engine.dispose()
    engine = connect.connect(where)

    def add_one() -> None:
        with writing(engine) as db:
            newest = db.exec_driver_sql("SELECT coalesce(max(id), 0) FROM guidelines").scalar_one()
            db.exec_driver_sql(
                f"INSERT INTO guidelines (id, key, text, created) VALUES ({newest + 1}, '{newest}', '', 0)"
            )

    first = connect.connect(where)
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


def test_a_reader_sees_one_state(engine: Engine) -> None:
    count = "SELECT count(*) FROM users"
    with reading(engine) as db:
        before = db.exec_driver_sql(count).scalar_one()
        with writing(engine) as other:
            other.exec_driver_sql("INSERT INTO users (id, name, kind, created) VALUES (1, 'u', 'human', 0)")
        assert db.exec_driver_sql(count).scalar_one() == before == 0
    with reading(engine) as db:
        assert db.exec_driver_sql(count).scalar_one() == 1


def test_a_file_that_is_no_store_is_refused_and_left_alone(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("these are my notes, and they are longer than a header\n" * 40)
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE cakes (name TEXT)")
    db.close()
    cakes = other.read_bytes()
    newer = tmp_path / "newer.db"
    Store.open(newer).close()
    with sqlite3.connect(newer) as db:
        db.execute("UPDATE alembic_version SET version_num = '9999'")
    for where, message in [
        (text, "cannot be used as a preference store"),
        (other, "is not a preference store"),
        (newer, "newer Tether"),
        (tmp_path / "missing" / "a.db", "does not exist"),
        ("postgresql://me:secret@127.0.0.1:1/db", "cannot be used as a preference store"),
        ("sqlite://", "cannot be kept there"),
        ("mysql://me:secret@host/db", "cannot be kept there"),
        ("not a url://", "not a database address"),
        ("postgresql://me:secret@host:port/db", "not a database address"),
        ("sqlite+aiosqlite://", "cannot be kept there"),
        (f"sqlite:///{tmp_path}/a.db?mode=ro", "cannot be kept there"),
        ("", "cannot be kept there"),  # SQLite would take it for a file that goes with the connection
        (":memory:", "cannot be kept there"),
    ]:
        with pytest.raises(InputError, match=message) as caught:
            Store.open(where)
        assert "secret" not in str(caught.value)
    assert text.read_text().startswith("these are my notes")
    assert other.read_bytes() == cakes  # nor is it told to keep a write-ahead log


def test_a_url_and_a_path_are_the_same_place(tmp_path):
    with Store.open(f"sqlite:///{tmp_path}/a.db") as one, Store.open(tmp_path / "a.db") as two:
        one.add_user("x")
        assert two.add_user("x") == 1


def test_a_file_checks_foreign_keys_and_keeps_a_write_ahead_log(tmp_path):
    with Store.open(tmp_path / "votes.db") as store, store.reading() as db:
        assert db.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert db.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert db.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL: a commit survives a loss of power


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everything")
def test_a_file_that_may_only_be_read_is_refused(tmp_path):
    Store.open(tmp_path / "s.db").close()
    (tmp_path / "s.db").chmod(0o444)
    with pytest.raises(InputError, match="may not be written"):
        Store.open(tmp_path / "s.db")


def test_a_database_that_cannot_keep_all_letters_is_refused(postgresql_server):
    """What `initdb` makes without a locale keeps bytes, which come back as such."""
    for encoding in ("SQL_ASCII", "LATIN1"):
        where = postgresql_server.new(empty=True, encoding=encoding)
        with pytest.raises(InputError, match=f"keeps text as {encoding}"):
            Store.open(where)
    postgresql_server.drop_all()


def test_a_store_that_cannot_be_used_now_is_said_in_a_sentence(tmp_path, monkeypatch, postgresql_server):
    monkeypatch.setattr(connect, "_BUSY_MS", 1)
    locked = sqlite3.connect(tmp_path / "s.db", isolation_level=None)
    with Store.open(tmp_path / "s.db") as store:
        locked.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match=r"cannot be used now \(database is locked\)"):
            store.add_user("ann")
        with pytest.raises(OperationalError, match="no such table"), store.reading() as db:  # a bug stays one
            db.exec_driver_sql("SELECT * FROM cakes")
        locked.close()
        assert store.add_user("ann") == 1

    def write(store: Store) -> None:
        with store.writing() as db:
            postgresql_server.restart()
            db.exec_driver_sql("SELECT 1")

    with Store.open(postgresql_server.new(empty=False)) as store:
        with pytest.raises(Unavailable, match="cannot be used now"):
            write(store)
        assert store.add_user("ann") == 1
    postgresql_server.drop_all()


def test_a_database_that_is_not_there_is_told_of_in_one_line():
    pytest.importorskip("psycopg")
    with pytest.raises(InputError, match=r"tether:\*\*\*@127.0.0.1:1/x: cannot be used as a preference store") as told:
        Store.open("postgresql://tether:secret@127.0.0.1:1/x")
    assert "\n" not in str(told.value)
