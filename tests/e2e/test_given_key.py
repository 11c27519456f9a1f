"""WITNESS_PRIVATE_KEY in a whole installation."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from provledger.jwk import thumbprint_of
from tests.e2e.commands import SERVICES, Installation, exported, shipped_mutations


def test_a_given_key_signs_and_can_be_rotated_away(own: Installation) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    own.settings["WITNESS_PRIVATE_KEY"] = pem.replace("\n", "\\n")
    own.run("up")
    for pid in (*map(own.pid, SERVICES), own.data.supervisor_pid()):
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"PATH=" in environment
        assert b"WITNESS_PRIVATE_KEY" not in environment
        assert b"PRIVATE KEY" not in environment
    (own.work / "a.ndjson").write_bytes(b"".join(shipped_mutations()[:10]))
    own.run("import", "a.ndjson", "--tenant", "demo")
    # It has no effect later, and does no harm.
    own.run("down")
    own.run("up")
    own.run("keys", "rotate", "--kid", "witness-2", "--no-probe")
    (own.work / "b.ndjson").write_bytes(b"".join(shipped_mutations()[10:20]))
    own.run("import", "b.ndjson", "--tenant", "demo")
    own.run("export", "--tenant", "demo", "--out", "x.ndjson")
    own.run("keys", "jwks", "--out", "j.json")
    verdict = own.run("verify", "x.ndjson", "--keys", "j.json", data_dir=False).json
    assert verdict["status"] == "verified"
    kids = [receipt["kid"] for receipt in exported(own.work / "x.ndjson")]
    assert (kids[0], kids[-1]) == ("witness-1", "witness-2")
    jwks = {each["kid"]: each for each in json.loads((own.work / "j.json").read_bytes())["keys"]}
    members = {name: jwks["witness-1"][name] for name in ("crv", "kty", "x", "y")}
    text = json.dumps(members, separators=(",", ":"), sort_keys=True)
    assert hashlib.sha256(text.encode()).digest() == thumbprint_of(key.public_key())
    for log in own.data.path.glob("logs/*.log"):
        assert "PRIVATE KEY---" not in log.read_text()
