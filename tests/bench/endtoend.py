"""What all four services and a client do together on one machine (design §10)."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from provledger.client import AsyncClient, Mutation
from tests.bench.processor import Meter
from tests.bench.timing import at_rest, summary_ms

LEDGER = "tenants/bench/ledgers/main"
BATCH = 500
IN_FLIGHT = 6
WARM_UP = 2_000

RARE = 500
"""Every so many mutations one has an actor and an operation of its own; the rest are one bot's."""
CHILDREN = 9
"""So many after it name its operation as their parent."""
SHARING = 40
"""So many mutations in a row share an upstream event."""


def actor_of(index: int) -> str:
    """Who made a mutation."""
    return "bot" if index % RARE else f"person-{index}"


def op_of(index: int) -> str:
    """The operation of a mutation that has one."""
    return f"op-{index}"


def event_of(index: int) -> str:
    """The event upstream of a mutation."""
    return f"git:{index // SHARING:040x}"


def mutations(first: int, count: int) -> Iterator[Mutation]:
    """Yield CREATE mutations, all different, the patch left to the witness.

    A draft takes about 520 bytes as a message, of which 380 are the new state.
    """
    filler = "x" * 300
    for index in range(first, first + count):
        place = index % RARE
        state = {"name": f"release-{index}", "date": "2024-01-02", "notes": filler, "n": index}
        yield Mutation(
            action="CREATE",
            resource_type="Version",
            resource_id=f"product-{index % 1000}/{index}",
            actor_id=actor_of(index),
            actor_type="service",
            request_id=f"bench-{index}",
            new_state=json.dumps(state).encode(),
            upstream_events=(event_of(index),),
            op_id="" if place else op_of(index),
            op_parent_id=op_of(index - place) if 0 < place <= CHILDREN else "",
            occurred_at="2024-01-02T03:04:05+01:00",
        )


@contextmanager
def services(
    data_dir: Path, database_url: str | None, environment: Mapping[str, str] | None = None
) -> Iterator[dict[str, Any]]:
    """Run the four services on a data directory; yields what `endpoints.json` says."""
    own = {**os.environ, **(environment or {})}
    command = [sys.executable, "-m", "provledger_cli"]
    options = ["--data-dir", str(data_dir)]
    url = [] if database_url is None else ["--database-url", database_url]
    subprocess.run([*command, "up", *options, *url], check=True, stdout=subprocess.DEVNULL, env=own)
    try:
        yield json.loads((data_dir / "endpoints.json").read_text())["services"]
    finally:
        subprocess.run([*command, "down", *options], check=True, stdout=subprocess.DEVNULL)


@asynccontextmanager
async def client_of(
    running: dict[str, Any], *, share_calls: bool = True
) -> AsyncIterator[AsyncClient]:
    """Open a client and make the benchmark's ledger."""
    endpoint = running["ledger"]["endpoint"]
    async with AsyncClient(endpoint, share_calls=share_calls) as client:
        await client.create_ledger("bench")
        yield client


async def batched(
    client: AsyncClient, first: int, count: int, ledger: str = LEDGER, *, size: int = BATCH
) -> dict[str, Any]:
    """Append in batches, several in flight; every answer means durable and witnessed."""
    batches = batches_of(first, count, size)
    with at_rest():
        start = time.perf_counter()
        durations = await send(client, ledger, batches)
        seconds = time.perf_counter() - start
    return {"receipts_per_s": round(count / seconds), **summary_ms(durations)}


def batches_of(first: int, count: int, size: int = BATCH) -> list[list[Mutation]]:
    """Mutations as they go into calls."""
    drafts = list(mutations(first, count))
    return [drafts[start : start + size] for start in range(0, count, size)]


async def send(client: AsyncClient, ledger: str, batches: list[list[Mutation]]) -> list[float]:
    """Append batches, several in flight; how long each call took, in seconds."""
    left = list(batches)
    durations: list[float] = []

    async def worker() -> None:
        while left:
            batch = left.pop(0)
            start = time.perf_counter()
            results = await client.append_batch(ledger, batch)
            durations.append(time.perf_counter() - start)
            failed = [result.error for result in results if result.error is not None]
            if failed:
                raise failed[0]

    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    return durations


async def singles(client: AsyncClient, first: int, count: int, flight: int) -> dict[str, Any]:
    """Append one by one with so many calls in flight."""
    drafts = iter(list(mutations(first, count)))
    durations: list[float] = []

    async def worker() -> None:
        for draft in drafts:
            start = time.perf_counter()
            await client.append(LEDGER, draft)
            durations.append(time.perf_counter() - start)

    start = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(flight)))
    seconds = time.perf_counter() - start
    return {"receipts_per_s": round(count / seconds), **summary_ms(durations)}


