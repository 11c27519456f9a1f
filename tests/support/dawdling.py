"""A server that answers without end, or never."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
Behave = Callable[[socket.socket, threading.Event], None]


def hear(client: socket.socket) -> None:
    """Receive a GET, or a POST of one byte; closing before that may take the answer back."""
    got, body = b"", b""
    while not body and (data := client.recv(65536)):
        got += data
        head, _, body = got.partition(b"\r\n\r\n")
        if head.startswith(b"GET") and head != got:
            return


@contextmanager
def serving(
    first: Behave, tls: ssl.SSLContext | None = None
) -> Iterator[tuple[int, threading.Event]]:
    """A server whose first connection is left to `first`; all others are answered, over TLS or not.

    Gives its port, and an event for when the first connection came to its end.
    """
    over, left = threading.Event(), threading.Event()

    def run() -> None:
        with listener:
            client, _ = listener.accept()
            with client, suppress(OSError):
                client.recv(65536)
                first(client, over)
            left.set()
            while not over.is_set():
                with suppress(OSError):
                    client, _ = listener.accept()
                    if tls is not None:
                        client = tls.wrap_socket(client, server_side=True)
                    with client:
                        hear(client)
                        client.sendall(ANSWER)

    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield port, left
    finally:
        over.set()
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        thread.join(timeout=10)


def interim(client: socket.socket, over: threading.Event) -> None:
    """One "100 Continue" after the other."""
    while not over.is_set():
        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


def interim_slowly(client: socket.socket, over: threading.Event) -> None:
    while not over.wait(0.02):
        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")


def header(client: socket.socket, over: threading.Event) -> None:
    """A header, byte by byte."""
    client.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    while not over.wait(0.02):
        client.sendall(b"a")


def body(client: socket.socket, over: threading.Event) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not over.wait(0.02):
        client.sendall(b"1\r\na\r\n")


def size_of_a_piece(client: socket.socket, over: threading.Event) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not over.wait(0.02):
        client.sendall(b"0")


def nothing(client: socket.socket, over: threading.Event) -> None:
    over.wait(30)


def trailers(client: socket.socket, over: threading.Event) -> None:
    """A whole body, and after it one header after the other."""
    client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n")
    while not over.wait(0.02):
        client.sendall(b"a: b\r\n")


WITHOUT_END = (interim, interim_slowly, header, body, size_of_a_piece, trailers, nothing)
