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
from google.protobuf.message import DecodeError

from provledger import logs
from provledger.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    ResourceExhaustedError,
    StatusError,
)
from provledger.rpc import auth
from provledger.rpc.bounds import Limits, bounded
from provledger.rpc.errors import CODES, DETAILS_KEY, as_status_error, internal_error, to_status
from provledger.rpc.places import Places
from provledger.rpc.watches import Behaviour, Watches

log = logs.get(__name__)

Tracer = Callable[[str, Any], AbstractContextManager[object]]
Done = Callable[[Any], object]
Answered = Callable[[int], Done | None]
Gate = Callable[[bytes], AbstractContextManager[Answered | None]]
"""Given a raw request, a context that is held until the call is answered; raises to refuse it.

What the context gives is told how many bytes the answer has, before it is sent, and may raise. What
that returns is called once the answer is taken or nobody is there any more to take it.
"""
_Handlers = tuple[Any, Any]
"""The usual one of a method, and the careful one."""
Decoder = Callable[[bytes], Any]
_Trailers = tuple[tuple[str, bytes], ...]

DEFAULT_DEADLINE_S: Final = 60.0
DEFAULT_HEALTH_WATCHES: Final = 1024
DEFAULT_CALLS: Final = 8192

_WATCH_AGAIN_S: Final = 5.0
_MESSAGE_S: Final = 10.0
"""How long a request is waited for while places are scarce."""
_HEALTH_BYTES: Final = 1024
"""Longest request for health: the name of a service."""


class ServiceInterceptor(grpc.aio.ServerInterceptor):
    """Authentication, allow-list, deadlines, drain of watches, error mapping.

    authenticate: servicer context to principal, or None where everybody is `anonymous`.
    allow: who may call what; None allows everybody.
    deadline_s: limit for unary calls whose caller set none, or one further away.
    trace: opens a span around an RPC, given its name and servicer context; None costs nothing.
    gates: by unary RPC (`/pkg.Service/Method`), what decides before its request is parsed.
    limits: of repeated fields in requests, see `bounds`.
    health_watches: most watches of health at once. Whoever has a certificate may open one, so that
        they must not take the places of calls.
    """

    def __init__(
        self,
        *,
        authenticate: Callable[[Any], str] | None = None,
        allow: auth.AllowList | None = None,
        deadline_s: float = DEFAULT_DEADLINE_S,
        trace: Tracer | None = None,
        gates: Mapping[str, Gate] | None = None,
        limits: Limits | None = None,
        health_watches: int = DEFAULT_HEALTH_WATCHES,
    ) -> None:
        self._authenticate = authenticate
        self._allow = allow
        self._deadline_s = deadline_s
        self._trace = trace
        self._gates = dict(gates or {})
        self._limits = dict(limits or {})
        self._health_watches = _Free(health_watches)
        self._handlers: dict[str, _Handlers] = {}
        self._watches = Watches()
        self._places = Places(DEFAULT_CALLS)

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
        self._places.rest()
        method: str = handler_call_details.method
        handlers = self._handlers.get(method)
        if handlers is None:
            handler = await continuation(handler_call_details)
            # Unknown methods are not remembered: a stranger could name any number of them.
            if handler is None:
                return None
            wrapped = self._wrap(method, handler)
            handlers = self._handlers[method] = wrapped, self._careful(method, wrapped)
        return handlers[self._places.are_scarce]

    def end_watches(self) -> None:
        """End the server streams (watches) with UNAVAILABLE, so that their callers go elsewhere.

        Other RPCs are left to finish. Streams that start later end at once.
        """
        self._watches.end()

    def _wrap(self, method: str, handler: Any) -> Any:
        encode = handler.response_serializer
        if method.startswith(f"/{auth.HEALTH_SERVICE}/"):
            decode = _short(handler.request_deserializer)
            if not handler.response_streaming:
                check = self._health_check(method, decode, handler.unary_unary)
                return grpc.unary_unary_rpc_method_handler(check, None, encode)
            run = self._health_watch(method, decode, _as_coroutine(handler.unary_stream))
            return grpc.unary_stream_rpc_method_handler(run, None, encode)
        decode = _strict(bounded(handler.request_deserializer, self._limits))
        # Callers who may not call have nothing parsed: of streams not before they are read, and
        # other requests reach us as they came.
        if handler.request_streaming and handler.response_streaming:
            inner = _as_coroutine(handler.stream_stream)
            run = self._around(method, inner, None, unary=False, writes=True)
            return grpc.stream_stream_rpc_method_handler(run, decode, encode)
        if handler.request_streaming:
            run = self._around(method, handler.stream_unary, None, unary=False)
            return grpc.stream_unary_rpc_method_handler(run, decode, encode)
        if handler.response_streaming:
            inner = self._watches.ending(_as_coroutine(handler.unary_stream))
            run = self._around(method, inner, decode, unary=False, writes=True)
            return grpc.unary_stream_rpc_method_handler(run, None, encode)
        gate = self._gates.get(method)
        if gate is not None:
            inner = _gated(gate, decode, encode, handler.unary_unary)
            run = self._around(method, inner, None, unary=True)
            return grpc.unary_unary_rpc_method_handler(run, None, None)
        run = self._around(method, handler.unary_unary, decode, unary=True)
        return grpc.unary_unary_rpc_method_handler(run, None, encode)

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
            places.work()
            try:
                if admit is not None:
                    admit(context)
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
                refusal = _refusal(method, exc, writes=writes)
            finally:
                places.rest()
            request = None  # see `_refusal`
            return await context.abort(*refusal)

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
            auth.set_principal(principal)
            return principal

        return admit

    def _careful(self, method: str, handler: Any) -> Any:
        """A handler for when places are scarce: no other one on the wire (see `places`).

        A request stream is read by its servicer, and has no use for it.
        """
        if handler.request_streaming:
            return handler
        run = handler.unary_stream if handler.response_streaming else handler.unary_unary
        identify = self._identification(method)
        limit_s = min(self._deadline_s, _MESSAGE_S)
        places = self._places

        async def careful(_: Any, context: Any) -> None:
            try:
                principal = identify(context)
                with places.silent(principal):
                    data = await _only_message(context, limit_s)
            except Exception as exc:
                refusal = _refusal(method, exc)
            else:
                answer = await run(data, context)
                if not handler.response_streaming:
                    places.answered(principal)
                    await context.write(answer)
                return
            await context.abort(*refusal)

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
                refusal = _refusal(method, exc)
            else:
                return await inner(request, context)
            data = None
            return await context.abort(*refusal)

        return run

    def _health_watch(self, method: str, decode: Decoder, inner: Behaviour) -> Behaviour:
        """`inner`, which watches health: for everybody, but bounded, and ended by a drain."""
        watch = self._watches.ending(inner)
        free = self._health_watches
        places = self._places

        async def run(request: Any, context: Any) -> Any:
            places.work()
            try:
                if not free.count:
                    raise ResourceExhaustedError(
                        "TOO_MANY_WATCHES",
                        "the server's health is watched by as many as may; ask for it (Check)",
                        retry_delay_s=_WATCH_AGAIN_S,
                    )
                free.count -= 1
                try:
                    return await watch(decode(request), context)
                finally:
                    free.count += 1
            except grpc.aio.AbortError:
                raise
            except Exception as exc:
                refusal = _refusal(method, exc, writes=True)
            finally:
                places.rest()
            request = None
            return await context.abort(*refusal)

        return run


