"""The asyncio client. See `provledger.client` for what it promises, `sync` for its blocking twin.

One object belongs to one event loop and may be shared by all its tasks. Channels are opened when
they are first used; in a process that is forked from then on until they are closed, no client works
(`provledger.client.forks`). Every method raises the exceptions of `provledger.errors`: InputError
before anything is sent, a StatusError for what a service says or for a service that cannot be
reached. What an append raises later has `request_ids`: under these the same drafts can be sent
again, and nothing is recorded twice.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from types import TracebackType

from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2
from provledger.client import batches, convert, forks
from provledger.client.answers import bad_response, check_name, check_recorded
from provledger.client.calls import DEFAULT_CALL_POLICY, CallPolicy
from provledger.client.drafts import Draft
from provledger.client.reading import Reading
from provledger.client.singles import Aim, SingleAppends
from provledger.client.stream import DEFAULT_WINDOW, Unanswered, append_stream
from provledger.client.values import AnchorState, AppendResult, Ledger
from provledger.errors import IdentifierError, ProvledgerError
from provledger.receipt import Receipt
from provledger.rpc.tls import TLSSettings


class AsyncClient(Reading):
    """Records changes and reads receipts, over gRPC.

    Args:
        endpoint: `host:port` of the ledger service. A URL or one without port is a ConfigError.
        keys_endpoint: `host:port` of the keys service; only `jwks` needs it.
        tls: Certificates for mutual TLS; None on loopback. Beyond it, None is a ConfigError, unless
            the endpoint is `plaintext:host:port`: something else encrypts the way. With them it may
            be `name@host:port`, where the certificate has another name than `host`.
        policy: Deadlines and retries.
        share_calls: Whether single appends that are under way at once may share calls, see
            `provledger.client.singles`; each is answered by itself all the same.
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
        super().__init__(endpoint, keys_endpoint, tls, policy)
        self._singles = (
            SingleAppends(self._append_one, self._append_some, max_wait_s=policy.max_wait_s)
            if share_calls
            else None
        )

    async def __aenter__(self) -> AsyncClient:
        """Return the client itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the channels."""
        await self.close()

    async def close(self) -> None:
        """Close the channels; calls in flight fail, and so do later ones. May be called twice.

        They raise FailedPreconditionError (CLIENT_CLOSED); a stream does when its source, if it is
        waiting for that, has the next draft.
        """
        self._closed = True
        if forks.is_inherited():
            # All there is belongs to the process that was forked.
            return
        if self._singles is not None:
            await self._singles.close()
        await self._close_channels()

    # --- ledgers ---------------------------------------------------------------------------------

    async def create_ledger(
        self,
        tenant: str,
        ledger: str = "main",
        *,
        suite: str = "",
        own_log: bool = False,
        timeout_s: float | None = None,
    ) -> tuple[Ledger, bool]:
        """Make a ledger of a tenant, or return the one that is there; True if it was made.

        `suite` is `blake3`, `blake3-all`, `fips`, or "" for the service's default.
        own_log: its entries go to a log of the tenant's own, instead of one that ledgers share.
        """
        request = convert.request(
            ledger_pb2.CreateLedgerRequest,
            parent=f"tenants/{tenant}",
            ledger_id=ledger,
            suite=convert.suite_to_pb(suite),
            own_log=own_log,
        )
        response = await self._call("CreateLedger", request, timeout_s)
        check_name(response.ledger.name, f"tenants/{tenant}/ledgers/{ledger or 'main'}")
        return convert.ledger_from_pb(response.ledger), response.created

    # --- appending -------------------------------------------------------------------------------

    async def append(
        self,
        ledger: str,
        draft: Draft,
        *,
        wait_for: AnchorState = AnchorState.UNKNOWN,
        timeout_s: float | None = None,
    ) -> Receipt:
        """Record one draft in the ledger of this full name; its receipt, once it is durable.

        The receipt has no proofs yet, unless its request id is an old one: see `wait_for_anchor`.
        With `wait_for=AnchorState.LOGGED` the answer comes some milliseconds later, with the proof
        and the signed checkpoint it leads to; where the log takes longer than five seconds, or
        than most of the deadline, it comes without: look at `receipt.proofs`.

        Raises:
            StatusError: it was refused, or not answered in time. It may be recorded then, under the
                one of `request_ids`.
        """
        message = convert.draft_to_pb(draft)
        refusal = batches.too_large(message.ByteSize(), "draft")
        if refusal is not None:
            raise refusal
        within_s = self._policy.within_s(timeout_s)
        aim = Aim(ledger, convert.anchor_state_to_pb(wait_for))
        append = self._append_one if self._singles is None else self._singles.append
        try:
            with self._telling_of_its_end():
                result = await append(aim, message, within_s)
            if result.error is not None:
                raise result.error
            if result.receipt is None:
                raise bad_response("the answer holds no receipt")
        except ProvledgerError as error:
            error.request_ids = (message.request_id,)
            raise
        return result.receipt

    async def append_batch(
        self,
        ledger: str,
        drafts: Iterable[Draft],
        *,
        full: bool = False,
        wait_for: AnchorState = AnchorState.UNKNOWN,
        timeout_s: float | None = None,
    ) -> list[AppendResult]:
        """Record any number of drafts; one result for each, in order. All are read at first.

        One bad draft never fails its neighbours: look at each result's `error`. Calls are split by
        count and bytes and sent in turn, and `timeout_s` is for all of them. `full` returns whole
        receipts, otherwise there are summaries. `wait_for` is as in `append`, for each call.

        Raises:
            StatusError: where a call fails and no draft was answered before; `request_ids` has one
                for each draft. Once one was answered, the error is in the results of those that
                were not.
        """
        policy = self._policy
        return await batches.append_all(
            self._append_batch,
            ledger,
            drafts,
            full=full,
            timeout_s=policy.within_s(timeout_s),
            policy=policy,
            wait_for=convert.anchor_state_to_pb(wait_for),
        )

    def append_stream(
        self,
        ledger: str,
        drafts: AsyncIterable[Draft] | Iterable[Draft],
        *,
        full: bool = False,
        window: int = DEFAULT_WINDOW,
    ) -> AsyncIterator[AppendResult]:
        """Record drafts as they come; one result for each, in order.

        At most `window` drafts are unanswered, and 16 MiB of them; the source is read no further
        meanwhile. A broken connection is replaced and what was unanswered sent again, and so is
        what was refused for the moment, with all behind it. The policy's timeout is for a stretch
        without any answer, not for the whole.

        Raises:
            InputError: at once, for a ledger that is no text or a window below 1.
            StatusError: while it is iterated over, where the stream fails for good. `request_ids`
                are of the drafts that come next after those answered, as far as they were sent.
        """
        return self._append_stream(ledger, drafts, full=full, window=window, left=Unanswered())

    def _append_stream(
        self,
        ledger: str,
        drafts: AsyncIterable[Draft] | Iterable[Draft],
        *,
        full: bool,
        window: int,
        left: Unanswered,
    ) -> AsyncIterator[AppendResult]:
        # Found out while it is sent, it would look like a service that does not answer.
        convert.request(ledger_pb2.AppendStreamRequest, ledger=ledger)
        if window < 1:
            raise IdentifierError("window", "must be at least 1")
        return append_stream(
            # Not opened here: the blocking client calls this outside of the event loop.
            self._stub,
            ledger,
            drafts,
            full=full,
            window=window,
            policy=self._policy,
            left=left,
        )

    async def _append_batch(
        self, request: ledger_pb2.AppendBatchRequest, left_s: float
    ) -> ledger_pb2.AppendBatchResponse:
        response: ledger_pb2.AppendBatchResponse = await self._call("AppendBatch", request, left_s)
        return response

    async def _append_one(
        self, aim: Aim, draft: common_pb2.Draft, timeout_s: float
    ) -> AppendResult:
        request = convert.request(
            ledger_pb2.AppendRequest,
            ledger=aim.ledger,
            draft=draft,
            view=common_pb2.RECEIPT_VIEW_FULL,
            wait_for=aim.wait_for,
        )
        response = await self._call("Append", request, timeout_s)
        check_recorded(response.receipt, draft, aim.ledger)
        outcome = common_pb2.AppendResult(
            receipt=response.receipt, repeated_request=response.repeated_request
        )
        return convert.result_from_pb(outcome, index=0, request_id=draft.request_id, full=True)

    def _append_some(
        self, aim: Aim, drafts: Sequence[common_pb2.Draft], timeout_s: float
    ) -> AsyncIterator[AppendResult]:
        return batches.append_some(
            self._append_batch,
            aim.ledger,
            list(enumerate(drafts)),
            True,
            time.monotonic() + timeout_s,
            self._policy,
            aim.wait_for,
        )
