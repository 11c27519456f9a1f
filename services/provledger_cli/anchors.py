"""What the anchor says of its logs and sinks, as commands show it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from provledger.api.anchor.v1 import anchor_pb2 as pb
from provledger_cli.connect import Remote


@dataclass(frozen=True, slots=True)
class Anchoring:
    """A log and its sinks, at one moment."""

    log: pb.Log
    sinks: tuple[pb.Sink, ...]
    held: str

    @property
    def well(self) -> bool:
        """Whether every sink answers, no promise is broken and nothing is held."""
        overdue = [self.log.policy, *(tenant.policy for tenant in self.log.tenants)]
        return (
            not self.held
            and not any(sink.last_error for sink in self.sinks)
            and not any(each.overdue for each in overdue)
        )


async def anchoring(remote: Remote, log: str) -> Anchoring:
    """Ask for a log by name, `logs/-` for the default one."""
    request = pb.GetLogRequest(name=log, with_tenants=True)
    found = (await remote.call(remote.anchor.GetLog, request)).log
    answer = await remote.call(remote.anchor.ListSinks, pb.ListSinksRequest(log=found.name))
    return Anchoring(found, tuple(answer.sinks), answer.held)


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
