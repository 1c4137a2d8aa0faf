"""Objects, their version, sessions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "objects",
        sa.Column("kind", sa.String, primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("owner", sa.String),
        sa.Column("body", sa.JSON, nullable=False),
        sa.Column("changed", sa.Float, nullable=False),
    )
    meta = op.create_table(
        "meta",
        sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1"), primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(meta, [{"id": 1, "version": 0}])
    op.create_table(
        "sessions",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("user", sa.String, nullable=False),
        sa.Column("resource", sa.String, nullable=False),
        sa.Column("account", sa.String, nullable=False),
        sa.Column("target", sa.String, nullable=False),
        sa.Column("protocol", sa.String, nullable=False),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("started", sa.Float, nullable=False),
        sa.Column("ended", sa.Float),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("statements", sa.BigInteger, nullable=False),
        sa.Column("bytes_in", sa.BigInteger, nullable=False),
        sa.Column("bytes_out", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
    )
    op.create_index("sessions_started", "sessions", ["started"])
    op.create_index("sessions_user", "sessions", ["user", "started"])
    op.create_index("sessions_resource", "sessions", ["resource", "started"])
    op.create_index("sessions_status", "sessions", ["status"])
