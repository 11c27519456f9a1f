"""Clients that append without pause while services fail, and record what they are told.

Writers append one by one, in batches and in streams, to several ledgers: mutations, and documents
of JSON and of bytes among them. Whoever hears nothing
sends the same request ids again, now and then to another replica; now and then a writer gives up
as a client does that dies, and nobody ever learns what came of its requests. Others read and watch
meanwhile (`onlookers`); once the fault is over, each of them has to be answered again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from provledger.api.anchor.v1 import anchor_pb2_grpc
from provledger.client import AsyncClient, CallPolicy, Document, Mutation
from provledger.client.drafts import Action
from provledger.errors import StatusError
from provledger.rpc.channel import channel
from tests.faults.known import Acknowledged, Sent
from tests.faults.onlookers import Onlookers
from tests.faults.record import Record
from tests.faults.worker import Worker

SHARED_LOG = "logs/-"
OWN_LOG = "tenants/initech/ledgers/main"
"""One whose entries go to a log of its tenant's own; the others share one."""
LEDGERS = ("tenants/acme/ledgers/main", "tenants/globex/ledgers/main", OWN_LOG)
POLICY = CallPolicy(timeout_s=2.0, attempt_timeout_s=1.5)
SETTLE_S = 60.0
DOCUMENTS = 0.3
"""Part of the drafts that are documents, and no mutations."""
GIVE_UP = 0.1
"""How often a writer whose call failed never asks again."""


@dataclass(frozen=True, slots=True)
class Load:
    """How hard to work. `pause_s` is the mean time between two calls of one writer."""

    writers: int = 3
    batch: int = 8
    pause_s: float = 0.005


