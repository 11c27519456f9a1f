"""Requests that are small on the wire and large once they are parsed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from anchor_svc.convert import LIMITS as ANCHOR_LIMITS
from ledger_svc.admission import LIMITS as LEDGER_LIMITS
from ledger_svc.admission import MAX_BATCH_ITEMS
from provledger.api.anchor.v1 import anchor_pb2
from provledger.api.common.v1 import common_pb2
from provledger.api.keys.v1 import keys_pb2
from provledger.api.ledger.v1 import ledger_pb2
from provledger.api.witness.v1 import witness_pb2
from provledger.errors import StatusError
from provledger.rpc.bounds import bounded
from witness_svc.convert import limits as witness_limits

LIMITS = {**LEDGER_LIMITS, **ANCHOR_LIMITS, **witness_limits(1000)}
MANY = 100_000
DRAFTS = 0x12
DRAFT_ORIGIN = 0x1A
EVENTS = 0x1A


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def held(tag: int, data: bytes) -> bytes:
    return bytes([tag]) + varint(len(data)) + data


class Parsed(Exception):
    """The request would have been parsed."""


def parse(message: Any, data: bytes) -> Any:
    """Raises Parsed where the generated code would be asked."""

    class Stand:
        DESCRIPTOR = message.DESCRIPTOR

        @classmethod
        def FromString(cls, data: bytes) -> Any:
            raise Parsed

    return bounded(Stand.FromString, LIMITS)(data)


BOMBS: dict[str, tuple[Any, bytes, str]] = {
    "drafts": (ledger_pb2.AppendBatchRequest, b"\x12\x00" * MANY, "INVALID_BATCH_SIZE"),
    "tags longer than they need be": (
        ledger_pb2.AppendBatchRequest,
        b"\x92\x80\x80\x80\x00\x00" * MANY,
        "INVALID_BATCH_SIZE",
    ),
    "lengths longer than they need be": (
        ledger_pb2.AppendBatchRequest,
        b"\x12\x80\x00" * MANY,
        "INVALID_BATCH_SIZE",
    ),
    "drafts behind others": (
        ledger_pb2.AppendBatchRequest,
        held(0x0A, b"x" * 300) + b"\x18\x01" + b"\x12\x00" * MANY,
        "INVALID_BATCH_SIZE",
    ),
    "drafts before nonsense": (
        ledger_pb2.AppendBatchRequest,
        b"\x12\x00" * MANY + b"\xff",
        "INVALID_BATCH_SIZE",
    ),
    "drafts in a stream": (
        ledger_pb2.AppendStreamRequest,
        b"\x22\x00" * MANY,
        "INVALID_BATCH_SIZE",
    ),
    "unknown fields": (ledger_pb2.AppendRequest, b"\x78\x01" * MANY, "MALFORMED_REQUEST"),
    "events that one draft names": (
        ledger_pb2.AppendRequest,
        held(DRAFTS, held(DRAFT_ORIGIN, held(EVENTS, b"") * MANY)),
        "MALFORMED_REQUEST",
    ),
    "contents of one draft": (
        ledger_pb2.AppendRequest,
        held(DRAFTS, b"\x3a\x00\x42\x00" * MANY),
        "MALFORMED_REQUEST",
    ),
    "events that drafts name": (
        ledger_pb2.AppendBatchRequest,
        held(DRAFTS, held(DRAFT_ORIGIN, held(EVENTS, b"") * 600)) * 500,
        "MALFORMED_REQUEST",
    ),
    "items": (witness_pb2.WitnessBatchRequest, b"\x22\x00" * MANY, "INVALID_BATCH_SIZE"),
    "entries": (anchor_pb2.SubmitLeavesRequest, b"\x2a\x00" * MANY, "INVALID_FIELD"),
    "seqs": (anchor_pb2.BatchGetInclusionProofsRequest, b"\x18\x01" * MANY, "INVALID_FIELD"),
    "packed seqs": (
        anchor_pb2.BatchGetInclusionProofsRequest,
        held(0x1A, b"\x01" * MANY),
        "INVALID_FIELD",
    ),
    "endorsements": (keys_pb2.EndorseKeyEventRequest, b"\x12\x00" * MANY, "MALFORMED_REQUEST"),
    "sizes of logs": (
        keys_pb2.ReportSignerRequest,
        held(0x0A, b"\x22\x00" * MANY),
        "MALFORMED_REQUEST",
    ),
    "sizes of logs, a few at a time": (
        keys_pb2.ReportSignerRequest,
        held(0x0A, b"\x22\x00" * 15_000) * 30,
        "MALFORMED_REQUEST",
    ),
    "an event's sizes": (
        anchor_pb2.SignKeyEventRequest,
        held(0x0A, b"\x72\x00" * MANY),
        "MALFORMED_REQUEST",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_request_that_holds_too_much_is_refused_unparsed(name: str) -> None:
    message, data, reason = BOMBS[name]
    with pytest.raises(StatusError) as caught:
        parse(message, data)
    assert (caught.value.code, caught.value.reason) == ("INVALID_ARGUMENT", reason)


def full_batch() -> bytes:
    one = common_pb2.Draft(
        request_id="r" * 36,
        origin=common_pb2.Origin(service="s", upstream_events=["e" * 100] * 16),
        mutation=common_pb2.Mutation(resource_type="T", new_state=b"x" * 5000),
    )
    request = ledger_pb2.AppendBatchRequest(ledger="l", drafts=[one] * (MAX_BATCH_ITEMS + 1))
    return request.SerializeToString()


def full_report() -> bytes:
    sizes = [keys_pb2.LogSize(origin=f"log.example/{n:0100}", size=n) for n in range(10_000)]
    signer = keys_pb2.Signer(watcher="w", instance="i", log_sizes=sizes)
    return keys_pb2.ReportSignerRequest(signer=signer).SerializeToString()


def full_rebuild() -> bytes:
    return keys_pb2.RebuildRegistryRequest(
        payloads=[b"p" * 200] * 10_000, receipts=["r" * 40] * 10_000, pin=b"p" * 32
    ).SerializeToString()


@pytest.mark.parametrize(
    ("message", "data"),
    [
        # One too many too: what is wrong then, the service says in full.
        (ledger_pb2.AppendBatchRequest, full_batch),
        (keys_pb2.ReportSignerRequest, full_report),
        (keys_pb2.RebuildRegistryRequest, full_rebuild),
        (
            anchor_pb2.BatchGetInclusionProofsRequest,
            lambda: anchor_pb2.BatchGetInclusionProofsRequest(
                log="l" * 40_000, seqs=range(2**62, 2**62 + 1000)
            ).SerializeToString(),
        ),
        (ledger_pb2.AppendRequest, lambda: held(DRAFTS, held(0x3A, held(0x2A, b"x" * 10**6)))),
    ],
)
def test_requests_as_large_as_they_may_be_are_parsed(
    message: Any, data: Callable[[], bytes]
) -> None:
    assert bounded(message.FromString, LIMITS)(data()) == message.FromString(data())


@pytest.mark.parametrize(
    "end",
    [
        b"\x12",  # no length
        b"\x12\xff\xff\xff\xff\x0f",  # a length beyond the end
        b"\x12\x80",  # half a length
        b"\x80",  # half a tag
        b"\xff" * 20,  # a tag without an end
        b"\x08" + b"\xff" * 20,  # a number without an end
        b"\x0e\x00",  # no such type
        b"\x0d\x00",  # four bytes, of which one is here
    ],
)
def test_what_is_malformed_is_left_to_the_parser(end: bytes) -> None:
    start = held(0x0A, b"x" * 40_000)
    with pytest.raises(Parsed):
        parse(ledger_pb2.AppendBatchRequest, start + end)
    with pytest.raises(Parsed):
        parse(ledger_pb2.AppendBatchRequest, start + held(DRAFTS, held(0x0A, b"x" * 2000) + end))
