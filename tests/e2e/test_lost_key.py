"""The witness's key file is gone: what else there is serves, and by it the key is replaced."""

from __future__ import annotations

import pytest

from provledger_cli.datadir import PIN_FILE
from tests.e2e.commands import Installation, shipped_mutations


@pytest.mark.timeout(240)
def test_a_lost_witness_key_is_replaced_while_the_others_serve(own: Installation) -> None:
    own.run("up")
    (own.work / "m.ndjson").write_bytes(b"".join(shipped_mutations()[:5]))
    own.run("import", "m.ndjson", "--tenant", "before")
    own.run("down")
    (own.data.keys / "witness-1.pem").unlink()
    lost = own.run("up", "--timeout", "20", check=False)
    assert (lost.code, "witness" in lost.json["error"]["message"]) == (2, True)
    assert "left running" in lost.json["error"]["next"]
    assert own.run("status", check=False).code != 0
    assert [each["kid"] for each in own.run("keys", "list", "--purpose", "witness").json["keys"]]
    recovery = str(own.data.keys / "recovery-1.pem")
    revoke = ("keys", "revoke", "witness-1", "--reason", "lost", "--replace-by", "witness-2")
    own.run(*revoke, "--recovery-key", recovery)
    own.run("up")
    own.run("import", "m.ndjson", "--tenant", "after")
    own.run("export", "--tenant", "after", "--out", "y.ndjson")
    pin = str(own.data.path / PIN_FILE)
    assert own.run("verify", "y.ndjson", "--pin", pin, data_dir=False).json["status"] == "verified"
