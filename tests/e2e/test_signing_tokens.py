"""Signing tokens in a whole installation: receipts under them verify offline."""

from __future__ import annotations

import base64
import json

from tests.e2e.commands import Installation, exported, shipped_mutations


def test_receipts_under_tokens_verify_offline_through_a_rotation(own: Installation) -> None:
    own.settings["PROVLEDGER_WITNESS_SIGNING_TOKEN_S"] = "120"
    own.run("up")
    lines = shipped_mutations()
    (own.work / "a.ndjson").write_bytes(b"".join(lines[:60]))
    (own.work / "b.ndjson").write_bytes(b"".join(lines[60:]))
    own.run("import", "a.ndjson", "--tenant", "demo", "--batch", "5")
    own.run("keys", "rotate", "--kid", "witness-2")
    own.run("import", "b.ndjson", "--tenant", "demo", "--batch", "5")
    own.run("status", "--wait", "60")
    own.run("export", "--tenant", "demo", "--out", "x.ndjson")
    own.run("export", "--tenant", "system", "--ledger", "keys", "--out", "k.ndjson")
    own.run("keys", "jwks", "--out", "j.json")
    own.run("down")
    pin = (own.data.path / "key-ledger.pin").read_text().strip()
    keys = ("--keys", "j.json", "--key-ledger", "k.ndjson", "--pin", pin)
    verdict = own.run("verify", "x.ndjson", *keys, data_dir=False).json
    assert verdict["status"] == "verified"

    receipts = exported(own.work / "x.ndjson")
    bodies = {base64.b64decode(receipt["signature"]["body"]) for receipt in receipts}
    tokens = [body["token"] for body in map(json.loads, bodies) if "token" in body]
    # The very first batches may be the key's own: there is no token yet.
    assert len(tokens) > len(bodies) / 2
    assert {token["cert"]["kid"] for token in tokens} == {"witness-1", "witness-2"}
    uses = {(token["cert"]["key"]["x"], token["use"]) for token in tokens}
    assert len(uses) == len(tokens)
