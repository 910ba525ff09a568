"""The tables of the preference store. Every change to them is a new file in `migrations/versions`.

Facts (prompts, responses, items, judgements) are only ever added. Two things about them change: an assignment's `state`
with its `expires`, and an item's `done`, a count kept beside the facts so that finding work needs no scan. Ids are
dense and given out under the write lock, so a judgement with a lower id was committed earlier: "everything up to
judgement n" is a snapshot. Times are seconds since 1970, UTC. A `key` is a hash of a row's content: adding a row twice
adds it once; of a secret, it is what is kept instead of it.
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
    false,
    true,
)

if TYPE_CHECKING:
    AnyRow: TypeAlias = Row[*tuple[Any, ...]]
else:
    AnyRow = Row  # what queries give

HEAD = "0002"
"""The newest migration: the version of the schema below."""

_NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}

KINDS = ("pair", "ranking", "rating", "edit")
"""What an item asks: which of two, an order, a value for each attribute, a better answer."""

LARGEST = 2**31 - 1
"""The largest number the databases take for an id."""

metadata = MetaData(naming_convention=_NAMES)
_Json = JSON(none_as_null=True)


def _id() -> Column[int]:
    return Column("id", Integer, primary_key=True, autoincrement=False)


def _flag(name: str, default: bool = False) -> Column[bool]:
    return Column(name, Boolean(create_constraint=False), nullable=False, server_default=true() if default else false())


def _to(table: str, name: str, nullable: bool = False) -> Column[int]:
    return Column(name, Integer, ForeignKey(f"{table}.id"), nullable=nullable)


users = Table(
    "users",
    metadata,
    _id(),
    Column("name", String(200), nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    Column("created", Float, nullable=False),
    Column("password", String(200)),  # argon2's own format, salt and cost included; None: cannot sign in
    _flag("admin"),
    _flag("active", True),
    Column("settings", _Json),  # what the app remembers for them: shortcuts, theme
    CheckConstraint("kind IN ('human', 'ai', 'simulated')", name="kind"),
)

secrets = Table(  # one row, drawn when the store was made: what nobody outside can compute starts from it
    "secrets",
    metadata,
    Column("name", String(50), primary_key=True),
    Column("value", String(64), nullable=False),
)

sessions = Table(
    "sessions",
    metadata,
    Column("key", String(64), primary_key=True),  # hash of the token the browser or program holds
    _to("users", "user_id"),
    Column("created", Float, nullable=False),
    Column("expires", Float, nullable=False),
)
Index("ix_sessions_user_id", sessions.c.user_id)

projects = Table(
    "projects",
    metadata,
    _id(),
    Column("name", String(200), nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("settings", _Json, nullable=False),  # `projects.Settings`
    Column("created", Float, nullable=False),
    CheckConstraint(f"kind IN {KINDS}", name="kind"),
    CheckConstraint("state IN ('open', 'paused', 'closed')", name="state"),
)

members = Table(
    "members",
    metadata,
    Column("project_id", Integer, ForeignKey("projects.id"), primary_key=True),
    Column("user_id", Integer, ForeignKey("users.id"), primary_key=True),
    Column("created", Float, nullable=False),
)

invites = Table(
    "invites",
    metadata,
    Column("key", String(64), primary_key=True),  # hash of the token in the link
    _flag("admin"),
    _to("projects", "project_id", nullable=True),
    _to("users", "user_id", nullable=True),  # whose password it sets; None: it makes an account
    _to("users", "used_by", nullable=True),
    Column("created", Float, nullable=False),
    Column("expires", Float, nullable=False),
)

guidelines = Table(  # the id is the version
    "guidelines",
    metadata,
    _id(),
    Column("key", String(64), nullable=False, unique=True),
    Column("text", Text, nullable=False),
    Column("created", Float, nullable=False),
)

project_guidelines = Table(
    "project_guidelines",
    metadata,
    Column("project_id", Integer, ForeignKey("projects.id"), primary_key=True),
    Column("version", Integer, primary_key=True),  # 1, 2, … within the project; the largest is in force
    _to("guidelines", "guideline_id"),
    Column("created", Float, nullable=False),
)

acknowledgements = Table(
    "acknowledgements",
    metadata,
    Column("user_id", Integer, ForeignKey("users.id"), primary_key=True),
    Column("project_id", Integer, ForeignKey("projects.id"), primary_key=True),
    Column("guideline_id", Integer, ForeignKey("guidelines.id"), primary_key=True),
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
    Column("project_id", Integer, ForeignKey("projects.id"), nullable=False, server_default="1"),
    Column("gold", _Json),  # the ranking expected, {response id: rank}; everybody is asked
    Column("selection", _Json),  # why it is asked: arm, propensity, score
    CheckConstraint(f"kind IN {KINDS}", name="kind"),
    CheckConstraint("done >= 0 AND done <= overlap", name="done"),
)
_OPEN = (items.c.done < items.c.overlap) & items.c.gold.is_(None)
Index("ix_items_open", items.c.project_id, items.c.id, sqlite_where=_OPEN, postgresql_where=_OPEN)
_GOLD = items.c.gold.is_not(None)
Index("ix_items_gold", items.c.project_id, items.c.id, sqlite_where=_GOLD, postgresql_where=_GOLD)

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
    Column("role", String(16), nullable=False, server_default="annotate"),
    UniqueConstraint("user_id", "item_id", "role"),
    CheckConstraint("state IN ('open', 'done', 'skipped')", name="state"),
    CheckConstraint("role IN ('annotate', 'repeat', 'adjudicate')", name="role"),
)
Index("ix_assignments_item_id_state", assignments.c.item_id, assignments.c.state)
_HELD = assignments.c.state == "open"
Index("ix_assignments_open", assignments.c.user_id, sqlite_where=_HELD, postgresql_where=_HELD)

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
    Column("ratings", _Json),  # {response id: {attribute: value}}
    Column("correction", Text),  # a better answer, in the annotator's words
    Column("flag", Text),  # what is wrong with the item, whatever the answer
    UniqueConstraint("assignment_id", "revision"),
    CheckConstraint("action IN ('rank', 'rate', 'edit', 'skip', 'undo', 'adjudicate')", name="action"),
    CheckConstraint("(action IN ('rank', 'adjudicate')) = (ranking IS NOT NULL)", name="ranking"),
    CheckConstraint("action != 'rate' OR ratings IS NOT NULL", name="ratings"),
    CheckConstraint("action != 'edit' OR correction IS NOT NULL", name="correction"),
    CheckConstraint("(action = 'skip') = (skip_reason IS NOT NULL)", name="skip_reason"),
    CheckConstraint("strength IS NULL OR (strength >= 0 AND strength <= 3)", name="strength"),
)
Index("ix_judgements_item_id", judgements.c.item_id)

audit = Table(
    "audit",
    metadata,
    _id(),
    _to("users", "user_id", nullable=True),  # None: nobody was signed in
    Column("action", String(50), nullable=False),
    Column("about", _Json),
    Column("created", Float, nullable=False),
)
Index("ix_audit_action_created", audit.c.action, audit.c.created)

exports = Table(
    "exports",
    metadata,
    _id(),
    _to("projects", "project_id", nullable=True),
    _to("users", "user_id", nullable=True),
    Column("query", _Json, nullable=False),
    Column("last_judgement", Integer, nullable=False),
    Column("num_rows", Integer, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("created", Float, nullable=False),
)
