"""The notary as a client sees it: real sockets, a real database."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from notary_svc.__main__ import main
from notary_svc.app import serve
from notary_svc.config import Settings
from notary_svc.cosigning import MAX_BODY_BYTES, Cosigned, origin_id
from notary_svc.signing import Cosigner
from notary_svc.storage.memory import MemoryStorage
from notary_svc.web import Notary
from provledger import note
from provledger.settings import ConfigError
from tests.support.notary import NOTARY, ORIGIN, TinyLog, call, running_notary

LOG = TinyLog()


async def test_cosigns_what_grows_and_remembers_over_restarts(tmp_path: Path) -> None:
    monitoring = f"/{origin_id(ORIGIN)}/checkpoint"
    async with running_notary(tmp_path, [LOG]) as address:
        vkeys = Cosigner.open(NOTARY, tmp_path / "data").vkeys
        assert (await call(address, "GET", monitoring))[0] == 404
        status, _, lines = await call(address, "POST", "/add-checkpoint", LOG.request(0, 5))
        assert status == 200
        note.open(LOG.checkpoint(5) + lines, vkeys)
    async with running_notary(tmp_path, [LOG]) as address:
        status, media_type, body = await call(address, "POST", "/add-checkpoint", LOG.request(0, 9))
        assert (status, media_type, body) == (409, "text/x.tlog.size", b"5\n")
        status, _, lines = await call(address, "POST", "/add-checkpoint", LOG.request(5, 9))
        assert status == 200
        status, _, latest = await call(address, "GET", monitoring)
        assert (status, latest) == (200, LOG.checkpoint(9) + lines)
        assert (await call(address, "GET", "/healthz"))[0] == 200


async def test_statuses_over_http(tmp_path: Path) -> None:
    async with running_notary(tmp_path, [LOG]) as address:

        async def status(body: bytes) -> int:
            return (await call(address, "POST", "/add-checkpoint", body))[0]

        assert await status(b"hello") == 400
        assert await status(TinyLog("log.test/two").request(0, 1)) == 404
        assert await status(TinyLog(seed="stranger").request(0, 1)) == 403
        assert await status(LOG.request(0, 7)) == 200
        assert await status(LOG.request(3, 9)) == 409
        assert await status(TinyLog(fork_at=2).request(7, 9)) == 422
        assert (await call(address, "GET", "/add-checkpoint"))[0] == 405
        # The server may close before we have sent it all, which also ends the attempt.
        try:
            assert await status(b"x" * (MAX_BODY_BYTES + 1)) == 413
        except ConnectionError:
            pass


class Untouched(MemoryStorage):
    """A storage that is asked for no checkpoint."""

    async def latest(self, origin_id: str) -> Cosigned | None:
        pytest.fail(f"asked for {origin_id!r}")


@pytest.mark.parametrize(
    "path",
    ["/\0/checkpoint", "/aa/checkpoint", f"/{'A' * 64}/checkpoint", f"/{'a' * 64}\n/checkpoint"],
)
async def test_what_is_no_hash_is_looked_for_nowhere(path: str) -> None:
    """A database may not take any text: PostgreSQL none with a NUL."""
    assert await _status(Untouched(), path) == 404


async def test_nobody_is_sent_to_a_host_that_he_names() -> None:
    assert await _status(MemoryStorage(), "/healthz/") == 404


async def _status(storage: MemoryStorage, path: str) -> int:
    """Status of what a notary with that storage answers to GET."""
    app = Notary(Cosigner(NOTARY, []), {}, storage, clock=lambda: 0).app()
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        sent.append(message)

    host = (b"host", b"elsewhere.test")
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": [host]}
    await app(scope, receive, send)
    return int(sent[0]["status"])


async def test_of_two_histories_at_once_one_is_cosigned(tmp_path: Path) -> None:
    fork = TinyLog(fork_at=2)
    async with running_notary(tmp_path, [LOG]) as address:
        answers = await asyncio.gather(
            *(
                call(address, "POST", "/add-checkpoint", log.request(0, 7))
                for log in [LOG, fork] * 5
            )
        )
    assert sorted(answer[0] for answer in answers).count(200) == 1


async def test_a_head_without_end_is_refused_and_not_kept(tmp_path: Path) -> None:
    """Before it is a request nothing else bounds it, and the whole of it would be in memory."""

    def send(address: str) -> bytes:
        host, port = address.split(":")
        with socket.create_connection((host, int(port)), timeout=20) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nA: ")
            with contextlib.suppress(ConnectionError):
                for _ in range(64):
                    client.sendall(b"a" * 16_384)
            client.settimeout(5)
            return client.recv(100)

    async with running_notary(tmp_path, [LOG]) as address:
        assert (await asyncio.to_thread(send, address)).startswith(b"HTTP/1.1 400 ")
        assert (await call(address, "GET", "/healthz"))[0] == 200


async def test_half_requests_shut_nobody_out(tmp_path: Path) -> None:
    """As many as there may be connections, all of them silent after their first line."""
    async with running_notary(
        tmp_path, [LOG], max_connections=3, header_timeout_s=0.2, request_timeout_s=0.2
    ) as address:
        host, port = address.split(":")
        silent = [await asyncio.open_connection(host, int(port)) for _ in range(3)]
        begun = b"POST /add-checkpoint HTTP/1.1\r\nHost: x\r\n"
        for (_, writer), sent in zip(
            silent, [b"", begun, begun + b"Content-Length: 9\r\n\r\n"], strict=True
        ):
            writer.write(sent)
        async with asyncio.timeout(10):
            for reader, writer in silent:
                with contextlib.suppress(ConnectionError):
                    await reader.read()
                writer.close()
        assert (await call(address, "GET", "/healthz"))[0] == 200


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"host": "0.0.0.0"}, "without TLS"),
        ({"tls_cert": Path("x.pem")}, "tls_key"),
        ({"logs": Path("missing")}, "missing"),
        ({"name": "has space"}, "name"),
    ],
)
async def test_refuses_to_start(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    policy = tmp_path / "logs"
    policy.write_text(f"log {LOG.vkey}\nquorum none\n")
    values: dict[str, object] = {"name": NOTARY, "data_dir": tmp_path / "data", "logs": policy}
    with pytest.raises(ConfigError, match=message):
        await serve(Settings(**(values | changes)), stop=asyncio.Event())  # type: ignore[arg-type]


@pytest.mark.parametrize("asked", ["1", "maybe"])
@pytest.mark.parametrize("arguments", [[], ["--vkeys"]])
def test_refuses_fips_mode_which_it_does_not_have(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    asked: str,
    arguments: list[str],
) -> None:
    monkeypatch.setenv("PROVLEDGER_FIPS", asked)
    monkeypatch.setenv("PROVLEDGER_NOTARY_NAME", NOTARY)
    monkeypatch.setenv("PROVLEDGER_NOTARY_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("PROVLEDGER_NOTARY_LOGS", str(tmp_path / "missing"))
    assert main(arguments) == 2
    assert "FIPS" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


class Command:
    """`provledger notary` as a process, ready to serve; whatever is left of it ends with the block.

    `half_sent` is a request of which the notary waits for the rest.
    """

    def __init__(self, directory: Path) -> None:
        (directory / "logs.policy").write_text(f"log {LOG.vkey}\nquorum none\n")
        self._ready = directory / "ready"
        options = {"name": NOTARY, "data-dir": directory / "data", "port": 0}
        options["logs"] = directory / "logs.policy"
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "provledger_cli", "notary"),
                *(part for name, value in options.items() for part in (f"--{name}", str(value))),
            ],
            env={**os.environ, "PROVLEDGER_NOTARY_READY_FILE": str(self._ready)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def __enter__(self) -> Command:
        self._until(self._ready.exists)
        port = json.loads(self._ready.read_text())["port"]
        body = LOG.request(0, 5)
        head = f"POST /add-checkpoint HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        self.half_sent = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.half_sent.sendall(head.encode() + body[:10])
        self.rest = body[10:]
        # Connections are taken in order: behind this answer, the one above is known.
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=20) as answer:
            assert answer.status == 200
        return self

    def __exit__(self, *_: object) -> None:
        self.half_sent.close()
        self.process.kill()
        self.process.communicate(timeout=30)

    def drain(self) -> None:
        """Tell it to end, and return when it drains."""
        self.process.terminate()
        self._until(lambda: not self._ready.exists())

    def _until(self, condition: Callable[[], bool]) -> None:
        end_s = time.monotonic() + 60
        while not condition():
            assert self.process.poll() is None, self.process.communicate()[1].decode()
            assert time.monotonic() < end_s
            time.sleep(0.01)


def test_the_command_answers_what_is_in_flight_and_exits_with_0(tmp_path: Path) -> None:
    with Command(tmp_path) as notary:
        notary.drain()
        notary.half_sent.sendall(notary.rest)
        answer = http.client.HTTPResponse(notary.half_sent)
        answer.begin()
        assert answer.status == 200
        note.open(LOG.checkpoint(5) + answer.read(), Cosigner.open(NOTARY, tmp_path / "data").vkeys)
        assert notary.process.wait(timeout=60) == 0


def test_a_second_signal_ends_the_wait(tmp_path: Path) -> None:
    with Command(tmp_path) as notary:
        notary.drain()
        notary.process.send_signal(signal.SIGINT)
        assert notary.process.wait(timeout=60) == 0
        log = notary.process.stderr
        assert log is not None
        assert b"server.draining" in log.read()
