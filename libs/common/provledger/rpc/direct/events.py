"""The completion queue of gRPC's core, emptied by an event loop.

Only a thread can wait for the queue, and a thread that takes each event competes with the loop for
the interpreter. So the thread waits for the first event alone, gives it to the loop and sleeps; the
loop takes what else is there without waiting, in short turns between those of its other work, and
once nothing has come for a few turns the thread waits again. Busy services thus have one thread at
work, and idle ones none.

All of an event's consequences happen in the loop: whoever uses this needs no locks.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar, Final
from weakref import WeakKeyDictionary

from provledger import logs
from provledger.rpc.direct import core

log = logs.get(__name__)

Tag = Callable[[Any], None]
"""What an operation is started with: called in the loop with the core's event once it is done."""

_TURN_S: Final = 0.0003
"""How long a turn takes events; then the loop's other work has some turns. What was let in goes
through a dozen of them until it is answered, and would wait for what comes in each time."""
_OTHERS_TURNS: Final = 6
_OTHERS_S: Final = 0.0005
"""How many turns, and how long at most, the other work has before events are taken again."""
_BEHIND_S: Final = 0.01
"""Once the queue was not empty for so long, events come first: whoever waits there was told nothing
yet, and short turns cost the time that is short then."""
_FIRST_FOR_S: Final = 1.0
"""How long they do."""
_LONG_TURN_S: Final = 0.01
_AT_ONCE: Final = 256
"""How long such a turn lasts, and of how many events it is, at most. Large messages take
milliseconds each."""
_EMPTY_TURNS: Final = 3
"""Turns without an event before the thread waits again: what follows upon an event, such as the
message of a call, mostly comes within them."""
_NO_WAIT: Final = 0
"""A time that has passed, in seconds since 1970."""


class Events:
    """A completion queue whose events go to one event loop; used there alone.

    All who need one in a loop share it: `join` gives it, and `leave` gives it back.
    """

    _of_loop: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, Events]] = WeakKeyDictionary()

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.queue = core.CompletionQueue()
        self._loop = loop
        self._users = 0
        self._empty_turns = 0
        self._emptied_s = 0.0
        """When the queue was seen empty."""
        self._first_until_s = 0.0
        self._others_until_s = 0.0
        self._ended = loop.create_future()
        self._may_wait = threading.Semaphore(0)
        threading.Thread(target=self._wait, name="grpc-events", daemon=True).start()

    @classmethod
    def join(cls) -> Events:
        """That of the running loop, which is there until all who joined have left."""
        loop = asyncio.get_running_loop()
        events = cls._of_loop.get(loop)
        if events is None:
            events = cls._of_loop[loop] = cls(loop)
        events._users += 1
        return events

    async def leave(self) -> None:
        """Have no more use for it; who has may start nothing afterwards."""
        self._users -= 1
        if not self._users:
            self._of_loop.pop(self._loop, None)
            self.queue.shutdown()
            await asyncio.shield(self._ended)

    def _wait(self) -> None:
        """The thread: wait for an event, have the loop take it and what follows, and so on."""
        while True:
            event = self.queue.poll()
            over = event.completion_type == core.CompletionType.queue_shutdown
            try:
                self._loop.call_soon_threadsafe(self._end if over else self._begin, event)
            except RuntimeError:  # the loop was closed under us
                return
            if over:
                return
            # An event holds its call, and a call that is held here is not ended in the core.
            del event
            self._may_wait.acquire()

    def _begin(self, event: Any) -> None:
        try:
            self._take(event)
        finally:
            self._empty_turns = 0
            self._emptied_s = time.perf_counter()  # the thread had to wait
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        try:
            self._turn_once()
        except BaseException:  # an interrupt: events are still to be taken, if the loop goes on
            self._loop.call_soon(self._turn)
            raise

    def _turn_once(self) -> None:
        poll = self.queue.poll
        begun_s = time.perf_counter()
        if begun_s - self._emptied_s > _BEHIND_S:
            self._first_until_s = begun_s + _FIRST_FOR_S
        first = begun_s < self._first_until_s
        end_s = begun_s + (_LONG_TURN_S if first else _TURN_S)
        for taken in range(_AT_ONCE):
            event = poll(_NO_WAIT)
            kind = event.completion_type
            if kind == core.CompletionType.queue_timeout:
                self._empty_turns = 0 if taken else self._empty_turns + 1
                self._emptied_s = begun_s
                break
            if kind == core.CompletionType.queue_shutdown:
                self._may_wait.release()  # the thread sees the same, says so, and ends
                return
            self._take(event)
            if time.perf_counter() > end_s:
                self._empty_turns = 0
                break
        else:
            self._empty_turns = 0
        if self._empty_turns >= _EMPTY_TURNS:
            self._may_wait.release()
        elif first or self._empty_turns:
            self._loop.call_soon(self._turn)
        else:
            self._others_until_s = time.perf_counter() + _OTHERS_S
            self._loop.call_soon(self._let_others, _OTHERS_TURNS)

    def _let_others(self, turns: int) -> None:
        """Let the loop's other work have some turns before the next one of ours."""
        if turns > 1 and time.perf_counter() < self._others_until_s:
            self._loop.call_soon(self._let_others, turns - 1)
        else:
            self._loop.call_soon(self._turn)

    def _take(self, event: Any) -> None:
        try:
            event.tag(event)
        except Exception as exc:  # whatever it is, the other calls' events are to be taken
            log.error("rpc.event_failed", exc_info=exc)

    def _end(self, event: Any) -> None:
        if not self._ended.done():
            self._ended.set_result(None)
