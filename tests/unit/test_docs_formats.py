"""The worked example of docs/formats, computed once more without the library.

Every value that the pages show is made here from the ones before it with nothing but `hashlib`,
`blake3`, `cryptography` and `json`, by the rules as the pages state them. Then the library verifies
the example's files.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from scripts import worked_base, worked_example
from scripts.doc_blocks import REPO, fill, read

from anchor_svc.checkpointing import first_entry
from anchor_svc.sinks import PublishedCheckpoint, open_sink
from ledger_svc.chain import genesis_payload
from provledger import names
from provledger.errors import VerificationError
from provledger.export import verify_export
from provledger.key_ledger import verify_from_pin
from provledger.report import Check, Finding, Outcome, Status
from provledger.verify import verify_receipt
from witness_svc import checks
from witness_svc.statements import Place, StatementMaker

PAGES = REPO / "docs" / "formats"
FILES = PAGES / "example"

MEMBERS_OF_MUTATION = {
    "diff",
    "entityId",
    "entityType",
    "mutationType",
    "newState",
    "previousState",
}


@pytest.fixture(scope="module")
def shown() -> dict[str, str]:
    """What the pages show, by the name of the block."""
    blocks: dict[str, str] = {}
    for page in sorted(PAGES.glob("*.md")):
        blocks |= read(page.read_text("utf-8"))
    return blocks


def h(data: bytes) -> bytes:
    return blake3(data).digest()


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def compact(value: Any) -> str:
    """RFC 8785, as far as documents without numbers need it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def numbers(text: str) -> dict[str, str]:
    """Lines of `label   value`."""
    return dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in text.splitlines())


def private_key(text: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(numbers(text)["seed"]))


def pae(kind: str, body: str) -> bytes:
    return f"DSSEv1 {len(kind)} {kind} {len(body)} {body}".encode()


def lines_of_hex(text: str) -> list[bytes]:
    return [bytes.fromhex(line) for line in text.splitlines()]


def mutation_fields(payload: dict[str, Any]) -> dict[str, Any]:
    """The fields of the example's mutation, written out by hand."""
    assert payload.keys() == MEMBERS_OF_MUTATION
    state = payload["newState"]
    return {
        "/diff/0": payload["diff"][0],
        "/entityId": payload["entityId"],
        "/entityType": payload["entityType"],
        "/mutationType": payload["mutationType"],
        "/newState/date": state["date"],
        "/newState/name": state["name"],
        "/previousState": None,
    }


def test_pages_and_files_are_what_the_script_makes() -> None:
    stale = [
        path.name
        for path, data in worked_example.outputs().items()
        if not path.exists() or path.read_bytes() != data
    ]
    assert not stale, "run python scripts/worked_example.py"


def test_a_changed_block_is_noticed() -> None:
    text = "a\n<!-- made: x -->\n```text\nold\n```\n<!-- end -->\nb\n"
    assert read(text) == {"x": "old"}
    assert "new" in fill(text, {"x": "new"})
    assert fill(text, {"y": "new"}) == text


@pytest.mark.parametrize("purpose", ["witness", "checkpoint", "head"])
def test_keys(shown: dict[str, str], purpose: str) -> None:
    said = numbers(shown[f"{purpose}-key"])
    raw = private_key(shown[f"{purpose}-key"]).public_key().public_bytes_raw()
    jwk = f'{{"crv":"Ed25519","kty":"OKP","x":"{b64url(raw)}"}}'
    assert said["public key"] == raw.hex()
    assert said["thumbprint"] == sha256(jwk.encode()).hex()
    keys = json.loads(shown["jwks"])["keys"]
    assert [key["x"] for key in keys if key["provledger"]["purpose"] == purpose] == [b64url(raw)]


