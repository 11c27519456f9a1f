"""Writer and readers: threads, transactions, lost connections, conflicts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from provledger.db import Continuity, Readers, Writer, begin_write, open_engine, workers
from provledger.db.continuity import identify, pin, pinned
from provledger.errors import AbortedError, UnavailableError


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[Engine]:
    engine = open_engine(database_url, "public")
    with begin_write(engine) as connection:
        connection.execute(sa.text("CREATE TABLE t (n INTEGER PRIMARY KEY)"))
    yield engine
    engine.dispose()


@pytest.fixture
async def writer(engine: Engine) -> AsyncIterator[Writer]:
    writer = Writer(engine)
    yield writer
    await writer.close()


@pytest.fixture
async def readers(engine: Engine) -> AsyncIterator[Readers]:
    readers = Readers(engine, threads=2)
    yield readers
    await readers.close()


class Conflict(Exception):
    """What a driver says that could not serialise a transaction."""

    sqlstate = "40001"


def insert(connection: Connection, n: int) -> int:
    connection.execute(sa.text("INSERT INTO t VALUES (:n)"), {"n": n})
    return n


def numbers(connection: Connection) -> list[int]:
    return list(connection.execute(sa.text("SELECT n FROM t ORDER BY n")).scalars())


def backend_pid(connection: Connection) -> int:
    pid: int = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
    return pid


def kill(url: str, pid: int) -> None:
    """End the backend `pid`, and return when it is gone."""
    engine = open_engine(url, "public")
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": pid})
    engine.dispose()


async def test_writes_are_committed_in_order_on_one_thread(
    writer: Writer, readers: Readers
) -> None:
    threads = set()

    def run(connection: Connection, n: int) -> int:
        threads.add(threading.get_ident())
        return insert(connection, n)

    assert await asyncio.gather(*(writer.run(run, n) for n in range(5))) == list(range(5))
    assert await readers.run(numbers) == [0, 1, 2, 3, 4]
    assert len(threads) == 1
    assert threading.get_ident() not in threads


async def test_what_a_function_raises_rolls_back_and_comes_through(
    writer: Writer, readers: Readers
) -> None:
    def fail(connection: Connection) -> None:
        insert(connection, 1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await writer.run(fail)
    await writer.run(insert, 2)
    with pytest.raises(sa.exc.IntegrityError):
        await writer.run(insert, 2)
    await writer.run(insert, 3)
    assert await readers.run(numbers) == [2, 3]


async def test_cancelled_wait_leaves_the_write_to_finish(writer: Writer, readers: Readers) -> None:
    started, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slow(connection: Connection) -> None:
        loop.call_soon_threadsafe(started.set)
        go_on.wait(30)
        insert(connection, 1)

    task = asyncio.ensure_future(writer.run(slow))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    await writer.run(insert, 2)
    assert await readers.run(numbers) == [1, 2]


async def test_reader_sees_one_snapshot(writer: Writer, readers: Readers) -> None:
    """On both databases, although a write is committed between two statements."""
    between, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def twice(connection: Connection) -> tuple[list[int], list[int]]:
        first = numbers(connection)
        loop.call_soon_threadsafe(between.set)
        go_on.wait(30)
        return first, numbers(connection)

    reading = asyncio.ensure_future(readers.run(twice))
    await between.wait()
    await writer.run(insert, 1)
    go_on.set()
    assert await reading == ([], [])
    assert await readers.run(numbers) == [1]


async def test_closed_writer_finishes_what_it_has_and_refuses_more(
    engine: Engine, readers: Readers
) -> None:
    writer = Writer(engine)
    tasks = [asyncio.ensure_future(writer.run(insert, n)) for n in range(3)]
    await asyncio.sleep(0)
    await writer.close()
    assert await asyncio.gather(*tasks) == [0, 1, 2]
    with pytest.raises(UnavailableError) as caught:
        await writer.run(insert, 9)
    assert caught.value.reason == "SHUTTING_DOWN"


def without_threads(patch: pytest.MonkeyPatch) -> None:
    """As a machine that has as many of them as it may."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    patch.setattr(threading.Thread, "start", refuse)