class _Free:
    """How many are left, for several to count."""

    def __init__(self, count: int) -> None:
        self.count = count


async def _only_message(context: Any, limit_s: float) -> bytes:
    """The message of a call that may have one.

    Raises:
        DeadlineExceededError: it did not come in time.
        InvalidArgumentError: there is none.
    """
    try:
        async with asyncio.timeout(limit_s):
            data = await context.read()
    except TimeoutError:
        raise DeadlineExceededError(
            "DEADLINE_EXCEEDED", f"the request did not come within {limit_s:g} s"
        ) from None
    if data is grpc.aio.EOF:
        raise _malformed()
    message: bytes = data
    return message


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
        with gate(data) as answered:
            answer = encode(await inner(decode(data), context))
            done = None if answered is None else answered(len(answer))
            if done is not None:
                # gRPC calls these when it has sent the answer as far as the reader's window lets
                # it, or cannot any more; not when we return.
                context.add_done_callback(done)
            return answer

    return run


def _strict(decode: Decoder) -> Decoder:
    """A deserializer whose failure is an error of ours, instead of gRPC's answer UNKNOWN."""

    def strict(data: bytes) -> Any:
        try:
            return decode(data)
        except (DecodeError, ValueError):
            raise _malformed() from None

    return strict


def _short(decode: Decoder) -> Decoder:
    """The same for what may be sent by everybody."""
    strict = _strict(decode)

    def short(data: bytes) -> Any:
        if len(data) > _HEALTH_BYTES:
            raise _malformed()
        return strict(data)

    return short


def _malformed() -> StatusError:
    return InvalidArgumentError("MALFORMED_REQUEST", "the request is not a message of this RPC")


def _refusal(
    method: str, exc: Exception, *, writes: bool = False
) -> tuple[grpc.StatusCode, str, _Trailers]:
    """What a call that failed is aborted with, once its failure is logged.

    gRPC keeps the exception that its `abort` raises in the state of the call, and by its traceback
    the frames that it went through: a cycle, which stays until Python looks for those, seldom
    here. So at that time nothing large may hang on them, neither the request nor `exc`, by whose
    traceback the servicer's frames hold it too: `abort` is called after `except`.

    Raises:
        CancelledError: gRPC could not send what was written, by a handler that `writes`. The caller
            hung up: nobody can be told, and it is no fault of ours. Of any other handler, gRPC's
            error is one.
    """
    if writes and isinstance(exc, grpc.aio.InternalError):
        raise asyncio.CancelledError from exc
    error = as_status_error(exc)
    if error.code == "INTERNAL":
        log.error("rpc.internal_error", exc_info=exc, method=method)
    elif error.code == "DATA_LOSS":
        log.error("rpc.data_loss", exc_info=exc, method=method, reason=error.reason)
    else:
        log.debug("rpc.refused", method=method, code=error.code, reason=error.reason)
    try:
        status = to_status(error)
    except Exception as broken:  # an error that cannot be encoded must not become a leak
        log.error("rpc.status_not_encodable", exc_info=broken, method=method)
        status, error = to_status(internal_error()), internal_error()
    details = ((DETAILS_KEY, status.SerializeToString()),)
    return CODES[error.code], status.message, details
