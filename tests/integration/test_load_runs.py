"""A whole `provledger load` with its client processes, at a ledger that answers as a test says."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from provledger_cli.connect import Target
from provledger_cli.embedded.datadir import DataDir
from provledger_cli.failures import CommandError
from provledger_cli.load import judge, overload, run
from provledger_cli.load.fleet import Fleet, Step
from provledger_cli.load.run import Outcome, Plan
from provledger_cli.load.schedule import Traffic
from tests.support.fake_ledger import LEDGER, Answering, serving


def at(endpoint: str) -> Target:
    return Target(DataDir(Path("/nowhere")), {"ledger": endpoint}, False)


def plan(**options: Any) -> Plan:
    defaults: dict[str, Any] = {
        "traffic": Traffic(ledgers=[(LEDGER, 1.0)], poisson=False),
        "rates": [20.0],
        "saturate": False,
        "step_s": 0.3,
        "processes": 1,
        "seed": "1",
        "timeout_s": 20.0,
    }
    return Plan(**{**defaults, **options})


def ignore(step: Step, ended: bool) -> None:
    pass


async def outcome_of(service: Answering, **options: Any) -> Outcome:
    async with asyncio.timeout(60), serving(service) as endpoint:
        return await run.run(plan(**options), at(endpoint), "load-test", ignore)


async def test_event_whose_time_has_not_come_does_not_happen() -> None:
    """Nobody waits for it, and it is no fault in the middle of anything."""
    outcome = await outcome_of(Answering(), kill="witness", kill_at_s=600.0)
    assert outcome.events == []
    (missed,) = outcome.missed
    assert missed == {"event": "kill", "service": "witness", "at_s": 600.0}
    assert 0.3 <= outcome.load_s < 60
    (found,) = judge.in_the_middle(outcome.events, outcome.missed, outcome.load_s)
    assert (found.check, found.word) == ("kill in the middle", "could not tell")


async def test_nothing_answered_in_time_is_no_rate_to_send_twice_of() -> None:
    """And what a client gave up waiting for had no answer, whichever side noticed first."""
    service = Answering()
    service.open.clear()
    outcome = await outcome_of(service, overload=True, saturate=True, timeout_s=0.5)
    (step,) = outcome.steps
    assert step.failed == {"no answer": step.sent}
    assert outcome.overloaded == []
    (found,) = overload.findings(outcome.best, outcome.overloaded)
    assert found.word == "could not tell"


async def test_client_process_that_ends_in_a_step_is_told_of() -> None:
    async with asyncio.timeout(60), serving(Answering()) as endpoint:
        setup = {
            "endpoint": endpoint,
            "tls": [None] * 3,
            "traffic": plan().traffic.to_json(),
            "tag": "test",
            "timeout_s": 20.0,
            "keep": False,
        }
        async with Fleet(1, setup) as fleet:
            with pytest.raises(CommandError, match="ended by itself"):
                await fleet.run(0.0, 0.3, "1", 20.0, lambda _: None)
