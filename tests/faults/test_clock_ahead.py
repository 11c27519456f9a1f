"""A key that is rotated to while every clock is ahead, and the way out once they are right."""

from __future__ import annotations

import json
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from provledger.client import CallPolicy, Client, Mutation
from provledger.errors import StatusError
from provledger.retry import RetryPolicy
from provledger_cli.embedded.datadir import PIN_FILE, SERVICES
from tests.faults import commands
from tests.faults.clocked import Clock
from tests.faults.cluster import Cluster, eventually
from tests.faults.conftest import QUICK

AHEAD_S = 0
RIGHT_S = -30 * 24 * 3600
"""Nobody's may be ahead of SQLite's own, which cannot be set: so the right ones are behind it."""

ONCE = CallPolicy(timeout_s=10.0, retry=RetryPolicy(attempts=1))
LEDGER = "tenants/acme/ledgers/main"


def made_ledger(client: Client) -> bool:
    """Whether there is one now: services find each other after they have started."""
    with suppress(StatusError):
        client.create_ledger("acme")
        return True
    return False


def append(client: Client, name: str) -> str:
    """ "" once it is recorded, or the reason with which it is refused."""
    mutation = Mutation(
        action="CREATE",
        resource_type="Item",
        resource_id=name,
        actor_id="a",
        request_id=name,
        new_state={},
    )
    try:
        client.append(LEDGER, mutation)
    except StatusError as error:
        return error.reason
    return ""


@pytest.mark.timeout(400)
def test_a_key_that_was_made_while_the_clock_was_ahead_is_replaced(tmp_path: Path) -> None:
    """Nothing that was acknowledged meanwhile is denied, and what comes after verifies as well."""
    modules = dict.fromkeys(SERVICES, "tests.faults.clocked")
    cluster = Cluster(tmp_path / "data", options=QUICK, modules=modules)
    clocks = {name: Clock(name, tmp_path / f"clock-{name}") for name in SERVICES}
    cluster.environments = {name: clock.environment for name, clock in clocks.items()}
    where = ["--data-dir", str(cluster.data.path), "--json"]
    where += [
        text for name in SERVICES for text in ("--endpoint", f"{name}={cluster.endpoint(name)}")
    ]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return commands.run(*arguments, *where)

    def done(*arguments: str) -> Any:
        answer = run(*arguments)
        assert answer.returncode == 0, answer.stderr + answer.stdout
        return json.loads(answer.stdout)

    def made(kid: str) -> tuple[str, ...]:
        return "--uri", f"local:{kid}.pem", "--create"

    def verified(file: Path, *more: str) -> str:
        pin = str(cluster.data.path / PIN_FILE)
        answer = commands.run("verify", str(file), "--pin", pin, *more, "--json")
        return str(json.loads(answer.stdout)["status"])

    older, before, after = (tmp_path / name for name in ("older", "before", "after"))
    kept, jwks = tmp_path / "kept", tmp_path / "jwks"
    export = ("export", "--tenant", "acme", "--out")
    try:
        for clock in clocks.values():
            clock.set(RIGHT_S)
        cluster.start()
        with Client(cluster.endpoint("ledger"), policy=ONCE) as client:
            eventually(lambda: made_ledger(client), "a ledger is made")
            eventually(lambda: append(client, "before") == "", "appends go on")
            for clock in clocks.values():
                clock.set(AHEAD_S)
            eventually(lambda: append(client, "ahead") == "", "appends go on")
            done("keys", "rotate", "--kid", "witness-2", *made("witness-2"))
            assert append(client, "by-the-new-key") == ""
            done("status", "--wait", "30")
            done(*export, str(older))
            assert append(client, "a-later-one") == ""
            for clock in clocks.values():
                clock.set(RIGHT_S)
            assert append(client, "right-again") == "CLOCK_SKEW"
            eventually(lambda: run("status").returncode == 1, "status says so")
            stuck = run(
                "keys", "rotate", "--kid", "witness-3", *made("witness-3"), "--timeout", "3"
            )
            assert stuck.returncode == 2
            assert "witness-2, the active witness key, begins" in stuck.stdout + stuck.stderr
            done(*export, str(before), "--checkpoint-out", str(kept))
            done("keys", "revoke", "witness-2", "--after", str(kept), "--reason", "clock was ahead",
                 "--replace-by", "witness-4", *made("witness-4"),
                 "--recovery-key", str(cluster.data.keys / "recovery-1.pem"))  # fmt: skip
            assert append(client, "right-again") == ""
            done("status", "--wait", "30")
            done(*export, str(after))
            assert verified(after) == "verified"
            assert verified(before, "--history", str(after)) == "verified"
            # By itself an older one does not show that it is covered, once the revocation is known.
            done("keys", "jwks", "--out", str(jwks))
            by_new_keys = ("verify", str(older), "--keys", str(jwks), "--json")
            alone = commands.run(*by_new_keys)
            assert (alone.returncode, "not_placed" in alone.stdout) == (2, True), alone.stdout
            assert commands.run(*by_new_keys, "--history", str(after)).returncode == 0
            # The ceremony that waited goes on.
            done("keys", "rotate", "--kid", "witness-3", *made("witness-3"))
            assert append(client, "last") == ""
    finally:
        cluster.close()
