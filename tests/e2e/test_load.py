"""`provledger load` as an operator runs it."""

from __future__ import annotations

import json
from xml.etree import ElementTree as ET

from tests.e2e.commands import Installation


def test_load_with_a_rotation_in_the_middle(own: Installation) -> None:
    """No call fails, the report is whole, and bounds decide the exit code."""
    own.run("up")
    answer = own.run(
        *("load", "--rates", "20,40", "--duration", "2", "--processes", "1"),
        *("--mix", "single=4,batch=1,stream=2", "--batch-items", "5", "--tenants", "one,two=3"),
        *("--rotate-at", "1", "--plot", "curve.svg", "--max-failed", "0"),
    )
    report = answer.json
    assert report["result"] == "holds"
    assert [step["rate_per_s"] for step in report["steps"]] == [20, 40]
    for step in report["steps"]:
        assert step["sent"] == step["answered"] > 20
        assert 0 < step["latency_ms"]["p50"] <= step["latency_ms"]["p99"]
    (event,) = report["events"]
    assert (event["event"], event["epoch"]) == ("rotate", 2)
    assert {each["service"] for each in report["memory"]} == {"keys", "witness", "anchor", "ledger"}
    assert all(each["start_mib"] > 5 and each["end_mib"] > 5 for each in report["memory"])
    ET.parse(own.work / "curve.svg")
    # All that was answered is there, and verifies.
    wanted = sum(step["receipts_per_s"] * step["seconds"] for step in report["steps"])
    found = 0
    for tenant in ("one", "two"):
        verified = own.run("verify", "--tenant", tenant, "--ledger", "load").json
        found += verified["stored_rows_checked"] - 1
    assert round(wanted) == found
    (own.work / "before.json").write_text(json.dumps(report))

    again = ("load", "--rates", "40", "--duration", "1", "--processes", "1", "--tenants", "one")
    too_slow = own.run(*again, "--max-p95-ms", "0.01", check=False)
    assert (too_slow.code, too_slow.json["result"]) == (1, "does not hold")
    unknown = own.run(*again, "--min-rate", "100000", check=False)
    assert (unknown.code, unknown.json["result"]) == (2, "could not tell")
    compared = own.run(*again, "--baseline", "before.json", "--tolerance", "1000")
    assert {each["check"] for each in compared.json["bounds"]} == {
        "baseline p95 at 40/s",
        "baseline rate",
    }
    not_ours = own.run(*again, "--kill", "postgres", check=False)
    assert not_ours.code == 2
