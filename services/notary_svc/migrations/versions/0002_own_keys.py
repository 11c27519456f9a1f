"""The notary's own verifier keys: whose memory this database is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table("own_keys", sa.Column("vkey", sa.Text, primary_key=True))


def downgrade() -> None:
    op.drop_table("own_keys")
