"""COSE receipts: made, read, verified by us and by another implementation, and damaged."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from provledger import cose_receipt, merkle
from provledger.cose_receipt import (
    cose_signature,
    encode_cose_receipt,
    parse_cose_receipt,
    protected_header,
    signed_bytes,
    verify_cose_receipt,
)
from provledger.errors import CoseReceiptError, VerificationError
from provledger.jwk import Algorithm
from provledger.keyset import KeyPurpose, KeySet, KeyState, VerificationKey
from tests.support import go_tools
from tests.support.chain import private_key

ORIGIN = "log.test/one"
ENTRIES = [f"entry {number}".encode() for number in range(7)]
LEAVES = merkle.leaf_hashes(ENTRIES)
ED = private_key("receipt-1")
P256 = ec.derive_private_key(7, ec.SECP256R1())


def key(public_key: Any, kid: str, **changes: Any) -> VerificationKey:
    return VerificationKey.from_public_key(
        public_key, kid=kid, **{"purpose": KeyPurpose.RECEIPT, **changes}
    )


KEYS = KeySet([key(ED.public_key(), "ed"), key(P256.public_key(), "p256", epoch=2)])


def make(index: int = 3, size: int = 7, kid: str = "ed", origin: str = ORIGIN) -> bytes:
    """A receipt for one of the entries."""
    algorithm = Algorithm.ED25519 if kid == "ed" else Algorithm.ECDSA_P256
    protected = protected_header(algorithm, kid, origin, size)
    message = signed_bytes(protected, merkle.root_of_hashes(LEAVES[:size]))
    signed = ED.sign(message) if kid == "ed" else P256.sign(message, ec.ECDSA(hashes.SHA256()))
    path = tuple(merkle.inclusion_proof(LEAVES[:size], index))
    return encode_cose_receipt(protected, cose_signature(algorithm, signed), size, index, path)


@pytest.mark.parametrize("kid", ["ed", "p256"])
def test_a_receipt_of_every_entry_verifies(kid: str) -> None:
    for size in range(2, 8):
        for index in range(size):
            data = make(index, size, kid)
            receipt = verify_cose_receipt(data, ENTRIES[index], KEYS, origin=ORIGIN)
            assert (receipt.log_index, receipt.tree_size, receipt.kid) == (index, size, kid)
            again = encode_cose_receipt(
                receipt.protected, receipt.signature, size, index, receipt.hashes
            )
            assert again == data


def test_the_bytes_are_those_of_rfc_9942() -> None:
    """Drawn here by hand from the document, in CBOR's own notation."""
    data = make()
    tag = cbor2.loads(data)
    assert tag.tag == 18
    protected, unprotected, payload, signature = tag.value
    assert cbor2.loads(protected) == {1: -8, 4: b"ed", 15: {1: ORIGIN, 2: "7"}, 395: 1}
    ((label, proofs),) = unprotected[396].items()
    assert (label, payload, len(signature)) == (-1, None, 64)
    size, index, path = cbor2.loads(proofs[0])
    assert (size, index, len(path)) == (7, 3, 3)
    message = cbor2.dumps(["Signature1", protected, b"", merkle.root_of_hashes(LEAVES)])
    ED.public_key().verify(signature, message)