def test_payload_commitment(shown: dict[str, str]) -> None:
    payload = json.loads(shown["payload"])
    assert compact(payload) == shown["payload"]
    fields = mutation_fields(payload)
    assert list(fields) == sorted(fields)
    secret = bytes.fromhex(shown["secret"])
    stream = hashlib.shake_256(b"provledger/salts/v1\n" + secret).digest(7 * 16 + 32)
    assert stream.hex() == shown["salts"]
    digests, drawn = [], []
    for place, (pointer, value) in enumerate(fields.items()):
        salt = stream[16 * place : 16 * (place + 1)]
        disclosure = b64url(compact([b64url(salt), pointer, value]).encode())
        digest = sha256(disclosure.encode())
        digests.append(digest)
        drawn += [
            pointer,
            f"  salt        {salt.hex()}",
            f"  disclosure  {disclosure}",
            f"  digest      {digest.hex()}",
        ]
    assert "\n".join(drawn) == shown["fields"]
    assert stream[-32:].hex() == shown["decoy"]
    listed = sorted([*digests, stream[-32:]])
    assert listed == lines_of_hex(shown["digests"])
    root = sha256(b"provledger/fields/v1\n" + (8).to_bytes(4, "big") + b"".join(listed))
    assert root.hex() == shown["payload-hash"]


def test_blob_commitment(shown: dict[str, str]) -> None:
    payload, salt = bytes.fromhex(shown["blob-payload"]), bytes.fromhex(shown["blob-salt"])
    assert payload == b"Signed off by the change board.\n"
    kind = b"text/plain"
    preimage = b"provledger/blob/v1\n" + salt + len(kind).to_bytes(4, "big") + kind
    preimage += len(payload).to_bytes(8, "big") + payload
    assert sha256(preimage).hex() == shown["blob-payload-hash"]


def test_statement(shown: dict[str, str]) -> None:
    statement = json.loads(shown["statement"])
    assert compact(statement) == shown["statement"]
    assert statement["subject"] == [
        {
            "digest": {"provledgerFieldsV1": shown["payload-hash"]},
            "name": "Version/redis/7.2.5",
        }
    ]
    data = b"provledger/statement/v1\n" + shown["statement"].encode()
    assert h(b"\x00" + data).hex() == shown["statement-leaf-hash"]


def test_witness_signature(shown: dict[str, str]) -> None:
    left = bytes.fromhex(shown["statement-leaf-hash"])
    right = bytes.fromhex(shown["other-statement-leaf-hash"])
    assert h(b"\x01" + left + right).hex() == shown["batch-root"]
    body = json.loads(shown["batch-body"])
    assert compact(body) == shown["batch-body"]
    assert body["root"] == shown["batch-root"]
    assert body["jkt"] == numbers(shown["witness-key"])["thumbprint"]
    signed = pae("application/vnd.provledger.witness-batch.v1+json", shown["batch-body"])
    assert signed.decode() == shown["batch-pae"]
    sig = private_key(shown["witness-key"]).sign(signed)
    assert sig.hex() == shown["batch-sig"]
    digest = h(b"provledger/signature/v1\n" + len(signed).to_bytes(4, "big") + signed + sig)
    assert digest.hex() == shown["signature-digest"]


def test_signing_token(shown: dict[str, str]) -> None:
    cert = json.loads(shown["token-cert"])
    assert compact(cert) == shown["token-cert"]
    issuer, in_memory = private_key(shown["witness-key"]), private_key(shown["token-key"])
    raw = bytes.fromhex(numbers(shown["token-key"])["public key"])
    x = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    assert cert["key"] == {"crv": "Ed25519", "kty": "OKP", "x": x}
    assert cert["jkt"] == numbers(shown["witness-key"])["thumbprint"]
    assert int(cert["notAfterNs"]) - int(cert["notBeforeNs"]) == 300 * 10**9
    kind = "application/vnd.provledger.signing-token.v1+json"
    assert issuer.sign(pae(kind, shown["token-cert"])).hex() == shown["token-sig"]
    body = json.loads(shown["token-body"])
    assert compact(body) == shown["token-body"]
    assert body.pop("token") == {"cert": cert, "sig": shown["token-sig"], "use": "17"}
    assert body == json.loads(shown["batch-body"])
    signed = pae("application/vnd.provledger.witness-batch.v1+json", shown["token-body"])
    assert in_memory.sign(signed).hex() == shown["token-batch-sig"]