class Workload:
    """Clients of the ledgers at `endpoints`, in a thread of their own, from `start` to `finish`."""

    def __init__(
        self,
        endpoints: Sequence[str],
        anchor: str,
        record: Record,
        seed: str,
        load: Load = Load(),
        ledgers: Sequence[str] = LEDGERS,
        excused: Callable[[StatusError], bool] = lambda error: False,
        anchored: bool = True,
        logs: Sequence[str] = (SHARED_LOG,),
    ) -> None:
        """`seed` is part of each request id; `excused` says which refusals the fault may cause;
        `anchored`, whether there is an anchor at the end; `logs` are watched."""
        self._endpoints = endpoints
        self._anchor = anchor
        self._record = record
        self._seed = seed
        self._load = load
        self._ledgers = ledgers
        self._anchored = anchored
        self._onlookers = Onlookers(record, seed, ledgers, logs, excused)
        self._worker = Worker("workload", self._main)
        self.acknowledged = 0
        self.failures = 0

    def __enter__(self) -> Workload:
        """Start."""
        self._worker.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Finish, unless the test failed already."""
        self._worker.stop()
        if kind is None:
            self.finish()
        else:
            self._worker.tell()

    def finish(self) -> None:
        """Send what is unanswered until it is answered, and read on until all is answered that is
        read, then end; raises what went wrong."""
        self._worker.stop()
        self._worker.join(2 * SETTLE_S + 30.0, "requests stay unanswered after the fault is over")
        self._worker.check()

    def wait_for(self, more: int, timeout_s: float = 60.0) -> None:
        """Wait until that many more receipts are acknowledged."""
        from tests.faults.cluster import eventually

        target = self.acknowledged + more
        eventually(
            lambda: self.acknowledged >= target or not self._worker.running,
            f"{more} receipts are acknowledged",
            timeout_s,
        )
        self._worker.check()
        assert self._worker.running, "the workload ended"

    # --- in the thread

    async def _main(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(AsyncClient(endpoint, policy=POLICY))
                for endpoint in self._endpoints
            ]
            anchor = await stack.enter_async_context(channel(self._anchor))
            stub = anchor_pb2_grpc.AnchorServiceStub(anchor)
            watching = [asyncio.create_task(each) for each in self._onlookers.work(clients, stub)]
            writers = [self._write(clients, number) for number in range(self._load.writers)]
            await asyncio.gather(*writers)
            await self._read_on(watching)
            for task in watching:
                task.cancel()
            ended = await asyncio.gather(*watching, return_exceptions=True)
            for result in ended:
                if not isinstance(result, asyncio.CancelledError | None):
                    raise result

    async def _read_on(self, watching: Sequence[asyncio.Task[None]]) -> None:
        """Wait until readers and watchers are answered again: no refusal is excused for good."""
        clock = asyncio.get_running_loop().time
        answered = self._onlookers.answered
        before, deadline_s = Counter(answered), clock() + SETTLE_S
        awaited = self._onlookers.awaited(anchored=self._anchored)
        while not any(task.done() for task in watching):
            missing = [what for what in awaited if answered[what] == before[what]]
            if not missing:
                return
            assert clock() < deadline_s, f"after the fault nobody is told: {missing}"
            await asyncio.sleep(0.02)

    async def _write(self, clients: Sequence[AsyncClient], number: int) -> None:
        rng = random.Random(f"{self._seed} {number}")
        count = 0
        while not self._worker.stopping:
            ledger = rng.choice(self._ledgers)
            kind = rng.choice((self._single, self._batch, self._stream))
            size = 1 if kind == self._single else rng.randint(1, self._load.batch)
            drafts = [self._draft(f"{number}-{count + n}-{self._seed}", rng) for n in range(size)]
            count += size
            self._record.sent(Sent(ledger, draft) for draft in drafts)
            await self._insist(kind, clients, ledger, drafts, rng)
            await asyncio.sleep(rng.uniform(0, 2 * self._load.pause_s))

    def _draft(self, request_id: str, rng: random.Random) -> Mutation | Document:
        said: Any = {
            "resource_type": rng.choice(("Item", "Version")),
            "resource_id": request_id,
            "actor_id": rng.choice(("writer", "another")),
            "actor_type": rng.choice(("", "service")),
            "request_id": request_id,
            "occurred_at": rng.choice(("", "2024-05-16T01:02:03+01:00")),
            "origin_service": rng.choice(("", "faults")),
            "trace_id": rng.choice(("", f"{rng.getrandbits(127) + 1:032x}")),
            "upstream_events": tuple(f"event-{n}" for n in range(rng.randint(0, 2))),
            "op_id": rng.choice(("", "op")),
        }
        if rng.random() < DOCUMENTS:
            return _document(said, rng)
        before: Any = {"id": request_id, "text": rng.choice("abc") * rng.randint(0, 400)}
        after = {**before, "text": rng.choice("def"), "at": rng.randint(0, 9)}
        action: Action = rng.choice(("CREATE", "CREATE", "UPDATE", "DELETE"))
        return Mutation(
            **said,
            action=action,
            previous_state=None if action == "CREATE" else before,
            new_state=None if action == "DELETE" else after,
            diff=[{"op": "replace", "path": "", "value": after}]
            if action == "UPDATE" and rng.random() < 0.5
            else None,
        )

    async def _insist(
        self,
        kind: Callable[..., Awaitable[Sequence[Acknowledged | StatusError]]],
        clients: Sequence[AsyncClient],
        ledger: str,
        drafts: Sequence[Mutation | Document],
        rng: random.Random,
    ) -> None:
        """Send drafts until each is answered, or give up as somebody does who dies."""
        deadline_s: float | None = None
        clock = asyncio.get_running_loop().time
        while drafts:
            try:
                answers = await kind(rng.choice(clients), ledger, drafts)
            except StatusError as error:
                answers = [error] * len(drafts)
            received = [answer for answer in answers if isinstance(answer, Acknowledged)]
            self._record.acknowledged(received)
            self.acknowledged += len(received)
            again = []
            for draft, answer in zip(drafts, answers, strict=True):
                if isinstance(answer, Acknowledged):
                    self._onlookers.remember(answer, draft)
                    continue
                self.failures += 1
                self._onlookers.refused(ledger, draft.request_id, answer)
                if self._onlookers.excuses(answer):
                    again.append(draft)
            if again and rng.random() < GIVE_UP:
                return
            drafts = again
            if self._worker.stopping and drafts:
                deadline_s = deadline_s or clock() + SETTLE_S
                assert clock() < deadline_s, f"still no answer: {answers[0]}"
            if again:
                await asyncio.sleep(0.05)

    async def _single(
        self, client: AsyncClient, ledger: str, drafts: Sequence[Mutation | Document]
    ) -> list[Acknowledged | StatusError]:
        answers: list[Acknowledged | StatusError] = []
        for draft in drafts:
            try:
                receipt = await client.append(ledger, draft)
            except StatusError as error:
                answers.append(error)
                continue
            answers.append(
                Acknowledged(
                    ledger,
                    draft.request_id,
                    receipt.name,
                    receipt.seq,
                    receipt.t_ns,
                    receipt.receipt_hash,
                )
            )
        return answers

    async def _batch(
        self, client: AsyncClient, ledger: str, drafts: Sequence[Mutation | Document]
    ) -> list[Acknowledged | StatusError]:
        results = await client.append_batch(ledger, drafts)
        return [_answer(ledger, result) for result in results]

    async def _stream(
        self, client: AsyncClient, ledger: str, drafts: Sequence[Mutation | Document]
    ) -> list[Acknowledged | StatusError]:
        answers: list[Acknowledged | StatusError] = []
        stream = client.append_stream(ledger, drafts)
        try:
            async for result in stream:
                answers.append(_answer(ledger, result))
        except StatusError as error:
            answers += [error] * (len(drafts) - len(answers))
        return answers


def _document(said: dict[str, Any], rng: random.Random) -> Document:
    """Bytes, none at all among them, or JSON, not as it is written canonically."""
    receipt_type = rng.choice(("evidence.recovery", "report"))
    if rng.random() < 0.5:
        payload = rng.randbytes(rng.choice((0, 1, 700)))
        media_type = rng.choice(("application/octet-stream", "text/plain"))
    else:
        value = {"z": rng.choice("abc"), "list": [rng.randint(0, 9), None], "a": {"é": True}}
        payload = json.dumps(value, indent=1).encode()
        media_type = rng.choice(("application/json", "application/vnd.faults+json"))
    return Document(**said, receipt_type=receipt_type, media_type=media_type, payload=payload)


def _answer(ledger: str, result: object) -> Acknowledged | StatusError:
    from provledger.client import AppendResult

    assert isinstance(result, AppendResult)
    if result.summary is None:
        assert result.error is not None
        return result.error
    found = result.summary
    return Acknowledged(
        ledger, result.request_id, found.name, found.seq, found.t_ns, found.receipt_hash
    )
