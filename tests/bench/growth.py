"""What a ledger costs as it grows: nothing but the length of proofs should depend on its size.

One ledger is grown to each size in turn; at each, the rate of the last appends, reads at random
places, lists, the length of proofs, bytes stored for a receipt, and memory are taken.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from provledger.client import AsyncClient
from provledger.client.values import ReceiptFilter
from tests.bench import endtoend, lineage
from tests.bench.plot import Line, chart
from tests.bench.processor import Meter
from tests.bench.timing import summary_ms

SIZES = (2_000, 5_000, 20_000)
FULL_SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
WINDOWS = 3
WINDOW = 5_000
"""Appends that a rate at a size is taken over, at most; the middle one of three counts, for the
machine's speed changes."""


async def run(data_dir: Path, database_url: str | None, *, full: bool) -> dict[str, Any]:
    """Grow a ledger on one backend and look at it at each size."""
    rows = []
    with endtoend.services(data_dir, database_url) as running:
        async with endtoend.client_of(running) as client:
            size = 0
            for target in FULL_SIZES if full else SIZES:
                window = min(WINDOW, (target - size) // (WINDOWS + 1))
                size = await _grow(client, size, target - WINDOWS * window)
                appended = []
                for _ in range(WINDOWS):
                    batched = endtoend.batched(client, size, window)
                    appended.append(await Meter(running).of(window, batched))
                    size += window
                await endtoend.until_logged(client)
                rates = sorted(each["receipts_per_s"] for each in appended)
                cpu = sorted(each["services_cpu_s_per_10k"] for each in appended)
                rows.append(
                    {
                        "receipts": size,
                        "appends_per_s": rates[WINDOWS // 2],
                        "appends_per_s_all": rates,
                        "services_cpu_s_per_10k": cpu[WINDOWS // 2],
                    }
                    | await _reads(client, size)
                    | {"memory_mib": endtoend.memory_mib(running)}
                    | {
                        "bytes_per_receipt": endtoend.bytes_per_receipt(
                            data_dir, database_url, size
                        )
                    }
                )
                sys.stderr.write(f"{size:>9,} receipts: {rates[WINDOWS // 2]:,} a second\n")
    return {"by_size": rows}


def plots(result: dict[str, Any]) -> dict[str, str]:
    """Charts by file name: the rate of appends, and what a read costs, against the size."""
    appends, reads, hashes = [], [], []
    for name, found in result.items():
        rows = found["by_size"]
        appends.append(Line(name, [(row["receipts"], row["appends_per_s"]) for row in rows]))
        reads.append(
            Line(name, [(row["receipts"], row["get_with_proof"]["p50_ms"]) for row in rows])
        )
        hashes.append(Line(name, [(row["receipts"], row["longest_proof_hashes"]) for row in rows]))
    size = "receipts in the ledger"
    return {
        "growth-appends.svg": chart(
            "Batched appends as a ledger grows", size, "receipts a second", appends, y_max=16_000
        ),
        "growth-reads.svg": chart(
            "A receipt with its proof, read at random",
            size,
            "milliseconds, p50",
            reads,
            y_max=4 * math.ceil(max(y for line in reads for _, y in line.points) / 4),
        ),
        "growth-proofs.svg": chart(
            "Hashes in the longest inclusion path", size, "hashes", hashes[:1], y_max=24
        ),
    }


async def _grow(client: AsyncClient, size: int, target: int) -> int:
    while size < target:
        count = min(50_000, target - size)
        await endtoend.batched(client, size, count)
        size += count
    return size


async def _reads(client: AsyncClient, size: int) -> dict[str, Any]:
    """Read at random places, each with its proof; lists by resource, actor and time; a walk."""
    rng = random.Random(size)
    page = await client.list_page(endtoend.LEDGER, page_size=200)
    places = list(page.receipts)
    newest = await client.get_ledger(endtoend.LEDGER)
    longest = 0

    async def one() -> None:
        nonlocal longest
        receipt = await client.get_receipt(rng.choice(places).name)
        longest = max(longest, *(len(proof.hashes) for proof in receipt.proofs))

    async def by_resource() -> None:
        # `endtoend.mutations` names a resource by its number.
        number = rng.randrange(size)
        where = ReceiptFilter("Version", f"product-{number % 1000}/{number}")
        found = await client.list_page(endtoend.LEDGER, where, page_size=100)
        if len(found.receipts) != 1:
            raise RuntimeError(f"{len(found.receipts)} receipts of one resource")

    async def by_time() -> None:
        start_ns = rng.randrange(places[0].t_ns, newest_t_ns)
        where = ReceiptFilter(start_t_ns=start_ns)
        found = await client.list_page(endtoend.LEDGER, where, page_size=100)
        places.extend(found.receipts)

    newest_t_ns = time.time_ns() if newest.seq else places[0].t_ns + 1
    return {
        "list_100_by_time": await _timed(by_time, 20),
        "get_with_proof": await _timed(one, 50),
        "list_by_resource": await _timed(by_resource, 50),
        "list_by_actor": await lineage.by_actor(client, size, 50),
        "lineage_walk": await lineage.walk(client, min(size, WINDOW)),
        "longest_proof_hashes": longest,
    }


async def _timed(call: Callable[[], Awaitable[None]], rounds: int) -> dict[str, float]:
    durations = []
    for _ in range(rounds):
        start = time.perf_counter()
        await call()
        durations.append(time.perf_counter() - start)
    return summary_ms(durations)
