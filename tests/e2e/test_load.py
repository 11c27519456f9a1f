"""`provledger load` as an operator runs it."""

from __future__ import annotations

import json
from xml.etree import ElementTree as ET

from provledger_cli.embedded import endpoints
from tests.e2e.commands import Installation

LINE = (
    b'{"action":"CREATE","resource_type":"T","resource_id":"i","actor_id":"a","new_state":{"a":1}}'
)


def test_load_with_a_rotation_in_the_middle(own: Installation) -> None:
    """No call fails, the report is whole, and bounds decide the exit code."""
    own.run("up")
    answer = own.run(
        *("load", "--rates", "20,40", "--duration", "4", "--processes", "1"),
        *(
            "--mix",
            "single=4,shared=2,batch=1,stream=2",
            "--batch-items",
            "5",
            "--tenants",
            "one,two=3",
        ),
        *("--rotate-at", "1", "--plot", "curve.svg", "--max-failed", "0", "--check"),
    )
    report = answer.json
    assert report["result"] == "holds"
    assert [step["rate_per_s"] for step in report["steps"]] == [20, 40]
    for step in report["steps"]:
        assert step["sent"] == step["answered"] > 20
        assert 0 < step["latency_ms"]["p50"] <= step["latency_ms"]["p99"]
    checks = {each["check"]: each["detail"] for each in report["bounds"]}
    for tenant in ("one", "two"):
        assert "are there" in checks[f"acknowledged by tenants/{tenant}/ledgers/load"]
    (event,) = report["events"]
    assert (event["event"], event["epoch"]) == ("rotate", 2)
    running = endpoints.read(own.data.endpoints)
    assert running is not None
    assert {each["service"] for each in report["memory"]} == set(running.services)
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
    (own.work / "again.json").write_text(json.dumps(unknown.json))
    compared = own.run(*again, "--baseline", "again.json", "--tolerance", "1000")
    assert {each["check"] for each in compared.json["bounds"]} == {
        "baseline p95 at 40/s",
        "baseline p99 at 40/s",
        "baseline refused at 40/s",
        "baseline rate",
    }
    other = own.run(*again, "--baseline", "before.json", check=False)
    assert (other.code, other.json["result"]) == (2, "could not tell")
    assert other.json["bounds"][0]["check"] == "baseline"
    full = own.run(*again, "--plot", "/dev/full", check=False)
    assert (full.code, full.json["result"]) == (2, "holds"), "the report is there all the same"
    not_ours = own.run(*again, "--kill", "postgres", check=False)
    assert not_ours.code == 2


def pid_of(own: Installation, service: str) -> int:
    known = endpoints.read(own.data.endpoints)
    return 0 if known is None else known.services[service].pid


def test_load_with_a_kill_in_the_middle(own: Installation) -> None:
    """The bounds notice it, the service comes back by itself, and nothing answered is lost."""
    own.run("up")
    before = pid_of(own, "ledger")
    answer = own.run(
        *("load", "--rates", "30", "--duration", "4", "--processes", "1"),
        *("--tenants", "one", "--kill", "ledger", "--at", "1", "--timeout", "3"),
        *("--max-failed", "0", "--max-gap-ms", "200", "--max-memory-mib", "1", "--check"),
        check=False,
    )
    report = answer.json
    assert (answer.code, report["result"]) == (1, "does not hold")
    found = {each["check"]: each["result"] for each in report["bounds"]}
    assert found["max-failed"] == "does not hold"
    assert found["acknowledged by tenants/one/ledgers/load"] == "holds"
    assert found["max-memory-mib of ledger"] == "does not hold"
    # A process cannot begin in that time; the generator may have been late, which is said.
    assert found["max-gap-ms at 30/s"] in ("does not hold", "could not tell")
    (event,) = report["events"]
    assert (event["event"], event["service"]) == ("kill", "ledger")
    # Of the one that was killed, if that held more than the one that took its place.
    memory = {each["service"]: each for each in report["memory"]}
    assert memory["ledger"]["highest_mib"] >= event["highest_mib"] >= memory["ledger"]["start_mib"]
    (step,) = report["steps"]
    assert sum(step["failed"].values()) > 0
    assert step["longest_gap_ms"] > 200
    # It runs again, as another process.
    own.run("status", "--wait", "30")
    own.run("append", "--tenant", "one", "--ledger", "load", stdin=LINE)
    assert pid_of(own, "ledger") not in (0, before)
    verified = own.run("verify", "--tenant", "one", "--ledger", "load").json
    # What was recorded and could not be told any more is there besides.
    assert verified["stored_rows_checked"] - 2 >= step["answered"] > 0
