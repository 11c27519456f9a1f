"""One server interceptor for everything that surrounds a servicer method.

For each RPC, in this order: who calls, may they, is the deadline sane, run the method, map what
it raised to a rich status. Servicers therefore hold no `try`, and neither do streaming ones.

Each method's handler is wrapped once, at its first call, and found again by name afterwards: what
a call pays is one dictionary lookup and one coroutine.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, aclosing
from copy import copy
from typing import Any, Final

import grpc

from provledger.errors import DeadlineExceededError, ResourceExhaustedError, StatusError
from provledger.rpc import auth, certificate_ends
from provledger.rpc.bounds import Limits, bounded
from provledger.rpc.careful import carefully
from provledger.rpc.places import Places
from provledger.rpc.refusals import Decoder, refusal, short, strict
from provledger.rpc.watch_room import WatchRoom
from provledger.rpc.watches import Behaviour, Watches

Tracer = Callable[[str, Any], AbstractContextManager[object]]
Done = Callable[[Any], object]
Answered = Callable[[int], Done | None]
Gate = Callable[[bytes], AbstractContextManager[Answered | None]]
"""Given a raw request, a context that is held until the call is answered; raises to refuse it.

It is entered where the request comes, before there is a task for the call, for callers who may make
it; who they are is not told. What the context gives is told how many bytes the answer has, before
it is sent, and may raise. What that returns is called once the answer is taken or nobody is there
any more to take it.
"""
_Handlers = tuple[Any, Any]
"""The usual one of a method, and the careful one."""

DEFAULT_DEADLINE_S: Final = 60.0
DEFAULT_HEALTH_WATCHES: Final = 1024
DEFAULT_WATCHES: Final = 2048
DEFAULT_CALLS: Final = 8192

_WATCH_AGAIN_S: Final = 5.0
_MESSAGE_S: Final = 10.0
"""How long a request is waited for while places are scarce."""
_HEALTH_BYTES: Final = 1024
"""Longest request for health: the name of a service."""


class ServiceInterceptor(grpc.aio.ServerInterceptor):
    """Authentication, allow-list, deadlines, drain of watches, error mapping.

    authenticate: servicer context to principal, or None where everybody is `anonymous`.
    ends_s: servicer context to when its caller's right to call ends, in seconds since 1970, and
        with it his streams; None where nobody's does.
    allow: who may call what; None allows everybody.
    deadline_s: limit for unary calls whose caller set none, or one further away.
    trace: opens a span around an RPC, given its name and servicer context; None costs nothing.
    gates: by unary RPC (`/pkg.Service/Method`), what decides before its request is parsed.
    limits: of repeated fields in requests, see `bounds`.
    health_watches: most watches of health at once. Whoever has a certificate may open one, so that
        they must not take the places of calls.
    watches: most server streams besides, shared by callers (`watch_room`).
    """

    def __init__(
        self,
        *,
        authenticate: Callable[[Any], str] | None = None,
        ends_s: Callable[[Any], float] | None = None,
        allow: auth.AllowList | None = None,
        deadline_s: float = DEFAULT_DEADLINE_S,
        trace: Tracer | None = None,
        gates: Mapping[str, Gate] | None = None,
        limits: Limits | None = None,
        health_watches: int = DEFAULT_HEALTH_WATCHES,
        watches: int = DEFAULT_WATCHES,
    ) -> None:
        self._authenticate = authenticate
        self._ends_s = ends_s
        self._allow = allow
        self._deadline_s = deadline_s
        self._trace = trace
        self._gates = dict(gates or {})
        self._limits = dict(limits or {})
        self._free_for_health = _Free(health_watches)
        self._handlers: dict[str, _Handlers] = {}
        self._watches = Watches()
        self._watch_room = WatchRoom(watches)
        self._places = Places(DEFAULT_CALLS)
        self._enters = {name: self._entering(name, gate) for name, gate in self._gates.items()}

    def at(self, places: Places) -> ServiceInterceptor:
        """The same for a listener, whose places its calls have; watches are those of all."""
        other = copy(self)
        other._handlers = {}
        other._places = places
        return other

    async def intercept_service(
        self,
        continuation: Callable[[Any], Awaitable[Any]],
        handler_call_details: Any,
    ) -> Any:
        """For grpc.aio: the handler of a call, or None where there is no such method."""
        self._places.rest()
        method: str = handler_call_details.method
        handlers = self._handlers.get(method)
        if handlers is None:
            handler = await continuation(handler_call_details)
            # Unknown methods are not remembered: a stranger could name any number of them.
            if handler is None:
                return None
            handlers = self._remember(method, handler)
        return handlers[self._places.are_scarce]

    def choose(self, method: str, handler: Any, call: Any) -> tuple[Any, Any]:
        """For a direct server: the handler of a call that is shown to us, instead of the one of a
        known method, and what it enters before."""
        places = self._places
        places.rest(call)
        handlers = self._handlers.get(method) or self._remember(method, handler)
        if places.are_scarce:
            return handlers[1], None
        return handlers[0], self._enters.get(method)

    def _entering(self, method: str, gate: Gate) -> Callable[[bytes, Any], Any]:
        """The gate of a method, for calls of those who may make them."""
        admit = self._admission(method)

        def enter(data: bytes, context: Any) -> Entered | None:
            if admit is not None:
                try:
                    admit(context)
                except StatusError:
                    return None  # who may not is told so where everybody is
            return Entered(gate(data))

        return enter

    def _remember(self, method: str, handler: Any) -> _Handlers:
        wrapped = self._wrap(method, handler)
        handlers = self._handlers[method] = wrapped, self._careful(method, wrapped)
        return handlers

    def end_watches(self) -> None:
        """End the server streams (watches) with UNAVAILABLE, so that their callers go elsewhere.

        Other RPCs are left to finish. Streams that start later end at once. Watches of health end
        by themselves, once they have told the last (`health`).
        """
        self._watches.end()

    def _wrap(self, method: str, handler: Any) -> Any:
        encode = handler.response_serializer
        if method.startswith(f"/{auth.HEALTH_SERVICE}/"):
            decode = short(handler.request_deserializer, _HEALTH_BYTES)
            if not handler.response_streaming:
                check = self._health_check(method, decode, handler.unary_unary)
                return grpc.unary_unary_rpc_method_handler(check, None, encode)
            run = self._health_watch(method, decode, _as_coroutine(handler.unary_stream))
            return grpc.unary_stream_rpc_method_handler(run, None, encode)
        decode = strict(bounded(handler.request_deserializer, self._limits))
        # Callers who may not call have nothing parsed: of streams not before they are read, and
        # other requests reach us as they came.
        if handler.request_streaming and handler.response_streaming:
            inner = self._ending(_as_coroutine(handler.stream_stream))
            run = self._around(method, inner, None, unary=False, writes=True)
            return grpc.stream_stream_rpc_method_handler(run, decode, encode)
        if handler.request_streaming:
            inner = self._ending(handler.stream_unary)
            run = self._around(method, inner, None, unary=False)
            return grpc.stream_unary_rpc_method_handler(run, decode, encode)
        if handler.response_streaming:
            inner = self._watches.ending(self._ending(_as_coroutine(handler.unary_stream)))
            inner = self._watch_room.bounding(inner)
            run = self._around(method, inner, decode, unary=False, writes=True)
            return grpc.unary_stream_rpc_method_handler(run, None, encode)
        gate = self._gates.get(method)
        if gate is not None:
            inner = _gated(gate, decode, encode, handler.unary_unary)
            run = self._around(method, inner, None, unary=True)
            return grpc.unary_unary_rpc_method_handler(run, None, None)
        run = self._around(method, handler.unary_unary, decode, unary=True)
        return grpc.unary_unary_rpc_method_handler(run, None, encode)

    def _ending(self, inner: Behaviour) -> Behaviour:
        """`inner`, a stream, ended with the right of its caller."""
        return inner if self._ends_s is None else certificate_ends.ending(inner, self._ends_s)

    def _around(
        self,
        method: str,
        inner: Behaviour,
        decode: Decoder | None,
        *,
        unary: bool,
        writes: bool = False,
    ) -> Behaviour:
        """`inner` with everything around it; without `decode` it is given what came.

        writes: it writes its answers itself, as response streams do.
        """
        limit_s = self._deadline_s
        admit = self._admission(method)
        places = self._places

        async def run(request: Any, context: Any) -> Any:
            places.work(context)
            try:
                if admit is not None:
                    auth.set_principal(admit(context))
                remaining_s = context.time_remaining()
                if remaining_s is not None and remaining_s <= 0.0:
                    raise DeadlineExceededError("DEADLINE_EXCEEDED", "the deadline has passed")
                if decode is not None:
                    request = decode(request)
                if unary and (remaining_s is None or remaining_s > limit_s):
                    async with asyncio.timeout(limit_s):
                        return await inner(request, context)
                return await inner(request, context)
            except grpc.aio.AbortError:
                raise
            except Exception as exc:
                refused = refusal(method, exc, writes=writes)
            finally:
                places.rest(context)
            request = None  # see `refusal`
            return await context.abort(*refused)

        if self._trace is None:
            return run
        trace = self._trace

        async def traced(request: Any, context: Any) -> Any:
            with trace(method, context):
                running = run(request, context)
                request = None
                return await running

        return traced

    def _admission(self, method: str) -> Callable[[Any], str] | None:
        authenticate = self._authenticate
        callers = None if self._allow is None else self._allow.callers(method)
        if authenticate is None and callers is None:
            return None

        def admit(context: Any) -> str:
            principal = auth.ANONYMOUS if authenticate is None else authenticate(context)
            if callers is not None and principal not in callers:
                raise auth.refuse(principal, method)
            return principal

        return admit

    def _careful(self, method: str, handler: Any) -> Any:
        """A handler for when places are scarce: no other one on the wire (see `places`).

        A request stream is read by its servicer, and has no use for it.
        """
        if handler.request_streaming:
            return handler
        run = handler.unary_stream if handler.response_streaming else handler.unary_unary
        careful = carefully(
            method,
            run,
            self._identification(method),
            self._places,
            limit_s=min(self._deadline_s, _MESSAGE_S),
            answers=not handler.response_streaming,
        )
        return grpc.stream_stream_rpc_method_handler(careful, None, handler.response_serializer)

    def _identification(self, method: str) -> Callable[[Any], str]:
        """Who calls; raises where they may not. For health everybody may."""
        admit = self._admission(method)
        if admit is None:
            return lambda context: auth.ANONYMOUS
        if not method.startswith(f"/{auth.HEALTH_SERVICE}/"):
            return admit
        authenticate = self._authenticate

        def identify(context: Any) -> str:
            try:
                return auth.ANONYMOUS if authenticate is None else authenticate(context)
            except StatusError:
                return auth.ANONYMOUS

        return identify

    def _health_check(self, method: str, decode: Decoder, inner: Behaviour) -> Behaviour:
        """`inner`, which asks for health: for everybody, but shortly."""

        async def run(data: Any, context: Any) -> Any:
            try:
                request = decode(data)
            except StatusError as exc:
                refused = refusal(method, exc)
            else:
                return await inner(request, context)
            data = None
            return await context.abort(*refused)

        return run

    def _health_watch(self, method: str, decode: Decoder, inner: Behaviour) -> Behaviour:
        """`inner`, which watches health: for everybody, but bounded, and ended by a drain."""
        free = self._free_for_health
        places = self._places

        async def run(request: Any, context: Any) -> Any:
            places.work(context)
            try:
                if not free.count:
                    raise ResourceExhaustedError(
                        "TOO_MANY_WATCHES",
                        "the server's health is watched by as many as may; ask for it (Check)",
                        retry_delay_s=_WATCH_AGAIN_S,
                    )
                free.count -= 1
                try:
                    return await inner(decode(request), context)
                finally:
                    free.count += 1
            except grpc.aio.AbortError:
                raise
            except Exception as exc:
                refused = refusal(method, exc, writes=True)
            finally:
                places.rest(context)
            request = None
            return await context.abort(*refused)

        return run


class Entered:
    """A gate's context that was entered where its call came, for the handler to enter again."""

    def __init__(self, context: AbstractContextManager[Answered | None]) -> None:
        self._context = context
        self._answered = context.__enter__()

    def __enter__(self) -> Answered | None:
        return self._answered

    def __exit__(self, *raised: Any) -> bool | None:
        return self._context.__exit__(*raised)


