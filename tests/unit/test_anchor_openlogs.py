"""How the logs of a process are opened at its start: the shared one, then some at a time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from anchor_svc import openlogs
from anchor_svc.openlogs import OpenLogs
from anchor_svc.storage import DEFAULT_ALIAS, FencedError, LogRow
from anchor_svc.tilefiles import disk_unavailable
from provledger.errors import (
    DataLossError,
    FailedPreconditionError,
    StatusError,
    UnavailableError,
)
from provledger.retry import RetryPolicy
from tests.support.anchoring import eventually

pytestmark = pytest.mark.timeout(60)

ROWS = [
    LogRow(bytes([number]) * 16, f"log.test/{number}", "blake3", 1, b"r" * 32, 0, 0, 7, alias)
    for number, alias in enumerate(
        [
            *(f"tenants/t{n}" for n in range(5)),
            DEFAULT_ALIAS,
            *(f"tenants/t{n}" for n in range(5, 12)),
        ]
    )
]


class Logs:
    """Logs that open once `ready` is set, or fail; `opening` and `closed` are their aliases."""

    def __init__(self, max_logs: int = 100, **errors: Exception) -> None:
        self.errors = errors
        self.rows = [row for row in ROWS if row.alias == DEFAULT_ALIAS]
        self.ready = asyncio.Event()
        self.opening: list[str] = []
        self.most = 0
        self.closed: list[str] = []
        self.fenced = False
        self.view = SimpleNamespace(size=1, root=b"r" * 32)
        self.signed = 0
        self.logs = OpenLogs(
            self.make,
            self.create_row,
            self.list_rows,
            self.count,
            self.signed_size,
            max_logs=max_logs,
        )

    async def count(self) -> int:
        return 3

    async def signed_size(self, uid: bytes) -> int:
        return self.signed

    async def list_rows(self) -> list[LogRow]:
        return self.rows

    async def create_row(self, tenant: str, suite: str) -> LogRow:
        """The row of a tenant, made if there is none."""
        row = next(row for row in ROWS if row.alias == tenant)
        if row not in self.rows:
            self.rows.append(row)
        return row

    def make(self, row: LogRow) -> Any:
        name = row.alias.rpartition("/")[2]

        async def start() -> None:
            self.opening.append(name)
            self.most = max(self.most, len(self.opening))
            if name != DEFAULT_ALIAS and name not in self.errors:
                await self.ready.wait()
            self.opening.remove(name)
            if name in self.errors:
                raise self.errors[name]

        async def close() -> None:
            if name in self.opening:
                self.opening.remove(name)
            self.closed.append(name)

        return SimpleNamespace(
            open=start,
            close=close,
            state=SimpleNamespace(signed_size=1, check_held=lambda: None, view=self.view),
            background=(),
            identity=SimpleNamespace(suite=row.suite),
            committer=SimpleNamespace(check_ours=self.check_ours),
        )

    async def check_ours(self) -> None:
        if self.fenced:
            raise FencedError("another process")


async def test_shared_log_is_opened_first_and_then_some_at_a_time() -> None:
    """One sink that does not answer keeps each log for a moment, and not one after the other."""
    made = Logs()
    task = asyncio.create_task(made.logs.open_all(ROWS))
    await eventually(lambda: len(made.opening) == 8)
    assert made.logs.all() == [made.logs.default]
    made.ready.set()
    await task
    assert (made.most, len(made.logs.all())) == (8, len(ROWS))


async def test_damaged_log_keeps_no_other_closed() -> None:
    made = Logs(t0=DataLossError("ROOT_MISMATCH", "damaged"), t7=DataLossError("GONE", "gone"))
    made.ready.set()
    await made.logs.open_all(ROWS)
    assert len(made.logs.all()) == len(ROWS) - 2
    assert {each.row.alias for each in made.logs.damaged()} == {"tenants/t0", "tenants/t7"}
    assert sorted(made.closed) == ["t0", "t7"]


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), disk_unavailable()])
async def test_log_whose_disk_cannot_be_used_keeps_no_other_closed_and_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """As with a bad sector under one tile."""
    monkeypatch.setattr(openlogs, "_AGAIN", RetryPolicy(1_000_000, 0.001, 0.001, float("inf")))
    made = Logs(t3=error, t5=error)
    made.ready.set()
    await made.logs.open_all(ROWS)
    assert len(made.logs.all()) == len(ROWS) - 2
    t3, t5 = sorted(each.row.log_uid for each in made.logs.damaged())
    with pytest.raises(UnavailableError, match=f"logs/{t3.hex()}: the files") as caught:
        made.logs.get(t3)
    assert caught.value.reason == "DISK_UNAVAILABLE"
    running = asyncio.create_task(made.logs.run())
    await eventually(lambda: made.closed.count("t3") > 1)
    del made.errors["t3"]
    # What else fails meanwhile leaves it as it is; a damage that is found is told.
    made.errors["t5"] = UnavailableError("DATABASE_UNAVAILABLE", "away")
    await eventually(lambda: _closed(made) == {t5})
    assert made.logs.get(t3) is not None
    made.errors["t5"] = DataLossError("TILE_DAMAGED", "gone")
    await eventually(lambda: isinstance(made.logs.damaged()[0].error, DataLossError))
    running.cancel()


async def test_log_is_not_tried_again_by_a_process_that_was_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would take the log from its successor, which has opened the shared one before."""
    monkeypatch.setattr(openlogs, "_AGAIN", RetryPolicy(1_000_000, 0.001, 0.001, float("inf")))
    made = Logs(t3=OSError(5, "Input/output error"))
    made.ready.set()
    await made.logs.open_all(ROWS)
    del made.errors["t3"]
    made.fenced = True
    with pytest.raises(ExceptionGroup) as caught:
        await made.logs.run()
    assert caught.group_contains(FencedError)
    assert len(made.logs.damaged()) == 1


