"""Certificates are renewed under running services and clients; nobody is started anew for it."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from provledger import renewal
from provledger.api.keys.v1 import keys_pb2, keys_pb2_grpc
from provledger.errors import UnavailableError
from provledger.http import server as http_server
from provledger.http.server import WebApp
from provledger.http.server import serve as serve_http
from provledger.http.settings import HTTPSettings
from provledger.keyring import KeyRing
from provledger.kms import Signer
from provledger.rpc import renewing, tls
from provledger.rpc.channel import call, channel
from provledger.rpc.listener import Server
from provledger.rpc.settings import ServerSettings
from provledger.rpc.tls import TLSSettings
from tests.support.certs import CertificateAuthority
from tests.support.echo import EchoServicer, EchoStub, serving

BOUND_S = 60.0


@pytest.fixture(autouse=True)
def _looked_at_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renewal, "LOOK_EVERY_S", 0.0)


class Files:
    """Where a process finds its certificate; `put` is what an issuer does."""

    def __init__(self, directory: Path, tls: TLSSettings) -> None:
        directory.mkdir()
        self.tls = TLSSettings(directory / "tls.crt", directory / "tls.key", directory / "ca.crt")
        self.put(tls)
        self.trust(tls.ca)

    def put(self, tls: TLSSettings, parts: Iterable[str] = ("cert", "key")) -> None:
        for part in parts:
            _replace(getattr(self.tls, part), getattr(tls, part).read_bytes())

    def trust(self, *authorities: Path) -> None:
        _replace(self.tls.ca, b"".join(path.read_bytes() for path in authorities))

    @property
    def settings(self) -> ServerSettings:
        return ServerSettings(tls_cert=self.tls.cert, tls_key=self.tls.key, tls_ca=self.tls.ca)


def _replace(path: Path, data: bytes) -> None:
    staged = path.with_suffix(".new")
    staged.write_bytes(data)
    os.replace(staged, path)


@pytest.fixture
def ca(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority(tmp_path / "ca")


@pytest.fixture
def ours(tmp_path: Path, ca: CertificateAuthority) -> Files:
    return Files(tmp_path / "ours", ca.server())


@pytest.fixture
def theirs(tmp_path: Path, ca: CertificateAuthority) -> Files:
    return Files(tmp_path / "theirs", ca.issue("before"))


def opened(server: Server, files: Files) -> grpc.aio.Channel:
    return channel(f"localhost:{server.port}", files.tls)


async def who(stub: EchoStub) -> bytes:
    answer: bytes = await call(stub.WhoAmI, b"", timeout_s=BOUND_S)
    return answer


async def until(name: bytes, stub: EchoStub) -> None:
    async with asyncio.timeout(BOUND_S):
        while await who(stub) != name:
            pass


async def test_a_client_shows_its_renewed_certificate(
    ca: CertificateAuthority, ours: Files, theirs: Files
) -> None:
    servicer = EchoServicer()
    async with serving(servicer, ours.settings) as server, opened(server, theirs) as connection:
        stub = EchoStub(connection)
        assert await who(stub) == b"before"
        waiting = asyncio.ensure_future(call(stub.Wait, b"", timeout_s=BOUND_S))
        watching, chatting = stub.Watch(b""), stub.Chat()
        assert await watching.read() == b"first"
        await servicer.waiting.wait()
        theirs.put(ca.issue("after"))
        await until(b"after", stub)
        # What is under way goes on where it began.
        await chatting.write(b"x")
        assert await chatting.read() == b"x"
        servicer.gate.set()
        assert await waiting == b"done"
        assert await watching.read() is grpc.aio.EOF
        await chatting.done_writing()
        assert await chatting.read() is grpc.aio.EOF


class WatchedKeys(keys_pb2_grpc.KeysServiceServicer):
    """Says once in each watch that there are no keys, and nothing more."""

    def __init__(self) -> None:
        self.watches = 0

    async def WatchKeys(
        self, request: keys_pb2.WatchKeysRequest, context: object
    ) -> AsyncIterator[keys_pb2.WatchKeysResponse]:
        self.watches += 1
        yield keys_pb2.WatchKeysResponse(revision=1, lease_ms=600_000)
        await asyncio.Event().wait()


async def test_keys_are_watched_on_where_the_channel_is_closed_under_the_watch(
    ca: CertificateAuthority, ours: Files, theirs: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where our clock is ahead of the keys service's, which has not ended the watch yet."""
    monkeypatch.setattr(renewing, "_GOES_ON_S", -1e9)
    servicer = WatchedKeys()  # type: ignore[abstract]
    server = Server(ours.settings)
    server.add(keys_pb2_grpc.add_KeysServiceServicer_to_server, servicer)
    await server.start()
    ring = KeyRing(f"localhost:{server.port}", [], no_signer, tls=theirs.tls)
    await ring.start()
    try:
        for renewal in range(3):
            async with asyncio.timeout(BOUND_S):
                while servicer.watches <= renewal:
                    assert ring._channel is not None
                    ring._channel.get_state()
                    await asyncio.sleep(0.01)
            theirs.put(ca.issue(f"renewed-{renewal}"))
    finally:
        await ring.close()
        await server.drain(0)


async def no_signer(uri: str) -> Signer:
    raise AssertionError(f"{uri} is not to be opened")


