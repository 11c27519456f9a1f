"""The parts of a RebuildRegistryStream, put together again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from keys_svc.registry import MAX_KEYS
from provledger.api.keys.v1 import keys_pb2 as pb
from provledger.errors import DeadlineExceededError, FieldViolation, InvalidArgumentError
from provledger.key_ledger_lines import MAX_KEY_LEDGER_BYTES

MAX_EVENTS: Final = 4 * MAX_KEYS
"""A key is created, rotated in, retired and revoked, and there is one genesis."""
MAX_BYTES: Final = MAX_KEY_LEDGER_BYTES
"""No more is read of a key ledger with all its proofs."""
MAX_PART_EVENTS: Final = 1000
READ_S: Final = 60.0
"""Within that all parts must be here: what came of them is held meanwhile."""


async def put_together(
    parts: AsyncIterator[pb.RebuildRegistryStreamRequest],
) -> pb.RebuildRegistryRequest:
    """All parts as one request, which may be more than a message holds. What is in it is not
    looked at but for its size; the pin is that of the first, which says how many events there are.

    Raises:
        InvalidArgumentError: they are too many, too large, or not as many as the first says: gRPC
            ends what is read here in the same way where a connection is cut.
        DeadlineExceededError: they do not come to their end.
    """
    whole = pb.RebuildRegistryRequest()
    room = MAX_BYTES
    is_first = True
    count = 0
    try:
        async with asyncio.timeout(READ_S):
            async for part in parts:
                if is_first:
                    whole.pin, count, is_first = part.pin, part.event_count, False
                _check("payloads", len(part.payloads), MAX_PART_EVENTS)
                _check("receipts", len(part.receipts), MAX_PART_EVENTS)
                room -= part.ByteSize()
                whole.payloads.extend(part.payloads)
                whole.receipts.extend(part.receipts)
                _check("payloads", len(whole.payloads), MAX_EVENTS)
                _check("receipts", len(whole.receipts), MAX_EVENTS)
                if room < 0:
                    raise _violation("payloads", f"must be at most {MAX_BYTES} bytes in all")
    except TimeoutError:
        raise DeadlineExceededError(
            "DEADLINE_EXCEEDED", f"not all parts came within {READ_S:.0f} s"
        ) from None
    if len(whole.payloads) != count:
        raise _violation("event_count", f"must be as many as payloads, {len(whole.payloads)}")
    return whole


def _check(field: str, count: int, most: int) -> None:
    if count > most:
        raise _violation(field, f"must be at most {most}")


def _violation(field: str, description: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        "INVALID_FIELD",
        f"{field}: {description}",
        metadata={"fields": field},
        violations=[FieldViolation(field, description, "OUT_OF_RANGE")],
    )
