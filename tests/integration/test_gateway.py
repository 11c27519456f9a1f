"""The public read path: a real log's tiles over real HTTP, and what must not be seen there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from anchor_svc.openlog import OpenLog
from anchor_svc.tree import TILE_WIDTH
from gateway_svc.config import Settings
from gateway_svc.jwks import Jwks
from provledger import checkpoint as checkpoints
from provledger import merkle, telemetry, tiles
from provledger.errors import UnavailableError
from provledger.http.server import check_tls
from provledger.s3 import Bucket
from provledger.settings import ConfigError
from tests.support import peers
from tests.support.anchoring import (
    Ledger,
    TestKeys,
    eventually,
    log_vkey,
    read_entries,
    submit,
)
from tests.support.certs import CertificateAuthority
from tests.support.gateway import Running, filled_log, gateway_at, running_gateway, tile_bucket

SIZE = 601


EVERYWHERE = pytest.mark.parametrize("place", ["directory", "bucket", "anchor"], indirect=True)
"""Where the gateway reads from; without this mark, the anchor's directory."""


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    with peers.moto_store() as url:
        yield url


@pytest.fixture
def place(request: pytest.FixtureRequest) -> str:
    return str(getattr(request, "param", "directory"))


@pytest.fixture
def bucket(
    place: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bucket | None]:
    if place != "bucket":
        yield None
        return
    with tile_bucket(request.getfixturevalue("store"), monkeypatch) as made:
        yield made


@pytest.fixture
async def log(tmp_path: Path, bucket: Bucket | None) -> AsyncIterator[OpenLog]:
    async with filled_log(tmp_path, SIZE, bucket) as opened:
        yield opened


@pytest.fixture
async def gateway(log: OpenLog, place: str, bucket: Bucket | None) -> AsyncIterator[Running]:
    async with gateway_at(place, log, bucket) as running:
        yield running


def below(log: OpenLog, path: str) -> str:
    return f"/{log.identity.uid.hex()}/{path}"


@EVERYWHERE
async def test_the_whole_tree_can_be_read_and_checked(log: OpenLog, gateway: Running) -> None:
    answer = await gateway.call(below(log, "checkpoint"))
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["cache-control"] == "public, max-age=1"
    head, _ = checkpoints.open_checkpoint(answer.body, [log_vkey(log)], log.identity.origin)
    assert head.size == SIZE

    entries: list[bytes] = []
    hashes: list[bytes] = []
    for tile in tiles.tiles_for_size(SIZE):
        got = await gateway.call(below(log, tiles.tile_path(tile.level, tile.index, tile.width)))
        assert (got.status, got.headers["content-type"]) == (200, "application/octet-stream")
        assert got.headers["cache-control"] == "public, max-age=31536000, immutable"
        if tile.level == 0:
            hashes += tiles.parse_tile(got.body, tile.width)
            bundle = await gateway.call(below(log, tiles.entries_path(tile.index, tile.width)))
            entries += tiles.decode_bundle(bundle.body)
        else:
            full = hashes[: tile.width * TILE_WIDTH]
            roots = [
                merkle.root_of_hashes(full[at : at + TILE_WIDTH])
                for at in range(0, len(full), TILE_WIDTH)
            ]
            assert tiles.parse_tile(got.body, tile.width) == roots
    assert merkle.leaf_hashes(entries) == hashes
    assert merkle.root_of_hashes(hashes) == head.root
    assert entries == read_entries(log)


