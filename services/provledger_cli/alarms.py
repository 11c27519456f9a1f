"""What `monitor` found: alarms, what holds, and what could not be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

SPLIT_VIEW: Final = "split_view"

CONSISTENCY: Final = "consistency"
FRESHNESS: Final = "freshness"
ENTRIES: Final = "entries"


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that should not be.

    kind: a word that stays the same while it lasts. check: the check that found it, by the name
    that it has in `Look.held`. evidence: the file that it was saved in; evidence_text: what would
    be in there, if it could not be saved.
    """

    kind: str
    message: str
    check: str
    evidence: str = ""
    evidence_text: str = ""

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        found = {
            "alarm": self.kind,
            "message": self.message,
            "check": self.check,
            "evidence": self.evidence,
            "evidence_text": self.evidence_text,
        }
        return {name: value for name, value in found.items() if value}


@dataclass(slots=True)
class Look:
    """What one look at the log found, by check. unknown: what could not be told, and why."""

    size: int = 0
    first: bool = False
    held: dict[str, str] = field(default_factory=dict)
    alarms: list[Alarm] = field(default_factory=list)
    unknown: dict[str, str] = field(default_factory=dict)

    def add(self, alarm: Alarm) -> None:
        """Note an alarm; what its check found before does not hold."""
        self.alarms.append(alarm)
        self.held.pop(alarm.check, None)

    @property
    def split(self) -> bool:
        """Whether the log showed two histories."""
        return any(alarm.kind == SPLIT_VIEW for alarm in self.alarms)
