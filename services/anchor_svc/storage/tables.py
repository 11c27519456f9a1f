"""The tables as SQLAlchemy Core sees them; `migrations/` makes them."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from provledger.db.columns import Blob, Int, Text, typed_table

SCHEMA: Final = "anchor"
MIGRATIONS: Final = "anchor_svc.migrations"

_metadata = sa.MetaData()

LOGS: Final = typed_table(
    "logs",
    _metadata,
    "log_uid",
    log_uid=Blob,
    alias=Text,
    origin=Text,
    suite=Text,
    size=Int,
    root=Blob,
    tiled_size=Int,
    writer_epoch=Int,
    created_at_ns=Int,
)
ENTRIES: Final = typed_table(
    "entries",
    _metadata,
    "log_uid start_index",
    log_uid=Blob,
    start_index=Int,
    bundle=Blob,
)
LEDGERS: Final = typed_table(
    "ledgers",
    _metadata,
    "log_uid ledger_uid",
    log_uid=Blob,
    ledger_uid=Blob,
    suite=Text,
    seq=Int,
    receipt_hash=Blob,
    log_index=Int,
    run_start_seq=Int,
    forked_seq=Int,
)
RUNS: Final = typed_table(
    "runs",
    _metadata,
    "log_uid ledger_uid start_seq",
    log_uid=Blob,
    ledger_uid=Blob,
    start_seq=Int,
    start_index=Int,
)
CHECKPOINTS: Final = typed_table(
    "checkpoints",
    _metadata,
    "log_uid size",
    log_uid=Blob,
    size=Int,
    root=Blob,
    note=Blob,
    intended_at_ns=Int,
    published_at_ns=Int,
)
ANCHORS: Final = typed_table(
    "anchors",
    _metadata,
    "log_uid size sink",
    log_uid=Blob,
    size=Int,
    sink=Text,
    kind=Text,
    acknowledged_at_ns=Int,
    evidence=Blob,
)
POLICIES: Final = typed_table(
    "policies",
    _metadata,
    "log_uid tenant version",
    log_uid=Blob,
    tenant=Text,
    version=Int,
    text=Blob,
    set_at_ns=Int,
    set_by=Text,
)
