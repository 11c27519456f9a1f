"""The key registry: one row for each key, and one that counts the changes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    registry = op.create_table(
        "registry",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.CheckConstraint("id = 1", name="registry_has_one_row"),
    )
    op.create_table(
        "keys",
        sa.Column("kid", sa.Text, primary_key=True),
        sa.Column("number", sa.BigInteger, nullable=False, unique=True),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("uri", sa.Text, nullable=False),
        sa.Column("jwk", sa.LargeBinary, nullable=False),
        sa.Column("thumbprint", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("created_at_ns", sa.BigInteger, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("not_before_ns", sa.BigInteger, nullable=True),
        sa.Column("not_after_ns", sa.BigInteger, nullable=True),
        sa.Column("revocation_reason", sa.Text, nullable=False),
    )
    # What the domain module holds anyway, once more where a mistake of ours cannot get past it.
    op.create_index(
        "keys_one_active",
        "keys",
        ["purpose"],
        unique=True,
        sqlite_where=sa.text("state = 'active'"),
        postgresql_where=sa.text("state = 'active'"),
    )
    op.create_index(
        "keys_one_per_epoch",
        "keys",
        ["purpose", "epoch"],
        unique=True,
        sqlite_where=sa.text("epoch > 0"),
        postgresql_where=sa.text("epoch > 0"),
    )
    op.bulk_insert(registry, [{"id": 1, "revision": 0}])


def downgrade() -> None:
    op.drop_table("keys")
    op.drop_table("registry")
