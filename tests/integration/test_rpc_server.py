"""Health, drain, signals, lifeline and readiness; processes where a process is the point."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from provledger import errors
from provledger.rpc.channel import call, channel
from provledger.rpc.errors import from_rpc_error
from provledger.rpc.server import App, Server, ServerSettings, serve
from provledger.settings import ConfigError
from tests.support.echo import SERVICE, EchoServicer, EchoStub, add_echo, serving

pytestmark = pytest.mark.usefixtures("either_server")

REPO = Path(__file__).resolve().parents[2]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def health(port: int, service: str) -> Any:
    async with channel(f"127.0.0.1:{port}") as open_channel:
        stub: Any = health_pb2_grpc.HealthStub(open_channel)
        request = health_pb2.HealthCheckRequest(service=service)
        return (await stub.Check(request, timeout=10)).status


async def test_health_knows_the_server_and_each_service() -> None:
    async with serving(EchoServicer()) as server:
        assert await health(server.port, "") == SERVING
        assert await health(server.port, SERVICE) == SERVING
        with pytest.raises(grpc.RpcError) as caught:
            await health(server.port, "no.such.Service")
        assert from_rpc_error(caught.value).code == "NOT_FOUND"
        server.not_serving()
        assert await health(server.port, "") == NOT_SERVING
        assert await health(server.port, SERVICE) == NOT_SERVING


@pytest.mark.parametrize(("theirs", "ours"), [(1, 1), (1, 4), (4, 1), (4, 4)])
async def test_taken_port_is_refused(theirs: int, ours: int) -> None:
    """Even where each of them would share it with itself."""
    async with serving(EchoServicer(), ServerSettings(listeners=theirs)) as server:
        with pytest.raises(ConfigError, match="cannot listen"):
            await Server(ServerSettings(port=server.port, listeners=ours)).start()


async def until_refused(stub: EchoStub) -> None:
    """Until the listener is closed, a call may still slip in; grpc.aio tells it nothing then."""
    while True:
        with suppress(errors.DeadlineExceededError):
            await call(stub.Echo, b"", timeout_s=2, idempotent=False)


async def test_drain_finishes_calls_in_flight_and_refuses_new_ones() -> None:
    servicer = EchoServicer()
    async with (
        serving(servicer) as server,
        channel(f"127.0.0.1:{server.port}") as open_channel,
    ):
        stub = EchoStub(open_channel)
        in_flight = asyncio.ensure_future(call(stub.Wait, b"", timeout_s=30))
        await servicer.waiting.wait()
        draining = asyncio.ensure_future(server.drain(20.0))
        async with channel(f"127.0.0.1:{server.port}") as late_channel:
            late = EchoStub(late_channel)
            with pytest.raises(errors.UnavailableError):
                await until_refused(late)
        servicer.gate.set()
        assert await in_flight == b"done"
        async with asyncio.timeout(10):
            await draining


async def test_drain_ends_watches_at_once_with_a_reason_to_come_back() -> None:
    servicer = EchoServicer()
    async with (
        serving(servicer) as server,
        channel(f"127.0.0.1:{server.port}") as open_channel,
    ):
        watch = EchoStub(open_channel).Watch(b"", timeout=60)
        assert await watch.read() == b"first"
        async with asyncio.timeout(10):
            await server.drain(60.0)
            with pytest.raises(grpc.RpcError) as caught:
                await watch.read()
    error = from_rpc_error(caught.value)
    assert (error.code, error.reason) == ("UNAVAILABLE", "SERVER_DRAINING")


async def test_call_cut_off_by_the_end_of_the_grace_period_may_be_retried() -> None:
    servicer = EchoServicer()
    async with (
        serving(servicer) as server,
        channel(f"127.0.0.1:{server.port}") as open_channel,
    ):
        in_flight = asyncio.ensure_future(
            call(EchoStub(open_channel).Wait, b"", timeout_s=30, idempotent=False)
        )
        await servicer.waiting.wait()
        await server.drain(0.01)
        with pytest.raises(errors.UnavailableError):
            await in_flight


async def test_serve_closes_the_app_and_reports_a_failed_background_task(tmp_path: Path) -> None:
    order: list[str] = []
    ready = tmp_path / "ready.json"

    async def fail() -> None:
        order.append("ready" if ready.exists() else "not ready")
        raise ZeroDivisionError

    async def on_drain() -> None:
        order.append("drain" if not ready.exists() else "still ready")

    async def close() -> None:
        order.append("close")

    app = App([(add_echo, EchoServicer())], background=[fail], on_drain=on_drain, close=close)
    with pytest.raises(ZeroDivisionError):
        await serve(app, ServerSettings(ready_file=ready), stop=asyncio.Event())
    assert order == ["ready", "drain", "close"]


async def test_serve_closes_the_app_when_it_cannot_start() -> None:
    closed = asyncio.Event()

    async def close() -> None:
        closed.set()

    app = App([(add_echo, EchoServicer())], close=close)
    with pytest.raises(ConfigError):
        await serve(app, ServerSettings(host="192.0.2.1"), stop=asyncio.Event())
    assert closed.is_set()


class Process:
    """`python -m tests.support.echo` with a ready file and, if asked for, a lifeline."""

    def __init__(self, directory: Path, *, lifeline: bool = False, **env: str) -> None:
        self.ready = directory / "ready.json"
        read_end, self.write_end = os.pipe()
        arguments = ["--lifeline-fd", str(read_end)] if lifeline else []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.echo", *arguments],
            cwd=REPO,
            env={**os.environ, "PROVLEDGER_ECHO_READY_FILE": str(self.ready), **env},
            pass_fds=(read_end,) if lifeline else (),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.close(read_end)

    def port(self) -> int:
        self.until(self.ready.exists)
        document = json.loads(self.ready.read_text())
        assert document["pid"] == self.process.pid
        port: int = document["port"]
        return port

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def end(self) -> tuple[int, str, list[dict[str, Any]]]:
        """Exit status, stdout, and stderr as the JSON lines it must consist of."""
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, [json.loads(line) for line in err.splitlines()]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def start_one(**options: Any) -> Process:
        started.append(Process(tmp_path, **options))
        return started[-1]

    yield start_one
    for item in started:
        item.process.kill()
        item.process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_drains_and_exits_cleanly(
    start: Callable[..., Process], number: signal.Signals
) -> None:
    process = start()
    assert await health(process.port(), "") == SERVING
    process.process.send_signal(number)
    status, out, lines = process.end()
    assert (status, out) == (0, "closed\n")
    assert [line["event"] for line in lines] == ["server.ready", "server.draining"]
    assert {line["service"] for line in lines} == {"echo"}
    assert not process.ready.exists()


async def test_second_signal_ends_the_grace_period(start: Callable[..., Process]) -> None:
    process = start(PROVLEDGER_ECHO_GRACE_S="600")
    async with channel(f"127.0.0.1:{process.port()}") as open_channel:
        chat = EchoStub(open_channel).Chat(timeout=60)
        await chat.write(b"in flight")
        assert await chat.read() == b"in flight"
        process.process.send_signal(signal.SIGTERM)
        process.until(lambda: not process.ready.exists())
        assert process.process.poll() is None
        await chat.write(b"still answered")
        assert await chat.read() == b"still answered"
        process.process.send_signal(signal.SIGTERM)
        assert (await asyncio.to_thread(process.end))[0] == 0
        with pytest.raises(grpc.RpcError) as caught:
            await chat.read()
    assert from_rpc_error(caught.value).code == "UNAVAILABLE"


def test_end_of_the_lifeline_drains(start: Callable[..., Process]) -> None:
    process = start(lifeline=True)
    process.port()
    os.write(process.write_end, b"still here")
    os.close(process.write_end)
    status, _, lines = process.end()
    assert status == 0
    assert "server.lifeline_ended" in [line["event"] for line in lines]


def test_restart_replaces_a_stale_ready_file(start: Callable[..., Process], tmp_path: Path) -> None:
    (tmp_path / "ready.json").write_text('{"port": 1, "pid": 1}')
    process = start()
    process.until(
        lambda: (
            process.ready.exists()
            and json.loads(process.ready.read_text())["pid"] == process.process.pid
        )
    )


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"PROVLEDGER_ECHO_HOST": "0.0.0.0"}, "without TLS"),
        ({"PROVLEDGER_ECHO_PORTT": "1"}, "PROVLEDGER_ECHO_PORTT: unknown setting"),
        ({"PROVLEDGER_ECHO_PORT": "x"}, "PROVLEDGER_ECHO_PORT: must be an integer"),
        ({"PROVLEDGER_ECHO_GRACE_S": "3.25"}, "the settings say so"),
        ({"PROVLEDGER_LIFELINE_FD": "777"}, "lifeline descriptor 777 is not open"),
        ({"PROVLEDGER_OTEL": "maybe"}, "PROVLEDGER_OTEL: must be 1, 0 or console"),
        ({"PROVLEDGER_ECHO_READY_FILE": "/"}, "ready_file /: cannot be replaced"),
        ({"PROVLEDGER_ECHO_MAX_MESSAGE_BYTES": str(4 << 30)}, "must be at most"),
    ],
)
def test_unusable_settings_end_with_status_2_and_one_line(
    start: Callable[..., Process], env: dict[str, str], message: str
) -> None:
    process = start(**env)
    _, err = process.process.communicate(timeout=60)
    assert process.process.returncode == 2
    assert err.count("\n") == 1
    assert err.startswith("provledger echo: ")
    assert message in err


def test_failed_background_task_ends_the_process_with_status_1(
    start: Callable[..., Process],
) -> None:
    process = start(PROVLEDGER_ECHO_GRACE_S="2.25")
    status, out, lines = process.end()
    assert (status, out) == (1, "closed\n")
    failed = next(line for line in lines if line["event"] == "server.background_failed")
    assert failed["exception"][0] == "RuntimeError"
    assert "hidden detail" not in json.dumps(lines)