def test_entry_and_receipt_hash(shown: dict[str, str]) -> None:
    entry = json.loads(shown["entry"])
    assert compact(entry) == shown["entry"]
    assert entry["payload"] == shown["payload-hash"]
    assert entry["statement"] == shown["statement-leaf-hash"]
    assert entry["signature"] == shown["signature-digest"]
    assert entry["prev"] == shown["genesis-receipt-hash"]
    assert h(b"provledger/entry/v1\n" + shown["entry"].encode()).hex() == shown["receipt-hash"]


def test_genesis(shown: dict[str, str]) -> None:
    payload, entry = json.loads(shown["genesis-payload"]), json.loads(shown["genesis-entry"])
    assert compact(payload) == shown["genesis-payload"]
    assert compact(entry) == shown["genesis-entry"]
    assert (entry["seq"], entry["prev"]) == ("0", None)
    assert payload["witnessKey"] == numbers(shown["witness-key"])["thumbprint"]
    assert payload["logKey"] == numbers(shown["checkpoint-key"])["thumbprint"]
    data = b"provledger/entry/v1\n" + shown["genesis-entry"].encode()
    assert h(data).hex() == shown["genesis-receipt-hash"]


def test_log(shown: dict[str, str]) -> None:
    hashes = [bytes.fromhex(line.split("  ")[1]) for line in shown["leaf-hashes"].splitlines()]
    for index, name in enumerate(["log-leaf", "genesis-entry", "entry"]):
        assert sha256(b"\x00" + shown[name].encode()) == hashes[index]
    left, right = sha256(b"\x01" + hashes[0] + hashes[1]), sha256(b"\x01" + hashes[2] + hashes[3])
    assert sha256(b"\x01" + left + right).hex() == shown["log-root"]
    assert lines_of_hex(shown["inclusion"]) == [hashes[3], left]
    # From size 2, a power of two, to 4: the old root is the left half, the right half is the proof.
    assert lines_of_hex(shown["consistency"]) == [right]


def test_checkpoint(shown: dict[str, str]) -> None:
    origin, size, root, blank, line = shown["checkpoint"].split("\n")
    assert (size, blank) == ("4", "")
    assert base64.b64decode(root).hex() == shown["log-root"]
    key = private_key(shown["checkpoint-key"])
    raw = key.public_key().public_bytes_raw()
    key_id = sha256(origin.encode() + b"\n\x01" + raw)[:4]
    sig = key.sign(f"{origin}\n{size}\n{root}\n".encode())
    assert line == f"\N{EM DASH} {origin} {base64.b64encode(key_id + sig).decode()}"
    vkey = base64.b64encode(b"\x01" + raw).decode()
    assert shown["vkey"] == f"{origin}+{key_id.hex()}+{vkey}"
    evidence = json.loads(shown["evidence"])
    assert evidence["sha256"] == sha256(shown["checkpoint"].encode() + b"\n").hex()


def test_cosignature_and_proof_bundle(shown: dict[str, str]) -> None:
    """c2sp.org/tlog-cosignature and tlog-proof, as evidence.md has them."""
    name, key_id, public = numbers(shown["cosigner-key"])["vkey"].split("+")
    key = private_key(shown["cosigner-key"])
    raw = b"\x04" + key.public_key().public_bytes_raw()
    assert base64.b64decode(public) == raw
    assert sha256(f"{name}\n".encode() + raw)[:4].hex() == key_id
    text, _, own_line = shown["checkpoint"].rpartition("\n\n")
    when = 1763665206
    message = f"cosignature/v1\ntime {when}\n{text}\n"
    assert shown["cosigned-message"] == message.rstrip("\n")
    blob = bytes.fromhex(key_id) + when.to_bytes(8, "big") + key.sign(message.encode())
    line = f"\u2014 {name} {base64.b64encode(blob).decode()}"
    assert shown["cosigned-checkpoint"] == f"{text}\n\n{own_line}\n{line}"
    path = [base64.b64encode(step).decode() for step in lines_of_hex(shown["inclusion"])]
    assert shown["tlog-proof"] == "\n".join(
        ["c2sp.org/tlog-proof@v1", "index 2", *path, "", shown["cosigned-checkpoint"]]
    )


