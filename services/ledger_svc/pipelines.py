"""The pipelines of a process (`append`), one for each ledger that was appended to of late."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from ledger_svc.append import Pipeline
from ledger_svc.chain import EMPTY_HEAD, Head, LedgerInfo
from ledger_svc.outcomes import Outcome
from ledger_svc.tools import Tools
from ledger_svc.witnessing import Pending

_MOST_PIPELINES: Final = 5000
"""Idle ones make way for more."""


class Appender:
    """Finds the pipeline of a ledger, or makes one; lets go of those that are idle for longest."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        # By ledger, the one longest not appended to first.
        self._pipelines: OrderedDict[bytes, Pipeline] = OrderedDict()
        # What those acknowledged that were let go of: little, and never to be forgotten.
        self._acknowledged: dict[bytes, Head] = {}

    async def append(self, ledger: LedgerInfo, items: Sequence[Pending]) -> list[Outcome]:
        """Record admitted drafts in a ledger; see `Pipeline.append`."""
        return await self._pipeline(ledger).append(items)

    def _pipeline(self, ledger: LedgerInfo) -> Pipeline:
        pipeline = self._pipelines.get(ledger.uid)
        if pipeline is None:
            self._make_room()
            acknowledged = self._acknowledged.pop(ledger.uid, EMPTY_HEAD)
            pipeline = self._pipelines[ledger.uid] = Pipeline(ledger, self._tools, acknowledged)
        self._pipelines.move_to_end(ledger.uid)
        return pipeline

    def _make_room(self) -> None:
        """Let go of pipelines that were not used for longest and are idle."""
        while len(self._pipelines) >= _MOST_PIPELINES:
            uid, oldest = next(iter(self._pipelines.items()))
            if not oldest.idle:
                # One more, then; the next time, the next one is looked at.
                self._pipelines.move_to_end(uid)
                return
            del self._pipelines[uid]
            if oldest.acknowledged != EMPTY_HEAD:
                self._acknowledged[uid] = oldest.acknowledged

    async def close(self) -> None:
        """Flush what waits everywhere."""
        await asyncio.gather(*(pipeline.close() for pipeline in self._pipelines.values()))
