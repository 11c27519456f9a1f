"""Somebody else's server that answers without end, or never: it costs an attempt its time."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from anchor_svc.sinks import SinkError
from anchor_svc.sinks.http import Poster
from tests.support.certs import CertificateAuthority
from tests.support.dawdling import WITHOUT_END, Behave, header, nothing, serving


@pytest.mark.parametrize("how", WITHOUT_END)
async def test_an_answer_without_end_is_given_up_and_the_next_is_heard(how: Behave) -> None:
    with serving(how) as (port, left):
        poster = Poster(f"http://127.0.0.1:{port}/", timeout_s=0.5)
        try:
            async with asyncio.timeout(10):
                with pytest.raises(SinkError):
                    await poster.post(b"x", "text/plain")
                # Its connection too: nothing goes on reading in the background.
                assert how is nothing or await asyncio.to_thread(left.wait, 10)
                if how is not nothing:
                    assert (await poster.post(b"y", "text/plain")).body == b"ok"
        finally:
            poster.close()


async def test_a_handshake_without_end_is_given_up_too(tmp_path: Path) -> None:
    """And one that has an end is followed by an answer."""

    def handshake(client: socket.socket, over: threading.Event) -> None:
        client.sendall(b"\x16\x03\x03\x40\x00\x02")
        while not over.wait(0.02):
            client.sendall(b"\0")

    files = CertificateAuthority(tmp_path / "ca").issue("localhost")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(files.cert, files.key)
    with serving(handshake, tls) as (port, left):
        poster = Poster(f"https://localhost:{port}/", timeout_s=0.5)
        poster._context = ssl.create_default_context(cafile=str(files.ca))
        try:
            async with asyncio.timeout(10):
                with pytest.raises(SinkError):
                    await poster.post(b"x", "text/plain")
                assert await asyncio.to_thread(left.wait, 10)
            poster._timeout_s = 20
            assert (await poster.post(b"y", "text/plain")).body == b"ok"
        finally:
            poster.close()


async def test_an_attempt_that_was_given_up_holds_the_next_no_longer_than_its_time() -> None:
    with serving(header) as (port, _):
        poster = Poster(f"http://127.0.0.1:{port}/", timeout_s=0.5)
        try:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await poster.post(b"x", "text/plain")
            async with asyncio.timeout(10):
                assert (await poster.post(b"y", "text/plain")).body == b"ok"
        finally:
            poster.close()


def test_a_process_ends_whatever_a_server_does() -> None:
    """Long before the attempt's own time is over."""
    code = """
        import asyncio, sys
        from anchor_svc.sinks.http import Poster

        async def main():
            poster = Poster(f"http://127.0.0.1:{sys.argv[1]}/", timeout_s=600)
            attempt = asyncio.ensure_future(poster.post(b"x", "text/plain"))
            sys.stdout.write("asking\\n")
            sys.stdout.flush()
            await asyncio.to_thread(sys.stdin.readline)
            attempt.cancel()
            poster.close()

        asyncio.run(main())
    """
    asked = threading.Event()

    def hears(client: socket.socket, over: threading.Event) -> None:
        asked.set()
        over.wait(60)

    with serving(hears) as (port, _):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(port)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert asked.wait(60)
            process.communicate(b"\n", timeout=20)
            assert process.returncode == 0
        finally:
            process.kill()
            process.wait()


HANGING = {
    "directory": """
        from anchor_svc.sinks.file import FileSink
        sink = FileSink.from_uri("file:///nowhere")
        sink._newest = hang
        ask = lambda: sink.anchor(None)
    """,
    "bucket": """
        from anchor_svc.sinks.s3 import S3Sink
        sink = S3Sink("s3://audit", "audit", "", hang)
        ask = sink.check
    """,
}


@pytest.mark.parametrize("place", HANGING)
def test_a_process_ends_whatever_a_directory_or_a_bucket_does(place: str) -> None:
    """A mount whose server is gone, for instance, keeps a thread for good."""
    if place == "bucket":
        pytest.importorskip("botocore")
    code = """
        import asyncio, threading

        begun = threading.Event()

        def hang(*_, **__):
            begun.set()
            threading.Event().wait()
    {sink}
        async def main():
            attempt = asyncio.ensure_future(ask())
            await asyncio.to_thread(begun.wait)
            attempt.cancel()
            await sink.close()

        asyncio.run(main())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code.format(sink=HANGING[place]))],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=30,
        check=False,
    )
    assert done.returncode == 0


async def test_what_comes_instead_of_a_status_line_is_told_as_text() -> None:
    """It is shown to operators, on their terminal."""

    def evil(client: socket.socket, over: threading.Event) -> None:
        client.sendall(b"\x1b[2J\x1b[Hstate       up to date\r\n\r\n")

    with serving(evil) as (port, _):
        poster = Poster(f"http://127.0.0.1:{port}/", timeout_s=10.0)
        with pytest.raises(SinkError, match=r"\\x1b\[2J") as caught:
            await poster.post(b"x", "text/plain")
        poster.close()
    assert str(caught.value).isprintable()
