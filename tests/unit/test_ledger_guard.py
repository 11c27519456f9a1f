"""The database becomes another one, or is away, while a log is asked what it holds of ledgers."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ledger_svc import app
from ledger_svc.census import Census
from ledger_svc.chain import LedgerInfo
from ledger_svc.guard import Guard
from ledger_svc.key_registry import AnyRegistry
from ledger_svc.lag import Lag
from ledger_svc.storage import Storage
from ledger_svc.tools import UnconfirmedError
from provledger.errors import DataLossError, UnavailableError
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
            AnyRegistry(),
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


@pytest.mark.parametrize("reason", ["DATABASE_BEHIND", "HISTORY_CHANGED", "RESTORED_BEHIND"])
async def test_whoever_asks_for_another_ledger_does_not_hear_which_one_is_too_old(
    reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    asked = Asked(changes=0)

    def refuse(method: str, request: Any) -> None:
        told = {"log": "logs/5151", "publishedSize": "5151"}
        raise DataLossError(reason, "logs/5151: tree size 5151", metadata=told)

    asked.anchor.faults.before = refuse
    with pytest.raises(DataLossError, match="5151"):
        await asked.guard.confirm(LEDGER)
    for _ in range(2):
        with pytest.raises(DataLossError) as caught:
            await asked.guard.check_absent()
        assert (caught.value.reason, caught.value.metadata) == (reason, {})
        assert "5151" not in caught.value.message
        assert LEDGER.name not in caught.value.message
    (told,) = [each for each in caplog.records if each.getMessage() == "ledger.not_confirmed"]
    assert LEDGER.name in str(vars(told))


class Listed:
    """Storage that lists a ledger at a time, and is away at the second question."""

    def __init__(self, names: str) -> None:
        self.names = names
        self.questions = 0

    async def list_ledgers(self, tenant: str, after: tuple[str, str], limit: int) -> Any:
        self.questions += 1
        if self.questions == 2:
            raise UnavailableError("DATABASE_UNAVAILABLE", "away", retry_delay_s=0.5)
        return [
            (replace(LEDGER, uid=name.encode() * 16, ledger=name), None)
            for name in self.names
            if ("acme", name) > after
        ][:1]


async def test_all_ledgers_are_checked_though_the_database_was_away_in_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It tells of trouble early, and is none itself: raised, the error would end the service."""
    monkeypatch.setattr(app, "_LIST_AGAIN_S", 0.0)
    checked: list[str] = []

    async def check(ledger: LedgerInfo) -> None:
        checked.append(ledger.ledger)

    service = SimpleNamespace(storage=Listed("abc"), guard=SimpleNamespace(check=check))
    await app.check_all(cast(app.Service, service))
    assert checked == ["a", "b", "c"]
