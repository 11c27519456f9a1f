"""Where connections come in: each counts from the moment that it is accepted.

Uvicorn counts one once it is made, over TLS after its handshake; who never shakes hands costs a
descriptor all the same. So no more are accepted than `most`, handshakes included, and who comes
then waits in the backlog. A handshake has its time, and so has a goodbye. Where the process has no
descriptors left, that is told once in a while, not for each try.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
from collections.abc import Callable, Sized
from typing import Any, Final

from provledger import logs
from provledger.seldom import Seldom

log = logs.get(__name__)

BATCH: Final = 64
"""Connections that are accepted in one turn: those that there are want theirs."""
FULL_PAUSE_S: Final = 0.05
FAILED_PAUSE_S: Final = 1.0
SPARE_FILES: Final = 128
"""Descriptors for all but connections: libraries, logs, what is asked of other services."""


def most_for(max_connections: int) -> int:
    """How many are accepted at once: some more, who can then be told that they are too many."""
    return max_connections + max_connections // 8 + 16


class Door:
    """Accepts from a listener, which is its own from then on. Belongs to one event loop.

    make: the protocol of a connection. made: the connections that there are. tls: asked at each
    handshake. handshake_s: for each handshake, and for each goodbye.
    """

    def __init__(
        self,
        listener: socket.socket,
        make: Callable[[], asyncio.Protocol],
        made: Sized,
        *,
        most: int,
        tls: Callable[[], ssl.SSLContext] | None,
        handshake_s: float,
    ) -> None:
        self._listener = listener
        self._make = make
        self._made = made
        self._most = most
        self._tls = tls
        self._handshake_s = None if tls is None else handshake_s
        self._loop = asyncio.get_running_loop()
        self._begun: set[asyncio.Task[None]] = set()
        self._again: asyncio.TimerHandle | None = None
        self._seldom = Seldom()

    def open(self) -> None:
        """Accept from now on."""
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener, self._accept)

    def close(self) -> None:
        """Accept no more, refuse who waits in the backlog, and end handshakes."""
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener)
            self._listener.close()
        if self._again is not None:
            self._again.cancel()
        for task in self._begun:
            task.cancel()

    def _accept(self) -> None:
        for _ in range(BATCH):
            if len(self._begun) + len(self._made) >= self._most:
                self._pause(FULL_PAUSE_S, "server.full", connections=self._most)
                return
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                self._pause(FAILED_PAUSE_S, "server.accept_failed", error=error.strerror)
                return
            task = self._loop.create_task(self._take(connection))
            self._begun.add(task)
            task.add_done_callback(self._begun.discard)

    async def _take(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._make,
                connection,
                ssl=None if self._tls is None else self._tls(),
                ssl_handshake_timeout=self._handshake_s,
                ssl_shutdown_timeout=self._handshake_s,
            )
        except OSError as error:
            # It is closed. Strangers may cause as many of these as they like.
            log.debug("server.handshake_failed", error=type(error).__name__)

    def _pause(self, seconds: float, event: str, **fields: Any) -> None:
        """Leave the backlog alone for a while: it would be reported as ready all the time."""
        self._loop.remove_reader(self._listener)
        self._again = self._loop.call_later(seconds, self.open)
        if times := self._seldom.times(event):
            log.warning(event, times=times, **fields)


def make_room(most: int) -> None:
    """Let the process open as many descriptors as it may need, if it may; else say so.

    A connection may be given a file that is read for it.
    """
    wanted = 2 * most + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    except (OSError, ValueError):
        allowed = soft
    if allowed < wanted:
        log.warning("server.few_descriptors", allowed=allowed, wanted=wanted)
