"""The keys service's database goes back to before a revocation: the runbook leads out of it."""

from __future__ import annotations

import json
import os
import shutil
import signal

import pytest

from tests.e2e.commands import SERVICES, Installation, shipped_mutations
from tests.support.runbooks import run_all

LEDGER = "tenants/demo/ledgers/main"


def _sunk(own: Installation) -> list[str]:
    return sorted(path.name for path in (own.data.path / "anchors").rglob("*.checkpoint"))


def _lose_power(own: Installation) -> None:
    """End everything at once, also what is halted."""
    pids = [int((own.data.path / "supervisor.lock").read_text().split()[0])]
    for pid in [*pids, *(own.pid(name) for name in SERVICES)]:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.timeout(300)
def test_no_checkpoint_is_signed_by_a_forgotten_key_and_the_runbook_leads_out(
    own: Installation,
) -> None:
    lines = shipped_mutations()
    own.run("up")
    own.run("append", "--tenant", "demo", stdin=lines[0])
    kept = ("--out", "x.ndjson", "--checkpoint-out", "kept.txt")
    own.run("export", "--tenant", "demo", *kept)
    own.run("down")
    early = own.work / "early"
    early.mkdir()
    for path in own.data.databases.glob("keys.sqlite3*"):
        shutil.copy2(path, early / path.name)
    own.run("up")
    for purpose in ("head", "checkpoint"):
        revoke = ("keys", "revoke", f"{purpose}-1", "--after", "kept.txt", "--reason", "stolen")
        own.run(*revoke, "--replace-by", f"{purpose}-2")
    own.run("export", "--tenant", "system", "--ledger", "keys", "--out", "k.ndjson")
    # Acknowledged, and not in the log yet.
    os.kill(own.pid("anchor"), signal.SIGSTOP)
    own.run("append", "--tenant", "demo", stdin=lines[1])
    _lose_power(own)
    before = _sunk(own)
    for path in own.data.databases.glob("keys.sqlite3*"):
        path.unlink()
    for path in early.iterdir():
        shutil.copy2(path, own.data.databases / path.name)

    own.run("up")
    refused = own.run("append", "--tenant", "demo", stdin=lines[2], check=False)
    assert refused.json["error"]["reason"] == "KEY_REGISTRY_BEHIND"
    said = run_all("key-registry", own.work, {"PROVLEDGER_DATA_DIR": "data"})
    assert f"{LEDGER} takes no entries: KEY_REGISTRY_BEHIND" in said[0]
    # Nothing by the forgotten key went out, and the new one goes on.
    after = _sunk(own)
    assert before == after[: len(before)] < after
    newest = json.dumps(own.run("keys", "list").json)
    assert "checkpoint-2" in newest
    pin = ("--pin", str(own.data.path / "key-ledger.pin"))
    report = own.run("verify", "after.ndjson", *pin, data_dir=False).json
    assert (report["status"], report["receipts"]) == ("verified", 3)
    own.run("append", "--tenant", "demo", stdin=lines[2])
