"""Rows of large databases, as `log fsck` and `restore` read them: a page at a time."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from ledger_svc.storage import tables
from provledger.db import migrate, open_engine
from provledger.db.engine import begin_write
from provledger_cli.tlog import stored


def test_the_kids_of_receipts_are_looked_for_page_by_page(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All batches at once take longer than a statement may, in a large ledger."""
    engine = open_engine(database_url, "ledger")
    migrate(engine, "ledger_svc.migrations", "ledger")
    kids = ["w-1", "w-1", "w-2", "w-1", "w-3", "w-3", "w-4"]
    rows = stored.LedgerRows(engine)
    monkeypatch.setattr(stored, "_BATCHES_PAGE", 2, raising=False)
    said: list[tuple[str, int]] = []

    def note(_: object, cursor: sa.engine.interfaces.DBAPICursor, text: str, *__: object) -> None:
        if "FROM batches" in text:
            said.append((text, cursor.rowcount))

    try:
        assert rows.kids() == set()
        with begin_write(engine) as connection:
            for at, kid in enumerate(kids):
                values = {
                    "ledger_uid": b"a" if at < 4 else b"b",
                    "batch_seq": at % 4,
                    "kid": kid,
                    "first_index": 0,
                    **dict.fromkeys(("body", "sig", "leaf_hashes", "siblings"), b""),
                }
                connection.execute(tables.batches.insert().values(**values))
        event.listen(engine, "after_cursor_execute", note)
        assert rows.kids() == {"w-1", "w-2", "w-3", "w-4"}
    finally:
        rows.close()
    assert len(said) == 4
    assert all("LIMIT" in text and count <= 2 for text, count in said)
