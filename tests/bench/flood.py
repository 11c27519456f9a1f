"""Single appends in calls of their own by a native client: what can be done, and twice as much.

The client (`tests/support/go/flood`) is in Go and takes a fifth of what one in Python would, but
two cores are shared with it. In rounds: as many as 384 callers get through who send one after the
other; three quarters of that at times fixed in advance, which the services can do; and twice that.
A quiet tenant sends twenty a second, alone and beside it, from a process of his own.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2
from provledger.client import AsyncClient, Mutation
from provledger.client.convert import draft_to_pb
from tests.bench import endtoend
from tests.support.go_tools import CannotBuildError, build

METHOD: Final = "/provledger.api.ledger.v1.LedgerService/Append"
QUIET_TENANT: Final = "quiet"
QUIET: Final = f"tenants/{QUIET_TENANT}/ledgers/main"
QUIET_PER_S: Final = 20
CALLERS: Final = 384
CLOSED_S: Final = 2.5
OPEN_S: Final = 4.0
CAN_DO: Final = 0.75
MOST_PER_S: Final = 8_000
"""Requests that are prepared for a second in which callers send one after the other."""


def write_requests(path: Path, ledger: str, mutations: Iterable[Mutation]) -> None:
    """Requests as the client in Go reads them."""
    with path.open("wb") as file:
        for mutation in mutations:
            request = ledger_pb2.AppendRequest(
                ledger=ledger, draft=draft_to_pb(mutation), view=common_pb2.RECEIPT_VIEW_BASIC
            )
            data = request.SerializeToString()
            file.write(len(data).to_bytes(4, "little") + data)


class Flood:
    """The client in Go, each time with requests that were not sent before."""

    def __init__(self, program: str, target: str, requests: Path) -> None:
        self._command = [program, f"-target={target}", f"-method={METHOD}", f"-requests={requests}"]
        self._sent = 0

    def begin(self, seconds: float, rate_per_s: float) -> subprocess.Popen[str]:
        """Send at a rate, or with 0 as fast as `CALLERS` get through."""
        options = [f"-first={self._sent}", f"-seconds={seconds}", f"-rate={rate_per_s}"]
        self._sent += round(seconds * (rate_per_s or MOST_PER_S))
        command = [*self._command, *options, f"-flight={CALLERS}"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _answers(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, _ = process.communicate(timeout=120)
    found: dict[str, Any] = json.loads(output)
    return {code: {name: round(v, 1) for name, v in each.items()} for code, each in found.items()}


async def run(folder: Path, *, full: bool) -> dict[str, Any]:
    """Measure on SQLite, a few rounds.

    Returns:
        Answers a second and milliseconds by status, for each round, and the middle of the rounds'
        ratios; why not, where there is no Go.
    """
    try:
        program = build("flood")
    except CannotBuildError as error:
        return {"not_measured": str(error)}
    folder.mkdir(parents=True)
    rounds = 6 if full else 3
    # At the rate that can be done, twice it, and twice it once more.
    count = round(MOST_PER_S * (CLOSED_S + 5 * CAN_DO * OPEN_S)) * rounds
    write_requests(folder / "flood", endtoend.LEDGER, endtoend.mutations(0, count))
    write_requests(folder / "quiet", QUIET, endtoend.mutations(0, 200 * rounds * QUIET_PER_S))
    with endtoend.services(folder / "data", None) as running:
        target = running["ledger"]["endpoint"]
        async with endtoend.client_of(running) as client:
            await endtoend.batched(client, 10**8, endtoend.WARM_UP)
            await client.create_ledger(QUIET_TENANT)
            flood = Flood(program, target, folder / "flood")
            quiet = Flood(program, target, folder / "quiet")
            found = [await _round(client, flood, quiet) for _ in range(rounds)]
    return {
        "rounds": found,
        "of_what_can_be_done": statistics.median(each["of_what_can_be_done"] for each in found),
        "quiet_p95_to_alone": statistics.median(each["quiet_p95_to_alone"] for each in found),
    }


async def _round(client: AsyncClient, flood: Flood, quiet: Flood) -> dict[str, Any]:
    closed = await _send(flood, CLOSED_S, 0.0)
    rate_per_s = CAN_DO * closed["OK"]["in_time_per_s"]
    can_do = await _send(flood, OPEN_S, rate_per_s)
    twice = await _send(flood, OPEN_S, 2 * rate_per_s)
    await endtoend.until_logged(client)
    alone = await _send(quiet, OPEN_S, QUIET_PER_S)
    beside = flood.begin(OPEN_S, 2 * rate_per_s)
    crowded = await _send(quiet, OPEN_S - 1.0, QUIET_PER_S)
    await asyncio.to_thread(_answers, beside)
    await endtoend.until_logged(client)
    of_it = twice["OK"]["in_time_per_s"] / can_do["OK"]["in_time_per_s"]
    return {
        "closed": closed,
        "can_do": {"offered_per_s": round(rate_per_s), **can_do},
        "twice": {"offered_per_s": round(2 * rate_per_s), **twice},
        "quiet_alone": alone,
        "quiet_beside_twice": crowded,
        "of_what_can_be_done": round(of_it, 2),
        "quiet_p95_to_alone": round(crowded["OK"]["p95_ms"] / alone["OK"]["p95_ms"], 1),
    }


async def _send(flood: Flood, seconds: float, rate_per_s: float) -> dict[str, Any]:
    return await asyncio.to_thread(_answers, flood.begin(seconds, rate_per_s))