@EVERYWHERE
async def test_only_what_is_published_is_seen(log: OpenLog, gateway: Running) -> None:
    """Full tiles lie on the disk before their checkpoint is published, and partial ones too."""
    ledger = Ledger("second")
    ledger.grow(400)
    await submit(log, ledger)
    assert log.state.signed_size == SIZE + 400
    hidden = [
        tiles.tile_path(0, 2),
        tiles.entries_path(2),
        tiles.tile_path(0, 3, (SIZE + 400) % TILE_WIDTH),
    ]
    view = log.state.signed_view()
    # As the publisher does it, killed before the checkpoint is in place.
    hash_tiles = [(0, 3, [view.tile(0, 3).node(0, place) for place in range(233)])]
    log.store.write_partials(hash_tiles, [], view.size)
    for path in hidden:
        assert log.store.read_file(tiles.parse_path(path)) is not None
        answer = await gateway.call(below(log, path))
        assert answer.status == 404
        assert json.loads(answer.body)["reason"] == "TILE_NOT_PUBLISHED"
        # An answer that says "not yet" must not be kept.
        assert answer.headers["cache-control"] == "no-store"
    await log.publisher.publish(view)
    for path in hidden:
        assert (await gateway.call(below(log, path))).status == 200
    head = await gateway.call(below(log, "checkpoint"))
    assert checkpoints.open_checkpoint(head.body, [log_vkey(log)])[0].size == SIZE + 400


@EVERYWHERE
async def test_partial_tiles_are_those_of_published_sizes(log: OpenLog, gateway: Running) -> None:
    async def status(path: str) -> int:
        return (await gateway.call(below(log, path))).status

    assert await status(tiles.tile_path(0, 2, SIZE % TILE_WIDTH)) == 200
    # Covered, but no checkpoint of that size was ever published.
    assert await status(tiles.tile_path(0, 2, 50)) == 404
    # Published at size 101; by now the full tile is there, which readers fall back to.
    assert await status(tiles.tile_path(0, 0, 101)) == 404
    assert await status(tiles.tile_path(0, 0)) == 200


@EVERYWHERE
async def test_a_client_that_has_it_is_told_so(log: OpenLog, gateway: Running) -> None:
    for path in ("checkpoint", "tile/0/000", "tile/entries/001"):
        first = await gateway.call(below(log, path))
        tag = first.headers["etag"]
        for given in (tag, f'"other", {tag}', f"W/{tag}", "*"):
            again = await gateway.call(below(log, path), if_none_match=given)
            assert (again.status, again.body) == (304, b"")
            assert again.headers["etag"] == tag
            assert again.headers["cache-control"] == first.headers["cache-control"]
        assert (await gateway.call(below(log, path), if_none_match='"other"')).body == first.body
        head = await gateway.call(below(log, path), "HEAD")
        assert (head.status, head.body) == (200, b"")
        for name in ("content-length", "content-type", "etag", "cache-control"):
            assert head.headers[name] == first.headers[name]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("checkpoint/", 404),
        ("", 404),
        ("checkpoint2", 404),
        ("scratch/x", 404),
        ("tile/0/0", 400),
        ("tile/0/000.p/256", 400),
        ("tile/0/x000/000", 400),
        ("tile/64/000", 400),
        ("tile/entries/0", 400),
        ("tile/0/../0/000", 400),
        ("tile/0/%30%30%30", 400),
        ("tile%2f0%2f000", 400),
        ("tile/0%0a/000", 400),
        ("%2e%2e/anchor.db", 400),
        ("../../anchor.db", 404),
        ("..\\..\\anchor.db", 404),
        ("tile/0/" + "x999/" * 300 + "000", 400),
        ("tile/0/500", 404),
        ("tile/9/000", 404),
    ],
)
async def test_a_path_that_is_none_is_refused(
    log: OpenLog, gateway: Running, path: str, status: int
) -> None:
    answer = await gateway.call(below(log, path))
    assert answer.status == status
    problem = json.loads(answer.body)
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["status"] == status
    assert problem["type"] == f"urn:provledger:error:{problem['reason']}"


@pytest.mark.parametrize(
    "path",
    [
        "/%6Detrics",
        "/metrics%0A",
        "/%72eadyz",
        "/healthz%0a",
        "/%0A",
        "/.well-known/jwks%2Ejson",
        "/.well%2dknown/jwks.json",
    ],
)
async def test_our_own_paths_are_written_in_one_way_too(gateway: Running, path: str) -> None:
    """A proxy that hides /metrics from strangers hides all of it."""
    answer = await gateway.call(path)
    assert (answer.status, json.loads(answer.body)["reason"]) == (400, "INVALID_PATH")