def test_head(shown: dict[str, str]) -> None:
    body, envelope = json.loads(shown["head-body"]), json.loads(shown["head-envelope"])
    assert compact(body) == shown["head-body"]
    assert body["root"] == shown["log-root"]
    signed = pae("application/vnd.provledger.head.v1+json", shown["head-body"])
    sig = private_key(shown["head-key"]).sign(signed)
    assert sig.hex() == shown["head-sig"]
    assert base64.b64decode(envelope["payload"]).decode() == shown["head-body"]
    assert envelope["signatures"] == [{"keyid": "head-1", "sig": base64.b64encode(sig).decode()}]


def test_receipt(shown: dict[str, str]) -> None:
    receipt = json.loads(shown["receipt"])
    assert compact(receipt) + "\n" == (FILES / "receipt.json").read_text("utf-8")
    assert receipt["receiptHash"] == shown["receipt-hash"]
    assert receipt["previousHash"] == shown["genesis-receipt-hash"]
    assert receipt["payloadHash"] == shown["payload-hash"]
    assert receipt["payload"] == json.loads(shown["payload"])
    decoded = base64.b64decode
    assert decoded(receipt["statement"]).decode() == shown["statement"]
    assert decoded(receipt["commitment"]["secret"]).hex() == shown["secret"]
    signature = receipt["signature"]
    assert decoded(signature["body"]).decode() == shown["batch-body"]
    assert decoded(signature["sig"]).hex() == shown["batch-sig"]
    assert decoded(signature["path"][0]).hex() == shown["other-statement-leaf-hash"]
    proof = receipt["proofs"][0]
    assert [decoded(step) for step in proof["hashes"]] == lines_of_hex(shown["inclusion"])
    assert proof["checkpoint"] == shown["checkpoint"] + "\n"


def test_export(shown: dict[str, str]) -> None:
    data = (FILES / "export.ndjson").read_bytes()
    header, *receipts, footer, rest = data.split(b"\n")
    assert (header.decode(), footer.decode(), rest) == (
        shown["export-header"],
        shown["export-footer"],
        b"",
    )
    assert len(receipts) == 3
    assert receipts[1] + b"\n" == (FILES / "receipt.json").read_bytes()
    members = json.loads(footer)["footer"]
    assert members["digest"] == sha256(data[: -len(footer) - 1]).hex()
    assert base64.b64decode(members["head"]).decode() == shown["head-envelope"]


def test_key_ledger(shown: dict[str, str]) -> None:
    """The lines of the key ledger are an export of their own, whose genesis every key endorses."""
    data = (FILES / "pinned.ndjson").read_bytes()
    assert data.split(b"\n")[1].decode() == shown["export-key-ledger"]
    prefix = b'{"keyLedger":'
    carried = [line for line in data.splitlines() if line.startswith(prefix)]
    inner = [json.loads(line)["keyLedger"] for line in carried]
    assert [compact(each).encode() for each in inner] == [x[len(prefix) : -1] for x in carried]
    header, _, genesis, footer = inner
    lines = b"".join(compact(each).encode() + b"\n" for each in inner[:-1])
    assert footer["footer"]["digest"] == sha256(lines).hex()
    outer = json.loads(data.split(b"\n")[0])["export"]
    assert header["export"]["treeSize"] == outer["treeSize"] == "6"
    payload = genesis["payload"]
    assert compact(payload["event"]) == shown["key-genesis"]
    signed = pae("application/vnd.provledger.key-event.v1+json", shown["key-genesis"])
    for each in payload["endorsements"]:
        key = private_key(shown[f"{each['kid'].removesuffix('-1')}-key"])
        assert key.sign(signed).hex() == each["sig"]
    assert len(payload["endorsements"]) == 4
    by_digest = numbers(shown["key-endorsement-sha256"])
    kind, digest = (
        b"application/vnd.provledger.key-event-sha256.v1",
        sha256(compact(payload["event"]).encode()),
    )
    signed = b"DSSEv1 %d %b 32 %b" % (len(kind), kind, digest)
    assert (by_digest["digest"], by_digest["signed"]) == (digest.hex(), signed.hex())
    assert by_digest["signature"] == private_key(shown["recovery-key"]).sign(signed).hex()
    pin = payload["event"]["recovery"]["jkt"]
    assert pin == numbers(shown["recovery-key"])["thumbprint"]
    assert (FILES / "pin.txt").read_text() == f"{pin}\n"
    assert pin in (PAGES / "README.md").read_text("utf-8").partition("pinned.ndjson \\")[2]


