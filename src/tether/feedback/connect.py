"""Opening the database of a store: pragmas, transactions that lock before they read, and migrations."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError

from tether.errors import InputError
from tether.feedback.schema import HEAD

_BUSY_MS = 60_000
_MIGRATIONS = Path(__file__).parent / "migrations"


def connect(where: str | os.PathLike[str]) -> Engine:
    """An engine on an SQLite file (made when missing), its schema brought up to date.

    Raises InputError when the place can't be written, or holds something other than a store this version knows.
    """
    url = _sqlite_url(where)
    path = Path(str(url.database))
    if not path.parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist; make it first")
    engine = create_engine(url)
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    try:
        _migrate(engine, path)
    except DatabaseError as error:
        engine.dispose()
        raise InputError(f"{path}: cannot be used as a preference store ({error.orig})") from error
    return engine


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that holds the write lock from the start, so what it reads stays true until it commits."""
    with engine.connect().execution_options(write_lock=True) as connection, connection.begin():
        yield connection


def _sqlite_url(where: str | os.PathLike[str]) -> URL:
    text = os.fspath(where)
    if "://" not in text:
        return URL.create("sqlite", database=text)
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise InputError(f"{text!r} is not a database address; give a file or sqlite:///FILE") from error
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        shown = url.render_as_string(hide_password=True)
        raise InputError(f"{shown}: preferences are kept in an SQLite file; give its path or sqlite:///FILE")
    return url


def _prepare(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself: `_begin` does
    for pragma in (f"busy_timeout={_BUSY_MS}", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin(connection: Connection) -> None:
    locked = connection.get_execution_options().get("write_lock", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if locked else "BEGIN")


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that sees one state of the store, whatever others write meanwhile."""
    with engine.connect() as connection, connection.begin():
        yield connection


def _version(connection: Connection, path: Path) -> str | None:
    tables = inspect(connection).get_table_names()
    if not tables:
        return None
    if "alembic_version" not in tables or "judgements" not in tables:
        raise InputError(f"{path}: this SQLite file is not a preference store; give another path")
    return str(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one())


def _migrate(engine: Engine, path: Path) -> None:
    """Under the write lock, so that of several processes opening a new store at once one makes it and the rest wait."""
    with engine.connect() as connection:
        if _version(connection, path) == HEAD:
            return
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with writing(engine) as connection:
        version = _version(connection, path)
        if version is not None and version not in known:
            raise InputError(f"{path}: was written by a newer Tether (schema {version}); this one knows {HEAD}")
        config.attributes["connection"] = connection
        command.upgrade(config, HEAD)
