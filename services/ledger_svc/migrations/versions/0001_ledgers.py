"""Ledgers, their heads, receipts, signed batches, and places in the log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_BYTEWISE = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "ledgers",
        sa.Column("ledger_uid", sa.LargeBinary, primary_key=True),
        sa.Column("tenant", _BYTEWISE, nullable=False),
        sa.Column("ledger", _BYTEWISE, nullable=False),
        sa.Column("suite", sa.Text, nullable=False),
        sa.Column("log_name", sa.Text, nullable=False),
        sa.Column("log_origin", sa.Text, nullable=False),
        sa.Column("created_at_ns", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("tenant", "ledger", name="ledgers_name"),
    )
    op.create_table(
        "heads",
        sa.Column("ledger_uid", sa.LargeBinary, primary_key=True),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("t_ns", sa.BigInteger, nullable=False),
        sa.Column("receipt_hash", sa.LargeBinary, nullable=False),
        sa.Column("logged_seq", sa.BigInteger, nullable=False),
        sa.Column("read_only_reason", sa.Text, nullable=False),
        sa.Column("lease_owner", sa.Text, nullable=False),
        sa.Column("lease_until_ns", sa.BigInteger, nullable=False),
    )
    _create_entries()
    op.create_table(
        "batches",
        sa.Column("ledger_uid", sa.LargeBinary, primary_key=True),
        sa.Column("batch_seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("kid", sa.Text, nullable=False),
        sa.Column("first_index", sa.Integer, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("sig", sa.LargeBinary, nullable=False),
        sa.Column("leaf_hashes", sa.LargeBinary, nullable=False),
        sa.Column("siblings", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "log_runs",
        sa.Column("ledger_uid", sa.LargeBinary, primary_key=True),
        sa.Column("start_seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("start_index", sa.BigInteger, nullable=False),
        sa.Column("count", sa.BigInteger, nullable=False),
    )
    if op.get_bind().dialect.name == "postgresql":
        # A receipt of usual size stays in one piece: PostgreSQL would otherwise try to compress
        # every row of more than 2 KiB, which costs more than all the rest of its insert.
        op.execute("ALTER TABLE entries SET (toast_tuple_target = 8160)")
        op.execute("ALTER TABLE batches ALTER COLUMN leaf_hashes SET STORAGE EXTERNAL")
        # The head row is rewritten by every flush; room on its page keeps that cheap.
        op.execute("ALTER TABLE heads SET (fillfactor = 50)")


def _create_entries() -> None:
    op.create_table(
        "entries",
        sa.Column("ledger_uid", sa.LargeBinary, primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("t_ns", sa.BigInteger, nullable=False),
        sa.Column("receipt_id", sa.LargeBinary, nullable=False),
        sa.Column("receipt_hash", sa.LargeBinary, nullable=False),
        sa.Column("payload_hash", sa.LargeBinary, nullable=False),
        sa.Column("batch_seq", sa.BigInteger, nullable=False),
        sa.Column("batch_index", sa.Integer, nullable=False),
        sa.Column("commitment_size", sa.Integer, nullable=False),
        sa.Column("request_id", _BYTEWISE, nullable=False),
        sa.Column("receipt_type", sa.Text, nullable=False),
        sa.Column("resource_type", _BYTEWISE, nullable=False),
        sa.Column("resource_id", _BYTEWISE, nullable=False),
        sa.Column("actor_id", _BYTEWISE, nullable=False),
        sa.Column("secret", sa.LargeBinary, nullable=False),
        sa.Column("statement", sa.LargeBinary, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
    )
    for name, columns, unique in (
        ("entries_request", ["ledger_uid", "request_id"], True),
        ("entries_receipt", ["ledger_uid", "receipt_id"], True),
        ("entries_resource", ["ledger_uid", "resource_type", "resource_id", "seq"], False),
        ("entries_actor", ["ledger_uid", "actor_id", "seq"], False),
    ):
        op.create_index(name, "entries", columns, unique=unique)


def downgrade() -> None:
    for name in ("log_runs", "batches", "entries", "heads", "ledgers"):
        op.drop_table(name)
