"""The client processes of a load, from their parent: started, ordered about, added up."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from provledger_cli.failures import CommandError
from provledger_cli.load.histogram import Histogram
from provledger_cli.load.kept import Kept

KEEPS_UP: Final = 0.9
"""Part of the requests that a service answers while a step lasts, if it keeps up."""
LATE_MS: Final = 20.0
"""A generator that sends one request in a hundred later than this was the bottleneck itself."""
START_IN_S: Final = 0.2
"""A step begins so long after it was ordered: all processes have heard of it then."""
_READY_S: Final = 60.0
LINE_BYTES: Final = 8 * 1024 * 1024
"""Longest line of a client process."""


@dataclass(slots=True)
class Step:
    """What one step came to, over all processes. `rate_per_s` is what was meant to be sent."""

    rate_per_s: float
    seconds: float
    sent: int = 0
    answered: int = 0
    in_time: int = 0
    """Of these, before the step's time was up."""
    receipts: int = 0
    not_sent: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    """Requests by reason: of a batch, if any of it was (see `worker.Tally`)."""
    drafts: int = 0
    drafts_refused: Counter[str] = field(default_factory=Counter)
    drafts_failed: Counter[str] = field(default_factory=Counter)
    latency: Histogram = field(default_factory=Histogram)
    answer: Histogram = field(default_factory=Histogram)
    refusal: Histogram = field(default_factory=Histogram)
    lateness: Histogram = field(default_factory=Histogram)
    by_kind: dict[str, Histogram] = field(default_factory=dict)
    by_ledger: dict[str, Histogram] = field(default_factory=dict)
    longest_gap_s: float = 0.0
    cpu_s: float = 0.0
    """Processor time of the client processes."""
    name: str = ""
    """What the step is for, where it is not one of a sweep."""

    def add(self, tally: Mapping[str, Any]) -> None:
        """Add what one process counted."""
        self.sent += tally["sent"]
        self.answered += tally["answered"]
        self.in_time += tally["in_time"]
        self.receipts += tally["receipts"]
        self.not_sent += tally["not_sent"]
        self.refused.update(tally["refused"])
        self.failed.update(tally["failed"])
        self.drafts += tally["drafts"]
        self.drafts_refused.update(tally["drafts_refused"])
        self.drafts_failed.update(tally["drafts_failed"])
        self.latency.add(Histogram.from_json(tally["latency"]))
        self.answer.add(Histogram.from_json(tally["answer"]))
        self.refusal.add(Histogram.from_json(tally["refusal"]))
        self.lateness.add(Histogram.from_json(tally["lateness"]))
        for mine, theirs in ((self.by_kind, "by_kind"), (self.by_ledger, "by_ledger")):
            for name, each in tally[theirs].items():
                mine.setdefault(name, Histogram()).add(Histogram.from_json(each))
        self.longest_gap_s = max(self.longest_gap_s, tally["longest_gap_s"])
        self.cpu_s += tally["cpu_s"]

    @property
    def answered_per_s(self) -> float:
        """Requests answered with a receipt for each draft, a second of the step."""
        return self.answered / self.seconds

    @property
    def throughput_per_s(self) -> float:
        """Requests answered a second while the step lasted: without what was queued up then."""
        return self.in_time / self.seconds

    @property
    def kept_up(self) -> bool:
        """Whether nine in ten of what was due were answered while the step lasted, of those that
        could be: what takes as long as the quickest answer cannot, if it is due later."""
        due = self.sent + self.not_sent
        part = max(0.0, 1.0 - self.latency.quantile_ms(0.0) / 1000 / self.seconds)
        return not due or (self.in_time > 0 and self.in_time >= KEEPS_UP * part * due)

    @property
    def late(self) -> bool:
        """Whether the generator did not keep up, so that latencies are partly its own."""
        return self.not_sent > 0 or self.lateness.quantile_ms(0.99) > LATE_MS

    def document(self) -> dict[str, Any]:
        """For the JSON report: latencies count from when a request was due, answers and refusals
        from when it was sent; between them lies what the generator was late."""
        return {
            "rate_per_s": self.rate_per_s,
            "seconds": self.seconds,
            "sent": self.sent,
            "answered": self.answered,
            "answered_per_s": round(self.answered_per_s, 1),
            "in_time": self.in_time,
            "kept_up": self.kept_up,
            "throughput_per_s": round(self.throughput_per_s, 1),
            "receipts_per_s": round(self.receipts / self.seconds, 1),
            "refused": dict(self.refused),
            "failed": dict(self.failed),
            "drafts": {
                "sent": self.drafts,
                "receipts": self.receipts,
                "refused": dict(self.drafts_refused),
                "failed": dict(self.drafts_failed),
            },
            "not_sent": self.not_sent,
            "latency_ms": self.latency.summary(),
            "answer_ms": self.answer.summary(),
            "refusal_ms": self.refusal.summary(),
            "by_kind_ms": {name: each.summary() for name, each in self.by_kind.items()},
            "by_ledger_ms": {name: each.summary() for name, each in self.by_ledger.items()},
            "longest_gap_ms": round(self.longest_gap_s * 1000, 3),
            "lateness_ms": self.lateness.summary(),
            "generator_late": self.late,
            "client_cpu_s": round(self.cpu_s, 3),
            **({"name": self.name} if self.name else {}),
        }