@pytest.mark.timeout(600)  # the first time on a machine, it is built
def test_another_implementation_verifies_it(tmp_path: Path) -> None:
    """The signature, by github.com/veraison/go-cose."""
    program = go_tools.program("coseverify")
    root = merkle.root_of_hashes(LEAVES).hex()
    pem = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for kid, public_key in (("ed", ED.public_key()), ("p256", P256.public_key())):
        (tmp_path / "key").write_bytes(public_key.public_bytes(*pem))
        (tmp_path / "receipt").write_bytes(make(kid=kid))
        files = ["-receipt", str(tmp_path / "receipt"), "-key", str(tmp_path / "key")]
        command = [program, *files, "-root"]
        done = subprocess.run([*command, root], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("signature holds")
        other = hashlib.sha256(b"").hexdigest()
        done = subprocess.run([*command, other], capture_output=True, text=True, check=False)
        assert (done.returncode, "does not hold" in done.stderr) == (1, True)


def test_a_tree_of_one_leaf_has_no_receipt() -> None:
    with pytest.raises(CoseReceiptError, match="1 to 63 hashes"):
        make(0, 1)


def test_what_it_is_not_for_does_not_verify() -> None:
    data = make()
    for entry in (ENTRIES[2], b"", ENTRIES[3] + b"x"):
        with pytest.raises(VerificationError):
            verify_cose_receipt(data, entry, KEYS)
    with pytest.raises(VerificationError, match="another log"):
        verify_cose_receipt(data, ENTRIES[3], KEYS, origin="log.test/two")
    others = [
        KeySet([]),
        KeySet([key(private_key("x").public_key(), "ed")]),
        KeySet([key(P256.public_key(), "ed")]),
        # One key has one purpose: the log's own does not sign receipts.
        KeySet([key(ED.public_key(), "ed", purpose=KeyPurpose.CHECKPOINT)]),
        KeySet([key(ED.public_key(), "ed", state=KeyState.REVOKED, not_after_ns=1)]),
    ]
    for keys in others:
        with pytest.raises(VerificationError):
            verify_cose_receipt(data, ENTRIES[3], keys)
    retired = KeySet([key(ED.public_key(), "ed", state=KeyState.RETIRED, not_after_ns=1)])
    verify_cose_receipt(data, ENTRIES[3], retired)


def test_no_bit_of_it_is_loose() -> None:
    data = make()
    for at in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[at] ^= 1 << bit
            with pytest.raises((CoseReceiptError, VerificationError)):
                verify_cose_receipt(bytes(damaged), ENTRIES[3], KEYS, origin=ORIGIN)


def rebuilt(change: Any) -> bytes:
    """The receipt with its parts changed by a function, encoded as canonically as before."""
    protected, unprotected, payload, signature = cbor2.loads(make()).value
    header = cbor2.loads(protected)
    proof = cbor2.loads(unprotected[396][-1][0])
    parts = {"header": header, "proof": proof, "payload": payload, "signature": signature}
    parts |= {"tag": 18, "proofs": None, "unprotected": None}
    change(parts)
    encoded = cbor2.dumps(parts["proof"], canonical=True)
    proofs = [encoded] if parts["proofs"] is None else parts["proofs"]
    outer = {396: {-1: proofs}} if parts["unprotected"] is None else parts["unprotected"]
    header_bytes = cbor2.dumps(parts["header"], canonical=True)
    body = [header_bytes, outer, parts["payload"], parts["signature"]]
    return cbor2.dumps(cbor2.CBORTag(parts["tag"], body), canonical=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.update(tag=98),
        lambda p: p.update(payload=b"x" * 32),
        lambda p: p.update(signature=b"x" * 63),
        lambda p: p.update(signature="x" * 64),
        lambda p: p["header"].update({1: -35}),
        lambda p: p["header"].update({395: 2}),
        lambda p: p["header"].update({395: True}),
        lambda p: p["header"].pop(395),
        lambda p: p["header"].pop(4),
        lambda p: p["header"].update({4: "ed"}),
        lambda p: p["header"].update({4: b"\xff"}),
        lambda p: p["header"].update({15: {1: ORIGIN, 2: "8"}}),
        lambda p: p["header"].update({15: {1: "", 2: "7"}}),
        lambda p: p["header"].update({15: {1: ORIGIN}}),
        lambda p: p["header"].update({15: {1: ORIGIN, 2: 7}}),
        lambda p: p["header"].update({2: [395]}),
        lambda p: p["proof"].__setitem__(0, 3),
        lambda p: p["proof"].__setitem__(0, 2**63),
        lambda p: p["proof"].__setitem__(1, -1),
        lambda p: p["proof"].__setitem__(1, 3.0),
        lambda p: p["proof"].__setitem__(2, []),
        lambda p: p["proof"].__setitem__(2, [b"x" * 31] * 3),
        lambda p: p["proof"].__setitem__(2, [b"x" * 32] * 64),
        lambda p: p["proof"].append(0),
        lambda p: p.update(proofs=[]),
        lambda p: p.update(proofs=[b"", b""]),
        lambda p: p.update(proofs=["text"]),
        lambda p: p.update(unprotected={}),
        lambda p: p.update(unprotected={396: {-2: [b""]}}),
        lambda p: p.update(unprotected=[]),
    ],
)
def test_another_form_is_refused(change: Any) -> None:
    with pytest.raises(CoseReceiptError):
        parse_cose_receipt(rebuilt(change))
    assert rebuilt(lambda parts: None) == make()


def test_there_is_one_encoding() -> None:
    data = make()
    untagged = data[1:]
    # The tag in two bytes, the array of indefinite length, and something behind.
    for other in (untagged, b"\xd8\x12" + untagged, data + b"\xf6", data[:-1], b"", b"\xd2"):
        with pytest.raises(CoseReceiptError):
            parse_cose_receipt(other)
    with pytest.raises(CoseReceiptError, match="longer"):
        parse_cose_receipt(data + b"\0" * cose_receipt.MAX_BYTES)


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_garbage_is_refused_by_name(data: bytes) -> None:
    for given_bytes in (data, b"\xd2" + data, b"\xd2\x84" + data):
        with pytest.raises(CoseReceiptError):
            parse_cose_receipt(given_bytes)
