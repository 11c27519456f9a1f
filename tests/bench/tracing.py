"""What tracing costs: the same work with everything off, and with 1 % of calls sampled.

Spans and metrics go by OTLP to a collector that takes everything and keeps nothing, in this
process. Two installations stand side by side, one of each kind, and short windows of work go to
them in turn, each first as often as the other: the machine's clock changes from second to second.
Compared are neighbours; by the services' processor time, which other work disturbs less than rates.
"""

from __future__ import annotations

import statistics
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc

from provledger.client import AsyncClient
from tests.bench import endtoend
from tests.bench.processor import Meter

WINDOWS = 20
KINDS = ("off", "on")
IN_FLIGHT = 64


class _TakesAll(grpc.GenericRpcHandler):
    def __init__(self) -> None:
        self.calls = 0

    def service(self, handler_call_details: Any) -> Any:
        def take(request: bytes, context: Any) -> bytes:
            self.calls += 1
            return b""

        return grpc.unary_unary_rpc_method_handler(take)


@contextmanager
def _collector() -> Iterator[tuple[_TakesAll, dict[str, str]]]:
    """A collector of everything, and the environment that sends it what services say at 1 %."""
    # Of threads: services hand over what they have left while the loop waits for them to end.
    server, handler = grpc.server(ThreadPoolExecutor(2)), _TakesAll()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield (
        handler,
        {
            "PROVLEDGER_OTEL": "1",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0.01",
        },
    )
    server.stop(0)


@asynccontextmanager
async def _side_by_side(
    folder: Path, traced: dict[str, str]
) -> AsyncIterator[dict[str, tuple[AsyncClient, Meter]]]:
    async with AsyncExitStack() as stack:
        sides = {}
        for name, environment in zip(KINDS, ({}, traced), strict=True):
            running = stack.enter_context(endtoend.services(folder / name, None, environment))
            client = await stack.enter_async_context(endtoend.client_of(running))
            await endtoend.batched(client, 0, 2_000)
            sides[name] = client, Meter(running)
        yield sides


async def off_against_on(folder: Path, count: int) -> dict[str, Any]:
    """Batched and single appends on SQLite, without and with tracing at 1 %; `count` a window."""
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {
        what: {name: [] for name in KINDS} for what in ("batched", "single")
    }
    with _collector() as (handler, traced):
        async with _side_by_side(folder, traced) as sides:
            for number in range(WINDOWS):
                first = 1_000_000 + number * 2 * count
                for name in KINDS if number % 2 else KINDS[::-1]:
                    client, meter = sides[name]
                    work = endtoend.batched(client, first, count)
                    runs["batched"][name].append(await meter.of(count, work))
                for name in KINDS if number % 2 else KINDS[::-1]:
                    client, meter = sides[name]
                    work = endtoend.singles(client, first + count, count // 4, IN_FLIGHT)
                    runs["single"][name].append(await meter.of(count // 4, work))
    return {"exports": handler.calls, **{what: _compared(each) for what, each in runs.items()}}


def _compared(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians of each kind, and what tracing costs by neighbouring windows: quartiles."""
    result: dict[str, Any] = {}
    for field in ("receipts_per_s", "services_cpu_s_per_10k"):
        values = {name: [run[field] for run in runs[name]] for name in KINDS}
        ratios = [on / off for off, on in zip(values["off"], values["on"], strict=True)]
        result[field] = {name: statistics.median(values[name]) for name in KINDS}
        quartiles = statistics.quantiles(ratios, n=4)
        result[f"{field}_on_to_off"] = [round(ratio, 3) for ratio in quartiles]
    return result
