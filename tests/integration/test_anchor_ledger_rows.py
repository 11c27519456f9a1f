"""Whoever writes to the anchor's database gets no false head signed and no second history logged.

The rows of `ledgers` and `runs` say how far each ledger is in the log. They are compared with what
nobody can write there: the size of the tree, its entries, and what this process has released.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from anchor_svc.convert import listed_to_pb
from anchor_svc.openlog import OpenLog
from anchor_svc.openlogs import OpenLogs
from anchor_svc.recovery import create_log
from anchor_svc.storage.tables import SCHEMA
from provledger import dsse
from provledger.db import begin_write, open_engine
from provledger.errors import DataLossError, NotFoundError, UnavailableError
from provledger.head import parse_head
from provledger.keyset import KeyPurpose
from tests.support.anchoring import (
    Ledger,
    TestKeys,
    keys_of,
    make_log,
    new_row,
    open_storage,
    running_log,
    submit,
)
from tests.support.chain import START_NS

A, B = Ledger("a"), Ledger("b")
for _ledger in (A, B):
    _ledger.grow(40)
ALL = (A, B)
LAST = "WHERE ledger_uid = X'{a}'"
"""In the log: A 0-9 at 1, B 0-9 at 11, A 10-29 at 21, B 10-19 at 41; 51 leaves."""
CUT = "UPDATE ledgers SET seq = 25, log_index = 36, receipt_hash = X'{hash25}' " + LAST
CUT_TO_A_RUN = (
    "UPDATE ledgers SET seq = 9, log_index = 10, run_start_seq = 0, receipt_hash = X'{hash9}' "
    + LAST,
    "DELETE FROM runs " + LAST + " AND start_seq > 0",
)
GONE = ("DELETE FROM ledgers " + LAST, "DELETE FROM runs " + LAST)


async def change(database_url: str, *statements: str) -> None:
    """Run SQL behind the anchor's back; `X'..'` is a literal of either database."""
    values = {"a": A.uid.hex(), "hash25": A.hash_of(25).hex(), "hash9": A.hash_of(9).hex()}

    def run() -> None:
        engine = open_engine(database_url, SCHEMA)
        with begin_write(engine) as connection:
            for statement in statements:
                text = statement.format(**values)
                if database_url.startswith("postgres"):
                    text = text.replace("X'", "'\\x")
                connection.exec_driver_sql(text)
        engine.dispose()

    await asyncio.to_thread(run)


async def fill(log: OpenLog) -> None:
    for ledger, start, end in ((A, 0, 10), (B, 0, 10), (A, 10, 30), (B, 10, 20)):
        await submit(log, ledger, start, end)


async def make(database_url: str, data_dir: Path) -> None:
    async with running_log(database_url, data_dir) as log:
        await fill(log)


async def head_of(log: OpenLog, ledger: Ledger, size: int = 0) -> tuple[int, int]:
    """(seq, log index) that a signed head says."""
    envelope, _ = await log.reader.ledger_head(ledger.uid, size)
    head = parse_head(dsse.decode(envelope).payload)
    return head.seq, head.log_index


def heads_signed(log: OpenLog) -> int:
    return len(keys_of(log).signers[KeyPurpose.HEAD].signed)


