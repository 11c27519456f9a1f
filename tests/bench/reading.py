"""How fast a log can be read over HTTP, from each place, and how large its proofs are.

The gateway runs as a process of its own, as `provledger up` starts it; the clients share the
machine with it: connections that are kept open, each asking for one thing after the other. The
anchor whose RPCs it asks runs with the clients; the bucket is in MinIO, if that is there.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from provledger import tiles
from provledger.s3 import Bucket, BucketURI
from tests.support import peers
from tests.support.anchoring import Ledger, TestKeys, running_log, submit
from tests.support.gateway import serving_anchor

LEAVES = 65_536 + 300
CLIENTS = 8
SECONDS = 5.0
GZIP = "Accept-Encoding: gzip\r\n"


async def run(folder: Path, *, full: bool) -> dict[str, Any]:
    """Requests a second for each kind of thing and place, and sizes of proofs in bytes."""
    folder.mkdir(parents=True)
    seconds = SECONDS * (5 if full else 1)
    async with (
        running_log(f"sqlite:///{folder}/anchor.db", folder / "data", keys=TestKeys()) as log,
        AsyncExitStack() as stack,
    ):
        ledger = Ledger()
        ledger.grow(LEAVES - 1)
        for start in range(0, LEAVES - 1, 1000):
            await submit(log, ledger, start, min(start + 1000, LEAVES - 1))
        await log.publisher.publish(log.state.signed_view())
        uid = log.identity.uid.hex()
        found: dict[str, Any] = {"leaves": LEAVES, "clients": CLIENTS}
        endpoint = await stack.enter_async_context(serving_anchor(log))
        places = {
            "directory": {"DATA_DIR": str(folder / "data")},
            "anchor": {"ANCHOR_ENDPOINT": endpoint},
            "anchor, no memory": {"ANCHOR_ENDPOINT": endpoint, "CACHE_MIB": "0"},
        }
        try:
            uri = stack.enter_context(_bucket(folder, uid))
            places["bucket"] = {"TILE_STORE": uri}
            places["bucket, no memory"] = {"TILE_STORE": uri, "CACHE_MIB": "0"}
            places["bucket, redirects"] = {"TILE_STORE": uri, "REDIRECT_S": "300"}
        except pytest.skip.Exception as why:
            found["bucket"] = str(why)
        for place, settings in places.items():
            part = seconds if place == "directory" else seconds / 2.5
            found[place] = await _measure_place(folder, settings, uid, part)
        found["bytes"] = await sizes(log)
    return found


async def _measure_place(
    folder: Path, settings: dict[str, str], uid: str, seconds: float
) -> dict[str, Any]:
    rng = random.Random(1)
    kinds = {
        "checkpoint": (["checkpoint"], ""),
        "hash tile, 8 KiB": ([tiles.tile_path(0, i) for i in range(256)], ""),
        "entry bundle": ([tiles.entries_path(i) for i in range(256)], ""),
        "entry bundle, gzip": ([tiles.entries_path(i) for i in range(256)], GZIP),
    }
    found: dict[str, Any] = {}
    with gateway(folder, settings) as (port, pid):
        for name, (choices, header) in kinds.items():
            rng.shuffle(choices)
            urls = [f"/{uid}/{path}" for path in choices]
            # Once around first: what is kept is there then, and bundles are compressed.
            await client(port, urls, time.perf_counter() + 60, header, most=len(urls))
            found[name] = await measure(port, pid, urls, seconds, header)
        found["memory_mib"] = memory_mib(pid)
    return found


@contextmanager
def _bucket(folder: Path, uid: str) -> Iterator[str]:
    """The log in a bucket of a MinIO: the URI for `tile_store`."""
    with peers.minio_store(folder) as url:
        for name, value in (peers.ROOT | {"aws_region": "us-east-1"}).items():
            os.environ[name.upper()] = value
        peers.s3_client(url).create_bucket(Bucket="tiles")
        bucket = Bucket(BucketURI("tiles", "log", url))
        root = folder / "data/logs" / uid
        for path in [root / "checkpoint", *(root / "tile").rglob("*")]:
            if path.is_file():
                bucket.put_new(f"logs/{uid}/{path.relative_to(root)}", path.read_bytes())
        bucket.close()
        yield f"s3://tiles/log?endpoint={url}"


async def measure(
    port: int, pid: int, paths: list[str], seconds: float, header: str = ""
) -> dict[str, Any]:
    """Ask for the paths in turn, over a few connections, for a while.

    The gateway's own processor time for a request says more than the rate on a busy machine.
    """
    before_s = cpu_s(pid)
    end_s = time.perf_counter() + seconds
    counts = await asyncio.gather(
        *[client(port, paths[at:] + paths[:at], end_s, header) for at in range(CLIENTS)]
    )
    requests, body_bytes = (sum(column) for column in zip(*counts, strict=True))
    return {
        "requests_per_s": round(requests / seconds),
        "mib_per_s": round(body_bytes / seconds / 2**20, 1),
        "cpu_us_per_request": round((cpu_s(pid) - before_s) / requests * 1e6),
    }


async def client(
    port: int, paths: list[str], end_s: float, header: str = "", *, most: int = sys.maxsize
) -> tuple[int, int]:
    """One connection; how many answers, and how many bytes of bodies."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    requests = body_bytes = 0
    while time.perf_counter() < end_s and requests < most:
        path = paths[requests % len(paths)]
        writer.write(f"GET {path} HTTP/1.1\r\nHost: bench\r\n{header}\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 307")), head
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        requests += 1
        body_bytes += length
    writer.close()
    return requests, body_bytes


@contextmanager
def gateway(folder: Path, settings: dict[str, str]) -> Iterator[tuple[int, int]]:
    """A gateway process with these settings; its port and pid."""
    ready = folder / "gateway.ready"
    ready.unlink(missing_ok=True)
    given = {f"PROVLEDGER_GATEWAY_{name}": value for name, value in settings.items()}
    environment = {
        **os.environ,
        **given,
        "PROVLEDGER_GATEWAY_READY_FILE": str(ready),
        "PROVLEDGER_GATEWAY_LOG_LEVEL": "warning",
    }
    process = subprocess.Popen([sys.executable, "-m", "gateway_svc"], env=environment)
    try:
        end_s = time.monotonic() + 60
        while not ready.exists() and time.monotonic() < end_s:
            time.sleep(0.02)
        yield int(json.loads(ready.read_text())["port"]), process.pid
    finally:
        process.terminate()
        process.wait()


def cpu_s(pid: int) -> float:
    """Processor time that a process has had so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(pid: int) -> int:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


async def sizes(log: Any) -> dict[str, int]:
    """Bytes of one proof in each form, for an entry in the middle."""
    from provledger.tlog_proof import TlogProof, format_tlog_proof

    index = LEAVES // 2
    proven = await log.reader.inclusion(index, 0)
    path = proven.proofs[0].hashes
    hashes = tuple(path[at : at + 32] for at in range(0, len(path), 32))
    bundle = format_tlog_proof(TlogProof(index, hashes, proven.checkpoint.note))
    receipt, _ = await log.receipts.get(index, 0)
    entries = log.store.read_bundle(index // tiles.TILE_WIDTH)
    return {
        "path": len(path),
        "checkpoint": len(proven.checkpoint.note),
        "tlog-proof": len(bundle),
        "cose receipt": len(receipt),
        "entry": len(entries[0]),
        "consistency, from 1,001": 32 * len((await log.reader.consistency(1001, 0))[0]),
    }
