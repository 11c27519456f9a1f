"""The gateway without the anchor's disk: pieces, what is kept, outages, redirects, compression."""

from __future__ import annotations

import asyncio
import gzip
import json
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from anchor_svc.openlog import OpenLog
from gateway_svc.app import build
from gateway_svc.config import Settings
from gateway_svc.published import Published
from gateway_svc.remote import PIECE_MAX_AGE_S, RemoteSource
from gateway_svc.source import Census, Redirect
from provledger import tiles
from provledger.api.anchor.v1 import anchor_pb2 as pb
from provledger.api.anchor.v1 import anchor_pb2_grpc
from provledger.errors import (
    DataLossError,
    InvalidArgumentError,
    NotFoundError,
    OutOfRangeError,
    UnavailableError,
)
from provledger.rpc.channel import call, channel
from provledger.s3 import Bucket
from provledger.settings import ConfigError
from tests.support import peers
from tests.support.anchoring import LOG_UID, Ledger, submit
from tests.support.gateway import (
    filled_log,
    gateway_at,
    serving_anchor,
    tile_bucket,
)
from tests.support.places import ENTRIES, MemoryPlace, memory_log
from tests.support.tiled import flip, signed_checkpoint

SIZE = 601
UID = LOG_UID.hex()


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    with peers.moto_store() as url:
        yield url


