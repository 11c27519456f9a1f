"""COSE receipts of inclusion (RFC 9942): the proof of one entry as the SCITT family reads it.

::

    18([                                      COSE_Sign1 (RFC 9052 §4.2), tagged
      << {1: alg,                             -8 EdDSA or -7 ES256
          4: kid,                             UTF-8
          15: {1: origin, 2: tree size},      CWT claims (RFC 9597), text: the log is the issuer
          395: 1} >>,                         verifiable data structure: RFC9162_SHA256
      {396: {-1: [<< [tree size, log index, [+ hash]] >>]}},
      nil,                                    the payload, the 32 bytes of the root, is detached
      signature ])

What is signed is the protected header and the root, so that one signature serves every entry of a
checkpoint. The tree size stands in the header too, as the subject, since RFC 9942 signs it nowhere
and trees of several sizes have paths of one shape. The root is not in the receipt: it is computed
from the entry and the path, so that a wrong one of these shows as a signature that does not verify.

The encoding is deterministic (RFC 8949 §4.2.1), and nothing else is read: a receipt has one text.
Left to others: who may sign (`provledger.kms.signing`), and where entries are.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import cbor2
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from provledger import merkle
from provledger.errors import (
    CoseReceiptError,
    InvalidProofError,
    InvalidSignatureError,
    VerificationError,
)
from provledger.hashing import HASH_BYTES
from provledger.jwk import Algorithm
from provledger.keyset import KeyPurpose, KeySet, KeyState

MAX_BYTES: Final = 16 * 1024
MAX_HASHES: Final = 63
CHECK: Final = "cose_receipt"

_TAG: Final = 18
_ALG, _KID, _CLAIMS, _VDS, _VDP, _INCLUSION = 1, 4, 15, 395, 396, -1
_ISSUER, _SUBJECT = 1, 2
_RFC9162_SHA256: Final = 1
_ALGORITHMS: Final = {Algorithm.ED25519: -8, Algorithm.ECDSA_P256: -7}
_BY_NUMBER: Final = {number: algorithm for algorithm, number in _ALGORITHMS.items()}
_P256_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class CoseReceipt:
    """A receipt as it was read, not verified.

    kid: the key that signed. origin: the log. hashes: 32 bytes each, leaf to root, at least one.
    protected: the header's bytes, as they were signed. signature: 64 bytes.
    """

    kid: str
    algorithm: Algorithm
    origin: str
    tree_size: int
    log_index: int
    hashes: tuple[bytes, ...]
    protected: bytes
    signature: bytes

    def root(self, entry: bytes) -> bytes:
        """The root, 32 bytes, that the path leads to from an entry, the leaf's data.

        Raises:
            InvalidProofError: the path is not one of that size and index.
        """
        leaf = merkle.leaf_hash(entry)
        return merkle.root_from_inclusion(self.log_index, self.tree_size, leaf, list(self.hashes))


def protected_header(algorithm: Algorithm, kid: str, origin: str, tree_size: int) -> bytes:
    """The bytes of the protected header, for receipts of one tree."""
    return _encode(
        {
            _ALG: _ALGORITHMS[algorithm],
            _KID: kid.encode(),
            _CLAIMS: {_ISSUER: origin, _SUBJECT: str(tree_size)},
            _VDS: _RFC9162_SHA256,
        }
    )


def signed_bytes(protected: bytes, root: bytes) -> bytes:
    """What is signed: the Sig_structure of RFC 9052 §4.4, with the root as payload."""
    if len(root) != HASH_BYTES:
        raise CoseReceiptError("a root has 32 bytes")
    return _encode(["Signature1", protected, b"", root])


def cose_signature(algorithm: Algorithm, signature: bytes) -> bytes:
    """A signature of ours as COSE has it: for ES256 the two numbers, not DER (RFC 9053 §2.1)."""
    if algorithm is Algorithm.ED25519:
        return signature
    r, s = decode_dss_signature(signature)
    return r.to_bytes(_P256_BYTES, "big") + s.to_bytes(_P256_BYTES, "big")


def encode_cose_receipt(
    protected: bytes, signature: bytes, tree_size: int, log_index: int, hashes: tuple[bytes, ...]
) -> bytes:
    """The bytes of a receipt.

    Raises:
        CoseReceiptError: for what `parse_cose_receipt` would refuse, such as a tree of one leaf,
            whose path is empty: RFC 9942 has no receipt for it.
    """
    proof = _encode([tree_size, log_index, list(hashes)])
    body = [protected, {_VDP: {_INCLUSION: [proof]}}, None, signature]
    data = _encode(cbor2.CBORTag(_TAG, body))
    parse_cose_receipt(data)
    return data


def parse_cose_receipt(data: bytes) -> CoseReceipt:
    """Read a receipt; raises CoseReceiptError."""
    if len(data) > MAX_BYTES:
        raise CoseReceiptError(f"longer than {MAX_BYTES} bytes")
    tagged = _decode(data, "the receipt")
    if not isinstance(tagged, cbor2.CBORTag) or tagged.tag != _TAG:
        raise CoseReceiptError("this is not a COSE_Sign1")
    protected, unprotected, payload, signature = _list(tagged.value, 4, "the COSE_Sign1")
    if payload is not None:
        raise CoseReceiptError("the payload is not detached")
    if not isinstance(signature, bytes) or len(signature) != 64:
        raise CoseReceiptError("the signature does not have 64 bytes")
    header = _map(_decode(protected, "the protected header"), {_ALG, _KID, _CLAIMS, _VDS})
    claims = _map(header[_CLAIMS], {_ISSUER, _SUBJECT})
    kid, origin = header[_KID], claims[_ISSUER]
    algorithm = _BY_NUMBER.get(_integer(header[_ALG]))
    if algorithm is None or _integer(header[_VDS]) != _RFC9162_SHA256:
        raise CoseReceiptError("the algorithm, or the tree, is not one we know")
    if not isinstance(kid, bytes) or not isinstance(origin, str) or not origin:
        raise CoseReceiptError("kid or issuer is not of its type")
    proofs = _map(_map(unprotected, {_VDP})[_VDP], {_INCLUSION})[_INCLUSION]
    (proof,) = _list(proofs, 1, "the list of proofs")
    size, index, path = _list(_decode(proof, "the proof"), 3, "the proof")
    if not isinstance(path, list | tuple) or not 1 <= len(path) <= MAX_HASHES:
        raise CoseReceiptError(f"the path does not have 1 to {MAX_HASHES} hashes")
    if any(not isinstance(item, bytes) or len(item) != HASH_BYTES for item in path):
        raise CoseReceiptError("a hash of the path does not have 32 bytes")
    if not 0 <= _integer(index) < _integer(size) < 2**63:
        raise CoseReceiptError("the index is not below the tree size")
    if claims[_SUBJECT] != str(size):
        raise CoseReceiptError("the tree size is not the one that was signed")
    try:
        name = kid.decode()
    except UnicodeDecodeError:
        raise CoseReceiptError("the kid is not text") from None
    return CoseReceipt(name, algorithm, origin, size, index, tuple(path), protected, signature)


def verify_cose_receipt(
    data: bytes, entry: bytes, keys: KeySet, *, origin: str | None = None
) -> CoseReceipt:
    """Verify that an entry is in the log, by a receipt; what it says.

    entry: the leaf's data. origin: the log that it must be, if that is known.

    Raises:
        CoseReceiptError: it cannot be read.
        VerificationError: it does not hold, for this entry, under these keys.
    """
    receipt = parse_cose_receipt(data)
    if origin is not None and receipt.origin != origin:
        raise VerificationError("the receipt is of another log", check=CHECK)
    key = keys.find(purpose=KeyPurpose.RECEIPT, kid=receipt.kid, check=CHECK)
    if key.algorithm is not receipt.algorithm:
        raise VerificationError("the key is of another algorithm", check=CHECK)
    if key.state is KeyState.REVOKED:
        # There is no time in a receipt, so that nobody can say it came before.
        raise VerificationError(f"key {receipt.kid!r} was revoked", check=CHECK)
    try:
        root = receipt.root(entry)
    except InvalidProofError as error:
        raise VerificationError(str(error), check=CHECK) from error
    signature = receipt.signature
    if receipt.algorithm is Algorithm.ECDSA_P256:
        r, s = signature[:_P256_BYTES], signature[_P256_BYTES:]
        signature = encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))
    try:
        key.verify(signature, signed_bytes(receipt.protected, root))
    except InvalidSignatureError as error:
        message = f"{error.message}: it was made for another entry, or was changed"
        raise InvalidSignatureError(message, check=CHECK) from error
    return receipt


def _encode(value: Any) -> bytes:
    return bytes(cbor2.dumps(value, canonical=True))


def _decode(data: Any, what: str) -> Any:
    """The one item in some bytes; raises CoseReceiptError if there is more, or another spelling."""
    if not isinstance(data, bytes):
        raise CoseReceiptError(f"{what} is not a byte string")
    stream = io.BytesIO(data)
    try:
        value = cbor2.CBORDecoder(stream).decode()
        canonical = _encode(value)
    except (cbor2.CBORError, ValueError, TypeError, RecursionError, OverflowError, MemoryError):
        raise CoseReceiptError(f"{what} is not CBOR") from None
    if canonical != data:
        raise CoseReceiptError(f"{what} is not in its deterministic encoding")
    return value


def _list(value: Any, length: int, what: str) -> Sequence[Any]:
    # What is inside of a tag comes as tuples and frozen maps.
    if not isinstance(value, list | tuple) or len(value) != length:
        raise CoseReceiptError(f"{what} does not have {length} items")
    return value


def _map(value: Any, members: set[int]) -> Mapping[int, Any]:
    plain = isinstance(value, Mapping) and all(type(member) is int for member in value)
    if not plain or set(value) != members:
        raise CoseReceiptError(f"a map does not have the members {sorted(members)}")
    found: Mapping[int, Any] = value
    return found


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise CoseReceiptError("a number is not an integer")
    return value
