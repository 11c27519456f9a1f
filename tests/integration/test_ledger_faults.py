"""What the ledger does when its neighbours or its database fail at the worst moment."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from ledger_svc.app import Service
from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2
from provledger.db import begin_write
from provledger.errors import (
    DataLossError,
    FailedPreconditionError,
    NotFoundError,
    UnavailableError,
)
from tests.inmem.anchor import InMemoryAnchor
from tests.inmem.witness import InMemoryWitness
from tests.support.ledgering import (
    LEDGER,
    append,
    append_batch,
    draft,
    eventually,
    go_back_to,
    ledger_service,
    recorded,
    verify_all,
)


def engine_of(service: Service) -> Engine:
    engine: Engine = service.storage._engine  # type: ignore[attr-defined]
    return engine


class CommitFault:
    """Lets a write's COMMIT happen, or not, and then loses the connection with its answer."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._real = engine.dialect.do_commit
        self.failures = 0
        dialect: Any = engine.dialect
        dialect.do_commit = self._commit
        self.happens = True

    def _commit(self, connection: Any) -> None:
        writes = threading.current_thread().name.startswith("ledger-writer")
        if self.failures <= 0 or not writes:
            self._real(connection)
            return
        self.failures -= 1
        if self.happens:
            self._real(connection)
        raise self._lost()

    def _lost(self) -> Exception:
        if self._engine.dialect.name == "sqlite":
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            return error
        return psycopg.OperationalError("server closed the connection unexpectedly")


@pytest.mark.parametrize("happens", [True, False])
@pytest.mark.parametrize("failures", [1, 2])
async def test_lost_answer_to_commit_is_resolved(
    database_url: str, happens: bool, failures: int
) -> None:
    """Whether the commit happened or not: each draft is there once, and nobody is denied."""
    async with ledger_service(database_url) as service:
        fault = CommitFault(engine_of(service))
        fault.happens, fault.failures = happens, failures
        results = await append_batch(service, [draft("r1"), draft("r2"), draft("r1")])
        assert [result.receipt.seq for result in results] == [1, 2, 1]
        assert [result.repeated_request for result in results] == [False, False, True]
        single = await append(service, draft("r3"), view=common_pb2.RECEIPT_VIEW_FULL)
        assert single.receipt.seq == 3
        assert (await verify_all(service)).checked_count == 4


async def test_lost_answer_to_commit_gives_the_whole_receipt(database_url: str) -> None:
    async with ledger_service(database_url) as service:
        fault = CommitFault(engine_of(service))
        fault.failures = 1
        answer = await append(service, draft("r1"))
        assert not answer.repeated_request
        assert answer.receipt.statement
        assert answer.receipt.payload
        assert answer.receipt.signature.body
        again = await append(service, draft("r1"))
        assert again.repeated_request
        assert again.receipt == answer.receipt


async def test_database_that_stays_away_denies_nothing(database_url: str) -> None:
    """The last attempt did commit, but no answer came in time: the outcome is unknown, the same
    request id finds it."""
    async with ledger_service(database_url) as service:
        fault = CommitFault(engine_of(service))
        fault.failures = 1_000
        with pytest.raises(UnavailableError) as caught:
            await append(service, draft("r1"))
        assert caught.value.retry_delay_s is not None
        fault.failures = 0
        answer = await append(service, draft("r1"))
        assert answer.receipt.seq == 1
        assert answer.repeated_request
        assert (await verify_all(service)).checked_count == 2


@pytest.mark.postgres
async def test_connections_cut_under_load(postgres_database_url: str) -> None:
    async with ledger_service(postgres_database_url) as service:
        stop = asyncio.Event()

        def cut() -> None:
            with begin_write(engine_of(service)) as connection:
                connection.execute(
                    sa.text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                )

        async def cutting() -> int:
            cuts = 0
            while not stop.is_set():
                try:
                    await asyncio.to_thread(cut)
                    cuts += 1
                except sa.exc.DBAPIError:
                    pass
                await asyncio.sleep(0.02)
            return cuts

        task = asyncio.create_task(cutting())
        for n in range(40):
            items = [draft(f"r{n}-{m}") for m in range(5)]
            while True:
                try:
                    results = await append_batch(service, items)
                except UnavailableError:
                    continue
                assert all(result.WhichOneof("outcome") == "receipt" for result in results)
                break
        stop.set()
        assert await task > 3
        assert (await verify_all(service)).head_seq == 200


