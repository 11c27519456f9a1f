"""Every column of every row is bound: whatever is changed, VerifyRange names row and column."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from ledger_svc.app import Service
from ledger_svc.storage.tables import metadata
from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2
from provledger.db import begin_write
from provledger.errors import DataLossError
from tests.inmem.anchor import InMemoryAnchor
from tests.inmem.witness import InMemoryWitness
from tests.support.ledgering import (
    LEDGER,
    append_batch,
    create_ledger,
    document,
    draft,
    ledger_service,
    verify_all,
)

# Operational state of the relay, which nothing depends on (docs/trust.md).
UNTRUSTED = {"heads.lease_owner", "heads.lease_until_ns"}

# Eleven receipts of this ledger: the genesis, then flushes of 1 to 4, 5, and 6 to 10. Nine are
# logged, for `logged_seq` and runs to have something to be wrong about.
LAST = 10


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    witness, anchor = InMemoryWitness(), InMemoryAnchor()
    witness.strangers = 1
    async with ledger_service(
        f"sqlite:///{tmp_path / 'ledger.sqlite3'}", witness, anchor
    ) as running:
        other = "tenants/acme/ledgers/other"
        await create_ledger(running, other)
        await append_batch(running, [draft("o1"), draft("o2")], ledger=other)
        await append_batch(running, [draft(f"a{n}") for n in range(3)] + [document("a3")])
        await append_batch(running, [draft("b")])
        await append_batch(running, [draft(f"c{n}") for n in range(5)])
        await _log(running, 8)
        assert (await verify_all(running)).checked_count == LAST + 1
        yield running


async def _log(service: Service, last_seq: int) -> None:
    """Bring receipts up to `last_seq` to the log, as the relay does."""
    from ledger_svc.storage import LogRun
    from ledger_svc.witnessing import SUITES_TO_PB
    from provledger.api.anchor.v1 import anchor_pb2

    ledger = await service.storage.get_ledger("acme", "main")
    assert ledger is not None
    anchor = service.relay.anchor
    for first, last in ((0, 3), (4, last_seq)):
        read = await service.storage.entries_for_log(ledger, first, last - first + 1, 1 << 20)
        response = await anchor.SubmitLeaves(
            anchor_pb2.SubmitLeavesRequest(
                log=ledger.log_name,
                ledger_uid=ledger.uid,
                suite=SUITES_TO_PB[ledger.suite],
                start_seq=first,
                entries=read.entries,
            )
        )
        runs = [LogRun(run.start_seq, run.start_index, run.count) for run in response.runs]
        assert await service.storage.record_runs(ledger.uid, runs, first - 1, "test", 1.0)
        # Something of another ledger comes in between, so that there are two runs.
        anchor.leaves.append(bytes(32))  # type: ignore[attr-defined]


def change(service: Service, *statements: str) -> None:
    with begin_write(service.storage._engine) as connection:  # type: ignore[attr-defined]
        for statement in statements:
            statement = statement.replace(
                ":main", "(SELECT ledger_uid FROM ledgers WHERE ledger = 'main')"
            ).replace(":other", "(SELECT ledger_uid FROM ledgers WHERE ledger = 'other')")
            result = connection.execute(sa.text(statement))
            assert result.rowcount >= 1, f"changed nothing: {statement}"


async def fault(service: Service, name: str = LEDGER) -> tuple[int, str]:
    """The seq and column that VerifyRange names."""
    with pytest.raises(DataLossError) as caught:
        await verify_all(service, name)
    assert caught.value.reason == "CHAIN_BROKEN"
    return int(caught.value.metadata["seq"]), caught.value.metadata["column"]


ENTRY = "WHERE ledger_uid = :main AND seq = 7"
HEAD = "WHERE ledger_uid = :main"
BATCH = "WHERE ledger_uid = :main AND batch_seq = 6"
BATCH_REST = "kid, first_index, body, sig, leaf_hashes, siblings"
TREE = "batches.first_index, batches.leaf_hashes or batches.siblings"
# One byte in sixteen at the end of an Ed25519 signature is 0 already.
OTHER_END = "CASE substr({0}, -1) WHEN x'00' THEN x'01' ELSE x'00' END"
FLIP_LAST = "substr({0}, 1, length({0}) - 1) || " + OTHER_END


def flipped(column: str) -> str:
    return f"CAST({FLIP_LAST.format(column)} AS BLOB)"


# What is done, and the row and column that must be named.
CHANGES: dict[str, list[tuple[str, int, str]]] = {
    "entries.ledger_uid": [(f"UPDATE entries SET ledger_uid = :other {ENTRY}", 7, "seq")],
    "entries.seq": [
        (f"UPDATE entries SET seq = 99 {ENTRY}", 7, "seq"),
        (f"DELETE FROM entries {ENTRY}", 7, "seq"),
        ("DELETE FROM entries WHERE ledger_uid = :main AND seq = 10", 10, "seq"),
    ],
    "entries.t_ns": [
        (f"UPDATE entries SET t_ns = t_ns + 500 {ENTRY}", 7, "t_ns"),
        (f"UPDATE entries SET t_ns = 0 {ENTRY}", 7, "t_ns"),
        (
            "UPDATE entries SET t_ns = t_ns + 1 WHERE ledger_uid = :main AND seq = 10",
            10,
            "t_ns",
        ),
        (
            "UPDATE entries SET t_ns = t_ns + 1 WHERE ledger_uid = :main AND seq = 5",
            5,
            "t_ns, batches.body or batches.sig",
        ),
    ],
    "entries.receipt_id": [
        (f"UPDATE entries SET receipt_id = {flipped('receipt_id')} {ENTRY}", 7, "receipt_id")
    ],
    "entries.receipt_hash": [
        (f"UPDATE entries SET receipt_hash = {flipped('receipt_hash')} {ENTRY}", 7, "receipt_hash"),
        (
            f"UPDATE entries SET receipt_hash = {flipped('receipt_hash')} "
            "WHERE ledger_uid = :main AND seq = 10",
            10,
            "receipt_hash",
        ),
    ],
    "entries.payload_hash": [
        (f"UPDATE entries SET payload_hash = {flipped('payload_hash')} {ENTRY}", 7, "payload_hash")
    ],
    "entries.batch_seq": [
        (f"UPDATE entries SET batch_seq = 7 {ENTRY}", 7, "batch_seq"),
        (f"UPDATE entries SET batch_seq = 5 {ENTRY}", 7, "batch_seq"),
        (
            "UPDATE entries SET batch_seq = 5 WHERE ledger_uid = :main AND seq = 6",
            6,
            "batch_seq",
        ),
    ],
    "entries.batch_index": [
        (f"UPDATE entries SET batch_index = 1 {ENTRY}", 7, "batch_index"),
        (f"UPDATE entries SET batch_index = 999 {ENTRY}", 7, "batch_index"),
        (f"UPDATE entries SET batch_index = -1 {ENTRY}", 7, "batch_index"),
    ],
    "entries.commitment_size": [
        (f"UPDATE entries SET commitment_size = 16 {ENTRY}", 7, "commitment_size")
    ],
    "entries.request_id": [(f"UPDATE entries SET request_id = 'zz' {ENTRY}", 7, "request_id")],
    "entries.receipt_type": [(f"UPDATE entries SET receipt_type = 'x' {ENTRY}", 7, "receipt_type")],
    "entries.resource_type": [
        (f"UPDATE entries SET resource_type = 'x' {ENTRY}", 7, "resource_type")
    ],
    "entries.resource_id": [(f"UPDATE entries SET resource_id = 'x' {ENTRY}", 7, "resource_id")],
    "entries.actor_id": [(f"UPDATE entries SET actor_id = 'x' {ENTRY}", 7, "actor_id")],
    "entries.secret": [
        (f"UPDATE entries SET secret = {flipped('secret')} {ENTRY}", 7, "payload or secret"),
        (f"UPDATE entries SET secret = x'' {ENTRY}", 7, "secret"),
    ],
    "entries.statement": [
        (f"UPDATE entries SET statement = {flipped('statement')} {ENTRY}", 7, "statement"),
        (
            "UPDATE entries SET statement = CAST(replace(statement, '\"bot\"', '\"bob\"') AS BLOB),"
            f" actor_id = 'bob' {ENTRY}",
            7,
            "statement",
        ),
        (f"UPDATE entries SET statement = x'' {ENTRY}", 7, "statement"),
    ],
    "entries.payload": [
        (
            f"UPDATE entries SET payload = CAST(replace(payload, 'CREATE', 'DELETE') AS BLOB) "
            f"{ENTRY}",
            7,
            "payload or secret",
        ),
        (f"UPDATE entries SET payload = CAST(payload || ' ' AS BLOB) {ENTRY}", 7, "payload"),
        (f"UPDATE entries SET payload = x'' {ENTRY}", 7, "payload"),
        (
            "UPDATE entries SET payload = x'00' WHERE ledger_uid = :main AND seq = 4",
            4,
            "payload or secret",
        ),
    ],
    "batches.ledger_uid": [(f"UPDATE batches SET ledger_uid = :other {BATCH}", 6, "batch_seq")],
    "batches.batch_seq": [
        (f"UPDATE batches SET batch_seq = 7 {BATCH}", 6, "batch_seq"),
        (
            f"INSERT INTO batches SELECT ledger_uid, 8, {BATCH_REST} FROM batches {BATCH}",
            8,
            "batches.batch_seq",
        ),
    ],
    "batches.kid": [(f"UPDATE batches SET kid = 'other' {BATCH}", 6, "batches.kid")],
    "batches.body": [
        (f"UPDATE batches SET body = {flipped('body')} {BATCH}", 6, "batches.body"),
        (
            'UPDATE batches SET body = CAST(replace(body, \'"epoch":"1"\', \'"epoch":"2"\') '
            f"AS BLOB) {BATCH}",
            6,
            "batches.body or batches.sig",
        ),
    ],
    "batches.sig": [
        (f"UPDATE batches SET sig = {flipped('sig')} {BATCH}", 6, "batches.body or batches.sig"),
        (
            f"UPDATE batches SET sig = {flipped('sig')} WHERE ledger_uid = :main AND batch_seq = 5",
            5,
            "t_ns, batches.body or batches.sig",
        ),
    ],
    "batches.leaf_hashes": [
        (
            f"UPDATE batches SET leaf_hashes = {flipped('leaf_hashes')} {BATCH}",
            6,
            TREE,
        ),
        (f"UPDATE batches SET leaf_hashes = x'' {BATCH}", 6, TREE),
        (f"UPDATE batches SET leaf_hashes = x'00' {BATCH}", 6, TREE),
    ],
    "batches.siblings": [
        (f"UPDATE batches SET siblings = {flipped('siblings')} {BATCH}", 6, TREE),
        (f"UPDATE batches SET siblings = x'' {BATCH}", 6, TREE),
        (f"UPDATE batches SET siblings = CAST(siblings || sig AS BLOB) {BATCH}", 6, TREE),
    ],
    "batches.first_index": [
        (f"UPDATE batches SET first_index = 0 {BATCH}", 6, TREE),
        (f"UPDATE batches SET first_index = 2 {BATCH}", 6, TREE),
        (f"UPDATE batches SET first_index = -1 {BATCH}", 6, TREE),
    ],
    "heads.seq": [
        (f"UPDATE heads SET seq = 9 {HEAD}", 10, "heads.seq"),
        (f"UPDATE heads SET seq = 11 {HEAD}", 11, "heads.seq"),
    ],
    "heads.t_ns": [(f"UPDATE heads SET t_ns = t_ns + 1 {HEAD}", 10, "heads.t_ns")],
    "heads.receipt_hash": [
        (
            f"UPDATE heads SET receipt_hash = {flipped('receipt_hash')} {HEAD}",
            10,
            "heads.receipt_hash",
        )
    ],
    "heads.logged_seq": [
        (f"UPDATE heads SET logged_seq = 99 {HEAD}", 10, "heads.logged_seq"),
        (f"UPDATE heads SET logged_seq = 9 {HEAD}", 9, "log_runs.count"),
        (f"UPDATE heads SET logged_seq = 7 {HEAD}", 4, "log_runs.count"),
    ],
    "log_runs.start_seq": [
        (f"UPDATE log_runs SET start_seq = 5 {HEAD} AND start_seq = 4", 5, "log_runs.count"),
        (f"UPDATE log_runs SET start_seq = 3, count = 6 {HEAD} AND start_seq = 4", 4, ""),
        (f"DELETE FROM log_runs {HEAD} AND start_seq = 0", 0, "log_runs.start_seq"),
        (f"DELETE FROM log_runs {HEAD} AND start_seq = 4", 4, "log_runs.count"),
    ],
    "log_runs.start_index": [
        (
            f"UPDATE log_runs SET start_index = start_index + 1 {HEAD} AND start_seq = 4",
            4,
            "log_runs.start_index",
        ),
        (f"UPDATE log_runs SET start_index = 0 {HEAD} AND start_seq = 4", 4, ""),
    ],
    "log_runs.count": [
        (f"UPDATE log_runs SET count = 3 {HEAD} AND start_seq = 0", 3, "log_runs.start_seq"),
        (f"UPDATE log_runs SET count = 4 {HEAD} AND start_seq = 4", 8, "log_runs.count"),
        (f"UPDATE log_runs SET count = 0 {HEAD} AND start_seq = 4", 4, "log_runs.count"),
    ],
    "log_runs.ledger_uid": [
        (f"UPDATE log_runs SET ledger_uid = :other {HEAD} AND start_seq = 4", 4, "log_runs.count")
    ],
    "ledgers.suite": [
        ("UPDATE ledgers SET suite = 'fips' WHERE ledger = 'main'", 0, "ledgers.suite")
    ],
    "ledgers.log_name": [
        ("UPDATE ledgers SET log_name = 'logs/00' WHERE ledger = 'main'", 0, "ledgers.log_name")
    ],
    "ledgers.log_origin": [
        ("UPDATE ledgers SET log_origin = 'x' WHERE ledger = 'main'", 0, "ledgers.log_origin")
    ],
    "ledgers.created_at_ns": [
        (
            "UPDATE ledgers SET created_at_ns = 1 WHERE ledger = 'main'",
            0,
            "ledgers.created_at_ns",
        )
    ],
}
# Columns whose change makes a ledger another one, tested by themselves below.
ELSEWHERE = {"heads.read_only_reason", "heads.ledger_uid", "ledgers.tenant", "ledgers.ledger",
             "ledgers.ledger_uid"}  # fmt: skip


def test_every_column_is_tampered_with() -> None:
    """A column added to the schema needs an attack here, or a reason to be untrusted."""
    columns = {
        f"{table.name}.{column.name}"
        for table in metadata.tables.values()
        for column in table.columns
    }
    assert columns == set(CHANGES) | ELSEWHERE | UNTRUSTED


@pytest.mark.parametrize(
    ("statement", "seq", "column"),
    [
        pytest.param(*attack, id=f"{column}-{number}")
        for column, attacks in CHANGES.items()
        for number, attack in enumerate(attacks)
    ],
)
async def test_changed_column_is_named(
    service: Service, statement: str, seq: int, column: str
) -> None:
    change(service, statement)
    found_seq, found_column = await fault(service)
    if column:
        assert (found_seq, found_column) == (seq, column)
    else:
        assert found_column.startswith("log_runs.")


async def test_swapped_receipts_are_found(service: Service) -> None:
    change(
        service,
        "UPDATE entries SET seq = -1 WHERE ledger_uid = :main AND seq = 7",
        "UPDATE entries SET seq = 7 WHERE ledger_uid = :main AND seq = 8",
        "UPDATE entries SET seq = 8 WHERE ledger_uid = :main AND seq = -1",
    )
    assert (await fault(service))[0] == 7


async def test_receipt_of_another_ledger_is_found(service: Service) -> None:
    columns = ", ".join(
        column.name for column in metadata.tables["entries"].columns if column.name != "ledger_uid"
    )
    change(
        service,
        "DELETE FROM entries WHERE ledger_uid = :main AND seq = 1",
        "DELETE FROM batches WHERE ledger_uid = :main AND batch_seq = 1",
        f"INSERT INTO entries (ledger_uid, {columns}) SELECT :main, {columns} FROM entries "
        "WHERE ledger_uid = :other AND seq = 1",
        f"INSERT INTO batches SELECT :main, batch_seq, {BATCH_REST} FROM batches "
        "WHERE ledger_uid = :other AND batch_seq = 1",
    )
    assert await fault(service) == (1, "ledger_uid")


async def test_renamed_ledger_is_found(service: Service) -> None:
    change(service, "UPDATE ledgers SET ledger = 'moved' WHERE ledger = 'main'")
    service.servicer._directory._known.clear()
    assert await fault(service, "tenants/acme/ledgers/moved") == (
        0,
        "ledgers.tenant or ledgers.ledger",
    )


async def test_ledgers_with_exchanged_uids_are_found(service: Service) -> None:
    change(
        service,
        "UPDATE ledgers SET ledger_uid = x'00' WHERE ledger = 'main'",
        "UPDATE ledgers SET ledger_uid = (SELECT ledger_uid FROM heads WHERE seq = 10) "
        "WHERE ledger = 'other'",
    )
    service.servicer._directory._known.clear()
    assert (await fault(service, "tenants/acme/ledgers/other"))[0] == 0


async def test_missing_head_is_found(service: Service) -> None:
    change(service, f"DELETE FROM heads {HEAD}")
    with pytest.raises(DataLossError):
        await verify_all(service)


async def test_latch_can_only_withhold(service: Service) -> None:
    """Whoever sets the latch stops appends, and says so; nothing that is there changes."""
    change(service, f"UPDATE heads SET read_only_reason = 'SAYS_WHO' {HEAD}")
    assert (await verify_all(service)).checked_count == LAST + 1
    request = ledger_pb2.GetLedgerRequest(name=LEDGER)
    assert (await service.servicer.GetLedger(request, None)).ledger.read_only_reason == "SAYS_WHO"


async def test_range_in_the_middle_finds_its_own_faults_only(service: Service) -> None:
    change(service, f"UPDATE entries SET actor_id = 'x' {ENTRY}")

    async def verify(start: int, end: int) -> Any:
        request = ledger_pb2.VerifyRangeRequest(name=LEDGER, start_seq=start, end_seq=end)
        return await service.servicer.VerifyRange(request, None)

    assert (await verify(1, 6)).checked_count == 6
    assert (await verify(8, 10)).checked_count == 3
    with pytest.raises(DataLossError):
        await verify(7, 7)


async def test_reading_damaged_rows_is_data_loss_or_what_is_stored(service: Service) -> None:
    """A listing does not verify, but it does not crash over damage either."""
    change(service, f"DELETE FROM batches {BATCH}")
    service.servicer._reads._batches.clear()
    request = ledger_pb2.ListReceiptsRequest(parent=LEDGER, view=common_pb2.RECEIPT_VIEW_FULL)
    with pytest.raises(DataLossError):
        await service.servicer.ListReceipts(request, None)
