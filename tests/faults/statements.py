"""The statements that services make on PostgreSQL, as patterns to attack them by.

A pattern is searched for in a statement on one line (`pgproxy.shape`), or in a COMMIT and what its
transaction wrote. Every statement that is made is of one of them, and so is every transaction that
writes: `unmet` finds those that are not, which a changed table or a new one makes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

FLUSHED = "^COMMIT of COPY entries"
"""Receipts that are not stored by a single statement."""

UNKNOWN_HEAD = (FLUSHED, "^UPDATE heads SET seq")
"""What is seldom said where the ledger knows its heads, and always where it does not."""

_ANY_TRANSACTION = ("^COMMIT$", "^BEGIN .*READ COMMITTED", "^BEGIN .*READ ONLY")

WORKING: Mapping[str, tuple[str, ...]] = {
    "ledger": (
        *_ANY_TRANSACTION,
        "^COPY entries", "^WITH moved .*INTO entries .*INTO batches", "^INSERT INTO batches",
        "^UPDATE heads SET seq", "^UPDATE heads SET logged_seq",
        "^UPDATE heads SET lease_owner = [$]", "^UPDATE heads SET lease_owner = ''",
        "^SELECT .* FROM heads h WHERE .* FOR UPDATE", "^SELECT .* FROM heads h WHERE h.ledger_uid",
        "^SELECT .* FROM heads h LEFT JOIN entries", "^SELECT .* FROM heads h JOIN ledgers",
        "^SELECT .* FROM ledgers l JOIN heads", "^SELECT .* FROM ledgers l WHERE",
        "^INSERT INTO ledgers", "^INSERT INTO heads",
        "^SELECT .* FROM entries ", "^SELECT .* FROM batches",
        "^SELECT .* FROM log_runs", "^INSERT INTO log_runs", "^UPDATE log_runs",
        FLUSHED, "^COMMIT of INSERT INTO ledgers",
        "^COMMIT of .*INTO log_runs", "^COMMIT of .*UPDATE log_runs",
        "^COMMIT of UPDATE heads SET lease_owner = [$]",
        "^COMMIT of UPDATE heads SET lease_owner = ''",
    ),
    "anchor": (
        *_ANY_TRANSACTION,
        "^WITH held .*UPDATE logs SET size .*INTO entries", "^WITH held .*UPDATE logs .*INTO runs",
        "^WITH held .*UPDATE checkpoints SET note", "^WITH held .*UPDATE checkpoints SET published",
        "^INSERT INTO anchors", "^INSERT INTO policies", "^SELECT .* FROM policies",
        "^SELECT .* FROM checkpoints", "^SELECT .* FROM anchors", "^SELECT .* FROM ledgers",
        "^SELECT .* FROM runs", "^INSERT INTO logs",
        "^INSERT INTO entries", "^INSERT INTO checkpoints",
        "^COMMIT of INSERT INTO anchors", "^COMMIT of INSERT INTO logs",
        "^COMMIT of .*INTO policies",
    ),
    "keys": (
        *_ANY_TRANSACTION,
        "^SELECT registry.* FOR UPDATE$", "^SELECT registry.* = [$]$", "^UPDATE registry",
        "^SELECT keys", "^INSERT INTO keys", "^SELECT key_events", "^INSERT INTO key_events",
        "^UPDATE key_events",
        "^COMMIT of INSERT INTO keys", "^COMMIT of .*INTO key_events",
        "^COMMIT of UPDATE key_events",
    ),
}  # fmt: skip
"""While clients append and read, and keys, ledgers, logs and policies are made."""

_ANY_START = ("^SELECT .*alembic_version", "^SELECT set_config", "^SELECT current_setting")

STARTING: Mapping[str, tuple[str, ...]] = {
    "ledger": (*_ANY_START, "pg_postmaster_start_time", "^SELECT CAST.to_regclass"),
    "anchor": (
        *_ANY_START, "^SELECT logs", "^UPDATE logs SET writer_epoch", "^SELECT entries",
        "^SELECT max.anchors.size.", "^SELECT policies",
        "^COMMIT of UPDATE logs SET writer_epoch=[(]",
    ),
    "keys": (*_ANY_START, "pg_postmaster_start_time", "^SELECT keys"),
}  # fmt: skip
"""At each start."""

_ANY_FIRST_START = (
    "pg_advisory_xact_lock", "^SELECT 1 FROM pg_catalog.pg_namespace", "^CREATE SCHEMA",
    "pg_catalog.pg_class", "^CREATE TABLE", "^CREATE (UNIQUE )?INDEX", "^ALTER TABLE",
    "^INSERT INTO alembic_version", "^UPDATE alembic_version", "^SET LOCAL",
    "^COMMIT of .*CREATE TABLE",
)  # fmt: skip

MIGRATING: Mapping[str, tuple[str, ...]] = {
    "ledger": _ANY_FIRST_START,
    "anchor": _ANY_FIRST_START,
    "keys": (*_ANY_FIRST_START, "^INSERT INTO registry"),
}
"""At the first start, which makes the tables."""

SELDOM: Mapping[str, tuple[str, ...]] = {
    "ledger": (
        "^SELECT count.* FROM heads",  # once, when a ledger is made or not found
        "^SELECT CAST.extract.epoch FROM clock_timestamp",  # when a ledger is made
        "^DELETE FROM log_runs",  # when the log has said two things of a place
        # It changes nothing: what it was to record is recorded, as where an answer was lost.
        "^COMMIT of UPDATE heads SET logged_seq = [^;]*$",
    ),
    "anchor": ("^SELECT checkpoints.note",),  # when a log is opened with a checkpoint to sign
    "keys": (),
}
"""Statements that no occasion makes for sure: they are known, and hit by chance only."""

DRIVER = (
    "^ROLLBACK$", "^;?$", "^SELECT 1$", "^select pg_catalog.version", "^select current_schema",
    "^show ", "^SAVEPOINT", "^RELEASE", "^ROLLBACK TO", "FROM pg_type", "^DEALLOCATE",
)  # fmt: skip
"""What is said of a connection, most of it by the driver and SQLAlchemy, and changes nothing."""


def unmet(service: str, statements: Iterable[str]) -> list[str]:
    """Those that are of no pattern."""
    known = (WORKING, STARTING, MIGRATING, SELDOM)
    texts = [*DRIVER, *(text for patterns in known for text in patterns[service])]
    patterns = [re.compile(text) for text in texts]
    return [each for each in statements if not any(p.search(each) for p in patterns)]
