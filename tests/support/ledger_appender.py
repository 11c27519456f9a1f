"""A process that appends to a ledger, for tests of several at once.

    python -m tests.support.ledger_appender URL NAME BATCHES SIZE

Half of the request ids are its own, half are shared with all others. Prints one JSON object: for
each request id the seq and hash of its receipt and whether it was a repeat.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys

from provledger.errors import StatusError
from tests.support.ledgering import append_batch, draft, ledger_service


async def run(url: str, name: str, batches: int, size: int) -> dict[str, list[object]]:
    rng = random.Random(name)
    found: dict[str, list[object]] = {}
    async with ledger_service(url, create=False) as service:
        for batch in range(batches):
            ids = [f"{name}-{batch}-{n}" for n in range(size // 2)]
            ids += [f"shared-{batch}-{n}" for n in range(size // 2)]
            rng.shuffle(ids)
            while True:
                try:
                    results = await append_batch(service, [draft(item) for item in ids])
                    break
                except StatusError as error:
                    if error.code != "UNAVAILABLE":
                        raise
            for item, result in zip(ids, results, strict=True):
                receipt = result.receipt
                found[item] = [receipt.seq, receipt.receipt_hash.hex(), result.repeated_request]
    return found


if __name__ == "__main__":
    answer = asyncio.run(run(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
    json.dump(answer, sys.stdout)