async def test_no_other_log_and_no_other_method(log: OpenLog, gateway: Running) -> None:
    assert (await gateway.call(f"/{'0' * 32}/checkpoint")).status == 404
    assert (await gateway.call("/logs/checkpoint")).status == 404
    assert (await gateway.call("/checkpoint")).status == 404
    for method in ("POST", "PUT", "DELETE", "TRACE", "PATCH"):
        for path in (below(log, "checkpoint"), below(log, "tile/0/000"), "/", "/nothing"):
            answer = await gateway.call(path, method)
            assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


async def test_a_browser_may_ask_whether_something_changed_for_another_site(
    log: OpenLog, gateway: Running
) -> None:
    """It asks first whether it may, and does not send the request otherwise."""
    asks = {
        "origin": "https://elsewhere.example",
        "access_control_request_method": "GET",
        "access_control_request_headers": "if-none-match",
    }
    for path in (below(log, "checkpoint"), below(log, "tile/0/000"), "/", "/nothing"):
        answer = await gateway.call(path, "OPTIONS", **asks)
        assert (answer.status, answer.body) == (204, b"")
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["access-control-allow-headers"] == "if-none-match"
        assert answer.headers["access-control-allow-methods"] == "GET, HEAD"
        assert "content-length" not in answer.headers


