"""How far receipts have got, for those who wait: into the log, and on to every sink.

Into the log: the relay of this process says so at once; what another replica's relay did is seen in
the database while somebody waits. To the sinks: the anchor is asked up to which tree size every
sink has acknowledged, one question for all who want to know.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from ledger_svc.storage import LogRun, Storage
from provledger import logs
from provledger.api.anchor.v1 import anchor_pb2
from provledger.errors import DataLossError, FailedPreconditionError, StatusError
from provledger.rpc.channel import call

log = logs.get(__name__)

NO_SINKS: Final = -1
_POLL_S: Final = 0.1
_FRESH_S: Final = 0.5


class LogStub(Protocol):
    """What we call of the generated `AnchorServiceStub`."""

    GetLog: Callable[..., Awaitable[anchor_pb2.GetLogResponse]]


class Sinks:
    """What the anchor last said of the sinks of each log."""

    def __init__(self, anchor: Any, *, timeout_s: float) -> None:
        self._anchor: LogStub = anchor
        self._timeout_s = min(timeout_s, 2.0)
        # By log: when it was asked, and the size by tenant with its own policy; "" for the rest.
        self._anchored: dict[str, tuple[float, Mapping[str, int]]] = {}
        self._asking: dict[str, asyncio.Task[Mapping[str, int]]] = {}

    async def anchored_size(
        self, log_name: str, tenant: str = "", *, max_age_s: float = _FRESH_S
    ) -> int | None:
        """Tree size that enough sinks have acknowledged, by the policy for `tenants/{tenant}`.

        -1 if there are no sinks, None while the anchor does not answer. Not older than `max_age_s`.
        """
        asked_s, sizes = self._anchored.get(log_name, (float("-inf"), {}))
        if time.monotonic() - asked_s > max_age_s:
            asking = self._asking.get(log_name)
            if asking is None:
                asking = self._asking[log_name] = asyncio.create_task(self._ask(log_name))
            # Whoever gives up waiting leaves the question to the others.
            sizes = await asyncio.shield(asking)
        return sizes.get(tenant, sizes.get(""))

    async def _ask(self, log_name: str) -> Mapping[str, int]:
        sizes: dict[str, int] = {}
        try:
            request = anchor_pb2.GetLogRequest(name=log_name, with_tenants=True)
            response = await call(self._anchor.GetLog, request, timeout_s=self._timeout_s)
            sizes = {own.tenant: own.anchored_size for own in response.log.tenants}
            sizes[""] = response.log.anchored_size
        except StatusError as error:
            log.debug("anchor.not_asked", log=log_name, reason=error.reason)
        finally:
            self._asking.pop(log_name, None)
        self._anchored[log_name] = (time.monotonic(), sizes)
        return sizes


class Progress:
    """Where receipts are, and waiting for them to get further."""

    def __init__(self, storage: Storage, sinks: Sinks) -> None:
        self._storage = storage
        self._sinks = sinks
        self._logged: dict[bytes, int] = {}
        self._changed: dict[bytes, asyncio.Event] = {}
        # Set as soon as somebody waits, for the relay that lets receipts gather meanwhile.
        self._wanted: dict[bytes, asyncio.Event] = {}
        # When the database was asked last, so that a thousand who wait do not ask a thousand times.
        self._asked_s: dict[bytes, float] = {}

    def logged(self, ledger_uid: bytes, seq: int) -> None:
        """Take note that all up to and including `seq` is in the log."""
        if seq > self._logged.get(ledger_uid, -1):
            self._logged[ledger_uid] = seq
            changed = self._changed.pop(ledger_uid, None)
            if changed is not None:
                changed.set()

    def is_logged(self, ledger_uid: bytes, seq: int) -> bool:
        """Whether the receipt is in the log, as far as this process has heard."""
        return self.logged_seq(ledger_uid) >= seq

    def is_awaited(self, ledger_uid: bytes) -> bool:
        """Whether somebody waits for a receipt of the ledger to be logged."""
        return ledger_uid in self._changed

    def logged_seq(self, ledger_uid: bytes) -> int:
        """Up to where the log has a ledger, as far as this process has heard; at least -1."""
        return self._logged.get(ledger_uid, -1)

    async def wanted(self, ledger_uid: bytes, timeout_s: float) -> None:
        """Return as soon as somebody waits for a receipt to be logged, or after `timeout_s`."""
        if self.is_awaited(ledger_uid):
            return
        wanted = self._wanted[ledger_uid] = asyncio.Event()
        await _wait(wanted, timeout_s)
        self._wanted.pop(ledger_uid, None)

    async def wait_logged(self, ledger_uid: bytes, seq: int) -> None:
        """Return once the log has the receipt; the caller's deadline bounds the wait.

        Raises:
            FailedPreconditionError: LEDGER_READ_ONLY, where the log will never have it.
        """
        while self._logged.get(ledger_uid, -1) < seq:
            # Before asking, so that nothing is missed in between.
            changed = self._changed.setdefault(ledger_uid, asyncio.Event())
            wanted = self._wanted.get(ledger_uid)
            if wanted is not None:
                wanted.set()
            now_s = time.monotonic()
            if now_s - self._asked_s.get(ledger_uid, float("-inf")) >= _POLL_S:
                self._asked_s[ledger_uid] = now_s
                await self._ask(ledger_uid, seq)
            if self._logged.get(ledger_uid, -1) < seq:
                await _wait(changed, _POLL_S)

    async def _ask(self, ledger_uid: bytes, seq: int) -> None:
        state = await self._storage.get_head(ledger_uid)
        self.logged(ledger_uid, state.logged_seq)
        if state.read_only_reason and state.logged_seq < seq:
            # Whoever else waits asks again, and is told the same.
            self._asked_s.pop(ledger_uid, None)
            raise FailedPreconditionError(
                "LEDGER_READ_ONLY",
                f"the log takes no more of this ledger: {state.read_only_reason}",
                metadata={"because": state.read_only_reason},
            )

    async def wait_anchored(
        self, ledger_uid: bytes, log_name: str, seq: int, tenant: str = ""
    ) -> None:
        """Return once enough sinks have the receipt; the caller's deadline bounds the wait.

        tenant: `tenants/{tenant}` whose policy says which are enough.

        Raises:
            FailedPreconditionError: NO_ANCHOR_SINKS, for a log without sinks.
        """
        await self.wait_logged(ledger_uid, seq)
        index = await self._index_of(ledger_uid, seq)
        while True:
            anchored = await self._sinks.anchored_size(log_name, tenant, max_age_s=_POLL_S)
            if anchored == NO_SINKS:
                raise FailedPreconditionError(
                    "NO_ANCHOR_SINKS", "this log has no sinks, so that nothing is ever anchored"
                )
            if anchored is not None and anchored > index:
                return
            await asyncio.sleep(_POLL_S)

    async def _index_of(self, ledger_uid: bytes, seq: int) -> int:
        """The log index of a logged receipt, which is stored a moment after it was logged.

        Raises:
            DataLossError: CHAIN_BROKEN, it should be stored and is not.
        """
        while True:
            # Before the runs: whatever it counts as logged has one.
            logged_seq = (await self._storage.get_head(ledger_uid)).logged_seq
            index = index_of(await self._storage.log_runs(ledger_uid, seq, seq), seq)
            if index is not None:
                return index
            if logged_seq >= seq:
                raise DataLossError(
                    "CHAIN_BROKEN",
                    f"the place of receipt {seq} in the log is missing",
                    metadata={"seq": str(seq), "column": "log_runs"},
                )
            await asyncio.sleep(_POLL_S)


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass


def index_of(runs: Sequence[LogRun], seq: int) -> int | None:
    """The log index of a seq, None if no run holds it."""
    for run in runs:
        if run.start_seq <= seq < run.start_seq + run.count:
            return run.start_index + seq - run.start_seq
    return None
