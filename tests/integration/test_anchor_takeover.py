"""A second process takes a log over: only if it can open it, and whatever the first is doing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from anchor_svc.storage import Storage
from provledger.errors import DataLossError, UnavailableError
from provledger.keyset import KeyPurpose
from tests.support.anchoring import Ledger, TestKeys, check_log, running_log, submit

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(120)]


async def test_writer_that_cannot_open_the_log_leaves_it_to_the_one_that_serves_it(
    postgres_database_url: str, tmp_path: Path
) -> None:
    """Its volume is not mounted."""
    keys, ledger = TestKeys(), Ledger()
    ledger.grow(900)
    async with running_log(postgres_database_url, tmp_path / "data", keys=keys) as first:
        await submit(first, ledger, 0, 300)
        with pytest.raises(DataLossError, match="tile/0/000 is missing"):
            async with running_log(postgres_database_url, tmp_path / "empty", keys=keys):
                pass
        await submit(first, ledger, 300)
        await first.committer.check_ours()
        await check_log(first, [ledger], keys)


class After:
    """A storage; `work` is done once, right after the first answer of one of its methods."""

    def __init__(self, storage: Storage, method: str, work: Callable[[], Awaitable[Any]]) -> None:
        self._storage = storage
        self._method = method
        self._work: Callable[[], Awaitable[Any]] | None = work

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._storage, name)
        if name != self._method or self._work is None:
            return found

        async def answer(*args: Any) -> Any:
            told = await found(*args)
            work, self._work = self._work, None
            if work is not None:
                await work()
            return told

        return answer


@pytest.mark.parametrize("method", ["log", "pieces", "newest_checkpoint", "newest_signed"])
async def test_writer_that_goes_on_meanwhile_is_taken_over(
    postgres_database_url: str, tmp_path: Path, method: str
) -> None:
    keys, ledger = TestKeys(), Ledger()
    ledger.grow(900)
    async with running_log(postgres_database_url, tmp_path, keys=keys) as first:
        await submit(first, ledger, 0, 300)

        async def write() -> None:
            await submit(first, ledger, 300, 600)
            await first.publisher.publish(first.state.signed_view())

        def wrap(storage: Storage) -> Any:
            return After(storage, method, write)

        async with running_log(postgres_database_url, tmp_path, keys=keys, wrap=wrap) as second:
            await submit(second, ledger, 600)
            await check_log(second, [ledger], keys)
        with pytest.raises(UnavailableError, match="another process"):
            await submit(first, ledger, 600)


async def test_checkpoint_that_is_published_meanwhile_is_not_one_that_the_database_lacks(
    postgres_database_url: str, tmp_path: Path
) -> None:
    """The log does not grow by it, so that nothing shows that it was looked at twice."""
    keys, ledger = TestKeys(), Ledger()
    ledger.grow(20)
    async with running_log(postgres_database_url, tmp_path, keys=keys) as first:
        key = keys.signers[KeyPurpose.CHECKPOINT]
        key.fail = True
        with pytest.raises(UnavailableError):
            await submit(first, ledger, 0, 10)

        async def publish() -> None:
            key.fail = False
            await first.committer.finish()
            await first.publisher.publish(first.state.signed_view())

        def wrap(storage: Storage) -> Any:
            return After(storage, "newest_signed", publish)

        async with running_log(postgres_database_url, tmp_path, keys=keys, wrap=wrap) as second:
            assert first.state.published_size == 11
            await submit(second, ledger)
            await check_log(second, [ledger], keys)
