"""The migrations build exactly the tables the code speaks of, and lose nothing on the way there.

`stores/VERSION.sql` holds the rows of a store that the last release of that schema wrote, `stores/VERSION.json` what it
exported of them. They are never written again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, MetaData, create_engine, event, inspect

from tether.errors import InputError
from tether.feedback import connect, schema
from tether.feedback.export import Export
from tether.feedback.records import NewItem, NewPrompt, Query
from tether.feedback.store import Store

STORES = Path(__file__).parent / "stores"
VERSIONS = [file.stem for file in sorted(STORES.glob("*.sql"))]


def config() -> Config:
    made = Config()
    made.set_main_option("script_location", str(connect._MIGRATIONS))
    made.set_main_option("path_separator", "os")
    return made


def plain_engine(where: str) -> Engine:
    return create_engine(
        where.replace("postgresql:", "postgresql+psycopg:") if "://" in where else f"sqlite:///{where}"
    )


def write_old(where: str, version: str) -> None:
    engine = plain_engine(where)
    made = config()
    with engine.begin() as db:
        made.attributes["connection"] = db
        command.upgrade(made, version)
        for statement in (STORES / f"{version}.sql").read_text().split(";\n"):
            if statement:
                db.exec_driver_sql(statement)
    engine.dispose()


def rows(where: str) -> dict[str, list[dict[str, Any]]]:
    """Everything that is in a store, whatever its version."""
    engine = plain_engine(where)
    with engine.connect() as db:
        tables = MetaData()
        tables.reflect(db)
        found = {
            table.name: [dict(row._mapping) for row in db.execute(table.select().order_by(*table.primary_key))]
            for table in tables.sorted_tables
        }
    engine.dispose()
    return found


def described(db: Connection) -> dict[str, Any]:
    """All that the database knows of its tables, in an order of our own."""
    seen = inspect(db)

    def plain(thing: Any) -> str:
        return repr(sorted((k, plain(v)) for k, v in thing.items())) if isinstance(thing, dict) else str(thing)

    def ordered(things: Any) -> list[str]:
        return sorted(plain(thing) for thing in things)

    return {
        table: {
            "columns": ordered(seen.get_columns(table)),
            "primary": sorted(seen.get_pk_constraint(table)["constrained_columns"]),
            "foreign": ordered(seen.get_foreign_keys(table)),
            "unique": ordered(seen.get_unique_constraints(table)),
            "checks": ordered(seen.get_check_constraints(table)),
            "indexes": ordered(seen.get_indexes(table)),
        }
        for table in sorted(set(seen.get_table_names()) - {"alembic_version"})
    }


def declared(where: str) -> dict[str, Any]:
    """What the tables would be had they been made from their declaration at once."""
    engine = plain_engine(where)
    with engine.begin() as db:
        schema.metadata.create_all(db)
        found = described(db)
    engine.dispose()
    return found


def check_schema(where: str, new_database: Callable[..., str]) -> None:
    engine = connect.connect(where)
    with connect.reading(engine) as db:
        context = MigrationContext.configure(db)
        assert compare_metadata(context, schema.metadata) == []
        assert context.get_current_revision() == schema.HEAD
        assert described(db) == declared(new_database(empty=True))
    engine.dispose()


def test_a_new_store_has_the_declared_schema(new_database):
    check_schema(new_database(empty=True), new_database)


def test_head_is_the_newest_migration_and_every_earlier_one_has_a_store():
    scripts = ScriptDirectory.from_config(config())
    assert scripts.get_heads() == [schema.HEAD]
    assert [*VERSIONS, schema.HEAD] == sorted(script.revision for script in scripts.walk_revisions())


@pytest.mark.parametrize("version", VERSIONS)
def test_an_old_store_is_brought_up_to_date_with_all_it_held(new_database, version):
    where = new_database(empty=True)
    write_old(where, version)
    before = rows(where)
    Store.open(where).close()
    after = rows(where)
    for table, its_rows in before.items():
        if table != "alembic_version":
            kept = [{name: row[name] for name in its_rows[0]} for row in after[table]]
            assert kept == its_rows, table
    check_schema(where, new_database)
    with Store.open(where) as store:
        for told in json.loads((STORES / f"{version}.json").read_text()):
            query = Query(**{name: tuple(v) if isinstance(v, list) else v for name, v in told["query"].items()})
            now = store.export(query, Export(**told["how"]))
            # A later version may say more about a row, and nothing else.
            kept = [{name: row[name] for name in old} for old, row in zip(told["rows"], now, strict=True)]
            assert kept == told["rows"]


def test_work_goes_on_in_a_store_of_the_first_schema(new_database):
    where = new_database(empty=True)
    write_old(where, "0001")
    with Store.open(where) as store:
        last = store.last_judgement()
        held = store.claim(1)  # the lease that was open, of the item that was next
        assert (held.id, held.item, held.project) == (8, 3, 1)
        assert store.submit(held.id, {r.id: 0 for r in held.responses}, "new", guideline=2).id == last + 1
        assert store.add_items([NewItem([1, 2]), NewItem([3, 4], project=store.add_project("p"))]) == [1, 4]
        assert store.add_prompts([NewPrompt("hi", token_ids=[1, 2])]) == [1]
        assert store.add_guideline("Prefer the kinder one.") == 1
        assert store.undo(last, "u").supersedes == last


@pytest.fixture
def breaking_off() -> Iterator[str]:
    """Statements that contain this fail, as when the disk is full or the server dies."""
    at = "_alembic_tmp_judgements", "ALTER TABLE judgements"

    def break_off(_db, _cursor, statement, _parameters, _context, _many):
        if any(part in statement for part in at):
            raise OSError("no space left")

    event.listen(Engine, "before_cursor_execute", break_off)
    yield "no space left"
    event.remove(Engine, "before_cursor_execute", break_off)


def test_a_migration_that_breaks_off_leaves_the_store_as_it_was(new_database, request):
    where = new_database(empty=True)
    write_old(where, "0001")
    engine = plain_engine(where)
    with engine.connect() as db:
        tables = described(db)
    before = rows(where)
    request.getfixturevalue("breaking_off")
    with pytest.raises(OSError, match="no space left"):
        Store.open(where)
    with engine.connect() as db:
        assert described(db) == tables
    assert rows(where) == before
    engine.dispose()


def test_a_store_whose_rows_do_not_fit_together_is_refused_and_left_alone(tmp_path):
    where = str(tmp_path / "old.db")
    write_old(where, "0001")
    engine = plain_engine(where)  # which checks no foreign keys
    with engine.begin() as db:
        db.exec_driver_sql("DELETE FROM users WHERE id = 2")
    engine.dispose()
    before = rows(where)
    with pytest.raises(InputError, match="rows do not fit together"):
        Store.open(where)
    assert rows(where) == before
