"""Pages of receipts from the database: by index, by time, by size, and where they stop."""

from __future__ import annotations

from typing import Any

from ledger_svc.chain import LedgerInfo
from ledger_svc.storage import ListQuery, LogRun, PageBounds, Storage
from tests.support.ledger_rows import NOW_NS, append, candidate, make


async def find(
    storage: Storage, ledger: LedgerInfo, query: ListQuery, after: int, bounds: PageBounds
) -> tuple[Any, ...]:
    page = await storage.find_page(ledger.uid, query, after, bounds, full=False)
    return [item.row.seq for item in page.found], page.position, page.ended


async def test_page_says_where_it_stopped(storage: Storage) -> None:
    ledger = await make(storage)
    await append(
        storage,
        ledger,
        *(
            candidate(f"r{n}", actor_id="ab"[n % 2], receipt_type="xy"[n % 3 == 0])
            for n in range(1, 21)
        ),
    )

    async def page(query: ListQuery, after: int, limit: int, most: int) -> tuple[Any, ...]:
        return await find(storage, ledger, query, after, PageBounds(limit, most, 0))

    everything = ListQuery()
    assert await page(everything, -1, 5, 100) == ([0, 1, 2, 3, 4], 4, False)
    assert await page(everything, 15, 5, 100) == ([16, 17, 18, 19, 20], 20, False)
    assert await page(everything, 15, 6, 100) == ([16, 17, 18, 19, 20], 20, True)
    assert (await page(everything, 20, 5, 100))[0] == []
    by_actor = ListQuery(actor_id="a")
    assert await page(by_actor, 0, 3, 100) == ([2, 4, 6], 6, False)
    by_type = ListQuery(receipt_type="y")
    assert await page(by_type, 0, 2, 100) == ([3, 6], 6, False)
    assert await page(by_type, 0, 10, 5) == ([3], 5, False)
    assert await page(by_type, 18, 10, 5) == ([], 20, True)


async def test_whole_receipts_end_a_page_by_their_size(storage: Storage) -> None:
    ledger = await make(storage)
    await append(storage, ledger, *(candidate(f"r{n}") for n in range(1, 10)))
    rows = await storage.get_rows(ledger.uid, range(10), full=True)
    sizes = [len(item.row.statement) + len(item.row.payload) for item in rows]

    async def seqs(after: int, size_bytes: int) -> tuple[Any, ...]:
        bounds = PageBounds(10, 100, size_bytes)
        page = await storage.find_page(ledger.uid, ListQuery(), after, bounds, full=True)
        assert [item.row for item in page.found] == [
            item.row for item in rows[after + 1 : after + 1 + len(page.found)]
        ]
        return len(page.found), page.position, page.ended

    assert await seqs(3, sum(sizes[4:7])) == (3, 6, False)
    assert await seqs(3, sum(sizes[4:7]) - 1) == (2, 5, False)
    assert await seqs(3, 0) == (1, 4, False)
    assert await seqs(6, sum(sizes[7:])) == (3, 9, True)
    assert await seqs(6, sum(sizes[7:]) - 1) == (2, 8, False)


async def test_page_is_as_of_one_moment_with_what_is_logged(storage: Storage) -> None:
    ledger = await make(storage)
    await append(storage, ledger, *(candidate(f"r{n}") for n in range(1, 5)))
    await storage.record_runs(ledger.uid, [LogRun(0, 1, 3)], -1, "me", 1.0)
    bounds = PageBounds(10, 100, 0)
    page = await storage.find_page(ledger.uid, ListQuery(), -1, bounds, full=False)
    assert (len(page.found), page.logged_seq) == (5, 2)
    behind = await storage.find_page(ledger.uid, ListQuery(), 4, bounds, full=False)
    assert (behind.found, behind.logged_seq, behind.ended) == ((), 2, True)


async def test_page_by_time_bisects_the_chain(storage: Storage) -> None:
    ledger = await make(storage)
    await append(storage, ledger, *(candidate(f"r{n}") for n in range(1, 100)))

    async def page(start: int, end: int) -> list[int]:
        query = ListQuery(start_t_ns=start, end_t_ns=end)
        seqs, _, _ = await find(storage, ledger, query, -1, PageBounds(1000, 1000, 0))
        return list(seqs)

    # The genesis is at NOW_NS, each receipt a nanosecond later.
    assert await page(NOW_NS + 10, NOW_NS + 20) == list(range(10, 20))
    assert await page(1, NOW_NS) == []
    assert await page(0, NOW_NS + 1) == [0]
    assert await page(NOW_NS + 99, 0) == [99]
    assert await page(NOW_NS + 100, 0) == []
