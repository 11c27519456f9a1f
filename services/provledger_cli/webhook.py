"""The webhook of `monitor`: each alarm once, and again as long as nobody took it."""

from __future__ import annotations

from collections.abc import Callable

import orjson

from provledger_cli import output
from provledger_cli.alarms import Alarm
from provledger_cli.fetching import FetchError


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
        """Deliver an alarm; that it cannot be delivered is said, and hides nothing."""
        self._untold[alarm.kind, alarm.check] = alarm
        self.tell_again()

    def tell_again(self) -> None:
        """Deliver what could not be delivered yet, up to the first that cannot be now either.

        That one is last the next time: it may be its own fault.
        """
        for key, alarm in list(self._untold.items()):
            del self._untold[key]
            try:
                self._post(orjson.dumps({"origin": self._origin, **alarm.as_dict()}))
            except FetchError as error:
                self._untold[key] = alarm
                output.say(f"the webhook was not told: {error}")
                return
