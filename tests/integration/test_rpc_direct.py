"""The server over gRPC's core, by grpc.aio's clients: each way in which a call can go and end."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from provledger import errors
from provledger.rpc.channel import channel
from provledger.rpc.direct.call import Call
from provledger.rpc.errors import from_rpc_error
from tests.support.direct import FULL, METHOD, OTHER, STREAM, echo, failed, serving
from tests.support.echo import EchoServicer, EchoStub
from tests.support.echo import serving as listening
from tests.support.ledgering import eventually

LONG = 12 * 1024 * 1024
"""More than a connection's windows let through unread."""


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
async def test_a_message_is_answered(size: int) -> None:
    async with serving(echo) as calls:
        assert await calls.unary(b"x" * size) == b"x" * size


async def test_what_is_no_method_of_the_server() -> None:
    async with serving(echo) as calls:
        assert (await failed(calls.missing(b""))).code() == grpc.StatusCode.UNIMPLEMENTED


async def test_a_call_without_a_message_is_told() -> None:
    async with serving(echo) as calls:
        nothing: list[bytes] = []
        error = await failed(calls.joined(iter(nothing)))
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_more_calls_than_may_be_are_refused_at_once_and_with_details() -> None:
    gate = asyncio.Event()

    async def wait(request: bytes, context: Any) -> bytes:
        await gate.wait()
        return request

    async with serving(wait, most=2) as calls:
        running = [asyncio.ensure_future(calls.unary(b"", timeout=30)) for _ in range(3)]
        done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        error = await failed(done.pop())
        assert error.code() == FULL.code
        assert dict(error.trailing_metadata()) == dict(FULL.trailers)
        gate.set()
        await asyncio.wait(running)
        assert await calls.unary(b"again") == b"again"


async def test_what_a_handler_raises_is_the_end_of_its_call_alone() -> None:
    async def fail(request: bytes, context: Any) -> bytes:
        if request == b"cancel":
            raise asyncio.CancelledError
        if request == b"abort":
            trailers = (("key", "value"),)
            await context.abort(grpc.StatusCode.ABORTED, "said", trailing_metadata=trailers)
        if request == b"":
            raise RuntimeError("secret")
        return request

    async with serving(fail) as calls:
        error = await failed(calls.unary(b""))
        assert error.code() == grpc.StatusCode.UNKNOWN
        assert "secret" not in str(error.details())
        assert (await failed(calls.unary(b"cancel"))).code() == grpc.StatusCode.CANCELLED
        error = await failed(calls.unary(b"abort"))
        assert (error.code(), error.details()) == (grpc.StatusCode.ABORTED, "said")
        assert ("key", "value") in tuple(error.trailing_metadata())
        assert await calls.unary(b"fine") == b"fine"


@pytest.mark.parametrize("way", ["cancelled", "too late"])
async def test_a_handler_hears_that_nobody_waits_any_more(way: str) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()
    seen: list[Any] = []

    def over(context: Any) -> None:
        seen.append(context)
        ended.set()

    async def wait(request: bytes, context: Any) -> None:
        context.add_done_callback(over)
        seen.append(context.time_remaining())
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            seen.append(context.cancelled())

    async with serving(wait) as calls:
        call = calls.unary(b"", timeout=None if way == "cancelled" else 0.3)
        await begun.wait()
        if way == "cancelled":
            call.cancel()
            assert seen == [None]
        else:
            assert 0.0 < seen[0] < 0.4
        await asyncio.wait_for(ended.wait(), 30)
        assert seen[1] is True
        context = seen[2]
        assert context.done()
        assert context.peer() == ""
        told = asyncio.Event()
        context.add_done_callback(lambda _: told.set())
        await asyncio.wait_for(told.wait(), 30)


async def test_messages_go_both_ways_until_both_end() -> None:
    async def chat(requests: AsyncIterator[bytes], context: Any) -> None:
        async for request in requests:
            await context.write(request)

    async with serving(chat, STREAM) as calls:
        stream = calls.stream()
        for count in range(50):
            await stream.write(b"%d" % count)
            assert await stream.read() == b"%d" % count
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() == grpc.StatusCode.OK


