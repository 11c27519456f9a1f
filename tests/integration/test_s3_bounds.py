"""A store that answers slowly, or without end: a request costs its time, and no more memory."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pytest

pytest.importorskip("boto3")

from anchor_svc.sinks import SinkError
from anchor_svc.sinks import s3 as sink
from anchor_svc.sinks.s3 import S3Sink
from provledger import s3
from provledger.boto_bounds import Bounds
from provledger.errors import UnavailableError
from provledger.retry import RetryPolicy
from provledger.s3 import Bucket, BucketURI, boto3_client, read_body
from tests.support.certs import CertificateAuthority
from tests.support.dawdling import WITHOUT_END, Behave, body, header, interim, nothing, serving

QUICK = RetryPolicy(attempts=4, base_s=0.001, cap_s=0.002, budget_s=1.0)
SHORT = Bounds(deadline_s=0.5, max_bytes=100_000)
LONG_S: Final = 30.0


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    # Whatever the bounds are, the timeout of one call says nothing.
    monkeypatch.setattr(s3, "READ_TIMEOUT_S", 20)


def place(port: int) -> BucketURI:
    return BucketURI("b", "p", f"http://127.0.0.1:{port}", "eu-central-1")


def bucket(port: int, bounds: Bounds = SHORT, **given: Any) -> Bucket:
    return Bucket(place(port), partial(boto3_client, bounds=bounds), retry=QUICK, **given)


def get(client: Any) -> bytes:
    return read_body(client.get_object(Bucket="b", Key="k"), 10**6)


@pytest.mark.parametrize("how", WITHOUT_END)
def test_an_answer_without_end_is_given_up_and_the_next_is_heard(how: Behave) -> None:
    with serving(how) as (port, left):
        client = boto3_client(place(port), SHORT)
        begun_s = time.monotonic()
        with pytest.raises(s3.lost_errors()):
            get(client)
        assert time.monotonic() - begun_s < LONG_S / 2
        if how is not nothing:
            # Its connection too, and nothing of it is left for the next request.
            assert left.wait(LONG_S)
            assert get(client) == b"ok"
        client.close()


@pytest.mark.parametrize("how", [header, body, interim])
def test_listings_and_writes_are_given_up_too(how: Behave) -> None:
    for ask in (
        lambda client: client.list_objects_v2(Bucket="b"),
        lambda client: client.put_object(Bucket="b", Key="k", Body=b"x" * 200_000),
    ):
        with serving(how) as (port, left):
            client = boto3_client(place(port), SHORT)
            with pytest.raises(s3.lost_errors()):
                ask(client)
            assert left.wait(LONG_S)
            client.close()


def test_a_store_that_takes_little_at_once_is_given_up() -> None:
    def sip(client: socket.socket, over: threading.Event) -> None:
        while not over.wait(0.05) and client.recv(65536):
            pass

    with serving(sip) as (port, _):
        client = boto3_client(place(port), Bounds(0.5, bytes_per_s=10**9))
        begun_s = time.monotonic()
        with pytest.raises(s3.lost_errors()):
            client.put_object(Bucket="b", Key="k", Body=bytes(32 * 1024 * 1024))
        # All of it would take 25 s.
        assert time.monotonic() - begun_s < 15
        client.close()


def test_over_tls_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = CertificateAuthority(tmp_path / "ca").issue("localhost")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(files.cert, files.key)
    over = threading.Event()
    given_up = threading.Event()

    def drip() -> None:
        with suppress(OSError), tls.wrap_socket(listener.accept()[0], server_side=True) as client:
            client.recv(65536)
            header(client, over)
        given_up.set()

    monkeypatch.setenv("AWS_CA_BUNDLE", str(files.ca))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        uri = BucketURI("b", "", f"https://localhost:{listener.getsockname()[1]}", "eu-central-1")
        client = boto3_client(uri, SHORT)
        with pytest.raises(s3.lost_errors(), match=r"[Tt]imeout|timed out|too long"):
            get(client)
        assert given_up.wait(LONG_S)
        client.close()
        over.set()
        thread.join()


def test_a_bucket_does_not_begin_again_what_took_all_its_time() -> None:
    asked: list[None] = []

    def drip(handler: BaseHTTPRequestHandler) -> None:
        asked.append(None)
        header(handler.connection, over)

    over = threading.Event()
    with answering(drip) as port:
        files = bucket(port, patience_s=0.4)
        for ask in (
            lambda: files.get("k", max_bytes=9),
            lambda: files.put_new("k", b"x"),
            lambda: list(files.keys("")),
        ):
            with pytest.raises(UnavailableError) as caught:
                ask()
            assert caught.value.reason == "STORAGE_UNAVAILABLE"
        assert len(asked) == 3
        files.close()
        over.set()


async def test_a_sink_whose_store_dawdled_once_is_asked_again() -> None:
    with serving(header) as (port, left):
        endpoint = f"http://127.0.0.1:{port}"
        place = S3Sink("s3://b", "b", "", lambda: sink._boto3_client(endpoint, "eu", SHORT))
        with pytest.raises(SinkError, match=r"[Tt]imeout|too long"):
            await place.check()
        assert left.wait(LONG_S)
        # Its one thread is free again; "ok" is nothing that S3 says.
        with pytest.raises(SinkError, match="500 from GetBucketVersioning"):
            await place.check()
        await place.close()


@contextmanager
def answering(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with suppress(OSError):
                answer(self)

        do_PUT = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def say(handler: BaseHTTPRequestHandler, data: bytes, status: int = 200) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(data)))
    handler.send_header("ETag", '"x"')
    handler.end_headers()
    handler.wfile.write(data)


@pytest.mark.parametrize("status", [200, 500])
def test_no_more_is_read_of_an_answer_than_there_may_be(status: int) -> None:
    """An object may be as large as who asks for it says, an error or a listing never."""
    pages = 0

    def flood(handler: BaseHTTPRequestHandler) -> None:
        nonlocal pages
        handler.close_connection = True
        handler.wfile.write(b"HTTP/1.1 %d X\r\nConnection: close\r\n\r\n<a>" % status)
        while True:
            handler.wfile.write(b"a" * 65536)
            pages += 1

    with answering(flood) as port:
        files = bucket(port, Bounds(LONG_S, max_bytes=1024 * 1024))
        begun_s = time.monotonic()
        with pytest.raises(UnavailableError):
            list(files.directories("logs/"))
        if status == 500:
            with pytest.raises(UnavailableError):
                files.get("k", max_bytes=64 * 1024 * 1024)
        assert time.monotonic() - begun_s < LONG_S
        # Four attempts at each of them, and what is in the buffers of sockets.
        assert pages * 65536 < 8 * 12 * 1024 * 1024
        files.close()


@pytest.mark.parametrize(
    ("token", "pages"),
    [("<NextContinuationToken>t</NextContinuationToken>", 2), ("", 1), (None, 5)],
)
def test_a_listing_that_goes_on_for_ever_is_given_up(
    monkeypatch: pytest.MonkeyPatch, token: str | None, pages: int
) -> None:
    """With the same page again and again, without a next one, or with another one each time."""
    monkeypatch.setattr(s3, "MAX_PAGES", 5)
    asked = 0

    def page(handler: BaseHTTPRequestHandler) -> None:
        nonlocal asked
        asked += 1
        following = f"<NextContinuationToken>{asked}</NextContinuationToken>"
        say(
            handler,
            b'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            b"<CommonPrefixes><Prefix>p/logs/a/</Prefix></CommonPrefixes>"
            b"<Contents><Key>p/logs/a</Key></Contents><IsTruncated>true</IsTruncated>"
            + (following if token is None else token).encode()
            + b"</ListBucketResult>",
        )

    with answering(page) as port:
        files = bucket(port, Bounds(LONG_S))
        for listing in (files.directories("logs/"), files.keys("logs/")):
            asked = 0
            with pytest.raises(UnavailableError, match="has no end") as caught:
                list(islice(listing, 500))
            assert caught.value.reason == "STORAGE_UNAVAILABLE"
            assert asked == pages
        files.close()


def test_objects_as_large_as_is_said_are_read() -> None:
    data = bytes(range(256)) * 4096
    with answering(lambda handler: say(handler, data)) as port:
        files = bucket(port, Bounds(LONG_S, max_bytes=10_000))
        for _ in range(2):
            found = files.get("k", max_bytes=len(data))
            assert found is not None
            assert found.data == data
            piece = files.get_piece("k", 0, 4096)
            assert piece is not None
            assert piece.data == data[:4096]
        files.close()


def test_what_moves_has_time_to_move() -> None:
    """A large object over a slow line: longer than the deadline, and on its way all the time."""
    data = bytes(60_000)

    def slowly(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        for _ in range(6):
            handler.wfile.write(data[:10_000])
            handler.wfile.flush()
            time.sleep(0.1)

    with answering(slowly) as port:
        client = boto3_client(place(port), Bounds(0.3, bytes_per_s=50_000))
        assert get(client) == data
        client.close()


HANGING = {
    "gateway": """
        from gateway_svc.bucket import BucketPlace

        async def main():
            place = BucketPlace(Bucket())
            asking = asyncio.ensure_future(place.checkpoint("0" * 32))
            await asyncio.to_thread(begun.wait)
            asking.cancel()
            await place.close()
    """,
    "anchor": """
        from contextlib import AsyncExitStack
        from anchor_svc.app import _tile_files

        async def main():
            async with AsyncExitStack() as undo:
                files = _tile_files(Bucket(), undo)(bytes(16))
                write = lambda: files.write([("checkpoint", b"x")])
                threading.Thread(target=write, daemon=True).start()
                await asyncio.to_thread(begun.wait)
    """,
}


@pytest.mark.parametrize("service", HANGING)
def test_a_process_ends_whatever_its_bucket_does(service: str) -> None:
    code = """
        import asyncio, threading

        begun = threading.Event()

        class Bucket:
            def get(self, *_, **__):
                begun.set()
                threading.Event().wait()

            put_new = get

            def close(self):
                pass
    {main}
        asyncio.run(main())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code.format(main=HANGING[service]))],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=LONG_S,
        check=False,
    )
    assert done.returncode == 0
