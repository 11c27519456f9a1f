"""The client where a quota refuses drafts in the middle of streams, over a real socket."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from ledger_svc import gate
from provledger.client import AppendResult, AsyncClient, Mutation, stream
from provledger.statement import read_bound
from tests.integration.client_simulator import create
from tests.support.ledgering import LEDGER, ledger_service, served_at, verify_all

QUOTA = 100
STREAMED = 150
BATCHED = 60
SINGLE = 20


def _drafts(kind: str, count: int) -> list[Mutation]:
    return [create(n, request_id=f"{kind}-{n}") for n in range(count)]


def _recorded(results: list[AppendResult], drafts: list[Mutation]) -> Iterator[tuple[str, int]]:
    """The request id and the place of each, once it is sure that all were recorded just now."""
    assert [result.index for result in results] == list(range(len(drafts)))
    for result, draft in zip(results, drafts, strict=True):
        assert result.error is None
        assert result.summary is not None
        assert result.request_id == draft.request_id
        # What the service turned away was not recorded, and nothing else is sent again.
        assert not result.repeated
        yield result.request_id, result.summary.seq


@pytest.mark.parametrize(("seed", "window"), [(1, 512), (2, 16)])
async def test_streams_that_the_quota_cuts_keep_their_order_beside_other_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, window: int
) -> None:
    """Two streams of one tenant, batches and single appends: each draft is answered once and is in
    the ledger once, and what was sent on one stream is there in the order it was sent."""
    # The service waits for nothing: each portion beyond the quota ends its stream.
    monkeypatch.setattr(gate, "MAX_QUOTA_WAIT_S", 0.0)
    opened = 0
    hold, before_retry = gate.Gate.stream, stream._before_retry
    # Set by each result, and by each stream that was cut and waits to be opened again.
    moved = asyncio.Event()

    def counted(self: gate.Gate, tenant: str) -> AbstractContextManager[None]:
        nonlocal opened
        opened += 1
        return hold(self, tenant)

    async def telling(*args: Any) -> None:
        moved.set()
        await before_retry(*args)

    monkeypatch.setattr(gate.Gate, "stream", counted)
    monkeypatch.setattr(stream, "_before_retry", telling)
    rng = random.Random(seed)
    streams = [_drafts(f"stream{n}", STREAMED) for n in range(2)]
    batches = [_drafts(f"batch{n}", rng.randrange(1, BATCHED)) for n in range(3)]
    singles = _drafts("single", SINGLE)
    acknowledged: dict[str, int] = {}

    async def bit_by_bit(drafts: Iterable[Mutation]) -> AsyncIterator[Mutation]:
        """Some while the ones before are answered, or wait for the stream to be opened again."""
        for draft in drafts:
            yield draft
            if rng.random() < 0.1:
                moved.clear()
                await moved.wait()

    async def streamed(drafts: list[Mutation], source: Any, window: int) -> None:
        results = []
        async for result in client.append_stream(LEDGER, source, window=window):
            moved.set()
            results.append(result)
        places = list(_recorded(results, drafts))
        assert places == sorted(places, key=lambda place: place[1])
        acknowledged.update(places)

    async def batch(drafts: list[Mutation]) -> None:
        acknowledged.update(_recorded(await client.append_batch(LEDGER, drafts), drafts))

    async def single(draft: Mutation) -> None:
        acknowledged[draft.request_id] = (await client.append(LEDGER, draft)).seq

    url = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    async with (
        ledger_service(url, tenant_quotas={"acme": (str(QUOTA),)}) as service,
        served_at(service) as endpoint,
        AsyncClient(endpoint) as client,
        asyncio.timeout(60),
    ):
        work = [
            streamed(streams[0], streams[0], window),
            streamed(streams[1], bit_by_bit(streams[1]), 512),
            *map(batch, batches),
            *map(single, singles),
        ]
        rng.shuffle(work)
        await asyncio.gather(*work)
        listed = [receipt async for receipt in client.list_receipts(LEDGER)]
        assert [receipt.seq for receipt in listed] == list(range(len(listed)))
        # The first one is that of the ledger itself.
        places = {read_bound(each.statement).request_id: each.seq for each in listed[1:]}
        assert places == acknowledged
        assert len(places) == len(listed) - 1 == sum(map(len, [*streams, *batches, singles]))
        assert (await verify_all(service)).checked_count == len(listed)
    # Both were cut, and more than once together.
    assert opened >= 5
