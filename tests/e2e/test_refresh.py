"""`provledger refresh`: old files get newer proofs from running services."""

from __future__ import annotations

import json

import pytest

from provledger_cli.monitor import receipts_of
from tests.e2e.commands import Installation, shipped_mutations


@pytest.mark.timeout(400)
def test_receipts_and_exports_get_newer_proofs(shared: Installation) -> None:
    (shared.work / "few.ndjson").write_bytes(b"".join(shipped_mutations()[:3]))
    shared.run("import", "few.ndjson", "--tenant", "refresh")
    shared.run("export", "--tenant", "refresh", "--out", "old.ndjson")
    lines = (shared.work / "old.ndjson").read_bytes().splitlines()
    line = next(
        each for each in lines if each.startswith(b'{"commitment"') and b'"seq":"1"' in each
    )
    (shared.work / "r.json").write_bytes(line)
    (shared.work / "more.ndjson").write_bytes(b"".join(shipped_mutations()[3:5]))
    shared.run("import", "more.ndjson", "--tenant", "refresh")
    exported = shared.run("refresh", "old.ndjson", "--out", "new.ndjson").json
    assert exported["receipts"] == 6
    done = shared.run("refresh", "r.json").json
    assert done["status"] == "verified"
    old, new = json.loads(line), json.loads((shared.work / "r.json").read_bytes())
    assert old.pop("proofs") != new.pop("proofs")
    assert old == new
    # The monitor knows the same files, the key ledger in an export included.
    assert len(list(receipts_of(shared.work / "new.ndjson"))) == 6
    # What the services do not have is not refreshed, and the file stays.
    changed = line.replace(b'"receiptType":"mutation"', b'"receiptType":"mutatiom"')
    (shared.work / "r.json").write_bytes(changed)
    assert shared.run("refresh", "r.json", check=False).code == 1
    assert (shared.work / "r.json").read_bytes() == changed
