"""Sinks: places outside of the operator's reach that hold our checkpoints.

A sink takes a published checkpoint and returns evidence that it has it. It may be handed the same
one again, after an answer that was lost, and must then say the same; it may never have seen those
in between, which a consistency proof covers. How often to try, when to give up and what was reached
is the relay's business (`anchor_svc.relay`), so that a sink is one small class::

    class NoticeBoard:
        uri = "board://example"
        async def anchor(self, checkpoint): ...

    register("board", lambda uri: NoticeBoard(uri))

Trust: none. Evidence is kept as it came and verified by whoever relies on it; a sink can refuse or
lie about time, and can not make another checkpoint of ours, since it holds no key.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol
from urllib.parse import urlsplit

from provledger.errors import ProvledgerError
from provledger.settings import ConfigError


@dataclass(frozen=True, slots=True)
class PublishedCheckpoint:
    """What a sink is given. root: 32 bytes. note: the signed note, as published."""

    origin: str
    size: int
    root: bytes
    note: bytes


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a sink returned. kind: how to read `data`, such as `file`, `rfc3161`."""

    kind: str
    data: bytes


class SinkError(ProvledgerError):
    """The sink could not take the checkpoint for now; it is tried again."""


class SinkIntegrityError(SinkError):
    """The sink holds something else than it should: another history, or a later one than ours.

    Somebody rewrote the sink, or our log was rolled back: it needs a person.
    """


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
            SinkIntegrityError: something else is there.
        """
        ...

    async def close(self) -> None:
        """Release whatever is open."""
        ...


SinkFactory = Callable[[str], AnchorSink]

_factories: Final[dict[str, SinkFactory]] = {}


def register(scheme: str, factory: SinkFactory) -> None:
    """Make `factory` the maker of sinks whose URI has this scheme; it raises ConfigError."""
    _factories[scheme] = factory


def open_sink(uri: str) -> AnchorSink:
    """The sink that a URI means; nothing is connected yet.

    Raises:
        ConfigError: an unknown scheme, or a URI that its sink cannot use.
    """
    from anchor_svc.sinks import file

    register("file", file.FileSink.from_uri)
    scheme = urlsplit(uri).scheme
    factory = _factories.get(scheme)
    if factory is None:
        known = ", ".join(f"{name}:" for name in sorted(_factories))
        raise ConfigError(f"sinks: no sink for scheme {scheme!r}; known are {known}")
    return factory(uri)
