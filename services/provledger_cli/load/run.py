"""A load from its first step to its report: the sweep, what happens in the middle, memory."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from provledger_cli.connect import Target
from provledger_cli.embedded import endpoints
from provledger_cli.embedded.datadir import GATEWAY, SERVICES
from provledger_cli.failures import CommandError
from provledger_cli.load import overload
from provledger_cli.load.fleet import START_IN_S, Fleet, Step
from provledger_cli.load.judge import Finding
from provledger_cli.load.kept import Kept
from provledger_cli.load.recall import recall
from provledger_cli.load.schedule import Traffic, next_rate

HIGHEST: Final = "VmHWM:"
_MOST_STEPS: Final = 40
_RECALL_S: Final = 30.0
"""So long at least a service that was killed may take to answer again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run. Times in seconds; `at_s` counts from the start of the first step.

    rates: one step each. saturate: then go on, half as much again each time, until a step is not
    kept up with. overload: then twice the best rate, see `overload`. rotate_at_s, kill: what
    happens meanwhile. check: whether what was acknowledged is asked for at the end.
    """

    traffic: Traffic
    rates: Sequence[float]
    saturate: bool
    overload: bool = False
    step_s: float
    processes: int
    seed: str
    timeout_s: float
    rotate_at_s: float | None = None
    kill: str = ""
    kill_at_s: float = 0.0
    check: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it; documents for the report. overloaded: steps beyond the sweep. load_s: from
    the start until nothing was due any more. missed: events that were to come later than that.
    recalled: what the ledgers say of what they acknowledged, if they were asked."""

    steps: list[Step]
    overloaded: list[Step]
    events: list[dict[str, Any]]
    memory: list[dict[str, Any]]
    load_s: float = 0.0
    missed: list[dict[str, Any]] = field(default_factory=list)
    recalled: list[Finding] = field(default_factory=list)

    @property
    def best(self) -> Step:
        """The step of the sweep that had most answers while it lasted."""
        return best_of(self.steps)


def best_of(steps: Sequence[Step]) -> Step:
    """The step with most answers while it lasted."""
    return max(steps, key=lambda step: step.throughput_per_s)


async def run(
    plan: Plan, where: Target, tag: str, on_step: Callable[[Step, bool], None]
) -> Outcome:
    """Run a plan; `on_step` is told of the step that runs, and whether it has ended.

    Raises:
        CommandError: the services cannot be reached, or an event cannot be made to happen.
    """
    before = memory(where)
    tls = where.tls
    setup = {
        "endpoint": where.addresses["ledger"],
        "tls": [str(path) for path in (tls.cert, tls.key, tls.ca)] if tls else [None] * 3,
        "traffic": plan.traffic.to_json(),
        "tag": tag,
        "timeout_s": plan.timeout_s,
        "keep": plan.check,
    }
    kept: dict[str, Kept] = {}
    steps: list[Step] = []
    overloaded: list[Step] = []
    events = _events(plan, where, tag)
    async with Fleet(plan.processes, setup) as fleet:
        started_s = time.monotonic() + START_IN_S
        happening = [asyncio.create_task(event.happen(started_s)) for event in events]

        async def run_step(name: str, rate: float, hold_back: bool, by: Fleet = fleet) -> Step:
            step = await by.run(
                rate,
                plan.step_s,
                plan.seed,
                plan.timeout_s,
                lambda so_far: on_step(so_far, False),
                hold_back=hold_back,
            )
            step.name = name
            on_step(step, True)
            return step

        try:
            rates = list(plan.rates)
            while len(steps) < len(rates):
                rate = rates[len(steps)]
                step = await run_step("", rate, False)
                steps.append(step)
                if plan.saturate and len(steps) == len(rates) < _MOST_STEPS and step.kept_up:
                    rates.append(next_rate(rate))
            if plan.overload and best_of(steps).in_time:
                quiet = {
                    **setup,
                    "tag": f"{tag}-quiet",
                    "traffic": overload.QUIET_TRAFFIC.to_json(),
                }
                async with Fleet(1, quiet) as other:
                    overloaded = await overload.run(
                        best_of(steps), run_step, functools.partial(run_step, by=other)
                    )
                    fleet.ended_s = max(fleet.ended_s, other.ended_s)
                    await other.kept(kept)
            # What has not begun would find nothing that it could disturb.
            for event, task in zip(events, happening, strict=True):
                if event.begun:
                    await task
            await fleet.kept(kept)
        finally:
            for task in happening:
                task.cancel()
    after = memory(where)
    highest = memory(where, HIGHEST)
    happened = [event.document() for event in events if event.begun]
    for each in happened:
        name, before_mib = each.get("service", ""), each.get("highest_mib")
        if name in highest and before_mib is not None:
            highest[name] = max(highest[name], before_mib)
    return Outcome(
        steps,
        overloaded,
        happened,
        [
            {
                "service": name,
                "start_mib": before.get(name),
                "end_mib": after.get(name),
                "highest_mib": highest.get(name),
            }
            for name in (*SERVICES, GATEWAY)
            if name in before or name in after
        ],
        round(fleet.ended_s - started_s, 3),
        [event.document() for event in events if not event.begun],
        await recall(where, kept, max(plan.timeout_s, _RECALL_S)) if plan.check else [],
    )


