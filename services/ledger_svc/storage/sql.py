"""The few spellings in which SQLite and PostgreSQL differ, as far as the ledger's SQL needs them.

A statement is written once, with `?` for a parameter and these words in braces::

    {now_ns}       the database's clock in Unix nanoseconds (SQLite: of whole milliseconds)
    {lease_over}   a lease has ended, or ends later than any that is given by that clock
    {table}        which table `h`eads is (`provledger.db.continuity`); 0 on SQLite
    {for_update}   lock the row read; SQLite's write transactions hold the whole file already
    {among}        is one of the values of the next parameter, made by `Sql.values`
    {entry} {batch} {ledger} {state}      the columns of `e`ntries, batches, `l`edgers and `h`eads
    {named}        the genesis, of `e`ntries, states the name that is in `l`edgers
    {light}        those of `e`ntries, with statement, payload and secret empty
    {size}         bytes of statement and payload
    {span}         SQLite's span of an entry in the chain (`storage.spans`)
    {entry_names} {entry_marks} {batch_names} {batch_marks}      the same, for inserts

and sent through `Connection.exec_driver_sql`: prepared once by the driver, without SQLAlchemy's
compilation on each call, and with its error classes. Nothing else is ever put into a statement.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson

from ledger_svc.chain import BatchRow, Row

SPAN_BITS: Final = 13

_COLUMNS: Final = {
    "entry": ", ".join(f"e.{name}" for name in Row._fields),
    "size": "length(statement) + length(payload)",
    "span": f"e.seq >> {SPAN_BITS}",
    "entry_names": ", ".join(Row._fields),
    "entry_marks": ", ".join("?" * len(Row._fields)),
    "batch": ", ".join(BatchRow._fields),
    "batch_names": ", ".join(BatchRow._fields),
    "batch_marks": ", ".join("?" * len(BatchRow._fields)),
    "ledger": "l.ledger_uid, l.tenant, l.ledger, l.suite, l.log_name, l.log_origin, "
    "l.created_at_ns",
    "state": "h.seq, h.receipt_hash, h.t_ns, h.logged_seq, h.read_only_reason",
}
# The most that the setting `relay_lease_s` takes.
_LONGEST_LEASE_NS: Final = 600_000_000_000
_NAME: Final = """'"ledger":"tenants/' || l.tenant || '/ledgers/' || l.ledger || '"'"""
"""As in the text of a statement, where nothing but that member looks like it."""
_HEAVY: Final = frozenset({"secret", "statement", "payload"})


def _light(no_bytes: str) -> str:
    return ", ".join(no_bytes if name in _HEAVY else f"e.{name}" for name in Row._fields)


_SQLITE: Final = {
    "light": _light("x''"),
    "now_ns": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) * 1000000",
    "table": "0",
    "named": f"instr(e.statement, CAST({_NAME} AS BLOB)) > 0",
    "for_update": "",
    "among": "IN (SELECT value FROM json_each(?))",
}
_POSTGRES: Final = {
    "light": _light("''::bytea"),
    "now_ns": "CAST(extract(epoch FROM clock_timestamp()) * 1000000000 AS bigint)",
    "table": "h.tableoid::int8",
    "named": f"position(convert_to({_NAME}, 'UTF8') IN e.statement) > 0",
    "for_update": "FOR UPDATE",
    "among": "= ANY(?)",
}


class Sql:
    """One database's spelling of statements; call it with one. Safe from any thread."""

    def __init__(self, *, is_sqlite: bool) -> None:
        self.is_sqlite = is_sqlite
        self._words = _COLUMNS | (_SQLITE if is_sqlite else _POSTGRES)
        now_ns = self._words["now_ns"]
        self._words["lease_over"] = (
            f"lease_until_ns NOT BETWEEN {now_ns} AND {now_ns} + {_LONGEST_LEASE_NS}"
        )
        self._spelt: dict[str, str] = {}

    def __call__(self, statement: str) -> str:
        """The statement as this database's driver wants it; remembered."""
        spelt = self._spelt.get(statement)
        if spelt is None:
            spelt = statement.format_map(self._words)
            if not self.is_sqlite:
                spelt = spelt.replace("?", "%s")
            self._spelt[statement] = spelt
        return spelt

    def values(self, values: Sequence[str] | Sequence[int]) -> Any:
        """Many values as one parameter, so that their number does not change the statement."""
        return orjson.dumps(list(values)).decode() if self.is_sqlite else list(values)
