"""`provledger anchor`: status, sinks, retry and policy against running services."""

from __future__ import annotations

import subprocess

import pytest

from tests.e2e.commands import Installation


@pytest.mark.timeout(400)
def test_a_log_its_sinks_and_its_policies(shared: Installation) -> None:
    shared.run("status", "--wait", "60")
    status = shared.run("anchor", "status").json
    assert status["well"] is True
    assert status["tree_size"] >= status["published_size"] >= status["anchored_size"] > 0
    assert status["vkey"].startswith(status["origin"])
    (sink,) = status["sinks"]
    assert sink["uri"].startswith("file://")
    assert (sink["circuit"], sink["last_error"]) == ("closed", None)
    assert sink["evidence_kind"] == "file"
    unknown = shared.run("anchor", "retry", "file:///nowhere", check=False)
    assert (unknown.code, unknown.json["error"]["reason"]) == (2, "SINK_NOT_FOUND")
    shown = subprocess.run(
        [*shared._command(("anchor", "sinks"), "provledger_cli", True)[:-1]],
        cwd=shared.work,
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    assert "up to date" in shown.stdout

    (shared.work / "p.policy").write_text(f"sink copy {sink['uri']}\nquorum copy\nwithin 1h\n")
    tenant = ("anchor", "policy", "--tenant", "careful")
    tried = shared.run(*tenant, "--set", "p.policy", "--dry-run").json
    assert tried["dry_run"] is True
    # That it was a trial is seen from the version that is expected here.
    shared.run(*tenant, "--set", "p.policy", "--expected-version", "0")
    now = shared.run(*tenant).json
    assert (now["version"], now["source"], now["within_s"]) == (1, "set for this tenant", 3600)
    assert shared.run(*tenant, "--clear").json["text"] == ""
