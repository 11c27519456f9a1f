"""What others say of the worked example's checkpoint: a cosignature, and the proof that has it."""

from __future__ import annotations

import struct

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from scripts.worked_base import sign_checkpoint, time_ns

from provledger import merkle, note
from provledger.tlog_proof import TlogProof, format_tlog_proof

NAME = "notary.invalid"
KEY = Ed25519PrivateKey.from_private_bytes(b"\x06" * 32)
INDEX = 2


def values(leaves: list[bytes]) -> dict[str, str]:
    """The blocks of docs/formats/evidence.md; `leaves` are the leaf data of the log."""
    vkey = note.format_vkey(NAME, note.COSIGNATURE_ED25519, KEY.public_key().public_bytes_raw())
    signed = sign_checkpoint(leaves)
    text = note.parse(signed).text
    at_unix_s = time_ns(6) // 1_000_000_000
    message = note.cosignature_message(text, at_unix_s)
    blob = struct.pack(">Q", at_unix_s) + KEY.sign(message)
    line = note.signature_line(NAME, note.parse_vkey(vkey).note_key_id, blob)
    cosigned = signed + line
    path = tuple(merkle.inclusion_proof(merkle.leaf_hashes(leaves), INDEX))
    return {
        "cosigner-key": f"seed        {KEY.private_bytes_raw().hex()}\nvkey        {vkey}",
        "cosigned-message": message.decode().rstrip("\n"),
        "cosigned-checkpoint": cosigned.decode().rstrip("\n"),
        "tlog-proof": format_tlog_proof(TlogProof(INDEX, path, cosigned)).decode().rstrip("\n"),
    }
