"""Calls that are served carefully, whose callers hang up."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from provledger.rpc.careful import carefully
from provledger.rpc.places import Places


class HungUp:
    """The context of a call whose caller has sent a message and left."""

    async def read(self) -> bytes:
        return b"message"

    async def write(self, answer: Any) -> None:
        raise grpc.aio.InternalError("Failed grpc_call_start_batch")


async def test_an_answer_that_cannot_be_sent_is_a_cancelled_call_and_no_error() -> None:
    asked = []

    async def run(request: Any, context: Any) -> bytes:
        asked.append(request)
        return b"answer"

    careful = carefully(
        "/pkg.Service/Method", run, lambda context: "caller", Places(8), limit_s=60.0, answers=True
    )
    with pytest.raises(asyncio.CancelledError):
        await careful(None, HungUp())
    assert asked == [b"message"]
