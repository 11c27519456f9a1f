"""A sink that is away on running services, and the runbook for it, command by command."""

from __future__ import annotations

import json
import os
import re
import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.commands import Installation, shipped_mutations
from tests.support.certs import CertificateAuthority
from tests.support.ports import free_ports
from tests.support.runbooks import RUNBOOKS, run_all
from tests.support.tiled import cosign, signed_checkpoint, vkey

NAME = "notary.example.org"
LOG = "log.example/theirs"


@pytest.mark.timeout(400)
def test_the_runbook_of_an_outage_does_what_it_says(own: Installation) -> None:
    _, key = cosign(signed_checkpoint(LOG, [b"x"]), NAME, 1)
    away = (
        f"http://127.0.0.1:{free_ports(1)[0]}/?protocol=tlog-witness&vkey={key.replace('+', '%2B')}"
    )
    held = f"file://{own.work}/held"
    own.run("up", "--sink", held, "--sink", away)
    (own.work / "m.ndjson").write_bytes(b"".join(shipped_mutations()[:20]))
    own.run("import", "m.ndjson", "--tenant", "demo")
    end_s = time.monotonic() + 60
    while not any(
        sink["last_error"] for sink in own.run("anchor", "sinks", check=False).json["sinks"]
    ):
        assert time.monotonic() < end_s
        time.sleep(0.1)
    (own.work / "relaxed.policy").write_text(f"sink copy {held}\nquorum copy\nwithin 1h\n")
    (own.work / "logs.policy").write_text(f"log {vkey(LOG)}\nquorum none\n")
    said = run_all("anchor-outage", own.work, {"PROVLEDGER_DATA_DIR": str(own.data.path)})
    assert len(said) == 8
    assert "127.0.0.1" in said[1]
    assert NAME in said[7]
    # What was set holds without the sink that is away, and was taken back at the end.
    assert "quorum copy" in said[5]
    assert own.run("anchor", "policy").json["text"] == ""


@pytest.mark.timeout(400)
def test_a_log_of_a_tenants_own_that_fails_closed_is_seen(own: Installation) -> None:
    """Its policy is set where it has an effect, and then no command says that all is well."""
    own.settings = {"PROVLEDGER_LEDGER_OWN_LOG_TENANTS": "acme"}
    line = shipped_mutations()[0]
    own.run("up", "--sink", f"file://{own.work}/held")
    for tenant in ("acme", "other"):
        own.run("append", "--tenant", tenant, stdin=line)
    shared, mine = (log["name"] for log in own.run("status", "--wait", "60").json["logs"])
    _, key = cosign(signed_checkpoint(LOG, [b"x"]), NAME, 1)
    away = f"witness away {key} http://127.0.0.1:{free_ports(1)[0]}/\nquorum away\n"
    (own.work / "p.policy").write_text(f"{away}within 1s\nmode fail-closed\n")
    policy = ("anchor", "policy", "--tenant", "acme", "--set", "p.policy")
    refused = own.run(*policy, check=False)
    uid = mine.removeprefix("logs/")
    assert refused.code == 2
    assert f"--log {uid}" in refused.json["error"]["next"]
    assert own.run(*policy, "--log", uid).json["log"] == mine
    end_s = time.monotonic() + 60
    append = ("append", "--tenant", "acme", "--timeout", "1")
    while (answer := own.run(*append, check=False, stdin=line)).code == 0:
        assert time.monotonic() < end_s
    assert answer.json["error"]["reason"] == "ANCHOR_OVERDUE"
    assert "provledger anchor status" in answer.json["error"]["next"]
    while (sinks := own.run("anchor", "sinks", check=False)).code == 0:
        assert time.monotonic() < end_s
    assert sinks.json["others"][0]["tenant"] == "tenants/acme"
    status = own.run("anchor", "status", check=False)
    assert (status.code, status.json["log"], status.json["well"]) == (1, shared, False)
    assert [each["well"] for each in status.json["others"]] == [False]
    assert own.run("anchor", "status", "--log", shared.removeprefix("logs/")).json["well"] is True
    own.run("append", "--tenant", "other", stdin=line)


def test_the_notary_of_the_runbook_serves_strangers_by_tls(tmp_path: Path) -> None:
    text = (RUNBOOKS / "anchor-outage.md").read_text("utf-8")
    (block,) = re.findall(r"```sh\n(provledger notary .*?)```", text, re.DOTALL)
    files = CertificateAuthority(tmp_path / "ca").issue("localhost")
    (tmp_path / "chain.pem").write_bytes(files.cert.read_bytes())
    (tmp_path / "key.pem").write_bytes(files.key.read_bytes())
    (tmp_path / "logs.policy").write_text(f"log {vkey(LOG)}\nquorum none\n")
    command = block.replace("\\\n", " ").split()
    # As it stands there, on a port that a test may have.
    assert command[command.index("--port") + 1] == "443"
    command[command.index("--port") + 1] = "0"
    ready = tmp_path / "ready"
    running = subprocess.Popen(
        [sys.executable, "-m", "provledger_cli", *command[1:]],
        cwd=tmp_path,
        env={**os.environ, "PROVLEDGER_NOTARY_READY_FILE": str(ready)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        end_s = time.monotonic() + 60
        while not ready.exists():
            assert running.poll() is None, running.stderr and running.stderr.read()
            assert time.monotonic() < end_s
            time.sleep(0.05)
        port = json.loads(ready.read_text())["port"]
        context = ssl.create_default_context(cafile=str(files.ca))
        url = f"https://localhost:{port}/healthz"
        with urllib.request.urlopen(url, timeout=20, context=context) as answer:
            assert answer.status == 200
    finally:
        running.terminate()
        running.communicate(timeout=30)
    assert running.returncode == 0
