"""The database becomes an older one under an anchor that runs: nothing is answered from it.

As when a standby that lagged takes over. What the process has released is more than it holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from anchor_svc import committer
from anchor_svc.openlog import OpenLog
from anchor_svc.storage.tables import SCHEMA
from provledger.db import begin_write, open_engine
from provledger.errors import DataLossError
from provledger.keyset import KeyPurpose
from tests.support.anchoring import (
    Ledger,
    TestKeys,
    check_log,
    eventually,
    running_log,
    submit,
)
from tests.support.postgres import copy_schema, swap_schemas

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(120)]

Ask = Callable[[OpenLog, Ledger], Awaitable[Any]]

LATE = Ledger("late")
LATE.grow(1)
QUESTIONS: dict[str, Ask] = {
    "state": lambda log, ledger: log.reader.ledger_state(ledger.uid),
    "state of a ledger that is not there": lambda log, _: log.reader.ledger_state(LATE.uid),
    "head": lambda log, ledger: log.reader.ledger_head(ledger.uid, 0),
    "head of a ledger that is not there": lambda log, _: log.reader.ledger_head(LATE.uid, 0),
    "proofs": lambda log, ledger: log.reader.batch_inclusion(ledger.uid, [9, 10], 0),
    "checkpoint": lambda log, _: log.reader.checkpoint(21),
    "anchors": lambda log, _: log.reader.anchors(None, "", 10),
    "fence": lambda log, _: log.committer.check_ours(),
}


class Gone:
    """A log of 22 leaves, all released; its copy `early` has the first 11 of them."""

    def __init__(self, url: str, log: OpenLog, ledger: Ledger, keys: TestKeys) -> None:
        self.url = url
        self.log = log
        self.ledger = ledger
        self.keys = keys

    def replace(self) -> None:
        """Put the copy in place, or the right one again."""
        swap_schemas(self.url, SCHEMA, "early")

    async def refusal(self, asked: Awaitable[Any]) -> str:
        """Why a question is refused."""
        with pytest.raises(DataLossError) as caught:
            await asked
        return caught.value.reason


@asynccontextmanager
async def gone(url: str, data_dir: Path, **options: Any) -> AsyncIterator[Gone]:
    keys, ledger = TestKeys(), Ledger()
    ledger.grow(20)
    async with running_log(url, data_dir, keys=keys, **options) as log:
        await submit(log, ledger, 0, 10)
        await asyncio.to_thread(copy_schema, url, SCHEMA, "early")
        await submit(log, ledger, 10, 20)
        await submit(log, LATE)
        yield Gone(url, log, ledger, keys)


@pytest.mark.parametrize("question", QUESTIONS)
async def test_nothing_is_answered_from_a_database_that_went_back(
    postgres_database_url: str, tmp_path: Path, question: str
) -> None:
    async with gone(postgres_database_url, tmp_path) as one:
        ask = QUESTIONS[question]
        before = await ask(one.log, one.ledger)
        signed = len(one.keys.signers[KeyPurpose.HEAD].signed)
        one.replace()
        for _ in range(2):
            assert await one.refusal(ask(one.log, one.ledger)) == "DATABASE_BEHIND"
        assert len(one.keys.signers[KeyPurpose.HEAD].signed) == signed
        # What is in the tree is proven as before.
        assert (await one.log.reader.inclusion(20, 0)).checkpoint.size == 22
        one.replace()
        assert await ask(one.log, one.ledger) == before


async def test_idle_writer_notices_that_the_database_went_back(
    postgres_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And goes on by itself when the right one is there again."""
    told: list[str] = []

    def tell(event: str, *, reason: str = "", **_: Any) -> None:
        told.append(reason)

    monkeypatch.setattr(committer, "_FENCE_CHECK_S", 0.02)
    monkeypatch.setattr(committer, "log", SimpleNamespace(error=tell, warning=tell))
    async with gone(postgres_database_url, tmp_path) as one:
        watching = asyncio.ensure_future(one.log.committer.heal())
        one.replace()
        await eventually(lambda: "DATABASE_BEHIND" in told)
        assert not one.log.committer.fenced.is_set()
        one.replace()
        await eventually(lambda: not one.log.committer._unfinished.is_set(), 60.0)
        one.ledger.grow(5)
        await submit(one.log, one.ledger, 20)
        await check_log(one.log, [one.ledger, LATE], one.keys)
        watching.cancel()


async def test_log_that_came_to_its_size_again_is_another_history(
    postgres_database_url: str, tmp_path: Path
) -> None:
    """Another process wrote to the older database: as many leaves, or more, and others."""
    async with gone(postgres_database_url, tmp_path / "one") as one:
        signed = one.log.state.signed_view()
        one.replace()
        other = Ledger("other")
        other.grow(16)
        async with running_log(postgres_database_url, tmp_path / "other") as log:
            await submit(log, other, 0, 11)
            assert log.state.signed_size == signed.size
            # Whatever made it so, the fence does not tell: what is stored has to.
            await asyncio.to_thread(_set_epoch, one.url, one.log.committer.epoch)
            for question in ("state", "anchors", "fence"):
                asked = QUESTIONS[question](one.log, one.ledger)
                assert await one.refusal(asked) == "HISTORY_CHANGED"
            await asyncio.to_thread(_set_epoch, one.url, log.committer.epoch)
            await submit(log, other, 11)
            await asyncio.to_thread(_set_epoch, one.url, one.log.committer.epoch)
        one.ledger.grow(5)
        reasons = [await one.refusal(submit(one.log, one.ledger, 20)) for _ in range(3)]
        assert reasons == ["LOG_ROW_CHANGED", "HISTORY_CHANGED", "HISTORY_CHANGED"]
        assert one.log.state.signed_view() is signed


def _set_epoch(url: str, epoch: int) -> None:
    engine = open_engine(url, SCHEMA)
    with begin_write(engine) as connection:
        connection.exec_driver_sql(f"UPDATE logs SET writer_epoch = {epoch}")
    engine.dispose()
