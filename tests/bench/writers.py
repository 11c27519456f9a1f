"""More services than one of a kind: two writer processes against one, and watched event loops.

A writer process is a ledger service with chains of its own. Here it also has a database of its own
on SQLite, and the other one's on PostgreSQL; witness and anchor are shared.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from provledger.client import AsyncClient
from tests.bench.endtoend import LEDGER, batched, batches_of, mutations, send
from tests.bench.probed import held
from tests.bench.timing import at_rest

START_TIMEOUT_S = 60.0


@contextmanager
def process(
    service: str, folder: Path, settings: Mapping[str, str], report: Path | None = None
) -> Iterator[str]:
    """Run one more service, watched if there is a `report`; yields its endpoint."""
    ready = folder / f"{service}-{os.urandom(4).hex()}.json"
    own = {f"PROVLEDGER_{service}_{name}".upper(): value for name, value in settings.items()}
    own[f"PROVLEDGER_{service.upper()}_READY_FILE"] = str(ready)
    own[f"PROVLEDGER_{service.upper()}_PORT"] = "0"
    module = [f"{service}_svc"] if report is None else ["tests.bench.probed", service, str(report)]
    started = subprocess.Popen([sys.executable, "-m", *module], env={**os.environ, **own})
    try:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not ready.exists():
            if started.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"{service} did not start")
            time.sleep(0.05)
        yield f"127.0.0.1:{json.loads(ready.read_text())['port']}"
    finally:
        started.terminate()
        started.wait(START_TIMEOUT_S)


def _ledger_settings(
    running: dict[str, Any], folder: Path, database_url: str | None
) -> dict[str, str]:
    return {
        "database_url": database_url or f"sqlite:///{folder / 'second.sqlite3'}",
        "witness_endpoint": running["witness"]["endpoint"],
        "anchor_endpoint": running["anchor"]["endpoint"],
        # A database of its own knows nothing of the first one's ledgers.
        "anchor_is_shared": "true",
        "log_format": "json",
        "log_level": "error",
    }


async def two_against_one(
    running: dict[str, Any], client: AsyncClient, folder: Path, url: str | None, count: int
) -> dict[str, Any]:
    """Batched appends through one ledger service, and through two at once."""
    with process("ledger", folder, _ledger_settings(running, folder, url)) as endpoint:
        async with AsyncClient(endpoint) as other:
            await other.create_ledger("bench2")
            ledger = "tenants/bench2/ledgers/main"
            await batched(other, 0, 1_000, ledger)
            one = await batched(client, 20_000_000, count)
            # As for the one, drafts are made before.
            ours, theirs = (batches_of(30_000_000, count) for _ in range(2))
            with at_rest():
                start = time.perf_counter()
                await asyncio.gather(send(client, LEDGER, ours), send(other, ledger, theirs))
                two = 2 * count / (time.perf_counter() - start)
    return {
        "one_per_s": one["receipts_per_s"],
        "two_per_s": round(two),
        "ratio": round(two / one["receipts_per_s"], 2),
    }


async def loops(running: dict[str, Any], data_dir: Path, folder: Path, count: int) -> Any:
    """How long the event loops of witness and ledger are held by batches of 1,000, while these are
    appended: not while the services start and wait."""
    reports = {name: folder / f"{name}-loop.json" for name in ("witness", "ledger")}
    witness_settings = {
        "keys_endpoint": running["keys"]["endpoint"],
        "key_dir": str(data_dir / "keys"),
        "log_level": "error",
    }
    with process("witness", folder, witness_settings, reports["witness"]) as witness:
        shared = {**running, "witness": {"endpoint": witness}}
        settings = _ledger_settings(shared, folder, f"sqlite:///{folder / 'watched.sqlite3'}")
        with process("ledger", folder, settings, reports["ledger"]) as endpoint:
            async with AsyncClient(endpoint) as client:
                await client.create_ledger("bench3")
                ledger = "tenants/bench3/ledgers/main"
                await client.append_batch(ledger, list(mutations(0, 1_000)))
                batches = batches_of(1_000_000, count, 1_000)
                with at_rest():
                    begin_s = time.monotonic()
                    await send(client, ledger, batches)
                    end_s = time.monotonic()
    return {
        name: held(json.loads(report.read_text()), begin_s, end_s)
        for name, report in reports.items()
    }
