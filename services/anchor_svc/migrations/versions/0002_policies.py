"""Policies that were set while the service ran, every version of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "policies",
        sa.Column("log_uid", sa.LargeBinary, primary_key=True),
        # tenants/{tenant}, or empty for the log.
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("version", sa.BigInteger, primary_key=True),
        # Empty in a version that took the policy back.
        sa.Column("text", sa.LargeBinary, nullable=False),
        sa.Column("set_at_ns", sa.BigInteger, nullable=False),
        sa.Column("set_by", sa.Text, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("policies")
