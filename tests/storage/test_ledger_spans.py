"""The search by span on SQLite, against looking at every row."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import Connection

from ledger_svc.chain import Head, HeadState
from ledger_svc.storage import ListQuery, PageBounds, lookups
from ledger_svc.storage.database import Database
from ledger_svc.storage.spans import SPAN_SEQS, search
from ledger_svc.storage.sql import Sql

UID = b"u" * 16
SQL = Sql(is_sqlite=True)
RESOURCES = [("Version", f"v{n}") for n in range(4)] + [("Product", "v0")]
LAST_SEQ = 700 * SPAN_SEQS


def _insert(connection: Connection, rows: list[tuple[int, str, str, str]]) -> None:
    for seq, *row in rows:
        name = seq.to_bytes(16, "big")
        connection.exec_driver_sql(
            SQL("INSERT INTO entries ({entry_names}) VALUES ({entry_marks})"),
            (UID, seq, seq, name, name, b"", 0, 0, 0, str(seq), "mutation", *row, b"", b"s", b"p"),
        )


@pytest.fixture(scope="module")
def rows() -> list[tuple[int, str, str, str]]:
    """Seqs on both sides of the borders of spans, thick in some spans, none at all in most."""
    rng = random.Random(20261126)
    seqs = {span * SPAN_SEQS + step for span in (0, 1, 2, 3, 255, 256, 699) for step in (0, 1, -1)}
    seqs |= {rng.randrange(2 * SPAN_SEQS) for _ in range(200)}
    seqs |= {rng.randrange(LAST_SEQ) for _ in range(200)}
    seqs |= set(range(SPAN_SEQS - 100, SPAN_SEQS + 100)) | {LAST_SEQ}
    seqs.discard(-1)
    return [(seq, *rng.choice(RESOURCES), rng.choice(["bot", "ann"])) for seq in sorted(seqs)]


@pytest.fixture(scope="module")
def connection(
    rows: list[tuple[int, str, str, str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Connection]:
    path: Path = tmp_path_factory.mktemp("spans") / "ledger.db"
    database = Database.open(f"sqlite:///{path}")
    database.migrate()
    with database._engine.connect() as opened:
        _insert(opened, rows)
        yield opened
    database._engine.dispose()


@pytest.mark.parametrize("limit", [1, 7, 100, 10_000])
@pytest.mark.parametrize("first", [0, SPAN_SEQS - 1, SPAN_SEQS, 5 * SPAN_SEQS, LAST_SEQ])
@pytest.mark.parametrize("last", [0, SPAN_SEQS - 1, SPAN_SEQS, 300 * SPAN_SEQS, LAST_SEQ])
def test_search_finds_what_a_look_at_each_row_finds(
    connection: Connection,
    rows: list[tuple[int, str, str, str]],
    first: int,
    last: int,
    limit: int,
) -> None:
    for resource in RESOURCES:
        by_resource = [("resource_type", resource[0]), ("resource_id", resource[1])]
        found = search(connection, SQL, UID, by_resource, first, last, limit)
        fitting = [row[0] for row in rows if first <= row[0] <= last and row[1:3] == resource]
        assert [row[0] for row in found] == fitting[:limit]
    found = search(connection, SQL, UID, [("actor_id", "ann")], first, last, limit)
    fitting = [row[0] for row in rows if first <= row[0] <= last and row[3] == "ann"]
    assert [row[0] for row in found] == fitting[:limit]
    assert not search(connection, SQL, b"v" * 16, [("actor_id", "ann")], first, last, limit)


def test_row_has_what_a_page_needs(connection: Connection) -> None:
    row = search(connection, SQL, UID, [("actor_id", "ann")], 0, LAST_SEQ, 1)[0]
    assert tuple(row[1:]) == (2, "mutation", row[3], "ann")


def test_every_statement_reads_the_index_alone(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[str] = []
    real = Connection.exec_driver_sql

    def explained(self: Connection, statement: str, parameters: object = None) -> object:
        steps = real(self, f"EXPLAIN QUERY PLAN {statement}", parameters).all()  # type: ignore[arg-type]
        plans.append(" | ".join(step[3] for step in steps))
        return real(self, statement, parameters)  # type: ignore[arg-type]

    monkeypatch.setattr(Connection, "exec_driver_sql", explained)
    by_resource = [("resource_type", "Version"), ("resource_id", "none")]
    search(connection, SQL, UID, by_resource, 0, LAST_SEQ, 10)
    search(connection, SQL, UID, [("actor_id", "none")], 0, LAST_SEQ, 10)
    # 1, 2, 4 and so on to 256 spans at a time, and the rest.
    assert len(plans) == 2 * 10
    for number, plan in enumerate(plans):
        one, index = number % 10 == 0, "resource" if number < 10 else "actor"
        assert f"entries_{index}_span (ledger_uid=? AND <expr>=? AND" in plan
        assert ("TEMP B-TREE" in plan) == (not one), "a single span is in order already"
        assert "SCAN e" not in plan


def test_page_goes_by_span_and_looks_at_the_rest(
    connection: Connection,
    rows: list[tuple[int, str, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    query = ListQuery(resource_type="Version", resource_id="v1", actor_id="bot")
    state = HeadState(Head(LAST_SEQ, b"", 0), 7, "")
    monkeypatch.setattr(lookups, "get_head", lambda *_: state)
    monkeypatch.setattr(lookups, "get_rows", lambda _connection, _sql, _uid, seqs, _full: seqs)
    bounds = PageBounds(receipts=10_000, rows=10_000, size_bytes=1)
    page = lookups.find_page(connection, SQL, UID, query, -1, bounds, full=False)
    found: Sequence[Any] = page.found
    assert list(found) == [row[0] for row in rows if row[1:] == ("Version", "v1", "bot")]
    assert page.ended
    assert page.logged_seq == 7