@pytest.mark.postgres
async def test_deadlock_and_lock_timeout_are_retried(postgres_database_url: str) -> None:
    async with ledger_service(postgres_database_url) as service:
        engine = engine_of(service)
        real, failures = engine.dialect.do_commit, iter(["40P01", "55P03", "40001"])

        def do_commit(connection: Any) -> None:
            writes = threading.current_thread().name.startswith("ledger-writer")
            state = next(failures, None) if writes else None
            if state is not None:
                connection.rollback()
                raise psycopg.errors.lookup(state)("conflict")
            real(connection)

        dialect: Any = engine.dialect
        dialect.do_commit = do_commit
        answer = await append(service, draft("r1"))
        assert answer.receipt.seq == 1
        assert not answer.repeated_request


# --- the anchor ----------------------------------------------------------------------------------


async def test_appends_go_on_while_the_anchor_is_away(database_url: str) -> None:
    anchor = InMemoryAnchor()
    async with ledger_service(database_url, anchor=anchor, relay=True) as service:
        await append(service, draft("r1"))
        await eventually(lambda: len(anchor.leaves) == 3)
        anchor.faults.down = True
        receipt = (await append(service, draft("r2"))).receipt
        assert receipt.anchor_state == common_pb2.ANCHOR_STATE_PENDING
        shown = await service.servicer.GetReceipt(
            ledger_pb2.GetReceiptRequest(name=receipt.name), None
        )
        assert shown.receipt.anchor_state == common_pb2.ANCHOR_STATE_PENDING
        assert not shown.receipt.proofs
        anchor.faults.down = False
        await eventually(lambda: len(anchor.leaves) == 4)
        await verify_all(service)


async def test_first_append_waits_for_the_anchor_once(database_url: str) -> None:
    """After a start, nothing is appended before the log was asked what it holds."""
    anchor = InMemoryAnchor()
    async with ledger_service(database_url, anchor=anchor):
        pass
    anchor.faults.down = True
    async with ledger_service(
        database_url, anchor=anchor, create=False, anchor_timeout_s=1.0
    ) as service:
        with pytest.raises(UnavailableError) as caught:
            await append(service, draft("r1"))
        assert caught.value.reason == "ANCHOR_NOT_ASKED"
        anchor.faults.down = False
        await eventually(lambda: _succeeds(lambda: append(service, draft("r1"))))
        anchor.faults.down = True
        assert (await append(service, draft("r2"))).receipt.seq == 2


async def _succeeds(call: Callable[[], Any]) -> bool:
    try:
        await call()
    except UnavailableError:
        return False
    return True


async def test_older_database_is_noticed_before_the_first_append(database_url: str) -> None:
    anchor = InMemoryAnchor()
    async with ledger_service(database_url, anchor=anchor, relay=True) as service:
        await append_batch(service, [draft("r1"), draft("r2")])
        await recorded(service, 2)
        with begin_write(engine_of(service)) as connection:
            go_back_to(connection, 1)
    async with ledger_service(database_url, anchor=anchor, create=False, relay=True) as service:
        with pytest.raises(FailedPreconditionError) as caught:
            await append(service, draft("r3"))
        assert caught.value.reason == "LEDGER_BEHIND_ANCHOR"
        assert caught.value.metadata["loggedSeq"] == "2"
        assert "Restore" in caught.value.message
        (uid,) = anchor.ledgers
        assert (await service.storage.get_head(uid)).head.seq == 1
        assert len(anchor.leaves) == 4


async def test_database_with_another_history_is_noticed(database_url: str) -> None:
    """Restored, and then appended to by something that did not ask."""
    anchor = InMemoryAnchor()
    async with ledger_service(database_url, anchor=anchor, relay=True) as service:
        await append_batch(service, [draft("r1"), draft("r2")])
        await recorded(service, 2)
        with begin_write(engine_of(service)) as connection:
            go_back_to(connection, 1)
    async with ledger_service(database_url, create=False) as service:
        await append_batch(service, [draft("r7"), draft("r8")])
    async with ledger_service(database_url, anchor=anchor, create=False) as service:
        with pytest.raises(FailedPreconditionError) as caught:
            await append(service, draft("r3"))
        assert caught.value.reason == "LEDGER_BEHIND_ANCHOR"


