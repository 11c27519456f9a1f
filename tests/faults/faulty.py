"""Faults inside a service's process that no proxy reaches: its key provider and its sinks.

`tests.faults.faulty_witness` and `faulty_anchor` are the services with these two replaced by ones
that look into a directory (PROVLEDGER_FAULTS_DIR) before each call. A file there, such as
`sign-0007-lose`, is one fault, for the next call of `sign`; who meets it removes it.

* `fail`: refuse; `throttle`: refuse and say when to come again,
* `odd`: raise what nobody foresaw, as a sink of somebody's own may,
* `time out`: never answer,
* `lose`: do it, then say that it failed; `stall`: do it, then never answer,
* `wrong`: answer with another signature.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from pathlib import Path
from typing import Any

from anchor_svc.sinks import Evidence, PublishedCheckpoint, SinkError
from anchor_svc.sinks.file import FileSink
from provledger.kms.errors import KMSThrottledError, KMSUnavailableError
from provledger.kms.local import LocalSigner

DIR_ENV = "PROVLEDGER_FAULTS_DIR"
SIGN_FAULTS = ("fail", "throttle", "lose", "wrong", "time out", "stall")
SINK_FAULTS = ("fail", "odd", "lose", "time out", "stall")


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


def install() -> None:
    """Put the faults into this process."""
    sign, anchor = LocalSigner.sign, FileSink.anchor

    async def faulty_sign(self: LocalSigner, message: bytes) -> bytes:
        fault = _take("sign")
        if fault == "fail":
            raise KMSUnavailableError("the key provider is away")
        if fault == "throttle":
            raise KMSThrottledError("the key provider is busy", retry_delay_s=0.2)
        if fault == "time out":
            await asyncio.Event().wait()
        signature = await sign(self, b"another message" if fault == "wrong" else message)
        if fault == "lose":
            raise KMSUnavailableError("the answer was lost")
        if fault == "stall":
            await asyncio.Event().wait()
        return signature

    async def faulty_anchor(self: FileSink, checkpoint: PublishedCheckpoint) -> Evidence:
        fault = _take("sink")
        if fault == "fail":
            raise SinkError("the sink is away")
        if fault == "odd":
            raise _Surprise("unforeseen")
        if fault == "time out":
            await asyncio.Event().wait()
        evidence = await anchor(self, checkpoint)
        if fault == "lose":
            raise SinkError("the answer was lost")
        if fault == "stall":
            await asyncio.Event().wait()
        return evidence

    # The class itself: adapters make signers and sinks in many places.
    signer: Any = LocalSigner
    sink: Any = FileSink
    signer.sign, sink.anchor = faulty_sign, faulty_anchor
