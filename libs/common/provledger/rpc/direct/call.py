"""One RPC of a direct server, as its servicer sees it: what servicers use of grpc.aio's context.

A call is over when the core says that it is closed and all that we began on it is done; its places
and its answer are given back then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import copy_context
from typing import Any, Final

import grpc

from provledger import logs
from provledger.errors import StatusError
from provledger.rpc.direct import core
from provledger.rpc.refusals import Refusal, brief, refusal

log = logs.get(__name__)

Ended = Callable[["Call"], object]
Enter = Callable[[bytes, "Call"], AbstractContextManager[Any] | None]
"""Given the one message of a call, before a task is made for it: a context that its handler enters,
or that is left for it. Raises StatusError to refuse the call."""

_OK: Final = 0
"""Its number as a status."""
_NO_DEADLINE_S: Final = 2.0**40
"""Seconds since 1970 from which on a deadline is none; the core's infinity is far beyond."""
_NO_MESSAGE: Final = Refusal(grpc.StatusCode.INVALID_ARGUMENT, "the call has no message", ())


class Call:
    """The context of one call, and the task that answers it; for one event loop.

    event: the core's, with which it came. ended: told when it is over.
    """

    # What most calls never have is said here once, and not of each: a call that is refused costs as
    # little as can be.
    task: asyncio.Task[None] | None = None
    entered: AbstractContextManager[Any] | None = None
    _auth: Mapping[str, Sequence[bytes]] | None = None
    _handler: Any = None
    _enter: Enter | None = None
    _pending = 0
    _closed = _cancelled = _over = False
    _opened = _statused = False
    _reading = _writing = False
    _reader: asyncio.Future[bytes | None] | None = None
    _writer: asyncio.Future[bool] | None = None
    _kept: Sequence[bytes | None] = ()
    _after_write: Sequence[Any] | None = None
    _code: grpc.StatusCode | None = None
    _details = ""
    _trailers: Any = None
    _callbacks: Sequence[Callable[[Any], object]] = ()

    def __init__(
        self, event: Any, method: str, loop: asyncio.AbstractEventLoop, ended: Ended
    ) -> None:
        self.method = method
        self._event = event
        self._core = event.call
        self._loop = loop
        self._ended = ended

    def begin(self, handler: Any, enter: Enter | None = None) -> None:
        """Run the handler, once its one message has come if there is to be one and `enter` lets it
        in."""
        self._handler = handler
        self._enter = enter
        if handler.request_streaming:
            self._hear_of_end()
            self.task = self._loop.create_task(self._run(self._requests()))
        else:
            receive = (core.receive_message(),)
            self._start(receive, self._on_only_message)

    # What a servicer asks and says.

    def done(self) -> bool:
        """Whether it is over."""
        return self._over

    def cancelled(self) -> bool:
        """Whether the caller hung up, or its deadline passed, or the server ended it."""
        return self._cancelled

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Have `callback` called with this context once the call is over."""
        if self._over:
            self._loop.call_soon(callback, self)
        else:
            self._callbacks = [*self._callbacks, callback]

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline, or None if it has none; 0.0 once it is over."""
        if self._over:
            return 0.0
        deadline_s: float = self._event.call_details.deadline
        if deadline_s >= _NO_DEADLINE_S:
            return None
        return max(deadline_s - time.time(), 0.0)

    def invocation_metadata(self) -> Any:
        """The caller's metadata, as pairs; none once the call is over."""
        return () if self._over else self._event.invocation_metadata

    def peer(self) -> str:
        """The caller's address, as gRPC writes it; "" once the call is over."""
        if self._over:
            return ""
        name: bytes = self._core.peer()
        return name.decode("utf-8", "replace")

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        """What TLS knows of the caller; nothing once the call is over."""
        if self._over:
            return {}
        if self._auth is None:
            found: Mapping[bytes, Sequence[bytes]] = core.auth_context(self._core) or {}
            self._auth = {key.decode("utf-8", "replace"): each for key, each in found.items()}
        return self._auth

    def set_trailing_metadata(self, metadata: Any) -> None:
        """Have `metadata` sent with the status."""
        self._trailers = metadata

    def set_code(self, code: grpc.StatusCode) -> None:
        """The status, should the handler raise without `abort`."""
        self._code = code

    def set_details(self, details: str) -> None:
        """The text beside it."""
        self._details = details

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = None
    ) -> None:
        """End the call with a status.

        Raises:
            grpc.aio.AbortError: always, to leave the handler.
        """
        if trailing_metadata is not None:
            self._trailers = trailing_metadata
        self._send_status(code, details)
        raise grpc.aio.AbortError("the call was aborted by its servicer")

    async def read(self) -> Any:
        """The next message of a call whose handler reads, or `grpc.aio.EOF`.

        One reader at a time. What a cancelled read would have had, the next one gets.
        """
        if self._over:
            return grpc.aio.EOF
        decode = self._handler.request_deserializer
        if self._kept:
            (data,), self._kept = self._kept, ()
        else:
            self._reader = self._loop.create_future()
            if not self._reading:
                self._reading = True
                receive = (core.receive_message(),)
                self._start(receive, self._on_message)
            data = await self._reader
        if data is None:
            return grpc.aio.EOF
        return data if decode is None else decode(data)

    async def write(self, message: Any) -> None:
        """Send a message, as far as the reader's window lets it. One writer at a time.

        Raises:
            grpc.aio.InternalError: it cannot be sent, because nobody is there any more.
        """
        if self._over:
            raise grpc.aio.InternalError("the call is over")
        encode = self._handler.response_serializer
        data = message if encode is None else encode(message)
        while self._writing:  # of a writer that was cancelled
            await self._written()
        if self._closed or self._statused:
            raise grpc.aio.InternalError("the call is over")
        operations = (*self._opening(), core.send_message(data))
        self._start(operations, self._on_written)
        self._opened = self._writing = True
        del data, message, operations
        if not await self._written():
            raise grpc.aio.InternalError("the message cannot be sent")

    # What the core says.

    def _start(self, operations: Sequence[Any], tag: Callable[[Any], None]) -> None:
        error = self._core.start_server_batch(operations, tag)
        if error:
            raise grpc.aio.InternalError(f"gRPC's core refused operations: error {error}")
        self._pending += 1

    def _on_close(self, event: Any) -> None:
        self._closed = True
        # Of a call that was refused it is one operation of three.
        if event.batch_operations[-1].cancelled():
            self._cancelled = True
            if self.task is not None:
                self.task.cancel()
        self._settle()

    def _on_only_message(self, event: Any) -> None:
        data = event.batch_operations[0].message()
        if data is None:
            self._refuse(_NO_MESSAGE)
            return
        context = copy_context()
        if self._enter is not None:
            try:
                self.entered = context.run(self._enter, data, self)
            except StatusError as error:
                self._refuse(brief(self.method, error))
                return
            except Exception as exc:  # a fault of ours, which a caller must not wait for
                self._refuse(refusal(self.method, exc))
                return
        self._hear_of_end()
        self.task = self._loop.create_task(self._run(data), context=context)
        self._settle()

    def _refuse(self, said: Refusal) -> None:
        """End the call, of which nothing was begun but to receive its message."""
        self._statused = True
        self._start(_refusing(said), self._on_close)
        self._settle()

    def _hear_of_end(self) -> None:
        self._start((core.receive_close(),), self._on_close)

    def _on_message(self, event: Any) -> None:
        self._reading = False
        data = event.batch_operations[0].message()
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(data)
        else:
            self._kept = (data,)
        self._settle()

    def _on_written(self, event: Any) -> None:
        self._writing = False
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(event.success)
        if self._after_write is not None:
            operations, self._after_write = self._after_write, None
            self._start(operations, self._on_status)
        self._settle()

    def _on_status(self, event: Any) -> None:
        self._settle()

    def _settle(self) -> None:
        """One operation is done; see whether it was the last of the call."""
        self._pending -= 1
        if self._closed and not self._pending:
            self._over = True
            self._leave()  # of a task that was cancelled before it began
            # The core ends a call when nobody holds it any more.
            self._core = self._event = self._handler = self._enter = None
            self._kept = ()
            if self.task is not None:
                self.task.add_done_callback(self._forget_task)
            callbacks, self._callbacks = self._callbacks, ()
            for callback in callbacks:
                self._loop.call_soon(callback, self)
            self._ended(self)

    def _forget_task(self, task: asyncio.Task[None]) -> None:
        """One that was cancelled before it began has the call in its exception: a cycle."""
        self.task = None

    # The handler.

    async def _run(self, request: Any) -> None:
        handler = self._handler
        try:
            if not handler.request_streaming and handler.request_deserializer is not None:
                request = handler.request_deserializer(request)
            running = _behaviour(handler)(request, self)
            del request  # it may be large, and the handler may have done with it
            answer = await running
            if handler.response_streaming:
                self._send_status(grpc.StatusCode.OK, "")
            else:
                encode = handler.response_serializer
                self._send_answer(answer if encode is None else encode(answer))
        except grpc.aio.AbortError:
            pass
        except asyncio.CancelledError:
            # Not raised: the task would keep it, and by its traceback the request, in a cycle.
            self._send_status(grpc.StatusCode.CANCELLED, "the call was given up")
        except Exception as exc:
            if not self._cancelled:
                log.error("rpc.handler_failed", exc_info=exc, method=self.method)
            self._send_status(self._code or grpc.StatusCode.UNKNOWN, self._details)
        finally:
            self._leave()

    def take_entered(self) -> AbstractContextManager[Any] | None:
        """What `enter` gave, for the handler to enter in turn."""
        entered, self.entered = self.entered, None
        return entered

    def _leave(self) -> None:
        """Leave what the handler did not get to enter."""
        entered = self.take_entered()
        if entered is not None:
            with entered:
                pass

    async def _requests(self) -> AsyncIterator[Any]:
        while True:
            request = await self.read()
            if request is grpc.aio.EOF:
                return
            yield request

    async def _written(self) -> bool:
        self._writer = self._loop.create_future()
        return await self._writer

    def _opening(self) -> tuple[Any, ...]:
        """The initial metadata, the first time."""
        if self._opened:
            return ()
        return (core.send_initial_metadata(),)

    def _send_answer(self, data: bytes) -> None:
        if self._closed or self._statused:
            return
        end = core.send_status(_OK, "", self._trailers)
        self._start((*self._opening(), core.send_message(data), end), self._on_status)
        self._opened = self._statused = True

    def _send_status(self, code: grpc.StatusCode, details: str) -> None:
        """End the call, unless it has ended; after what is being written."""
        if self._closed or self._statused:
            return
        operations = (*self._opening(), core.send_status(code.value[0], details, self._trailers))
        if self._writing:
            self._after_write = operations
        else:
            self._start(operations, self._on_status)
        self._opened = self._statused = True


def _behaviour(handler: Any) -> Callable[[Any, Any], Awaitable[Any]]:
    if handler.response_streaming:
        run = handler.stream_stream if handler.request_streaming else handler.unary_stream
    else:
        run = handler.stream_unary if handler.request_streaming else handler.unary_unary
    return run  # type: ignore[no-any-return]


def refuse(call: Any, said: Refusal) -> None:
    """End a call of which nothing was received, and forget it."""
    call.start_server_batch(_refusing(said), _forget)


def _refusing(said: Refusal) -> tuple[Any, ...]:
    return (
        core.send_initial_metadata(),
        core.send_status(said.code.value[0], said.message, said.trailers),
        core.receive_close(),
    )


def _forget(event: Any) -> None:
    pass
