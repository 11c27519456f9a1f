"""Key ceremonies on real services: under load, killed at any step, and as the runbooks say."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.commands import SERVICES, Installation, exported, shipped_mutations
from tests.e2e.steady import Load, address_of, append_steadily, verify_all

RUNBOOKS = Path(__file__).resolve().parents[2] / "docs" / "runbooks"


async def test_rotation_under_load_fails_no_call(own: Installation) -> None:
    """500 single appends a second; all three keys rotate; no call fails, everything verifies."""
    own.run("up")
    load, stop = Load(), asyncio.Event()
    appending = asyncio.create_task(append_steadily(address_of(own, "ledger"), load, stop))
    await asyncio.sleep(1.0)
    documents = []
    for kid, purpose in (
        ("w2", "witness"),
        ("c2", "checkpoint"),
        ("h2", "head"),
        ("w3", "witness"),
    ):
        rotate = ("keys", "rotate", "--kid", kid, "--purpose", purpose)
        documents.append((await asyncio.to_thread(own.run, *rotate)).json)
    await asyncio.sleep(1.0)
    stop.set()
    await appending
    span_s = max(load.done_s) - min(load.done_s)
    rate = len(load.done_s) / span_s
    sys.stderr.write(
        f"\n{len(load.done_s)} appends, {rate:.0f}/s, {len(load.failed)} failed, "
        f"longest gap {load.longest_gap_s * 1000:.1f} ms, in each rotation "
        f"{[each['seconds'] for each in documents]} s\n"
    )
    assert load.failed == []
    assert load.longest_gap_s < 2.0
    assert all(each["measured"]["failed"] == 0 and each["signers"] for each in documents)
    assert documents[0]["first_receipt"]
    assert verify_all(own, "load") == {"witness-1", "w2", "w3"}
    # While the old checkpoint key drains, both sign, under the name of the log.
    own.run("export", "--tenant", "load", "--out", "y.ndjson", "--checkpoint-out", "cp.txt")
    lines = (own.work / "cp.txt").read_text().splitlines()
    assert len([line for line in lines if line.startswith(f"— {lines[0]} ")]) == 2


@pytest.mark.parametrize("service", ["command", *SERVICES])
def test_a_ceremony_killed_anywhere_ends_when_run_again(own: Installation, service: str) -> None:
    """Killed after growing delays, so that every step is hit; each time run again to its end."""
    own.run("up")
    for number, delay_s in enumerate((0.55, 0.62, 0.70), 2):
        arguments = ("keys", "rotate", "--kid", f"witness-{number}", "--no-probe")
        started = own.start(*arguments)
        time.sleep(delay_s)
        if service == "command":
            os.kill(started.pid, signal.SIGKILL)
        else:
            own.kill(service)
        started.communicate()
        own.run("up")
        again = own.run(*arguments, "--timeout", "60").json
        assert (again["key"]["state"], again["key"]["epoch"]) == ("active", number)
    own.run("export", "--tenant", "system", "--ledger", "keys", "--out", "k.ndjson")
    kinds = [each["receiptType"] for each in exported(own.work / "k.ndjson")]
    assert kinds.count("key.created") == kinds.count("key.rotated") == 3


def test_a_rotation_waits_for_the_ledger_service_and_can_be_taken_back(own: Installation) -> None:
    own.run("up")
    pid = own.pid("ledger")
    rotate = ("keys", "rotate", "--kid", "witness-2", "--no-probe")
    os.kill(pid, signal.SIGSTOP)
    try:
        waiting = own.run(*rotate, "--timeout", "2", check=False)
        assert waiting.code == 2
        assert "waits to be endorsed" in json.dumps(waiting.json) + waiting.talk
        keys = {key["kid"]: key["state"] for key in own.run("keys", "list").json["keys"]}
        assert (keys["witness-1"], keys["witness-2"]) == ("active", "pending")
        assert own.run(*rotate, "--cancel").json == {"kid": "witness-2", "cancelled": True}
    finally:
        os.kill(pid, signal.SIGCONT)
    assert own.run(*rotate).json["key"]["state"] == "active"


def test_callers_cannot_write_to_the_system_tenant(own: Installation) -> None:
    own.run("up")
    (own.work / "m.ndjson").write_bytes(b"".join(shipped_mutations()[:1]))
    refused = own.run("import", "m.ndjson", "--tenant", "system", "--ledger", "keys", check=False)
    assert refused.code != 0
    assert "written by the services" in json.dumps(refused.json) + refused.talk


def test_a_revocation_tells_what_is_covered_from_what_came_later(own: Installation) -> None:
    own.run("up")
    for tenant in ("early", "late"):
        (own.work / "m.ndjson").write_bytes(b"".join(shipped_mutations()[:20]))
        own.run("import", "m.ndjson", "--tenant", tenant)
        if tenant == "early":
            out = ("--out", "x.ndjson", "--checkpoint-out", "kept.txt")
            own.run("export", "--tenant", tenant, *out)
    active = own.run("keys", "revoke", "witness-1", "--reason", "stolen", check=False)
    assert active.code == 2
    assert "--replace-by" in json.dumps(active.json) + active.talk
    revoke = ("keys", "revoke", "witness-1", "--after", "kept.txt", "--reason", "stolen")
    revoked = own.run(*revoke, "--replace-by", "witness-2").json
    assert (revoked["key"]["state"], revoked["replaced_by"]) == ("revoked", "witness-2")
    assert revoked["receipt"]
    pin = ("--pin", (own.data.path / "key-ledger.pin").read_text().strip())
    for tenant in ("early", "late"):
        own.run("export", "--tenant", tenant, "--out", f"{tenant}.ndjson")
    # The exporter puts in the checkpoint that the revocation names.
    assert own.run("verify", "early.ndjson", *pin, data_dir=False).json["status"] == "verified"
    late = own.run("verify", "late.ndjson", *pin, data_dir=False, check=False)
    assert (late.code, late.json["finding"]) == (1, "came_later")
    # An export of before stands as it is, and so does a receipt of it, on the checkpoint kept.
    own.run("keys", "jwks", "--out", "j.json")
    own.run("export", "--tenant", "system", "--ledger", "keys", "--out", "keys.ndjson")
    ledger = ("--key-ledger", "keys.ndjson", *pin)
    assert own.run("verify", "x.ndjson", *ledger, data_dir=False).json["status"] == "verified"
    name = exported(own.work / "x.ndjson")[3]["id"]
    own.run("get", name, "--out", "r.json")
    open_ = own.run("verify", "r.json", *ledger, data_dir=False, check=False)
    assert (open_.code, open_.json["finding"]) == (2, "not_placed")
    shown = ("--history", "early.ndjson")
    assert own.run("verify", "r.json", *ledger, *shown, data_dir=False, check=False).code == 0
    own.run("get", "r.json", "--checkpoint", "kept.txt", "--out", "r2.json")
    stands = own.run("verify", "r2.json", *ledger, data_dir=False).json
    assert stands["status"] == "verified"
    newest = exported(own.work / "late.ndjson")[3]["id"]
    refused = own.run("get", newest, "--checkpoint", "kept.txt", check=False)
    assert "does not cover" in json.dumps(refused.json) + refused.talk
    # A set from before the revocation disagrees with the key ledger.
    jwks = json.loads((own.work / "j.json").read_bytes())
    for key in jwks["keys"]:
        if key["kid"] == "witness-1":
            ours = key["provledger"]
            key["provledger"] = {**ours, "state": "retired"}
            del key["provledger"]["revocationReason"]
    (own.work / "old.json").write_text(json.dumps(jwks))
    old = ("--keys", "old.json", *ledger)
    refused = own.run("verify", "early.ndjson", *old, data_dir=False, check=False)
    assert refused.code == 1
    assert "disagree" in refused.json["message"]


@pytest.mark.timeout(400)  # twenty commands, on a machine that may be busy
def test_a_lost_registry_is_rebuilt_from_the_key_ledger(own: Installation) -> None:
    own.run("up")
    own.run("keys", "rotate", "--kid", "witness-2", "--no-probe")
    (own.work / "m.ndjson").write_bytes(b"".join(shipped_mutations()[:5]))
    own.run("import", "m.ndjson", "--tenant", "before")
    own.run("export", "--tenant", "before", "--out", "x.ndjson")
    rebuild = ("keys", "rebuild", "x.ndjson", "--pin", str(own.data.path / "key-ledger.pin"))
    refused = own.run(*rebuild, check=False)
    assert refused.code == 2
    assert "begin with an empty one" in json.dumps(refused.json) + refused.talk
    before = own.run("keys", "list").json["keys"]
    own.run("down")
    for path in own.data.databases.glob("keys.sqlite3*"):
        path.unlink()
    # No first keys are made anew, which would be another history; the services wait.
    lost = own.run("up", check=False)
    assert lost.code == 2
    assert "keys rebuild" in json.dumps(lost.json) + lost.talk
    assert own.run("keys", "list").json["keys"] == []
    assert own.run(*rebuild).json["keys"] == 5  # one for each purpose, and the second witness key
    after = own.run("keys", "list").json["keys"]
    facts = ("kid", "purpose", "epoch", "uri", "thumbprint", "not_before_ns")
    assert [[each[fact] for fact in facts] for each in after] == [
        [each[fact] for fact in facts] for each in before
    ]
    own.run("up")
    own.run("import", "m.ndjson", "--tenant", "after")
    own.run("export", "--tenant", "after", "--out", "y.ndjson")
    pin = ("--pin", str(own.data.path / "key-ledger.pin"))
    assert own.run("verify", "y.ndjson", *pin, data_dir=False).json["status"] == "verified"
    rotated = own.run("keys", "rotate", "--kid", "witness-3", "--no-probe").json
    assert rotated["key"]["epoch"] == 3


def commands_of(runbook: Path) -> Iterator[list[str]]:
    """The commands of a runbook: the lines with a prompt, in blocks of kind `console`."""
    for block in re.findall(r"```console\n(.*?)```", runbook.read_text(), re.DOTALL):
        for line in block.splitlines():
            assert line.startswith("$ "), line
            yield shlex.split(line[2:])


@pytest.mark.parametrize("name", ["kms-rotate", "kms-outage", "key-compromise"])
def test_commands_of_the_runbook_do_what_they_say(own: Installation, name: str) -> None:
    own.run("up")
    (own.work / "m.ndjson").write_bytes(b"".join(shipped_mutations()[:20]))
    own.run("import", "m.ndjson", "--tenant", "demo")
    modules = {"provledger": "provledger_cli", "keys": "provledger_cli.keys_main"}
    for command in commands_of(RUNBOOKS / f"{name}.md"):
        done = subprocess.run(
            [sys.executable, "-m", modules[command[0]], *command[1:]],
            cwd=own.work,
            env={**os.environ, "PROVLEDGER_DATA_DIR": "data", "COLUMNS": "200"},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
