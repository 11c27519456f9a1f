"""Key ceremonies on real services: under load, killed at any step, and as the runbooks say."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from tests.e2e.commands import SERVICES, Installation, exported, shipped_mutations
from tests.e2e.killing import NOT_CALLED
from tests.e2e.steady import Load, address_of, append_steadily, verify_all
from tests.support.runbooks import run_all

REPOSITORY = Path(__file__).resolve().parents[2]
FULL = os.environ.get("PROVLEDGER_FAULTS") == "full"


async def test_rotation_under_load_fails_no_call(own: Installation) -> None:
    """500 single appends a second; all three keys rotate; no call fails, everything verifies."""
    own.run("up")
    load, stop = Load(), asyncio.Event()
    appending = asyncio.create_task(append_steadily(address_of(own, "ledger"), load, stop))
    await asyncio.sleep(1.0)
    documents, answered = [], []
    for kid, purpose in (
        ("w2", "witness"),
        ("c2", "checkpoint"),
        ("h2", "head"),
        ("w3", "witness"),
    ):
        rotate = ("keys", "rotate", "--kid", kid, "--purpose", purpose)
        before = len(load.done_s)
        documents.append((await asyncio.to_thread(own.run, *rotate)).json)
        answered.append(len(load.done_s) - before)
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
    assert all(answered), "appends go on during each rotation"
    assert all(each["measured"]["failed"] == 0 and each["signers"] for each in documents)
    assert documents[0]["first_receipt"]
    assert verify_all(own, "load") == {"witness-1", "w2", "w3"}
    # While the old checkpoint key drains, both sign, under the name of the log.
    own.run("export", "--tenant", "load", "--out", "y.ndjson", "--checkpoint-out", "cp.txt")
    lines = (own.work / "cp.txt").read_text().splitlines()
    assert len([line for line in lines if line.startswith(f"— {lines[0]} ")]) == 2


ROTATION = ("ListKeys", "RotateKey", "GetJwks", "ListKeyEvents", "GetKey", "ListSigners")
REVOCATION = ("ListKeys", "CreateKey", "RevokeKey", "ListKeyEvents", "EndorseKeyEvent")
"""The calls of a ceremony, each a step at which it may be killed."""

Kill: TypeAlias = tuple[str, str]
"""Who is killed, and after the answer to which call."""


@pytest.fixture
def some(request: pytest.FixtureRequest) -> Callable[[Sequence[Kill], int], Sequence[Kill]]:
    """Takes a sample of kills, or all of them in a full run of the faults."""
    seed = request.config.getoption("fault_seed")
    rng = random.Random(seed)

    def sample(kills: Sequence[Kill], count: int) -> Sequence[Kill]:
        chosen = kills if FULL else rng.sample(kills, count)
        print(f"replay with: --fault-seed {seed}: {chosen}")
        return chosen

    return sample


def killed_and_run_again(
    own: Installation, victim: str, method: str, *ceremony: str
) -> dict[str, Any]:
    """Kill the command or a service after the answer to `method`; what running it again says."""
    pid = 0 if victim == "command" else own.pid(victim)
    command = [sys.executable, "-m", "tests.e2e.killing", str(pid), method, *ceremony]
    env = {name: text for name, text in os.environ.items() if not name.startswith("PROVLEDGER_")}
    where = ["--data-dir", str(own.data.path), "--json", "--timeout", "60"]
    killed = subprocess.run(
        [*command, *where], cwd=REPOSITORY, env=env, capture_output=True, check=False, timeout=120
    )
    assert killed.returncode != NOT_CALLED, f"{method} is not called: {killed.stderr.decode()}"
    assert (killed.returncode == -signal.SIGKILL) == (victim == "command"), killed.stderr.decode()
    again: dict[str, Any] = own.run(*ceremony, "--timeout", "60").json
    return again


@pytest.mark.timeout(400)
def test_a_rotation_killed_anywhere_ends_when_run_again(
    own: Installation, some: Callable[[Sequence[Kill], int], Sequence[Kill]]
) -> None:
    """The command after each of its calls; each service while the event is on its way."""
    # Whoever dies is waited for as long as what he last reported counts.
    own.settings["PROVLEDGER_KEYS_LEASE_MS"] = "6000"
    own.run("up")
    kills = [
        *some([("command", method) for method in ROTATION], 3),
        *some([(service, "RotateKey") for service in SERVICES], 1),
    ]
    for number, (victim, method) in enumerate(kills, 2):
        rotate = ("keys", "rotate", "--kid", f"witness-{number}", "--no-probe")
        again = killed_and_run_again(own, victim, method, *rotate)
        assert (again["key"]["state"], again["key"]["epoch"]) == ("active", number)
    own.run("export", "--tenant", "system", "--ledger", "keys", "--out", "k.ndjson")
    kinds = [each["receiptType"] for each in exported(own.work / "k.ndjson")]
    assert kinds.count("key.created") == kinds.count("key.rotated") == len(kills)


@pytest.mark.timeout(400)
def test_a_revocation_killed_anywhere_ends_when_run_again(
    own: Installation, some: Callable[[Sequence[Kill], int], Sequence[Kill]]
) -> None:
    """Each time of the active key, which is replaced: by the recovery key, then by the old one."""
    own.run("up")
    kills = [
        *some([("command", method) for method in REVOCATION], 2),
        *some([(service, "RevokeKey") for service in ("keys", "ledger")], 1),
    ]
    without = some([("command", "RotateKey"), ("command", "RevokeKey"), ("keys", "RotateKey")], 1)
    for number, (victim, method) in enumerate((*kills, *without), 1):
        if number == len(kills) + 1:
            own.data.keys.joinpath("recovery-1.pem").rename(own.work / "recovery-1.pem")
        revoke = ("keys", "revoke", f"witness-{number}", "--reason", "stolen")
        replaced = ("--replace-by", f"witness-{number + 1}")
        again = killed_and_run_again(own, victim, method, *revoke, *replaced)
        assert again["key"]["state"] == "revoked"
        assert again["receipt"], "it is in the key ledger"
    last = number + 1
    known = {key["kid"]: key for key in own.run("keys", "list").json["keys"]}
    assert (known[f"witness-{last}"]["state"], known[f"witness-{last}"]["epoch"]) == (
        "active",
        last,
    )
    (own.work / "m.ndjson").write_bytes(b"".join(shipped_mutations()[:5]))
    own.run("import", "m.ndjson", "--tenant", "load")
    assert verify_all(own, "load") == {f"witness-{last}"}
    kinds = [each["receiptType"] for each in exported(own.work / "k.ndjson")]
    assert kinds.count("key.created") == kinds.count("key.rotated") == last - 1
    assert kinds.count("key.revoked") == last - 1


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
    # A registry that has all of it already stays as it is.
    listed = own.run("keys", "list").json
    assert own.run(*rebuild).json["keys"] == 5
    assert own.run("keys", "list").json == listed
    before = listed["keys"]
    own.run("down")
    for path in own.data.databases.glob("keys.sqlite3*"):
        path.unlink()
    # No first keys are made anew, which would be another history; the services wait.
    lost = own.run("up", check=False)
    assert lost.code == 2
    assert "keys rebuild" in json.dumps(lost.json) + lost.talk
    assert own.run("keys", "list").json["keys"] == []
    own.run("down")
    in_foreground = own.start("up", "--foreground")
    assert in_foreground.stderr is not None
    assert any(b"keys rebuild" in line for line in in_foreground.stderr)
    assert own.run("keys", "list").json["keys"] == []
    assert own.run(*rebuild).json["keys"] == 5  # one for each purpose, and the second witness key
    after = own.run("keys", "list").json["keys"]
    facts = ("kid", "purpose", "epoch", "uri", "thumbprint", "not_before_ns")
    assert [[each[fact] for fact in facts] for each in after] == [
        [each[fact] for fact in facts] for each in before
    ]
    in_foreground.send_signal(signal.SIGINT)
    out, talk = in_foreground.communicate(timeout=60)
    assert in_foreground.returncode == 0, talk.decode()
    assert "registry is empty" in json.loads(out)["error"]["message"]
    own.run("up")
    own.run("import", "m.ndjson", "--tenant", "after")
    own.run("export", "--tenant", "after", "--out", "y.ndjson")
    pin = ("--pin", str(own.data.path / "key-ledger.pin"))
    assert own.run("verify", "y.ndjson", *pin, data_dir=False).json["status"] == "verified"
    rotated = own.run("keys", "rotate", "--kid", "witness-3", "--no-probe").json
    assert rotated["key"]["epoch"] == 3


def test_a_log_is_whole_after_its_key_was_stolen(own: Installation) -> None:
    """As the runbook says for a checkpoint key, which goes on signing after the one kept."""
    own.run("up")
    (own.work / "m.ndjson").write_bytes(b"".join(shipped_mutations()[:20]))
    for tenant in ("early", "late"):
        own.run("import", "m.ndjson", "--tenant", tenant)
        if tenant == "early":
            out = ("--out", "x.ndjson", "--checkpoint-out", "kept.txt")
            own.run("export", "--tenant", tenant, *out)
    assert own.run("log", "fsck").json["logs"][0]["unvouched_checkpoints"] == 0
    revoke = ("keys", "revoke", "checkpoint-1", "--after", "kept.txt", "--reason", "stolen")
    own.run(*revoke, "--replace-by", "checkpoint-2")
    own.run("import", "m.ndjson", "--tenant", "after")
    own.run("export", "--tenant", "after", "--out", "y.ndjson")
    checked = own.run("log", "fsck").json
    assert checked["holds"] is True
    assert 0 < checked["logs"][0]["unvouched_checkpoints"] < checked["logs"][0]["checkpoints"]


@pytest.mark.parametrize("name", ["kms-rotate", "kms-outage", "key-compromise"])
def test_commands_of_the_runbook_do_what_they_say(own: Installation, name: str) -> None:
    own.run("up")
    (own.work / "m.ndjson").write_bytes(b"".join(shipped_mutations()[:20]))
    own.run("import", "m.ndjson", "--tenant", "demo")
    run_all(name, own.work, {"PROVLEDGER_DATA_DIR": "data"})
