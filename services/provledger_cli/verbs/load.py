"""`provledger load`: an open-loop load, a latency curve, thresholds as an exit code."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from provledger_cli import output, placing
from provledger_cli.failures import COULD_NOT_TELL, DOES_NOT_HOLD
from provledger_cli.options import (
    DataDirOption,
    EndpointOption,
    JSONOption,
    TimeoutOption,
    TLSCAOption,
    TLSCertOption,
    TLSKeyOption,
    finite,
)

if TYPE_CHECKING:
    from provledger_cli.connect import Target
    from provledger_cli.load.fleet import Step
    from provledger_cli.load.run import Outcome, Plan
    from provledger_cli.load.schedule import Traffic

_TRAFFIC = "What is sent"
_SWEEP = "How much, and for how long"
_MIDDLE = "In the middle"
_BOUNDS = "What must hold"


def load(
    rates: Annotated[
        str,
        typer.Option(
            "--rates",
            envvar="PROVLEDGER_LOAD_RATES",
            rich_help_panel=_SWEEP,
            metavar="N[,N...]",
            help="Requests a second, one step each, growing.",
        ),
    ] = "50,100,200,400,600,800,1000",
    saturate: Annotated[
        bool,
        typer.Option(
            "--saturate",
            envvar="PROVLEDGER_LOAD_SATURATE",
            rich_help_panel=_SWEEP,
            help="Then go on, half as much again each time, until one in ten is not answered while "
            "the step lasts.",
        ),
    ] = False,
    overload_too: Annotated[
        bool,
        typer.Option(
            "--overload",
            envvar="PROVLEDGER_LOAD_OVERLOAD",
            rich_help_panel=_SWEEP,
            help="After that, send twice the best rate, by clients that send on and by clients "
            "that hold back; and see what a quiet tenant notices.",
        ),
    ] = False,
    duration: Annotated[
        float,
        typer.Option(
            "--duration",
            envvar="PROVLEDGER_LOAD_DURATION",
            rich_help_panel=_SWEEP,
            min=0.5,
            callback=finite,
            help="Seconds of each step. One rate and a long duration make a soak.",
        ),
    ] = 10.0,
    constant: Annotated[
        bool,
        typer.Option(
            "--constant/--poisson",
            envvar="PROVLEDGER_LOAD_CONSTANT",
            rich_help_panel=_SWEEP,
            help="Evenly spaced arrivals instead of random ones.",
        ),
    ] = False,
    seed: Annotated[
        str,
        typer.Option(
            "--seed",
            envvar="PROVLEDGER_LOAD_SEED",
            rich_help_panel=_SWEEP,
            help="Fixes when what is sent.",
        ),
    ] = "1",
    processes: Annotated[
        int,
        typer.Option(
            "--processes",
            envvar="PROVLEDGER_LOAD_PROCESSES",
            rich_help_panel=_SWEEP,
            min=1,
            max=64,
            help="Client processes that share the rate. The report says when they were too few.",
        ),
    ] = 2,
    mix: Annotated[
        str,
        typer.Option(
            "--mix",
            envvar="PROVLEDGER_LOAD_MIX",
            rich_help_panel=_TRAFFIC,
            metavar="KIND[=WEIGHT],...",
            help="Of single, shared, batch and stream. `shared` is a single append by the Python "
            "client, which shares calls; a message on a stream counts as a request.",
        ),
    ] = "single",
    batch_items: Annotated[
        int,
        typer.Option(
            "--batch-items",
            envvar="PROVLEDGER_LOAD_BATCH_ITEMS",
            rich_help_panel=_TRAFFIC,
            min=1,
            max=1000,
            help="Drafts in a batch.",
        ),
    ] = 100,
    tenants: Annotated[
        str,
        typer.Option(
            "--tenants",
            envvar="PROVLEDGER_LOAD_TENANTS",
            rich_help_panel=_TRAFFIC,
            metavar="ID[=WEIGHT],...",
            help="Tenants by weight, each with a ledger `load`, which is made if it is missing, "
            "also on services elsewhere. Receipts are never deleted: give tenants that are for "
            "this alone.",
        ),
    ] = "load",
    sizes: Annotated[
        str,
        typer.Option(
            "--sizes",
            envvar="PROVLEDGER_LOAD_SIZES",
            rich_help_panel=_TRAFFIC,
            metavar="BYTES[=WEIGHT],...",
            help="Sizes of the new state, by weight.",
        ),
    ] = "1024",
    rotate_at: Annotated[
        float | None,
        typer.Option(
            "--rotate-at",
            envvar="PROVLEDGER_LOAD_ROTATE_AT",
            rich_help_panel=_MIDDLE,
            min=0.0,
            callback=finite,
            help="Rotate the witness's key so many seconds after the start.",
            show_default=False,
        ),
    ] = None,
    kill: Annotated[
        str,
        typer.Option(
            "--kill",
            envvar="PROVLEDGER_LOAD_KILL",
            rich_help_panel=_MIDDLE,
            metavar="NAME",
            help="Kill a service of the data directory; its supervisor starts it again.",
            show_default=False,
        ),
    ] = "",
    kill_at: Annotated[
        float | None,
        typer.Option(
            "--at",
            envvar="PROVLEDGER_LOAD_KILL_AT",
            rich_help_panel=_MIDDLE,
            min=0.0,
            callback=finite,
            help="When to --kill it, in seconds after the start. Default: 1.",
            show_default=False,
        ),
    ] = None,
    max_p95_ms: Annotated[
        float | None,
        typer.Option(
            "--max-p95-ms",
            envvar="PROVLEDGER_LOAD_MAX_P95_MS",
            rich_help_panel=_BOUNDS,
            min=0.0,
            callback=finite,
            help="p95 of every step is at most this.",
            show_default=False,
        ),
    ] = None,
    max_p99_ms: Annotated[
        float | None,
        typer.Option(
            "--max-p99-ms",
            envvar="PROVLEDGER_LOAD_MAX_P99_MS",
            rich_help_panel=_BOUNDS,
            min=0.0,
            callback=finite,
            help="p99 of every step is at most this.",
            show_default=False,
        ),
    ] = None,
    min_rate: Annotated[
        float | None,
        typer.Option(
            "--min-rate",
            envvar="PROVLEDGER_LOAD_MIN_RATE",
            rich_help_panel=_BOUNDS,
            min=0.0,
            callback=finite,
            help="Answers a second of the best step, while it lasts, are at least this.",
            show_default=False,
        ),
    ] = None,
    max_failed: Annotated[
        float | None,
        typer.Option(
            "--max-failed",
            envvar="PROVLEDGER_LOAD_MAX_FAILED",
            rich_help_panel=_BOUNDS,
            min=0.0,
            max=1.0,
            callback=finite,
            help="Part of all drafts that may fail; refusals for overload are none.",
            show_default=False,
        ),
    ] = None,
    max_refused: Annotated[
        float | None,
        typer.Option(
            "--max-refused",
            envvar="PROVLEDGER_LOAD_MAX_REFUSED",
            rich_help_panel=_BOUNDS,
            min=0.0,
            max=1.0,
            callback=finite,
            help="Part of the drafts of every step that may be refused for overload.",
            show_default=False,
        ),
    ] = None,
    max_gap_ms: Annotated[
        float | None,
        typer.Option(
            "--max-gap-ms",
            envvar="PROVLEDGER_LOAD_MAX_GAP_MS",
            rich_help_panel=_BOUNDS,
            min=0.0,
            callback=finite,
            help="In no step a client process is without any answer for longer than this.",
            show_default=False,
        ),
    ] = None,
    max_memory_mib: Annotated[
        float | None,
        typer.Option(
            "--max-memory-mib",
            envvar="PROVLEDGER_LOAD_MAX_MEMORY_MIB",
            rich_help_panel=_BOUNDS,
            min=0.0,
            callback=finite,
            help="Resident memory of every service of the data directory, at its highest.",
            show_default=False,
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            envvar="PROVLEDGER_LOAD_CHECK",
            rich_help_panel=_BOUNDS,
            help="Ask the ledgers at the end for all that they acknowledged: each receipt is there "
            "once, as it was acknowledged, without a gap; a sample is read back and verified.",
        ),
    ] = False,
    baseline: Annotated[
        Path | None,
        typer.Option(
            "--baseline",
            envvar="PROVLEDGER_LOAD_BASELINE",
            rich_help_panel=_BOUNDS,
            help="Report of an earlier run (--json), to be compared with.",
            show_default=False,
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance",
            envvar="PROVLEDGER_LOAD_TOLERANCE",
            rich_help_panel=_BOUNDS,
            min=0.0,
            callback=finite,
            help="How much worse than the --baseline it may be, in p95, p99, refusals and rate. "
            "Default: 0.2, a fifth.",
            show_default=False,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            envvar="PROVLEDGER_LOAD_PLOT",
            help="Write the latency curve to this file, as SVG.",
            show_default=False,
        ),
    ] = None,
    data_dir: DataDirOption = None,
    endpoint: EndpointOption = None,
    timeout: TimeoutOption = 10.0,
    tls_cert: TLSCertOption = None,
    tls_key: TLSKeyOption = None,
    tls_ca: TLSCAOption = None,
    as_json: JSONOption = False,
) -> None:
    """Send appends at fixed times, whatever comes back, and tell how long the answers took.

    Latency counts from when a request was due, so a stall shows in every request that it delayed.
    Nothing is retried. Exit code 1 means that a bound was passed, or with --check that something
    acknowledged is denied, 2 that it could not be told,
    such as when the generator itself was late.

    Example: provledger load --rates 50,100,200 --saturate --plot curve.svg

    Example: provledger load --rates 200 --max-p95-ms 40 --max-p99-ms 100 --max-gap-ms 500
    """
    from provledger_cli.connect import run_async, target
    from provledger_cli.load import judge, overload, planning, report

    output.use_json(as_json)
    planning.refuse_alone("--tolerance", tolerance, "--baseline", baseline)
    planning.refuse_alone("--at", kill_at, "--kill", kill or None)
    placing.claim(plot)
    traffic = planning.traffic(mix, tenants, sizes, batch_items, constant)
    plan = planning.plan(
        traffic,
        rates,
        saturate=saturate,
        overload=overload_too,
        step_s=duration,
        processes=processes,
        seed=seed,
        timeout_s=timeout,
        check=check,
    )
    before = planning.baseline(baseline)
    where = target(data_dir, endpoint, tls_cert=tls_cert, tls_key=tls_key, tls_ca=tls_ca)
    plan = planning.with_events(plan, where, rotate_at, kill, 1.0 if kill_at is None else kill_at)
    outcome = run_async(_run(plan, where, timeout))
    steps = [step.document() for step in outcome.steps]
    findings = judge.judge(
        steps,
        max_p95_ms=max_p95_ms,
        max_p99_ms=max_p99_ms,
        min_rate=min_rate,
        max_failed=max_failed,
        max_refused=max_refused,
        max_gap_ms=max_gap_ms,
        max_memory_mib=max_memory_mib,
        memory=outcome.memory,
        baseline=before.steps if before else None,
        unlike=before.unlike(plan) if before else (),
        tolerance=0.2 if tolerance is None else tolerance,
    )
    findings += judge.in_the_middle(outcome.events, outcome.missed, outcome.load_s)
    findings += outcome.recalled
    if plan.overload:
        findings += overload.findings(outcome.best, outcome.overloaded)
    word = judge.verdict(findings, steps)
    if as_json:
        output.document(report.document(plan, outcome, steps, findings, word))
    else:
        report.show(outcome, findings)
    if plot is not None:
        _plot(plot, steps, traffic)
    if word != "holds":
        if not findings:
            output.say("[bold red]nothing was answered[/]")
        raise typer.Exit(DOES_NOT_HOLD if word == "does not hold" else COULD_NOT_TELL)


async def _run(plan: Plan, where: Target, timeout_s: float) -> Outcome:
    from provledger_cli.connect import Remote
    from provledger_cli.load import overload, report, run
    from provledger_cli.tenancy import ensure_ledger

    ledgers = [ledger for ledger, _ in plan.traffic.ledgers]
    async with Remote(where, timeout_s=timeout_s) as remote:
        for ledger in [*ledgers, overload.QUIET_LEDGER] if plan.overload else ledgers:
            _, tenant, _, ledger_id = ledger.split("/")
            await ensure_ledger(remote, tenant, ledger_id, create=True)
    # Request ids must be new in every run, and the seed is not.
    tag = f"load-{uuid.uuid4().hex[:12]}"
    with output.progress("requests", counted=False) as bar:
        task = bar.add_task("starting", total=None, done=0)

        def on_step(step: Step, ended: bool) -> None:
            bar.update(
                task,
                description=report.line(step),
                total=step.rate_per_s * plan.step_s,
                completed=step.sent + step.not_sent,
                done=step.answered,
            )
            if ended:
                output.say(report.line(step))

        return await run.run(plan, where, tag, on_step)


def _plot(path: Path, steps: list[dict[str, Any]], traffic: Traffic) -> None:
    from provledger_cli.load.plot import latency_curve

    kinds = ", ".join(name for name, _ in traffic.kinds)
    curve = latency_curve(steps, f"Latency of appends ({kinds}), from when due")
    placing.write(path, curve.encode())