@pytest.mark.parametrize(
    ("statements", "entries"),
    [
        ([CUT], 46),
        (CUT_TO_A_RUN, 30),
        (GONE, 20),
        (["UPDATE ledgers SET seq = 9223372036854775806"], 2 * (2**63 - 1)),
    ],
    ids=["cut", "cut to a run", "gone", "far beyond"],
)
async def test_start_refuses_ledgers_that_do_not_add_up_to_the_log(
    database_url: str, tmp_path: Path, statements: Sequence[str], entries: int
) -> None:
    """Nothing is signed then: a ledger would be cut, or logged a second time."""
    await make(database_url, tmp_path)
    await change(database_url, *statements)
    keys = TestKeys()
    with pytest.raises(DataLossError, match=r"damaged-log\.md") as caught:
        async with running_log(database_url, tmp_path, keys=keys):
            pass
    assert caught.value.reason == "LEDGER_ROWS_DAMAGED"
    assert caught.value.metadata["logEntries"] == "50"
    told = int(caught.value.metadata["ledgerEntries"])
    assert told == entries or abs(told - entries) < 2**12 < entries
    assert keys.signers[KeyPurpose.CHECKPOINT].signed == []


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("DELETE FROM ledgers", "LEDGER_ROWS_DAMAGED"),
        ("UPDATE logs SET suite = 'nope'", "LOG_ROW_CHANGED"),
    ],
)
async def test_log_of_a_tenant_whose_rows_were_changed_is_closed_alone(
    database_url: str, tmp_path: Path, statement: str, reason: str
) -> None:
    keys = TestKeys()
    storage = await asyncio.to_thread(open_storage, database_url)
    shared = await new_row(storage, keys)
    own = await create_log(
        storage,
        origin_prefix="provledger.test",
        suite_name="blake3",
        keys=[],
        now_ns=START_NS,
        alias="tenants/acme",
    )

    def opened() -> OpenLogs:
        def make_one(row: object) -> OpenLog:
            return make_log(storage, row, tmp_path, keys)

        async def none(*_: object) -> int:
            return 0

        return OpenLogs(make_one, none, storage.logs, none, none, max_logs=1)  # type: ignore[arg-type]

    try:
        logs = opened()
        await logs.open_all([shared, own])
        for log in logs.all():
            await fill(log)
        await logs.close()
        await change(database_url, f"{statement} WHERE log_uid = X'{own.log_uid.hex()}'")
        logs = opened()
        await logs.open_all(await storage.logs())
        (damaged,) = logs.damaged()
        assert (damaged.row.alias, damaged.error.reason) == ("tenants/acme", reason)
        assert listed_to_pb(damaged).damage.reason == reason
        await submit(logs.default, A, 30)
        assert await head_of(logs.default, A) == (39, 60)
        await logs.close()
    finally:
        await storage.close()


@pytest.mark.parametrize("remembers", [True, False])
async def test_no_head_and_no_state_is_given_by_a_row_that_is_not_its_entry(
    database_url: str, tmp_path: Path, remembers: bool
) -> None:
    await make(database_url, tmp_path)
    async with running_log(database_url, tmp_path) as log:
        if remembers:
            await submit(log, A, 10, 30)  # a repeat: the row is looked up, and remembered
        before = heads_signed(log)
        for values in (
            "seq = 25",
            "seq = 25, log_index = 9999",
            "seq = 29, log_index = 40, suite = 'fips'",
            "suite = 'blake3', receipt_hash = X'{hash9}'",
            # A whole row, as it was before the last four entries.
            "seq = 25, log_index = 36, receipt_hash = X'{hash25}'",
        ):
            await change(database_url, f"UPDATE ledgers SET {values} {LAST}")
            for asked in (
                log.reader.ledger_head(A.uid, 0),
                log.reader.ledger_head(A.uid, log.state.signed_size),
                log.reader.ledger_state(A.uid),
            ):
                with pytest.raises(DataLossError) as caught:
                    await asked
                assert caught.value.reason == "LEDGER_ROWS_DAMAGED"
        assert heads_signed(log) == before
        # Another ledger is not concerned.
        assert await head_of(log, B) == (19, 50)


@pytest.mark.parametrize("statements", [CUT_TO_A_RUN, GONE], ids=["cut to a run", "gone"])
async def test_what_this_process_has_released_is_not_denied(
    database_url: str, tmp_path: Path, statements: Sequence[str]
) -> None:
    """Each row fits its entry; but more of the ledger is in the tree, as this process knows."""
    async with running_log(database_url, tmp_path) as log:
        await fill(log)
        await change(database_url, *statements)
        for asked in (
            log.reader.ledger_head(A.uid, 0),
            log.reader.ledger_state(A.uid),
            log.reader.batch_inclusion(A.uid, [29], 0),
        ):
            with pytest.raises(DataLossError) as caught:
                await asked
            assert caught.value.reason == "LEDGER_ROWS_DAMAGED"
        assert heads_signed(log) == 0


