"""How far a ledger's receipts have got: logged, published, held by every sink."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from provledger.api.anchor.v1 import anchor_pb2
from provledger.client import Ledger
from provledger_cli.connect import Remote

DEFAULT_LOG = "logs/-"
"""The log that ledgers share."""

_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class LogState:
    """A log's sizes; `anchored_size` is None where no sinks are configured."""

    name: str
    origin: str
    tree_size: int
    published_size: int
    anchored_size: int | None

    @property
    def all_anchored(self) -> bool:
        """Whether every sink, if there are any, holds all that is logged."""
        return self.anchored_size is None or self.anchored_size >= self.tree_size


async def log_state(
    remote: Remote, *, name: str = DEFAULT_LOG, timeout_s: float | None = None
) -> LogState:
    """The state of a log."""
    request = anchor_pb2.GetLogRequest(name=name)
    log = (await remote.call(remote.anchor.GetLog, request, timeout_s=timeout_s)).log
    return LogState(
        name=log.name,
        origin=log.origin,
        tree_size=log.tree_size,
        published_size=log.published_size,
        anchored_size=None if log.anchored_size < 0 else log.anchored_size,
    )


async def ledgers(remote: Remote) -> list[Ledger]:
    """All ledgers there are."""
    return [ledger async for ledger in remote.client.list_ledgers(page_size=1000)]


async def wait_until_anchored(
    remote: Remote,
    timeout_s: float,
    *,
    only: str = "",
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[Ledger], LogState, bool]:
    """Wait until what is recorded now, in one ledger or in all, is held by every sink.

    `on_progress` is told how many of how many receipts are. Returns the last state seen, and
    whether it was reached in time.
    """
    deadline_s = time.monotonic() + timeout_s
    goals: dict[str, int] | None = None
    goal_size = 0
    while True:
        found = [await remote.client.get_ledger(only)] if only else await ledgers(remote)
        name = found[0].log or DEFAULT_LOG if only else DEFAULT_LOG
        log = await log_state(remote, name=name)
        if goals is None:
            goals = {ledger.name: ledger.seq for ledger in found}
        logged = {ledger.name: ledger.logged_seq for ledger in found}
        open_seqs = sum(max(0, seq - logged.get(name, seq)) for name, seq in goals.items())
        total = sum(goals.values()) + len(goals)
        if open_seqs:
            goal_size = 0
        elif not goal_size:
            # All is logged: what the log holds now is what the sinks have to reach.
            goal_size = (await log_state(remote, name=name)).tree_size
        anchored = log.anchored_size is None or log.anchored_size >= goal_size
        if not open_seqs and anchored:
            on_progress(total, total)
            return found, log, True
        on_progress(min(total - open_seqs, total - 1), total)
        if time.monotonic() >= deadline_s:
            return found, log, False
        await asyncio.sleep(_POLL_S)
