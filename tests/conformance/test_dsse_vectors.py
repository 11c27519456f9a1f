"""DSSE: the example of its protocol document, signature included."""

from __future__ import annotations

import json

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from provledger import dsse
from tests.conformance.vectors import load


def test_published_envelope() -> None:
    file = load("dsse/example.json")
    envelope = dsse.decode(json.dumps(file["envelope"]).encode())
    assert envelope.payload == file["payload_utf8"].encode()
    assert envelope.payload_type == file["payloadType"]
    assert envelope.pae == file["pae_utf8"].encode()
    assert [signature.keyid for signature in envelope.signatures] == ["66301bbf"]
    sig = envelope.signatures[0].sig
    numbers = ec.EllipticCurvePublicNumbers(
        int(file["key"]["x"]), int(file["key"]["y"]), ec.SECP256R1()
    )
    der = utils.encode_dss_signature(int.from_bytes(sig[:32]), int.from_bytes(sig[32:]))
    numbers.public_key().verify(der, envelope.pae, ec.ECDSA(hashes.SHA256()))
    assert dsse.decode(dsse.encode(envelope)) == envelope


def test_published_pae() -> None:
    for case in load("dsse/example.json")["pae_extra_cases"]:
        found = dsse.pae(case["type"], bytes.fromhex(case["body_hex"]))
        assert found.hex() == case["pae_hex"]
