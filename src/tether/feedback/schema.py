"""The tables of the preference store. Every change to them is a new file in `migrations/versions`.

Facts (prompts, responses, items, judgements) are only ever added. Two columns change: an assignment's `state` with its
`expires`, and an item's `done`, a count kept beside the facts so that finding work needs no scan. Ids are dense and
given out under the write lock, so a judgement with a lower id was committed earlier: "everything up to judgement n" is
a snapshot. Times are seconds since 1970, UTC. A `key` is a hash of a row's content: adding a row twice adds it once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import (
    JSON,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    Text,
    UniqueConstraint,
)

if TYPE_CHECKING:
    AnyRow: TypeAlias = Row[*tuple[Any, ...]]
else:
    AnyRow = Row  # what queries give

HEAD = "0001"
"""The newest migration: the version of the schema below."""

_NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}

metadata = MetaData(naming_convention=_NAMES)
_Json = JSON(none_as_null=True)


def _id() -> Column[int]:
    return Column("id", Integer, primary_key=True, autoincrement=False)


def _to(table: str, name: str, nullable: bool = False) -> Column[int]:
    return Column(name, Integer, ForeignKey(f"{table}.id"), nullable=nullable)


users = Table(
    "users",
    metadata,
    _id(),
    Column("name", String(200), nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    Column("created", Float, nullable=False),
    CheckConstraint("kind IN ('human', 'ai', 'simulated')", name="kind"),
)

guidelines = Table(  # the id is the version
    "guidelines",
    metadata,
    _id(),
    Column("key", String(64), nullable=False, unique=True),
    Column("text", Text, nullable=False),
    Column("created", Float, nullable=False),
)

prompts = Table(
    "prompts",
    metadata,
    _id(),
    Column("key", String(64), nullable=False, unique=True),
    Column("text", Text, nullable=False),
    Column("messages", _Json),  # the conversation so far, when it was one
    Column("token_ids", _Json),
    Column("meta", _Json),
)

responses = Table(
    "responses",
    metadata,
    _id(),
    Column("key", String(64), nullable=False, unique=True),
    _to("prompts", "prompt_id"),
    Column("text", Text, nullable=False),
    Column("token_ids", _Json),
    Column("ended", Boolean(create_constraint=False), nullable=False),
    Column("checkpoint", String(500)),
    Column("sampling", _Json),
    Column("meta", _Json),
)

items = Table(
    "items",
    metadata,
    _id(),
    Column("key", String(64), nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    _to("prompts", "prompt_id"),
    Column("overlap", Integer, nullable=False),  # answers wanted
    Column("done", Integer, nullable=False),  # answers given and not taken back; skips are no answers
    CheckConstraint("kind IN ('pair', 'ranking')", name="kind"),
    CheckConstraint("done >= 0 AND done <= overlap", name="done"),
)
Index("ix_items_open", items.c.id, sqlite_where=items.c.done < items.c.overlap)

item_responses = Table(
    "item_responses",
    metadata,
    Column("item_id", Integer, ForeignKey("items.id"), primary_key=True),
    Column("position", Integer, primary_key=True),
    _to("responses", "response_id"),
    UniqueConstraint("item_id", "response_id"),
)

assignments = Table(
    "assignments",
    metadata,
    _id(),
    _to("items", "item_id"),
    _to("users", "user_id"),
    Column("shown", _Json, nullable=False),  # response ids, first shown first
    Column("state", String(16), nullable=False),
    Column("claimed", Float, nullable=False),
    Column("expires", Float, nullable=False),  # an open assignment holds its place until then
    UniqueConstraint("user_id", "item_id"),
    CheckConstraint("state IN ('open', 'done', 'skipped')", name="state"),
)
Index("ix_assignments_item_id_state", assignments.c.item_id, assignments.c.state)
Index("ix_assignments_open", assignments.c.user_id, sqlite_where=assignments.c.state == "open")

judgements = Table(
    "judgements",
    metadata,
    _id(),
    _to("assignments", "assignment_id"),
    _to("items", "item_id"),
    _to("users", "user_id"),
    _to("guidelines", "guideline_id"),
    Column("action", String(16), nullable=False),
    Column("ranking", _Json),  # {response id: rank}, 0 the best, ties equal; unranked responses absent
    Column("strength", Float),  # 0 (no difference) to 3 (clear)
    Column("all_bad", Boolean(create_constraint=False), nullable=False),
    Column("skip_reason", Text),
    Column("rationale", Text),
    Column("seconds", Float),  # time the annotator took
    Column("submit_key", String(100), nullable=False, unique=True),
    Column("revision", Integer, nullable=False),  # 0, 1, … within the assignment
    Column("supersedes", Integer, ForeignKey("judgements.id"), unique=True),
    Column("created", Float, nullable=False),
    UniqueConstraint("assignment_id", "revision"),
    CheckConstraint("action IN ('rank', 'skip', 'undo')", name="action"),
    CheckConstraint("(action = 'rank') = (ranking IS NOT NULL)", name="ranking"),
    CheckConstraint("(action = 'skip') = (skip_reason IS NOT NULL)", name="skip_reason"),
    CheckConstraint("strength IS NULL OR (strength >= 0 AND strength <= 3)", name="strength"),
)
Index("ix_judgements_item_id", judgements.c.item_id)
