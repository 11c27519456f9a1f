"""Rows of large databases, as `log fsck` and `restore` read them: a page at a time."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from anchor_svc.storage import tables as anchor_tables
from ledger_svc.storage import tables
from provledger.db import migrate, open_engine
from provledger.db.engine import begin_write
from provledger.errors import LogDamagedError
from provledger_cli.tlog import stored
from provledger_cli.tlog.places import Named, Place


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


def test_rows_of_an_anchor_come_back_as_they_are(database_url: str) -> None:
    """Of that log alone, with the smallest size that was published and is not signed."""
    engine = open_engine(database_url, "anchor")
    migrate(engine, anchor_tables.MIGRATIONS, "anchor")
    rows = stored.AnchorRows(engine)
    log = {"suite": "fips", "size": 0, "root": bytes(32), "tiled_size": 0}
    ledger = {"suite": "fips", "seq": 6, "receipt_hash": b"h" * 32, "log_index": 9}
    head = {"root": bytes(32), "intended_at_ns": 1}
    heads = [(4, b"note", 1), (5, None, None), (6, None, 1), (7, b"note", None)]
    anchor = {"sink": "s", "kind": "k", "acknowledged_at_ns": 1, "evidence": b""}
    try:
        with begin_write(engine) as connection:
            for number, uid in enumerate((b"a" * 16, b"b" * 16)):
                more = {
                    "alias": uid.hex(),
                    "origin": uid.hex(),
                    "writer_epoch": 0,
                    "created_at_ns": 1,
                }
                connection.execute(anchor_tables.LOGS.insert(), {"log_uid": uid, **log, **more})
                state = {"log_uid": uid, "ledger_uid": b"l", "run_start_seq": 5 + number}
                connection.execute(anchor_tables.LEDGERS.insert(), {**ledger, **state})
                for start_seq, start_index in ((0, 1), (3, 5), (5, 8))[number:]:
                    run = {"start_seq": start_seq, "start_index": start_index}
                    of = {"log_uid": uid, "ledger_uid": b"l"}
                    connection.execute(anchor_tables.RUNS.insert(), {**of, **run})
                for size, signed, at_ns in heads[: 2 + 2 * number]:
                    row = {"size": size, "note": signed, "published_at_ns": at_ns, **head}
                    connection.execute(anchor_tables.CHECKPOINTS.insert(), {"log_uid": uid, **row})
                row = {"log_uid": uid, "size": 4, **anchor}
                connection.execute(anchor_tables.ANCHORS.insert(), row)
        found = rows.log(b"a" * 16)
        assert (found.root, found.runs) == (bytes(32), 3)
        assert found.ledgers == {b"l": Place("fips", 6, b"h" * 32, 9, 5)}
        assert rows.log(b"b" * 16).runs == 2
        assert sorted(rows.runs(b"a" * 16, b"l", 3, 2)) == [(3, 5)]
        assert sorted(rows.runs(b"a" * 16, b"l", 3, 3)) == [(3, 5), (5, 8)]
        assert rows.unsigned_size(b"a" * 16, 0) is None
        assert rows.unsigned_size(b"a" * 16, 4) is None
        assert rows.unsigned_size(b"a" * 16, 5) == 5
        assert rows.unsigned_size(b"b" * 16, 7) == 6
        with begin_write(engine) as connection:
            connection.execute(sa.text("DELETE FROM checkpoints WHERE size = 4"))
        assert rows.unsigned_size(b"a" * 16, 0) == 4
    finally:
        rows.close()


def test_a_ledger_is_what_both_its_rows_say(database_url: str) -> None:
    """Receipts that no name or no head leads to count as none."""
    engine = open_engine(database_url, "ledger")
    migrate(engine, "ledger_svc.migrations", "ledger")
    rows = stored.LedgerRows(engine)

    def values(table: sa.Table, **given: object) -> dict[str, object]:
        made = {column.name: column.type.python_type() for column in table.columns}
        return {**made, **given}

    uid = b"u" * 16
    try:
        with begin_write(engine) as connection:
            for table, given in (
                (tables.ledgers, {"tenant": "t", "ledger": "l", "log_origin": "o"}),
                (tables.heads, {}),
                (tables.entries, {"statement": b"s", "receipt_hash": b"h"}),
            ):
                connection.execute(table.insert(), values(table, ledger_uid=uid, **given))
        assert rows.genesis(uid) == Named("tenants/t/ledgers/l", "o", b"s")
        assert rows.genesis(b"v" * 16) is None
        assert rows.hashes(uid, 0, 2) == [b"h", None]
        for table in (tables.heads, tables.ledgers):
            with begin_write(engine) as connection:
                kept = connection.execute(table.select()).mappings().one()
                connection.execute(table.delete())
            assert rows.hashes(uid, 0, 2) == [None, None]
            with begin_write(engine) as connection:
                connection.execute(table.insert(), dict(kept))
    finally:
        rows.close()


def test_a_value_of_another_type_is_damage_and_names_its_column() -> None:
    """SQLite takes a text where bytes were; it is no fault of ours."""
    assert stored._blob(memoryview(b"ab"), "root") == b"ab"
    with pytest.raises(LogDamagedError, match="column root"):
        stored._blob("ab", "root")
