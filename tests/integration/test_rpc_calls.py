"""Errors, deadlines, limits and retries, over real sockets."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from provledger import errors
from provledger.errors import FieldViolation, StatusError
from provledger.kms.errors import KMSThrottledError
from provledger.retry import RetryPolicy
from provledger.rpc import channel as rpc_channel
from provledger.rpc.channel import call, channel
from provledger.rpc.errors import from_rpc_error
from provledger.rpc.server import Server, ServerSettings
from tests.support.echo import EchoServicer, EchoStub, serving

FAST = RetryPolicy(attempts=4, base_s=0.001, cap_s=0.005)


@pytest.fixture
async def servicer() -> EchoServicer:
    return EchoServicer()


@pytest.fixture
async def server(servicer: EchoServicer) -> AsyncIterator[Server]:
    async with serving(servicer) as server:
        yield server


@pytest.fixture
async def stub(server: Server) -> AsyncIterator[EchoStub]:
    async with channel(f"127.0.0.1:{server.port}") as open_channel:
        yield EchoStub(open_channel)


def raising(exc: BaseException) -> Callable[[bytes], None]:
    def fail(message: bytes) -> None:
        if message == b"!":
            raise exc

    return fail


async def ask(*messages: bytes) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


async def collect(opened: Any, got: list[bytes]) -> None:
    if hasattr(opened, "__aiter__"):
        async for message in opened:
            got.append(message)
    else:
        got.append(await opened)


async def all_kinds(stub: EchoStub) -> list[tuple[list[bytes], StatusError]]:
    """Make each kind of call fail; what was answered before, and the error."""
    outcomes = []
    for open_call in (
        lambda: stub.Echo(b"!", timeout=10),
        lambda: stub.Join(ask(b"a", b"!"), timeout=10),
        lambda: stub.Split(b"a!", timeout=10),
        lambda: stub.Chat(ask(b"a", b"!"), timeout=10),
        lambda: stub.WriterChat(ask(b"a", b"!"), timeout=10),
    ):
        got: list[bytes] = []
        with pytest.raises(grpc.RpcError) as caught:
            await collect(open_call(), got)
        outcomes.append((got, from_rpc_error(caught.value)))
    return outcomes


async def test_typed_errors_survive_every_kind_of_call(
    stub: EchoStub, servicer: EchoServicer
) -> None:
    servicer.fail = raising(
        errors.ResourceExhaustedError(
            "QUEUE_FULL",
            "come back – später",
            metadata={"queue": "main"},
            violations=[FieldViolation("items[3].actor.id", "too long", "TOO_LONG")],
            retry_delay_s=1.5,
        )
    )
    outcomes = await all_kinds(stub)
    assert [got for got, _ in outcomes] == [[], [], [b"a"], [b"a"], [b"a"]]
    for _, error in outcomes:
        assert type(error) is errors.ResourceExhaustedError
        assert (error.reason, error.message) == ("QUEUE_FULL", "come back – später")
        assert error.metadata == {"queue": "main"}
        assert error.violations == (FieldViolation("items[3].actor.id", "too long", "TOO_LONG"),)
        assert error.retry_delay_s == 1.5


async def test_unknown_exceptions_become_internal_without_detail(
    stub: EchoStub, servicer: EchoServicer, caplog: pytest.LogCaptureFixture
) -> None:
    servicer.fail = raising(KeyError("hunter2"))
    for _, error in await all_kinds(stub):
        assert type(error) is errors.InternalError
        assert error.reason == "INTERNAL"
        assert "hunter2" not in repr((error.message, error.metadata, error.violations))
    faults = [record for record in caplog.records if record.message == "rpc.internal_error"]
    assert len(faults) == 5


async def test_grpcs_own_error_is_a_fault_where_nothing_is_written(
    stub: EchoStub, servicer: EchoServicer, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a stream that is written, it says that the caller hung up."""
    servicer.fail = raising(grpc.aio.InternalError("a fault"))
    for opened in (lambda: stub.Echo(b"!", timeout=30), lambda: stub.Join(ask(b"!"), timeout=30)):
        with pytest.raises(grpc.RpcError) as caught:
            await opened()
        assert from_rpc_error(caught.value).reason == "INTERNAL"
    faults = [record for record in caplog.records if record.message == "rpc.internal_error"]
    assert len(faults) == 2


