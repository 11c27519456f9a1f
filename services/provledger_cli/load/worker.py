"""One client process: `python -m provledger_cli.load.worker`, spoken to in lines of JSON.

In comes first what all steps have in common (`Setup`), then each step as it is to begin. Out goes
`{"ready": true}` once the services were reached, a line of progress twice a second, and after each
step its result; `{"kept": true}` is answered by what was acknowledged (`kept`), a line for each
ledger, and `{"kept": null}` behind them. The clock is the system's monotonic one, the same in all
processes.

A request is sent when it is due. How late it was sent is measured as well: what the generator
could not keep up with must not be taken for the service's doing, nor be hidden.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from provledger.errors import ResourceExhaustedError, StatusError
from provledger.names import tenant_of
from provledger.rpc.tls import TLSSettings
from provledger.throttle import THROTTLED, Throttle, Throttles
from provledger_cli.load.histogram import Histogram
from provledger_cli.load.kept import Kept
from provledger_cli.load.schedule import Arrival, Traffic, arrivals
from provledger_cli.load.sender import Answer, Connections, Sender

MAX_OUTSTANDING: Final = 20_000
"""Requests without an answer in one process; what is due beyond that is counted as not sent."""
MAX_IN_FLIGHT: Final = 128
"""Of one tenant, in one process that holds back: `CallPolicy.max_in_flight`."""
NO_ANSWER: Final = "no answer"
"""How it is called that a request was not answered in time."""
_PROGRESS_S: Final = 0.5

clock = time.monotonic


class Tally:
    """What one step came to, in one process. `start_s`, `end_s`: when requests are due.

    Each request that was sent is answered, refused or failed, and so is each draft: a batch is
    answered if all of it is, has failed if any of it has, and was refused otherwise.
    """

    def __init__(self, start_s: float, end_s: float) -> None:
        self._end_s = end_s
        self.sent = self.answered = self.receipts = self.not_sent = self.in_time = 0
        self.refused: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.drafts = 0
        self.drafts_refused: Counter[str] = Counter()
        self.drafts_failed: Counter[str] = Counter()
        self.latency = Histogram()
        self.answer = Histogram()
        self.refusal = Histogram()
        self.lateness = Histogram()
        self.by_kind: dict[str, Histogram] = {}
        self.by_ledger: dict[str, Histogram] = {}
        self.longest_gap_s = 0.0
        self._last_s = start_s
        self._started_cpu_s = time.process_time()

    def begin(self, late_s: float, drafts: int) -> None:
        """Note that a request is sent, so late."""
        self.sent += 1
        self.drafts += drafts
        self.lateness.record(late_s)

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

    def partly(self, answer: Answer, sent_s: float) -> None:
        """Note an answer that came now, with receipts for some drafts or none."""
        now_s = clock()
        if answer.receipts:
            self.receipts += answer.receipts
            self._gap_until(now_s)
            self._last_s = now_s
        for error in answer.errors:
            counts = self.drafts_refused if _is_refusal(error) else self.drafts_failed
            counts[error.reason] += 1
        failed = [error for error in answer.errors if not _is_refusal(error)]
        if failed:
            self.failed[failed[0].reason] += 1
        else:
            self.refused[answer.errors[0].reason] += 1
            self.refusal.record(now_s - sent_s)

    def error(self, error: StatusError, sent_s: float, drafts: int) -> None:
        """Note a refusal (the service had no room) or a failure (anything else).

        What was held back and not sent is no measure of how fast the service refuses.
        """
        if not _is_refusal(error):
            # Who says so is the client: a service that was out of time gives another reason.
            late = error.code == error.reason == "DEADLINE_EXCEEDED"
            self.failure(NO_ANSWER if late else error.reason, drafts)
            return
        self.refused[error.reason] += 1
        self.drafts_refused[error.reason] += drafts
        if error.reason != THROTTLED:
            self.refusal.record(clock() - sent_s)

    def failure(self, why: str, drafts: int) -> None:
        """Note that a request failed."""
        self.failed[why] += 1
        self.drafts_failed[why] += drafts

    def ended(self) -> None:
        """Note that the step is over: who had no more answers had none until its end."""
        self._gap_until(self._end_s)
        came = self.answered + self.refused.total() + self.failed.total()
        drafts = self.receipts + self.drafts_refused.total() + self.drafts_failed.total()
        assert (came, drafts) == (self.sent, self.drafts)  # noqa: S101 - what else became of them

    def _gap_until(self, now_s: float) -> None:
        self.longest_gap_s = max(self.longest_gap_s, now_s - self._last_s)

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
            "drafts": self.drafts,
            "drafts_refused": dict(self.drafts_refused),
            "drafts_failed": dict(self.drafts_failed),
            "latency": self.latency.to_json(),
            "answer": self.answer.to_json(),
            "refusal": self.refusal.to_json(),
            "lateness": self.lateness.to_json(),
            "by_kind": {name: each.to_json() for name, each in self.by_kind.items()},
            "by_ledger": {name: each.to_json() for name, each in self.by_ledger.items()},
            "longest_gap_s": self.longest_gap_s,
            "cpu_s": time.process_time() - self._started_cpu_s,
        }


def _is_refusal(error: StatusError) -> bool:
    return error.code == "RESOURCE_EXHAUSTED"


def _is_cancelled() -> bool:
    """Whether this task was asked to end, and not something that it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class _Sending:
    """Sends requests and counts what comes of them. If `hold_back`, as the Python client does."""

    def __init__(self, sender: Sender, tally: Tally, hold_back: bool) -> None:
        self._sender = sender
        self._tally = tally
        self._throttles = Throttles(MAX_IN_FLIGHT) if hold_back else None
        self._rng = random.Random()  # noqa: S311 - chance, not a secret

    async def one(self, arrival: Arrival, due_s: float) -> None:
        """Send one request that is due."""
        tally, sent_s, drafts = self._tally, clock(), self._sender.drafts_of(arrival)
        tally.begin(sent_s - due_s, drafts)
        throttle: Throttle | None = None
        if self._throttles is not None and arrival.kind in ("single", "batch"):
            throttle = self._throttles.of(tenant_of(arrival.ledger))
        if throttle is not None:
            try:
                throttle.check(sent_s, self._rng.random())
            except ResourceExhaustedError as error:
                tally.error(error, sent_s, drafts)
                return
        failed: StatusError | None = None
        try:
            hold_back = self._throttles is not None
            answer = await self._sender.send(arrival, hold_back=hold_back)
        except StatusError as error:
            tally.error(error, sent_s, drafts)
            failed = error
        except TimeoutError:
            tally.failure(NO_ANSWER, drafts)
        except (Exception, asyncio.CancelledError) as error:
            if _is_cancelled():
                raise
            # A fault of the client's: what is not known to be answered is not. gRPC cancels those
            # that wait for a call which another one gave up.
            tally.failure(type(error).__name__, drafts)
        else:
            if answer.errors:
                tally.partly(answer, sent_s)
                failed = None if answer.receipts else answer.errors[0]
            else:
                tally.done(arrival, due_s, sent_s, answer.receipts)
        finally:
            if throttle is not None:
                throttle.ended(clock(), failed)