async def test_fork_latches_the_ledger_read_only(database_url: str) -> None:
    anchor = InMemoryAnchor()
    async with ledger_service(database_url, anchor=anchor, relay=True) as service:
        await append(service, draft("r1"))
        await eventually(lambda: len(anchor.leaves) == 3)

        def forked(method: str, request: Any) -> None:
            if method == "SubmitLeaves":
                raise FailedPreconditionError("LEDGER_FORKED", "another history")

        anchor.faults.before = forked
        receipt = (await append(service, draft("r2"))).receipt

        async def is_latched() -> bool:
            state = await service.servicer.GetLedger(ledger_pb2.GetLedgerRequest(name=LEDGER), None)
            return state.ledger.read_only_reason == "LEDGER_FORKED"

        await eventually(is_latched)
        anchor.faults.before = None
        with pytest.raises(FailedPreconditionError) as caught:
            await append(service, draft("r3"))
        assert caught.value.reason == "LEDGER_READ_ONLY"
        # What is there can be read and repeated; waiting for the log is told to be in vain.
        assert (await append(service, draft("r2"))).repeated_request
        with pytest.raises(FailedPreconditionError):
            await service.servicer.GetReceipt(
                ledger_pb2.GetReceiptRequest(
                    name=receipt.name, wait_for=common_pb2.ANCHOR_STATE_LOGGED
                ),
                None,
            )
        submitted = anchor.faults.calls.count("SubmitLeaves")
        await asyncio.sleep(0.3)
        assert anchor.faults.calls.count("SubmitLeaves") == submitted


async def test_lost_answer_of_the_log_is_recognised(database_url: str) -> None:
    anchor = InMemoryAnchor()
    losses = iter([True, True, False])

    def lose(method: str, request: Any) -> None:
        if method == "SubmitLeaves" and next(losses, False):
            raise UnavailableError("LOST", "the answer was lost")

    anchor.faults.after = lose
    async with ledger_service(database_url, anchor=anchor, relay=True) as service:
        await append_batch(service, [draft(f"r{n}") for n in range(30)])

        async def is_logged() -> bool:
            state = await service.servicer.GetLedger(ledger_pb2.GetLedgerRequest(name=LEDGER), None)
            return state.ledger.logged_seq == 30

        await eventually(is_logged)
        assert len(anchor.leaves) == 32
        await verify_all(service)


class BackwardAnchor(InMemoryAnchor):
    """Says, while it is `wrong`, that entries are where others were before."""

    wrong = False

    async def SubmitLeaves(self, *args: Any, **options: Any) -> Any:
        answer = await super().SubmitLeaves(*args, **options)
        if self.wrong:
            answer.runs[0].start_index = 1
        return answer


@pytest.mark.parametrize("restarted", [False, True])
async def test_places_before_those_of_earlier_answers_are_not_taken(
    database_url: str, restarted: bool
) -> None:
    anchor = BackwardAnchor()
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(
            ledger_service(database_url, anchor=anchor, relay=True)
        )
        await recorded(service, 0)
        if restarted:
            await stack.aclose()
            service = await stack.enter_async_context(
                ledger_service(database_url, anchor=anchor, create=False, relay=True)
            )
        anchor.wrong = True
        before = anchor.faults.calls.count("SubmitLeaves")
        await append(service, draft("r1"))
        # Neither that answer nor the one to the same entries once more.
        await eventually(lambda: anchor.faults.calls.count("SubmitLeaves") > before + 1)
        anchor.wrong = False
        await recorded(service, 1)
        await verify_all(service)