@pytest.mark.parametrize(
    ("raised", "code", "reason"),
    [
        (errors.InvalidJSONError("duplicate key", "/a"), "INVALID_ARGUMENT", "INVALID_JSON"),
        (errors.InvalidSignatureError("no", check="x"), "DATA_LOSS", "INVALID_SIGNATURE"),
        (KMSThrottledError("slow down", retry_delay_s=2), "RESOURCE_EXHAUSTED", "KMS_THROTTLED"),
        (TimeoutError(), "DEADLINE_EXCEEDED", "TIMED_OUT"),
        (ExceptionGroup("g", [errors.NotFoundError("GONE", "gone")]), "NOT_FOUND", "GONE"),
    ],
)
async def test_other_families_are_mapped(
    stub: EchoStub, servicer: EchoServicer, raised: Exception, code: str, reason: str
) -> None:
    servicer.fail = raising(raised)
    with pytest.raises(StatusError) as caught:
        await call(stub.Echo, b"!", timeout_s=10, policy=FAST, rng=random.Random(1))
    assert (caught.value.code, caught.value.reason) == (code, reason)


async def test_messages_that_cannot_be_read_are_the_callers_fault(stub: EchoStub) -> None:
    for opened in (
        lambda: stub.Echo(b"malformed", timeout=10),
        lambda: stub.Join(ask(b"a", b"malformed"), timeout=10),
        lambda: stub.Split(b"malformed", timeout=10).read(),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            await opened()
        error = from_rpc_error(caught.value)
        assert (error.code, error.reason) == ("INVALID_ARGUMENT", "MALFORMED_REQUEST")
        assert "secret" not in error.message


async def test_many_long_violations_arrive_cut_to_what_headers_carry(
    stub: EchoStub, servicer: EchoServicer
) -> None:
    violations = [FieldViolation(f"items[{n}].x", "ä" * 400, "BAD") for n in range(1000)]
    servicer.fail = raising(
        errors.InvalidArgumentError("BAD", "ß" * 5000 + "\udc80", violations=violations)
    )
    with pytest.raises(errors.InvalidArgumentError) as caught:
        await call(stub.Echo, b"!", timeout_s=10)
    kept = caught.value.violations
    assert 3 < len(kept) < 50
    assert kept[-1].description == f"and {1000 - len(kept) + 1} more, not shown"
    assert caught.value.message.endswith("...")


async def test_hostile_large_message_is_refused_and_others_go_on(server: Server) -> None:
    unlimited = [("grpc.max_send_message_length", -1)]
    target = f"127.0.0.1:{server.port}"
    async with channel(target, options=unlimited) as hostile, channel(target) as honest:
        attack = asyncio.ensure_future(
            call(EchoStub(hostile).Echo, bytes(64 * 1024 * 1024), timeout_s=30)
        )
        assert await call(EchoStub(honest).Echo, b"hello", timeout_s=30) == b"hello"
        with pytest.raises(errors.ResourceExhaustedError) as caught:
            await attack
    assert caught.value.reason == "MESSAGE_TOO_LARGE"


async def test_options_that_are_given_win_over_our_own(server: Server) -> None:
    target, options = f"127.0.0.1:{server.port}", [("grpc.max_send_message_length", 1000)]
    async with channel(target, options=options) as opened:
        assert await call(EchoStub(opened).Echo, bytes(1000), timeout_s=30) == bytes(1000)
        with pytest.raises(errors.ResourceExhaustedError) as caught:
            await call(EchoStub(opened).Echo, bytes(1001), timeout_s=30)
    assert caught.value.reason == "MESSAGE_TOO_LARGE"


async def test_own_client_refuses_to_send_a_large_message_without_retrying(stub: EchoStub) -> None:
    with pytest.raises(errors.ResourceExhaustedError) as caught:
        await call(stub.Echo, bytes(17 * 1024 * 1024), timeout_s=30)
    assert caught.value.reason == "MESSAGE_TOO_LARGE"


async def test_unknown_method_is_unimplemented(stub: EchoStub) -> None:
    with pytest.raises(errors.UnimplementedError):
        await call(stub.Missing, b"", timeout_s=10)


async def test_unary_call_without_deadline_gets_the_servers() -> None:
    async with (
        serving(EchoServicer(), ServerSettings(deadline_s=0.1)) as server,
        channel(f"127.0.0.1:{server.port}") as open_channel,
    ):
        with pytest.raises(grpc.RpcError) as caught:
            await EchoStub(open_channel).Wait(b"")
        assert from_rpc_error(caught.value).reason == "TIMED_OUT"


async def test_call_passes_its_deadline_on(stub: EchoStub) -> None:
    with pytest.raises(errors.DeadlineExceededError):
        await call(stub.Wait, b"", timeout_s=0.1)
    with pytest.raises(errors.DeadlineExceededError):
        await call(stub.Echo, b"", timeout_s=0.0)


async def test_wait_that_outlasts_the_deadline_keeps_the_last_answer(
    stub: EchoStub, servicer: EchoServicer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine a wait ends later than it was asked to."""

    def fail(message: bytes) -> None:
        raise errors.UnavailableError("AWAY", "away")

    servicer.fail = fail
    begin_s, over_s = time.monotonic(), 0.0

    async def overslept(delay_s: float) -> None:
        nonlocal over_s
        over_s = 11.0

    clock = SimpleNamespace(monotonic=lambda: begin_s + over_s)
    with monkeypatch.context() as patched:
        patched.setattr(rpc_channel, "time", clock)
        patched.setattr(rpc_channel, "asyncio", SimpleNamespace(sleep=overslept))
        with pytest.raises(errors.UnavailableError) as caught:
            await call(stub.Echo, b"", timeout_s=10.0, policy=FAST)
    assert caught.value.reason == "AWAY"


async def test_unavailable_is_retried_until_it_works(
    stub: EchoStub, servicer: EchoServicer
) -> None:
    failures = [errors.UnavailableError("AWAY", "away")] * 2

    def fail(message: bytes) -> None:
        if failures:
            raise failures.pop()

    servicer.fail = fail
    assert await call(stub.Echo, b"x", timeout_s=10, policy=FAST) == b"x"


async def test_calls_that_may_not_be_repeated_are_not(
    stub: EchoStub, servicer: EchoServicer
) -> None:
    calls = []

    def fail(message: bytes) -> None:
        calls.append(message)
        raise errors.UnavailableError("AWAY", "away")

    servicer.fail = fail
    with pytest.raises(errors.UnavailableError):
        await call(stub.Echo, b"x", timeout_s=10, policy=FAST, idempotent=False)
    assert len(calls) == 1
    with pytest.raises(errors.UnavailableError):
        await call(stub.Echo, b"x", timeout_s=10, policy=FAST)
    assert len(calls) == 1 + FAST.attempts


async def test_retry_info_beyond_the_deadline_ends_the_call_at_once(
    stub: EchoStub, servicer: EchoServicer
) -> None:
    servicer.fail = raising(errors.ResourceExhaustedError("FULL", "full", retry_delay_s=3600.0))
    async with asyncio.timeout(5):
        with pytest.raises(errors.ResourceExhaustedError):
            await call(stub.Echo, b"!", timeout_s=60)


async def test_call_finds_a_server_that_comes_up_late() -> None:
    """A restarted neighbour is found again within the retries of one call."""
    async with serving(EchoServicer()) as first:
        port = first.port
    async with channel(f"127.0.0.1:{port}") as open_channel:
        patient = RetryPolicy(attempts=200, base_s=0.02, cap_s=0.05)
        waiting = asyncio.ensure_future(
            call(EchoStub(open_channel).Echo, b"x", timeout_s=30, policy=patient)
        )
        with pytest.raises(errors.UnavailableError):
            await call(EchoStub(open_channel).Echo, b"x", timeout_s=30, idempotent=False)
        async with serving(EchoServicer(), ServerSettings(port=port)):
            assert await waiting == b"x"


async def test_permission_denied_further_in_is_not_passed_off_as_the_callers(
    stub: EchoStub, servicer: EchoServicer
) -> None:
    """If our own credentials fail at a neighbour, the caller in front cannot help it."""
    servicer.fail = raising(errors.PermissionDeniedError("NO", "no"))
    with pytest.raises(errors.PermissionDeniedError) as caught:
        await call(stub.Echo, b"!", timeout_s=10)
    servicer.fail = raising(caught.value)
    with pytest.raises(errors.InternalError):
        await call(stub.Echo, b"!", timeout_s=10)


async def test_generator_is_closed_when_the_caller_leaves(
    stub: EchoStub, servicer: EchoServicer
) -> None:
    opened = stub.Split(bytes(100_000), timeout=30)
    await opened.read()
    opened.cancel()
    async with asyncio.timeout(10):
        await servicer.stream_closed.wait()


async def test_bidirectional_stream_keeps_order_and_half_close(stub: EchoStub) -> None:
    sent = [json.dumps(n).encode() for n in range(2000)]
    got = [message async for message in stub.Chat(ask(*sent), timeout=30)]
    assert got == sent


def test_a_dead_connection_is_given_up_as_fast_as_keepalive_says() -> None:
    """The library waits for a ping's answer by another option, whose default is a minute."""
    options = dict(rpc_channel.CHANNEL_OPTIONS)
    assert options["grpc.http2.ping_timeout_ms"] <= options["grpc.keepalive_timeout_ms"]
