"""What a load is to be, from the options of `provledger load`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from provledger import names
from provledger.errors import InputError
from provledger_cli.connect import Target
from provledger_cli.embedded.datadir import SERVICES
from provledger_cli.failures import CommandError
from provledger_cli.load import judge, schedule
from provledger_cli.load.run import Plan
from provledger_cli.load.schedule import Traffic


def traffic(mix: str, tenants: str, sizes: str, batch_items: int, constant: bool) -> Traffic:
    """What is sent; raises InputError."""
    weighted = schedule.parse_weights(tenants, "--tenants")
    return Traffic(
        kinds=schedule.parse_kinds(mix),
        ledgers=[(names.ledger_name(tenant, "load"), weight) for tenant, weight in weighted],
        sizes=schedule.parse_sizes(sizes),
        batch_items=batch_items,
        poisson=not constant,
    )


def plan(
    traffic: Traffic,
    rates: str,
    *,
    saturate: bool,
    overload: bool,
    step_s: float,
    processes: int,
    seed: str,
    timeout_s: float,
    check: bool = False,
) -> Plan:
    """The steps, without what happens in the middle; raises InputError."""
    return Plan(
        traffic=traffic,
        rates=schedule.parse_rates(rates),
        saturate=saturate or overload,
        overload=overload,
        step_s=step_s,
        processes=processes,
        seed=seed,
        timeout_s=timeout_s,
        check=check,
    )


def refuse_alone(option: str, value: object, of: str, given: object) -> None:
    """Refuse an option without the one that it belongs to; None is what was not given.

    Raises:
        CommandError: it would do nothing.
    """
    if value is not None and given is None:
        raise CommandError(f"{option} is for {of}, which is not given", hint=f"give {of} too")


def with_events(
    plan: Plan, where: Target, rotate_at: float | None, kill: str, kill_at: float
) -> Plan:
    """The plan with what happens in the middle; times in seconds after its start.

    Raises:
        CommandError: there are no such services here, or it would come after the load.
    """
    if (rotate_at is not None or kill) and not where.embedded:
        raise CommandError(
            "--rotate-at and --kill are for the services of a data directory",
            hint="leave --endpoint out",
        )
    if kill and kill not in SERVICES:
        raise CommandError(f"--kill {kill!r} is none of {', '.join(SERVICES)}")
    length_s = len(plan.rates) * plan.step_s
    times = {"--rotate-at": rotate_at, "--at": kill_at if kill else None}
    for option, at_s in times.items():
        # How long a load goes on that ends when it is full, nobody knows.
        if at_s is not None and at_s >= length_s and not plan.saturate:
            raise CommandError(
                f"{option} {at_s:g} is not within the load: nothing is sent after {length_s:g} s",
                hint="give an earlier time, or a longer --duration",
            )
    return replace(plan, rotate_at_s=rotate_at, kill=kill, kill_at_s=kill_at)


@dataclass(frozen=True, slots=True)
class Baseline:
    """A report that was kept: its steps, and what they were made of."""

    steps: Sequence[Mapping[str, Any]]
    traffic: Traffic
    processes: int

    def unlike(self, plan: Plan) -> list[str]:
        """The options by which a plan is another load. Tenants may have other names."""
        one, other = self.traffic, plan.traffic
        batches = "batch" in _shares([*one.kinds, *other.kinds])
        same = {
            "--mix": _shares(one.kinds) == _shares(other.kinds),
            "--batch-items": one.batch_items == other.batch_items or not batches,
            "--tenants": sorted(_shares(one.ledgers).values())
            == sorted(_shares(other.ledgers).values()),
            "--sizes": _shares(one.sizes) == _shares(other.sizes),
            "--constant": one.poisson == other.poisson,
            "--processes": self.processes == plan.processes,
            "--duration": all(step["seconds"] == plan.step_s for step in self.steps),
        }
        return [option for option, alike in same.items() if not alike]


def _shares(pairs: Sequence[tuple[Any, float]]) -> dict[Any, float]:
    """How much of all each value is, to six digits."""
    total = sum(weight for _, weight in pairs)
    shares: dict[Any, float] = {}
    for value, weight in pairs:
        shares[value] = shares.get(value, 0.0) + weight / total
    return {value: round(share, 6) for value, share in shares.items()}


def baseline(path: Path | None) -> Baseline | None:
    """A report that was kept; raises CommandError for anything else."""
    if path is None:
        return None
    try:
        return baseline_of(json.loads(path.read_bytes()))
    except ValueError:
        raise CommandError(
            f"{path} is not a report of `provledger load --json`", hint="write one with --json"
        ) from None


def baseline_of(document: Any) -> Baseline:
    """A report as a baseline; raises InputError for anything else."""
    steps = judge.steps_of(document)
    try:
        made = Traffic.from_json(document["traffic"])
        for pairs in (made.kinds, made.ledgers, made.sizes):
            _shares(pairs)
        return Baseline(steps, made, int(document["processes"]))
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        raise InputError("--baseline does not tell what load it was") from None
