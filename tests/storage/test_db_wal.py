"""The WAL of a SQLite database is copied back beside the commits, and stays short although somebody
reads at every moment."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from provledger.db import Writer, open_engine, wal, workers
from provledger.db.engine import begin_write

LIMIT_BYTES = 1 << 18
COPY_FROM = 68
DEADLINE_S = 60.0


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_engine(f"sqlite:///{tmp_path / 'a.db'}", "ledger")
    yield engine
    engine.dispose()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that a few writes reach, and no pause."""
    keep = partial(wal.WalKeeper, limit_bytes=LIMIT_BYTES)
    monkeypatch.setattr(workers, "WalKeeper", keep)
    monkeypatch.setattr(wal, "_PAUSE_FACTOR", 0)


def length(engine: Engine) -> int:
    return Path(f"{engine.url.database}-wal").stat().st_size


def make(connection: Connection) -> None:
    connection.execute(sa.text("CREATE TABLE t (a BLOB)"))


def write(connection: Connection) -> None:
    connection.execute(sa.text("INSERT INTO t VALUES (randomblob(65536))"))


def write_mib(connection: Connection) -> None:
    connection.execute(sa.text("INSERT INTO t VALUES (randomblob(1048576))"))


def make_other(connection: Connection) -> None:
    connection.execute(sa.text("CREATE TABLE u (a BLOB)"))


def count(connection: Connection) -> int:
    return int(connection.execute(sa.text("SELECT count(*) FROM t")).scalar_one())


def busy_timeout_ms(connection: Connection) -> int:
    return int(connection.execute(sa.text("PRAGMA busy_timeout")).scalar_one())


@contextmanager
def always_read(engine: Engine) -> Iterator[None]:
    """A read at every moment: each ends when the next has begun."""
    ended, reading = threading.Event(), threading.Event()

    def read() -> None:
        with engine.connect() as one, engine.connect() as other:
            count(one)
            reading.set()
            while not ended.wait(0.001):
                count(other)
                one.rollback()
                one, other = other, one

    thread = threading.Thread(target=read)
    thread.start()
    try:
        assert reading.wait(DEADLINE_S)
        yield
    finally:
        ended.set()
        thread.join()


async def test_the_wal_begins_anew_under_reads_that_overlap(engine: Engine) -> None:
    writer = Writer(engine)
    await writer.run(make)
    lengths = [0]
    deadline_s = time.monotonic() + DEADLINE_S
    with always_read(engine):
        while max(lengths) < LIMIT_BYTES or lengths[-1] >= LIMIT_BYTES:
            assert time.monotonic() < deadline_s
            await writer.run(write)
            lengths.append(length(engine))
    assert await writer.run(count) == len(lengths) - 1
    await writer.close()


async def test_a_read_that_does_not_end_fails_no_write(engine: Engine) -> None:
    writer = Writer(engine)
    await writer.run(make)
    with engine.connect() as reader:
        assert count(reader) == 0
        for _ in range(10):
            await writer.run(write)
        assert length(engine) > LIMIT_BYTES
        assert count(reader) == 0
    await writer.run(write)
    assert length(engine) < LIMIT_BYTES
    assert await writer.run(count) == 11
    assert await writer.run(busy_timeout_ms) == 5000
    await writer.close()


