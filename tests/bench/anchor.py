"""The anchor alone, in process: how long a leaf takes to a signed checkpoint, how full batches are.

A real log on a real database and real files, its checkpoint key in memory. Leaves arrive one by
one from fifty ledgers, at random (Poisson) at a steady rate. *Commit* is the time from when a leaf
is due to the answer of `submit`, which is what SubmitLeaves calls: the entries and the signed
checkpoint over them are durable. A loop that is late so counts as well.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import uvloop
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

from anchor_svc.openlog import OpenLog
from anchor_svc.sinks import Evidence, PublishedCheckpoint, SinkError
from anchor_svc.storage import Storage
from anchor_svc.storage.sql import SQLStorage
from anchor_svc.submission import Submission, parse_submission
from provledger import telemetry
from provledger.db import is_sqlite
from provledger.hashing import suite
from provledger.tlog_proof import TlogProof, format_tlog_proof
from tests.bench.delay import further_away, slower_commits
from tests.bench.plot import Line, chart
from tests.bench.timing import summary_ms
from tests.support.anchoring import Ledger, TestKeys, running_log

RATES = (50, 100, 200, 500, 1000, 2000, 5000)
LEDGERS = 50
DELAY_S = 0.010
BUDGET_S = 0.008
WARM_UP_S = 1.0


class SlowKeys(TestKeys):
    """Keys whose signatures take 10 ms longer."""

    def __init__(self) -> None:
        super().__init__()
        for signer in self.signers.values():
            plain = signer.sign

            async def sign(message: bytes, plain: Any = plain) -> bytes:
                await asyncio.sleep(DELAY_S)
                signature: bytes = await plain(message)
                return signature

            signer.sign = sign  # type: ignore[method-assign]


@contextmanager
def measured_fill() -> Iterator[dict[str, float]]:
    """Fill and size of the batches that are flushed meanwhile, by the batcher's own metrics."""
    reader = InMemoryMetricReader()
    # Tracing as it would be in production: what samples everything is not measured here.
    tracing = TracerProvider(sampler=TraceIdRatioBased(0.01))
    telemetry.use(tracing, MeterProvider(metric_readers=[reader]))
    found: dict[str, float] = {}
    try:
        yield found
        data = reader.get_metrics_data()
    finally:
        telemetry.shutdown()
    for resource in data.resource_metrics if data else ():
        for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
            if metric.name in ("batch.fill", "batch.items"):
                point: Any = next(iter(metric.data.data_points))
                found[metric.name.removeprefix("batch.")] = round(point.sum / point.count, 3)


def leaves(ledgers: list[Ledger], count: int) -> list[Submission]:
    """The next leaves of these ledgers in turn, each a submission of its own."""
    tree = suite("blake3").tree
    made = []
    for place in range(count):
        ledger = ledgers[place % len(ledgers)]
        seq = len(ledger.entries)
        made.append(parse_submission(ledger.uid, ledger.suite, seq, ledger.grow(1), tree))
    return made


async def at_rate(log: OpenLog, ledgers: list[Ledger], rate: int, seconds: float) -> dict[str, Any]:
    """Submit leaves at a rate; how long each took from when it was due, after a second of warming
    up."""
    rng = random.Random(rate)
    durations: list[float] = []
    tasks: set[asyncio.Task[None]] = set()

    async def one(submission: Submission, due: float, *, count: bool) -> None:
        await log.submit(submission)
        if count:
            durations.append(time.perf_counter() - due)

    async def run(submissions: list[Submission], *, count: bool) -> None:
        due = time.perf_counter()
        for submission in submissions:
            due += rng.expovariate(rate)
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(one(submission, due, count=count))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)

    warm_up = leaves(ledgers, int(rate * WARM_UP_S))
    submissions = leaves(ledgers, int(rate * seconds))
    await run(warm_up, count=False)
    start, cpu = time.perf_counter(), time.process_time()
    with measured_fill() as batches:
        await run(submissions, count=True)
    spent_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    return {
        "rate": rate,
        "reached": round(len(submissions) / spent_s),
        **summary_ms(durations),
        **batches,
        "cpu_ms_per_leaf": round(1000 * cpu_s / len(submissions), 3),
    }


class Away:
    """A sink that is away until it is told to be back; it counts the checkpoints it takes."""

    uri = "away:bench"

    def __init__(self) -> None:
        self.back = False
        self.taken = 0

    async def anchor(self, checkpoint: PublishedCheckpoint) -> Evidence:
        """Take it, if back."""
        if not self.back:
            raise SinkError("away")
        self.taken += 1
        return Evidence("bench", b"%d" % checkpoint.size)

    async def close(self) -> None:
        """Nothing to release."""


