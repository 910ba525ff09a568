"""Projects, their guidelines and members; accounts; gold items; ratings and corrections; adjudication; audit; exports.

What was there before belongs to the project "default".
"""

from __future__ import annotations

import secrets
import time

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_KINDS = "kind IN ('pair', 'ranking', 'rating', 'edit')"
# Table → its CHECK constraints from now on. SQLite changes one by copying the table without any.
_CHECKS = {
    "users": {"kind": "kind IN ('human', 'ai', 'simulated')"},
    "items": {"kind": _KINDS, "done": "done >= 0 AND done <= overlap"},
    "assignments": {
        "state": "state IN ('open', 'done', 'skipped')",
        "role": "role IN ('annotate', 'repeat', 'adjudicate')",
    },
    "judgements": {
        "action": "action IN ('rank', 'rate', 'edit', 'skip', 'undo', 'adjudicate')",
        "ranking": "(action IN ('rank', 'adjudicate')) = (ranking IS NOT NULL)",
        "ratings": "action != 'rate' OR ratings IS NOT NULL",
        "correction": "action != 'edit' OR correction IS NOT NULL",
        "skip_reason": "(action = 'skip') = (skip_reason IS NOT NULL)",
        "strength": "strength IS NULL OR (strength >= 0 AND strength <= 3)",
    },
}
_JSON = sa.JSON(none_as_null=True)


def upgrade() -> None:
    _tables_of_projects()
    _tables_of_accounts()
    projects = sa.table("projects", *(sa.column(name) for name in ("id", "name", "kind", "state", "created")))
    settings = sa.column("settings", _JSON)
    projects.append_column(settings)
    row = {"id": 1, "name": "default", "kind": "pair", "state": "open", "settings": {}, "created": time.time()}
    op.bulk_insert(projects, [row])
    kept = sa.table("secrets", sa.column("name"), sa.column("value"))
    op.bulk_insert(kept, [{"name": "store", "value": secrets.token_hex(32)}])
    _alter(
        "users",
        sa.Column("password", sa.String(length=200)),
        sa.Column("admin", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("active", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("settings", _JSON),
    )
    op.drop_index("ix_items_open", "items")
    _alter(
        "items",
        sa.Column("project_id", sa.Integer(), server_default="1", nullable=False),
        sa.Column("gold", _JSON),
        sa.Column("selection", _JSON),
        project=True,
    )
    for name, where in (("open", "done < overlap AND gold IS NULL"), ("gold", "gold IS NOT NULL")):
        _partial_index(f"ix_items_{name}", "items", ["project_id", "id"], where)
    op.drop_index("ix_assignments_open", "assignments")
    _alter(
        "assignments",
        sa.Column("role", sa.String(length=16), server_default="annotate", nullable=False),
        unique=("user_id", "item_id"),
        also="role",
    )
    _partial_index("ix_assignments_open", "assignments", ["user_id"], "state = 'open'")
    _alter("judgements", sa.Column("ratings", _JSON), sa.Column("correction", sa.Text()), sa.Column("flag", sa.Text()))


def _alter(
    table: str, *columns: sa.Column[object], project: bool = False, unique: tuple[str, ...] = (), also: str = ""
) -> None:
    """Adds columns, puts the CHECK constraints of `_CHECKS` in place of all, and lengthens one UNIQUE constraint."""
    bind = op.get_bind()
    with op.batch_alter_table(table) as batch:
        if bind.dialect.name != "sqlite":
            for constraint in sa.inspect(bind).get_check_constraints(table):
                batch.drop_constraint(op.f(str(constraint["name"])), type_="check")
        for column in columns:
            batch.add_column(column)
        for name, condition in _CHECKS[table].items():
            batch.create_check_constraint(op.f(f"ck_{table}_{name}"), sa.text(condition))
        if project:
            batch.create_foreign_key(op.f(f"fk_{table}_project_id"), "projects", ["project_id"], ["id"])
        if unique:
            old = f"uq_{table}_{'_'.join(unique)}"
            batch.drop_constraint(op.f(old), type_="unique")
            batch.create_unique_constraint(op.f(f"{old}_{also}"), [*unique, also])


def _partial_index(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def _tables_of_projects() -> None:
    op.create_table(
        "projects",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("settings", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.CheckConstraint("kind IN ('pair', 'ranking', 'rating', 'edit')", name=op.f("ck_projects_kind")),
        sa.CheckConstraint("state IN ('open', 'paused', 'closed')", name=op.f("ck_projects_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_projects")),
        sa.UniqueConstraint("name", name=op.f("uq_projects_name")),
    )
    op.create_table(
        "members",
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_members_project_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_members_user_id")),
        sa.PrimaryKeyConstraint("project_id", "user_id", name=op.f("pk_members")),
    )
    op.create_table(
        "project_guidelines",
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("guideline_id", sa.Integer(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["guideline_id"], ["guidelines.id"], name=op.f("fk_project_guidelines_guideline_id")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_project_guidelines_project_id")),
        sa.PrimaryKeyConstraint("project_id", "version", name=op.f("pk_project_guidelines")),
    )
    op.create_table(
        "acknowledgements",
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=False),
        sa.Column("guideline_id", sa.Integer(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["guideline_id"], ["guidelines.id"], name=op.f("fk_acknowledgements_guideline_id")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_acknowledgements_project_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_acknowledgements_user_id")),
        sa.PrimaryKeyConstraint("user_id", "project_id", "guideline_id", name=op.f("pk_acknowledgements")),
    )


def _tables_of_accounts() -> None:
    op.create_table(
        "secrets",
        sa.Column("name", sa.String(length=50), nullable=False),
        sa.Column("value", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_secrets")),
    )
    op.create_table(
        "sessions",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("expires", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_sessions_user_id")),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_sessions")),
    )
    op.create_index("ix_sessions_user_id", "sessions", ["user_id"])
    op.create_table(
        "invites",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("admin", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=True),
        sa.Column("user_id", sa.Integer(), nullable=True),
        sa.Column("used_by", sa.Integer(), nullable=True),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("expires", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_invites_project_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_invites_user_id")),
        sa.ForeignKeyConstraint(["used_by"], ["users.id"], name=op.f("fk_invites_used_by")),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_invites")),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=True),
        sa.Column("action", sa.String(length=50), nullable=False),
        sa.Column("about", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_audit_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index("ix_audit_action_created", "audit", ["action", "created"])
    op.create_table(
        "exports",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=True),
        sa.Column("user_id", sa.Integer(), nullable=True),
        sa.Column("query", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("last_judgement", sa.Integer(), nullable=False),
        sa.Column("num_rows", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_exports_project_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_exports_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_exports")),
    )