async def test_log_is_not_made_or_taken_by_a_process_that_was_replaced() -> None:
    """Its successor may have opened it, and would end."""
    made = Logs()
    made.ready.set()
    await made.logs.open_all(made.rows)
    made.fenced = True
    with pytest.raises(UnavailableError) as caught:
        await made.logs.create("tenants/t0", "blake3")
    assert caught.value.reason == "WRITER_FENCED"
    assert [row.alias for row in made.rows] == [DEFAULT_ALIAS]
    made.fenced = False
    assert (await made.logs.create("tenants/t0", "blake3"))[1]


def _closed(made: Logs) -> set[bytes]:
    return {each.row.log_uid for each in made.logs.damaged()}


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), disk_unavailable()])
async def test_disk_of_the_shared_log_ends_the_start(error: Exception) -> None:
    made = Logs(default=error)
    with pytest.raises(type(error)):
        await made.logs.open_all(ROWS)


async def test_log_that_cannot_be_opened_ends_the_start_as_itself() -> None:
    error = UnavailableError("DATABASE_UNAVAILABLE", "away")
    made = Logs(t3=error)
    with pytest.raises(UnavailableError) as caught:
        await made.logs.open_all(ROWS)
    assert caught.value is error
    # Those that were being opened are closed, and none is opened any more.
    assert made.opening == []
    assert made.logs.all() == [made.logs.default]
    assert len(made.closed) == len(set(made.closed)) == 8


async def test_damaged_shared_log_ends_the_start_before_others_are_opened() -> None:
    made = Logs(default=DataLossError("ROOT_MISMATCH", "damaged"))
    with pytest.raises(DataLossError):
        await made.logs.open_all(ROWS)
    assert (made.most, made.closed) == (1, ["default"])


