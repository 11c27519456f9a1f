"""`provledger refresh`: old files get newer proofs from running services."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from provledger import checkpoint, jcs, note
from provledger.receipt import parse_canonical_receipt
from provledger_cli.verifying.receipt_files import receipts_of
from tests.e2e.commands import Installation, shipped_mutations
from tests.support.chain import key_set
from tests.unit.test_verify import masked_receipt


def with_another_tree(export: bytes, key_file: Path) -> bytes:
    """An export as of another history of the log: its own key signed a tree of the same size."""
    *lines, last = export.splitlines(keepends=True)
    value = jcs.parse(last.strip())
    text = note.parse(value["footer"]["checkpoint"].encode()).text
    own = checkpoint.parse(text)
    forked = checkpoint.format(own.origin, own.size, bytes(32))
    key = load_pem_private_key(key_file.read_bytes(), None)
    key_id = note.note_key_id(own.origin, 1, key.public_key().public_bytes_raw())  # type: ignore[union-attr]
    signature = note.signature_line(own.origin, key_id, key.sign(forked))  # type: ignore[union-attr, call-arg]
    value["footer"]["checkpoint"] = note.format_note(forked, [signature]).decode()
    return b"".join([*lines, jcs.encode(value) + b"\n"])


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
    assert old.pop("proofs") != (new_proofs := new.pop("proofs"))
    assert old == new
    # The monitor knows the same files, the key ledger in an export included.
    assert len(list(receipts_of(shared.work / "new.ndjson"))) == 6
    # Masked, it stays masked; an export of such would come back with what was taken out.
    masked = masked_receipt("/entityId", receipt=parse_canonical_receipt(line)).encode()
    (shared.work / "m.json").write_bytes(masked)
    assert shared.run("refresh", "m.json").json["status"] == "verified"
    shared.run("get", "m.json", "--out", "again.json")
    for name in ("m.json", "again.json"):
        found = json.loads((shared.work / name).read_bytes())
        assert found == {**json.loads(masked), "proofs": new_proofs}
    some = (shared.work / "old.ndjson").read_bytes().replace(line, masked)
    (shared.work / "some.ndjson").write_bytes(some)
    refused = shared.run("refresh", "some.ndjson", check=False)
    assert (refused.code, "seq 1 first" in refused.json["error"]["message"]) == (2, True)
    assert (shared.work / "some.ndjson").read_bytes() == some
    # What the services do not have is not refreshed, and the file stays.
    changed = line.replace(b'"receiptType":"mutation"', b'"receiptType":"mutatiom"')
    (shared.work / "r.json").write_bytes(changed)
    assert shared.run("refresh", "r.json", check=False).code == 1
    assert (shared.work / "r.json").read_bytes() == changed


@pytest.mark.timeout(400)
def test_an_export_is_not_replaced_by_what_does_not_hold(shared: Installation) -> None:
    (shared.work / "two.ndjson").write_bytes(b"".join(shipped_mutations()[:2]))
    shared.run("import", "two.ndjson", "--tenant", "refresh-held")
    shared.run("export", "--tenant", "refresh-held", "--out", "held.ndjson")
    held = (shared.work / "held.ndjson").read_bytes()
    # Keys of another installation.
    (shared.work / "others.json").write_bytes(key_set().encode())
    refused = shared.run("refresh", "held.ndjson", "--keys", "others.json", check=False)
    assert refused.code == 1
    assert (shared.work / "held.ndjson").read_bytes() == held
    # It lacks a receipt: that is wrong with it, and not with what the services have.
    lines = held.splitlines(keepends=True)
    lacks = [each for each in lines if b'"seq":"1"' not in each or b'"schema"' not in each]
    (shared.work / "held.ndjson").write_bytes(b"".join(lacks))
    refused = shared.run("refresh", "held.ndjson", check=False)
    assert (refused.code, refused.json["check"], refused.json["finding"]) == (1, "chain", "deleted")
    assert refused.json["message"] == "the file lacks seq 1"
    # What is held is of another history of the same log: the file is the evidence of that.
    (key_file,) = shared.data.path.glob("keys/**/checkpoint-1*.pem")
    forked = with_another_tree(held, key_file)
    (shared.work / "held.ndjson").write_bytes(forked)
    refused = shared.run("refresh", "held.ndjson", check=False)
    assert (refused.code, refused.json["finding"]) == (1, "head_not_extending")
    assert (shared.work / "held.ndjson").read_bytes() == forked
    assert not list(shared.work.glob(".*held.ndjson*"))
    (shared.work / "held.ndjson").write_bytes(held)
    assert shared.run("refresh", "held.ndjson").json["status"] == "verified"
    # The checkpoint that was held goes with the new file.
    footer = json.loads((shared.work / "held.ndjson").read_bytes().splitlines()[-1])["footer"]
    carried = [each["checkpoint"] for each in footer["consistency"]] + [footer["checkpoint"]]
    assert json.loads(held.splitlines()[-1])["footer"]["checkpoint"] in carried
    # To standard output it goes whole, and the summary elsewhere.
    with shared.start("refresh", "held.ndjson", "--out", "-") as running:
        piped, talk = running.communicate(timeout=120)
    assert running.returncode == 0, talk
    (shared.work / "piped.ndjson").write_bytes(piped)
    assert len(list(receipts_of(shared.work / "piped.ndjson"))) == 3
