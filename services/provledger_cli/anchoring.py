"""How far a ledger's receipts have got: logged, published, held by every sink."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from provledger.api.anchor.v1 import anchor_pb2
from provledger.client import Ledger
from provledger.errors import StatusError
from provledger_cli.anchors import DEFAULT_LOG, damage_document, listed
from provledger_cli.connect import Remote

_POLL_S = 0.1
_STALE = frozenset({"FAILED_PRECONDITION", "DATA_LOSS"})


@dataclass(frozen=True, slots=True)
class LogState:
    """A log's sizes; `anchored_size` is None where no sinks are configured.

    damage: what is wrong with one that the anchor does not serve, None for the others. Nothing is
        known of its sizes.
    held: why nothing is signed after a restore, "" for the others. Its sizes say nothing of what
        the sinks hold beyond them.
    """

    name: str
    origin: str
    tree_size: int
    published_size: int
    anchored_size: int | None
    damage: dict[str, Any] | None = None
    held: str = ""

    @property
    def all_anchored(self) -> bool:
        """Whether every sink, if there are any, holds all that is logged.

        Of a damaged log, no; nor of one that is held, for the sinks may hold more than it has.
        """
        if self.damage is not None or self.held:
            return False
        return self.anchored_size is None or self.anchored_size >= self.tree_size


async def log_state(
    remote: Remote, *, name: str = DEFAULT_LOG, timeout_s: float | None = None
) -> LogState:
    """The state of a log."""
    request = anchor_pb2.GetLogRequest(name=name)
    return _state((await remote.call(remote.anchor.GetLog, request, timeout_s=timeout_s)).log)


async def all_logs(remote: Remote) -> list[LogState]:
    """The states of all logs: the shared one first, then those of tenants, damaged ones too."""
    shared = await log_state(remote)
    return [shared, *(_state(log) for log in await listed(remote) if log.name != shared.name)]


def unserved(found: Iterable[Ledger], logs: Iterable[LogState]) -> list[str]:
    """Names of logs that ledgers are in and that the anchor does not serve."""
    served = {log.name for log in logs if log.damage is None} | {"", DEFAULT_LOG}
    return sorted({ledger.log for ledger in found} - served)


def well(found: Iterable[Ledger], logs: Iterable[LogState]) -> bool:
    """Whether every ledger takes entries, and no log is damaged or held."""
    return not any(ledger.read_only_reason for ledger in found) and not any(
        log.held or log.damage is not None for log in logs
    )


def _state(log: anchor_pb2.Log) -> LogState:
    return LogState(
        name=log.name,
        origin=log.origin,
        tree_size=log.tree_size,
        published_size=log.published_size,
        anchored_size=None if log.anchored_size < 0 else log.anchored_size,
        damage=damage_document(log),
        held=log.held,
    )


async def ledgers(
    remote: Remote, timeout_s: float | None = None
) -> tuple[list[Ledger], StatusError | None]:
    """The ledgers that are stored, and why there may be more of them; None if there are not.

    timeout_s: for each page, and so for the answer to whether that was the last one.

    Raises:
        StatusError: nothing is listed, for a reason that says nothing of the database.
    """
    found: list[Ledger] = []
    try:
        async for ledger in remote.client.list_ledgers(page_size=1000, timeout_s=timeout_s):
            found.append(ledger)
    except StatusError as error:
        if not found and not is_stale(error):
            raise
        return found, error
    return found, None


def is_stale(error: StatusError) -> bool:
    """Whether an error says that the database is an older copy, rather than that nobody knows."""
    return error.code in _STALE


async def wait_until_anchored(
    remote: Remote,
    timeout_s: float,
    *,
    only: str = "",
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[Ledger], LogState, bool]:
    """Wait until what is recorded now, in one ledger or in all, is held by every sink.

    All means all logs, also those of single tenants; `only` means the log of that ledger. What is
    in a damaged log is never anchored. All means also that nothing is known to be too old, or
    otherwise takes no entries: what such a copy has may well be anchored, and more than that.

    `on_progress` is told how many of how many receipts are. Returns the last state seen, of the
    ledger's log or of the shared one, and whether it was reached in time.
    """
    deadline_s = time.monotonic() + timeout_s
    goals: dict[str, int] | None = None
    goal_sizes: dict[str, int] = {}
    while True:
        missing = None
        if only:
            found = [await remote.client.get_ledger(only)]
        else:
            found, missing = await ledgers(remote)
        logs = (
            [await log_state(remote, name=found[0].log or DEFAULT_LOG)]
            if only
            else [log for log in await all_logs(remote) if log.damage is None]
        )
        if goals is None:
            goals = {ledger.name: ledger.seq for ledger in found}
        logged = {ledger.name: ledger.logged_seq for ledger in found}
        open_seqs = sum(max(0, seq - logged.get(name, seq)) for name, seq in goals.items())
        total = sum(goals.values()) + len(goals)
        if not open_seqs and not goal_sizes:
            # All is logged: what the logs hold now is what the sinks have to reach. Asked for
            # again, since the last entries may have come in between.
            for log in logs:
                goal_sizes[log.name] = (await log_state(remote, name=log.name)).tree_size
        anchored = all(
            log.anchored_size is None or log.anchored_size >= goal_sizes.get(log.name, 0)
            for log in logs
        )
        whole = bool(only) or (well(found, logs) and not unserved(found, logs))
        if not open_seqs and anchored and whole and missing is None:
            on_progress(total, total)
            return found, logs[0], True
        on_progress(min(total - open_seqs, total - 1), total)
        if time.monotonic() >= deadline_s:
            return found, logs[0], False
        await asyncio.sleep(_POLL_S)
