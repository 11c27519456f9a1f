"""Sinks: places outside of the operator's reach that hold our checkpoints.

A sink takes a published checkpoint and returns evidence that it has it. It may be handed the same
one again, after an answer that was lost, and must then say the same; it may never have seen those
in between, which a consistency proof covers. How often to try, when to give up and what was reached
is the relay's business (`anchor_svc.relay`), so that a sink is one small class::

    class NoticeBoard:
        uri = "board://example"
        async def anchor(self, checkpoint): ...

    register("board", lambda uri: NoticeBoard(uri))

or, in a package of one's own, an entry point `board` in the group `provledger.sinks`. The tests in
`tests/conformance/sink_suite.py` say what a sink must do.

Trust: none. Evidence is kept as it came and verified by whoever relies on it; a sink can refuse or
lie about time, and can not make another checkpoint of ours, since it holds no key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Final, Protocol, TypeVar, runtime_checkable
from urllib.parse import urlsplit

from provledger.errors import ProvledgerError
from provledger.hashing import Hasher, sha256
from provledger.settings import ConfigError

T = TypeVar("T")
Prove = Callable[[int], Awaitable[Sequence[bytes]]]


@dataclass(frozen=True, slots=True)
class PublishedCheckpoint:
    """What a sink is given. root: 32 bytes. note: the signed note, as published.

    known_size: the largest tree size this sink acknowledged before; it may hold more, by an answer
    that was lost, or of another history (`anchor_svc.sinks.history`). prove: the consistency proof
    from an older size of ours to this one; raises NotFoundError or OutOfRangeError for a size that
    was never signed here. hasher: that of the log's tree.
    """

    origin: str
    size: int
    root: bytes
    note: bytes
    known_size: int = 0
    prove: Prove | None = field(default=None, compare=False, repr=False)
    hasher: Hasher = field(default=sha256, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a sink returned. kind: how to read `data`, such as `file`, `rfc3161`."""

    kind: str
    data: bytes


class SinkError(ProvledgerError):
    """The sink could not take the checkpoint for now; it is tried again.

    retry_after_s: how long the sink asks to be left alone, if it says so.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class SinkIntegrityError(SinkError):
    """The sink holds something else than it should: another history, or a later one than ours.

    Somebody rewrote the sink, or our log was rolled back: it needs a person. Or two sinks of ours
    are one place, which was handed the later one by the other (`anchor_svc.relay`).

    held_size: tree size of the later checkpoint that it says it holds; 0 if it is something else.
    """

    def __init__(self, message: str, *, held_size: int = 0) -> None:
        super().__init__(message)
        self.held_size = held_size


class SinkPermissionError(SinkError):
    """The sink does not let us do what we must, by its own rules; once it does, all goes on.

    permission: what is missing, in the sink's words.
    """

    def __init__(self, message: str, *, permission: str) -> None:
        super().__init__(f"{message}: it needs {permission}")
        self.permission = permission


class AnchorSink(Protocol):
    """One sink. Used for one log, by one task at a time, on one event loop."""

    @property
    def uri(self) -> str:
        """What it is called, without credentials; stays the same for ever, being its cursor."""
        ...

    async def anchor(self, checkpoint: PublishedCheckpoint) -> Evidence:
        """Hold a checkpoint, durably, and return evidence of it.

        Raises:
            SinkError: it could not, or it is not known whether it did.
            SinkIntegrityError: something else is there; also a smaller one that it never
                acknowledged, and that is not of this history.
        """
        ...

    async def close(self) -> None:
        """Release whatever is open."""
        ...


@runtime_checkable
class Provable(Protocol):
    """A sink that can tell before its first checkpoint whether it is what it should be."""

    async def check(self) -> None:
        """Prove it.

        Raises:
            ConfigError: it is not, and must not be used. SinkError: that cannot be told now; it is
                tried again before the first checkpoint.
        """
        ...


@runtime_checkable
class Remembering(Protocol):
    """A sink that can say what it holds of a log, and so notices when the log was rolled back."""

    @property
    def uri(self) -> str:
        """See `AnchorSink`."""
        ...

    async def holds(self, checkpoint: PublishedCheckpoint) -> bool:
        """Whether its newest checkpoint of this log is this one, or smaller.

        False if it has none, or none as large as `known_size`, which it took once: it is not the
        place it was.

        Nothing is left in the sink that was not there before, or only this very checkpoint. True
        lets a restored log sign again: it is said of what was verified, as far as the sink can, and
        never because something answered.

        Raises:
            SinkIntegrityError: it holds a larger one, another of this size, or a smaller one, of
                `known_size` or more, that is not of this history.
            SinkError: that cannot be told now.
        """
        ...


@runtime_checkable
class Listing(Protocol):
    """A sink that can say which logs it holds checkpoints of, and so notices one that is lost."""

    @property
    def uri(self) -> str:
        """See `AnchorSink`."""
        ...

    async def origins(self, prefix: str) -> Collection[str]:
        """Origins of logs that begin so; raises SinkError if that cannot be told now."""
        ...

    async def checkpoint_of(self, origin: str) -> bytes | None:
        """The largest checkpoint that it holds of a log, as it is; None if there is none.

        An older one may be signed by keys that are retired by now, and would not be taken for ours.

        Raises SinkError if that cannot be told now.
        """
        ...


async def answer_of(work: Awaitable[T]) -> T:
    """What a sink answers.

    Raises:
        SinkError: it ended as cancelled, and nobody cancelled us: something of its own was. Passed
            on, that would end whoever asks without a word.
    """
    try:
        return await work
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise SinkError("it was cancelled by something of its own") from error


SinkFactory = Callable[[str], AnchorSink]

ENTRY_POINTS: Final = "provledger.sinks"
"""Group of entry points: a scheme is the name, a `SinkFactory` the object."""

_factories: Final[dict[str, SinkFactory]] = {}


def register(scheme: str, factory: SinkFactory) -> None:
    """Make `factory` the maker of sinks whose URI has this scheme; it raises ConfigError."""
    _factories[scheme] = factory


def open_sink(uri: str) -> AnchorSink:
    """The sink that a URI means; nothing is connected yet.

    Raises:
        ConfigError: an unknown scheme, or a URI that its sink cannot use.
    """
    try:
        scheme = urlsplit(uri).scheme
    except ValueError as error:
        raise ConfigError("sinks: not a URI") from error
    factory = _factories.get(scheme) or _builtin(scheme) or _installed(scheme)
    if factory is None:
        known = ", ".join(f"{name}:" for name in sorted({*_factories, *_BUILTIN}))
        raise ConfigError(f"sinks: no sink for scheme {scheme!r}; known are {known}")
    return factory(uri)


_BUILTIN: Final = ("file", "http", "https", "s3")


def _builtin(scheme: str) -> SinkFactory | None:
    if scheme == "file":
        from anchor_svc.sinks.file import FileSink

        return FileSink.from_uri
    if scheme in ("http", "https"):
        from anchor_svc.sinks import notary

        return notary.open_notary
    if scheme == "s3":
        from anchor_svc.sinks.s3 import S3Sink

        return S3Sink.from_uri
    return None


def _installed(scheme: str) -> SinkFactory | None:
    """A factory of somebody's own, from a package that is installed."""
    for entry in entry_points(group=ENTRY_POINTS, name=scheme):
        try:
            factory: SinkFactory = entry.load()
        except Exception as error:
            raise ConfigError(f"sinks: {entry.value} cannot be loaded: {error}") from error
        return factory
    return None
