"""The database becomes another one while the log is asked what it holds of a ledger."""

from __future__ import annotations

from typing import Any, cast

import pytest

from ledger_svc.census import Census
from ledger_svc.chain import LedgerInfo
from ledger_svc.guard import Guard
from ledger_svc.lag import Lag
from ledger_svc.storage import Storage
from ledger_svc.tools import UnconfirmedError
from provledger.errors import UnavailableError
from tests.inmem.anchor import InMemoryAnchor

LEDGER = LedgerInfo(bytes(16), "acme", "main", "blake3", "logs/-", "log.test/1", 0)


class Replaced:
    """Storage of which only the generation is asked: the log holds nothing to compare with."""

    generation = 0


class Asked:
    """A guard, and the first `changes` of its questions during which connections are lost."""

    def __init__(self, changes: int) -> None:
        self.storage = Replaced()
        self.anchor = InMemoryAnchor()
        self.anchor.faults.before = self._change
        self.changes = changes
        self.guard = Guard(
            cast(Storage, self.storage),
            self.anchor,
            Lag(self.anchor, timeout_s=10.0),
            cast(Census, None),
            lambda _: -1,
            timeout_s=10.0,
        )

    @property
    def questions(self) -> int:
        return self.anchor.faults.calls.count("GetLedgerState")

    def _change(self, method: str, request: Any) -> None:
        if method == "GetLedgerState" and self.questions <= self.changes:
            self.storage.generation += 1


async def test_what_the_log_said_of_the_database_before_is_asked_again() -> None:
    asked = Asked(changes=1)
    await asked.guard.confirm(LEDGER)
    assert asked.questions == 2
    await asked.guard.confirm(LEDGER)
    assert asked.questions == 2


async def test_a_database_that_is_lost_at_each_question_is_not_confirmed() -> None:
    asked = Asked(changes=1_000)
    with pytest.raises(UnavailableError) as caught:
        await asked.guard.confirm(LEDGER)
    assert caught.value.reason == "DATABASE_UNAVAILABLE"
    with pytest.raises(UnconfirmedError):
        asked.guard.seen_seq(LEDGER)