def example_files() -> tuple[list[bytes], bytes, bytes]:
    export = (FILES / "export.ndjson").read_bytes().splitlines(keepends=True)
    return export, (FILES / "jwks.json").read_bytes(), (FILES / "head.json").read_bytes()


def test_services_make_the_same_bytes(shown: dict[str, str]) -> None:
    """The witness, the ledger and the anchor make of the example's input what the pages show."""
    mutation = checks.Mutation(
        action="CREATE",
        resource_type="Version",
        resource_id="redis/7.2.5",
        previous_state=b"",
        new_state=b'{"name": "7.2.5", "date": "2024-05-16"}',
        diff=b"",
    )
    draft = checks.Draft(
        request_id="req-1",
        actor_id="bot",
        actor_type="service",
        origin_service="importer",
        trace_id="0af7651916cd43dd8448eb211c80319c",
        upstream_events=("git:6f2b4c1",),
        op_id="op-1",
        op_parent_id="",
        occurred_at="2024-05-16T09:12:00+00:00",
        content=mutation,
    )
    at_ns = worked_base.time_ns(1)
    uid = worked_base.LEDGER_UID
    made = StatementMaker(Place("tenants/acme/ledgers/main", uid, "blake3", at_ns)).make(
        draft,
        checks.check(draft),
        names.uuid7(at_ns, b"\xe1" * 10),
        "anonymous",
        b"\xa1" * 16 + bytes.fromhex(shown["secret"]),
    )
    assert made.statement.decode() == shown["statement"]
    assert made.payload.decode() == shown["payload"]
    assert made.leaf_hash.hex() == shown["statement-leaf-hash"]

    log_uid, origin = worked_base.LOG_UID, worked_base.ORIGIN
    log_key = bytes.fromhex(numbers(shown["checkpoint-key"])["thumbprint"])
    witness_key = bytes.fromhex(numbers(shown["witness-key"])["thumbprint"])
    genesis = genesis_payload("blake3", origin, log_uid, log_key, witness_key)
    assert genesis.decode() == shown["genesis-payload"]
    leaf = first_entry(log_uid, origin, "blake3", [("checkpoint-1", log_key)])
    assert leaf.decode() == shown["log-leaf"]


async def test_file_sink_returns_the_evidence_shown(shown: dict[str, str], tmp_path: Path) -> None:
    sink = open_sink(tmp_path.as_uri())
    signed = shown["checkpoint"].encode() + b"\n"
    root = bytes.fromhex(shown["log-root"])
    published = PublishedCheckpoint(worked_base.ORIGIN, 4, root, signed)
    evidence = await sink.anchor(published)
    await sink.close()
    assert evidence.kind == "file"
    assert evidence.data.decode() == shown["evidence"]


def test_library_verifies_the_example() -> None:
    export, keys, head = example_files()
    report = verify_export(export, keys, head=head.rstrip())
    assert report.status is Status.VERIFIED
    outcomes = {result.check: result.outcome for result in report.results}
    assert outcomes[Check.TRUNCATION] is Outcome.HOLDS
    pin = bytes.fromhex((FILES / "pin.txt").read_text())
    pinned = (FILES / "pinned.ndjson").read_bytes().splitlines(keepends=True)
    assert verify_from_pin(pinned, pin).status is Status.VERIFIED
    single = verify_receipt((FILES / "receipt.json").read_bytes(), keys)
    assert single.status is Status.VERIFIED


