"""Any number of drafts is cut into calls that fit the limits, in order."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_svc import answers
from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2
from provledger.client import AppendResult, Document, Draft, batches, calls
from provledger.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    PermissionDeniedError,
    ReceiptFormatError,
    ResourceExhaustedError,
    StatusError,
    UnavailableError,
)
from provledger.retry import RetryPolicy
from provledger.rpc.errors import is_retryable, status_to_pb


def item(index: int, size: int) -> tuple[int, common_pb2.Draft]:
    return index, common_pb2.Draft(op_id="x" * size)


@given(
    sizes=st.lists(st.integers(0, 300), max_size=60),
    max_items=st.integers(1, 10),
    max_bytes=st.integers(1, 1000),
)
def test_split_loses_nothing_keeps_order_and_keeps_its_limits(
    sizes: list[int], max_items: int, max_bytes: int
) -> None:
    items = [item(index, size) for index, size in enumerate(sizes)]
    cut = list(batches.split(items, max_items=max_items, max_bytes=max_bytes))
    assert [one for batch in cut for one in batch] == items
    for batch in cut:
        assert 0 < len(batch) <= max_items
        # A single draft beyond the limit goes alone; otherwise the sum keeps it.
        size = sum(draft.ByteSize() for _, draft in batch)
        assert size <= max_bytes or len(batch) == 1


def test_a_draft_that_no_message_can_carry_is_refused_before_it_is_sent() -> None:
    draft = common_pb2.Draft(op_id="x" * (batches.MAX_DRAFT_BYTES + 1))
    error = batches.too_large(draft.ByteSize(), "drafts[2]")
    assert isinstance(error, InvalidArgumentError)
    assert "drafts[2]" in error.message
    assert batches.too_large(common_pb2.Draft().ByteSize(), "draft") is None


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (UnavailableError("X", "x"), True),
        (ResourceExhaustedError("QUEUE_FULL", "x"), True),
        (DeadlineExceededError("X", "x"), True),
        (ResourceExhaustedError("MESSAGE_TOO_LARGE", "x"), False),
        (InvalidArgumentError("X", "x"), False),
        (InternalError("INTERNAL", "internal error"), False),
        (InternalError("INTERNAL", "Received RST_STREAM with error code 2"), True),
    ],
)
def test_only_what_may_pass_or_was_lost_is_tried_again(error: StatusError, again: bool) -> None:
    assert is_retryable(error) is again


def test_the_wait_is_never_shorter_than_the_service_asked_for() -> None:
    policy = RetryPolicy(attempts=5, base_s=0.001, cap_s=0.001)
    delays = policy.delays(random.Random(1))
    asked = ResourceExhaustedError("QUEUE_FULL", "x", retry_delay_s=0.7)
    wait_s = calls.next_wait(asked, delays)
    assert wait_s is not None
    assert 0.7 <= wait_s <= 0.9


class _Ledger:
    """Answers what `outcomes` says, call by call: an error for all, or one for each draft."""

    def __init__(self, *outcomes: StatusError | list[StatusError | None]) -> None:
        self._outcomes = list(outcomes)
        self.sent: list[list[str]] = []
        self.suite = common_pb2.SUITE_BLAKE3

    async def __call__(
        self, request: ledger_pb2.AppendBatchRequest, left_s: float
    ) -> ledger_pb2.AppendBatchResponse:
        self.sent.append([draft.request_id for draft in request.drafts])
        outcome = self._outcomes.pop(0)
        if isinstance(outcome, StatusError):
            raise outcome
        pairs = zip(request.drafts, outcome, strict=True)
        return ledger_pb2.AppendBatchResponse(
            results=[_result(*pair, self.suite) for pair in pairs]
        )

    async def append(self, *drafts: Draft) -> list[AppendResult]:
        return await batches.append_all(
            self, "a ledger", drafts, full=False, timeout_s=60.0, policy=_AT_ONCE
        )


def _result(
    draft: common_pb2.Draft,
    error: StatusError | None,
    suite: common_pb2.Suite = common_pb2.SUITE_BLAKE3,
) -> common_pb2.AppendResult:
    if error is not None:
        return common_pb2.AppendResult(error=status_to_pb(error))
    receipt = common_pb2.Receipt(
        name=f"a ledger/receipts/{draft.request_id}",
        receipt_type=draft.document.receipt_type,
        suite=suite,
    )
    return common_pb2.AppendResult(receipt=receipt)


def _draft(request_id: str, payload: bytes = b"x") -> Draft:
    return Document(
        receipt_type="evidence.note",
        media_type="text/plain",
        payload=payload,
        resource_type="Note",
        resource_id="1",
        actor_id="tester",
        request_id=request_id,
    )


_AT_ONCE = calls.CallPolicy(retry=RetryPolicy(attempts=100, base_s=0.0, cap_s=0.0, budget_s=60.0))
_BUSY = UnavailableError("LEDGER_BUSY", "not now")
_DENIED = PermissionDeniedError("CALLER_NOT_ALLOWED", "no longer")


async def test_a_call_that_fails_leaves_the_results_there_are() -> None:
    """Whoever made no request ids of his own could only record all of it once more."""
    ledger = _Ledger([None, _BUSY, None], _DENIED)
    results = await ledger.append(*(_draft("") for _ in range(3)))
    assert [result.summary is not None for result in results] == [True, False, True]
    assert isinstance(results[1].error, PermissionDeniedError)
    # It can be sent again as what it was.
    assert ledger.sent[1] == [results[1].request_id] == [ledger.sent[0][1]]


async def test_a_call_that_fails_before_any_answer_says_what_was_sent_under_which_id() -> None:
    ledger = _Ledger(_DENIED)
    with pytest.raises(PermissionDeniedError) as caught:
        await ledger.append(_draft(""), _draft("mine"), _draft("", "no bytes"))  # type: ignore[arg-type]
    made, given, unwritable = caught.value.request_ids
    assert ledger.sent == [[made, given]]
    assert (bool(made), given, unwritable) == (True, "mine", "")


async def test_an_answer_that_cannot_be_read_leaves_the_ids_as_well() -> None:
    """The service may be newer, and have recorded it."""
    ledger = _Ledger([None])
    ledger.suite = 77  # type: ignore[assignment]
    with pytest.raises(ReceiptFormatError) as caught:
        await ledger.append(_draft(""))
    assert ledger.sent == [list(caught.value.request_ids)]


async def test_what_comes_after_a_call_that_failed_is_not_sent() -> None:
    half = b"x" * (batches.MAX_BATCH_BYTES // 2)
    ledger = _Ledger([None], _DENIED)
    results = await ledger.append(*(_draft(f"r{n}", half) for n in range(3)))
    assert ledger.sent == [["r0"], ["r1"]]
    assert [result.index for result in results] == [0, 1, 2]
    assert [result.request_id for result in results] == ["r0", "r1", "r2"]
    assert [result.error is None for result in results] == [True, False, False]


async def test_a_call_that_fails_before_any_answer_is_raised() -> None:
    with pytest.raises(PermissionDeniedError):
        await _Ledger(_DENIED).append(_draft("r0"), _draft("r1"))
    with pytest.raises(PermissionDeniedError):
        await _Ledger([_BUSY, _BUSY], _DENIED).append(_draft("r0"), _draft("r1"))


async def test_what_was_answered_beside_what_is_sent_again_keeps_its_results() -> None:
    results = await _Ledger([None, _BUSY, None], _DENIED).append(*(_draft(f"r{n}") for n in "012"))
    assert [result.error is None for result in results] == [True, False, True]


@pytest.mark.parametrize("full", [False, True])
async def test_calls_keep_to_what_the_service_takes_of_each_view(full: bool) -> None:
    """Of several drafts whose receipts are to come back whole it takes 6 MiB."""
    sizes: list[int] = []

    async def call(
        request: ledger_pb2.AppendBatchRequest, left_s: float
    ) -> ledger_pb2.AppendBatchResponse:
        sizes.append(sum(draft.ByteSize() for draft in request.drafts))
        error = InvalidArgumentError("X", "x")
        results = [_result(draft, error) for draft in request.drafts]
        return ledger_pb2.AppendBatchResponse(results=results)

    drafts = [_draft(f"r{n}", bytes(900_000)) for n in range(12)]
    await batches.append_all(call, "a ledger", drafts, full=full, timeout_s=60.0, policy=_AT_ONCE)
    limit = answers.MAX_FULL_BYTES // 2 if full else 8 * 1024 * 1024
    assert sum(sizes) > 12 * 900_000
    assert max(sizes) <= limit


@pytest.mark.parametrize(
    "error",
    [
        ResourceExhaustedError("MESSAGE_TOO_LARGE", "Received message larger than max"),
        InvalidArgumentError("RESPONSE_TOO_LARGE", "recorded, but too large to be returned"),
    ],
)
async def test_receipts_too_large_for_one_answer_are_asked_for_in_halves(
    error: StatusError,
) -> None:
    """Repeats have their proofs and the evidence of each sink, which no draft tells of."""
    ledger = _Ledger(error, [None, None], error, [None], [None, None])
    results = await ledger.append(*(_draft(f"r{n}") for n in range(5)))
    assert ledger.sent == [
        ["r0", "r1", "r2", "r3", "r4"],
        ["r0", "r1"],
        ["r2", "r3", "r4"],
        ["r2"],
        ["r3", "r4"],
    ]
    assert [(result.index, result.error) for result in results] == [(n, None) for n in range(5)]
    assert [result.request_id for result in results] == [f"r{n}" for n in range(5)]
    # One alone cannot be halved.
    with pytest.raises(type(error)):
        await _Ledger(error).append(_draft("r0"))


_AWAY = UnavailableError("AWAY", "x", retry_delay_s=100.0)
_TOO_LARGE = ResourceExhaustedError("MESSAGE_TOO_LARGE", "Received message larger than max")


@pytest.mark.parametrize(
    ("outcomes", "sent"),
    [
        # The first of the halves of a half, and the second of them.
        ([[None, _AWAY]], [["r0", "r1"]]),
        ([[None, None], [_AWAY, _AWAY]], [["r0", "r1"], ["r2", "r3"]]),
    ],
)
async def test_behind_a_half_that_is_given_up_the_other_is_not_sent(
    outcomes: list[Any], sent: list[list[str]]
) -> None:
    ledger = _Ledger(_TOO_LARGE, _TOO_LARGE, *outcomes)
    results = await ledger.append(*(_draft(f"r{number}") for number in range(8)))
    assert ledger.sent[2:] == sent
    recorded = sum(outcome.count(None) for outcome in outcomes)
    assert [result.error is None for result in results] == [
        number < recorded for number in range(8)
    ]
    assert {result.error.reason for result in results if result.error is not None} == {"AWAY"}
    assert [result.request_id for result in results] == [f"r{number}" for number in range(8)]


async def test_where_time_is_nearly_up_no_draft_goes_again_without_those_before_it() -> None:
    """Whatever the jitter of each: drawn one by one, the first gave up and the second went on."""
    away = UnavailableError("AWAY", "x", retry_delay_s=0.1)
    policy = calls.CallPolicy(retry=RetryPolicy(attempts=5, base_s=0.001, cap_s=0.001))
    names = [f"r{number}" for number in range(5)]
    drafts = [_draft(name) for name in names]
    for _ in range(40):
        ledger = _Ledger([away] * 5, [None] * 5)
        results = await batches.append_all(
            ledger, "a ledger", drafts, full=False, timeout_s=0.113, policy=policy
        )
        assert ledger.sent in ([names], [names] * 2)
        assert len({result.error is None for result in results}) == 1


async def test_behind_a_draft_that_is_given_up_no_later_call_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batches, "split", partial(batches.split, max_items=2))
    away = UnavailableError("AWAY", "x", retry_delay_s=100.0)
    ledger = _Ledger([None, away])
    drafts = [_draft(f"r{number}") for number in range(5)]
    results = await ledger.append(*drafts)
    assert ledger.sent == [["r0", "r1"]]
    assert [result.error is None for result in results] == [True] + [False] * 4
    assert {result.error.reason for result in results if result.error is not None} == {"AWAY"}
