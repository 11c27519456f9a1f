"""Finding what belongs together: by actor, and along upstream events and parent operations.

The ledger service finds receipts by resource, actor, type and time. There is no RPC that follows an
upstream event or an operation: whoever wants their lineage reads the receipts of the time in
question, whole, and joins them. That is what is measured as a walk.
"""

from __future__ import annotations

import json
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from provledger.client import AsyncClient
from provledger.client.values import ReceiptFilter
from tests.bench import endtoend
from tests.bench.timing import summary_ms

PAGE = 500


async def by_actor(client: AsyncClient, count: int, rounds: int) -> dict[str, float]:
    """List the receipts of actors that have one each, among the first `count` mutations."""
    rng = random.Random(count)
    durations = []
    for _ in range(rounds):
        number = rng.randrange(0, count, endtoend.RARE)
        where = ReceiptFilter(actor_id=endtoend.actor_of(number))
        start = time.perf_counter()
        page = await client.list_page(endtoend.LEDGER, where, page_size=100)
        durations.append(time.perf_counter() - start)
        if len(page.receipts) != 1:
            raise RuntimeError(f"{len(page.receipts)} receipts of one actor")
    return summary_ms(durations)


async def walk(client: AsyncClient, count: int) -> dict[str, Any]:
    """Read the first receipts of the ledger, so many, and join them by event and by operation.

    Batches may have overtaken each other, so what is looked up is in the first half.
    """
    start = time.perf_counter()
    by_event: dict[str, list[str]] = defaultdict(list)
    by_parent: dict[str, list[str]] = defaultdict(list)
    read = pages = 0
    token = ""
    while read < count:
        page = await client.list_page(endtoend.LEDGER, page_size=PAGE, page_token=token)
        for receipt in page.receipts:
            predicate = json.loads(receipt.statement).get("predicate", {})
            for event in predicate.get("origin", {}).get("upstream", ()):
                by_event[event].append(receipt.name)
            if parent := predicate.get("opParentId"):
                by_parent[parent].append(receipt.name)
        read += len(page.receipts)
        pages += 1
        token = page.next_page_token
        if not token:
            break
    seconds = time.perf_counter() - start
    _check(by_event, by_parent, count // 2)
    return {
        "receipts": read,
        "pages": pages,
        "seconds": round(seconds, 3),
        "receipts_per_s": round(read / seconds),
    }


def _check(by_event: dict[str, list[str]], by_parent: dict[str, list[str]], below: int) -> None:
    for name, found, expected in _expected(below):
        there = len((by_event if found == "event" else by_parent)[name])
        if there != expected:
            raise RuntimeError(f"{there} receipts of {found} {name}, not {expected}")


def _expected(below: int) -> Iterator[tuple[str, str, int]]:
    for number in range(0, below - endtoend.SHARING, endtoend.RARE):
        event = endtoend.event_of(number)
        yield event, "event", endtoend.SHARING
        yield endtoend.op_of(number), "operation", endtoend.CHILDREN
