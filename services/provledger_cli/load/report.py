"""The report of a load: for people while it runs and at its end, and as one JSON document."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from provledger_cli import output
from provledger_cli.load import overload
from provledger_cli.load.fleet import Step
from provledger_cli.load.judge import Finding
from provledger_cli.load.run import Outcome, Plan


def line(step: Step) -> str:
    """One step in a line."""
    latency = step.latency
    refused, failed = sum(step.refused.values()), sum(step.failed.values())
    return (
        f"{step.rate_per_s:>7g}/s  answered {step.throughput_per_s:>7.1f}/s  "
        f"p50 {latency.quantile_ms(0.5):.1f} ms  p95 {latency.quantile_ms(0.95):.1f} ms  "
        f"p99 {latency.quantile_ms(0.99):.1f} ms  refused {refused}  failed {failed}"
        + (f"  {step.name}" if step.name else "")
        + ("  [yellow]generator late[/]" if step.late else "")
    )


def document(
    plan: Plan,
    outcome: Outcome,
    steps: Sequence[Mapping[str, Any]],
    findings: Sequence[Finding],
    word: str,
) -> dict[str, Any]:
    """The JSON document."""
    best = outcome.best.document()
    rates = ("rate_per_s", "throughput_per_s", "answered_per_s", "receipts_per_s")
    more: dict[str, Any] = {"missed_events": outcome.missed} if outcome.missed else {}
    if outcome.overloaded:
        more["overload"] = overload.summary(outcome.best, outcome.overloaded)
        more["overload_steps"] = [step.document() for step in outcome.overloaded]
    return {
        "traffic": plan.traffic.to_json(),
        "seed": plan.seed,
        "processes": plan.processes,
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "ended_at_unix_s": int(time.time()),
        "steps": steps,
        "best": {name: best[name] for name in rates},
        "load_s": outcome.load_s,
        "events": outcome.events,
        "memory": outcome.memory,
        "bounds": [finding.document() for finding in findings],
        "result": word,
        **more,
    }


def show(outcome: Outcome, findings: Sequence[Finding]) -> None:
    """What people are told at the end."""
    for step in [*outcome.steps, *outcome.overloaded]:
        for name, count in [*step.refused.items(), *step.failed.items()]:
            output.say(f"{step.rate_per_s:g}/s: {count} times {output.literal(name)}")
    for event in outcome.events:
        what = event.get("kid") or event.get("service")
        output.show(f"{event['event']} {output.literal(what)} after {event['at_s']:.1f} s")
    if outcome.overloaded:
        _show_overload(overload.summary(outcome.best, outcome.overloaded))
    if outcome.memory:
        rows = [
            [each["service"], *(_mib(each[f"{when}_mib"]) for when in ("start", "end", "highest"))]
            for each in outcome.memory
        ]
        output.show(output.table("memory", ["service", "start>", "end>", "highest>"], rows))
    for finding in findings:
        output.show(f"{finding.check}: [bold]{finding.word}[/]: {output.literal(finding.detail)}")


def _mib(value: float | None) -> str:
    return "gone" if value is None else f"{value:.1f} MiB"


def _part(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _show_overload(found: Mapping[str, Any]) -> None:
    columns = ["twice the best, clients", "answered>", "best again>", "of that>", "p95>"]
    columns += ["beside a quiet tenant>", "refused>"]
    columns += ["p50>", "p99>", "cancelled>"]
    rows = []
    for name in ("sending_on", "holding_back"):
        each = found[name]
        rows.append(
            [
                name.replace("_", " "),
                f"{each['throughput_per_s']:.0f}/s",
                f"{each['best_again_per_s']:.0f}/s",
                _part(each["of_best"]),
                f"{each['p95_ms']:.1f} ms",
                _part(each["of_best_beside_quiet"]),
                str(each["refused"]),
                f"{each['refusal_p50_ms']:.1f} ms",
                f"{each['refusal_p99_ms']:.1f} ms",
                str(each["cancelled_by_grpc"]),
            ]
        )
    best = f"best {found['best_per_s']:.0f}/s, p95 {found['best_p95_ms']:.1f} ms"
    output.show(output.table(best, columns, rows))
    quiet = {
        name: "none answered" if p95_ms is None else f"{p95_ms:.1f} ms"
        for name, p95_ms in found["quiet_p95_ms"].items()
    }
    output.show(
        f"a quiet tenant's p95: alone {quiet['alone']}; beside a flood that sends on "
        f"{quiet['beside_sending_on']}; beside one that holds back {quiet['beside_holding_back']}"
    )
