"""A gRPC proxy between services that refuses, delays and loses answers, by the name of the RPC.

It takes every method of every service, reads nothing of the messages (but of which ledger entries
are), and passes metadata, status
and details on as they are. Per RPC it can

* `fail`: answer UNAVAILABLE at once; the service never hears of the call,
* `time out`: let the call through to nobody and never answer,
* `lose`: let the service do its work to the end, then answer UNAVAILABLE instead of what it said,
* `stall`: the same, but never answer,
* `slow`: hold the answer back for a while,
* `late`: never answer, and hand the call over when the caller has given up on it, and a later call
  was answered: another attempt of his, and most often one or more after it.

A fault counts when it has happened: what was lost was done, what came late came behind another
attempt. One that could not is for the next call.

A stream that has no end of its own is done with its first message.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import grpc

from provledger.api.anchor.v1 import anchor_pb2
from provledger.rpc.channel import channel

Fault = Literal["fail", "time out", "lose", "stall", "slow", "late"]
FAULTS: tuple[Fault, ...] = ("fail", "time out", "lose", "stall", "slow", "late")

SLOW_S = 0.5
LATE_LIMIT_S = 30.0
"""So long a later call is waited for, behind which a late one is handed over."""
_NEXT_S = 1.0
"""So long the one after that."""

ENDLESS = frozenset({"WatchKeys", "WatchCheckpoints"})

_HOP_BY_HOP = frozenset({"user-agent", "grpc-accept-encoding", "te", "content-type"})


@dataclass(frozen=True, slots=True, eq=False)
class _Met:
    """A fault that a call meets."""

    method: str
    fault: Fault


@dataclass(slots=True, eq=False)
class _Held:
    """A call that is going to be late."""

    met: _Met
    path: str
    metadata: list[tuple[str, Any]]
    requests: list[bytes] = field(default_factory=list)
    given_up: asyncio.Event = field(default_factory=asyncio.Event)
    later: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    """Has one for each later call that was answered."""


class Proxy:
    """Listens on `port` and passes everything on to `target`, from `start` to `close`.

    What is to go wrong is set from the test's thread: `inject` for the next calls of an RPC.
    """

    def __init__(self, port: int, target: str) -> None:
        self.port = port
        self._target = target
        self._lock = threading.Lock()
        self._faults: dict[str, list[Fault]] = {}
        self._under_way: set[_Met] = set()
        self._everything: Fault | None = None
        self.injected: Counter[tuple[str, Fault]] = Counter()
        self.calls: Counter[str] = Counter()
        self._late: dict[asyncio.Task[None], _Held] = {}
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    def start(self) -> Proxy:
        """Listen."""
        self._thread.start()
        self._ready.result(30.0)
        return self

    def close(self) -> None:
        """Stop listening; whoever waits is cut off."""
        loop, stop = self._ready.result(30.0)
        loop.call_soon_threadsafe(stop.set)
        self._thread.join(30.0)

    def inject(self, method: str, *faults: Fault) -> None:
        """What the next calls of the RPC of that name, one for each fault, will meet."""
        with self._lock:
            self._faults.setdefault(method, []).extend(faults)

    def pending(self, method: str) -> int:
        """How many of an RPC's faults have not happened yet."""
        with self._lock:
            under_way = sum(met.method == method for met in self._under_way)
            return len(self._faults.get(method, ())) + under_way

    @property
    def on_the_way(self) -> int:
        """How many late calls have not been handed over and answered yet."""
        return len(self._late)

    def calm(self) -> None:
        """No more faults; what would have been late never comes."""
        with self._lock:
            self._faults.clear()
            self._under_way.clear()
        loop, _ = self._ready.result(30.0)

        def forget() -> None:
            for task in self._late:
                task.cancel()

        loop.call_soon_threadsafe(forget)

    @contextmanager
    def all_calls(self, fault: Fault) -> Iterator[None]:
        """The same fault for every call of every RPC meanwhile."""
        self._everything = fault
        try:
            yield
        finally:
            self._everything = None

    # --- in the thread

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        stop = asyncio.Event()
        async with channel(self._target) as out:
            server = grpc.aio.server(
                handlers=[_Everything(self, out)],
                options=[("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)],
            )
            server.add_insecure_port(f"127.0.0.1:{self.port}")
            await server.start()
            self._ready.set_result((asyncio.get_running_loop(), stop))
            await stop.wait()
            await server.stop(0.0)

    def hold(self, held: _Held, call: Coroutine[Any, Any, None]) -> None:
        """Make a call although nobody waits for it any more."""
        task = asyncio.create_task(call)
        self._late[task] = held
        task.add_done_callback(self._late.pop)

    def given_up(self, method: str) -> list[_Held]:
        """Late calls of an RPC whose callers wait no more."""
        return [
            held
            for held in self._late.values()
            if held.met.method == method and held.given_up.is_set()
        ]

    def next_fault(self, method: str) -> _Met | None:
        """What a call of an RPC meets; `happened` or `missed` follows."""
        with self._lock:
            self.calls[method] += 1
            waiting = self._faults.get(method)
            if waiting:
                met = _Met(method, waiting.pop(0))
                self._under_way.add(met)
                return met
            return None if self._everything is None else _Met(method, self._everything)

    def happened(self, met: _Met) -> None:
        """Take note that a call has met its fault."""
        with self._lock:
            self._under_way.discard(met)
            self.injected[met.method, met.fault] += 1

    def missed(self, met: _Met) -> None:
        """Take note that it did not, unless it did: the next one is to meet it."""
        with self._lock:
            if met in self._under_way:
                self._under_way.discard(met)
                self._faults.setdefault(met.method, []).insert(0, met.fault)


class _Everything(grpc.GenericRpcHandler):
    """A handler of every method there is. On the wire, a unary call is a stream of one message."""

    def __init__(self, proxy: Proxy, out: grpc.aio.Channel) -> None:
        self._proxy = proxy
        self._out = out

    def service(self, details: Any) -> Any:
        path: str = details.method

        async def handle(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            async for answer in self._pass_on(path, requests, context):
                yield answer

        return grpc.stream_stream_rpc_method_handler(handle)

    async def _pass_on(
        self, path: str, requests: AsyncIterator[bytes], context: Any
    ) -> AsyncIterator[bytes]:
        method = path.rpartition("/")[2]
        met = self._proxy.next_fault(method)
        if met is None:
            async for answer in self._ask(path, requests, context, None):
                yield answer
        elif met.fault == "late" and method not in ENDLESS:
            held = _Held(met, path, _metadata(context))
            self._proxy.hold(held, self._hand_over(held))
            try:
                async for request in requests:
                    held.requests.append(request)
                await asyncio.Event().wait()
            finally:
                held.given_up.set()
        else:
            try:
                async for answer in self._ask(path, requests, context, met):
                    yield answer
            finally:
                self._proxy.missed(met)

    async def _ask(
        self, path: str, requests: AsyncIterator[bytes], context: Any, met: _Met | None
    ) -> AsyncIterator[bytes]:
        method, fault = path.rpartition("/")[2], None if met is None else met.fault
        if met is not None and fault in ("fail", "time out", "late"):
            self._proxy.happened(met)
        if fault == "fail":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the proxy refuses this call")
        if fault in ("time out", "late"):
            await asyncio.Event().wait()
        late, sent = self._proxy.given_up(method), list[bytes]()
        call: Any = self._out.stream_stream(path)(
            cast(Any, _noting_the_first(requests, sent)),
            timeout=None if fault in ("lose", "stall") else context.time_remaining(),
            metadata=_metadata(context),
        )
        try:
            async for answer in call:
                if fault == "slow":
                    await asyncio.sleep(SLOW_S)
                    if met is not None and method in ENDLESS:
                        # Who takes its first message may ask for no other.
                        self._proxy.happened(met)
                if fault in (None, "slow"):
                    yield answer
                elif method in ENDLESS:
                    break
            status = None
        except grpc.aio.AioRpcError as error:
            status = error
        finally:
            call.cancel()
        if status is not None:
            context.set_trailing_metadata(tuple(status.trailing_metadata() or ()))
            await context.abort(status.code(), status.details() or "")
        if met is not None:
            self._proxy.happened(met)
        if fault == "stall":
            await asyncio.Event().wait()
        if fault == "lose":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the proxy lost the answer")
        for held in late:
            if _subject(method, held.requests) == _subject(method, sent):
                held.later.release()

    async def _hand_over(self, held: _Held) -> None:
        """Make a late call once another attempt was answered; if none is, it has not happened."""
        try:
            await held.given_up.wait()
            async with asyncio.timeout(LATE_LIMIT_S):
                await held.later.acquire()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_NEXT_S):
                    await held.later.acquire()
            await self._call(held)
            self._proxy.happened(held.met)
        except TimeoutError:
            self._proxy.missed(held.met)

    async def _call(self, held: _Held) -> None:
        async def requests() -> AsyncIterator[bytes]:
            for request in held.requests:
                yield request

        call: Any = self._out.stream_stream(held.path)(
            cast(Any, requests()), metadata=held.metadata
        )
        with contextlib.suppress(grpc.aio.AioRpcError):
            async for _ in call:
                pass


async def _noting_the_first(
    requests: AsyncIterator[bytes], noted: list[bytes]
) -> AsyncIterator[bytes]:
    async for request in requests:
        if not noted:
            noted.append(request)
        yield request


def _subject(method: str, requests: list[bytes]) -> bytes:
    """What another attempt is about as well. Entries of two ledgers do not get into each other's
    way; other calls are all taken for attempts of one thing."""
    if method != "SubmitLeaves" or not requests:
        return b""
    return anchor_pb2.SubmitLeavesRequest.FromString(requests[0]).ledger_uid


def _metadata(context: Any) -> list[tuple[str, Any]]:
    return [
        (key, value)
        for key, value in context.invocation_metadata()
        if key not in _HOP_BY_HOP and not key.startswith("grpc-")
    ]
