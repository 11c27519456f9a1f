"""What `monitor` found: alarms, what holds, and what could not be told; and what stands of it."""

from __future__ import annotations

from collections.abc import Callable
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
    """What one look at the log found, by check. unknown: what could not be told, and why.

    shown: whether there was a head; size: its tree size, 0 without one. tell: learns of each alarm
    at once, while the look goes on.
    """

    shown: bool = False
    size: int = 0
    first: bool = False
    held: dict[str, str] = field(default_factory=dict)
    alarms: list[Alarm] = field(default_factory=list)
    unknown: dict[str, str] = field(default_factory=dict)
    tell: Callable[[Alarm], None] | None = field(default=None, compare=False, repr=False)

    def add(self, alarm: Alarm) -> None:
        """Note an alarm; what its check found before does not hold."""
        self.alarms.append(alarm)
        self.held.pop(alarm.check, None)
        if self.tell is not None:
            self.tell(alarm)

    @property
    def split(self) -> bool:
        """Whether the log showed two histories."""
        return any(alarm.kind == SPLIT_VIEW for alarm in self.alarms)


class Standing:
    """The alarms that stand from look to look.

    One begins if its kind was not found by its check before; another check, such as that of another
    file, has alarms of its own. It ends with a look in which its check holds, and not with one that
    could not tell.
    """

    def __init__(self) -> None:
        self._alarms: dict[tuple[str, str], Alarm] = {}

    def begins(self, alarm: Alarm) -> bool:
        """Note an alarm; whether it is news."""
        key = (alarm.kind, alarm.check)
        new = key not in self._alarms
        self._alarms[key] = alarm
        return new

    def cleared_by(self, look: Look) -> list[Alarm]:
        """Those that ended with a look that is over."""
        ended = [key for key in self._alarms if key[1] in look.held]
        return [self._alarms.pop(key) for key in ended]

    @property
    def alarms(self) -> list[Alarm]:
        """Those that stand, as they were found last."""
        return list(self._alarms.values())
