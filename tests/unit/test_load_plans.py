"""What a load is to be by its options, and whether it can be compared with one from before."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from provledger.errors import InputError
from provledger_cli.connect import Target
from provledger_cli.embedded.datadir import DataDir
from provledger_cli.failures import CommandError
from provledger_cli.load import judge, planning
from provledger_cli.load.fleet import Step
from provledger_cli.load.schedule import Traffic
from provledger_cli.main import application
from provledger_cli.verbs.load import load

STEP = Step(100.0, 1.0, sent=100, answered=100, in_time=100, drafts=100).document()


def of(**options: Any) -> Traffic:
    return Traffic(ledgers=[("tenants/load/ledgers/load", 1.0)], **options)


def planned(duration_s: float = 1.0, processes: int = 2, **options: str) -> Any:
    given = {"mix": "single", "tenants": "load", "sizes": "1024", **options}
    kept = planning.traffic(**given, batch_items=100, constant=False)
    return planning.plan(
        kept,
        "100",
        saturate=False,
        overload=False,
        step_s=duration_s,
        processes=processes,
        seed="1",
        timeout_s=1.0,
    )


def report_of(plan: Any) -> Any:
    made = {"steps": [{**STEP, "seconds": plan.step_s}], "processes": plan.processes}
    return json.loads(json.dumps({**made, "traffic": plan.traffic.to_json()}))


@pytest.mark.parametrize(
    ("before", "now", "unlike"),
    [
        (planned(), planned(), []),
        (planned(mix="single=8,batch=2"), planned(mix="single=4,batch=1"), []),
        # Receipts stay, so that runs one after the other have tenants of their own.
        (planned(tenants="a=2,b"), planned(tenants="d,c=2"), []),
        (planned(tenants="a,b"), planned(tenants="a"), ["--tenants"]),
        (planned(mix="batch"), planned(), ["--mix"]),
        (planned(sizes="4000"), planned(), ["--sizes"]),
        (planned(processes=1), planned(2.0), ["--processes", "--duration"]),
    ],
)
def test_baseline_of_another_load_tells_nothing(before: Any, now: Any, unlike: Any) -> None:
    found = planning.baseline_of(report_of(before)).unlike(now)
    assert found == unlike
    findings = judge.judge([STEP], baseline=[STEP], unlike=found)
    assert {each.word for each in findings} == {"could not tell" if unlike else "holds"}
    if unlike:
        assert ", ".join(unlike) in findings[0].detail


def test_baseline_compares_the_size_of_batches_where_there_are_any() -> None:
    small = dataclasses.replace(planned(), traffic=of(batch_items=5))
    assert planning.baseline_of(report_of(small)).unlike(planned()) == []
    for kinds in ([("batch", 1.0)], [("single", 1.0), ("batch", 1.0)]):
        ours = dataclasses.replace(planned(), traffic=of(kinds=kinds))
        smaller = dataclasses.replace(ours, traffic=of(kinds=kinds, batch_items=5))
        assert planning.baseline_of(report_of(smaller)).unlike(ours) == ["--batch-items"]


@pytest.mark.parametrize(
    "change", [{"traffic": None}, {"traffic": {"kinds": 3}}, {"processes": "x"}]
)
def test_baseline_that_does_not_tell_what_it_was_is_refused(change: Any) -> None:
    with pytest.raises(InputError, match="--baseline"):
        planning.baseline_of({**report_of(planned()), **change})


def test_place_of_the_curve_is_looked_at_first() -> None:
    """Not when the load is over, whose results would be gone."""
    with pytest.raises(CommandError, match="there is no directory /nowhere"):
        load(plot=Path("/nowhere/curve.svg"))


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"kill": "witness", "kill_at": 3.9}, ""),
        ({"kill": "witness", "kill_at": 4.0}, "--at 4"),
        ({"rotate_at": 8.0}, "--rotate-at 8"),
        ({"rotate_at": 8.0, "saturate": True}, ""),
        ({"rotate_at": None, "kill_at": 8.0}, ""),
    ],
)
def test_event_after_the_load_is_refused(options: Any, refused: str) -> None:
    """Two steps of two seconds; how long a load is that goes on until it is full, nobody knows."""
    given = {"rotate_at": None, "kill": "", "kill_at": 1.0, "saturate": False, **options}
    two = planning.plan(
        planned().traffic,
        "50,100",
        saturate=given.pop("saturate"),
        overload=False,
        step_s=2.0,
        processes=1,
        seed="1",
        timeout_s=1.0,
    )
    here = Target(DataDir(Path("/nowhere")), {}, embedded=True)
    if refused:
        with pytest.raises(CommandError, match=refused):
            planning.with_events(two, here, **given)
    else:
        assert planning.with_events(two, here, **given).kill == given["kill"]


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "-1"])
@pytest.mark.parametrize(
    "option",
    [
        *("--duration", "--rotate-at", "--at", "--tolerance", "--max-p95-ms", "--max-p99-ms"),
        *("--min-rate", "--max-failed", "--max-refused", "--max-gap-ms", "--max-memory-mib"),
    ],
)
def test_a_bound_that_bounds_nothing_is_refused(option: str, number: str) -> None:
    """Nothing is greater than infinity or nan: the load would always be fine, or never end."""
    done = CliRunner().invoke(application(["load"]), ["load", option, number])
    assert done.exit_code == 2
    assert f"Invalid value for '{option}'" in done.stderr.replace("\n", " ")


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"tolerance": 0.2}, "--tolerance is for --baseline"),
        ({"kill_at": 1.0}, "--at is for --kill"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(options: Any, refused: str) -> None:
    with pytest.raises(CommandError, match=refused):
        load(**options)