@pytest.mark.parametrize("renewals", [0, 1, 3])
async def test_closing_ends_calls_of_before_a_renewal_too(
    ca: CertificateAuthority, ours: Files, theirs: Files, renewals: int
) -> None:
    servicer = EchoServicer()
    async with serving(servicer, ours.settings) as server:
        connection = opened(server, theirs)
        stub = EchoStub(connection)
        chatting, watching = stub.Chat(), stub.Watch(b"")
        assert await watching.read() == b"first"
        waiting = stub.Wait(b"", timeout=BOUND_S)
        await servicer.waiting.wait()
        for number in range(renewals):
            theirs.put(ca.issue(f"renewed-{number}"))
            await until(f"renewed-{number}".encode(), stub)
        async with asyncio.timeout(BOUND_S / 4):
            await connection.close()
            for call_ in (waiting, watching, chatting):
                assert await call_.code() is grpc.StatusCode.CANCELLED


async def test_a_server_shows_its_renewed_certificate(
    ca: CertificateAuthority, ours: Files, theirs: Files
) -> None:
    async with serving(EchoServicer(), ours.settings) as server:
        before = await asyncio.to_thread(shown, server.port, theirs.tls)
        ours.put(ca.server("renewed"))
        after = await asyncio.to_thread(shown, server.port, theirs.tls)
    assert [name_of(each) for each in (before, after)] == ["server", "renewed"]


async def test_half_a_certificate_is_not_shown(
    ca: CertificateAuthority, ours: Files, theirs: Files
) -> None:
    renewed, issued = ca.server("renewed"), ca.issue("after")
    async with serving(EchoServicer(), ours.settings) as server, opened(server, theirs) as kept:
        assert await who(EchoStub(kept)) == b"before"
        ours.put(renewed, ["cert"])
        theirs.put(issued, ["key"])
        async with opened(server, Files(ours.tls.cert.parent / "x", ca.issue("another"))) as fresh:
            assert await who(EchoStub(fresh)) == b"another"
        assert await who(EchoStub(kept)) == b"before"
        assert name_of(await asyncio.to_thread(shown, server.port, ca.issue("x"))) == "server"
        ours.put(renewed, ["key"])
        theirs.put(issued, ["cert"])
        await until(b"after", EchoStub(kept))
        assert name_of(await asyncio.to_thread(shown, server.port, theirs.tls)) == "renewed"


async def test_a_certificate_that_servers_do_not_accept_yet_costs_nothing(
    ca: CertificateAuthority, ours: Files, theirs: Files, tmp_path: Path
) -> None:
    other = CertificateAuthority(tmp_path / "other", "other")
    async with serving(EchoServicer(), ours.settings) as server, opened(server, theirs) as kept:
        stub = EchoStub(kept)
        assert await who(stub) == b"before"
        theirs.put(other.issue("after"))
        for _ in range(20):
            assert await stub.WhoAmI(b"", timeout=BOUND_S) == b"before"
        ours.trust(ca.path, other.path)
        await until(b"after", stub)


async def test_a_whole_authority_is_replaced_and_no_call_fails(
    ca: CertificateAuthority, ours: Files, theirs: Files, tmp_path: Path
) -> None:
    """In the order of the documents: trust in both, then certificates, then no more in the old."""
    new = CertificateAuthority(tmp_path / "new", "new")
    done = False
    servicer = EchoServicer()
    async with serving(servicer, ours.settings) as server, opened(server, theirs) as connection:
        stub = EchoStub(connection)

        async def call_on() -> None:
            while not done:
                assert await stub.Echo(b"x", timeout=BOUND_S) == b"x"

        async def another_connection() -> None:
            seen = len(servicer.peers)
            async with asyncio.timeout(BOUND_S):
                while len(servicer.peers) == seen:
                    await who(stub)

        callers = [asyncio.ensure_future(call_on()) for _ in range(4)]
        await another_connection()
        ours.trust(ca.path, new.path)
        theirs.trust(ca.path, new.path)
        await another_connection()
        ours.put(new.server())
        theirs.put(new.issue("after"))
        await until(b"after", stub)
        ours.trust(new.path)
        theirs.trust(new.path)
        await another_connection()
        done = True
        await asyncio.gather(*callers)
        old = ca.issue("old")
        refused = channel(f"localhost:{server.port}", TLSSettings(old.cert, old.key, new.path))
        async with refused as connection:
            with pytest.raises(UnavailableError):
                await call(EchoStub(connection).WhoAmI, b"", timeout_s=BOUND_S, idempotent=False)


async def test_browsers_see_the_renewed_certificate(
    ca: CertificateAuthority, ours: Files, theirs: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
    ends: list[float] = []
    monkeypatch.setattr(http_server, "show_end", lambda by, ends_s: ends.append(ends_s))
    config = HTTPSettings(tls_cert=ours.tls.cert, tls_key=ours.tls.key)
    task = asyncio.ensure_future(
        serve_http(WebApp(None), config, stop=stop, on_ready=ready.set_result)
    )
    try:
        async with asyncio.timeout(BOUND_S):
            port = await ready
            names = []
            renewed = ca.server("renewed")
            for parts in ((), ("cert",), ("key",)):
                ours.put(renewed, parts)
                names.append(name_of(await asyncio.to_thread(shown, port, theirs.tls)))
    finally:
        stop.set()
        await task
    assert names == ["server", "server", "renewed"]
    assert (len(ends), ends[-1]) == (2, tls.end_of(ours.tls.cert))


def shown(port: int, tls: TLSSettings) -> bytes:
    """The certificate that a server shows to a new connection, as DER."""
    context = ssl.create_default_context(cafile=tls.ca)
    context.check_hostname = False
    context.load_cert_chain(tls.cert, tls.key)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=BOUND_S) as connection,
        context.wrap_socket(connection) as secured,
    ):
        der = secured.getpeercert(binary_form=True)
    assert der is not None
    return der


def name_of(der: bytes) -> str:
    subject = x509.load_der_x509_certificate(der).subject
    return str(subject.rdns[0].rfc4514_string()).removeprefix("CN=")
