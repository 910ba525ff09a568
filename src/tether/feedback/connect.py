"""Opening the database of a store: an SQLite file or a PostgreSQL server; locks before reads; migrations.

Whoever writes holds the one write lock of the store: SQLite's own (`BEGIN IMMEDIATE`), or an advisory lock of
PostgreSQL. So both promise the same, and ids are given out in the order of commits. The threads of one process queue
for it, first come, first served, before they ask the database: SQLite has those who wait try again now and then, a
plain lock may be taken again and again by the thread that gave it back, and with either some waited for seconds.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, create_engine, event, inspect
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, DataError, OperationalError

from tether.errors import InputError, Unavailable
from tether.feedback.schema import HEAD

_BUSY_MS = 60_000
_WRITE_LOCK = 0x7E7_4E2  # any number, the same for all versions
_MIGRATIONS = Path(__file__).parent / "migrations"


class _Queue:
    """A lock that goes to the thread which has waited for it longest. RuntimeError for who holds it already."""

    def __init__(self) -> None:
        self._inner = threading.Lock()
        self._holder: int | None = None  # a thread
        self._waiting: deque[tuple[int, threading.Lock]] = deque()

    def __enter__(self) -> None:
        me, turn = threading.get_ident(), threading.Lock()
        with self._inner:
            if self._holder is None:
                self._holder = me
                return
            if self._holder == me:
                raise RuntimeError("this thread is writing to the store already")
            turn.acquire()
            self._waiting.append((me, turn))
        try:
            turn.acquire()
        except BaseException:  # Ctrl-C in the queue: leave it, or hand on what came at that moment
            with self._inner:
                if (me, turn) in self._waiting:
                    self._waiting.remove((me, turn))
                    raise
            self.__exit__()
            raise

    def __exit__(self, *_error: object) -> None:
        with self._inner:
            self._holder = None
            if self._waiting:
                self._holder, turn = self._waiting.popleft()
                turn.release()


_turns: WeakKeyDictionary[Engine, _Queue] = WeakKeyDictionary()


def connect(where: str | os.PathLike[str]) -> Engine:
    """An engine on an SQLite file (made when missing) or a PostgreSQL URL, its schema brought up to date.

    Raises InputError when the place can't be reached or written, or holds something other than a store this version
    knows.
    """
    url = _url(where)
    if url.get_backend_name() == "sqlite":
        place, engine = str(url.database), _sqlite(url)
    else:
        place, engine = url.render_as_string(hide_password=True), _postgresql(url)
    _turns[engine] = _Queue()
    event.listen(engine, "begin", _begin)
    try:
        _migrate(engine, place)
        if url.get_backend_name() == "sqlite":
            # Kept in the file, so not before it is known to be a store; and outside of transactions.
            with engine.connect().execution_options(transaction=False) as connection:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    except DatabaseError as error:
        engine.dispose()
        raise InputError(
            f"{place}: cannot be used as a preference store ({' '.join(str(error.orig).split())})"
        ) from error
    except BaseException:
        engine.dispose()
        raise
    return engine


@contextmanager
def writing(engine: Engine, *, durable: bool = True) -> Iterator[Connection]:
    """A transaction that holds the write lock from the start, so what it reads stays true until it commits.

    Unless it is `durable`, the commit does not wait for the disk: it survives the death of the process, and is lost
    with the power only if no durable one has followed.
    """
    with (
        _told(),
        _turns[engine],
        engine.connect().execution_options(write_lock=True, durable=durable) as connection,
        connection.begin(),
    ):
        yield connection


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that sees one state of the store, whatever others write meanwhile."""
    with _told(), engine.connect() as connection, connection.begin():
        yield connection


def wipe(engine: Engine) -> None:
    """Empties SQLite's write-ahead log (`-wal`), which still holds rows as they were, so that deleted means gone.

    A reader may keep it from that; then it goes when the store is closed. PostgreSQL clears up by itself (VACUUM).
    """
    if engine.dialect.name != "sqlite":
        return
    with _told(), engine.connect().execution_options(transaction=False) as connection:
        try:
            for _ in range(30):  # short tries: while one waits for readers, writers wait for it
                connection.exec_driver_sql("PRAGMA busy_timeout=200")
                if connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0] == 0:
                    return
                time.sleep(0.3)
        finally:
            connection.exec_driver_sql(f"PRAGMA busy_timeout={_BUSY_MS}")