# --- copied back beside the commits


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copied back before the write that follows the fifth, and only so: each is 16, eight pages and
    a commit, the one that makes the table 8."""
    monkeypatch.setattr(workers, "WalKeeper", wal.WalKeeper)
    monkeypatch.setattr(workers, "WalCopier", partial(wal.WalCopier, copy_from=COPY_FROM))


def copied_bytes(engine: Engine) -> int:
    return Path(str(engine.url.database)).stat().st_size


async def some_written(engine: Engine, count: int) -> Writer:
    """A writer that has made the table and written some times."""
    writer = Writer(engine)
    await writer.run(make)
    for _ in range(count - 1):
        await writer.run(write)
    return writer


async def test_what_was_committed_is_copied_back_by_another_thread(
    engine: Engine, soon: None
) -> None:
    closed: list[object] = []
    sa.event.listen(engine, "close_detached", closed.append)
    writer = await some_written(engine, 5)
    assert copied_bytes(engine) < LIMIT_BYTES // 2
    await writer.run(write)
    await writer.close()  # which waits for it
    assert copied_bytes(engine) > LIMIT_BYTES
    # Its connection is closed, not kept in the pool: the file may be replaced by another.
    assert len(closed) == 1


async def test_what_is_written_meanwhile_is_copied_too(
    engine: Engine, soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = await some_written(engine, 5)
    passes: list[int] = []
    inner = wal._copy_once

    def copy_once(raw: object) -> int:
        written = inner(raw)
        passes.append(copied_bytes(engine))
        if len(passes) == 1:
            with begin_write(engine) as other:
                for _ in range(4):
                    write(other)
        return written

    monkeypatch.setattr(wal, "_copy_once", copy_once)
    await writer.run(count)
    await writer.close()
    # And once more, which finds nothing.
    assert len(passes) == 3
    assert passes[0] + LIMIT_BYTES <= passes[1] == passes[2]
    # Nothing is left, so that the next commit begins the WAL anew.
    length_before = length(engine)
    again = Writer(engine)
    await again.run(write)
    assert length(engine) == length_before
    await again.close()


class Slow:
    """A disk on which copying goes on until `done` is set; how often it was waited for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.began, self.done = threading.Event(), threading.Event()
        self.waits = 0
        inner = wal.WalCopier._copy

        def copy(engine: Engine) -> None:
            self.began.set()
            assert self.done.wait(DEADLINE_S)
            inner(engine)

        def wait(copying: object, timeout: float) -> None:
            self.waits += 1

        monkeypatch.setattr(wal.WalCopier, "_copy", staticmethod(copy))
        monkeypatch.setattr(wal, "wait", wait)


async def test_commits_do_not_wait_for_what_is_being_copied(
    engine: Engine, soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch)
    writer = await some_written(engine, 6)
    assert await asyncio.to_thread(slow.began.wait, DEADLINE_S)
    for _ in range(4):
        await writer.run(write)
    assert slow.waits == 0
    slow.done.set()
    await writer.close()


async def test_commits_do_not_wait_for_a_copy_that_meets_a_reader(
    engine: Engine, soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that must copy all of it (FULL, RESTART) lets no writer in until the reader has ended."""
    copied = threading.Event()
    inner = wal._copy_once

    def copy_once(raw: sqlite3.Connection) -> int:
        # Longer than a commit has patience.
        raw.execute(f"PRAGMA busy_timeout = {int(DEADLINE_S * 1000)}")
        try:
            return inner(raw)
        finally:
            copied.set()

    monkeypatch.setattr(wal, "_copy_once", copy_once)
    writer = await some_written(engine, 5)
    with engine.connect() as reader:
        assert count(reader) == 4
        written = 0
        while not copied.is_set():
            await writer.run(write)
            written += 1
        assert count(reader) == 4
    assert await writer.run(count) == 4 + written
    await writer.close()


async def test_rows_are_copied_back_by_how_many_pages_they_take(
    engine: Engine, soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row of a megabyte is more than the WAL is left alone for."""
    copies: list[object] = []
    inner = wal._copy_once

    def copy_once(raw: object) -> int:
        copies.append(raw)
        return inner(raw)

    monkeypatch.setattr(wal, "_copy_once", copy_once)
    writer = Writer(engine)
    await writer.run(make)
    await writer.run(write_mib)
    assert not copies
    await writer.run(make_other)
    await writer.close()
    assert copies


async def test_more_than_can_be_copied_meanwhile_waits(
    engine: Engine, soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the WAL would grow without end."""
    slow = Slow(monkeypatch)
    writer = await some_written(engine, 10)
    assert await asyncio.to_thread(slow.began.wait, DEADLINE_S)
    await writer.run(write)
    await writer.run(write)
    assert slow.waits == 2
    slow.done.set()
    await writer.close()


async def test_where_it_cannot_be_copied_commits_go_on(
    engine: Engine, soon: None, caplog: pytest.LogCaptureFixture
) -> None:
    writer = await some_written(engine, 2)  # its connection is there

    def refuse() -> Connection:
        raise OSError("no file to be had")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(engine, "connect", refuse)
        for _ in range(8):
            await writer.run(write)
        await writer.close()
    assert "db.wal_not_copied" in caplog.text
    with engine.connect() as reader:
        assert count(reader) == 9
