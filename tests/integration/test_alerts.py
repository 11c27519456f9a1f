"""The alert rules of the chart: each fires where it should, by Prometheus' own engine, and is quiet
where it should be. Series are those that the services have, a sample for each minute."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any, Final

import pytest
from scripts.metrics import metrics

from provledger import _instruments
from tests.support.go_tools import program
from tests.support.rendered import CHART, REPOSITORY, of_kind, render, values

pytestmark = pytest.mark.timeout(300)  # the engine may have to be built first

ALERTS: Final = (CHART / "alerts.yaml").read_text("utf-8")
JOB: Final = 'job="provledger/provledger-ledger", instance="1"'
SINK: Final = 'log="logs/-", sink="s3://b/p"'
DAY_S: Final = 86_400
FLUSH: Final = "provledger_ledger_flush_duration_seconds_bucket"


def ends_at(values: str) -> str:
    return f'provledger_tls_certificate_ends_at_seconds{{{JOB}, shown_by="server"}} {values}'


def renewals(outcome: str, values: str, instance: str = "1") -> str:
    labels = f'outcome="{outcome}", instance="{instance}"'
    return f"provledger_witness_token_renewals_total{{{labels}}} {values}"


def kms_calls(outcome: str, values: str) -> str:
    labels = f'outcome="{outcome}", provledger_kms_provider="aws-kms"'
    return f"provledger_kms_calls_total{{{labels}}} {values}"


def requests(route: str, status: int, values: str) -> str:
    labels = f'method="GET", route="{route}", status="{status}"'
    return f"gateway_requests_total{{{labels}}} {values}"


def flushes(under_a_tenth: int, under_a_second: int, slower: int) -> list[str]:
    """So many each minute that took at most 0.1 s, 1 s, and 2.5 s."""
    fast, middle = under_a_tenth, under_a_tenth + under_a_second
    counts = {"0.1": fast, "1.0": middle}
    below = [f'{FLUSH}{{{JOB}, le="{le}"}} 0+{count}x60' for le, count in counts.items()]
    return below + flushes_up_to(f"0+{middle + slower}x60")


def flushes_up_to(values: str) -> list[str]:
    """All of them, which took at most 2.5 s."""
    return [f'{FLUSH}{{{JOB}, le="{le}"}} {values}' for le in ("2.5", "+Inf")]


BASICS: Final = [
    'anchor_logs{state="serving"} 1x60',
    "provledger_ledger_relay_lag 0x60",
]
"""Without these, two rules fire."""

CASES: Final[dict[str, list[tuple[list[str], bool]]]] = {
    "ProvledgerAnchorSilent": [
        (["provledger_ledger_relay_lag 0x60"], True),
        (['anchor_logs{state="serving"} 1x20 _x40', "provledger_ledger_relay_lag 0x60"], True),
        # Five minutes of the looking back, and ten.
        (['anchor_logs{state="serving"} 1x48 _x12', "provledger_ledger_relay_lag 0x60"], False),
    ],
    "ProvledgerLedgerSilent": [
        (['anchor_logs{state="serving"} 1x60'], True),
        (['anchor_logs{state="serving"} 1x60', "provledger_ledger_relay_lag 0x48 _x12"], False),
    ],
    "ProvledgerForkSeen": [
        # It is there from the first fork on.
        ([*BASICS, "anchor_forks_total _x58 1x2"], True),
        (BASICS, False),
    ],
    "ProvledgerLogsLost": [
        ([*BASICS, "anchor_lost_logs 2x60"], True),
        ([*BASICS, "anchor_lost_logs 0x60"], False),
    ],
    "ProvledgerLogDamaged": [
        ([*BASICS, 'anchor_logs{state="damaged"} 1x60'], True),
        ([*BASICS, 'anchor_logs{state="damaged"} 0x60'], False),
    ],
    "ProvledgerAnchoringOverdue": [
        ([*BASICS, 'anchor_overdue{log="logs/-", tenant=""} 0x50 1x10'], True),
        ([*BASICS, 'anchor_overdue{log="logs/-", tenant=""} 1x50 0x10'], False),
        ([*BASICS, 'anchor_overdue{log="logs/-", tenant=""} 0x59 1'], False),
    ],
    "ProvledgerSinkAway": [
        ([*BASICS, f"anchor_sink_circuit_open{{{SINK}}} 0x40 1x20"], True),
        ([*BASICS, f"anchor_sink_circuit_open{{{SINK}}} 0x57 1x2"], False),
        ([*BASICS, f"anchor_sink_circuit_open{{{SINK}}} 1x57 0x2"], False),
    ],
    "ProvledgerSinkLagNotFalling": [
        ([*BASICS, f"anchor_sink_lag{{{SINK}}} 0x10 7x50"], True),
        ([*BASICS, f"anchor_sink_lag{{{SINK}}} 0+3x60"], True),
        # Busy: never without a lag, but it covers more and more.
        ([*BASICS, f"anchor_sink_lag{{{SINK}}} {'90 20 60 ' * 20}"], False),
        ([*BASICS, f"anchor_sink_lag{{{SINK}}} 900-10x60"], False),
        # By chance, the least of all was half an hour ago.
        ([*BASICS, f"anchor_sink_lag{{{SINK}}} 50x29 10 50x29"], False),
        ([*BASICS, f"anchor_sink_lag{{{SINK}}} 0x60"], False),
    ],
    "ProvledgerEvidenceWaiting": [
        ([*BASICS, 'anchor_evidence_waiting{log="logs/-"} 0x40 3x20'], True),
        ([*BASICS, 'anchor_evidence_waiting{log="logs/-"} 0x55 3x5'], False),
    ],
    "ProvledgerRelayLagNotFalling": [
        ([BASICS[0], f"provledger_ledger_relay_lag{{{JOB}}} 0x10 5x50"], True),
        ([BASICS[0], f"provledger_ledger_relay_lag{{{JOB}}} 0x30 0+1000x30"], True),
        # Thousands are on their way in each moment of an import, and get there.
        ([BASICS[0], f"provledger_ledger_relay_lag{{{JOB}}} {'4000 900 2500 ' * 20}"], False),
        ([BASICS[0], f"provledger_ledger_relay_lag{{{JOB}}} 50x49 10 50x9"], False),
        # Another replica tells the same number since a moment ago.
        (
            [
                BASICS[0],
                f"provledger_ledger_relay_lag{{{JOB}}} 9000-100x60",
                f'provledger_ledger_relay_lag{{{JOB[:-2]}2"}} _x52 3800-100x8',
            ],
            False,
        ),
        ([BASICS[0], f"provledger_ledger_relay_lag{{{JOB}}} 0x60"], False),
    ],
    "ProvledgerCertificateEnds": [
        ([*BASICS, ends_at(f"{2 * DAY_S}x60")], True),
        ([*BASICS, ends_at(f"{4 * DAY_S}x60")], False),
        # Renewed a moment ago; then, not yet looked at again.
        ([*BASICS, ends_at(f"{30 * DAY_S}x57 {2 * DAY_S}x2")], False),
        ([*BASICS, ends_at(f"{2 * DAY_S}x57 {30 * DAY_S}x3")], False),
    ],
    "ProvledgerSigningFails": [
        ([*BASICS, "provledger_witness_sign_failures_total 0x20 0+2x40"], True),
        ([*BASICS, "provledger_witness_sign_failures_total 0x54 1x5"], False),
        ([*BASICS, "provledger_witness_sign_failures_total 0x57 4+4x2"], False),
    ],
    "ProvledgerKeyServiceFails": [
        ([*BASICS, kms_calls("ok", "0+10x60"), kms_calls("timeout", "0+1x60")], True),
        ([*BASICS, kms_calls("ok", "500x60"), kms_calls("kms_unavailable", "0+1x60")], True),
        ([*BASICS, kms_calls("ok", "0+100x60"), kms_calls("throttled", "0+1x60")], False),
        ([*BASICS, kms_calls("ok", "0+10x60"), kms_calls("timeout", "0x58 9x1")], False),
        ([*BASICS, kms_calls("ok", "0+10x60"), kms_calls("cancelled", "0+9x60")], False),
    ],
    "ProvledgerSigningTokenNotRenewed": [
        ([*BASICS, renewals("failed", "_x57 8+12x3"), renewals("ok", "50x60")], True),
        # Once, and a moment later it was.
        ([*BASICS, renewals("failed", "0x58 1x1"), renewals("ok", "0+4x60")], False),
        ([*BASICS, *(renewals("failed", "0x58 3x1", str(n)) for n in range(3))], False),
    ],
    "ProvledgerCallsRefused": [
        ([*BASICS, 'provledger_ledger_refusals_total{reason="OVERLOADED"} 0+120x60'], True),
        ([*BASICS, 'provledger_ledger_refusals_total{reason="OVERLOADED"} 0+30x60'], False),
        ([*BASICS, 'provledger_ledger_refusals_total{reason="OVERLOADED"} 0x50 0+900x10'], False),
        ([*BASICS, 'provledger_ledger_refusals_total{reason="QUOTA_EXCEEDED"} 0+900x60'], False),
    ],
    "ProvledgerFlushesSlow": [
        ([*BASICS, *flushes(50, 40, 10)], True),
        ([*BASICS, *flushes(50, 46, 4)], False),
        ([*BASICS, *flushes(0, 0, 0)], False),
        # For a few minutes.
        ([*BASICS, *flushes(50, 0, 0)[:2], *flushes_up_to("0+50x55 2800+950x4")], False),
    ],
    "ProvledgerGatewayErrors": [
        ([*BASICS, requests("tile", 200, "0+90x60"), requests("tile", 503, "0+10x60")], True),
        ([*BASICS, requests("tile", 200, "0+990x60"), requests("tile", 503, "0+10x60")], False),
        ([*BASICS, requests("tile", 200, "0+90x60"), requests("tile", 503, "0x55 0+50x4")], False),
        # Of strangers, and of what asks whether it is ready.
        ([*BASICS, requests("tile", 404, "0+90x60"), requests("readyz", 503, "0+10x60")], False),
    ],
    "ProvledgerNotaryFails": [
        ([*BASICS, 'notary_answers_total{status="503"} 0+1x60'], True),
        ([*BASICS, 'notary_answers_total{status="503"} 0x50 1x9'], False),
        ([*BASICS, 'notary_answers_total{status="503"} 0x55 0+2x4'], False),
        ([*BASICS, 'notary_answers_total{status="409"} 0+9x60'], False),
    ],
}
"""By rule: series, and whether it fires after an hour of them. No other rule may."""


def ask(**request: Any) -> Any:
    """Have the rules looked at, or names translated; raises where the rules cannot be read."""
    done = subprocess.run(
        [program("alertrules")], input=json.dumps(request), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("alert", CASES)
def test_a_rule_fires_where_it_should_and_nowhere_else(alert: str) -> None:
    assert {fires for _, fires in CASES[alert]} == {True, False}
    for series, fires in CASES[alert]:
        told = ask(rules=ALERTS, series=series, minutes=60)
        assert [one["alert"] for one in told["firing"]] == [alert] * fires, series
        (rule,) = (one for one in told["rules"] if one["alert"] == alert)
        for one in told["firing"]:
            named = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
            assert named <= one["labels"].keys()


def test_every_rule_was_seen_to_fire_and_says_what_to_read() -> None:
    rules = ask(rules=ALERTS)["rules"]
    assert [rule["alert"] for rule in rules] == list(CASES)
    for rule in rules:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert set(rule["annotations"]) == {"summary", "runbook"}
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        headings = re.findall(r"^#+ (.*)$", (REPOSITORY / page).read_text("utf-8"), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in headings}
        assert not anchor or anchor in anchors, rule["annotations"]["runbook"]


def test_series_of_the_cases_are_those_of_the_services() -> None:
    """By name and labels. What else may be there is of whoever collects them."""
    known = {metric.prometheus_name: {*metric.labels} for metric in metrics()}
    known[FLUSH] = known[FLUSH.removesuffix("_bucket")] | {"le"}
    for cases in CASES.values():
        for text in (text for series, _ in cases for text in series):
            name, labels = re.fullmatch(r"(\w+)(?:\{(.*)\})? .*", text).groups()  # type: ignore[union-attr]
            given = set(re.findall(r'(\w+)="', labels or "")) - {"job", "instance"}
            assert given == known[name], text
            for bound in re.findall(r'le="(.*?)"', labels or ""):
                assert float(bound) in (*_instruments.SECONDS, float("inf"))


def test_a_collector_gives_the_names_that_the_page_has() -> None:
    """By the translation that collectors and Prometheus itself use, as it is by default."""
    ours = metrics()
    names = ask(names=[{"name": one.name, "unit": one.unit, "kind": one.kind} for one in ours])
    assert names["names"] == [one.prometheus_name for one in ours]


def test_the_chart_makes_them_where_they_are_wanted() -> None:
    """All of them as they are in the file, less those that are to be left out."""
    assert not of_kind(render(*values("local")), "PrometheusRule")
    sets = ["--set", "alerts.enabled=true", "--set", "alerts.labels.release=prometheus"]
    made = of_kind(render(*values("local"), *sets), "PrometheusRule")["alerts"]
    assert made["metadata"]["name"] == "demo-provledger-alerts"
    assert made["metadata"]["namespace"] == "ledgers"
    assert made["metadata"]["labels"]["release"] == "prometheus"
    told = ask(rules=json.dumps(made["spec"]), series=CASES["ProvledgerSinkAway"][0][0], minutes=60)
    file = ask(rules=ALERTS, series=CASES["ProvledgerSinkAway"][0][0], minutes=60)
    assert told == file
    assert [one["alert"] for one in told["firing"]] == ["ProvledgerSinkAway"]
    sets += ["--set", "alerts.leaveOut={ProvledgerSinkAway,ProvledgerCertificateEnds}"]
    fewer = of_kind(render(*values("local"), *sets), "PrometheusRule")["alerts"]
    left = [rule["alert"] for rule in ask(rules=json.dumps(fewer["spec"]))["rules"]]
    assert left == [name for name in CASES if name not in sets[-1]]
