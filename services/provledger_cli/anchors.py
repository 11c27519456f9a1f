"""What the anchor says of its logs and sinks, as commands show it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from provledger.api.anchor.v1 import anchor_pb2 as pb
from provledger.client.paging import Pages
from provledger.errors import DataLossError
from provledger_cli.connect import Remote

DEFAULT_LOG = "logs/-"
"""The log that ledgers share."""


@dataclass(frozen=True, slots=True)
class Anchoring:
    """A log and its sinks, at one moment; and the damaged logs among those that were asked for."""

    log: pb.Log
    sinks: tuple[pb.Sink, ...]
    held: str
    damaged: tuple[pb.Log, ...] = ()

    @property
    def well(self) -> bool:
        """Whether every sink answers, no promise is broken, nothing is held and no log damaged."""
        overdue = [self.log.policy, *(tenant.policy for tenant in self.log.tenants)]
        return (
            not self.held
            and not self.damaged
            and not any(sink.last_error for sink in self.sinks)
            and not any(each.overdue for each in overdue)
        )


async def anchoring(remote: Remote, log: str) -> Anchoring:
    """Ask for a log by name; `logs/-` is the default one, and tells of all that are damaged.

    Raises:
        DataLossError: it is damaged, and the anchor does not say more of it.
    """
    request = pb.GetLogRequest(name=log, with_tenants=True)
    try:
        found = (await remote.call(remote.anchor.GetLog, request)).log
    except DataLossError:
        for damaged in await damaged_logs(remote):
            if damaged.name == log:
                return Anchoring(damaged, (), "", (damaged,))
        raise
    answer = await remote.call(remote.anchor.ListSinks, pb.ListSinksRequest(log=found.name))
    others = await damaged_logs(remote) if log == DEFAULT_LOG else []
    return Anchoring(found, tuple(answer.sinks), answer.held, tuple(others))


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


async def damaged_logs(remote: Remote) -> list[pb.Log]:
    """The logs that the anchor found damaged and does not serve."""
    return [log for log in await listed(remote) if log.state == pb.LOG_STATE_DAMAGED]


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