async def test_logs_that_could_not_be_opened_count_as_those_that_there_are() -> None:
    """The disk is full while tenants come: their rows are made, and the next start opens them."""
    names = [f"t{n}" for n in range(5)]
    made = Logs(2, **{name: OSError(28, "No space left on device") for name in names})
    made.ready.set()
    await made.logs.open_all(made.rows)
    answers = []
    for name in names:
        with pytest.raises(StatusError) as caught:
            await made.logs.create(f"tenants/{name}", "blake3")
        answers.append(caught.value.reason)
    assert answers == ["DISK_UNAVAILABLE"] * 2 + ["TOO_MANY_LOGS"] * 3
    assert [row.alias for row in made.rows] == [DEFAULT_ALIAS, "tenants/t0", "tenants/t1"]
    # Those that are among them are opened by the next call.
    made.errors.clear()
    for name in names[:2]:
        assert (await made.logs.create(f"tenants/{name}", "blake3"))[1]
    with pytest.raises(FailedPreconditionError, match="2 tenants"):
        await made.logs.create("tenants/t2", "blake3")


async def test_ledgers_are_not_counted_in_a_database_that_lacks_what_was_released() -> None:
    made = Logs()
    made.ready.set()
    made.rows = list(ROWS)
    await made.logs.open_all(ROWS)
    assert await made.logs.ledger_count() == 3
    # One log was made after that, or grew.
    last = made.rows.pop()
    for _ in range(2):
        with pytest.raises(DataLossError) as caught:
            await made.logs.ledger_count()
        assert caught.value.reason == "DATABASE_BEHIND"
        made.rows.append(replace(last, size=0))
    made.rows = [*ROWS[:-1], replace(last, size=2, root=b"s" * 32)]
    assert await made.logs.ledger_count() == 3
    made.rows = [*ROWS[:-1], replace(last, root=b"s" * 32)]
    with pytest.raises(DataLossError) as caught:
        await made.logs.ledger_count()
    assert caught.value.reason == "HISTORY_CHANGED"


@pytest.mark.parametrize("reason", ["DATABASE_BEHIND", "HISTORY_CHANGED", "ROOT_MISMATCH"])
async def test_log_that_is_closed_says_whether_ledgers_can_be_counted(
    reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Which log it is, and how large, is not for the other tenants who hear of it."""
    sizes = {"publishedSize": "5151", "storedSize": "11"}
    made = Logs(t3=DataLossError(reason, "the checkpoint of tree size 5151", metadata=sizes))
    made.ready.set()
    made.rows = list(ROWS)
    await made.logs.open_all(ROWS)
    if reason == "ROOT_MISMATCH":
        assert await made.logs.ledger_count() == 3
        return
    with pytest.raises(DataLossError) as caught:
        await made.logs.ledger_count()
    assert (caught.value.reason, caught.value.metadata) == (reason, {})
    uid = made.logs.damaged()[0].row.log_uid
    assert uid.hex() not in caught.value.message
    assert "5151" not in caught.value.message
    # Whoever asks for the log itself hears all.
    with pytest.raises(DataLossError, match=f"logs/{uid.hex()}: .* 5151") as whole:
        made.logs.get(uid)
    assert whole.value.metadata == {**sizes, "log": f"logs/{uid.hex()}"}
    (told,) = [each for each in caplog.records if each.getMessage() == "anchor.log_damaged"]
    assert uid.hex() in str(vars(told))


async def test_start_that_is_cancelled_leaves_none_half_open() -> None:
    made = Logs()
    task = asyncio.create_task(made.logs.open_all(ROWS))
    await eventually(lambda: len(made.opening) == 8)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (made.opening, len(made.closed)) == ([], 8)


async def test_log_that_cannot_be_closed_leaves_none_open() -> None:
    """What waits in the others is finished all the same, and whoever closes them hears of it."""
    made = Logs()
    made.ready.set()
    await made.logs.open_all(ROWS)
    broken: Any = made.logs.default

    async def fail() -> None:
        raise OSError(5, "Input/output error")

    broken.close = fail
    with pytest.raises(OSError, match="Input/output"):
        await made.logs.close()
    assert sorted(made.closed) == sorted(
        row.alias.rpartition("/")[2] for row in ROWS if row.alias != DEFAULT_ALIAS
    )
