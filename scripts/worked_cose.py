"""The COSE receipt of the worked example, for seq 1 at log index 2."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from scripts.worked_base import ORIGIN

from provledger import cose_receipt, merkle
from provledger.jwk import Algorithm, thumbprint_of

KID = "receipt-1"
KEY = Ed25519PrivateKey.from_private_bytes(b"\x05" * 32)
INDEX = 2


def values(leaves: list[bytes]) -> dict[str, str]:
    """The blocks of docs/formats/cose-receipt.md; `leaves` are the leaf data of the log."""
    hashes = merkle.leaf_hashes(leaves)
    size = len(leaves)
    protected = cose_receipt.protected_header(Algorithm.ED25519, KID, ORIGIN, size)
    message = cose_receipt.signed_bytes(protected, merkle.root_of_hashes(hashes))
    path = tuple(merkle.inclusion_proof(hashes, INDEX))
    receipt = cose_receipt.encode_cose_receipt(protected, KEY.sign(message), size, INDEX, path)
    return {
        "receipt-key": (
            f"seed        {KEY.private_bytes_raw().hex()}\n"
            f"public key  {KEY.public_key().public_bytes_raw().hex()}\n"
            f"thumbprint  {thumbprint_of(KEY.public_key()).hex()}"
        ),
        "cose-protected": protected.hex(),
        "cose-signed": message.hex(),
        "cose-receipt": receipt.hex(),
    }
