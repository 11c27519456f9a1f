"""What the anchor says of its logs and sinks, as commands show it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from provledger.api.anchor.v1 import anchor_pb2 as pb
from provledger.client.paging import Pages
from provledger.errors import DataLossError, NotFoundError, StatusError
from provledger_cli.connect import Remote
from provledger_cli.failures import CommandError

DEFAULT_LOG = "logs/-"
"""The log that ledgers share."""

SHOWN_LOGS: Final = 10
"""Logs of tenants that people are shown, of those that are not well: a sink may be that of all."""

_AT_ONCE: Final = 8
"""Logs that are asked about at the same time."""

_NO_SINK: Final = "SINK_NOT_FOUND"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Anchoring:
    """A log and its sinks, at one moment.

    damaged: the damaged logs among those that were asked for. others: where all were, those of
        tenants that are served.
    """

    log: pb.Log
    sinks: tuple[pb.Sink, ...]
    held: str
    damaged: tuple[pb.Log, ...] = ()
    others: tuple[Anchoring, ...] = ()

    @property
    def well(self) -> bool:
        """Whether every sink answers, no promise is broken, nothing is held and no log damaged."""
        overdue = [self.log.policy, *(tenant.policy for tenant in self.log.tenants)]
        return (
            self.handing_on
            and not self.damaged
            and not any(each.overdue for each in overdue)
            and all(other.well for other in self.others)
        )

    @property
    def handing_on(self) -> bool:
        """Whether this log is not held, and each of its sinks answers."""
        return not self.held and not any(sink.last_error for sink in self.sinks)


async def anchoring(remote: Remote, log: str) -> Anchoring:
    """Ask for a log by name; `logs/-` is the default one, and tells of all others.

    Raises:
        DataLossError: it is damaged, and the anchor does not say more of it.
    """
    try:
        found = await _alone(remote, log)
    except DataLossError:
        for each in await damaged_logs(remote):
            if each.name == log:
                return Anchoring(each, (), "", (each,))
        raise
    if log != DEFAULT_LOG:
        return found
    every = await listed(remote)
    damaged = [each for each in every if each.state == pb.LOG_STATE_DAMAGED]
    served = [each.name for each in every if each.state != pb.LOG_STATE_DAMAGED]
    names = [name for name in served if name != found.log.name]
    others = await _all_of(names, lambda name: _alone(remote, name))
    return replace(found, damaged=tuple(damaged), others=tuple(others))


async def _alone(remote: Remote, log: str) -> Anchoring:
    request = pb.GetLogRequest(name=log, with_tenants=True)
    found = (await remote.call(remote.anchor.GetLog, request)).log
    answer = await remote.call(remote.anchor.ListSinks, pb.ListSinksRequest(log=found.name))
    return Anchoring(found, tuple(answer.sinks), answer.held)


@dataclass(frozen=True, slots=True)
class Retried:
    """The sinks of a log that waited, and are asked now.

    tenant: whose own it is; "" for the shared one, and where it was named by its uid.
    """

    log: str
    tenant: str
    sinks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Retrying:
    """What became of asking many logs.

    failed: those for which the anchor refused or did not answer. damaged: those left out.
    """

    asked: tuple[Retried, ...]
    failed: tuple[tuple[str, StatusError], ...] = ()
    damaged: tuple[str, ...] = ()


async def retried(remote: Remote, log: str, sink: str) -> Retrying:
    """Have sinks asked now that wait: of a log by its uid, or of all that are served.

    Of all, one that fails keeps no other from being asked. sink: its URI; "" for all that wait.

    Raises:
        NotFoundError: no log that was asked has such a sink.
        CommandError: none could be asked, for all are damaged.
    """
    if log:
        return Retrying((Retried(log_name(log), "", await _retry(remote, log_name(log), sink)),))
    every = await listed(remote)
    damaged = tuple(each.name for each in every if each.state == pb.LOG_STATE_DAMAGED)
    served = [each for each in every if each.state != pb.LOG_STATE_DAMAGED]
    if damaged and not served:
        raise CommandError(
            "no sink was asked: every log is damaged", hint="see `provledger anchor status`"
        )
    away: list[StatusError] = []

    async def one(name: str) -> tuple[str, ...] | StatusError:
        if len(away) >= _AT_ONCE:
            return away[0]  # It is the anchor, and the others would take as long.
        try:
            return await _retry(remote, name, sink)
        except StatusError as error:
            if error.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
                away.append(error)
            return error

    found = await _all_of([each.name for each in served], one)
    asked: list[Retried] = []
    failed: list[tuple[str, StatusError]] = []
    missing: list[NotFoundError] = []
    for each, outcome in zip(served, found, strict=True):
        if not isinstance(outcome, StatusError):
            asked.append(Retried(each.name, each.tenant, outcome))
        elif isinstance(outcome, NotFoundError) and outcome.reason == _NO_SINK:
            # A policy names sinks for one log; the others need not have them.
            missing.append(outcome)
        else:
            failed.append((each.name, outcome))
    if missing and not asked and not failed:
        left_out = f"; damaged logs were left out: {', '.join(damaged[:SHOWN_LOGS])}"
        raise NotFoundError(_NO_SINK, missing[0].message + (left_out if damaged else ""))
    return Retrying(tuple(asked), tuple(failed), damaged)


async def _retry(remote: Remote, log: str, sink: str) -> tuple[str, ...]:
    request = pb.RetrySinkRequest(log=log, sink=sink)
    return tuple((await remote.call(remote.anchor.RetrySink, request)).sinks)


async def _all_of(logs: Sequence[str], ask: Callable[[str], Awaitable[T]]) -> list[T]:
    """What each of these logs answers, in this order; some of them are asked at a time."""
    limit = asyncio.Semaphore(_AT_ONCE)

    async def one(log: str) -> T:
        async with limit:
            return await ask(log)

    tasks = [asyncio.create_task(one(log)) for log in logs]
    try:
        # Not a group: what one raises is known by its type.
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def listed(remote: Remote) -> list[pb.Log]:
    """Every log of the anchor, damaged ones too."""
    found: list[pb.Log] = []
    pages = Pages()
    while pages.more:
        request = pb.ListLogsRequest(page_size=1000, page_token=pages.token)
        page = await remote.call(remote.anchor.ListLogs, request)
        pages.turn(page.next_page_token, len(page.logs))
        found += page.logs
    return found


async def lost_logs(remote: Remote) -> list[pb.LostLog]:
    """The logs that were published and are not in the anchor's database, as far as it knows."""
    first = await remote.call(remote.anchor.ListLogs, pb.ListLogsRequest(page_size=1))
    return list(first.lost_logs)