async def test_what_is_refused_for_want_of_a_thread_is_not_done_later(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, readers = Writer(engine), Readers(engine, threads=2)
    with monkeypatch.context() as patch:
        without_threads(patch)
        for refused in (writer.run(insert, 1), readers.run(numbers)):
            with pytest.raises(UnavailableError) as caught:
                await refused
            assert caught.value.reason == "DATABASE_UNAVAILABLE"
            assert caught.value.retry_delay_s is not None
    await writer.run(insert, 2)
    assert await readers.run(numbers) == [2]
    await writer.close()
    await readers.close()


async def test_threads_that_are_there_do_the_work_of_one_that_cannot_be_started(
    readers: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slow(connection: Connection) -> list[int]:
        loop.call_soon_threadsafe(started.set)
        go_on.wait(30)
        return numbers(connection)

    first = asyncio.ensure_future(readers.run(slow))
    await started.wait()
    with monkeypatch.context() as patch:
        without_threads(patch)
        second = asyncio.ensure_future(readers.run(numbers))
        await asyncio.sleep(0)
    go_on.set()
    assert await first == await second == []


async def test_conflicts_are_retried_a_bounded_number_of_times(writer: Writer) -> None:
    """A locked SQLite file and a deadlock or failed serialisation in PostgreSQL look alike."""
    attempts = []

    def conflict(times: int) -> Callable[[Connection], int]:
        def run(connection: Connection) -> int:
            attempts.append(1)
            if len(attempts) <= times:
                raise sa.exc.OperationalError("COMMIT", None, Conflict())
            return insert(connection, 1)

        return run

    assert await writer.run(conflict(2)) == 1
    assert len(attempts) == 3
    attempts.clear()
    with pytest.raises(AbortedError) as caught:
        await writer.run(conflict(1000))
    assert caught.value.reason == "TRANSACTION_CONFLICT"
    assert 2 < len(attempts) < 10


@pytest.mark.postgres
async def test_lost_connection_is_unavailable_once_and_then_replaced(
    postgres_database_url: str,
) -> None:
    engine = open_engine(postgres_database_url, "public")
    writer, readers = Writer(engine), Readers(engine, threads=1)
    kill(postgres_database_url, await writer.run(backend_pid))
    with pytest.raises(UnavailableError) as caught:
        await writer.run(backend_pid)
    assert caught.value.reason == "DATABASE_UNAVAILABLE"
    pid = await writer.run(backend_pid)
    kill(postgres_database_url, pid)
    assert await writer.run(backend_pid, idempotent=True) != pid
    kill(postgres_database_url, await readers.run(backend_pid))
    await readers.run(backend_pid)
    await writer.close()
    await readers.close()
    engine.dispose()


@pytest.mark.postgres
async def test_one_lost_connection_has_all_made_anew(postgres_database_url: str) -> None:
    """Which may have been to a database of before: it is counted once, before anything is read."""
    engine = open_engine(postgres_database_url, "public")
    known = Continuity()
    writer, readers = (
        Writer(engine, continuity=known),
        Readers(engine, threads=1, continuity=known),
    )
    pids = [await writer.run(backend_pid), await readers.run(backend_pid)]
    assert known.generation == 0
    seen: list[int] = []

    def look(connection: Connection) -> int:
        seen.append(known.generation)
        return backend_pid(connection)

    kill(postgres_database_url, pids[0])
    assert await writer.run(look, idempotent=True) != pids[0]
    assert await readers.run(look) != pids[1]
    # The first of them ran into the end of the connection.
    assert seen == [0, 1, 1]
    await writer.close()
    await readers.close()
    engine.dispose()


@pytest.mark.postgres
@pytest.mark.parametrize("lost", [True, False], ids=["lost", "refused"])
async def test_connection_that_cannot_be_pinned_is_made_anew(
    postgres_database_url: str, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    """What goes wrong between connecting and pinning is retried, and leaves nothing behind."""
    engine = open_engine(postgres_database_url, "public")
    with begin_write(engine) as connection:
        connection.execute(sa.text("CREATE TABLE t (n INTEGER PRIMARY KEY)"))
    known = Continuity()
    writer = Writer(engine, continuity=known, pinned="t")
    attempts: list[Connection] = []

    def failing_once(connection: Connection, table: str) -> None:
        attempts.append(connection)
        if len(attempts) == 1:
            if not lost:
                raise sa.exc.OperationalError("SELECT", None, Conflict())
            pid = connection.connection.driver_connection.info.backend_pid  # type: ignore[union-attr]
            kill(postgres_database_url, pid)
        pin(connection, table)

    monkeypatch.setattr(workers, "pin", failing_once)
    assert await writer.run(pinned, idempotent=True) > 0
    assert len(attempts) == 2
    assert known.generation == 1
    assert writer._connections == {attempts[1]}
    await writer.close()
    engine.dispose()


def test_what_was_reached_tells_servers_and_files_apart(database_url: str, tmp_path: Path) -> None:
    """A connection says the same as the one before, and another file at its path does not."""
    engine = open_engine(database_url, "public")
    with engine.connect() as one, engine.connect() as two:
        assert identify(one) == identify(two) != ""
        first = identify(one)
    engine.dispose()
    path = tmp_path / "provledger.sqlite3"
    if path.exists():
        path.rename(tmp_path / "aside")
        with engine.connect() as connection:
            assert identify(connection) != first
        engine.dispose()


@pytest.mark.postgres
@pytest.mark.parametrize("idempotent", [False, True])
async def test_lost_answer_to_commit_is_told_from_a_plain_failure(
    postgres_database_url: str, idempotent: bool
) -> None:
    """The connection dies between the last statement and COMMIT."""
    engine = open_engine(postgres_database_url, "public")
    writer = Writer(engine)
    kills = 1

    def die(connection: Connection) -> str:
        nonlocal kills
        if kills:
            kills -= 1
            kill(postgres_database_url, backend_pid(connection))
        return "stored"

    if idempotent:
        assert await writer.run(die, idempotent=True) == "stored"
    else:
        with pytest.raises(UnavailableError) as caught:
            await writer.run(die)
        assert caught.value.reason == "COMMIT_OUTCOME_UNKNOWN"
    await writer.close()
    engine.dispose()


@pytest.mark.postgres
async def test_readers_cannot_write(postgres_database_url: str) -> None:
    engine = open_engine(postgres_database_url, "public")
    with begin_write(engine) as connection:
        connection.execute(sa.text("CREATE TABLE t (n INTEGER PRIMARY KEY)"))
    readers = Readers(engine, threads=1)
    with pytest.raises(UnavailableError):
        await readers.run(insert, 1)
    await readers.close()
    engine.dispose()


async def test_unreachable_database_is_unavailable(tmp_path: Path) -> None:
    for url in (
        f"sqlite:///{tmp_path}/missing/a.db",
        f"postgresql://nobody@/none?host={tmp_path}",
    ):
        engine = open_engine(url, "public")
        writer = Writer(engine)
        with pytest.raises(UnavailableError) as caught:
            await writer.run(numbers, idempotent=True)
        assert caught.value.reason == "DATABASE_UNAVAILABLE"
        assert caught.value.retry_delay_s is not None
        await writer.close()
        engine.dispose()
