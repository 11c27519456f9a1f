"""Latency at a steady rate: from an append to its receipt, and to a signed checkpoint in hand.

Arrival times are fixed in advance, and latency is counted from them: a stall is counted, not
hidden. "In hand" is the receipt with its proof and the checkpoint that the proof leads to.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from provledger.client import AnchorState, AsyncClient
from tests.bench.endtoend import LEDGER, mutations
from tests.bench.timing import summary_ms


async def steady(
    client: AsyncClient, first: int, rate_per_s: int, seconds: float, *, checkpoint: bool = False
) -> dict[str, Any]:
    """Append at a fixed rate; the latencies, in milliseconds."""
    count = int(rate_per_s * seconds)
    begin_s = time.perf_counter() + 0.1
    appended: list[float] = []
    logged: list[float] = []

    async def one(number: int, draft: Any) -> None:
        due_s = begin_s + number / rate_per_s
        await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
        if not checkpoint:
            await client.append(LEDGER, draft)
            appended.append(time.perf_counter() - due_s)
            return
        done = await client.append(LEDGER, draft, wait_for=AnchorState.LOGGED)
        while not done.proofs:
            # The anchor was too busy to prove it in time: it is asked for again, and counted.
            done = await client.wait_for_anchor(done.name, state=AnchorState.LOGGED)
        logged.append(time.perf_counter() - due_s)

    drafts = list(mutations(first, count))
    await asyncio.gather(*(one(number, draft) for number, draft in enumerate(drafts)))
    result = {
        "rate_per_s": rate_per_s,
        "achieved_per_s": round(count / (time.perf_counter() - begin_s)),
    }
    if checkpoint:
        return {**result, "append_to_checkpoint": summary_ms(logged)}
    return {**result, "append": summary_ms(appended)}
