"""Rows of the anchor's database that are gone, or hold values of another type, are damage of ours.

SQLite takes any value in any column. Each is told as DataLossError, which names what it is about.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from anchor_svc.openlog import OpenLog
from anchor_svc.openlogs import OpenLogs
from anchor_svc.recovery import create_log
from provledger.errors import DataLossError, NotFoundError
from tests.integration.test_anchor_ledger_rows import A, B, change, fill, head_of, make
from tests.integration.test_anchor_log import Board
from tests.support.anchoring import (
    TestKeys,
    eventually,
    make_log,
    new_row,
    open_storage,
    running_log,
    submit,
)
from tests.support.chain import START_NS

Ask = Callable[[OpenLog], Awaitable[Any]]

ASKED: dict[str, tuple[str, Ask]] = {
    "ledgers.seq": ("'abc'", lambda log: log.reader.ledger_state(A.uid)),
    "ledgers.receipt_hash": ("'abc'", lambda log: log.reader.ledger_head(A.uid, 0)),
    "ledgers.suite": ("X'00'", lambda log: log.reader.ledger_state(A.uid)),
    "logs.size": ("'x'", lambda log: log.reader.ledger_state(A.uid)),
    "logs.root": ("7", lambda log: log.reader.ledger_state(A.uid)),
    "runs.start_index": ("1.5", lambda log: log.reader.batch_inclusion(A.uid, [3], 0)),
    "checkpoints.note": ("'abc'", lambda log: log.reader.checkpoint(21)),
}


@pytest.mark.parametrize("where", ASKED)
async def test_value_of_another_type_is_named(tmp_path: Path, where: str) -> None:
    url = f"sqlite:///{tmp_path}/anchor.sqlite3"
    value, ask = ASKED[where]
    table, column = where.split(".")
    await make(url, tmp_path)
    async with running_log(url, tmp_path) as log:
        await change(url, f"UPDATE {table} SET {column} = {value}")
        with pytest.raises(DataLossError, match=where) as caught:
            await ask(log)
        assert caught.value.reason == "VALUE_DAMAGED"
        assert caught.value.metadata == {"table": table, "column": column}


async def test_ledger_whose_row_cannot_be_read_stops_no_other(tmp_path: Path) -> None:
    """Though both are asked for by one query."""
    url = f"sqlite:///{tmp_path}/anchor.sqlite3"
    await make(url, tmp_path)
    async with running_log(url, tmp_path) as log:
        await change(url, "UPDATE ledgers SET log_index = 'abc' WHERE ledger_uid = X'{a}'")
        prover = log.state.signed_view().newest_prover
        states = await log.committer._admission._states([A.uid, B.uid], prover)
        assert isinstance(states[A.uid], DataLossError)
        assert not isinstance(states[B.uid], DataLossError)
        with pytest.raises(DataLossError, match=r"ledgers\.log_index"):
            await submit(log, A, 30)
        await submit(log, B, 20)
        assert await head_of(log, B) == (39, 70)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM checkpoints WHERE size = 21",
        "UPDATE checkpoints SET note = NULL WHERE size = 21",
        "UPDATE checkpoints SET note = NULL, published_at_ns = NULL WHERE size = 21",
    ],
    ids=["row", "note", "all of it"],
)
async def test_checkpoint_that_a_sink_holds_is_not_denied(
    database_url: str, tmp_path: Path, statement: str
) -> None:
    board = Board("board:one")
    async with running_log(database_url, tmp_path, sinks=[board], background=True) as log:
        await submit(log, A, 0, 20)
        await eventually(lambda: log.state.anchored_size == 21)
        await submit(log, B, 0, 20)
        await submit(log, A, 20)
        await eventually(lambda: log.state.anchored_size == 61)
        await change(database_url, statement)
        for asked in (
            log.reader.checkpoint(21),
            log.reader.checkpoint(21, published=True),
            log.reader.consistency(21, 0),
            log.reader.ledger_head(A.uid, 21),
        ):
            with pytest.raises(DataLossError) as caught:
                await asked
            assert caught.value.reason == "CHECKPOINT_LOST"
        with pytest.raises(NotFoundError):
            await log.reader.checkpoint(22)


async def test_start_refuses_a_published_checkpoint_whose_note_is_gone(
    database_url: str, tmp_path: Path
) -> None:
    async with running_log(database_url, tmp_path) as log:
        await fill(log)
        await log.publisher.publish(log.state.signed_view())
        await submit(log, A, 30)
    await change(database_url, "UPDATE checkpoints SET note = NULL WHERE size = 51")
    with pytest.raises(DataLossError) as caught:
        async with running_log(database_url, tmp_path):
            pass
    assert caught.value.reason == "CHECKPOINT_LOST"


@pytest.mark.parametrize("column", ["note", "root", "published_at_ns"])
async def test_checkpoints_of_one_tenant_that_cannot_be_read_close_that_log_alone(
    tmp_path: Path, column: str
) -> None:
    url = f"sqlite:///{tmp_path}/anchor.sqlite3"
    keys = TestKeys()
    storage = await asyncio.to_thread(open_storage, url)
    await new_row(storage, keys)
    own = await create_log(
        storage,
        origin_prefix="provledger.test",
        suite_name="blake3",
        keys=[],
        now_ns=START_NS,
        alias="tenants/acme",
    )

    async def signed_size(log_uid: bytes) -> int:
        newest = await storage.newest_signed(log_uid)
        return 0 if newest is None else newest.size

    async def nothing(*_: object) -> Any:
        return 0

    def logs() -> OpenLogs:
        return OpenLogs(
            lambda row: make_log(storage, row, tmp_path, keys),
            nothing,
            storage.logs,
            nothing,
            signed_size,
            max_logs=1,
        )

    both = logs()
    await both.open_all(await storage.logs())
    for each in both.all():
        await fill(each)
    await both.close()
    await change(
        url,
        f"UPDATE checkpoints SET {column} = 'abc' WHERE log_uid = X'{own.log_uid.hex()}'",
    )
    one = logs()
    await one.open_all(await storage.logs())
    assert [each.row.alias for each in one.damaged()] == ["tenants/acme"]
    assert len(one.all()) == 1
    await one.close()
    await storage.close()
