"""A store behind a proxy that is spoken to over TLS: TLS in TLS has the same bounds."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("boto3")

from provledger import s3
from provledger.boto_bounds import Bounds
from provledger.s3 import BucketURI, boto3_client, read_body
from tests.support.certs import CertificateAuthority

DATA = bytes(range(256)) * 400
LONG_S = 30.0
Send = Callable[[socket.socket, bytes], None]


def at_once(client: socket.socket, data: bytes) -> None:
    client.sendall(data)


def byte_by_byte(client: socket.socket, data: bytes) -> None:
    for place in range(len(data)):
        client.sendall(data[place : place + 1])
        time.sleep(0.05)


class Way:
    """A store and the proxy before it, both with TLS; what comes back is sent by `send`."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self.send: Send = at_once
        self._tls = tls
        self._listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        self.store, self.proxy = (each.getsockname()[1] for each in self._listeners)
        for listener, serve in zip(self._listeners, (self._answer, self._relay), strict=True):
            threading.Thread(target=self._accept, args=(listener, serve), daemon=True).start()

    def close(self) -> None:
        for listener in self._listeners:
            # Whoever accepts is told so, which closing does not do.
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _accept(self, listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
        def run(client: socket.socket) -> None:
            with suppress(OSError), self._tls.wrap_socket(client, server_side=True) as spoken:
                serve(spoken)

        with suppress(OSError):
            while True:
                threading.Thread(target=run, args=(listener.accept()[0],), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(DATA)
        while client.recv(65536):
            client.sendall(head + DATA)

    def _relay(self, client: socket.socket) -> None:
        client.recv(65536)
        with socket.create_connection(("127.0.0.1", self.store)) as store:
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            there = threading.Thread(target=_pump, args=(client, store, at_once), daemon=True)
            there.start()
            _pump(store, client, lambda sink, data: self.send(sink, data))  # noqa: PLW0108 - it changes


def _pump(source: socket.socket, sink: socket.socket, send: Send) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            send(sink, data)


@contextmanager
def clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Way, Any]]:
    """A store behind a proxy, and what makes clients of it with the bounds given."""
    files = CertificateAuthority(tmp_path / "ca").server()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(files.cert, files.key)
    way = Way(tls)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_CA_BUNDLE": str(files.ca),
        "SSL_CERT_FILE": str(files.ca),
        "HTTPS_PROXY": f"https://localhost:{way.proxy}",
        "NO_PROXY": "",
    }.items():
        monkeypatch.setenv(name, value)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    # Whatever the bounds are, the timeout of one call says nothing.
    monkeypatch.setattr(s3, "READ_TIMEOUT_S", 20)
    uri = BucketURI("b", "", f"https://localhost:{way.store}", "eu-central-1")
    try:
        yield way, lambda bounds: boto3_client(uri, bounds)
    finally:
        way.close()


def get(client: Any) -> bytes:
    return read_body(client.get_object(Bucket="b", Key="k"), 10**6)


def test_an_object_is_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with clients(tmp_path, monkeypatch) as (_, client_with):
        client = client_with(Bounds(LONG_S, max_bytes=len(DATA) + 1000))
        assert get(client) == DATA
        assert get(client) == DATA
        client.close()
        client = client_with(Bounds(LONG_S, max_bytes=len(DATA)))
        with pytest.raises(s3.lost_errors(), match="too long"):
            get(client)
        client.close()


@pytest.mark.parametrize("part", ["handshake", "answer"])
def test_what_comes_byte_by_byte_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    with clients(tmp_path, monkeypatch) as (way, client_with):
        client = client_with(Bounds(0.5))
        if part == "answer":
            assert get(client) == DATA
        way.send = byte_by_byte
        asked_s = time.monotonic()
        with pytest.raises(s3.lost_errors(), match=r"[Tt]imeout|timed out|too long"):
            get(client)
        assert time.monotonic() - asked_s < LONG_S / 2
        way.send = at_once
        assert get(client) == DATA
        client.close()
