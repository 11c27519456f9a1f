"""A notary whose database becomes an older one, or another, under it cosigns no second history."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from notary_svc.cosigning import Cosigned, origin_id
from notary_svc.signing import Cosigner
from notary_svc.storage.memory import MemoryStorage
from notary_svc.storage.sql import COSIGNED, SCHEMA
from notary_svc.web import Notary
from provledger.db import begin_write, open_engine
from provledger.errors import DataLossError
from tests.support.notary import NOTARY, ORIGIN, TinyLog, call, running_notary

pytestmark = pytest.mark.timeout(60)

LOG = TinyLog()
FORK = TinyLog(fork_at=6)
Row = dict[str, Any]
Decide = Callable[[Cosigned | None], Cosigned]
LATEST = f"/{origin_id(ORIGIN)}/checkpoint"


def put_back(url: str, row: Row | None) -> Row | None:
    """Set what was cosigned back to an earlier row, or to none; the row there was before."""
    engine = open_engine(url, SCHEMA)
    try:
        with begin_write(engine) as connection:
            found = connection.execute(sa.select(COSIGNED)).first()
            connection.execute(sa.delete(COSIGNED))
            if row is not None:
                connection.execute(sa.insert(COSIGNED).values(**row))
        return None if found is None else found._asdict()
    finally:
        engine.dispose()


async def test_no_second_history_by_a_database_that_went_back(
    database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_notary(tmp_path, [LOG], database_url=database_url) as address:

        async def add(log: TinyLog, old: int, new: int) -> int:
            body = log.request(old, new)
            return (await call(address, "POST", "/add-checkpoint", body))[0]

        async def replace(row: Row | None) -> Row | None:
            return await asyncio.to_thread(put_back, database_url, row)

        assert await add(LOG, 0, 5) == 200
        five = await replace(None)
        await replace(five)
        assert await add(LOG, 5, 9) == 200
        nine = await replace(five)
        with caplog.at_level(logging.ERROR):
            assert await add(FORK, 5, 9) == 503
        assert "notary.failed" in [record.getMessage() for record in caplog.records]
        # Not even what it could cosign by what was released: that is not stored.
        assert await add(LOG, 9, 12) == 503
        assert await add(LOG, 5, 9) == 503
        assert (await call(address, "GET", LATEST))[0] == 503
        await replace(None)
        assert await add(FORK, 0, 9) == 503
        # It goes on by itself when the right one is back.
        await replace(nine)
        assert (await call(address, "GET", LATEST))[0] == 200
        assert await add(LOG, 9, 12) == 200


async def test_another_root_at_the_same_size_is_another_history(
    database_url: str, tmp_path: Path
) -> None:
    async with running_notary(tmp_path / "a", [LOG], database_url=database_url) as address:
        assert (await call(address, "POST", "/add-checkpoint", LOG.request(0, 9)))[0] == 200
        nine = await asyncio.to_thread(put_back, database_url, None)
        assert nine is not None
        await asyncio.to_thread(put_back, database_url, nine | {"root": FORK.root(9)})
        body = FORK.request(9, 12)
        assert (await call(address, "POST", "/add-checkpoint", body))[0] == 503


async def test_what_was_shown_is_remembered_too(database_url: str, tmp_path: Path) -> None:
    async with running_notary(tmp_path, [LOG], database_url=database_url) as address:
        assert (await call(address, "POST", "/add-checkpoint", LOG.request(0, 5)))[0] == 200
        five = await asyncio.to_thread(put_back, database_url, None)
        await asyncio.to_thread(put_back, database_url, five)
        assert (await call(address, "POST", "/add-checkpoint", LOG.request(5, 9)))[0] == 200
    async with running_notary(tmp_path, [LOG], database_url=database_url) as address:
        assert (await call(address, "GET", LATEST))[0] == 200
        await asyncio.to_thread(put_back, database_url, five)
        assert (await call(address, "POST", "/add-checkpoint", FORK.request(5, 9)))[0] == 503


class Failing(MemoryStorage):
    """Goes back to what it held at first once the next update is committed."""

    async def update(self, origin: str, decide: Decide) -> Cosigned:
        before = dict(self._latest)
        stored = await super().update(origin, decide)
        self._latest = before
        await asyncio.sleep(0)
        return stored


async def test_of_two_requests_at_once_the_second_is_held_against_the_first(
    tmp_path: Path,
) -> None:
    """The second is decided before whoever sent the first has been answered."""
    notary = Notary(
        Cosigner.open(NOTARY, tmp_path), {ORIGIN: [LOG.key]}, Failing(), clock=lambda: 10**18
    )
    sent: list[Awaitable[bytes]] = [notary.add(log.request(0, 9)) for log in (LOG, FORK)]
    first, second = await asyncio.gather(*sent, return_exceptions=True)
    assert isinstance(first, bytes)
    assert isinstance(second, DataLossError)
    assert second.reason == "DATABASE_BEHIND"
