"""The tables as SQLAlchemy Core sees them; `migrations/` makes them."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

SCHEMA: Final = "anchor"
MIGRATIONS: Final = "anchor_svc.migrations"

_metadata = sa.MetaData()

LOGS: Final = sa.Table(
    "logs",
    _metadata,
    sa.Column("log_uid", sa.LargeBinary, primary_key=True),
    sa.Column("alias", sa.Text),
    sa.Column("origin", sa.Text),
    sa.Column("suite", sa.Text),
    sa.Column("size", sa.BigInteger),
    sa.Column("root", sa.LargeBinary),
    sa.Column("tiled_size", sa.BigInteger),
    sa.Column("writer_epoch", sa.BigInteger),
    sa.Column("created_at_ns", sa.BigInteger),
)
ENTRIES: Final = sa.Table(
    "entries",
    _metadata,
    sa.Column("log_uid", sa.LargeBinary, primary_key=True),
    sa.Column("start_index", sa.BigInteger, primary_key=True),
    sa.Column("bundle", sa.LargeBinary),
)
LEDGERS: Final = sa.Table(
    "ledgers",
    _metadata,
    sa.Column("log_uid", sa.LargeBinary, primary_key=True),
    sa.Column("ledger_uid", sa.LargeBinary, primary_key=True),
    sa.Column("suite", sa.Text),
    sa.Column("seq", sa.BigInteger),
    sa.Column("receipt_hash", sa.LargeBinary),
    sa.Column("log_index", sa.BigInteger),
    sa.Column("run_start_seq", sa.BigInteger),
    sa.Column("forked_seq", sa.BigInteger),
)
RUNS: Final = sa.Table(
    "runs",
    _metadata,
    sa.Column("log_uid", sa.LargeBinary, primary_key=True),
    sa.Column("ledger_uid", sa.LargeBinary, primary_key=True),
    sa.Column("start_seq", sa.BigInteger, primary_key=True),
    sa.Column("start_index", sa.BigInteger),
)
CHECKPOINTS: Final = sa.Table(
    "checkpoints",
    _metadata,
    sa.Column("log_uid", sa.LargeBinary, primary_key=True),
    sa.Column("size", sa.BigInteger, primary_key=True),
    sa.Column("root", sa.LargeBinary),
    sa.Column("note", sa.LargeBinary),
    sa.Column("intended_at_ns", sa.BigInteger),
    sa.Column("published_at_ns", sa.BigInteger),
)
ANCHORS: Final = sa.Table(
    "anchors",
    _metadata,
    sa.Column("log_uid", sa.LargeBinary, primary_key=True),
    sa.Column("size", sa.BigInteger, primary_key=True),
    sa.Column("sink", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text),
    sa.Column("acknowledged_at_ns", sa.BigInteger),
    sa.Column("evidence", sa.LargeBinary),
)
POLICIES: Final = sa.Table(
    "policies",
    _metadata,
    sa.Column("log_uid", sa.LargeBinary, primary_key=True),
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("version", sa.BigInteger, primary_key=True),
    sa.Column("text", sa.LargeBinary),
    sa.Column("set_at_ns", sa.BigInteger),
    sa.Column("set_by", sa.Text),
)