@contextmanager
def _told() -> Iterator[None]:
    """Unavailable while the database is away, locked, or its disk full; InputError for what no database holds."""
    try:
        yield
    except OperationalError as error:
        if getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR:  # a wrong statement, so a bug
            raise
        raise Unavailable(f"the preference store cannot be used now ({' '.join(str(error.orig).split())})") from error
    except (DataError, OverflowError, UnicodeEncodeError) as error:
        told = "a number is too large for the database, or a text holds NUL or half of a character (a lone surrogate)"
        raise InputError(told) from error


def _url(where: str | os.PathLike[str]) -> URL:
    text = os.fspath(where)
    valid = "give a file, sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE"
    if text in ("", ":memory:") or "\0" in text:
        raise InputError(f"{text!r}: preferences cannot be kept there; {valid}")
    scheme, is_url, _ = text.partition("://")
    if not is_url:
        return URL.create("sqlite", database=text)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # ValueError: a port that is no number
        raise InputError(f"{scheme}://… is not a database address; {valid}") from None  # the rest may be a password
    backend = url.get_backend_name()
    strange = backend not in ("sqlite", "postgresql") or (backend == "sqlite" and url.query)
    if strange or not url.database or url.database == ":memory:":
        raise InputError(f"{url.render_as_string(hide_password=True)}: preferences cannot be kept there; {valid}")
    return url if backend == "postgresql" else URL.create("sqlite", database=url.database)


def _sqlite(url: URL) -> Engine:
    path = Path(str(url.database))
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist; make it first")
    for place in (path, path.parent):  # SQLite would open it, and every answer fail; it keeps files beside it
        if place.exists() and not os.access(place, os.W_OK):
            raise InputError(f"{path}: {place} may not be written; all who use a store write to it, also who exports")
    engine = create_engine(url, hide_parameters=True)  # what people wrote is not for logs
    event.listen(engine, "connect", _prepare)
    return engine


def _postgresql(url: URL) -> Engine:
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise InputError("PostgreSQL needs the package psycopg: pip install 'tether-rlhf[pg]'") from None
    place = url.set(drivername="postgresql+psycopg")
    # Whatever the server's default: what is read under the write lock must be what was committed before it was had.
    return create_engine(
        place,
        connect_args={"client_encoding": "utf8"},
        isolation_level="READ COMMITTED",
        pool_pre_ping=True,
        pool_size=20,
        hide_parameters=True,
    )


def _prepare(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself: `_begin` does
    for pragma in (f"busy_timeout={_BUSY_MS}", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if not options.get("transaction", True):
        return
    locked, durable = options.get("write_lock", False), options.get("durable", True)
    if connection.dialect.name == "sqlite":
        if locked:
            connection.exec_driver_sql(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if locked else "BEGIN")
    elif locked:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITE_LOCK})")
        if not durable:
            connection.exec_driver_sql("SET LOCAL synchronous_commit TO OFF")
    else:
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def _check_encoding(connection: Connection, place: str) -> None:
    if connection.dialect.name == "postgresql":
        encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
        if encoding != "UTF8":
            raise InputError(
                f"{place}: this database keeps text as {encoding}, which has not all letters; give one made by"
                " CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
            )


def _version(connection: Connection, place: str) -> str | None:
    tables = inspect(connection).get_table_names()
    if not tables:
        return None
    if "alembic_version" not in tables or "judgements" not in tables:
        raise InputError(f"{place}: this database is not a preference store; give another")
    return str(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one())


def _migrate(engine: Engine, place: str) -> None:
    """Under the write lock, so that of several processes opening a new store at once one makes it and the rest wait."""
    with engine.connect() as connection, connection.begin():
        _check_encoding(connection, place)
        if _version(connection, place) == HEAD:
            return
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with _unchecked(engine) as connection, connection.begin():
        version = _version(connection, place)
        if version is not None and version not in known:
            raise InputError(f"{place}: was written by a newer Tether (schema {version}); this one knows {HEAD}")
        config.attributes["connection"] = connection
        command.upgrade(config, HEAD)
        if connection.dialect.name == "sqlite" and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
            raise InputError(f"{place}: its rows do not fit together, so it cannot be brought up to date")


@contextmanager
def _unchecked(engine: Engine) -> Iterator[Connection]:
    """A connection for migrations: SQLite alters a table by replacing it, while others refer to it."""
    sqlite = engine.dialect.name == "sqlite"
    with engine.connect().execution_options(write_lock=True) as connection:
        raw: Any = connection.connection.driver_connection
        if sqlite:
            raw.execute("PRAGMA foreign_keys=OFF").close()
        try:
            yield connection
        finally:
            if sqlite:
                raw.execute("PRAGMA foreign_keys=ON").close()