@pytest.fixture
def bucket(store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with tile_bucket(store, monkeypatch) as made:
        yield made


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[OpenLog]:
    async with filled_log(tmp_path, SIZE) as opened:
        yield opened


# --- the anchor's RPCs ---------------------------------------------------------------------------


async def test_a_tile_comes_in_pieces_that_make_the_whole(log: OpenLog) -> None:
    whole = (log.store.root / "tile/entries/001").read_bytes()
    async with serving_anchor(log) as endpoint, channel(endpoint) as opened:
        stub = anchor_pb2_grpc.AnchorServiceStub(opened)

        async def get(path: str, **given: Any) -> pb.GetTileResponse:
            request = pb.GetTileRequest(log="logs/-", path=path, **given)
            return await call(stub.GetTile, request, timeout_s=20)

        got = b""
        while len(got) < len(whole):
            piece = await get("tile/entries/001", offset=len(got), max_bytes=10_000)
            assert piece.total_bytes == len(whole)
            assert 0 < len(piece.data) <= 10_000
            got += piece.data
        assert got == whole
        for path, given, error in [
            ("tile/0/0", {}, InvalidArgumentError),
            ("../anchor.db", {}, InvalidArgumentError),
            ("checkpoint", {}, InvalidArgumentError),
            ("tile/0/000", {"offset": -1}, InvalidArgumentError),
            ("tile/0/000", {"max_bytes": -1}, InvalidArgumentError),
            ("tile/0/000", {"offset": 8192}, OutOfRangeError),
            ("tile/0/002.p/50", {}, NotFoundError),
            ("tile/0/002.p/90", {}, NotFoundError),
            ("tile/0/003", {}, NotFoundError),
        ]:
            with pytest.raises(error):
                await get(path, **given)
        (log.store.root / "tile/0/001").unlink()
        with pytest.raises(DataLossError):
            await get("tile/0/001")


async def test_what_is_signed_and_not_published_is_not_given_away(log: OpenLog) -> None:
    more = Ledger("more")
    more.grow(400)
    await submit(log, more)
    assert (log.store.root / "tile/0/002").exists()
    async with serving_anchor(log) as endpoint, channel(endpoint) as opened:
        stub = anchor_pb2_grpc.AnchorServiceStub(opened)
        request = pb.GetTileRequest(log=f"logs/{UID}", path="tile/0/002")
        with pytest.raises(NotFoundError) as caught:
            await call(stub.GetTile, request, timeout_s=20)
        assert caught.value.reason == "TILE_NOT_PUBLISHED"
        await log.publisher.publish(log.state.signed_view())
        answer = await call(stub.GetTile, request, timeout_s=20)
        assert answer.data == (log.store.root / "tile/0/002").read_bytes()


async def test_logs_are_listed_page_by_page(log: OpenLog) -> None:
    async with serving_anchor(log) as endpoint, channel(endpoint) as opened:
        stub = anchor_pb2_grpc.AnchorServiceStub(opened)
        page = await call(stub.ListLogs, pb.ListLogsRequest(page_size=1), timeout_s=20)
        (one,) = page.logs
        assert (one.name, one.origin) == (f"logs/{UID}", log.identity.origin)
        assert (one.published_size, page.next_page_token) == (SIZE, "")
        for bad in (
            pb.ListLogsRequest(page_size=-1),
            pb.ListLogsRequest(page_token="x"),
        ):
            with pytest.raises(InvalidArgumentError):
                await call(stub.ListLogs, bad, timeout_s=20)


# --- outages -------------------------------------------------------------------------------------


async def test_what_was_read_once_is_served_while_the_anchor_is_away(log: OpenLog) -> None:
    paths = [f"/{UID}/{path}" for path in ("tile/0/000", "tile/0/002.p/89", "tile/entries/001")]
    async with serving_anchor(log) as endpoint:
        stack = gateway_at("anchor", log, None, anchor_endpoint=endpoint, rpc_deadline_s=0.3)
        gateway = await stack.__aenter__()
        before = [await gateway.call(path) for path in (*paths, f"/{UID}/checkpoint")]
        assert {answer.status for answer in before} == {200}
    try:
        after = [await gateway.call(path) for path in paths]
        assert [(each.status, each.body) for each in after] == [
            (each.status, each.body) for each in before[:3]
        ]
        # A checkpoint says what is newest: better none than an old one. Nor may it be kept.
        checkpoint = await gateway.call(f"/{UID}/checkpoint")
        assert (checkpoint.status, checkpoint.headers["cache-control"]) == (503, "no-store")
        assert (await gateway.call(f"/{UID}/tile/0/001")).status == 503
        # What logs there are is remembered for a second.
        async with asyncio.timeout(10):
            while (await gateway.call("/readyz")).status != 503:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    finally:
        await stack.__aexit__(None, None, None)


# --- a bucket ------------------------------------------------------------------------------------


async def test_readers_of_full_tiles_are_sent_to_the_bucket(tmp_path: Path, bucket: Bucket) -> None:
    async with (
        filled_log(tmp_path, SIZE, bucket) as log,
        gateway_at("bucket", log, bucket, redirect_s=60) as gateway,
    ):
        more = Ledger("more")
        more.grow(400)
        await submit(log, more)
        for path in ("tile/0/001", "tile/entries/000"):
            answer = await gateway.call(f"/{UID}/{path}")
            assert (answer.status, answer.body) == (307, b"")
            assert answer.headers["cache-control"] == "public, max-age=30"

            def follow(url: str = answer.headers["location"]) -> tuple[bytes, str]:
                with urllib.request.urlopen(url, timeout=20) as opened:
                    return opened.read(), opened.headers["cache-control"]

            parsed = tiles.parse_path(path)
            expected = (log.store.read_file(parsed), "public, max-age=31536000, immutable")
            assert await asyncio.to_thread(follow) == expected
            # The URL is signed for GET; whoever only asks about the tile is answered here.
            head = await gateway.call(f"/{UID}/{path}", "HEAD")
            assert (head.status, head.body) == (200, b"")
            assert head.headers["content-length"] == str(len(expected[0] or b""))
        # In the bucket already, and not published: no way leads there. What may be missing is
        # looked up here, and a checkpoint is always ours to give.
        assert log.store.read_file(tiles.parse_path("tile/0/002")) is not None
        assert (await gateway.call(f"/{UID}/tile/0/002")).status == 404
        assert (await gateway.call(f"/{UID}/tile/0/002.p/89")).status == 200
        assert (await gateway.call(f"/{UID}/tile/0/002.p/50")).status == 404
        assert (await gateway.call(f"/{UID}/checkpoint")).status == 200


async def test_what_does_not_belong_to_a_log_is_none(tmp_path: Path, bucket: Bucket) -> None:
    async with filled_log(tmp_path, SIZE, bucket) as log, gateway_at("bucket", log, bucket) as one:
        bucket.put_new("logs/not-a-uid/checkpoint", log.store.read_checkpoint() or b"")
        bucket.put_new(f"logs/{'0' * 32}/checkpoint", b"not a note")
        bucket.put_new(f"logs/{'1' * 32}/tile/0/000", b"x")
        (found,) = json.loads((await one.call("/")).body)["logs"]
        assert found["origin"] == log.identity.origin
        bucket.delete([f"logs/{UID}/tile/0/001"])
        answer = await one.call(f"/{UID}/tile/0/001")
        assert (answer.status, json.loads(answer.body)["reason"]) == (500, "TILE_DAMAGED")


# --- gzip ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["directory", "anchor"])
async def test_bundles_are_compressed_for_who_accepts_it(log: OpenLog, place: str) -> None:
    async with gateway_at(place, log, None) as gateway:
        for path in (f"/{UID}/tile/entries/000", f"/{UID}/tile/entries/002.p/89"):
            plain = await gateway.call(path)
            packed = await gateway.call(path, accept_encoding="br, gzip;q=0.5")
            assert packed.headers["content-encoding"] == "gzip"
            assert gzip.decompress(packed.body) == plain.body
            assert len(packed.body) < len(plain.body)
            assert "content-encoding" not in plain.headers
            assert plain.headers["vary"] == packed.headers["vary"] == "accept-encoding"
            # Other bytes have another strong tag, and each is known again.
            assert plain.headers["etag"] != packed.headers["etag"]
            tag = packed.headers["etag"]
            again = await gateway.call(path, accept_encoding="gzip", if_none_match=tag)
            assert (again.status, again.headers["etag"]) == (304, tag)
            head = await gateway.call(path, "HEAD", accept_encoding="gzip")
            assert head.headers["content-length"] == str(len(packed.body))
            for refused in ("identity", "gzip;q=0", "gzip; q=0.0, *", ""):
                answer = await gateway.call(path, accept_encoding=refused)
                assert (answer.body, "content-encoding" in answer.headers) == (plain.body, False)
        # Hashes do not shrink.
        for path in (f"/{UID}/tile/0/000", f"/{UID}/checkpoint"):
            answer = await gateway.call(path, accept_encoding="gzip")
            assert not {"content-encoding", "vary"} & answer.headers.keys()
    async with gateway_at(place, log, None, gzip_cache_mib=0) as gateway:
        answer = await gateway.call(f"/{UID}/tile/entries/000", accept_encoding="gzip")
        assert not {"content-encoding", "vary"} & answer.headers.keys()


# --- the remote source, at a place in memory -----------------------------------------------------


async def _read(source: RemoteSource, path: str) -> bytes:
    found = await source.find("x")
    assert found is not None
    content = await found.tile(tiles.parse_path(path))
    assert not isinstance(content, Redirect)
    return b"".join([chunk async for chunk in content.chunks()])


async def test_large_bundles_come_in_pieces_and_are_asked_for_once() -> None:
    place = MemoryPlace(a=memory_log())
    source = RemoteSource(place, max_age_s=10, cache_bytes=10_000_000)
    results = await asyncio.gather(*(_read(source, "tile/entries/000") for _ in range(20)))
    assert set(results) == {place.logs["a"]["tile/entries/000"]}
    pieces = [what for what in place.asked if "@" in what]
    assert len(pieces) == 3 == len(set(pieces))
    assert place.asked.count("checkpoint") == 1
    place.away = True
    assert await _read(source, "tile/entries/000") == results[0]


async def test_what_there_is_no_room_for_is_fetched_again() -> None:
    place = MemoryPlace(a=memory_log())
    source = RemoteSource(place, max_age_s=10, cache_bytes=0)
    for _ in range(2):
        assert await _read(source, "tile/0/000") == place.logs["a"]["tile/0/000"]
    assert place.asked.count("tile/0/000@0") == 2


async def test_a_bundle_that_changes_while_it_is_read_is_cut_off() -> None:
    place = MemoryPlace(a=memory_log())
    source = RemoteSource(place, max_age_s=10, cache_bytes=0)
    found = await source.find("x")
    assert found is not None
    content = await found.tile(tiles.parse_path("tile/entries/000"))
    assert not isinstance(content, Redirect)
    chunks = content.chunks()
    await anext(chunks)
    place.logs["a"]["tile/entries/000"] = b"z" * content.length
    with pytest.raises(DataLossError):
        await anext(chunks)


async def test_a_checkpoint_is_asked_for_once_while_it_is_young() -> None:
    now = 100.0
    place = MemoryPlace(a=memory_log(300))
    source = RemoteSource(place, max_age_s=0.2, cache_bytes=0, monotonic=lambda: now)
    found = await source.find("x")
    assert found is not None
    place.logs["a"] = memory_log(600)
    assert (await found.published()).size == 300
    now += 0.21
    place.asked.clear()
    fresh = await asyncio.gather(*(found.published() for _ in range(10)))
    assert {one.size for one in fresh if isinstance(one, Published)} == {600}
    assert place.asked == ["checkpoint"]
    # What the one we have covers needs no newer one; whoever asks for the newest hears the truth.
    now, place.away = now + 10, True
    assert (await found.published(covering=512)).size == 600
    for covering in (None, 601):
        with pytest.raises(UnavailableError):
            await found.published(covering)


async def test_who_comes_too_late_for_a_partial_tile_gets_the_full_one() -> None:
    place = MemoryPlace(a=memory_log(300))
    source = RemoteSource(place, max_age_s=10, cache_bytes=0, monotonic=lambda: 100.0)
    found = await source.find("x")
    assert found is not None
    late = tiles.parse_path(tiles.entries_path(1, 300 - 256))
    assert (await found.published(late.end)).size == 300
    place.logs["a"] = memory_log(600)
    with pytest.raises(NotFoundError, match="take that"):
        await found.tile(late)
    full = tiles.parse_path(tiles.entries_path(1))
    assert (await found.published(full.end)).size == 600, "young as ours is, it is behind"
    # Whoever asks for a full one that is not there learns nothing new by it, and neither do we.
    place.asked.clear()
    del place.logs["a"][full.path]
    with pytest.raises(DataLossError):
        await found.tile(full)
    assert (await found.published(601)).size == 600
    assert "checkpoint" not in place.asked


async def test_a_tile_that_gives_way_while_the_checkpoint_is_read_has_it_read_again() -> None:
    now = 100.0
    place = MemoryPlace(a=memory_log(300))
    source = RemoteSource(place, max_age_s=10, cache_bytes=0, monotonic=lambda: now)
    found = await source.find("x")
    assert found is not None
    late = tiles.parse_path(tiles.entries_path(1, 300 - 256))
    before = place.checkpoint

    async def overtaken(name: str) -> bytes | None:
        signed = await before(name)
        place.logs["a"] = memory_log(600)
        with pytest.raises(NotFoundError):
            await found.tile(late)
        return signed

    now, place.checkpoint = 111.0, overtaken  # type: ignore[method-assign]
    assert (await found.published()).size == 300
    place.checkpoint = before  # type: ignore[method-assign]
    assert (await found.published(512)).size == 600


async def test_a_fault_of_one_moment_is_not_remembered() -> None:
    now = 100.0
    place = MemoryPlace(a=memory_log())
    place.away = True
    source = RemoteSource(place, max_age_s=1, cache_bytes=0, monotonic=lambda: now)
    for _ in range(3):
        with pytest.raises(UnavailableError):
            await source.find("x")
    assert place.asked == ["names"]  # nobody is asked more than once in a second
    now, place.away = now + 1.1, False
    assert await source.find("x") is not None
    assert await source.find("y") is None
    place.logs["b"] = {"checkpoint": signed_checkpoint("log.test/y", ENTRIES[:3])}
    now += 1.1
    assert await source.find("y") is not None
    assert [one.origin for one in await source.logs()] == ["log.test/x", "log.test/y"]
    assert await source.census() == Census(2)


async def test_a_log_that_the_place_forgets_is_not_denied() -> None:
    now = 100.0
    kept = {"a": memory_log(), "b": {"checkpoint": signed_checkpoint("log.test/y", ENTRIES[:3])}}
    place = MemoryPlace(**kept)
    source = RemoteSource(place, max_age_s=1, cache_bytes=0, monotonic=lambda: now)
    assert len(await source.logs()) == 2
    place.logs = {"a": {}, "b": kept["b"]}  # its checkpoint is gone
    now += 5
    found = await source.find("x")
    assert found is not None
    with pytest.raises(UnavailableError, match="not found now"):
        await found.published()
    place.logs = {"b": kept["b"]}  # and so is its name
    now += 5
    census = await source.census()
    assert (census.logs, census.unreadable) == (2, 1)
    assert await source.find("x") is found
    place.logs = kept
    now += 5
    assert await source.census() == Census(2)
    assert (await found.published()).size == 600


async def test_a_log_that_nobody_could_read_yet_takes_the_others_from_nobody() -> None:
    """A bucket may refuse one object; whoever asks for what may be in that log hears of it."""
    now = 100.0
    place = MemoryPlace(a=memory_log(), b={"checkpoint": signed_checkpoint("log.test/y", [b"y"])})
    place.refused["b"] = refusal = UnavailableError("STORAGE_REFUSED", "b says AccessDenied")
    source = RemoteSource(place, max_age_s=1, cache_bytes=0, monotonic=lambda: now)
    for _ in range(2):
        found = await source.find("x")
        assert found is not None
        assert (await found.published()).size == 600
        assert [one.origin for one in await source.logs()] == ["log.test/x"]
        census = await source.census()
        assert (census.logs, census.unreadable) == (2, 1)
        assert census.because is not None
        assert census.because.reason == refusal.reason
        with pytest.raises(UnavailableError, match="AccessDenied"):
            await source.find("y")
        now += 5
    # Of those that were read before, it is the same.
    del place.refused["b"]
    assert len(await source.logs()) == 2
    place.refused["b"] = refusal
    now += 5
    assert [one.origin for one in await source.logs()] == ["log.test/x"]
    place.refused["a"] = refusal
    now += 5
    with pytest.raises(UnavailableError, match="AccessDenied"):
        await source.logs()


async def test_hash_tiles_of_a_wrong_length_are_not_kept() -> None:
    place = MemoryPlace(a=memory_log())
    source = RemoteSource(place, max_age_s=10, cache_bytes=10_000_000)
    whole = place.logs["a"]["tile/0/000"]
    place.logs["a"]["tile/0/000"] = whole[:-1]
    with pytest.raises(DataLossError):
        await _read(source, "tile/0/000")
    place.logs["a"]["tile/0/000"] = whole
    assert await _read(source, "tile/0/000") == whole


async def test_bundles_that_do_not_hold_their_entries_are_not_kept() -> None:
    place = MemoryPlace(a=memory_log())
    source = RemoteSource(place, max_age_s=10, cache_bytes=10_000_000)
    path = tiles.entries_path(2, 600 - 512)
    whole = place.logs["a"][path] = tiles.encode_bundle([b"entry"] * (600 - 512))
    for damaged in (whole[:-1], whole[:100], whole + b"x"):
        place.logs["a"][path] = damaged
        with pytest.raises(DataLossError):
            await _read(source, path)
    place.logs["a"][path] = whole
    assert await _read(source, path) == whole


async def test_a_tile_that_was_brought_back_whole_is_served_so_after_a_while() -> None:
    place, now_s = MemoryPlace(a=memory_log()), 0.0
    source = RemoteSource(place, max_age_s=10, cache_bytes=10_000_000, monotonic=lambda: now_s)
    whole = place.logs["a"]["tile/0/000"]
    place.logs["a"]["tile/0/000"] = flip(whole, 5)
    assert await _read(source, "tile/0/000") != whole
    place.logs["a"]["tile/0/000"] = whole
    now_s = PIECE_MAX_AGE_S
    assert await _read(source, "tile/0/000") == whole


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"data_dir": Path("x"), "anchor_endpoint": "127.0.0.1:1"},
        {"tile_store": "s3://b", "anchor_endpoint": "127.0.0.1:1"},
        {"data_dir": Path("x"), "redirect_s": 60},
        {"tile_store": "s3://b?region=x", "redirect_endpoint": "http://store.example"},
        {"tile_store": "/somewhere"},
    ],
)
async def test_settings_name_one_place(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        await build(Settings(**given))
