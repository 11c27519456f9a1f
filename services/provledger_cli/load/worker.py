"""One client process: `python -m provledger_cli.load.worker`, spoken to in lines of JSON.

In comes first what all steps have in common (`Setup`), then each step as it is to begin. Out goes
`{"ready": true}` once the services were reached, a line of progress twice a second, and after each
step its result. The clock is the system's monotonic one, the same in all processes.

A request is sent when it is due. How late it was sent is measured as well: what the generator
could not keep up with must not be taken for the service's doing, nor be hidden.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import sys
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import grpc

from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from provledger.errors import ResourceExhaustedError, StatusError, UnavailableError
from provledger.names import tenant_of
from provledger.rpc.channel import channel
from provledger.rpc.errors import from_rpc_error, status_from_pb
from provledger.rpc.tls import TLSSettings
from provledger.throttle import THROTTLED, Throttle, Throttles
from provledger_cli.load.histogram import Histogram
from provledger_cli.load.schedule import Arrival, Traffic, arrivals
from provledger_cli.load.shared import SharedAppends

MAX_OUTSTANDING: Final = 20_000
"""Requests without an answer in one process; what is due beyond that is counted as not sent."""
MAX_IN_FLIGHT: Final = 128
"""Of one tenant, in one process that holds back: `CallPolicy.max_in_flight`."""
_PROGRESS_S: Final = 0.5
_FIELDS: Final = 14

clock = time.monotonic


class Tally:
    """What one step came to, in one process. `start_s`, `end_s`: when requests are due."""

    def __init__(self, start_s: float, end_s: float) -> None:
        self._end_s = end_s
        self.sent = self.answered = self.receipts = self.not_sent = self.in_time = 0
        self.refused: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.latency = Histogram()
        self.answer = Histogram()
        self.refusal = Histogram()
        self.lateness = Histogram()
        self.by_kind: dict[str, Histogram] = {}
        self.by_ledger: dict[str, Histogram] = {}
        self.longest_gap_s = 0.0
        self._last_s = start_s
        self._started_cpu_s = time.process_time()

    def done(self, arrival: Arrival, due_s: float, sent_s: float, receipts: int) -> None:
        """Note an answer that came now."""
        now_s = clock()
        self.answer.record(now_s - sent_s)
        took_s = now_s - due_s
        self.answered += 1
        self.in_time += now_s <= self._end_s
        self.receipts += receipts
        self.latency.record(took_s)
        self.by_kind.setdefault(arrival.kind, Histogram()).record(took_s)
        self.by_ledger.setdefault(arrival.ledger, Histogram()).record(took_s)
        self._gap_until(now_s)
        self._last_s = now_s

    def ended(self) -> None:
        """Note that the step is over: who had no more answers had none until its end."""
        self._gap_until(self._end_s)

    def _gap_until(self, now_s: float) -> None:
        self.longest_gap_s = max(self.longest_gap_s, now_s - self._last_s)

    def error(self, error: StatusError, sent_s: float) -> None:
        """Note a refusal (the service had no room) or a failure (anything else).

        What was held back and not sent is no measure of how fast the service refuses.
        """
        if error.code == "RESOURCE_EXHAUSTED":
            self.refused[error.reason] += 1
            if error.reason != THROTTLED:
                self.refusal.record(clock() - sent_s)
        else:
            self.failed[error.reason] += 1

    def to_json(self) -> dict[str, Any]:
        """For the parent."""
        return {
            "sent": self.sent,
            "answered": self.answered,
            "in_time": self.in_time,
            "receipts": self.receipts,
            "not_sent": self.not_sent,
            "refused": dict(self.refused),
            "failed": dict(self.failed),
            "latency": self.latency.to_json(),
            "answer": self.answer.to_json(),
            "refusal": self.refusal.to_json(),
            "lateness": self.lateness.to_json(),
            "by_kind": {name: each.to_json() for name, each in self.by_kind.items()},
            "by_ledger": {name: each.to_json() for name, each in self.by_ledger.items()},
            "longest_gap_s": self.longest_gap_s,
            "cpu_s": time.process_time() - self._started_cpu_s,
        }


class _Stream:
    """An AppendStream of one ledger, kept open; answers come in the order of the drafts."""

    def __init__(self, stub: Any, ledger: str) -> None:
        self._call = stub.AppendStream()
        self._ledger = ledger
        self._waiting: deque[asyncio.Future[common_pb2.AppendResult]] = deque()
        self._writing = asyncio.Lock()
        self._reading = asyncio.create_task(self._read())

    @property
    def broken(self) -> bool:
        return self._reading.done()

    async def append(self, draft: common_pb2.Draft) -> common_pb2.AppendResult:
        answer: asyncio.Future[common_pb2.AppendResult] = asyncio.get_running_loop().create_future()
        request = ledger_pb2.AppendStreamRequest(ledger=self._ledger, draft=draft)
        async with self._writing:
            self._waiting.append(answer)
            await self._call.write(request)
        return await answer

    async def close(self) -> None:
        self._reading.cancel()
        self._call.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        error: StatusError = UnavailableError("STREAM_ENDED", "the stream ended before the answer")
        try:
            async for response in self._call:
                answer = self._waiting.popleft()
                if not answer.done():
                    answer.set_result(response.result)
        except grpc.RpcError as exc:
            error = from_rpc_error(exc)
        for answer in self._waiting:
            if not answer.done():
                answer.set_exception(error)
                answer.exception()


class Connections:
    """One connection for each tenant, as tenants are different programs."""

    def __init__(self, endpoint: str, tls: TLSSettings | None) -> None:
        self._endpoint = endpoint
        self._tls = tls
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._stubs: dict[str, Any] = {}

    def open(self, tenant: str) -> grpc.aio.Channel:
        """The channel of a tenant, which connects when it is first used."""
        if tenant not in self._channels:
            # Channels of one process otherwise share a connection.
            options = [("grpc.use_local_subchannel_pool", 1)]
            opened = channel(self._endpoint, self._tls, options=options)
            self._channels[tenant] = opened
            self._stubs[tenant] = ledger_pb2_grpc.LedgerServiceStub(opened)
        return self._channels[tenant]

    def stub(self, ledger: str) -> Any:
        """The stub for a ledger."""
        tenant = tenant_of(ledger)
        self.open(tenant)
        return self._stubs[tenant]

    def shared(self, timeout_s: float) -> SharedAppends:
        """Appends by clients of their own, which connect when they are first used."""
        return SharedAppends(self._endpoint, self._tls, timeout_s)

    async def close(self) -> None:
        """Close all of them."""
        for opened in self._channels.values():
            await opened.close()


class Sender:
    """Sends requests of all kinds."""

    def __init__(
        self, connections: Connections, traffic: Traffic, tag: str, timeout_s: float
    ) -> None:
        self._connections = connections
        self._traffic = traffic
        self._tag = tag
        self._timeout_s = timeout_s
        self._numbers = itertools.count()
        self._streams: dict[str, _Stream] = {}
        self._states = {size: _state(size) for size, _ in traffic.sizes}
        self._shared = connections.shared(timeout_s)
        self._by_kind: dict[str, Callable[[Arrival], Awaitable[int]]] = {
            "single": self._single,
            "batch": self._batch,
            "stream": self._streamed,
        }

    async def send(self, arrival: Arrival, *, hold_back: bool = False) -> int:
        """Send a request; the receipts in its answer. hold_back: have the client do so, if it is
        one of its own.

        Raises:
            StatusError: it was refused or failed.
        """
        if arrival.kind == "shared":
            number = next(self._numbers)
            request_id, resource_id = f"{self._tag}-{number}", f"{self._tag}/{number}"
            state = self._states[arrival.size_bytes]
            return await self._shared.append(
                arrival.ledger, request_id, resource_id, state, hold_back
            )
        try:
            return await self._by_kind[arrival.kind](arrival)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None

    async def close(self) -> None:
        for stream in self._streams.values():
            await stream.close()
        await self._shared.close()

    async def _single(self, arrival: Arrival) -> int:
        request = ledger_pb2.AppendRequest(
            ledger=arrival.ledger,
            draft=self._draft(arrival.size_bytes),
            view=common_pb2.RECEIPT_VIEW_BASIC,
        )
        await self._connections.stub(arrival.ledger).Append(request, timeout=self._timeout_s)
        return 1

    async def _batch(self, arrival: Arrival) -> int:
        size = arrival.size_bytes
        request = ledger_pb2.AppendBatchRequest(
            ledger=arrival.ledger,
            drafts=[self._draft(size) for _ in range(self._traffic.batch_items)],
        )
        response = await self._connections.stub(arrival.ledger).AppendBatch(
            request, timeout=self._timeout_s
        )
        receipts: int = sum(result.HasField("receipt") for result in response.results)
        if not receipts:
            raise status_from_pb(response.results[0].error)
        return receipts

    async def _streamed(self, arrival: Arrival) -> int:
        stream = self._streams.get(arrival.ledger)
        if stream is None or stream.broken:
            stream = self._streams[arrival.ledger] = _Stream(
                self._connections.stub(arrival.ledger), arrival.ledger
            )
        async with asyncio.timeout(self._timeout_s):
            result = await stream.append(self._draft(arrival.size_bytes))
        if result.HasField("error"):
            raise status_from_pb(result.error)
        return 1

    def _draft(self, size_bytes: int) -> common_pb2.Draft:
        number = next(self._numbers)
        return common_pb2.Draft(
            request_id=f"{self._tag}-{number}",
            actor=common_pb2.Actor(id="provledger-load", type="service"),
            mutation=common_pb2.Mutation(
                action=common_pb2.ACTION_CREATE,
                resource_type="Load",
                resource_id=f"{self._tag}/{number}",
                new_state=self._states[size_bytes],
            ),
        )


def _state(size_bytes: int) -> bytes:
    """A JSON object of about so many bytes and, if it is not tiny, of 15 fields."""
    fields = _FIELDS if size_bytes >= 512 else 1
    state = {f"field{n:02}": "" for n in range(fields)}
    state["kind"] = "load"
    left = max(0, size_bytes - len(json.dumps(state)))
    for n in range(fields):
        state[f"field{n:02}"] = "x" * (left // fields)
    return json.dumps(state).encode()


class _Sending:
    """Sends requests and counts what comes of them. If `hold_back`, as the Python client does."""

    def __init__(self, sender: Sender, tally: Tally, hold_back: bool) -> None:
        self._sender = sender
        self._tally = tally
        self._throttles = Throttles(MAX_IN_FLIGHT) if hold_back else None
        self._rng = random.Random()  # noqa: S311 - chance, not a secret

    async def one(self, arrival: Arrival, due_s: float) -> None:
        """Send one request that is due."""
        tally, sent_s = self._tally, clock()
        tally.lateness.record(sent_s - due_s)
        tally.sent += 1
        throttle: Throttle | None = None
        if self._throttles is not None and arrival.kind in ("single", "batch"):
            throttle = self._throttles.of(tenant_of(arrival.ledger))
        if throttle is not None:
            try:
                throttle.check(sent_s, self._rng.random())
            except ResourceExhaustedError as error:
                tally.error(error, sent_s)
                return
        failed: StatusError | None = None
        try:
            hold_back = self._throttles is not None
            receipts = await self._sender.send(arrival, hold_back=hold_back)
        except StatusError as error:
            tally.error(error, sent_s)
            failed = error
        except TimeoutError:
            tally.failed["no answer"] += 1
        else:
            tally.done(arrival, due_s, sent_s, receipts)
        finally:
            if throttle is not None:
                throttle.ended(clock(), failed)


async def step(sender: Sender, traffic: Traffic, order: dict[str, Any]) -> Tally:
    """Run one step: send what is due when it is due, then wait for what is on its way."""
    tally = Tally(order["start_s"], order["start_s"] + order["seconds"])
    tasks = set[asyncio.Task[None]]()
    sending = _Sending(sender, tally, order.get("hold_back", False))
    start_s = float(order["start_s"])
    progress_s = start_s + _PROGRESS_S

    for arrival in arrivals(traffic, order["rate_per_s"], order["seconds"], order["seed"]):
        due_s = start_s + arrival.at_s
        wait_s = due_s - clock()
        # Always a turn for the loop, so that answers are seen while sending goes on.
        await asyncio.sleep(max(0.0, wait_s))
        if len(tasks) >= MAX_OUTSTANDING:
            tally.not_sent += 1
        else:
            task = asyncio.create_task(sending.one(arrival, due_s))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if clock() >= progress_s:
            progress_s = clock() + _PROGRESS_S
            _say({"progress": tally.to_json()})
    await asyncio.sleep(max(0.0, start_s + order["seconds"] - clock()))
    if tasks:
        await asyncio.wait(set(tasks), timeout=order["timeout_s"])
    for task in tasks:
        tally.failed["no answer"] += 1
        task.cancel()
    tally.ended()
    return tally


async def work(setup: dict[str, Any]) -> None:
    """Reach the services, then run steps as they are ordered, until there are no more."""
    traffic = Traffic.from_json(setup["traffic"])
    paths = [Path(path) if path else None for path in setup["tls"]]
    tls = TLSSettings.from_paths(*paths)
    connections = Connections(setup["endpoint"], tls)
    try:
        for ledger, _ in traffic.ledgers:
            await connections.open(tenant_of(ledger)).channel_ready()
        sender = Sender(connections, traffic, setup["tag"], setup["timeout_s"])
        _say({"ready": True})
        while line := await asyncio.to_thread(sys.stdin.readline):
            tally = await step(sender, traffic, json.loads(line))
            _say({"result": tally.to_json()})
        await sender.close()
    finally:
        await connections.close()


def _say(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Entry point of a client process; it ends with its parent, whose pipe it reads."""
    import uvloop

    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    setup = json.loads(sys.stdin.readline())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work(setup))


if __name__ == "__main__":
    main()
