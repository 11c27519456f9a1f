"""A gateway whose directory goes away, or is damaged: what it served once it never denies."""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from gateway_svc.directory import CHUNK_BYTES
from tests.support.anchoring import LOG_UID
from tests.support.gateway import Answer, Running, filled_log, running_gateway
from tests.support.tiled import signed_checkpoint, write_log

UID = LOG_UID.hex()
OTHER = "0" * 32


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Running]:
    """One that has served a log of 601 leaves, and another log beside it."""
    async with filled_log(tmp_path, 601):
        pass
    other = tmp_path / "data" / "logs" / OTHER
    other.mkdir()
    (other / "checkpoint").write_bytes(signed_checkpoint(f"log.test/{OTHER}", [b"x"]))
    async with running_gateway(tmp_path / "data") as running:
        for uid in (UID, OTHER):
            assert (await running.call(f"/{uid}/checkpoint")).status == 200
        yield running


async def until(ask: Callable[[], Awaitable[Answer]], status: int) -> dict[str, object]:
    """The answer of that status, which is there once the directory was looked through again."""
    async with asyncio.timeout(20):
        while (answer := await ask()).status != status:
            continue
    found: dict[str, object] = json.loads(answer.body) if answer.body.startswith(b"{") else {}
    return found


async def told(gateway: Running, *, unreadable: int) -> tuple[int, dict[str, object]]:
    """What /readyz says once it knows of so many logs that cannot be read, and its status."""
    async with asyncio.timeout(20):
        while True:
            answer = await gateway.call("/readyz")
            found: dict[str, object] = json.loads(answer.body)
            if found.get("unreadable", 0) == unreadable:
                return answer.status, found


async def test_a_directory_that_is_not_mounted_is_no_empty_one(
    gateway: Running, tmp_path: Path
) -> None:
    data, away = tmp_path / "data", tmp_path / "away"
    data.rename(away)
    data.mkdir()  # the mount point
    state = await until(lambda: gateway.call("/readyz"), 503)
    assert (state["ready"], state["reason"]) == (False, "STORAGE_UNAVAILABLE")
    for path in (f"/{UID}/checkpoint", f"/{UID}/tile/0/000", f"/{UID}/tile/0/002.p/89", "/"):
        answer = await gateway.call(path)
        problem = json.loads(answer.body)
        assert (path, answer.status, problem["reason"]) == (path, 503, "STORAGE_UNAVAILABLE")
        assert "mounted" in problem["detail"]
    # Nor does it know of others what they are.
    assert (await until(lambda: gateway.call(f"/{'1' * 32}/checkpoint"), 503))["status"] == 503
    data.rmdir()
    away.rename(data)
    assert (await gateway.call(f"/{UID}/checkpoint")).status == 200
    await until(lambda: gateway.call("/readyz"), 200)


async def test_a_damaged_checkpoint_stays_one_whoever_looks(
    gateway: Running, tmp_path: Path
) -> None:
    logs = tmp_path / "data" / "logs"
    (logs / UID / "checkpoint").write_bytes(bytes(200))
    # The other one is served, and that one is not is told.
    assert await told(gateway, unreadable=1) == (
        200,
        {
            "ready": True,
            "draining": False,
            "logs": 2,
            "unreadable": 1,
            "reason": "CHECKPOINT_DAMAGED",
        },
    )
    for _ in range(2):
        answer = await gateway.call(f"/{UID}/checkpoint")
        assert (answer.status, json.loads(answer.body)["reason"]) == (500, "CHECKPOINT_DAMAGED")
        (shown,) = json.loads((await gateway.call("/")).body)["logs"]
        assert shown["path"] == f"/{OTHER}/"
    shutil.rmtree(logs / OTHER)
    assert (await gateway.call(f"/{OTHER}/checkpoint")).status == 503
    assert (await told(gateway, unreadable=2))[0] == 503


@pytest.mark.parametrize("prefix", [OTHER, "a/tile/b", "tile", "tile/b", "tile/b/tile/c"])
async def test_a_log_that_nobody_could_read_yet_takes_the_others_from_nobody(
    tmp_path: Path, prefix: str
) -> None:
    logs = tmp_path / "data" / "logs"
    (logs / OTHER).mkdir(parents=True)
    (logs / OTHER / "checkpoint").write_bytes(signed_checkpoint(f"log.test/{prefix}", [b"x"]))
    unread = logs / ("f" * 32)
    (unread / "checkpoint").mkdir(parents=True)  # reading it is an error
    async with running_gateway(tmp_path / "data") as gateway:
        for _ in range(2):
            assert (await gateway.call(f"/{prefix}/checkpoint")).status == 200
            # The log is found; of its tiles there is none.
            answer = await gateway.call(f"/{prefix}/tile/0/000.p/1")
            assert (answer.status, json.loads(answer.body)["reason"]) == (404, "TILE_NOT_FOUND")
            # Nobody knows which paths lead into the other one.
            answer = await gateway.call(f"/{UID}/checkpoint")
            assert (answer.status, json.loads(answer.body)["reason"]) == (
                503,
                "STORAGE_UNAVAILABLE",
            )
            (shown,) = json.loads((await gateway.call("/")).body)["logs"]
            assert shown["path"] == f"/{prefix}/"
        answer = await gateway.call("/readyz")
        assert answer.status == 200
        state = json.loads(answer.body)
        assert (state["logs"], state["unreadable"]) == (2, 1)
        assert state["reason"] == "STORAGE_UNAVAILABLE"
        shutil.rmtree(unread)
        await until(lambda: gateway.call(f"/{UID}/checkpoint"), 404)


@pytest.mark.parametrize("accept", ["identity", "gzip"])
@pytest.mark.parametrize("entry_bytes", [40, 2000], ids=["read at once", "read in pieces"])
async def test_a_bundle_that_does_not_hold_its_entries_is_a_fault(
    tmp_path: Path, accept: str, entry_bytes: int
) -> None:
    root = tmp_path / "data" / "logs" / OTHER
    root.mkdir(parents=True)
    write_log(root, f"log.test/{OTHER}", [bytes([each % 256]) * entry_bytes for each in range(260)])
    files = {name: root / "tile/entries" / name for name in ("000", "001.p/4")}
    whole = {name: file.read_bytes() for name, file in files.items()}
    # What goes out while it is read, piece by piece, is looked at by its length alone.
    unseen = entry_bytes * 256 > CHUNK_BYTES and accept == "identity"
    async with running_gateway(tmp_path / "data") as gateway:

        async def get(name: str) -> tuple[int, object]:
            path = f"/{OTHER}/tile/entries/{name}"
            answer = await gateway.call(path, accept_encoding=accept)
            if answer.status == 200:
                packed = answer.headers.get("content-encoding") == "gzip"
                return 200, gzip.decompress(answer.body) if packed else answer.body
            return answer.status, json.loads(answer.body)["reason"]

        for name, file in files.items():
            assert await get(name) == (200, whole[name])
            for damaged in (b"", bytes(5), whole[name][:-1], whole[name] + b"\x00"):
                file.write_bytes(damaged)
                seen: tuple[int, object] = (500, "TILE_DAMAGED")
                if unseen and name == "000" and len(damaged) > CHUNK_BYTES:
                    seen = (200, damaged)
                assert await get(name) == seen
            file.write_bytes(whole[name])
            assert await get(name) == (200, whole[name])