async def test_a_read_that_was_given_up_loses_no_message() -> None:
    given_up = asyncio.Event()

    async def read(_: Any, context: Any) -> None:
        try:
            async with asyncio.timeout(0.0):
                await context.read()
        except TimeoutError:
            given_up.set()
        while (data := await context.read()) is not grpc.aio.EOF:
            await context.write(data)

    async with serving(read, STREAM) as calls:
        stream = calls.stream()
        await given_up.wait()
        await stream.write(b"one")
        assert await stream.read() == b"one"
        await stream.write(b"two")
        await stream.done_writing()
        assert [await stream.read(), await stream.read()] == [b"two", grpc.aio.EOF]


@pytest.mark.parametrize("size", [10, LONG])
@pytest.mark.parametrize("at", ["first", "second"])
async def test_a_write_that_was_given_up_is_followed_by_the_status(size: int, at: str) -> None:
    """Also by the status of a call whose reader takes its time."""

    async def write(_: Any, context: Any) -> None:
        if at == "second":
            await context.write(b"first")
        writing = asyncio.ensure_future(context.write(b"x" * size))
        await asyncio.sleep(0)
        writing.cancel()
        await asyncio.wait({writing})
        await context.abort(grpc.StatusCode.ABORTED, "given up")

    async with serving(write, STREAM) as calls:
        stream = calls.stream()
        read = [len(data) async for data in _read(stream)]
        assert read == ([5] if at == "second" else []) + [size]
        assert await stream.code() == grpc.StatusCode.ABORTED


async def _read(stream: Any) -> AsyncIterator[bytes]:
    while True:
        try:
            data = await stream.read()
        except grpc.aio.AioRpcError:
            return
        if data is grpc.aio.EOF:
            return
        yield data


async def test_a_write_after_one_that_was_given_up_comes_after_it() -> None:
    async def write(_: Any, context: Any) -> None:
        writing = asyncio.ensure_future(context.write(b"x" * LONG))
        await asyncio.sleep(0)
        writing.cancel()
        await context.write(b"next")

    async with serving(write, STREAM) as calls:
        stream = calls.stream()
        assert [len(data) async for data in _read(stream)] == [LONG, 4]


async def test_a_handler_that_goes_on_after_its_call_reads_and_writes_nothing() -> None:
    begun, over, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
    found: list[Any] = []

    async def go_on(_: Any, context: Any) -> None:
        context.add_done_callback(lambda _: over.set())
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await over.wait()
        found.append(await context.read())
        found.append(context.time_remaining())
        try:
            await context.write(b"x")
        except grpc.aio.InternalError as error:
            found.append(error)
        ended.set()

    async with serving(go_on, STREAM) as calls:
        stream = calls.stream()
        await stream.write(b"unread")
        await begun.wait()
        stream.cancel()
        await asyncio.wait_for(ended.wait(), 30)
    assert found[:2] == [grpc.aio.EOF, 0.0]
    assert isinstance(found[2], grpc.aio.InternalError)


class Places:
    """Contexts that calls enter: who is in one, and who may come."""

    def __init__(self) -> None:
        self.inside = 0
        self.refuses: Exception | None = None

    def enter(self, data: bytes, call: Any) -> Any:
        if self.refuses is not None:
            raise self.refuses
        self.inside += 1
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, *raised: object) -> None:
        self.inside -= 1


