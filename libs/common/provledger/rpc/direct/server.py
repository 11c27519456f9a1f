"""A gRPC server over the core alone, with the part of grpc.aio's that a listener uses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

import grpc

from provledger.rpc.direct import core
from provledger.rpc.direct.call import Call, Enter, refuse
from provledger.rpc.direct.events import Events
from provledger.rpc.refusals import Refusal, refusal
from provledger.rpc.watches import draining

Choose = Callable[[str, Any, Call], tuple[Any, Enter | None]]
"""Given a method's name, its handler and a call of it, the handler to run, and what it enters."""

Gone = Callable[[Call], object]

_SHOWN_AT_ONCE: Final = 16
"""Calls of each method that the core may have given us before we take any; it keeps more until
then. So many of a flood stand before the calls of other methods, and those at other sockets."""
_CANCELLED_S: Final = 1.0
"""How long handlers that were cancelled are waited for."""

_DRAINING: Final = refusal("", draining())
_UNKNOWN: Final = Refusal(grpc.StatusCode.UNIMPLEMENTED, "this server has no such method", ())


class DirectServer:
    """Serves handlers that are coroutine functions, in one event loop, once.

    choose: the handler that is run instead of a registered one, and what its calls enter.
    gone: told of calls that are over.
    most: calls at once; others end as `full` says.
    """

    def __init__(
        self,
        *,
        options: Sequence[tuple[str, Any]],
        choose: Choose,
        gone: Gone,
        most: int,
        full: Refusal,
    ) -> None:
        self._core = core.Server(list(options), False)
        self._handlers: dict[str, Any] = {}
        self._choose = choose
        self._gone = gone
        self._most = most
        self._full = full
        self._calls: set[Call] = set()
        self._events: Events | None = None
        self._loop: asyncio.AbstractEventLoop
        self._stopping = False
        self._stopped: asyncio.Future[None]

    def add_generic_rpc_handlers(self, handlers: Iterable[Any]) -> None:
        """What generated code says besides; the registered handlers are all there are."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """Serve the methods of a service, by their names."""
        for name, handler in handlers.items():
            method = f"/{service}/{name}"
            self._core.register_method(method)
            self._handlers[method] = handler

    def add_insecure_port(self, address: str) -> int:
        """Bind without TLS; the port.

        Raises:
            RuntimeError: it cannot be bound.
        """
        return self._bound(address, self._core.add_http2_port(address.encode()))

    def add_secure_port(self, address: str, credentials: Any) -> int:
        """Bind with TLS; the port.

        Raises:
            RuntimeError: it cannot be bound.
        """
        inner = credentials._credentials
        return self._bound(address, self._core.add_http2_port(address.encode(), inner))

    def _bound(self, address: str, port: int) -> int:
        if not port:
            raise RuntimeError(f"cannot bind to {address}")
        return port

    async def start(self) -> None:
        """Take calls."""
        self._loop = asyncio.get_running_loop()
        self._stopped = self._loop.create_future()
        self._events = Events.join()
        self._core.register_completion_queue(self._events.queue)
        self._core.start()
        for _ in range(_SHOWN_AT_ONCE):
            self._ask_for_unknown(self._events)
            for method in self._handlers:
                self._ask(self._events, method)

    async def stop(self, grace_s: float | None) -> None:
        """Take no more calls, and wait for those there are, at most `grace_s` seconds; then cancel
        them. Returns when all are over. May be called again, with another grace."""
        events = self._events
        if events is None:
            return
        if not self._stopping:
            self._stopping = True
            self._core.shutdown(events.queue, self._on_stopped)
        try:
            async with asyncio.timeout(grace_s or 0.0):
                await asyncio.shield(self._stopped)
        except TimeoutError:
            tasks = [call.task for call in self._calls if call.task is not None]
            self._core.cancel_all_calls()
            await asyncio.shield(self._stopped)
            if tasks:
                await asyncio.wait(tasks, timeout=_CANCELLED_S)
        if self._events is not None:
            self._events = None
            self._core.destroy()
            await events.leave()

    def _ask(self, events: Events, method: str) -> None:
        """Have the core give us one more call of a method."""
        queue, tag = events.queue, partial(self._on_call, method)
        self._core.request_registered_call(queue, queue, method, tag)

    def _ask_for_unknown(self, events: Events) -> None:
        self._core.request_call(events.queue, events.queue, self._on_unknown)

    def _on_call(self, method: str, event: Any) -> None:
        events = self._serving(event)
        if events is None:
            return
        self._ask(events, method)
        if len(self._calls) >= self._most:
            refuse(event.call, self._full)
            return
        call = Call(event, method, self._loop, self._over)
        try:
            call.begin(*self._choose(method, self._handlers[method], call))
        except Exception as exc:  # a fault of ours, which a caller must not wait for
            refuse(event.call, refusal(method, exc))
            self._gone(call)
        else:
            self._calls.add(call)

    def _on_unknown(self, event: Any) -> None:
        events = self._serving(event)
        if events is not None:
            self._ask_for_unknown(events)
            refuse(event.call, _UNKNOWN)

    def _serving(self, event: Any) -> Events | None:
        """Our events, if there is a call that may be served; one that came as the stop began is
        told so."""
        if not event.success:
            return None
        if self._stopping:
            refuse(event.call, _DRAINING)
            return None
        return self._events

    def _over(self, call: Call) -> None:
        self._calls.discard(call)
        self._gone(call)

    def _on_stopped(self, event: Any) -> None:
        if not self._stopped.done():
            self._stopped.set_result(None)