async def step(sender: Sender, traffic: Traffic, order: dict[str, Any]) -> Tally:
    """Run one step: send what is due when it is due, then wait for what is on its way."""
    tally = Tally(order["start_s"], order["start_s"] + order["seconds"])
    tasks: dict[asyncio.Task[None], Arrival] = {}
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
            tasks[task] = arrival
            task.add_done_callback(tasks.pop)
        if clock() >= progress_s:
            progress_s = clock() + _PROGRESS_S
            _say({"progress": tally.to_json()})
    await asyncio.sleep(max(0.0, start_s + order["seconds"] - clock()))
    if tasks:
        await asyncio.wait(set(tasks), timeout=order["timeout_s"])
    for task, arrival in tasks.items():
        tally.failure(NO_ANSWER, sender.drafts_of(arrival))
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
        sender = Sender(connections, traffic, setup["tag"], setup["timeout_s"], keep=setup["keep"])
        _say({"ready": True})
        while line := await asyncio.to_thread(sys.stdin.readline):
            order = json.loads(line)
            if "kept" in order:
                say_kept(sender.kept)
                continue
            tally = await step(sender, traffic, order)
            _say({"result": tally.to_json()})
        await sender.close()
    finally:
        await connections.close()


def say_kept(kept: Mapping[str, Kept]) -> None:
    """Tell of each ledger by itself: of all together, a line could be any length."""
    for name, each in kept.items():
        _say({"ledger": name, "kept": each.to_json()})
    _say({"kept": None})


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
