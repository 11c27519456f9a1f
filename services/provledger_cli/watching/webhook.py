"""The webhook of `monitor`: each alarm once, and again as long as nobody took it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import orjson

from provledger_cli import output
from provledger_cli.tlog.fetching import FetchError
from provledger_cli.watching.alarms import Alarm

MOST_FAILURES: Final = 3
"""Alarms that are tried again in vain before the rest waits: each may take most of a minute."""


class Webhook:
    """Tells of alarms.

    post: delivers a body, tries a few times, and raises FetchError in the end. What could not be
    delivered stays, whether or not it is over by then: of each check and kind, the newest.
    """

    def __init__(self, post: Callable[[bytes], None], origin: str) -> None:
        self._post = post
        self._origin = origin
        self._untold: dict[tuple[str, str], Alarm] = {}

    def tell(self, alarm: Alarm) -> None:
        """Deliver an alarm; that it cannot be delivered is said, and hides nothing.

        It comes before those that wait: one that the receiver refuses must not keep it. If it is
        taken, so may they be.
        """
        key = (alarm.kind, alarm.check)
        self._untold[key] = alarm
        if self._deliver(key):
            self.tell_again()

    def tell_again(self) -> None:
        """Deliver what could not be delivered yet, up to `MOST_FAILURES` that cannot be now either.

        Those are last the next time: it may be their own fault.
        """
        failures = 0
        for key in list(self._untold):
            failures += not self._deliver(key)
            if failures == MOST_FAILURES:
                return

    def _deliver(self, key: tuple[str, str]) -> bool:
        alarm = self._untold.pop(key)
        try:
            self._post(orjson.dumps({"origin": self._origin, **alarm.as_dict()}))
        except FetchError as error:
            self._untold[key] = alarm
            output.say(f"the webhook was not told: {output.literal(error)}")
            return False
        return True