async def test_every_answer_protects_its_reader(log: OpenLog, gateway: Running) -> None:
    for path in ("/", "/nothing", below(log, "checkpoint"), below(log, "tile/0/000")):
        headers = (await gateway.call(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["access-control-allow-origin"] == "*"
        assert headers["access-control-expose-headers"] == "etag"
        assert "server" not in headers
        # Without TLS it would be a lie.
        assert "strict-transport-security" not in headers


async def test_a_damaged_tile_is_a_fault_and_not_a_gap(log: OpenLog, gateway: Running) -> None:
    full, bundle = log.store.root / "tile/0/000", log.store.root / "tile/entries/001"
    full.write_bytes(full.read_bytes()[:-1])
    bundle.unlink()
    for path in ("tile/0/000", "tile/entries/001"):
        answer = await gateway.call(below(log, path))
        assert answer.status == 500
        assert json.loads(answer.body)["metadata"] == {"tile": path}
    full.unlink()
    os.symlink(log.store.root / "tile/0/001", full)
    assert (await gateway.call(below(log, "tile/0/000"))).status == 503
    (log.store.root / "checkpoint").write_bytes(b"not a note\n")
    answer = await gateway.call(below(log, "tile/0/001"))
    assert (answer.status, json.loads(answer.body)["reason"]) == (500, "CHECKPOINT_DAMAGED")


async def test_the_index_lists_logs_for_people_and_programs(
    log: OpenLog, gateway: Running, tmp_path: Path
) -> None:
    (found,) = json.loads((await gateway.call("/")).body)["logs"]
    assert found["origin"] == log.identity.origin
    assert (found["path"], found["tree_size"]) == (below(log, ""), SIZE)
    page = await gateway.call("/", accept="text/html,*/*")
    assert page.headers["content-type"].startswith("text/html")
    assert log.identity.origin.encode() in page.body
    # A log that appears later is found; one of an odd name, or without a checkpoint, is none.
    logs = tmp_path / "data" / "logs"
    (logs / "scratch").mkdir()
    (logs / ("ab" * 16)).mkdir()
    shutil.copytree(log.store.root, logs / "not-a-uid")
    assert len(json.loads((await gateway.call("/")).body)["logs"]) == 1


async def test_a_log_is_found_by_all_who_ask_first(log: OpenLog, tmp_path: Path) -> None:
    async with running_gateway(tmp_path / "data") as gateway:
        asking = [gateway.call(below(log, "checkpoint")) for _ in range(20)]
        assert {answer.status for answer in await asyncio.gather(*asking)} == {200}


async def test_without_a_log_there_is_an_empty_index(tmp_path: Path) -> None:
    async with running_gateway(tmp_path / "none") as gateway:
        assert json.loads((await gateway.call("/")).body) == {"logs": []}
        assert (await gateway.call("/readyz")).status == 200
        assert (await gateway.call("/.well-known/jwks.json")).status == 404


async def test_metrics_count_answers_by_route(log: OpenLog, gateway: Running) -> None:
    assert (await gateway.call("/metrics")).status == 404
    telemetry.configure("gateway", env={}, scraped=True)
    try:
        await _metrics_are_counted(log, gateway)
    finally:
        telemetry.shutdown()


async def _metrics_are_counted(log: OpenLog, gateway: Running) -> None:
    await gateway.call(below(log, "tile/0/000"))
    await gateway.call("/nothing/at/all")
    answer = await gateway.call("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    text = answer.body.decode()
    assert 'gateway_requests_total{method="GET",route="tile",status="200"}' in text
    assert 'gateway_requests_total{method="GET",route="other",status="404"}' in text
    assert "nothing/at/all" not in text


async def test_a_drain_says_so_and_finishes_what_is_asked(log: OpenLog, tmp_path: Path) -> None:
    ready_file = tmp_path / "ready"
    async with running_gateway(
        tmp_path / "data", drain_delay_s=30, ready_file=ready_file
    ) as gateway:
        assert json.loads(ready_file.read_text())["port"] == gateway.port
        assert (await gateway.call("/readyz")).status == 200
        gateway.stop.set()
        await eventually(lambda: not ready_file.exists())
        answer = await gateway.call("/readyz")
        assert (answer.status, json.loads(answer.body)["draining"]) == (503, True)
        assert (await gateway.call(below(log, "checkpoint"))).status == 200
        # A second signal ends the wait.
        gateway.hurry.set()


async def test_a_connection_that_dawdles_is_cut(log: OpenLog, tmp_path: Path) -> None:
    async with running_gateway(tmp_path / "data", header_timeout_s=0.2) as gateway:
        silent = await asyncio.open_connection("127.0.0.1", gateway.port)
        slow = await asyncio.open_connection("127.0.0.1", gateway.port)
        slow[1].write(b"GET / HTTP/1.1\r\nHost: x\r\n")
        # An answer has come, and a body that nobody reads goes on.
        chatty = await asyncio.open_connection("127.0.0.1", gateway.port)
        chatty[1].write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        async with asyncio.timeout(10):
            for reader, _ in (silent, slow, chatty):
                with contextlib.suppress(ConnectionResetError):
                    await reader.read()
        for _, writer in (silent, slow, chatty):
            writer.close()
        assert (await gateway.call("/healthz")).status == 200


@pytest.mark.parametrize(
    "sent",
    [
        [b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 40_000],
        [b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 40_000 + b"\r\n\r\n"],
        [b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 4_000 + b"\r\n"],
        [b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"],
        [b"GET / HTTP/1.1\r\nHost: x\r\nX: ", *[b"a" * 1000] * 40],
    ],
    ids=["endless", "one header", "many headers", "path", "in pieces"],
)
async def test_a_long_head_is_refused(log: OpenLog, gateway: Running, sent: list[bytes]) -> None:
    def send() -> bytes:
        with socket.create_connection(("127.0.0.1", gateway.port), 10) as sock:
            with contextlib.suppress(ConnectionError):
                for piece in sent:
                    sock.sendall(piece)
            return sock.recv(100)

    assert b" 400 " in await asyncio.to_thread(send)
    assert (await gateway.call("/healthz")).status == 200


@pytest.mark.parametrize(
    "head",
    [
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET / HTTP/1.1\nHost: x\n\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
    ],
)
async def test_what_is_no_request_is_refused(log: OpenLog, gateway: Running, head: bytes) -> None:
    def send() -> bytes:
        with socket.create_connection(("127.0.0.1", gateway.port), 10) as sock:
            sock.sendall(head)
            return sock.recv(100)

    assert (await asyncio.to_thread(send)).startswith(b"HTTP/1.1 400")


async def test_requests_in_a_row_are_answered_in_order_and_not_without_end(
    log: OpenLog, gateway: Running
) -> None:
    def send(count: int) -> bytes:
        paths = ["healthz", "nothing", *["healthz"] * (count - 2)]
        heads = b"".join(f"GET /{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for path in paths)
        got = b""
        with socket.create_connection(("127.0.0.1", gateway.port), 10) as sock:
            sock.sendall(heads)
            with contextlib.suppress(ConnectionError):
                while got.count(b"HTTP/1.1 ") < count and (data := sock.recv(65536)):
                    got += data
        return got

    answers = await asyncio.to_thread(send, 20)
    assert re.findall(rb"HTTP/1.1 ([0-9]+)", answers) == [b"200", b"404", *[b"200"] * 18]
    # A thousand, sent as one: who waits for none of them is cut off.
    assert (await asyncio.to_thread(send, 1000)).count(b"HTTP/1.1 ") < 1000
    assert (await gateway.call("/healthz")).status == 200


async def test_https_shows_our_certificate(log: OpenLog, tmp_path: Path) -> None:
    ca = CertificateAuthority(tmp_path / "ca")
    files = ca.issue("localhost")
    async with running_gateway(
        tmp_path / "data", tls_cert=files.cert, tls_key=files.key
    ) as gateway:
        context = ssl.create_default_context(cafile=str(files.ca))
        reader, writer = await asyncio.open_connection(
            "localhost", gateway.port, ssl=context, server_hostname="localhost"
        )
        writer.write(f"GET {below(log, 'checkpoint')} HTTP/1.0\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        assert b"200 OK" in answer
        assert b"strict-transport-security" in answer


def test_a_reachable_address_needs_tls(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="without TLS"):
        check_tls(Settings(data_dir=tmp_path, host="0.0.0.0"))
    with pytest.raises(ConfigError, match="tls_cert and tls_key"):
        check_tls(Settings(data_dir=tmp_path, tls_cert=tmp_path / "cert"))


async def test_the_key_set_is_fetched_once_and_never_kept_too_long() -> None:
    now, calls = 100.0, 0
    gate = asyncio.Event()

    async def fetch() -> bytes:
        nonlocal calls
        calls += 1
        await gate.wait()
        if calls == 3:
            raise UnavailableError("UNAVAILABLE", "away")
        return b'{"keys":[]}'

    jwks = Jwks(fetch, max_age_s=5, monotonic=lambda: now)
    asking = [asyncio.ensure_future(jwks.get()) for _ in range(50)]
    await asyncio.sleep(0)
    gate.set()
    documents = await asyncio.gather(*asking)
    assert (calls, len({document.etag for document in documents})) == (1, 1)
    now += 4.9
    await jwks.get()
    assert calls == 1
    now += 0.2
    await jwks.get()
    assert calls == 2
    # A key set that is out of date may hold a key that was revoked: none is better.
    now += 6
    with pytest.raises(UnavailableError):
        await jwks.get()


async def test_the_vkeys_shown_are_those_that_signed(log: OpenLog, tmp_path: Path) -> None:
    from provledger.keyset import KeyPurpose, KeySet, VerificationKey
    from tests.support.chain import private_key

    keys = TestKeys()
    signed = keys.current(KeyPurpose.CHECKPOINT)
    known = [
        VerificationKey.from_public_key(
            signed.public_key, kid="one", purpose=KeyPurpose.CHECKPOINT
        ),
        VerificationKey.from_public_key(
            private_key("other").public_key(), kid="other", purpose=KeyPurpose.CHECKPOINT, epoch=2
        ),
    ]
    data = KeySet(known).encode()

    async def fetch() -> bytes:
        return data

    document = await Jwks(fetch, max_age_s=5).get()
    note = log.store.read_checkpoint()
    assert note is not None
    assert document.vkeys(note, log.identity.origin) == [log_vkey(log)]
