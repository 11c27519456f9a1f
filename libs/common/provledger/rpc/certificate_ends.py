"""Streams are ended when the certificate of their caller ends.

A call is admitted at its beginning, by a certificate that counts then; a unary one lasts no longer
than its deadline, but a stream as long as its connection. So each stream has a timer, and nothing
is paid for its messages. What a stream was answered before its end stays; what it was not, its
caller asks for again, with another certificate.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from provledger.rpc import auth
from provledger.rpc.watches import Behaviour, Stream

LOOK_AGAIN_S: Final = 60.0
"""Longest time between two looks at the clock, which may have been set meanwhile, or have gone on
while the machine slept: timers do not."""

_PAST_S: Final = 0.01
"""So long after the end of a certificate it is looked at: until its end it counts."""


def ending(
    inner: Behaviour,
    ends_s: Callable[[Any], float],
    clock: Callable[[], float] = time.time,
    look_again_s: float = LOOK_AGAIN_S,
) -> Behaviour:
    """`inner`, a stream as coroutine, ended with CLIENT_CERTIFICATE_ENDED.

    ends_s: servicer context to the end of the caller's certificate, in seconds since 1970, as
        `clock`.
    """

    async def run(request: Any, context: Any) -> Any:
        end_s = ends_s(context)
        stream = Stream(context)
        loop = asyncio.get_running_loop()
        timer: asyncio.Handle

        def look() -> None:
            nonlocal timer
            left_s = end_s - clock()
            if left_s < 0.0:
                stream.end(auth.certificate_ended())
            else:
                timer = loop.call_later(min(left_s + _PAST_S, look_again_s), look)

        timer = loop.call_soon(look)
        try:
            return await stream.run(inner, request)
        finally:
            timer.cancel()

    return run
