"""A gRPC proxy between services that refuses, delays and loses answers, by the name of the RPC.

It takes every method of every service, reads nothing of the messages, and passes metadata, status
and details on as they are. Per RPC it can

* `fail`: answer UNAVAILABLE at once; the service never hears of the call,
* `time out`: let the call through to nobody and never answer,
* `lose`: let the service do its work to the end, then answer UNAVAILABLE instead of what it said,
* `stall`: the same, but never answer,
* `slow`: hold the answer back for a while,
* `late`: never answer, and hand the call over when the caller has given up on it, and most often
  had his answer from another attempt.

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
from typing import Any, Literal, cast

import grpc

from provledger.rpc.channel import channel

Fault = Literal["fail", "time out", "lose", "stall", "slow", "late"]
FAULTS: tuple[Fault, ...] = ("fail", "time out", "lose", "stall", "slow", "late")

SLOW_S = 0.5
LATE_S = 1.5
"""After what callers of the tests wait for, unless they are services."""

ENDLESS = frozenset({"WatchKeys", "WatchCheckpoints"})

_HOP_BY_HOP = frozenset({"user-agent", "grpc-accept-encoding", "te", "content-type"})


class Proxy:
    """Listens on `port` and passes everything on to `target`, from `start` to `close`.

    What is to go wrong is set from the test's thread: `inject` for the next calls of an RPC.
    """

    def __init__(self, port: int, target: str) -> None:
        self.port = port
        self._target = target
        self._lock = threading.Lock()
        self._faults: dict[str, list[Fault]] = {}
        self._everything: Fault | None = None
        self.injected: Counter[tuple[str, Fault]] = Counter()
        self.calls: Counter[str] = Counter()
        self._late: set[asyncio.Task[None]] = set()
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
            return len(self._faults.get(method, ()))

    @property
    def on_the_way(self) -> int:
        """How many late calls have not been handed over and answered yet."""
        return len(self._late)

    def calm(self) -> None:
        """No more faults."""
        with self._lock:
            self._faults.clear()

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

    def later(self, call: Coroutine[Any, Any, None]) -> None:
        """Make a call although nobody waits for it any more."""
        task = asyncio.create_task(call)
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    def next_fault(self, method: str) -> Fault | None:
        """What a call of an RPC meets."""
        with self._lock:
            self.calls[method] += 1
            waiting = self._faults.get(method)
            fault = waiting.pop(0) if waiting else self._everything
            if fault is not None:
                self.injected[method, fault] += 1
            return fault


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
        fault = self._proxy.next_fault(method)
        if fault == "fail":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the proxy refuses this call")
        if fault == "late" and method not in ENDLESS:
            held: list[bytes] = []
            self._proxy.later(self._hand_over(path, held, _metadata(context)))
            async for request in requests:
                held.append(request)
        if fault in ("time out", "late"):
            await asyncio.Event().wait()
        left_s = context.time_remaining()
        call: Any = self._out.stream_stream(path)(
            cast(Any, requests),
            timeout=None if fault in ("lose", "stall") else left_s,
            metadata=_metadata(context),
        )
        try:
            async for answer in call:
                if fault == "slow":
                    await asyncio.sleep(SLOW_S)
                if fault in (None, "slow"):
                    yield answer
                elif method in ENDLESS:
                    break
            status = None
        except grpc.aio.AioRpcError as error:
            status = error
        finally:
            call.cancel()
        if fault == "stall":
            await asyncio.Event().wait()
        if fault == "lose":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the proxy lost the answer")
        if status is not None:
            context.set_trailing_metadata(tuple(status.trailing_metadata() or ()))
            await context.abort(status.code(), status.details() or "")

    async def _hand_over(self, path: str, held: list[bytes], metadata: Any) -> None:
        await asyncio.sleep(LATE_S)

        async def requests() -> AsyncIterator[bytes]:
            for request in held:
                yield request

        call: Any = self._out.stream_stream(path)(cast(Any, requests()), metadata=metadata)
        with contextlib.suppress(grpc.aio.AioRpcError):
            async for _ in call:
                pass


def _metadata(context: Any) -> list[tuple[str, Any]]:
    return [
        (key, value)
        for key, value in context.invocation_metadata()
        if key not in _HOP_BY_HOP and not key.startswith("grpc-")
    ]
