"""What commands get from others without asking a service of ours; see `targets`.

The key ledger that verifiers replay from a pin, the state file of a monitor, and the answers of web
servers: what comes over the connection, byte for byte, one connection after another with
`NEXT_CONNECTION` in between.
"""

from __future__ import annotations

import io
import ssl
from pathlib import Path
from typing import Final, cast
from unittest import mock

from provledger.http import bounded
from provledger.key_ledger import verify_from_pin
from provledger.monitoring import LogView
from provledger.retry import RetryPolicy
from provledger_cli.tlog.fetching import Fetcher
from provledger_cli.watching.remembered import Memory
from tests.fuzz import trusted
from tests.fuzz.registering import target
from tests.support import key_history

NEXT_CONNECTION: Final = b"\n==\n"
MAX_FILE_BYTES: Final = 1000

_VIEW: Final = LogView([trusted.VKEY])
_CONTEXT: Final = ssl.create_default_context()


@target
def key_ledger(data: bytes) -> None:
    """An export of the key ledger, or one that carries it."""
    verify_from_pin(data.splitlines(keepends=True), key_history.PIN)


class _File:
    """A state file with these bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read_bytes(self) -> bytes:
        return self._data


@target
def monitor_state(data: bytes) -> None:
    Memory(cast(Path, _File(data)), _VIEW).load()


class _Socket:
    """Takes whatever is asked, and answers with bytes that were there before."""

    def __init__(self, answer: bytes) -> None:
        self._left = io.BytesIO(answer)

    def settimeout(self, timeout_s: float) -> None:
        return None

    def send(self, data: memoryview) -> int:
        return len(data)

    def recv_into(self, buffer: memoryview) -> int:
        return self._left.readinto(buffer)

    def close(self) -> None:
        return None


@target
def http_answer(data: bytes) -> None:
    """A tile, for which one redirect is followed; what is busy is asked twice."""
    answers = iter(data.split(NEXT_CONNECTION))

    def connect(*_: object) -> _Socket:
        answer = next(answers, None)
        if answer is None:
            raise ConnectionRefusedError("nobody is there")
        return _Socket(answer)

    fetcher = Fetcher("http://127.0.0.1/log", retry=RetryPolicy(attempts=2), sleep=lambda _: None)
    with (
        mock.patch.object(bounded, "_connect", connect),
        # Each https address would read all of the system's certificates.
        mock.patch.object(ssl, "create_default_context", return_value=_CONTEXT),
    ):
        found = fetcher.get("tile/0/000", MAX_FILE_BYTES)
        fetcher.close()
    assert found is None or len(found) <= MAX_FILE_BYTES
