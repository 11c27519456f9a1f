"""Where a stream's drafts come from: a source may block, fail or yield nonsense, and is heard."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from provledger.client import AsyncClient, Client
from provledger.errors import IdentifierError, InvalidArgumentError
from tests.integration.client_simulator import LEDGER, QUICK, FakeLedger, InThread, create, serving


def test_a_source_that_yields_none_is_told_and_does_not_end_the_stream_in_silence() -> None:
    def source() -> Iterator[Any]:
        yield create(0)
        yield None
        yield create(2)

    with InThread() as (fake, endpoint), Client(endpoint, policy=QUICK) as client:
        stream = client.append_stream(LEDGER, source())
        assert next(stream).request_id == "r-0"
        with pytest.raises(IdentifierError, match="Mutation or a Document"):
            next(stream)
        assert len(fake.receipts) == 1


async def test_what_is_no_draft_fails_alone_in_a_batch() -> None:
    nothing: Any = None
    fake = FakeLedger()
    async with serving(fake) as endpoint, AsyncClient(endpoint, policy=QUICK) as client:
        results = await client.append_batch(LEDGER, [create(0), nothing, create(2)])
    assert [type(result.error) for result in results] == [
        type(None),
        InvalidArgumentError,
        type(None),
    ]
