"""Logs, their entries until tiles hold them, heads, and what sinks returned.

Every primary key leads with the log, so that the tables can be divided by it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "logs",
        sa.Column("log_uid", sa.LargeBinary, primary_key=True),
        # "default" for the log that `logs/-` means; no two logs share one.
        sa.Column("alias", sa.Text, nullable=True, unique=True),
        sa.Column("origin", sa.Text, nullable=False, unique=True),
        sa.Column("suite", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("root", sa.LargeBinary, nullable=False),
        sa.Column("tiled_size", sa.BigInteger, nullable=False),
        sa.Column("writer_epoch", sa.BigInteger, nullable=False),
        sa.Column("created_at_ns", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "entries",
        sa.Column("log_uid", sa.LargeBinary, primary_key=True),
        sa.Column("start_index", sa.BigInteger, primary_key=True),
        # Framed as an entry bundle of c2sp.org/tlog-tiles: u16 length || entry, one after another.
        sa.Column("bundle", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "ledgers",
        sa.Column("log_uid", sa.LargeBinary, primary_key=True),
        sa.Column("ledger_uid", sa.LargeBinary, primary_key=True),
        sa.Column("suite", sa.Text, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("receipt_hash", sa.LargeBinary, nullable=False),
        sa.Column("log_index", sa.BigInteger, nullable=False),
        sa.Column("run_start_seq", sa.BigInteger, nullable=False),
        sa.Column("forked_seq", sa.BigInteger, nullable=True),
    )
    op.create_table(
        "runs",
        sa.Column("log_uid", sa.LargeBinary, primary_key=True),
        sa.Column("ledger_uid", sa.LargeBinary, primary_key=True),
        sa.Column("start_seq", sa.BigInteger, primary_key=True),
        sa.Column("start_index", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "checkpoints",
        sa.Column("log_uid", sa.LargeBinary, primary_key=True),
        sa.Column("size", sa.BigInteger, primary_key=True),
        sa.Column("root", sa.LargeBinary, nullable=False),
        sa.Column("note", sa.LargeBinary, nullable=True),
        sa.Column("intended_at_ns", sa.BigInteger, nullable=False),
        sa.Column("published_at_ns", sa.BigInteger, nullable=True),
    )
    op.create_table(
        "anchors",
        sa.Column("log_uid", sa.LargeBinary, primary_key=True),
        sa.Column("size", sa.BigInteger, primary_key=True),
        sa.Column("sink", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("acknowledged_at_ns", sa.BigInteger, nullable=False),
        sa.Column("evidence", sa.LargeBinary, nullable=False),
    )
    # For a sink's cursor, which may lie far behind those of the others.
    op.create_index("anchors_by_sink", "anchors", ["log_uid", "sink", "size"])
    if op.get_bind().dialect.name == "postgresql":
        # Bundles are mostly hexadecimal digests, which are gone again in a moment: compressing
        # them costs more than it saves.
        op.execute("ALTER TABLE entries ALTER COLUMN bundle SET STORAGE EXTERNAL")


def downgrade() -> None:
    for table in ("anchors", "checkpoints", "runs", "ledgers", "entries", "logs"):
        op.drop_table(table)
