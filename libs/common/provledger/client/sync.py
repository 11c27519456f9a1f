"""The blocking client: `AsyncClient` on an event loop of its own, in a thread of its own.

Safe to share between threads. Not in its own, where it would wait for itself and says so instead.
Not safe across `fork`: make the client after it. The methods say in one line what they do;
`provledger.client.aio` has the whole of it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from types import TracebackType
from typing import Any, Final, TypeVar

from provledger.client.aio import AsyncClient
from provledger.client.calls import DEFAULT_CALL_POLICY, CallPolicy
from provledger.client.drafts import Draft
from provledger.client.stream import DEFAULT_WINDOW
from provledger.client.threads import in_thread
from provledger.client.transport import closed_error
from provledger.client.values import (
    AnchorState,
    AppendResult,
    Ledger,
    RangeReport,
    ReceiptFilter,
    ReceiptPage,
    ReceiptSummary,
    SignedHead,
)
from provledger.errors import FailedPreconditionError
from provledger.receipt import Receipt
from provledger.rpc.tls import TLSSettings

R = TypeVar("R")

_NO_FILTER: Final = ReceiptFilter()
_END: Final = object()

_END_S: Final = 0.5
"""How long calls have to end when the client is closed; what waits for a source does not."""


class Client:
    """Records changes and reads receipts, over gRPC; the blocking twin of `AsyncClient`.

    Args:
        endpoint: `host:port` of the ledger service. A URL or one without port is a ConfigError.
        keys_endpoint: `host:port` of the keys service; only `jwks` needs it.
        tls: Certificates for mutual TLS; None on loopback. Beyond it, None is a ConfigError, unless
            the endpoint is `plaintext:host:port`: something else encrypts the way. With them it may
            be `name@host:port`, where the certificate has another name than `host`.
        policy: Deadlines and retries.
        share_calls: Whether single appends of several threads may share calls, see `AsyncClient`.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        keys_endpoint: str = "",
        tls: TLSSettings | None = None,
        policy: CallPolicy = DEFAULT_CALL_POLICY,
        share_calls: bool = True,
    ) -> None:
        self._client = AsyncClient(
            endpoint,
            keys_endpoint=keys_endpoint,
            tls=tls,
            policy=policy,
            share_calls=share_calls,
        )
        self._loop = asyncio.new_event_loop()
        # A daemon: a program that forgets to close its client still ends.
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="provledger-client", daemon=True
        )
        self._thread.start()
        # Work is begun under it, so that `close` knows of all there is. Never taken by the client's
        # own thread, which others wait for; entered twice where a listing that nobody has any more
        # is collected in the middle of it.
        self._closing = threading.RLock()
        self._closed = False
        self._leaving: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Client:
        """Return the client itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the client."""
        self.close()

    def close(self) -> None:
        """Close the channels and end the thread; calls in flight fail. May be called twice.

        Raises FailedPreconditionError in the client's own thread, see `_own_thread_error`.
        """
        if self._is_own_thread():
            raise _own_thread_error()
        with self._closing:
            if self._closed:
                return
            self._closed = True
            # What was begun before is begun there before this, and what remains is cancelled.
            shut = asyncio.run_coroutine_threadsafe(self._shut(), self._loop)
        shut.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _shut(self) -> None:
        await self._client.close()
        mine = asyncio.current_task()
        tasks = [task for task in asyncio.all_tasks() if task is not mine]
        if tasks:
            # Calls end by themselves then, with errors of their own, which have their request ids.
            await asyncio.wait(tasks, timeout=_END_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._loop.shutdown_asyncgens()

    # --- ledgers ---------------------------------------------------------------------------------

    def create_ledger(
        self,
        tenant: str,
        ledger: str = "main",
        *,
        suite: str = "",
        own_log: bool = False,
        timeout_s: float | None = None,
    ) -> tuple[Ledger, bool]:
        """Make a ledger of a tenant, or return the one that is there; True if it was made."""
        return self._run(
            self._client.create_ledger(
                tenant, ledger, suite=suite, own_log=own_log, timeout_s=timeout_s
            )
        )

    def get_ledger(self, name: str, *, timeout_s: float | None = None) -> Ledger:
        """Return a ledger by its full name."""
        return self._run(self._client.get_ledger(name, timeout_s=timeout_s))

    def list_ledgers(
        self, tenant: str = "-", *, page_size: int = 0, timeout_s: float | None = None
    ) -> Iterator[Ledger]:
        """Yield the ledgers of a tenant, or of all with `-`, by name."""
        return self._iterate(
            self._client.list_ledgers(tenant, page_size=page_size, timeout_s=timeout_s)
        )

    # --- appending -------------------------------------------------------------------------------

    def append(
        self,
        ledger: str,
        draft: Draft,
        *,
        wait_for: AnchorState = AnchorState.UNKNOWN,
        timeout_s: float | None = None,
    ) -> Receipt:
        """Record one draft in the ledger of this full name; its receipt, once it is durable.

        With `wait_for=AnchorState.LOGGED` it has its proof, as a rule: see `AsyncClient.append`.
        What this and the other appends raise has `request_ids`, as there.
        """
        return self._run(self._client.append(ledger, draft, wait_for=wait_for, timeout_s=timeout_s))

    def append_batch(
        self,
        ledger: str,
        drafts: Iterable[Draft],
        *,
        full: bool = False,
        wait_for: AnchorState = AnchorState.UNKNOWN,
        timeout_s: float | None = None,
    ) -> list[AppendResult]:
        """Record any number of drafts; one result for each, in order. All are read at first."""
        # Here: what it does for each may block, or use this client.
        given = list(drafts)
        return self._run(
            self._client.append_batch(
                ledger, given, full=full, wait_for=wait_for, timeout_s=timeout_s
            )
        )

    def append_stream(
        self,
        ledger: str,
        drafts: Iterable[Draft],
        *,
        full: bool = False,
        window: int = DEFAULT_WINDOW,
    ) -> Iterator[AppendResult]:
        """Record drafts as they come; one result for each, in order.

        `drafts` is read in a thread of its own, so it may block. Nothing waits for that thread: a
        source that is left while it blocks ends with what it waits for, or with the program.
        """
        return self._iterate(
            self._client.append_stream(ledger, in_thread(drafts), full=full, window=window)
        )

    # --- reading ---------------------------------------------------------------------------------

    def get_receipt(self, name: str, *, timeout_s: float | None = None) -> Receipt:
        """Return a receipt by its full name, with the proofs that exist so far."""
        return self._run(self._client.get_receipt(name, timeout_s=timeout_s))

    def get_summary(self, name: str, *, timeout_s: float | None = None) -> ReceiptSummary:
        """Return a receipt's identity, position and hashes, and how far it has got."""
        return self._run(self._client.get_summary(name, timeout_s=timeout_s))

    def wait_for_anchor(
        self,
        name: str,
        *,
        state: AnchorState = AnchorState.ANCHORED,
        timeout_s: float | None = None,
    ) -> Receipt:
        """Return a receipt once it has got as far as `state`, with its proofs."""
        return self._run(self._client.wait_for_anchor(name, state=state, timeout_s=timeout_s))

    def list_page(
        self,
        ledger: str,
        where: ReceiptFilter = _NO_FILTER,
        *,
        page_size: int = 0,
        page_token: str = "",
        tree_size: int = 0,
        timeout_s: float | None = None,
    ) -> ReceiptPage:
        """Return one page of receipts in chain order, all proved against one checkpoint."""
        return self._run(
            self._client.list_page(
                ledger,
                where,
                page_size=page_size,
                page_token=page_token,
                tree_size=tree_size,
                timeout_s=timeout_s,
            )
        )

    def list_receipts(
        self,
        ledger: str,
        where: ReceiptFilter = _NO_FILTER,
        *,
        page_size: int = 0,
        tree_size: int = 0,
        timeout_s: float | None = None,
    ) -> Iterator[Receipt]:
        """Yield receipts in chain order, page by page."""
        return self._iterate(
            self._client.list_receipts(
                ledger, where, page_size=page_size, tree_size=tree_size, timeout_s=timeout_s
            )
        )

    def list_summaries(
        self,
        ledger: str,
        where: ReceiptFilter = _NO_FILTER,
        *,
        page_size: int = 0,
        timeout_s: float | None = None,
    ) -> Iterator[ReceiptSummary]:
        """Yield summaries in chain order, page by page."""
        return self._iterate(
            self._client.list_summaries(ledger, where, page_size=page_size, timeout_s=timeout_s)
        )

    # --- proving ---------------------------------------------------------------------------------

    def get_head(
        self, ledger: str, *, tree_size: int = 0, timeout_s: float | None = None
    ) -> SignedHead:
        """Return the signed head of a ledger as of a checkpoint; 0 means the newest."""
        return self._run(self._client.get_head(ledger, tree_size=tree_size, timeout_s=timeout_s))

    def verify_range(
        self,
        ledger: str,
        *,
        start_seq: int = 0,
        end_seq: int | None = None,
        progress: Callable[[int], None] | None = None,
        timeout_s: float | None = None,
    ) -> RangeReport:
        """Have the service recompute its stored chain; what it covered. Raises DataLossError.

        `progress` is called in the client's own thread: no method of this client can be used in it.
        """
        return self._run(
            self._client.verify_range(
                ledger,
                start_seq=start_seq,
                end_seq=end_seq,
                progress=progress,
                timeout_s=timeout_s,
            )
        )

    def jwks(self, *, timeout_s: float | None = None) -> bytes:
        """Return the JWK Set a verifier needs, as JSON text; needs `keys_endpoint`."""
        return self._run(self._client.jwks(timeout_s=timeout_s))

    # --- the other thread ------------------------------------------------------------------------

    def _is_own_thread(self) -> bool:
        return threading.current_thread() is self._thread

    def _run(self, work: Coroutine[Any, Any, R]) -> R:
        """Do it in the other thread, and wait for it."""
        if self._is_own_thread():
            work.close()
            raise _own_thread_error()
        future = self._begin(work)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            if self._closed:
                raise closed_error() from None
            raise
        except BaseException:
            # Ctrl-C in this thread must not leave the call running in the other. It is not waited
            # for, see `_iterate`.
            future.cancel()
            raise

    def _begin(self, work: Coroutine[Any, Any, R]) -> concurrent.futures.Future[R]:
        with self._closing:
            if not self._closed:
                return asyncio.run_coroutine_threadsafe(work, self._loop)
        work.close()
        raise closed_error()

    def _iterate(self, items: AsyncIterator[R]) -> Iterator[R]:
        taking: asyncio.Task[Any] | None = None

        async def take() -> Any:
            nonlocal taking
            taking = asyncio.current_task()
            return await anext(items, _END)

        async def close() -> None:
            # What was interrupted is on its way out, and nothing is closed while it runs. It is not
            # cancelled twice, which would cut its own cleaning up short.
            if taking is not None and not taking.done():
                if not taking.cancelling():
                    taking.cancel()
                await asyncio.wait({taking})
            aclose = getattr(items, "aclose", None)
            if aclose is not None:
                await aclose()

        try:
            while True:
                item = self._run(take())
                if item is _END:
                    return
                yield item
        finally:
            self._leave(close)

    def _leave(self, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Close what was iterated over, unless that is done by closing the client."""
        if self._closed:
            return
        if self._is_own_thread():
            # The collector found it while it ran there, which it may do at any point.
            task = self._loop.create_task(close())
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)
            return
        # It may be closed by now.
        with contextlib.suppress(FailedPreconditionError):
            self._run(close())


def _own_thread_error() -> FailedPreconditionError:
    """What would wait for itself: `progress` of `verify_range` is called in the client's thread."""
    return FailedPreconditionError(
        "CLIENT_THREAD", "the client's own thread cannot wait for it: use another client there"
    )
