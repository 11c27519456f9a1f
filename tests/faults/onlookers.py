"""Those who read and watch while services fail, beside the clients that append.

They look up what was acknowledged, by name and in lists, half of the time with its proofs: it must
never be denied. Another one waits until what was acknowledged is anchored, and notes by which
checkpoint it was said to be. Watchers ask for the newest signed checkpoint of each log, and for the
newest signed head of each ledger. All that are shown are noted. So is every refusal that no fault
excuses, whoever hears it, and what cannot be after what was known before it was asked for: a list
without what was acknowledged, a checkpoint that is older than one that was shown.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from provledger import checkpoint, note
from provledger.api.anchor.v1 import anchor_pb2, anchor_pb2_grpc
from provledger.client import AsyncClient, Document, Mutation, ReceiptFilter, ReceiptSummary
from provledger.errors import ProvledgerError, StatusError
from provledger.receipt import Receipt
from provledger.rpc.channel import call
from provledger.rpc.errors import is_retryable
from tests.faults.known import Acknowledged, Anchored, Contradicted, Headed, Refused
from tests.faults.lists import Place, described, lacking, wrong_span
from tests.faults.record import Record

_REMEMBERED = 200
_LOOKED_UP = ("summary", "receipt")
_LISTED = ("list of a resource", "list from a time on")
_AWAITED = "anchored"
_NOT_LOGGED = "LEDGER_NOT_FOUND"
"""Said of a head: the newest checkpoint covers nothing of the ledger."""
_PAGE_SIZES = (7, 500)


class Onlookers:
    """Of one workload, in its event loop.

    `ledgers` and `logs` are watched; `excused` says which refusals the fault may cause.
    """

    def __init__(
        self,
        record: Record,
        seed: str,
        ledgers: Sequence[str],
        logs: Sequence[str],
        excused: Callable[[StatusError], bool],
    ) -> None:
        self._record = record
        self._seed = seed
        self._ledgers = ledgers
        self._logs = logs
        self._excused = excused
        self._remembered: deque[tuple[Acknowledged, Mutation | Document]] = deque(
            maxlen=_REMEMBERED
        )
        # Ledgers of which some client was shown that the log holds something.
        self._logged: set[str] = set()
        self.answered: Counter[str] = Counter()
        """By what they had asked for."""

    def remember(self, item: Acknowledged, draft: Mutation | Document) -> None:
        """Take note of what was acknowledged, and of what had been sent."""
        self._remembered.append((item, draft))

    def excuses(self, error: StatusError) -> bool:
        """Whether it invites to come again, or the fault may cause it."""
        return is_retryable(error) or self._excused(error)

    def refused(self, ledger: str, request_id: str, error: StatusError) -> None:
        """Note a refusal, unless it is excused."""
        if not self.excuses(error):
            self._record.refused(
                Refused(ledger, request_id, error.code, error.reason, error.message)
            )

    def work(
        self, clients: Sequence[AsyncClient], anchor: anchor_pb2_grpc.AnchorServiceStub
    ) -> list[Coroutine[Any, Any, None]]:
        """What each of them does, without end."""
        return [
            self.watch(anchor),
            self.watch_heads(clients),
            self._read(clients),
            self.read_lists(clients),
            self._await_anchored(clients),
        ]

    def awaited(self, *, anchored: bool) -> list[str]:
        """What must be answered once more after a fault, `anchored` if there is an anchor."""
        awaited = [*self._logs, *map(_head_of, self._ledgers)] if anchored else []
        if self._remembered:
            awaited += [*_LOOKED_UP, *_LISTED, *([_AWAITED] if anchored else [])]
        return awaited

    async def _read(self, clients: Sequence[AsyncClient]) -> None:
        """Look up what was acknowledged."""
        rng = random.Random(f"{self._seed} reader")
        while True:
            await asyncio.sleep(0.05)
            if not self._remembered:
                continue
            (item, _), client = rng.choice(self._remembered), rng.choice(clients)
            what = rng.choice(_LOOKED_UP)
            found: ReceiptSummary | Receipt
            try:
                if what == "summary":
                    found = await client.get_summary(item.name)
                else:
                    found = await client.get_receipt(item.name)
                    self._note_proofs(item, found, by_all=False)
            except StatusError as error:
                self.refused(item.ledger, item.request_id, error)
                continue
            assert (found.seq, found.receipt_hash) == (item.seq, item.receipt_hash), item
            self.answered[what] += 1

    async def read_lists(self, clients: Sequence[AsyncClient]) -> None:
        """List what was acknowledged, by its resource and from its time on, in turn.

        Nothing that was acknowledged before a list was asked for may be missing from it.
        """
        rng = random.Random(f"{self._seed} lists")
        for what in itertools.cycle(_LISTED):
            await asyncio.sleep(0.05)
            if not self._remembered:
                continue
            # What was acknowledged last is what a list that ends early lacks.
            newest = rng.random() < 0.5
            item, draft = self._remembered[-1] if newest else rng.choice(self._remembered)
            by_resource = what == _LISTED[0]
            where, known = self._of_resource(item, draft) if by_resource else self._since(item)
            client, size = rng.choice(clients), rng.choice(_PAGE_SIZES)
            try:
                shown = [
                    (each.seq, each.receipt_hash)
                    async for each in client.list_summaries(item.ledger, where, page_size=size)
                ]
            except StatusError as error:
                self.refused(item.ledger, item.request_id, error)
                continue
            wrong = lacking(known, shown) or ("" if by_resource else wrong_span(item.seq, shown))
            if wrong:
                self._record.contradicted(Contradicted(item.ledger, f"{described(where)}: {wrong}"))
            self.answered[what] += 1

    def _of_resource(
        self, item: Acknowledged, draft: Mutation | Document
    ) -> tuple[ReceiptFilter, list[Place]]:
        """Conditions, and what is known to meet them."""
        where = ReceiptFilter(draft.resource_type, draft.resource_id)
        return where, [(item.seq, item.receipt_hash)]

    def _since(self, item: Acknowledged) -> tuple[ReceiptFilter, list[Place]]:
        known = [each for each, _ in self._remembered
                 if each.ledger == item.ledger and each.seq >= item.seq]  # fmt: skip
        where = ReceiptFilter(start_t_ns=item.t_ns)
        return where, [(each.seq, each.receipt_hash) for each in known]

    async def _await_anchored(self, clients: Sequence[AsyncClient]) -> None:
        """Wait until what was acknowledged is held by the sinks."""
        rng = random.Random(f"{self._seed} awaiting")
        while True:
            await asyncio.sleep(0.05)
            if not self._remembered:
                continue
            # The newest: of what is old, it was long said.
            (item, _), client = self._remembered[-1], rng.choice(clients)
            try:
                found = await client.wait_for_anchor(item.name)
            except StatusError as error:
                self.refused(item.ledger, item.request_id, error)
                continue
            assert (found.seq, found.receipt_hash) == (item.seq, item.receipt_hash), item
            assert any(proof.evidence for proof in found.proofs), f"{item}: without evidence"
            self._note_proofs(item, found, by_all=True)
            self.answered[_AWAITED] += 1

    def _note_proofs(self, item: Acknowledged, found: Receipt, *, by_all: bool) -> None:
        """`by_all`: it was waited for that all sinks hold it, not only those that are named."""
        for proof in found.proofs:
            self._logged.add(item.ledger)
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

    async def watch(self, anchor: anchor_pb2_grpc.AnchorServiceStub) -> None:
        """Note every signed checkpoint that is shown."""
        for log in itertools.cycle(self._logs):
            request = anchor_pb2.GetCheckpointRequest(log=log)
            await asyncio.sleep(0.03)
            before = self._record.sizes
            try:
                shown: Any = await call(anchor.GetCheckpoint, request, timeout_s=1.0)  # type: ignore[arg-type]
            except StatusError as error:
                self.refused(log, "", error)
                continue
            self._record.checkpoint(shown.checkpoint)
            self._check_not_older(log, shown.checkpoint, before)
            self.answered[log] += 1

    async def watch_heads(self, clients: Sequence[AsyncClient]) -> None:
        """Note every newest head of a ledger that is shown."""
        rng = random.Random(f"{self._seed} heads")
        for ledger in itertools.cycle(self._ledgers):
            await asyncio.sleep(0.05)
            before, was_logged = self._record.sizes, ledger in self._logged
            try:
                shown = await rng.choice(clients).get_head(ledger)
            except StatusError as error:
                if was_logged or error.reason != _NOT_LOGGED:
                    self.refused(ledger, "", error)
                continue
            self._logged.add(ledger)
            self._record.head(Headed(ledger, shown.head, shown.checkpoint))
            self._check_not_older(ledger, shown.checkpoint, before)
            self.answered[_head_of(ledger)] += 1

    def _check_not_older(self, name: str, signed: bytes, before: dict[str, int]) -> None:
        """Note a checkpoint that is smaller than one that was shown before it was asked for.

        A log that was put back to an older copy may show that, but nobody works meanwhile.
        """
        try:
            found = checkpoint.parse(note.parse(signed).text)
        except ProvledgerError:
            return  # The checker names it.
        if found.size < before.get(found.origin, 0):
            text = f"shows tree size {found.size} after {before[found.origin]} had been shown"
            self._record.contradicted(Contradicted(name, text))


def _head_of(ledger: str) -> str:
    return f"head of {ledger}"
