"""How fast a log can be read over HTTP, and how large its proofs are.

The gateway runs as a process of its own, as `provledger up` starts it; the clients share the
machine with it: connections that are kept open, each asking for one thing after the other.
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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from provledger import tiles
from tests.support.anchoring import Ledger, TestKeys, running_log, submit

LEAVES = 65_536 + 300
CLIENTS = 8
SECONDS = 5.0


async def run(folder: Path, *, full: bool) -> dict[str, Any]:
    """Requests a second for each kind of thing, and sizes of proofs in bytes."""
    folder.mkdir(parents=True)
    async with running_log(
        f"sqlite:///{folder}/anchor.db", folder / "data", keys=TestKeys()
    ) as log:
        ledger = Ledger()
        ledger.grow(LEAVES - 1)
        for start in range(0, LEAVES - 1, 1000):
            await submit(log, ledger, start, min(start + 1000, LEAVES - 1))
        await log.publisher.publish(log.state.signed_view())
        uid = log.identity.uid.hex()
        rng = random.Random(1)
        paths = {
            "checkpoint": ["checkpoint"],
            "hash tile, 8 KiB": [tiles.tile_path(0, i) for i in range(256)],
            "entry bundle": [tiles.entries_path(i) for i in range(256)],
        }
        found: dict[str, Any] = {"leaves": LEAVES, "clients": CLIENTS}
        with gateway(folder) as (port, pid):
            for name, choices in paths.items():
                rng.shuffle(choices)
                urls = [f"/{uid}/{path}" for path in choices]
                found[name] = await measure(port, pid, urls, SECONDS * (5 if full else 1))
            found["memory_mib"] = memory_mib(pid)
        found["bytes"] = await sizes(log)
    return found


async def measure(port: int, pid: int, paths: list[str], seconds: float) -> dict[str, Any]:
    """Ask for the paths in turn, over a few connections, for a while.

    The gateway's own processor time for a request says more than the rate on a busy machine.
    """
    before_s = cpu_s(pid)
    end_s = time.perf_counter() + seconds
    counts = await asyncio.gather(
        *[client(port, paths[number:] + paths[:number], end_s) for number in range(CLIENTS)]
    )
    requests, body_bytes = (sum(column) for column in zip(*counts, strict=True))
    return {
        "requests_per_s": round(requests / seconds),
        "mib_per_s": round(body_bytes / seconds / 2**20, 1),
        "cpu_us_per_request": round((cpu_s(pid) - before_s) / requests * 1e6),
    }


async def client(port: int, paths: list[str], end_s: float) -> tuple[int, int]:
    """One connection; how many answers, and how many bytes of bodies."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    requests = body_bytes = 0
    while time.perf_counter() < end_s:
        path = paths[requests % len(paths)]
        writer.write(f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        requests += 1
        body_bytes += length
    writer.close()
    return requests, body_bytes


@contextmanager
def gateway(folder: Path) -> Iterator[tuple[int, int]]:
    """A gateway process over the log of a folder; its port and pid."""
    ready = folder / "gateway.ready"
    environment = {
        **os.environ,
        "PROVLEDGER_GATEWAY_DATA_DIR": str(folder / "data"),
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
