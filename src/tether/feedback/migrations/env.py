"""How Alembic reaches the store: through the connection, and within the transaction, that `connect.py` hands it."""

from __future__ import annotations

from alembic import context

from tether.feedback.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite alters a table by copying it
)
with context.begin_transaction():
    context.run_migrations()