@pytest.mark.parametrize("beyond", [38, 55, 9999])
async def test_no_head_is_signed_by_a_run_that_is_not_in_the_log(
    database_url: str, tmp_path: Path, beyond: int
) -> None:
    """A run that seems to begin behind the tree makes the entry before it look like the last."""
    await make(database_url, tmp_path)
    async with running_log(database_url, tmp_path) as log:
        await submit(log, A, 30)
        right = {size: await head_of(log, A, size) for size in (21, 41, 51)}
        await change(
            database_url,
            "INSERT INTO runs (log_uid, ledger_uid, start_seq, start_index) "
            f"SELECT log_uid, X'{{a}}', 26, {beyond} FROM logs",
        )
        refused = []
        for size, expected in right.items():
            signed = heads_signed(log)
            try:
                assert await head_of(log, A, size) == expected
            except DataLossError as error:
                refused.append((error.reason, heads_signed(log) - signed))
        assert set(refused) == {("LEDGER_ROWS_DAMAGED", 0)}


async def test_run_before_the_log_is_damage(database_url: str, tmp_path: Path) -> None:
    async with running_log(database_url, tmp_path) as log:
        await fill(log)
        await change(database_url, "UPDATE runs SET start_index = -9 - start_index")
        for asked in (
            log.reader.batch_inclusion(A.uid, [3], 0),
            log.reader.ledger_head(A.uid, 21),
            log.reader.ledger_head(A.uid, 11),
            submit(log, A, 0, 10),
        ):
            with pytest.raises(DataLossError) as caught:
                await asked
            assert caught.value.reason == "LEDGER_ROWS_DAMAGED"


async def test_cut_row_is_found_at_first_contact(database_url: str, tmp_path: Path) -> None:
    """Else the ledger would get a second history, admitted upon the entry that the row names."""
    await make(database_url, tmp_path)
    other = Ledger("a")
    other.entries, other.last = A.entries[:26], A.hash_of(25)
    other.grow(3, salt="another")
    async with running_log(database_url, tmp_path) as log:
        await change(database_url, CUT)
        with pytest.raises(DataLossError) as caught:
            await submit(log, other, 26)
        assert caught.value.reason == "LEDGER_ROWS_DAMAGED"
        await submit(log, B, 20, 30)


async def test_head_waits_for_the_signature_over_what_follows(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is stored and not signed yet is no proof of where a ledger goes on."""
    monkeypatch.setattr("anchor_svc.reader.SIGN_TIMEOUT_S", 0.05)
    async with running_log(database_url, tmp_path) as log:
        await fill(log)
        key = keys_of(log).signers[KeyPurpose.CHECKPOINT]
        key.fail = True
        for _ in range(2):  # the second one waits until the first is stored
            with pytest.raises(UnavailableError):
                await submit(log, A, 30)
        with pytest.raises(UnavailableError) as caught:
            await head_of(log, A)
        assert caught.value.reason == "NOT_SIGNED_YET"
        # At the end of this tree the ledger's entry is the last one, whatever follows.
        assert await head_of(log, A, 41) == (29, 40)
        assert await head_of(log, B) == (19, 50)
        monkeypatch.setattr("anchor_svc.reader.SIGN_TIMEOUT_S", 10.0)
        asking = asyncio.ensure_future(head_of(log, A, 51))
        await asyncio.sleep(0)
        key.fail = False
        await log.committer.finish()
        assert await asking == (29, 40)
        assert await head_of(log, A) == (39, 60)
        with pytest.raises(NotFoundError):
            await head_of(log, A, 1)