def test_one_flipped_byte_of_the_example_is_found() -> None:
    export, keys, _ = example_files()
    export[2] = export[2].replace(b"2024-05-16", b"2024-05-17", 1)
    with pytest.raises(VerificationError) as caught:
        verify_export(export, keys)
    assert caught.value.line == 3
    assert caught.value.finding == Finding.PAYLOAD_CHANGED


def test_receipt_page_names_every_member_and_check() -> None:
    page = (PAGES / "receipt.md").read_text("utf-8")
    receipt = json.loads((FILES / "receipt.json").read_text("utf-8"))
    missing = [name for name in receipt if f"`{name}`" not in page]
    missing += [name for name in receipt["proofs"][0] if f"`{name}`" not in page]
    assert not missing


def test_export_page_names_every_finding() -> None:
    page = (PAGES / "export.md").read_text("utf-8")
    assert not [finding for finding in Finding if f"`{finding}`" not in page]


def test_every_check_is_explained() -> None:
    pages = (PAGES / "receipt.md").read_text("utf-8") + (PAGES / "export.md").read_text("utf-8")
    built = set(Check) - {Check.COSIGNER_QUORUM, Check.TIMESTAMP_TOKEN, Check.OBJECT_LOCK}
    assert not [check for check in built if f"`{check}`" not in pages]


def test_example_keys_are_marked_as_public() -> None:
    assert "Never use them" in Path(PAGES / "README.md").read_text("utf-8")


def test_the_cose_receipt_is_computed_as_the_page_says() -> None:
    """CBOR written by hand, byte for byte, from the drawing in docs/formats/cose-receipt.md."""

    def head(major: int, number: int) -> bytes:
        if number < 24:
            return bytes([major << 5 | number])
        if number < 256:
            return bytes([major << 5 | 24, number])
        return bytes([major << 5 | 25]) + number.to_bytes(2, "big")

    def data(value: bytes) -> bytes:
        return head(2, len(value)) + value

    def text(value: str) -> bytes:
        return head(3, len(value)) + value.encode()

    page = (REPO / "docs" / "formats" / "cose-receipt.md").read_text("utf-8")
    shown = {
        name: body.strip()
        for name, body in re.findall(
            r"<!-- made: ([a-z-]+) -->\n```text\n(.*?)```", page, re.DOTALL
        )
    }
    log = (REPO / "docs" / "formats" / "log.md").read_text("utf-8")
    origin, size, root_b64 = (FILES / "checkpoint.txt").read_text("utf-8").split("\n")[:3]
    path = re.search(r"<!-- made: inclusion -->\n```text\n(.*?)\n```", log, re.DOTALL)
    assert path is not None
    hashes = [bytes.fromhex(line) for line in path[1].split("\n")]

    claims = head(5, 2) + head(0, 1) + text(origin) + head(0, 2) + text(size)
    protected = (
        head(5, 4)
        + (head(0, 1) + head(1, 7))  # alg: -8
        + (head(0, 4) + data(b"receipt-1"))
        + (head(0, 15) + claims)
        + (head(0, 395) + head(0, 1))
    )
    assert shown["cose-protected"] == protected.hex()
    root = base64.b64decode(root_b64)
    message = head(4, 4) + text("Signature1") + data(protected) + data(b"") + data(root)
    assert shown["cose-signed"] == message.hex()
    seed = re.search(r"seed +([0-9a-f]{64})", shown["receipt-key"])
    assert seed is not None
    signature = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed[1])).sign(message)
    proof = head(4, 3) + head(0, int(size)) + head(0, 2) + head(4, len(hashes))
    proof += b"".join(data(item) for item in hashes)
    unprotected = head(5, 1) + head(0, 396) + head(5, 1) + head(1, 0) + head(4, 1) + data(proof)
    receipt = head(6, 18) + head(4, 4) + data(protected) + unprotected + b"\xf6" + data(signature)
    assert shown["cose-receipt"] == receipt.hex()