def memory(where: Target, line_of: str = "VmRSS:") -> dict[str, float]:
    """Resident memory in MiB of the services of a data directory; of others, nothing is known.

    line_of: `/proc/PID/status` has it now, or `HIGHEST`, since its start.
    """
    known = endpoints.read(where.data_dir.endpoints) if where.embedded else None
    found: dict[str, float] = {}
    for name, service in known.services.items() if known else ():
        try:
            with open(f"/proc/{service.pid}/status", encoding="ascii") as status:
                for line in status:
                    if line.startswith(line_of):
                        found[name] = round(int(line.split()[1]) / 1024, 1)
        except OSError:
            continue
    return found


class _Event:
    """Something that happens in the middle, `at_s` after the start."""

    def __init__(self, what: dict[str, Any], at_s: float, do: Callable[[], Any]) -> None:
        self._what = what
        self._at_s = at_s
        self._do = do
        self._took_s = 0.0
        self.begun = False

    async def happen(self, started_s: float) -> None:
        """Wait for its time, then do it."""
        await asyncio.sleep(max(0.0, started_s + self._at_s - time.monotonic()))
        self.begun = True
        began_s = time.monotonic()
        self._what |= await self._do()
        self._at_s = began_s - started_s
        self._took_s = time.monotonic() - began_s

    def document(self) -> dict[str, Any]:
        """For the JSON report; `took_s` only if it happened."""
        took = {"took_s": round(self._took_s, 3)} if self.begun else {}
        return {"at_s": round(self._at_s, 3), **took, **self._what}


def _events(plan: Plan, where: Target, tag: str) -> list[_Event]:
    events = []
    if plan.rotate_at_s is not None:
        kid = f"load-{tag[-12:]}"
        rotate = {"event": "rotate", "kid": kid}
        events.append(_Event(rotate, plan.rotate_at_s, lambda: _rotate(where, kid)))
    if plan.kill:
        kill = {"event": "kill", "service": plan.kill}
        events.append(_Event(kill, plan.kill_at_s, lambda: _kill(where, plan.kill)))
    return events


async def _rotate(where: Target, kid: str) -> dict[str, Any]:
    """Rotate the witness's key with the very command an operator uses."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "provledger_cli", "keys", "rotate", "--kid", kid),
        *("--no-probe", "--json", "--data-dir", str(where.data_dir.path)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    answer, talk = await process.communicate()
    if process.returncode:
        raise CommandError("the rotation failed", details=talk.decode("utf-8", "replace").strip())
    return {"epoch": json.loads(answer)["key"]["epoch"]}


async def _kill(where: Target, service: str) -> dict[str, Any]:
    """Kill a service without warning; its supervisor starts it again."""
    known = endpoints.read(where.data_dir.endpoints)
    pid = known.services[service].pid if known else 0
    if not pid:
        raise CommandError(f"{service} does not run, and so cannot be killed")
    # What it has held at most goes with it.
    highest_mib = memory(where, HIGHEST).get(service)
    os.kill(pid, signal.SIGKILL)
    return {"highest_mib": highest_mib}
