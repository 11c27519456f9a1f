"""What one client process sends: a request of each kind, and the connections it goes over."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

import grpc

from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from provledger.errors import InternalError, StatusError, UnavailableError
from provledger.names import tenant_of
from provledger.receipt import Receipt
from provledger.rpc.channel import channel
from provledger.rpc.errors import from_rpc_error, status_from_pb
from provledger.rpc.tls import TLSSettings
from provledger_cli.load.kept import Acknowledged, Kept
from provledger_cli.load.schedule import Arrival, Traffic
from provledger_cli.load.shared import SharedAppends

_FIELDS: Final = 14


class Answer(NamedTuple):
    """What came back for one request: how many receipts, and why there are none for the rest."""

    receipts: int
    errors: Sequence[StatusError] = ()


_ONE: Final = Answer(1)


class Stream:
    """An AppendStream of one ledger, kept open; answers come in the order of the drafts."""

    def __init__(self, stub: Any, ledger: str) -> None:
        self._call = stub.AppendStream()
        self._ledger = ledger
        self._waiting: deque[asyncio.Future[common_pb2.AppendResult]] = deque()
        self._writing = asyncio.Lock()
        self._ended_by: StatusError = UnavailableError(
            "STREAM_ENDED", "the stream ended before the answer"
        )
        self._reading = asyncio.create_task(self._read())

    @property
    def broken(self) -> bool:
        return self._reading.done()

    async def append(self, draft: common_pb2.Draft) -> common_pb2.AppendResult:
        """The answer to one draft.

        Raises:
            StatusError: the stream ended before, by a refusal perhaps.
            grpc.RpcError: it could not be sent.
        """
        answer: asyncio.Future[common_pb2.AppendResult] = asyncio.get_running_loop().create_future()
        request = ledger_pb2.AppendStreamRequest(ledger=self._ledger, draft=draft)
        async with self._writing:
            if self.broken:
                raise self._ended_by
            self._waiting.append(answer)
            # Of a stream that ended while it was full, which is told to all that wait.
            with suppress(asyncio.InvalidStateError):
                await self._call.write(request)
        return await answer

    async def close(self) -> None:
        self._reading.cancel()
        self._call.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        try:
            async for response in self._call:
                answer = self._waiting.popleft()
                if not answer.done():
                    answer.set_result(response.result)
        except grpc.RpcError as exc:
            self._ended_by = from_rpc_error(exc)
        finally:
            for answer in self._waiting:
                if not answer.done():
                    answer.set_exception(self._ended_by)
                    answer.exception()


class Connections:
    """One connection for each tenant, as tenants are different programs."""

    def __init__(self, endpoint: str, tls: TLSSettings | None) -> None:
        self._endpoint = endpoint
        self._tls = tls
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._stubs: dict[str, Any] = {}

    def open(self, tenant: str) -> grpc.aio.Channel:
        """The channel of a tenant, which connects when it is first used."""
        if tenant not in self._channels:
            # Channels of one process otherwise share a connection.
            options = [("grpc.use_local_subchannel_pool", 1)]
            opened = channel(self._endpoint, self._tls, options=options)
            self._channels[tenant] = opened
            self._stubs[tenant] = ledger_pb2_grpc.LedgerServiceStub(opened)
        return self._channels[tenant]

    def stub(self, ledger: str) -> Any:
        """The stub for a ledger."""
        tenant = tenant_of(ledger)
        self.open(tenant)
        return self._stubs[tenant]

    def shared(self, timeout_s: float) -> SharedAppends:
        """Appends by clients of their own, which connect when they are first used."""
        return SharedAppends(self._endpoint, self._tls, timeout_s)

    async def close(self) -> None:
        """Close all of them."""
        for opened in self._channels.values():
            await opened.close()


class Sender:
    """Sends requests of all kinds."""

    def __init__(
        self,
        connections: Connections,
        traffic: Traffic,
        tag: str,
        timeout_s: float,
        *,
        keep: bool = False,
    ) -> None:
        """keep: what is acknowledged, in `kept`, by ledger."""
        self.kept: dict[str, Kept] = {}
        self._keep = keep
        self._rng = random.Random()  # noqa: S311 - a sample, not a secret
        self._connections = connections
        self._traffic = traffic
        self._tag = tag
        self._timeout_s = timeout_s
        self._numbers = itertools.count()
        self._streams: dict[str, Stream] = {}
        self._states = {size: _state(size) for size, _ in traffic.sizes}
        self._shared = connections.shared(timeout_s)
        self._by_kind: dict[str, Callable[[Arrival], Awaitable[Answer]]] = {
            "single": self._single,
            "batch": self._batch,
            "stream": self._streamed,
        }

    def drafts_of(self, arrival: Arrival) -> int:
        """How many drafts a request has."""
        return self._traffic.batch_items if arrival.kind == "batch" else 1

    async def send(self, arrival: Arrival, *, hold_back: bool = False) -> Answer:
        """Send a request. hold_back: have the client do so, if it is
        one of its own.

        Raises:
            StatusError: it was refused or failed.
        """
        if arrival.kind == "shared":
            number = next(self._numbers)
            request_id, resource_id = f"{self._tag}-{number}", f"{self._tag}/{number}"
            state = self._states[arrival.size_bytes]
            receipt = await self._shared.append(
                arrival.ledger, request_id, resource_id, state, hold_back
            )
            self._acknowledged(arrival.ledger, receipt)
            return _ONE
        try:
            return await self._by_kind[arrival.kind](arrival)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None

    async def close(self) -> None:
        for stream in self._streams.values():
            await stream.close()
        await self._shared.close()

    async def _single(self, arrival: Arrival) -> Answer:
        request = ledger_pb2.AppendRequest(
            ledger=arrival.ledger,
            draft=self._draft(arrival.size_bytes),
            view=common_pb2.RECEIPT_VIEW_BASIC,
        )
        response = await self._connections.stub(arrival.ledger).Append(
            request, timeout=self._timeout_s
        )
        self._acknowledged(arrival.ledger, response.receipt)
        return _ONE

    async def _batch(self, arrival: Arrival) -> Answer:
        size = arrival.size_bytes
        request = ledger_pb2.AppendBatchRequest(
            ledger=arrival.ledger,
            drafts=[self._draft(size) for _ in range(self._traffic.batch_items)],
        )
        response = await self._connections.stub(arrival.ledger).AppendBatch(
            request, timeout=self._timeout_s
        )
        errors: list[StatusError] = []
        for result in response.results:
            if result.HasField("error"):
                errors.append(status_from_pb(result.error))
            elif not result.HasField("receipt"):
                errors.append(_left_out())
            else:
                self._acknowledged(arrival.ledger, result.receipt)
        missing = len(request.drafts) - len(response.results)
        errors += [_left_out() for _ in range(missing)]
        return Answer(len(request.drafts) - len(errors), errors)

    async def _streamed(self, arrival: Arrival) -> Answer:
        stream = self._streams.get(arrival.ledger)
        if stream is None or stream.broken:
            stream = self._streams[arrival.ledger] = Stream(
                self._connections.stub(arrival.ledger), arrival.ledger
            )
        async with asyncio.timeout(self._timeout_s):
            result = await stream.append(self._draft(arrival.size_bytes))
        if result.HasField("error"):
            raise status_from_pb(result.error)
        self._acknowledged(arrival.ledger, result.receipt)
        return _ONE

    def _acknowledged(self, ledger: str, receipt: common_pb2.Receipt | Receipt) -> None:
        if self._keep:
            kept = Acknowledged(receipt.name, receipt.seq, receipt.receipt_hash.hex())
            self.kept.setdefault(ledger, Kept()).add(kept, receipt.t_ns, self._rng)

    def _draft(self, size_bytes: int) -> common_pb2.Draft:
        number = next(self._numbers)
        return common_pb2.Draft(
            request_id=f"{self._tag}-{number}",
            actor=common_pb2.Actor(id="provledger-load", type="service"),
            mutation=common_pb2.Mutation(
                action=common_pb2.ACTION_CREATE,
                resource_type="Load",
                resource_id=f"{self._tag}/{number}",
                new_state=self._states[size_bytes],
            ),
        )


def _left_out() -> StatusError:
    return InternalError("BAD_RESPONSE", "the answer has no result for a draft")


def _state(size_bytes: int) -> bytes:
    """A JSON object of about so many bytes and, if it is not tiny, of 15 fields."""
    fields = _FIELDS if size_bytes >= 512 else 1
    state = {f"field{n:02}": "" for n in range(fields)}
    state["kind"] = "load"
    left = max(0, size_bytes - len(json.dumps(state)))
    for n in range(fields):
        state[f"field{n:02}"] = "x" * (left // fields)
    return json.dumps(state).encode()