async def test_what_a_call_enters_is_left_once() -> None:
    """By its handler, or for it where it does not get to that."""
    places = Places()
    begun, gate = asyncio.Event(), asyncio.Event()

    async def work(request: bytes, context: Any) -> bytes:
        if request == b"early":
            raise RuntimeError("before it enters")
        with context.take_entered():
            assert context.take_entered() is None
            begun.set()
            await gate.wait()
        return request

    async with serving(work, enter=places.enter) as calls:
        assert (await failed(calls.unary(b"early"))).code() == grpc.StatusCode.UNKNOWN
        assert places.inside == 0
        waiting = asyncio.ensure_future(calls.unary(b"late"))
        await begun.wait()
        assert places.inside == 1
        gate.set()
        assert await waiting == b"late"
        assert places.inside == 0
        # Ended by the caller at any moment, before its handler begins too.
        for turns in range(20):
            call = calls.unary(b"gone")
            for _ in range(turns):
                await asyncio.sleep(0.0005)
            call.cancel()
        assert await calls.unary(b"last") == b"last"
        await eventually(lambda: places.inside == 0)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ResourceExhaustedError("FULL", "full", retry_delay_s=0.123), "EXHAUSTED"),
        (errors.PermissionDeniedError("NO", "no", metadata={"a": "b"}), "PERMISSION"),
        (RuntimeError("secret"), "INTERNAL"),
    ],
)
async def test_what_may_not_enter_is_refused_with_all_that_is_said(
    error: Exception, code: str
) -> None:
    places = Places()
    places.refuses = error
    async with serving(echo, enter=places.enter) as calls:
        for _ in range(3):
            told = await failed(calls.unary(b"x"))
            assert code in told.code().name
            assert "secret" not in str(told.details())
            found = from_rpc_error(told)
            if isinstance(error, errors.ResourceExhaustedError):
                assert found.retry_delay_s == pytest.approx(0.13)
            if isinstance(error, errors.PermissionDeniedError):
                assert found.metadata == {"a": "b"}
        places.refuses = None
        assert await calls.unary(b"x") == b"x"


async def test_a_slow_reader_keeps_nobody_waiting_and_may_go() -> None:
    stuck, failed_to = asyncio.Event(), asyncio.Event()

    async def write(requests: AsyncIterator[bytes], context: Any) -> None:
        first = [request async for request in requests]
        if first == [b"quick"]:
            await context.write(b"here")
            return
        try:
            while True:
                writing = asyncio.ensure_future(context.write(b"x" * 1_000_000))
                done, _ = await asyncio.wait({writing}, timeout=0.2)
                if not done:
                    stuck.set()
                await writing
        except grpc.aio.InternalError:
            failed_to.set()
            raise
        except asyncio.CancelledError:
            failed_to.set()
            raise

    async with serving(write, STREAM) as calls:
        slow = calls.stream()
        await slow.done_writing()
        await asyncio.wait_for(stuck.wait(), 30)
        quick = calls.stream(iter([b"quick"]))
        assert await quick.read() == b"here"
        slow.cancel()
        await asyncio.wait_for(failed_to.wait(), 30)


async def test_a_stop_waits_for_calls_and_a_second_one_does_not() -> None:
    begun, gate = asyncio.Event(), asyncio.Event()

    async def wait(request: bytes, context: Any) -> bytes:
        begun.set()
        await gate.wait()
        return b"done"

    async with serving(wait) as calls:
        call = asyncio.ensure_future(calls.unary(b"", timeout=30))
        await begun.wait()
        stopping = asyncio.ensure_future(calls.server.stop(30.0))
        await asyncio.sleep(0)
        gate.set()
        assert await call == b"done"
        await stopping

    begun.clear()
    gate.clear()
    async with serving(wait) as calls:
        call = asyncio.ensure_future(calls.unary(b"", timeout=30))
        await begun.wait()
        stopping = asyncio.ensure_future(calls.server.stop(30.0))
        await asyncio.sleep(0)
        await calls.server.stop(0.0)
        await stopping
        assert (await failed(call)).code() in {
            grpc.StatusCode.CANCELLED,
            grpc.StatusCode.UNAVAILABLE,
        }


async def test_a_stop_does_not_wait_for_a_handler_that_will_not_go() -> None:
    begun, gate = asyncio.Event(), asyncio.Event()

    async def stay(request: bytes, context: Any) -> bytes:
        begun.set()
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue
        return b""

    async with serving(stay) as calls:
        call = asyncio.ensure_future(calls.unary(b"", timeout=30))
        await begun.wait()
        await asyncio.wait_for(calls.server.stop(0.0), 30)
        gate.set()
        await failed(call)


