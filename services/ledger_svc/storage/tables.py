"""The ledger's tables. Every primary key leads with the ledger's uid, so that they partition by it.

    ledgers    what is fixed for each ledger
    heads      its last receipt (appends lock this row), how far the log has it, the relay's lease
    entries    the receipts; entry bytes are rebuilt, not stored
    batches    the witness's signature, once for each flush
    log_runs   where receipts are in the log, in runs

Receipts have strictly increasing times, so that a time range is found by bisecting the primary
key. Text is compared by bytes (`COLLATE "C"` in PostgreSQL, SQLite's own default).
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

from ledger_svc.storage.sql import SPAN_BITS

SCHEMA: Final = "ledger"
"""PostgreSQL schema of the service."""

metadata: Final = sa.MetaData()

_BYTEWISE: Final = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _column(name: str, kind: Any, *args: Any, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, *args, nullable=False, **options)


ledgers: Final = sa.Table(
    "ledgers",
    metadata,
    _column("ledger_uid", sa.LargeBinary, primary_key=True),
    _column("tenant", _BYTEWISE),
    _column("ledger", _BYTEWISE),
    _column("suite", sa.Text),
    _column("log_name", sa.Text),
    _column("log_origin", sa.Text),
    _column("created_at_ns", sa.BigInteger),
    sa.UniqueConstraint("tenant", "ledger", name="ledgers_name"),
)

heads: Final = sa.Table(
    "heads",
    metadata,
    _column("ledger_uid", sa.LargeBinary, primary_key=True),
    _column("seq", sa.BigInteger),
    _column("t_ns", sa.BigInteger),
    _column("receipt_hash", sa.LargeBinary),
    _column("logged_seq", sa.BigInteger),
    _column("read_only_reason", sa.Text),
    _column("lease_owner", sa.Text),
    _column("lease_until_ns", sa.BigInteger),
)

entries: Final = sa.Table(
    "entries",
    metadata,
    _column("ledger_uid", sa.LargeBinary, primary_key=True),
    _column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    _column("t_ns", sa.BigInteger),
    _column("receipt_id", sa.LargeBinary),
    _column("receipt_hash", sa.LargeBinary),
    _column("payload_hash", sa.LargeBinary),
    _column("batch_seq", sa.BigInteger),
    _column("batch_index", sa.Integer),
    _column("commitment_size", sa.Integer),
    _column("request_id", _BYTEWISE),
    _column("receipt_type", sa.Text),
    _column("resource_type", _BYTEWISE),
    _column("resource_id", _BYTEWISE),
    _column("actor_id", _BYTEWISE),
    _column("secret", sa.LargeBinary),
    _column("statement", sa.LargeBinary),
    _column("payload", sa.LargeBinary),
)

sa.Index("entries_request", entries.c.ledger_uid, entries.c.request_id, unique=True)
sa.Index("entries_receipt", entries.c.ledger_uid, entries.c.receipt_id, unique=True)
# The two that receipts fall on all over the place. SQLite has them in spans (`storage.spans`).
_RESOURCE: Final = (entries.c.resource_type, entries.c.resource_id, entries.c.seq)
_ACTOR: Final = (entries.c.actor_id, entries.c.seq)
for _name, _columns in (("entries_resource", _RESOURCE), ("entries_actor", _ACTOR)):
    sa.Index(_name, entries.c.ledger_uid, *_columns).ddl_if("postgresql")
    sa.Index(
        f"{_name}_span",
        entries.c.ledger_uid,
        sa.text(f"(seq >> {SPAN_BITS})"),
        *_columns,
    ).ddl_if("sqlite")

batches: Final = sa.Table(
    "batches",
    metadata,
    _column("ledger_uid", sa.LargeBinary, primary_key=True),
    _column("batch_seq", sa.BigInteger, primary_key=True, autoincrement=False),
    _column("kid", sa.Text),
    _column("first_index", sa.Integer),
    _column("body", sa.LargeBinary),
    _column("sig", sa.LargeBinary),
    _column("leaf_hashes", sa.LargeBinary),
    _column("siblings", sa.LargeBinary),
)

log_runs: Final = sa.Table(
    "log_runs",
    metadata,
    _column("ledger_uid", sa.LargeBinary, primary_key=True),
    _column("start_seq", sa.BigInteger, primary_key=True, autoincrement=False),
    _column("start_index", sa.BigInteger),
    _column("count", sa.BigInteger),
)
