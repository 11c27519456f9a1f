"""Onlookers of tests/faults note what cannot be, after what was known before they asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from provledger.client import Mutation, ReceiptFilter, SignedHead
from provledger.errors import NotFoundError
from tests.faults.known import Acknowledged, History
from tests.faults.onlookers import Onlookers
from tests.faults.record import Record, read
from tests.faults.workload import SHARED_LOG
from tests.support.chain import sample_chain

LEDGER = "tenants/acme/ledgers/main"
CHAIN = sample_chain()
NOTES = [b"", *(CHAIN.checkpoint(size) for size in range(1, 11))]


class _EnoughError(Exception):
    """Nothing more is answered."""


class _Service:
    """Stands in for a client and for the anchor's stub: answers one after the other."""

    def __init__(self, answers: Sequence[Any]) -> None:
        self._answers = iter(answers)
        self.asked: list[ReceiptFilter] = []

    def _answer(self) -> Any:
        answer = next(self._answers, _EnoughError())
        if callable(answer):
            answer = answer()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def GetCheckpoint(self, request: Any, **_: Any) -> Any:
        return SimpleNamespace(checkpoint=NOTES[self._answer()])

    async def get_head(self, ledger: str) -> SignedHead:
        return SignedHead(b"{}", NOTES[self._answer()])

    async def list_summaries(
        self, ledger: str, where: ReceiptFilter, *, page_size: int
    ) -> AsyncIterator[Any]:
        self.asked.append(where)
        for seq in self._answer():
            yield SimpleNamespace(seq=seq, receipt_hash=bytes([seq]) * 32)


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    made = Record(tmp_path / "record")
    yield made
    made.close()


@pytest.fixture
def onlookers(record: Record) -> Onlookers:
    return Onlookers(record, "seed", [LEDGER], [SHARED_LOG], lambda _: False)


def _until_enough(work: Coroutine[Any, Any, None], record: Record) -> History:
    """What is noted until nothing more is answered."""
    with pytest.raises(_EnoughError):
        asyncio.run(work)
    return read(record.path)


@pytest.mark.parametrize("what", ["checkpoints", "heads"])
@pytest.mark.parametrize(
    ("sizes", "noted"),
    [
        ([5, 5, 7], []),
        ([5, 3, 7], ["shows tree size 3 after 5 had been shown"]),
        ([5, 7, 6, 7], ["shows tree size 6 after 7 had been shown"]),
    ],
)
def test_a_checkpoint_older_than_one_that_was_shown_is_noted(
    onlookers: Onlookers, record: Record, what: str, sizes: list[int], noted: list[str]
) -> None:
    service: Any = _Service(sizes)
    heads = what == "heads"
    work = onlookers.watch_heads([service]) if heads else onlookers.watch(service)
    found = _until_enough(work, record)
    assert [each.text for each in found.contradicted] == noted
    assert len(found.heads) == len(sizes) * heads


@pytest.mark.parametrize("meanwhile", [False, True])
def test_a_checkpoint_that_somebody_else_was_shown_counts_if_it_was_before(
    onlookers: Onlookers, record: Record, meanwhile: bool
) -> None:
    def shown_to_another() -> int:
        record.checkpoint(NOTES[9])
        return 5

    if not meanwhile:
        shown_to_another()
    service: Any = _Service([shown_to_another])
    found = _until_enough(onlookers.watch(service), record)
    assert len(found.contradicted) == (not meanwhile)


def test_a_head_is_denied_only_until_the_log_is_known_to_hold_the_ledger(
    onlookers: Onlookers, record: Record
) -> None:
    denied = NotFoundError("LEDGER_NOT_FOUND", "")
    service: Any = _Service([denied, 5, denied])
    found = _until_enough(onlookers.watch_heads([service]), record)
    assert [each.reason for each in found.refused] == ["LEDGER_NOT_FOUND"]


def _acknowledged(seq: int) -> tuple[Acknowledged, Mutation]:
    draft = Mutation(
        action="CREATE",
        resource_type="Item",
        resource_id=f"i-{seq}",
        actor_id="a",
        request_id=f"r-{seq}",
        new_state={},
    )
    name = f"{LEDGER}/receipts/{seq}"
    return Acknowledged(LEDGER, f"r-{seq}", name, seq, 100 + seq, bytes([seq]) * 32), draft


@pytest.mark.parametrize(
    ("by_resource", "from_time", "noted"),
    [
        ([4], [4, 5], []),
        ([4], [4], []),
        ([], [4], ["lists no seq [4], acknowledged before"]),
        ([3], [4], ["lists no seq [4], acknowledged before"]),
        ([4], [], ["lists no seq [4], acknowledged before"]),
        ([4], [4, 6], ["lists seq [4, 6] from seq 4 on"]),
        ([4], [3, 4], ["lists seq [3, 4] from seq 4 on"]),
        ([4], [5, 4], ["lists seq [5, 4] from seq 4 on"]),
    ],
)
def test_a_list_without_what_was_acknowledged_is_noted(
    onlookers: Onlookers,
    record: Record,
    by_resource: list[int],
    from_time: list[int],
    noted: list[str],
) -> None:
    service: Any = _Service([by_resource, from_time])
    onlookers.remember(*_acknowledged(4))
    found = _until_enough(onlookers.read_lists([service]), record)
    assert service.asked[:2] == [ReceiptFilter("Item", "i-4"), ReceiptFilter(start_t_ns=104)]
    assert [each.text.partition(": ")[2] for each in found.contradicted] == noted


def test_a_list_that_ends_before_the_newest_is_noted(onlookers: Onlookers, record: Record) -> None:
    service: Any = _Service([[4], [4, 5]])
    for seq in (6, 5, 4):
        onlookers.remember(*_acknowledged(seq))
    found = _until_enough(onlookers.read_lists([service]), record)
    assert "lists no seq [6], acknowledged before" in found.contradicted[-1].text


def test_what_is_acknowledged_while_a_list_is_read_may_be_missing_from_it(
    onlookers: Onlookers, record: Record
) -> None:
    def meanwhile() -> list[int]:
        onlookers.remember(*_acknowledged(5))
        return [4]

    service: Any = _Service([[4], meanwhile])
    onlookers.remember(*_acknowledged(4))
    assert not _until_enough(onlookers.read_lists([service]), record).contradicted
