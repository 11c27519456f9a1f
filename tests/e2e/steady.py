"""Appends at a steady rate beside a ceremony, and what became of them."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from itertools import pairwise

from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from provledger.rpc.channel import channel
from tests.e2e.commands import Installation, exported

PER_TICK, TICK_S = 5, 0.01
"""Five appends every 10 ms: 500 a second."""


@dataclass
class Load:
    """What a client saw."""

    done_s: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def longest_gap_s(self) -> float:
        done = sorted(self.done_s)
        return max(after - before for before, after in pairwise(done))


async def append_steadily(address: str, load: Load, stop: asyncio.Event) -> None:
    """Append single drafts at a steady rate, each in one attempt, until `stop`."""
    async with channel(address) as opened:
        stub = ledger_pb2_grpc.LedgerServiceStub(opened)
        await stub.CreateLedger(ledger_pb2.CreateLedgerRequest(parent="tenants/load"))

        async def append(number: int) -> None:
            draft = common_pb2.Draft(
                request_id=f"r-{number}",
                actor=common_pb2.Actor(id="load", type="service"),
                document=common_pb2.Document(
                    receipt_type="load.test",
                    media_type="application/json",
                    payload=b'{"n":%d}' % number,
                    resource_type="Load",
                    resource_id="1",
                ),
            )
            request = ledger_pb2.AppendRequest(
                ledger="tenants/load/ledgers/main", draft=draft, view=common_pb2.RECEIPT_VIEW_BASIC
            )
            try:
                await stub.Append(request, timeout=10.0)
            except Exception as error:  # every failure counts, whatever it is
                load.failed.append(repr(error))
            else:
                load.done_s.append(time.monotonic())

        tasks: list[asyncio.Task[None]] = []
        started_s, number = time.monotonic(), 0
        while not stop.is_set():
            tasks += [asyncio.create_task(append(number + n)) for n in range(PER_TICK)]
            number += PER_TICK
            await asyncio.sleep(max(0.0, started_s + number / PER_TICK * TICK_S - time.monotonic()))
        await asyncio.gather(*tasks)


def address_of(installation: Installation, service: str) -> str:
    known = json.loads(installation.data.endpoints.read_text())
    return str(known["services"][service]["endpoint"])


def verify_all(installation: Installation, tenant: str) -> set[str]:
    """Export and verify with the key ledger alone; the kids that signed."""
    installation.run("export", "--tenant", tenant, "--out", "x.ndjson")
    installation.run("export", "--tenant", "system", "--ledger", "keys", "--out", "k.ndjson")
    installation.run("keys", "jwks", "--out", "j.json")
    pin = (installation.data.path / "key-ledger.pin").read_text().strip()
    # By the key ledger it carries; by that of another file, which a key set must agree with.
    for keys in ((), ("--keys", "j.json", "--key-ledger", "k.ndjson")):
        verdict = installation.run("verify", "x.ndjson", *keys, "--pin", pin, data_dir=False).json
        assert verdict["status"] == "verified"
        outcomes = {each["check"]: each["outcome"] for each in verdict["checks"]}
        assert outcomes["key_ledger"] == "holds"
    return {receipt["kid"] for receipt in exported(installation.work / "x.ndjson")}
