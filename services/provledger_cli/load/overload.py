"""Twice of what the services can do, and who notices: the steps, and what they came to.

The best step of the sweep before says what can be done. Twice that is sent, by clients that send on
whatever they hear, and by clients that hold back as the Python client does, with a bound on the
calls in flight. Machines change their speed within a minute, so that the best step is made again
just before each, and what the flood comes to is a part of that.

Then the same floods beside a quiet tenant, who sends a little, from a process of its own; before,
alone. While tenants share, each gets through in small pieces, which costs throughput: that is why
the two are not measured at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from provledger.names import ledger_name
from provledger.rpc.errors import PEER_CANCELLED
from provledger.throttle import THROTTLED
from provledger_cli.load.fleet import Step
from provledger_cli.load.judge import Finding, Word
from provledger_cli.load.schedule import Traffic

TIMES: Final = 2.0
KEEPS: Final = 0.9
"""Part of the best rate that is still answered."""
QUIET_PER_S: Final = 20.0
QUIET_LEDGER: Final = ledger_name("load-quiet", "load")
QUIET_TRAFFIC: Final = Traffic(ledgers=[(QUIET_LEDGER, 1.0)])
QUIET_TIMES: Final = 2.0
"""How many times longer than alone the quiet tenant may wait beside a flood, at p95."""
QUIET_ANSWERED: Final = 0.99
"""Part of his requests that must be answered for that to be said of him."""

ALONE: Final = "quiet, alone"
PLAIN: Final = "twice, sending on"
HELD_BACK: Final = "twice, holding back"
AGAIN: Final = "the best again, before "
BESIDE: Final = "beside a quiet tenant, "
QUIET: Final = "quiet, beside "
"""How the steps around a flood are called: the best one made again, the flood that a quiet tenant
is beside, and that tenant."""

RunStep = Callable[[str, float, bool], Awaitable[Step]]
"""Run a step: its name, requests a second, whether clients hold back."""


async def run(best: Step, flood: RunStep, quiet: RunStep) -> list[Step]:
    """Run the steps, given the best one of a sweep, and what runs steps of either kind."""
    rate = TIMES * best.throughput_per_s
    kinds = ((PLAIN, False), (HELD_BACK, True))
    steps = []
    for name, hold_back in kinds:
        steps.append(await flood(AGAIN + name, best.rate_per_s, False))
        steps.append(await flood(name, rate, hold_back))
    steps.append(await quiet(ALONE, QUIET_PER_S, False))
    for name, hold_back in kinds:
        steps += await asyncio.gather(
            flood(BESIDE + name, rate, hold_back), quiet(QUIET + name, QUIET_PER_S, False)
        )
    return steps


def summary(best: Step, steps: Sequence[Step]) -> dict[str, Any]:
    """For the JSON report; times in milliseconds, latencies from when a request was due."""
    of = {step.name: step for step in steps}
    return {
        "best_per_s": round(best.throughput_per_s, 1),
        "best_p95_ms": best.latency.quantile_ms(0.95),
        "sending_on": _flood(of, PLAIN),
        "holding_back": _flood(of, HELD_BACK),
        "quiet_p95_ms": {name: _p95_ms(step) for name, step in _quiet(of).items()},
        "quiet_answered": {name: _answered(step) for name, step in _quiet(of).items()},
    }


def _quiet(of: Mapping[str, Step]) -> dict[str, Step]:
    return {
        "alone": of[ALONE],
        "beside_sending_on": of[QUIET + PLAIN],
        "beside_holding_back": of[QUIET + HELD_BACK],
    }


def _p95_ms(step: Step) -> float | None:
    return step.latency.quantile_ms(0.95) if step.answered else None


def _answered(step: Step) -> float | None:
    """The part of a step's requests that was answered; None if there were none."""
    return round(step.answered / step.sent, 3) if step.sent else None


def findings(best: Step, steps: Sequence[Step]) -> list[Finding]:
    """What must hold where clients hold back; where they do not, it is only told. No steps: there
    was no rate of which to send twice as much."""
    if not steps:
        return [Finding("overload", "could not tell", "nothing was answered while a step lasted")]
    of = {step.name: step for step in steps}
    share = _share(of, HELD_BACK)
    throughput: Word = "holds" if share is not None and share >= KEEPS else "does not hold"
    found = [
        Finding(
            "overload throughput",
            "could not tell" if share is None else throughput,
            f"{share or 0.0:.2f} of the best rate, at least {KEEPS:.2f}",
        )
    ]
    return [*found, _quiet_finding(of[ALONE], of[QUIET + HELD_BACK])]


def _quiet_finding(alone: Step, beside: Step) -> Finding:
    check = "overload quiet p95"
    for step, where in ((alone, "alone"), (beside, "beside a flood")):
        if not step.sent or step.answered < QUIET_ANSWERED * step.sent:
            starved = step is beside and step.sent
            word: Word = "does not hold" if starved else "could not tell"
            detail = f"{step.answered} of {step.sent} answered {where}"
            return Finding(check, word, f"{detail}, at least {QUIET_ANSWERED:.0%}")
    alone_ms = alone.latency.quantile_ms(0.95)
    beside_ms = beside.latency.quantile_ms(0.95)
    quiet: Word = "holds" if beside_ms <= QUIET_TIMES * alone_ms else "does not hold"
    late = alone.late or beside.late
    return Finding(
        check,
        "could not tell" if quiet != "holds" and late else quiet,
        f"{beside_ms:.3g} ms beside a flood, {alone_ms:.3g} ms alone, "
        f"at most {QUIET_TIMES:g} times that",
    )


def _share(of: Mapping[str, Step], name: str, prefix: str = "") -> float | None:
    """What a flood came to, as a part of the best step made again; None if that came to nothing."""
    again = of[AGAIN + name]
    return of[prefix + name].throughput_per_s / again.throughput_per_s if again.in_time else None


def _flood(of: Mapping[str, Step], name: str) -> dict[str, Any]:
    step, share, beside = of[name], _share(of, name), _share(of, name, BESIDE)
    refused = step.refused.total()
    held_back = step.refused[THROTTLED]
    return {
        "sent_per_s": round((step.sent - held_back) / step.seconds, 1),
        "throughput_per_s": round(step.throughput_per_s, 1),
        "best_again_per_s": round(of[AGAIN + name].throughput_per_s, 1),
        "of_best": None if share is None else round(share, 3),
        "of_best_beside_quiet": None if beside is None else round(beside, 3),
        "p95_ms": step.latency.quantile_ms(0.95),
        "held_back": held_back,
        "refused": refused - held_back,
        "refusal_p50_ms": step.refusal.quantile_ms(0.5),
        "refusal_p99_ms": step.refusal.quantile_ms(0.99),
        "cancelled_by_grpc": step.failed[PEER_CANCELLED],
    }
