"""Every command of docs/verify-with-other-tools.md, run as it stands there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.commands import Installation
from tests.support import go_tools, peers

PAGE = Path(__file__).parents[2] / "docs" / "verify-with-other-tools.md"
BLOCK = re.compile(r"<!-- run: ([a-z]+) -->\n```sh\n(.*?)```", re.DOTALL)
WITHOUT_GO = ("fetch", "checkpoint", "witness", "timestamp")


def blocks() -> dict[str, str]:
    """The commands by the name of their block, in order."""
    return dict(BLOCK.findall(PAGE.read_text("utf-8")))


@pytest.mark.timeout(1000)
def test_every_command_of_the_page_holds(own: Installation) -> None:
    for tool in ("curl", "openssl", "jq", "xxd"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    commands = blocks()
    # What stands in a block that is not named would not be run.
    assert PAGE.read_text("utf-8").count("```sh\n") == len(commands)
    tools = own.work / "bin"
    tools.mkdir()
    (tools / "provledger").write_text(f'#!/bin/sh\nexec {sys.executable} -m provledger_cli "$@"\n')
    (tools / "provledger").chmod(0o755)
    wanted = list(commands)
    try:
        for name in ("tlogclient", "fsck"):
            (tools / name).symlink_to(go_tools.program(name))
    except pytest.skip.Exception:
        wanted = list(WITHOUT_GO)

    authority = peers.OpenSSLAuthority(own.work / "tsa")
    with peers.scripted(authority.answer) as server:
        sink = f"{server.url}/tsr?protocol=rfc3161&cert={authority.cert}&chain={authority.chain}"
        own.run("up", "--sink", sink)
        draft = {"action": "CREATE", "resource_type": "Account", "resource_id": "42"}
        receipt = own.run(
            *("append", "--tenant", "acme", "--wait-anchored"),
            stdin=json.dumps({**draft, "actor_id": "tester", "new_state": {"n": 1}}).encode(),
        ).json
    gateway = json.loads(own.data.endpoints.read_text())["services"]["gateway"]["endpoint"]
    with urllib.request.urlopen(f"http://{gateway}/", timeout=20) as answer:
        (log,) = json.load(answer)["logs"]

    for name in ("ca.pem", "tsa.pem"):
        shutil.copy(authority.directory / name, own.work / name)
    # `source` keeps what earlier blocks set; each must hold by itself.
    script = "\n".join(["set -eu -o pipefail", *(commands[name] for name in wanted)])
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=own.work,
        env={
            **os.environ,
            "PATH": f"{tools}:{os.environ['PATH']}",
            "PROVLEDGER_DATA_DIR": str(own.data.path),
            "GATEWAY": f"http://{gateway}",
            "LOG": f"http://{gateway}{log['path'].rstrip('/')}",
            "VKEY": log["vkeys"][0],
            "RECEIPT": receipt["id"],
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Signature Verified Successfully") == 2
    assert "Verification: OK" in done.stdout
    if "fsck" in wanted:
        assert "Successfully fsck'd log" in done.stdout
