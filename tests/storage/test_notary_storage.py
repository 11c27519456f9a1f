"""What every storage of the notary must do: in memory, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from notary_svc.cosigning import Cosigned, origin_id
from notary_svc.memory import Memory
from notary_svc.storage import Storage
from notary_svc.storage.memory import MemoryStorage
from notary_svc.storage.sql import SQLStorage
from provledger.errors import UnavailableError
from tests.support.postgres import connection_string

ORIGIN = "log.test/one"


@pytest.fixture(params=["memory", "sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Storage]:
    opened: Storage
    if request.param == "memory":
        opened = MemoryStorage()
    else:
        url = f"sqlite:///{tmp_path}/notary.db"
        if request.param == "postgres":
            url = request.getfixturevalue("postgres_database_url")
        opened = await asyncio.to_thread(SQLStorage.open, url)
    yield opened
    await opened.close()


def _at(size: int) -> Cosigned:
    return Cosigned(size, bytes([size]) * 32, b"note %d" % size)


async def test_first_update_sees_nothing_and_is_found(storage: Storage) -> None:
    seen: list[Cosigned | None] = []

    def decide(last: Cosigned | None) -> Cosigned:
        seen.append(last)
        return _at(3)

    assert await storage.update(ORIGIN, decide) == _at(3)
    assert seen == [None]
    assert await storage.latest(origin_id(ORIGIN)) == _at(3)
    assert await storage.latest(origin_id("other")) is None


async def test_refused_update_stores_nothing(storage: Storage) -> None:
    await storage.update(ORIGIN, lambda last: _at(3))

    def refuse(last: Cosigned | None) -> Cosigned:
        assert last == _at(3)
        raise KeyError("no")

    with pytest.raises(KeyError):
        await storage.update(ORIGIN, refuse)
    assert await storage.latest(origin_id(ORIGIN)) == _at(3)


async def test_of_updates_at_once_each_sees_the_one_before(storage: Storage) -> None:
    await storage.update(ORIGIN, lambda last: _at(0))

    def add(last: Cosigned | None) -> Cosigned:
        assert last is not None
        return _at(last.size + 1)

    await asyncio.gather(*(storage.update(ORIGIN, add) for _ in range(20)))
    assert await storage.latest(origin_id(ORIGIN)) == _at(20)


async def test_origins_do_not_mix(storage: Storage) -> None:
    await storage.update(ORIGIN, lambda last: _at(3))
    await storage.update("log.test/two", lambda last: _at(5))
    assert await storage.latest(origin_id(ORIGIN)) == _at(3)


async def test_it_says_whose_memory_it_is(storage: Storage) -> None:
    assert await storage.memory() == Memory(frozenset(), cosigned=False)
    await storage.remember(["a", "b"])
    await storage.remember(["b", "c"])
    assert await storage.memory() == Memory(frozenset("abc"), cosigned=False)
    await storage.update(ORIGIN, lambda last: _at(3))
    assert await storage.memory() == Memory(frozenset("abc"), cosigned=True)


@pytest.mark.postgres
async def test_what_another_table_takes_is_not_stored(postgres_database_url: str) -> None:
    """As where a schema is restored in place between the lock and the write."""
    storage = await asyncio.to_thread(SQLStorage.open, postgres_database_url)
    await storage.update(ORIGIN, lambda last: _at(3))

    def decide(last: Cosigned | None) -> Cosigned:
        with psycopg.connect(connection_string(postgres_database_url)) as other:
            other.execute("ALTER SCHEMA notary RENAME TO gone")
            other.execute("CREATE SCHEMA notary")
            other.execute("CREATE TABLE notary.cosigned (LIKE gone.cosigned INCLUDING ALL)")
        return _at(5)

    with pytest.raises(UnavailableError):
        await storage.update(ORIGIN, decide)
    await storage.close()


async def test_what_was_stored_is_there_after_a_restart(database_url: str) -> None:
    first = await asyncio.to_thread(SQLStorage.open, database_url)
    await first.update(ORIGIN, lambda last: _at(3))
    await first.remember(["a"])
    await first.close()
    second = await asyncio.to_thread(SQLStorage.open, database_url)
    assert await second.latest(origin_id(ORIGIN)) == _at(3)
    assert await second.memory() == Memory(frozenset("a"), cosigned=True)
    await second.close()
