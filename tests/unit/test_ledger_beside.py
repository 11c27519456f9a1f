"""Work beside other work: its result, its error, and what becomes of it when nobody wants it."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from ledger_svc.beside import beside


async def test_its_result_and_its_error_are_told_to_who_asks() -> None:
    async def work(fails: bool) -> int:
        await asyncio.sleep(0)
        if fails:
            raise KeyError("no")
        return 7

    async with beside(work(False)) as task:
        assert await task == 7
    with pytest.raises(KeyError):
        async with beside(work(True)) as task:
            await task


async def test_it_is_given_up_with_the_block() -> None:
    async with beside(asyncio.Event().wait()) as task:
        await asyncio.sleep(0)
    await asyncio.wait((task,))
    assert task.cancelled()


@pytest.mark.parametrize("late", [False, True])
async def test_an_error_that_nobody_waits_for_is_not_reported(late: bool) -> None:
    async def work() -> None:
        if late:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise OSError("cut off") from None
        raise OSError("failed")

    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    async with beside(work()) as task:
        await asyncio.sleep(0)
    await asyncio.wait((task,))
    assert not task.cancelled()
    del task
    gc.collect()
    assert not reported
