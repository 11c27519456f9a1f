"""The blocking client: `AsyncClient` on an event loop of its own, in a thread of its own.

Safe to share between threads. Not in its own, where it would wait for itself and says so instead.
Not with a process that is forked: it has neither the thread nor that of gRPC, without which no new
client works there either. Both say so (CLIENT_FORKED). Start processes by spawn or forkserver, or
fork before the first client is used. The methods say in one line what they do;
`provledger.client.aio` has the whole of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from types import TracebackType
from typing import Final, TypeVar

from provledger.client.aio import AsyncClient
from provledger.client.calls import DEFAULT_CALL_POLICY, CallPolicy
from provledger.client.drafts import Draft
from provledger.client.items import Items
from provledger.client.iterating import Iteration
from provledger.client.own_loop import OwnLoop
from provledger.client.stream import DEFAULT_WINDOW, Unanswered
from provledger.client.threads import in_thread
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
from provledger.receipt import Receipt
from provledger.rpc.tls import TLSSettings

R = TypeVar("R")

_NO_FILTER: Final = ReceiptFilter()


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
        self._own = OwnLoop(self._client.close)

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

        Raises FailedPreconditionError (CLIENT_THREAD) in the client's own thread. In a process that
        was forked it does nothing: what there is to close is the parent's.
        """
        self._own.close()

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
        return self._own.run(
            self._client.create_ledger(
                tenant, ledger, suite=suite, own_log=own_log, timeout_s=timeout_s
            )
        )

    def get_ledger(self, name: str, *, timeout_s: float | None = None) -> Ledger:
        """Return a ledger by its full name."""
        return self._own.run(self._client.get_ledger(name, timeout_s=timeout_s))

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
        return self._own.run(
            self._client.append(ledger, draft, wait_for=wait_for, timeout_s=timeout_s)
        )

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
        return self._own.run(
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
        left = Unanswered()
        return self._iterate(
            self._client._append_stream(
                ledger, in_thread(drafts), full=full, window=window, left=left
            ),
            left.ids,
        )

    # --- reading ---------------------------------------------------------------------------------

    def get_receipt(self, name: str, *, timeout_s: float | None = None) -> Receipt:
        """Return a receipt by its full name, with the proofs that exist so far."""
        return self._own.run(self._client.get_receipt(name, timeout_s=timeout_s))

    def get_summary(self, name: str, *, timeout_s: float | None = None) -> ReceiptSummary:
        """Return a receipt's identity, position and hashes, and how far it has got."""
        return self._own.run(self._client.get_summary(name, timeout_s=timeout_s))

    def wait_for_anchor(
        self,
        name: str,
        *,
        state: AnchorState = AnchorState.ANCHORED,
        timeout_s: float | None = None,
    ) -> Receipt:
        """Return a receipt once it has got as far as `state`, with its proofs."""
        return self._own.run(self._client.wait_for_anchor(name, state=state, timeout_s=timeout_s))

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
        return self._own.run(
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
        return self._own.run(
            self._client.get_head(ledger, tree_size=tree_size, timeout_s=timeout_s)
        )

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
        return self._own.run(
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
        return self._own.run(self._client.jwks(timeout_s=timeout_s))

    # --- the other thread ------------------------------------------------------------------------

    def _iterate(
        self, items: AsyncIterator[R], unanswered: Callable[[], tuple[str, ...]] = tuple
    ) -> Iterator[R]:
        return Iteration(self._own, Items(items, self._own.opened), unanswered)