async def damaged_logs(remote: Remote) -> list[pb.Log]:
    """The logs that the anchor found damaged and does not serve."""
    return [log for log in await listed(remote) if log.state == pb.LOG_STATE_DAMAGED]


def lost_document(lost: pb.LostLog) -> dict[str, Any]:
    """A lost log as `--json` shows it."""
    return {
        "name": lost.name,
        "where": lost.where,
        "tree_size": lost.tree_size,
        "reason": lost.reason,
    }


async def policy_log(remote: Remote, uid: str, tenant: str) -> str:
    """The log whose policy is meant: the one of that uid; without one, the shared log.

    tenant: `tenants/{tenant}`, or "" where it is about the log's own policy.

    Raises:
        CommandError: there is no uid, and the tenant has a log of its own: what a policy in the
            shared one says does not hold for what is in that.
    """
    if uid or not tenant:
        return log_name(uid)
    for log in await listed(remote):
        # A service of before says it of damaged ones only.
        if tenant in (log.tenant, log.damage.tenant):
            shared = (
                await remote.call(remote.anchor.GetLog, pb.GetLogRequest(name=DEFAULT_LOG))
            ).log
            raise CommandError(
                f"{tenant} has a log of its own, {log.name}, for which a policy in the shared log "
                "does not hold",
                hint=f"say which log you mean: --log {log.uid.hex()}, or for what it has in the "
                f"shared one --log {shared.uid.hex()}",
            )
    return DEFAULT_LOG


def damage_document(log: pb.Log) -> dict[str, Any] | None:
    """What is wrong with a log as JSON; None for one that is served."""
    if log.state != pb.LOG_STATE_DAMAGED:
        return None
    return {
        "log": log.name,
        "origin": log.origin,
        "tenant": log.damage.tenant,
        "reason": log.damage.reason,
        "message": log.damage.message,
        "tile": log.damage.tile or None,
    }


def sink_document(sink: pb.Sink) -> dict[str, Any]:
    """A sink as JSON. Times are decimal text, as everywhere; null while it answers."""
    return {
        "uri": sink.uri,
        "tree_size": sink.tree_size,
        "lag": sink.lag,
        "busy_tree_size": sink.busy_tree_size or None,
        "evidence_kind": sink.evidence_kind or None,
        "acknowledged_at_ns": _time(sink.acknowledged_at_ns),
        "last_error": sink.last_error or None,
        "failed_at_ns": _time(sink.failed_at_ns),
        "failures": sink.failures,
        "circuit": "open" if sink.circuit_open else "closed",
        "next_try_at_ns": _time(sink.next_try_at_ns),
        "needs_person": sink.needs_person,
    }


def state_of(sink: pb.Sink) -> str:
    """How a sink is, in a word or two."""
    if sink.needs_person:
        return "call somebody"
    if sink.circuit_open:
        return "away"
    if sink.last_error:
        return "failing"
    return "catching up" if sink.lag else "up to date"


def ago(time_ns: int) -> str:
    """How long ago a moment was, or how far ahead it is, for people."""
    if not time_ns:
        return ""
    seconds = round(time.time() - time_ns / 1e9)
    return f"{seconds} s ago" if seconds >= 0 else f"in {-seconds} s"


def log_name(uid: str) -> str:
    """The resource name of a log, given its uid in hex or nothing."""
    return f"logs/{uid or '-'}"


def _time(time_ns: int) -> str | None:
    return str(time_ns) if time_ns else None
