"""How a sink is, as values: for whoever asks the anchor about its sinks."""

from __future__ import annotations

from dataclasses import dataclass

from anchor_svc.storage import AnchorRow


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a sink waits. failures: in a row. Times are Unix nanoseconds.

    needs_person: it holds something it should not, which no retry will change.
    """

    message: str
    failures: int
    failed_at_ns: int
    next_try_at_ns: int
    needs_person: bool


@dataclass(frozen=True, slots=True)
class SinkStatus:
    """A sink: the largest size it holds, and the published leaves beyond that.

    busy_size: what it is asked to take right now, 0 if nothing. last: its newest evidence.
    trouble: None while it answers.
    """

    uri: str
    size: int
    lag: int
    busy_size: int
    last: AnchorRow | None
    trouble: Trouble | None
    circuit_open: bool
