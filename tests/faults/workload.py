"""Clients that append without pause while services fail, and record what they are told.

Writers append one by one, in batches and in streams, to several ledgers: mutations, and documents
of JSON and of bytes among them. Whoever hears nothing
sends the same request ids again, now and then to another replica; now and then a writer gives up
as a client does that dies, and nobody ever learns what came of its requests. A reader looks up
what was acknowledged, half of the time with its proofs: it must never be denied. Another one waits
until what was acknowledged is anchored, and notes by which checkpoint it was said to be. A watcher
asks for the newest signed checkpoint of each log. Every one that is shown is noted, and every
refusal that no fault excuses, whoever hears it. Once the fault is over, each of them has to be
answered again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from provledger.api.anchor.v1 import anchor_pb2, anchor_pb2_grpc
from provledger.client import AsyncClient, CallPolicy, Document, Mutation, ReceiptSummary
from provledger.client.drafts import Action
from provledger.errors import StatusError
from provledger.receipt import Receipt
from provledger.rpc.channel import call, channel
from provledger.rpc.errors import is_retryable
from tests.faults.checker import Acknowledged, Anchored, Refused, Sent
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

_REMEMBERED = 200
_LOOKED_UP = ("summary", "receipt")
_AWAITED = "anchored"


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
        self._excused = excused
        self._anchored = anchored
        self._logs = logs
        self._acknowledged: deque[Acknowledged] = deque(maxlen=_REMEMBERED)
        self._worker = Worker("workload", self._main)
        self.acknowledged = 0
        self.failures = 0
        self.answered: Counter[str] = Counter()
        """Of readers and watchers: by what they had asked for."""

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
            watching = [
                asyncio.create_task(self._watch(anchor_pb2_grpc.AnchorServiceStub(anchor))),
                asyncio.create_task(self._read(clients)),
                asyncio.create_task(self._await_anchored(clients)),
            ]
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
        before, deadline_s = Counter(self.answered), clock() + SETTLE_S
        awaited = [*self._logs] if self._anchored else []
        if self._acknowledged:
            awaited += [*_LOOKED_UP, *([_AWAITED] if self._anchored else [])]
        while not any(task.done() for task in watching):
            missing = [what for what in awaited if self.answered[what] == before[what]]
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
            self._acknowledged.extend(received)
            again = []
            for draft, answer in zip(drafts, answers, strict=True):
                if isinstance(answer, StatusError):
                    self.failures += 1
                    if self._excuses(answer):
                        again.append(draft)
                    else:
                        self._refused(ledger, draft.request_id, answer)
            if again and rng.random() < GIVE_UP:
                return
            drafts = again
            if self._worker.stopping and drafts:
                deadline_s = deadline_s or clock() + SETTLE_S
                assert clock() < deadline_s, f"still no answer: {answers[0]}"
            if again:
                await asyncio.sleep(0.05)

    def _excuses(self, error: StatusError) -> bool:
        """Whether it invites to come again, or the fault may cause it."""
        return is_retryable(error) or self._excused(error)

    def _refused(self, ledger: str, request_id: str, error: StatusError) -> None:
        self._record.refused(Refused(ledger, request_id, error.code, error.reason, error.message))

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

    async def _read(self, clients: Sequence[AsyncClient]) -> None:
        """Look up what was acknowledged."""
        rng = random.Random(f"{self._seed} reader")
        while True:
            await asyncio.sleep(0.05)
            if not self._acknowledged:
                continue
            item, client = rng.choice(self._acknowledged), rng.choice(clients)
            what = rng.choice(_LOOKED_UP)
            found: ReceiptSummary | Receipt
            try:
                if what == "summary":
                    found = await client.get_summary(item.name)
                else:
                    found = await client.get_receipt(item.name)
                    self._note_proofs(item, found, by_all=False)
            except StatusError as error:
                if not self._excuses(error):
                    self._refused(item.ledger, item.request_id, error)
                continue
            assert (found.seq, found.receipt_hash) == (item.seq, item.receipt_hash), item
            self.answered[what] += 1

    async def _await_anchored(self, clients: Sequence[AsyncClient]) -> None:
        """Wait until what was acknowledged is held by the sinks."""
        rng = random.Random(f"{self._seed} awaiting")
        while True:
            await asyncio.sleep(0.05)
            if not self._acknowledged:
                continue
            # The newest: of what is old, it was long said.
            item, client = self._acknowledged[-1], rng.choice(clients)
            try:
                found = await client.wait_for_anchor(item.name)
            except StatusError as error:
                if not self._excuses(error):
                    self._refused(item.ledger, item.request_id, error)
                continue
            assert (found.seq, found.receipt_hash) == (item.seq, item.receipt_hash), item
            assert any(proof.evidence for proof in found.proofs), f"{item}: without evidence"
            self._note_proofs(item, found, by_all=True)
            self.answered[_AWAITED] += 1

    def _note_proofs(self, item: Acknowledged, found: Receipt, *, by_all: bool) -> None:
        """`by_all`: it was waited for that all sinks hold it, not only those that are named."""
        for proof in found.proofs:
            self._record.checkpoint(proof.checkpoint)
            if proof.evidence:
                self._record.anchored(
                    Anchored(
                        item.ledger,
                        item.name,
                        item.receipt_hash,
                        proof.log_index,
                        proof.checkpoint,
                        tuple(each.sink for each in proof.evidence),
                        by_all,
                    )
                )

    async def _watch(self, anchor: anchor_pb2_grpc.AnchorServiceStub) -> None:
        """Note every signed checkpoint that is shown."""
        for log in itertools.cycle(self._logs):
            request = anchor_pb2.GetCheckpointRequest(log=log)
            await asyncio.sleep(0.03)
            try:
                shown: Any = await call(anchor.GetCheckpoint, request, timeout_s=1.0)  # type: ignore[arg-type]
            except StatusError as error:
                if not self._excuses(error):
                    self._refused(request.log, "", error)
                continue
            self._record.checkpoint(shown.checkpoint)
            self.answered[log] += 1


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
