"""Stores where in the log the entries of a ledger are, a moment behind the log itself.

The log is what counts: what it has, and this has not been stored yet, is submitted again after a
crash and recognised. So several answers of the log are stored together, and nobody waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from ledger_svc.storage import LogRun, Storage
from ledger_svc.storage.relays import merge_runs

PAUSE_S: Final = 0.025
"""Between two writes."""


class LeaseLostError(Exception):
    """`logged_seq` is not where we left it: another replica has gone on, or an answer was lost."""


class Recorder:
    """What one relay has to store, from the time it took the lease; for one event loop.

    failed: called when something could not be stored; `check` says what.
    renewed_s: when the lease was renewed last, by `time.monotonic`; every write renews it.
    """

    def __init__(
        self,
        storage: Storage,
        ledger_uid: bytes,
        owner: str,
        lease_s: float,
        logged_seq: int,
        failed: Callable[[], None],
    ) -> None:
        self.renewed_s = time.monotonic()
        self._storage = storage
        self._ledger_uid = ledger_uid
        self._owner = owner
        self._lease_s = lease_s
        self._recorded_seq = logged_seq
        self._failed = failed
        self._runs: list[LogRun] = []
        self._task: asyncio.Task[None] | None = None

    def add(self, runs: Sequence[LogRun]) -> None:
        """Have runs stored that follow those of before."""
        self._runs += runs
        if self._task is None or (self._task.done() and self._task.exception() is None):
            self._task = asyncio.create_task(self._run())

    def check(self) -> None:
        """Raise what went wrong, if anything did.

        Raises:
            LeaseLostError, StatusError: what was added is not stored.
        """
        if self._task is not None and self._task.done():
            self._task.result()

    async def settle(self) -> None:
        """Return once everything is stored; raises as `check` does."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def close(self) -> None:
        """Give up what is not stored yet, and whatever went wrong with it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while self._runs:
                await self._record()
                # What comes meanwhile is stored together.
                await asyncio.sleep(PAUSE_S)
        except Exception:
            self._failed()
            raise

    async def _record(self) -> None:
        runs = merge_runs(self._runs)
        self._runs = []
        recorded = await self._storage.record_runs(
            self._ledger_uid, runs, self._recorded_seq, self._owner, self._lease_s
        )
        if not recorded:
            raise LeaseLostError
        self.renewed_s = time.monotonic()
        self._recorded_seq = runs[-1].start_seq + runs[-1].count - 1