async def streamed(client: AsyncClient, first: int, count: int) -> dict[str, Any]:
    """Append through one bidirectional stream."""
    drafts = list(mutations(first, count))
    start = time.perf_counter()
    answered = 0
    async for result in client.append_stream(LEDGER, drafts):
        if result.error is not None:
            raise result.error
        answered += 1
    return {"receipts_per_s": round(answered / (time.perf_counter() - start))}


async def until_logged(client: AsyncClient) -> float:
    """Return the seconds until a signed checkpoint covers everything appended."""
    start = time.perf_counter()
    while True:
        ledger = await client.get_ledger(LEDGER)
        if ledger.logged_seq == ledger.seq:
            return time.perf_counter() - start
        await asyncio.sleep(0.02)


async def page_of_100(client: AsyncClient, rounds: int) -> dict[str, float]:
    """List 100 receipts with statements, payloads and proofs, at different places."""
    durations = []
    token = ""
    for _ in range(rounds):
        start = time.perf_counter()
        page = await client.list_page(LEDGER, page_size=100, page_token=token)
        durations.append(time.perf_counter() - start)
        token = page.next_page_token
    return summary_ms(durations)


def memory_mib(running: dict[str, Any]) -> dict[str, float]:
    """Return the resident memory of each service, now and at its highest, in MiB."""
    found = {}
    for name, service in running.items():
        status = Path(f"/proc/{service['pid']}/status")
        if not status.exists():
            continue
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        found[name] = round(int(fields["VmRSS"].split()[0]) / 1024, 1)
        found[f"{name}_peak"] = round(int(fields["VmHWM"].split()[0]) / 1024, 1)
    return found


def stored_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder, as they are allocated on disk."""
    return sum(os.stat(path).st_blocks * 512 for path in folder.rglob("*") if path.is_file())


async def run(data_dir: Path, database_url: str | None, *, full: bool) -> dict[str, Any]:
    """Run all of them on one backend."""
    from tests.bench import lineage, writers
    from tests.bench.latency import steady

    count = 100_000 if full else 20_000
    with services(data_dir, database_url) as running:
        async with client_of(running) as client:
            result: dict[str, Any] = {"warm_up": await batched(client, 0, WARM_UP)}
            result["batched_500"] = await Meter(running).of(
                count, batched(client, 1_000_000, count)
            )
            result["seconds_until_logged"] = round(await until_logged(client), 3)
            for flight in (1, 8, 64):
                number = (count // 20) * min(flight, 4)
                result[f"single_{flight}_in_flight"] = await Meter(running).of(
                    number, singles(client, 2_000_000 + flight * 100_000, number, flight)
                )
            async with client_of(running, share_calls=False) as unshared:
                number = count // 5
                result["single_64_own_calls"] = await Meter(running).of(
                    number, singles(unshared, 3_000_000, number, 64)
                )
            result["stream"] = await Meter(running).of(count, streamed(client, 9_000_000, count))
            await until_logged(client)
            seconds = 30 if full else 6
            result["steady_200"] = await steady(client, 10_000_000, 200, seconds)
            result["steady_500"] = await steady(client, 11_000_000, 500, seconds, checkpoint=True)
            with tempfile.TemporaryDirectory() as folder:
                result["two_writers"] = await writers.two_against_one(
                    running, client, Path(folder), database_url, count // 2
                )
                result["event_loops"] = await writers.loops(
                    running, data_dir, Path(folder), count // 2
                )
            await until_logged(client)
            result["page_of_100_with_proofs"] = await page_of_100(client, 40)
            # What was appended first is numbered from 0.
            result["list_by_actor"] = await lineage.by_actor(client, WARM_UP, 40)
            result["lineage_walk"] = await lineage.walk(client, WARM_UP)
            ledger = await client.get_ledger(LEDGER)
            result["receipts"] = ledger.seq + 1
            result["memory_mib"] = memory_mib(running)
    result["bytes_per_receipt"] = bytes_per_receipt(data_dir, database_url, result["receipts"])
    return result


def bytes_per_receipt(data_dir: Path, database_url: str | None, count: int) -> dict[str, int]:
    """Return what `count` receipts take in the database and in tiles, for each."""
    if database_url is None:
        database = stored_bytes(data_dir / "db")
    else:
        database = _postgres_bytes(database_url)
    tiles = stored_bytes(data_dir / "tiles")
    return {"database": round(database / count), "tiles": round(tiles / count)}


def _postgres_bytes(url: str) -> int:
    import sqlalchemy as sa

    engine = sa.create_engine(url)
    with engine.connect() as connection:
        size = connection.execute(sa.text("SELECT pg_database_size(current_database())")).scalar()
    engine.dispose()
    return int(size or 0)