class _Free:
    """How many are left, for several to count."""

    def __init__(self, count: int) -> None:
        self.count = count


def _as_coroutine(behaviour: Any) -> Behaviour:
    """A response stream written as generator, as the writing coroutine gRPC also accepts.

    The generator is closed as soon as the call ends, and not when it is collected.
    """
    if not inspect.isasyncgenfunction(behaviour):
        return behaviour  # type: ignore[no-any-return]

    async def run(request: Any, context: Any) -> None:
        responses: AsyncIterator[Any] = behaviour(request, context)
        async with aclosing(responses) as items:  # type: ignore[type-var]
            async for item in items:
                await context.write(item)

    return run


def _gated(
    gate: Gate, decode: Decoder, encode: Callable[[Any], bytes], inner: Behaviour
) -> Behaviour:
    """`inner` behind a gate, which sees the request before anything is spent on it.

    It gives the answer as bytes: gRPC would keep the message beside them for as long.
    """

    async def run(data: Any, context: Any) -> bytes:
        take_entered = getattr(context, "take_entered", None)  # grpc.aio's has none
        entered = None if take_entered is None else take_entered()
        with entered or gate(data) as answered:
            answer = encode(await inner(decode(data), context))
            done = None if answered is None else answered(len(answer))
            if done is not None:
                # gRPC calls these when it has sent the answer as far as the reader's window lets
                # it, or cannot any more; not when we return.
                context.add_done_callback(done)
            return answer

    return run
