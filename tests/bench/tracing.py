"""What tracing costs: the same work with everything off, and with 1 % of calls sampled.

Spans and metrics go by OTLP to a collector that takes everything and keeps nothing, in this
process. Both ways are run in turn, some times, and their medians compared by rate and by processor
time of the services, which other work on the machine disturbs less.
"""

from __future__ import annotations

import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from tests.bench import endtoend
from tests.bench.processor import Meter

ROUNDS = 5


class _TakesAll(grpc.GenericRpcHandler):
    def __init__(self) -> None:
        self.calls = 0

    def service(self, handler_call_details: Any) -> Any:
        def take(request: bytes, context: Any) -> bytes:
            self.calls += 1
            return b""

        return grpc.unary_unary_rpc_method_handler(take)


async def off_against_on(folder: Path, count: int) -> dict[str, Any]:
    """Batched and single appends on SQLite, without and with tracing at 1 %."""
    # Of threads: services hand over what they have left while this loop waits for them to end.
    server, handler = grpc.server(ThreadPoolExecutor(2)), _TakesAll()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    traced = {
        "PROVLEDGER_OTEL": "1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.01",
    }
    runs: dict[str, list[dict[str, Any]]] = {"off": [], "on": []}
    for number in range(ROUNDS):
        for name, environment in (("off", {}), ("on", traced)):
            data_dir = folder / f"{name}-{number}"
            with endtoend.services(data_dir, None, environment) as running:
                async with endtoend.client_of(running) as client:
                    await endtoend.batched(client, 0, 2_000)
                    runs[name].append(
                        {
                            "batched": await Meter(running).of(
                                count, endtoend.batched(client, 1_000_000, count)
                            ),
                            "single": await Meter(running).of(
                                count // 2, endtoend.singles(client, 2_000_000, count // 2, 64)
                            ),
                        }
                    )
    server.stop(0)
    result: dict[str, Any] = {"exports": handler.calls}
    for what in ("batched", "single"):
        processor = {
            name: statistics.median(run[what]["services_cpu_s_per_10k"] for run in runs[name])
            for name in runs
        }
        rate = {
            name: statistics.median(run[what]["receipts_per_s"] for run in runs[name])
            for name in runs
        }
        result[what] = {
            "receipts_per_s": rate,
            "services_cpu_s_per_10k": processor,
            "cost_by_rate": round(1 - rate["on"] / rate["off"], 3),
            "cost_by_cpu": round(processor["on"] / processor["off"] - 1, 3),
        }
    return result