async def catch_up(log: OpenLog, ledgers: list[Ledger], count: int, sink: Away) -> dict[str, float]:
    """Log what piled up: in submissions of 1,000, one at a time for each ledger.

    Then the sink is back as well, and is asked at once.
    """
    tree = suite("blake3").tree
    spent = 0.0

    async def relay(ledger: Ledger) -> None:
        for _ in range(count // len(ledgers) // 1000):
            seq = len(ledger.entries)
            entries = ledger.grow(1000)
            submission = parse_submission(ledger.uid, ledger.suite, seq, entries, tree)
            nonlocal spent
            start = time.perf_counter()
            await log.submit(submission)
            spent += time.perf_counter() - start

    before = log.state.signed_size
    for ledger in ledgers:
        await relay(ledger)
    size = log.state.signed_size
    while log.state.published_size < size:  # noqa: ASYNC110 - once a second
        await asyncio.sleep(0.01)
    sink.back = True
    start = time.perf_counter()
    while log.state.anchored_size < size:
        log.relays.retry()
        await asyncio.sleep(0.001)
    return {
        "leaves": size - before,
        "leaves_per_s": round((size - before) / spent),
        "seconds": round(spent, 2),
        "sink_caught_up_ms": round(1000 * (time.perf_counter() - start), 1),
        "sink_took_checkpoints": sink.taken,
    }


async def proof_size(log: OpenLog) -> dict[str, int]:
    """What a proof of one entry in the middle of the log takes."""
    size = log.state.signed_size
    proven = await log.reader.inclusion(size // 2, size)
    hashes = proven.proofs[0].hashes
    path = [hashes[at : at + 32] for at in range(0, len(hashes), 32)]
    text = format_tlog_proof(TlogProof(size // 2, tuple(path), proven.checkpoint.note))
    return {
        "tree_size": size,
        "hashes_bytes": len(hashes),
        "checkpoint_bytes": len(proven.checkpoint.note),
        "tlog_proof_bytes": len(text),
    }


async def _measure(folder: Path, url: str, *, full: bool) -> dict[str, Any]:
    seconds = 10.0 if full else 3.0
    result: dict[str, Any] = {"by_rate": [], "proofs": []}
    ledgers = [Ledger(f"ledger-{number}") for number in range(LEDGERS)]

    def slow(storage: Storage) -> Storage:
        if isinstance(storage, SQLStorage) and is_sqlite(storage.engine):
            slower_commits(storage.engine, DELAY_S)
        return storage

    options: dict[str, Any] = {
        "background": True,
        "publish_interval_s": 1.0,
        "batch_budget_s": BUDGET_S,
    }
    async with running_log(url, folder, **options) as log:
        for rate in RATES:
            result["by_rate"].append(await at_rate(log, ledgers, rate, seconds))
        result["proofs"].append(await proof_size(log))
    distant = nullcontext(url) if url.startswith("sqlite") else further_away(url, DELAY_S)
    with distant as slow_url:
        async with running_log(slow_url, folder, keys=SlowKeys(), wrap=slow, **options) as log:
            result["with_10_ms_added"] = await at_rate(log, ledgers, 1000, seconds)
    # An hour at 100 leaves a second.
    sink, missed = Away(), 360_000 if full else 60_000
    async with running_log(url, folder, sinks=[sink], **options) as log:
        result["catch_up"] = await catch_up(log, ledgers[:10], missed, sink)
        result["proofs"].append(await proof_size(log))
    return result


def run(folder: Path, url: str | None, *, full: bool) -> dict[str, Any]:
    """Run all of it on one database; None for SQLite."""
    folder.mkdir(parents=True, exist_ok=True)
    url = url or f"sqlite:///{folder / 'anchor.sqlite3'}"
    return uvloop.run(_measure(folder, url, full=full))


def plots(results: dict[str, dict[str, Any]]) -> dict[str, str]:
    """SVG charts by file name: commit latency, and fill, against the arrival rate."""
    latency, fill = [], []
    for name, result in results.items():
        rows = result["by_rate"]
        for which in ("p50", "p95"):
            points = [(row["rate"], row[f"{which}_ms"]) for row in rows]
            latency.append(Line(f"{name}, {which}", points))
        fill.append(Line(name, [(row["rate"], row["fill"]) for row in rows]))
    ends = [latency[0].points[0][0], latency[0].points[-1][0]]
    highest = max(y for line in latency for _, y in line.points)
    fill.append(Line("must", [(x, 0.85) for x in ends], dashed=True))
    return {
        "anchor-commit.svg": chart(
            "From when a leaf is due to the signed checkpoint",
            "leaves a second",
            "milliseconds",
            latency,
            y_max=max(16.0, math.ceil(highest / 8) * 8.0),
        ),
        "anchor-fill.svg": chart(
            "Batch fill", "leaves a second", "part of the target", fill, y_max=1.0
        ),
    }
