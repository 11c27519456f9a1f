"""A provider's client that is made anew where its credentials are not accepted any more.

SDKs read access keys and key files once, for each client, and go on with them for ever; whoever
renews them in their file means the services that run. So a call whose credentials are refused asks
for another client (`Renewable.renewed`) and is made once more. What is renewed by itself, such as
the credentials of a role, the SDKs see to; they come here only when that fails.

What they stand for may be another identity meanwhile, too: one that is allowed what the old one is
denied. A denial seldom means that, so it asks once a minute.

No storm comes of it where they stay refused: one client is made at a time, however many calls ask,
and none within a second of the one before. Left to others: which error says so, and what a client
is (`provledger.kms._aws_client`, `provledger.kms.gcp`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, Generic, TypeVar

from provledger import logs

T = TypeVar("T")

log = logs.get(__name__)

RENEW_S: Final = 1.0
"""No client is made sooner after the one before, in seconds."""
DENIED_S: Final = 60.0
"""Nor after a denial, which may well be meant for whoever we are."""


class Renewable(Generic[T]):
    """A client, and the way to another one; for one event loop.

    connect: makes a client, with the credentials as they are then; whatever it raises means that
    the one before stays.
    drop: ends a client that was replaced, on which there may be calls.
    clock: seconds, for the pause between two clients.
    """

    def __init__(
        self,
        uri: str,
        client: T,
        connect: Callable[[], Awaitable[T]],
        drop: Callable[[T], Coroutine[Any, Any, None]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.client = client
        self._uri = uri
        self._connect = connect
        self._drop = drop
        self._clock = clock
        self._made_s = clock()
        self._renewing: asyncio.Task[None] | None = None
        self._dropping: set[asyncio.Task[None]] = set()
        self._closed = False

    async def renewed(self, refused: T, pause_s: float = RENEW_S) -> bool:
        """Say whether there is another client than `refused`; one is made if the time has come.

        pause_s: how long after the last one, `RENEW_S` or `DENIED_S`.
        Whoever gives up the wait holds up nobody else: connecting goes on.
        """
        if self.client is not refused:
            return True
        if self._renewing is None:
            if self._closed or self._clock() < self._made_s + pause_s:
                return False
            self._renewing = asyncio.create_task(self._renew(), name="kms-renew")
        await asyncio.shield(self._renewing)
        return self.client is not refused

    def close(self) -> T:
        """Make no further client; return the last one, which is the caller's to end."""
        self._closed = True
        return self.client

    async def _renew(self) -> None:
        log.info("kms.credentials_refused", uri=self._uri)
        try:
            client = await self._connect()
        except Exception as error:  # adapters and SDKs differ in what they let through
            log.warning("kms.not_connected_anew", exc_info=error, uri=self._uri)
        else:
            if self._closed:
                old = client
            else:
                old, self.client = self.client, client
            dropping = asyncio.create_task(self._drop(old), name="kms-drop")
            self._dropping.add(dropping)
            dropping.add_done_callback(self._dropping.discard)
        finally:
            self._made_s = self._clock()
            self._renewing = None
