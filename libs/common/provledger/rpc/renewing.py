"""A channel that goes over to a renewed certificate, and loses no call by it.

A channel of gRPC keeps for its life the certificate that it was made with. So there is another one
as soon as the files were replaced (`provledger.renewal`). Calls go over to it once it is connected,
at the latest when the certificate before ends: a renewed one that the servers do not accept yet
costs nothing until then. Calls that are under way end where they began.

Nothing runs in the background: a call looks, and most see that no second has passed since.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakSet

import grpc

from provledger.renewal import Renewed
from provledger.rpc.tls import Loaded, show_end

Open = Callable[[Loaded], grpc.aio.Channel]

_GOES_ON_S: Final = 180.0
"""A call may go on for so long after the end of the certificate that it began with. By then the
server has ended a stream, unless its clock is that far behind ours, and a call between services,
whose timeouts are shorter, has its answer. What is under way still ends as cancelled, which its
caller did not do: who waits for ever has to tell it from that."""
_LOOK_S: Final = 1.0
"""How often a channel that no new call goes over is looked at for the end of its last one."""


class _Line:
    """A channel, and the calls on it that somebody still holds."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        # Weak, as gRPC has it: a call that its caller dropped is cancelled for that.
        self.calls: WeakSet[Any] = WeakSet()

    async def leave(self, most_s: float) -> None:
        """Close it when its calls have ended, or after `most_s` seconds.

        Not before: a channel of gRPC is closed once, and nobody could end these calls any more.
        """
        end_s = time.monotonic() + most_s
        # Waiting for a call would hold it.
        while not all(call.done() for call in self.calls) and time.monotonic() < end_s:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)
        await self.channel.close()


class RenewingChannel(grpc.aio.Channel):
    """Calls over the newest channel of those that `opened` makes of `files`.

    clock: seconds since 1970.
    """

    def __init__(
        self, opened: Open, files: Renewed[Loaded], clock: Callable[[], float] = time.time
    ) -> None:
        self._open = opened
        self._files = files
        self._clock = clock
        self._loaded = self._coming_of = files.look()
        self._line = _Line(opened(self._loaded))
        self._coming: grpc.aio.Channel | None = None
        self._leaving: dict[asyncio.Task[None], _Line] = {}
        self._closed = False
        show_end("channel", self._loaded.ends_s)

    def current(self) -> _Line:
        """What calls go over now."""
        newest = self._files.look()
        if newest is not self._loaded and not self._closed:
            self._go_over(newest)
        return self._line

    def _go_over(self, newest: Loaded) -> None:
        if self._coming is None or self._coming_of is not newest:
            if self._coming is not None:
                self._leave(_Line(self._coming), 0.0)
            self._coming, self._coming_of = self._open(newest), newest
        state = self._coming.get_state(try_to_connect=True)
        now_s = self._clock()
        if state is grpc.ChannelConnectivity.READY or now_s > self._loaded.ends_s:
            self._leave(self._line, max(0.0, self._loaded.ends_s - now_s) + _GOES_ON_S)
            self._line, self._loaded, self._coming = _Line(self._coming), newest, None
            show_end("channel", newest.ends_s)

    def _leave(self, line: _Line, most_s: float) -> None:
        task = asyncio.ensure_future(line.leave(most_s))
        self._leaving[task] = line
        task.add_done_callback(self._leaving.pop)

    async def close(self, grace: float | None = None) -> None:
        """Take no more calls, and cancel those under way after `grace` seconds."""
        self._closed = True
        every = [line.channel for line in (self._line, *self._leaving.values())]
        if self._coming is not None:
            every.append(self._coming)
        for task in self._leaving:
            task.cancel()
        await asyncio.gather(*self._leaving, return_exceptions=True)
        await asyncio.gather(*(channel.close(grace) for channel in every))

    async def __aenter__(self) -> RenewingChannel:
        """Nothing more."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Of the channel that calls go over now."""
        return self.current().channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Of the channel that calls go over now."""
        await self.current().channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Wait until the channel that calls go over now is connected."""
        await self.current().channel.channel_ready()

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        """As of any channel."""
        return _Method(self, "unary_unary", args, kwargs)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        """As of any channel."""
        return _Method(self, "unary_stream", args, kwargs)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        """As of any channel."""
        return _Method(self, "stream_unary", args, kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        """As of any channel."""
        return _Method(self, "stream_stream", args, kwargs)


class _Method:
    """A method of a stub, made anew when the channel is another one."""

    __slots__ = ("_args", "_begin", "_kind", "_kwargs", "_of", "_owner")

    def __init__(self, owner: RenewingChannel, kind: str, args: Any, kwargs: Any) -> None:
        self._owner = owner
        self._kind = kind
        self._args = args
        self._kwargs = kwargs
        self._of: _Line | None = None
        self._begin: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Begin a call."""
        line = self._owner.current()
        if line is not self._of:
            self._begin = getattr(line.channel, self._kind)(*self._args, **self._kwargs)
            self._of = line
        call = self._begin(*args, **kwargs)
        line.calls.add(call)
        return call
