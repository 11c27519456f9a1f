"""Faults inside a service's process that no proxy reaches: its key provider and its sinks.

`tests.faults.faulty_witness` and `faulty_anchor` are the services with these two replaced by ones
that look into a directory (PROVLEDGER_FAULTS_DIR) before each call. A file there, such as
`sign-0007-lose`, is one fault, for the next call of `sign`; who meets it removes it. The calls are
`open` (a key, its public half with it) and `sign` of the key provider, `sink` (take a checkpoint),
of the second sink `other-sink`, and of the sinks `holds` (what is there?), `origins` (of which
logs?), `found` (the checkpoint of one of these), `check` (are you what you should be?, which a
directory is not asked elsewhere) and `close`.

* `fail`: refuse; `throttle`: refuse and say when to come again; `missing`: say it is not there,
* `odd`: raise what nobody foresaw, as a sink of somebody's own may,
* `time out`: never answer,
* `lose`: do it, then say that it failed; `stall`: do it, then never answer,
* `slow`: do it, and answer when there is more to be done by now,
* `wrong`: answer with another signature, or with a key that is another one.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from anchor_svc.sinks import (
    AnchorSink,
    Evidence,
    Listing,
    Provable,
    PublishedCheckpoint,
    Remembering,
    SinkError,
)
from anchor_svc.sinks.file import FileSink
from provledger.kms import Provider, Signer
from provledger.kms.errors import KMSKeyNotFoundError, KMSThrottledError, KMSUnavailableError
from provledger.kms.local import LocalProvider, LocalSigner
from tests.faults.cluster import OTHER_SINK

T = TypeVar("T")

DIR_ENV = "PROVLEDGER_FAULTS_DIR"
OPEN_FAULTS = ("fail", "throttle", "missing", "lose", "wrong", "time out", "stall")
SIGN_FAULTS = ("fail", "throttle", "lose", "wrong", "time out", "stall")
SINK_FAULTS = ("fail", "odd", "lose", "slow", "time out", "stall")
HOLDS_FAULTS = SINK_FAULTS
ATTACKED = {
    (Provider, "open_signer"): "open",
    (Signer, "sign"): "sign",
    (AnchorSink, "anchor"): "sink",
    (AnchorSink, "close"): "close",
    (Remembering, "holds"): "holds",
    (Listing, "origins"): "origins",
    (Listing, "checkpoint_of"): "found",
    (Provable, "check"): "check",
}
"""What services ask of key providers and sinks, by interface, and the call that it is here."""
LEFT_OUT = {
    (Provider, "create_key"): "commands make keys, and no service does",
    (Signer, "close"): "at an end, or within the deadline for opening a key that fails its test",
}
"""What is not attacked here, and why."""
_SLOW_S = 0.7


class Faults:
    """The directory, from the test's side."""

    def __init__(self, path: Path) -> None:
        path.mkdir(exist_ok=True)
        self.path = path
        self._numbers = itertools.count()

    def inject(self, call: str, *faults: str) -> None:
        """What the next calls will meet."""
        for fault in faults:
            (self.path / f"{call}-{next(self._numbers):06}-{fault}").touch()

    def pending(self, call: str) -> int:
        """How many have not happened yet."""
        return len(list(self.path.glob(f"{call}-*")))


def _take(call: str) -> str:
    for path in sorted(Path(os.environ[DIR_ENV]).glob(f"{call}-*")):
        path.unlink()
        return path.name.rpartition("-")[2]
    return ""


class _Surprise(Exception):
    """Something that a library raises without telling anybody."""


async def _suffer(fault: str, away: type[Exception]) -> None:
    """What comes before a call is made."""
    if fault == "fail":
        raise away("it is away")
    if fault == "throttle":
        raise KMSThrottledError("the key provider is busy", retry_delay_s=0.2)
    if fault == "missing":
        raise KMSKeyNotFoundError("there is no such key")
    if fault == "odd":
        raise _Surprise("unforeseen")
    if fault == "time out":
        await asyncio.Event().wait()


async def _answer(fault: str, away: type[Exception], answer: T) -> T:
    """What comes after it."""
    if fault == "lose":
        raise away("the answer was lost")
    if fault == "stall":
        await asyncio.Event().wait()
    if fault == "slow":
        # Less than the deadline that sinks have in these tests.
        await asyncio.sleep(_SLOW_S)
    return answer


def install() -> None:
    """Put the faults into this process."""
    open_signer, sign = LocalProvider.open_signer, LocalSigner.sign
    anchor, holds, close = FileSink.anchor, FileSink.holds, FileSink.close
    origins, found = FileSink.origins, FileSink.checkpoint_of

    async def faulty_open(self: LocalProvider, uri: str) -> LocalSigner:
        fault = _take("open")
        await _suffer(fault, KMSUnavailableError)
        signer = await open_signer(self, uri)
        if fault == "wrong":
            other = Ed25519PrivateKey.generate()
            signer = replace(signer, public_key=other.public_key(), _private_key=other)
        return await _answer(fault, KMSUnavailableError, signer)

    async def faulty_sign(self: LocalSigner, message: bytes) -> bytes:
        fault = _take("sign")
        await _suffer(fault, KMSUnavailableError)
        signature = await sign(self, b"another message" if fault == "wrong" else message)
        return await _answer(fault, KMSUnavailableError, signature)

    async def faulty_anchor(self: FileSink, checkpoint: PublishedCheckpoint) -> Evidence:
        fault = _take("other-sink" if self.uri.endswith(OTHER_SINK) else "sink")
        await _suffer(fault, SinkError)
        return await _answer(fault, SinkError, await anchor(self, checkpoint))

    async def faulty_holds(self: FileSink, checkpoint: PublishedCheckpoint) -> bool:
        fault = _take("holds")
        await _suffer(fault, SinkError)
        return await _answer(fault, SinkError, await holds(self, checkpoint))

    async def faulty_origins(self: FileSink, prefix: str) -> Collection[str]:
        fault = _take("origins")
        await _suffer(fault, SinkError)
        return await _answer(fault, SinkError, await origins(self, prefix))

    async def faulty_found(self: FileSink, origin: str) -> bytes | None:
        fault = _take("found")
        await _suffer(fault, SinkError)
        return await _answer(fault, SinkError, await found(self, origin))

    async def faulty_check(self: FileSink) -> None:
        fault = _take("check")
        await _suffer(fault, SinkError)
        await _answer(fault, SinkError, None)

    async def faulty_close(self: FileSink) -> None:
        fault = _take("close")
        await _suffer(fault, SinkError)
        await close(self)
        await _answer(fault, SinkError, None)

    # The classes themselves: adapters make signers and sinks in many places.
    provider: Any = LocalProvider
    signer: Any = LocalSigner
    sink: Any = FileSink
    provider.open_signer, signer.sign = faulty_open, faulty_sign
    sink.anchor, sink.holds, sink.close = faulty_anchor, faulty_holds, faulty_close
    sink.origins, sink.checkpoint_of, sink.check = faulty_origins, faulty_found, faulty_check