class Fleet:
    """Client processes; `setup` is what `worker.work` is given, with a tag that they share."""

    def __init__(self, processes: int, setup: Mapping[str, Any]) -> None:
        self._count = processes
        self._setup = setup
        self._processes: list[asyncio.subprocess.Process] = []
        self.ended_s = time.monotonic()
        """Until when the last step sends, by the monotonic clock."""

    async def __aenter__(self) -> Fleet:
        """Start the processes and wait until each has reached the services.

        Raises:
            CommandError: one of them did not.
        """
        try:
            for number in range(self._count):
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "provledger_cli.load.worker"),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    limit=LINE_BYTES,
                )
                self._processes.append(process)
                tag = f"{self._setup['tag']}-{number}"
                await _write(process, {**self._setup, "tag": tag})
            async with asyncio.timeout(_READY_S):
                for process in self._processes:
                    await _read(process)
        except TimeoutError:
            await self._stop()
            raise CommandError(
                "the services cannot be reached", hint="see `provledger status`"
            ) from None
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the processes."""
        await self._stop()

    async def run(
        self,
        rate_per_s: float,
        seconds: float,
        seed: str,
        timeout_s: float,
        on_progress: Callable[[Step], None],
        *,
        hold_back: bool = False,
    ) -> Step:
        """Run one step; every process sends its part of the rate.

        hold_back: as the Python client does (`provledger.throttle`).

        Raises:
            CommandError: a process ended.
        """
        latest: list[Mapping[str, Any] | None] = [None] * self._count
        start_s = time.monotonic() + START_IN_S
        self.ended_s = start_s + seconds

        async def one(number: int, process: asyncio.subprocess.Process) -> None:
            order = {
                "start_s": start_s,
                "rate_per_s": rate_per_s / self._count,
                "seconds": seconds,
                "seed": f"{seed}/{rate_per_s}/{number}",
                "timeout_s": timeout_s,
                "hold_back": hold_back,
            }
            await _write(process, order)
            while True:
                said = await _read(process)
                latest[number] = said.get("result") or said["progress"]
                if "result" in said:
                    return
                so_far = min(seconds, max(0.001, time.monotonic() - start_s))
                on_progress(_sum(rate_per_s, so_far, latest))

        try:
            async with asyncio.TaskGroup() as group:
                for number, process in enumerate(self._processes):
                    group.create_task(one(number, process))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return _sum(rate_per_s, seconds, latest)

    async def kept(self, into: dict[str, Kept]) -> None:
        """Add what the processes were given receipts for, by ledger; if they were set up for it.

        Raises:
            CommandError: a process ended.
        """
        for process in self._processes:
            await _write(process, {"kept": True})
            while (said := await _read(process))["kept"] is not None:
                into.setdefault(said["ledger"], Kept()).merge(said["kept"])

    async def _stop(self) -> None:
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.close()
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        await asyncio.gather(*(process.wait() for process in self._processes))


def _sum(rate_per_s: float, seconds: float, tallies: list[Mapping[str, Any] | None]) -> Step:
    step = Step(rate_per_s, seconds)
    for tally in tallies:
        if tally is not None:
            step.add(tally)
    return step


async def _write(process: asyncio.subprocess.Process, value: Mapping[str, Any]) -> None:
    assert process.stdin is not None  # noqa: S101 - it was asked for
    process.stdin.write(json.dumps(value).encode() + b"\n")
    with contextlib.suppress(ConnectionError):
        await process.stdin.drain()


async def _read(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdout is not None  # noqa: S101 - it was asked for
    line = await process.stdout.readline()
    if not line:
        raise CommandError(
            f"a client process ended by itself, with {await process.wait()}",
            hint="what it said stands above",
        )
    said: dict[str, Any] = json.loads(line)
    return said