async def test_relay_resumes_after_a_restart(database_url: str) -> None:
    anchor = InMemoryAnchor()
    async with ledger_service(database_url, anchor=anchor) as service:
        await append_batch(service, [draft(f"r{n}") for n in range(1000)])
        await append_batch(service, [draft(f"s{n}") for n in range(700)])
    assert len(anchor.leaves) == 1
    async with ledger_service(database_url, anchor=anchor, create=False, relay=True) as service:
        await eventually(lambda: len(anchor.leaves) == 1702)
        runs = await _logged(service, 1700)
        assert [(run.start_seq, run.start_index, run.count) for run in runs] == [(0, 1, 1701)]
        await verify_all(service)


async def test_who_follows_a_stopped_service_need_not_wait_for_its_lease(database_url: str) -> None:
    """As a rolling update, or a restart: its lease would hold up the log for ten seconds."""
    anchor = InMemoryAnchor()
    lease_s = 60.0
    async with ledger_service(
        database_url, anchor=anchor, relay=True, relay_lease_s=lease_s
    ) as service:
        await append(service, draft("r1"))
        await recorded(service, 1)
    async with ledger_service(
        database_url, anchor=anchor, create=False, relay=True, relay_lease_s=lease_s
    ) as service:
        await append(service, draft("r2"))
        await recorded(service, 2)
        await verify_all(service)


async def _logged(service: Service, seq: int) -> Any:
    return await service.storage.log_runs(await recorded(service, seq), 0, seq)


async def test_damaged_row_is_not_sent_to_the_log(database_url: str) -> None:
    anchor = InMemoryAnchor()
    async with ledger_service(database_url, anchor=anchor) as service:
        await append_batch(service, [draft(f"r{n}") for n in range(5)])
        with begin_write(engine_of(service)) as connection:
            connection.execute(sa.text("UPDATE entries SET t_ns = t_ns + 1 WHERE seq = 3"))
        ledger = (await service.storage.list_ledgers("", ("", ""), 1))[0][0]
        with pytest.raises(DataLossError) as caught:
            await service.storage.entries_for_log(ledger, 0, 1000, 1 << 20)
        assert caught.value.metadata["seq"] == "3"


async def test_two_relays_share_the_work(database_url: str) -> None:
    """Two processes on one database: one has the lease, and nothing is logged twice."""
    anchor, witness = InMemoryAnchor(), InMemoryWitness()
    async with (
        ledger_service(database_url, witness, anchor, relay=True) as one,
        ledger_service(database_url, witness, anchor, relay=True, create=False) as two,
    ):
        for n in range(10):
            await append_batch(one if n % 2 else two, [draft(f"r{n}-{m}") for m in range(20)])
        await _logged(one, 200)
        assert len(anchor.leaves) == 202
        await verify_all(two)


async def test_anchor_without_the_ledgers_log_is_refused(database_url: str) -> None:
    """Somebody pointed the ledger at another installation's anchor."""
    anchor = InMemoryAnchor()
    async with ledger_service(database_url):
        pass

    def unknown(method: str, request: Any) -> None:
        raise NotFoundError("LOG_NOT_FOUND", "no such log")

    anchor.faults.before = unknown
    async with ledger_service(database_url, anchor=anchor, create=False) as service:
        with pytest.raises(FailedPreconditionError) as caught:
            await append(service, draft("r1"))
        assert caught.value.reason == "LOG_NOT_FOUND"
        with pytest.raises(FailedPreconditionError) as caught:
            await verify_all(service)
        assert caught.value.reason == "LOG_NOT_FOUND"


async def test_log_that_lost_entries_gets_nothing_more(database_url: str) -> None:
    """The anchor was put back: what it signed before must not be signed in another order."""
    anchor = InMemoryAnchor()
    async with ledger_service(database_url, anchor=anchor, relay=True) as service:
        await append_batch(service, [draft("r1"), draft("r2")])
        await _logged(service, 2)
        # A relay that has just been there does not compare anew; the next one does.
        await eventually(lambda: not service.relay._tasks)
        for logged in anchor.ledgers.values():
            del logged[2:]
        del anchor.leaves[3:]
        submitted = anchor.faults.calls.count("SubmitLeaves")
        await append(service, draft("r3"))
        await eventually(lambda: anchor.faults.calls.count("GetLedgerState") >= 3)
        assert anchor.faults.calls.count("SubmitLeaves") == submitted
        assert len(anchor.leaves) == 3
