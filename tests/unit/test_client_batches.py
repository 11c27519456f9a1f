"""Any number of drafts is cut into calls that fit the limits, in order."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provledger.api.common.v1 import common_pb2
from provledger.client import batches, calls
from provledger.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    ResourceExhaustedError,
    StatusError,
    UnavailableError,
)
from provledger.retry import RetryPolicy


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
    error = batches.too_large(draft, "drafts[2]")
    assert isinstance(error, InvalidArgumentError)
    assert "drafts[2]" in error.message
    assert batches.too_large(common_pb2.Draft(), "draft") is None


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
    assert calls.is_retryable(error) is again


def test_the_wait_is_never_shorter_than_the_service_asked_for() -> None:
    policy = RetryPolicy(attempts=5, base_s=0.001, cap_s=0.001)
    delays = policy.delays(random.Random(1))
    asked = ResourceExhaustedError("QUEUE_FULL", "x", retry_delay_s=0.7)
    wait_s = calls.next_wait(asked, delays)
    assert wait_s is not None
    assert 0.7 <= wait_s <= 0.9
