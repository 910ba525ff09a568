"""The migrations build exactly the tables the code speaks of."""

from __future__ import annotations

from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect

from tether.feedback import connect, schema


def test_a_migrated_store_has_the_declared_schema(tmp_path):
    engine = connect.connect(tmp_path / "s.db")
    with connect.reading(engine) as db:
        context = MigrationContext.configure(db)
        assert compare_metadata(context, schema.metadata) == []
        assert context.get_current_revision() == schema.HEAD
        seen = inspect(db)
        for table in schema.metadata.tables.values():  # what `compare_metadata` does not look at
            declared = {c.name for c in table.constraints if c.name and str(c.name).startswith("ck_")}
            assert {c["name"] for c in seen.get_check_constraints(table.name)} == declared
    engine.dispose()


def test_head_is_the_newest_migration():
    config = Config()
    config.set_main_option("script_location", str(connect._MIGRATIONS))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_heads() == [schema.HEAD]
