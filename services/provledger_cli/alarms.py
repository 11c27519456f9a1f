"""What `monitor` found: alarms, what holds, and what could not be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

SPLIT_VIEW: Final = "split_view"


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that should not be. kind: a word that stays the same while it lasts."""

    kind: str
    message: str
    evidence: str = ""

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        found = {"alarm": self.kind, "message": self.message, "evidence": self.evidence}
        return {name: value for name, value in found.items() if value}


@dataclass(slots=True)
class Look:
    """What one look at the log found. unknown: what could not be told."""

    size: int = 0
    first: bool = False
    held: dict[str, str] = field(default_factory=dict)
    alarms: list[Alarm] = field(default_factory=list)
    unknown: dict[str, str] = field(default_factory=dict)