async def test_nothing_of_a_call_is_kept() -> None:
    seen: list[weakref.ref[Any]] = []

    async def answer(request: bytes, context: Any) -> bytes:
        seen.append(weakref.ref(context))
        return request

    async with serving(answer) as calls:
        gc.disable()
        try:
            for _ in range(20):
                await calls.unary(b"x")
            for _ in range(100):
                await asyncio.sleep(0.001)
            assert [context() for context in seen] == [None] * 20
        finally:
            gc.enable()


@pytest.mark.parametrize("when", ["in work", "before its task begins"])
async def test_a_cancelled_call_keeps_no_request(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither among those that rest, nor in a cycle that waits for the collector."""
    alive: list[weakref.ref[Any]] = []
    begun = asyncio.Event()

    class Waiting(EchoServicer):
        async def Echo(self, request: bytes, context: Any) -> bytes:
            begun.set()
            return bytes(await asyncio.Event().wait())

    on_only_message = Call._on_only_message

    def noted(self: Call, event: Any) -> None:
        on_only_message(self, event)
        alive.append(weakref.ref(self))
        if when != "in work" and self.task is not None:
            self.task.cancel()
            begun.set()

    monkeypatch.setattr(Call, "_on_only_message", noted)
    gc.disable()
    try:
        async with (
            listening(Waiting()) as server,
            channel(f"127.0.0.1:{server.port}") as opened,
        ):
            for _ in range(20):
                begun.clear()
                call = EchoStub(opened).Echo(b"x" * 100, timeout=30)
                await asyncio.wait_for(begun.wait(), 30)
                call.cancel()
            assert len(alive) == 20
            await eventually(lambda: [call() for call in alive] == [None] * 20)
    finally:
        gc.enable()


async def test_a_call_that_cannot_be_begun_is_told_and_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving(echo) as calls:
        broken = True

        def choose(method: str, handler: Any, call: Any) -> Any:
            if broken:
                raise RuntimeError("secret")
            return handler, None

        monkeypatch.setattr(calls.server, "_choose", choose)
        error = await failed(calls.unary(b"x", timeout=30))
        assert error.code() == grpc.StatusCode.INTERNAL
        assert "secret" not in str(error.details())
        assert not calls.server._calls
        broken = False
        assert await calls.unary(b"x", timeout=30) == b"x"


@pytest.mark.parametrize("way", ["answer", "message", "details"])
async def test_what_cannot_be_sent_is_answered_all_the_same(way: str) -> None:
    async def answer(request: bytes, context: Any) -> Any:
        if way == "details":
            await context.abort(grpc.StatusCode.ABORTED, "\ud800")
        return "no bytes"

    async def write(_: Any, context: Any) -> None:
        await context.write("no bytes")

    if way == "message":
        async with serving(write, STREAM) as calls:
            assert await calls.stream(timeout=30).code() == grpc.StatusCode.UNKNOWN
        return
    async with serving(answer) as calls:
        code = grpc.StatusCode.ABORTED if way == "details" else grpc.StatusCode.UNKNOWN
        assert (await failed(calls.unary(b"x", timeout=30))).code() == code


async def test_a_flood_of_one_method_does_not_stand_before_another() -> None:
    order: list[bytes] = []

    async def note(request: bytes, context: Any) -> bytes:
        order.append(request)
        return request

    async with serving(note, most=1000) as calls:
        with grpc.insecure_channel(f"127.0.0.1:{calls.port}") as opened:
            flood: Any = opened.unary_unary(METHOD)
            quiet: Any = opened.unary_unary(OTHER)
            await asyncio.to_thread(flood, b"connected", timeout=30)
            # Calls of a channel that needs no event loop: ours sees nothing until all are sent.
            sent = [flood.future(b"flood", timeout=60) for _ in range(400)]
            sent.append(quiet.future(b"quiet", timeout=60))
            for call in sent:
                await asyncio.to_thread(call.result, 60)
    assert len(order) == 402
    assert order.index(b"quiet") < 200
