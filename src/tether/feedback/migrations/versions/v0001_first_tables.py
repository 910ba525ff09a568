"""The first tables: users, guidelines, prompts, responses, items, assignments, judgements."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "guidelines",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_guidelines")),
        sa.UniqueConstraint("key", name=op.f("uq_guidelines_key")),
    )
    op.create_table(
        "prompts",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("messages", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("token_ids", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("meta", sa.JSON(none_as_null=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prompts")),
        sa.UniqueConstraint("key", name=op.f("uq_prompts_key")),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.CheckConstraint("kind IN ('human', 'ai', 'simulated')", name=op.f("ck_users_kind")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("name", name=op.f("uq_users_name")),
    )
    op.create_table(
        "items",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("prompt_id", sa.Integer(), nullable=False),
        sa.Column("overlap", sa.Integer(), nullable=False),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.CheckConstraint("kind IN ('pair', 'ranking')", name=op.f("ck_items_kind")),
        sa.CheckConstraint("done >= 0 AND done <= overlap", name=op.f("ck_items_done")),
        sa.ForeignKeyConstraint(["prompt_id"], ["prompts.id"], name=op.f("fk_items_prompt_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_items")),
        sa.UniqueConstraint("key", name=op.f("uq_items_key")),
    )
    op.create_index("ix_items_open", "items", ["id"], unique=False, sqlite_where=sa.text("done < overlap"))
    op.create_table(
        "responses",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("prompt_id", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("token_ids", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("ended", sa.Boolean(), nullable=False),
        sa.Column("checkpoint", sa.String(length=500), nullable=True),
        sa.Column("sampling", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("meta", sa.JSON(none_as_null=True), nullable=True),
        sa.ForeignKeyConstraint(["prompt_id"], ["prompts.id"], name=op.f("fk_responses_prompt_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_responses")),
        sa.UniqueConstraint("key", name=op.f("uq_responses_key")),
    )
    op.create_table(
        "assignments",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("item_id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("shown", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("claimed", sa.Float(), nullable=False),
        sa.Column("expires", sa.Float(), nullable=False),
        sa.CheckConstraint("state IN ('open', 'done', 'skipped')", name=op.f("ck_assignments_state")),
        sa.ForeignKeyConstraint(["item_id"], ["items.id"], name=op.f("fk_assignments_item_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_assignments_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_assignments")),
        sa.UniqueConstraint("user_id", "item_id", name=op.f("uq_assignments_user_id_item_id")),
    )
    op.create_index("ix_assignments_item_id_state", "assignments", ["item_id", "state"], unique=False)
    op.create_index(
        "ix_assignments_open", "assignments", ["user_id"], unique=False, sqlite_where=sa.text("state = 'open'")
    )
    op.create_table(
        "item_responses",
        sa.Column("item_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("response_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["item_id"], ["items.id"], name=op.f("fk_item_responses_item_id")),
        sa.ForeignKeyConstraint(["response_id"], ["responses.id"], name=op.f("fk_item_responses_response_id")),
        sa.PrimaryKeyConstraint("item_id", "position", name=op.f("pk_item_responses")),
        sa.UniqueConstraint("item_id", "response_id", name=op.f("uq_item_responses_item_id_response_id")),
    )
    op.create_table(
        "judgements",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("assignment_id", sa.Integer(), nullable=False),
        sa.Column("item_id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("guideline_id", sa.Integer(), nullable=False),
        sa.Column("action", sa.String(length=16), nullable=False),
        sa.Column("ranking", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("strength", sa.Float(), nullable=True),
        sa.Column("all_bad", sa.Boolean(), nullable=False),
        sa.Column("skip_reason", sa.Text(), nullable=True),
        sa.Column("rationale", sa.Text(), nullable=True),
        sa.Column("seconds", sa.Float(), nullable=True),
        sa.Column("submit_key", sa.String(length=100), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("supersedes", sa.Integer(), nullable=True),
        sa.Column("created", sa.Float(), nullable=False),
        sa.CheckConstraint("(action = 'rank') = (ranking IS NOT NULL)", name=op.f("ck_judgements_ranking")),
        sa.CheckConstraint("(action = 'skip') = (skip_reason IS NOT NULL)", name=op.f("ck_judgements_skip_reason")),
        sa.CheckConstraint("action IN ('rank', 'skip', 'undo')", name=op.f("ck_judgements_action")),
        sa.CheckConstraint(
            "strength IS NULL OR (strength >= 0 AND strength <= 3)", name=op.f("ck_judgements_strength")
        ),
        sa.ForeignKeyConstraint(["assignment_id"], ["assignments.id"], name=op.f("fk_judgements_assignment_id")),
        sa.ForeignKeyConstraint(["guideline_id"], ["guidelines.id"], name=op.f("fk_judgements_guideline_id")),
        sa.ForeignKeyConstraint(["item_id"], ["items.id"], name=op.f("fk_judgements_item_id")),
        sa.ForeignKeyConstraint(["supersedes"], ["judgements.id"], name=op.f("fk_judgements_supersedes")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_judgements_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_judgements")),
        sa.UniqueConstraint("assignment_id", "revision", name=op.f("uq_judgements_assignment_id_revision")),
        sa.UniqueConstraint("submit_key", name=op.f("uq_judgements_submit_key")),
        sa.UniqueConstraint("supersedes", name=op.f("uq_judgements_supersedes")),
    )
    op.create_index("ix_judgements_item_id", "judgements", ["item_id"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_judgements_item_id", table_name="judgements")
    op.drop_table("judgements")
    op.drop_table("item_responses")
    op.drop_index("ix_assignments_open", table_name="assignments", sqlite_where=sa.text("state = 'open'"))
    op.drop_index("ix_assignments_item_id_state", table_name="assignments")
    op.drop_table("assignments")
    op.drop_table("responses")
    op.drop_index("ix_items_open", table_name="items", sqlite_where=sa.text("done < overlap"))
    op.drop_table("items")
    op.drop_table("users")
    op.drop_table("prompts")
    op.drop_table("guidelines")
