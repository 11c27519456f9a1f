"""The gate for new ledgers: how many are being made at a time, and by whom.

Making one costs a signature and a commit of its own, in the writing thread where appends wait for
their turn. So it counts against its tenant's quota like a draft, and few are in work at once;
shares are those of reads (`reading_gate`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ledger_svc.gate import Gate
from ledger_svc.reading_gate import ReadingGate
from ledger_svc.untaken import Untaken
from provledger.rpc.interceptors import Answered

RPC: Final = "CreateLedger"
MAX_CALLS: Final = 32
"""Three quarters of them are one tenant's, if it is alone."""


class MakingGate:
    """Lets calls that make ledgers in; for one event loop. `gate` knows the quotas."""

    def __init__(self, gate: Gate, untaken: Untaken) -> None:
        self._gate = gate
        self._calls = ReadingGate(
            MAX_CALLS, untaken, "too many ledgers are being made; try again later"
        )

    @contextmanager
    def call(self, data: bytes) -> Iterator[Answered]:
        """Hold a place for a call, given its raw request.

        Raises:
            ResourceExhaustedError: OVERLOADED or QUOTA_EXCEEDED, and when to come back.
        """
        self._gate.check_quota(data)
        with self._calls.call(data) as answered:
            yield answered
