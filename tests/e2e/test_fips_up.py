"""`up --fips`: a receipt's whole way with everything in FIPS mode."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from provledger.client import Client
from provledger.errors import InvalidArgumentError
from provledger.fips import module
from provledger.fips.errors import FIPSConfigError
from tests.e2e.commands import Installation, exported, shipped_mutations

# The verifier of a receipt needs no FIPS mode, but is held to it here as well.
VERIFY = ["-m", "provledger_cli", "verify", "fips.ndjson", "--keys", "jwks.json", "--json"]


def missing() -> str:
    try:
        module.find_module()
    except FIPSConfigError as error:
        return f"{error} (scripts/install_test_tools.sh)"
    return ""


pytestmark = [pytest.mark.skipif(bool(missing()), reason=missing()), pytest.mark.timeout(300)]


def test_everything_runs_in_fips_mode_and_verifies(
    own: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    own.run("up", "--fips")
    for service in ("keys", "witness", "anchor", "ledger"):
        log = own.data.log(service).read_text()
        assert '"event": "fips.ready"' in log, service
    (own.work / "some.ndjson").write_bytes(b"".join(shipped_mutations()[:50]))
    own.run("import", "some.ndjson", "--tenant", "fips")
    assert own.run("status", "--wait", "30").json["ledgers"][0]["suite"] == "fips"
    own.run("export", "--tenant", "fips", "--out", "fips.ndjson")
    assert {receipt["suite"] for receipt in exported(own.work / "fips.ndjson")} == {"fips"}
    own.run("keys", "jwks", "--out", "jwks.json")
    keys = json.loads((own.work / "jwks.json").read_text())["keys"]
    algorithms = {key["provledger"]["purpose"]: key["alg"] for key in keys}
    assert (algorithms["witness"], algorithms["head"]) == ("ES256", "ES256")
    assert algorithms["checkpoint"] in ("EdDSA", "ES256")

    monkeypatch.chdir(own.work)
    monkeypatch.setenv("PROVLEDGER_FIPS", "1")
    done = subprocess.run([sys.executable, *VERIFY], capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["receipts"] == 51

    known = json.loads(own.data.endpoints.read_text())
    with (
        Client(known["services"]["ledger"]["endpoint"]) as client,
        pytest.raises(InvalidArgumentError, match="not allowed in FIPS mode"),
    ):
        client.create_ledger("fips", "other", suite="blake3")


def test_data_directory_does_not_change_into_fips_mode(own: Installation, tmp_path: Path) -> None:
    own.run("up")
    own.run("down")
    answer = own.run("up", "--fips", check=False)
    assert answer.code == 2
    assert "without FIPS mode" in answer.talk
