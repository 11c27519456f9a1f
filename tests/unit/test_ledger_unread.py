"""What streams may hold whose answers nobody takes: each, a tenant, and all together."""

from __future__ import annotations

import asyncio

from ledger_svc.unread import Unread, Window

MOST = 1000


def window(unread: Unread, tenant: str = "a", drafts: int = 100, size_bytes: int = MOST) -> Window:
    return Window(drafts, size_bytes, unread, tenant)


async def waits(window: Window, drafts: int, size_bytes: int) -> asyncio.Task[None]:
    """An attempt that does not get through."""
    task = asyncio.create_task(window.acquire(drafts, size_bytes))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not task.done()
    return task


async def test_a_window_holds_so_many_drafts_and_bytes() -> None:
    for drafts, size_bytes in ((2, 100), (100, 20)):
        unread = Unread(10 * MOST)
        one = window(unread, drafts=drafts, size_bytes=size_bytes)
        await one.acquire(1, 10)
        await one.acquire(1, 10)
        waiting = await waits(one, 1, 1)
        one.release(1, 10)
        await waiting
        assert unread.size_bytes == 11


async def test_an_empty_window_takes_any_message() -> None:
    unread = Unread(MOST)
    full = window(unread)
    await full.acquire(1, 5 * MOST)
    await window(unread).acquire(1000, 5 * MOST)
    assert unread.size_bytes == 10 * MOST


async def test_streams_of_a_tenant_share_its_part_and_leave_room_for_another() -> None:
    unread = Unread(MOST)
    windows = [window(unread) for _ in range(20)]
    for each in windows:
        await each.acquire(1, 10)
    waiting = []
    for each in windows:
        # Until its part is full, and then each waits.
        while unread.fits("a", 50):
            await each.acquire(1, 50)
        waiting.append(await waits(each, 1, 50))
    assert MOST / 2 < unread.size_bytes <= 3 * MOST / 4
    other = window(unread, "b")
    await other.acquire(1, 10)
    await other.acquire(1, 50)
    # Whoever takes answers lets others go on, not only himself.
    waiting[0].cancel()
    windows[0].close()
    done, _ = await asyncio.wait(waiting[1:], timeout=5, return_when=asyncio.FIRST_COMPLETED)
    assert done
    for task in waiting:
        task.cancel()


async def test_what_is_closed_is_given_back() -> None:
    unread = Unread(MOST)
    one = window(unread)
    await one.acquire(3, 300)
    await one.acquire(3, 300)
    one.release(3, 300)
    one.close()
    assert unread.size_bytes == 0
    assert unread.fits("a", 3 * MOST // 4 - 1)
