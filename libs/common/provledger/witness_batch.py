"""Witness batches: one signature over a Merkle tree of statements (design §4).

The leaves are the statements, each behind a context of its own, hashed with the suite's `H` in the
shape of RFC 9162 §2.1.1::

    leaf hash = H(0x00 || "provledger/statement/v1\\n" || statement bytes)

Signed is the DSSE PAE (see `provledger.dsse`) of this RFC 8785 text, in one line::

    {"epoch":"1","jkt":"<RFC 7638 thumbprint hex>","kid":"witness-1","root":"<hex>",
     "signedAtNs":"1763665200000000000","size":"500","suite":"blake3","token":{...},"v":"1"}

    signature digest = H("provledger/signature/v1\\n" || u32 len(PAE) || PAE || signature)

`token` is there only where the signature is by a key in memory that the named key certified
(`provledger.signing_token`). A batch of one statement is the plain case. `check_signature` asks
whether the key signed, `check_times` whether it was valid when it did; what a revocation leaves of
it is asked elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from provledger import dsse, merkle
from provledger.errors import InvalidSignatureError, ReceiptFormatError, VerificationError
from provledger.hashing import suite as get_suite
from provledger.jwk import verify_signature
from provledger.keyset import VerificationKey
from provledger.report import Check, Finding
from provledger.signing_token import TOKEN_RE, Token, parse_token, verify_token

PAYLOAD_TYPE = "application/vnd.provledger.witness-batch.v1+json"
STATEMENT_CONTEXT = b"provledger/statement/v1\n"
SIGNATURE_CONTEXT = b"provledger/signature/v1\n"
MAX_BODY_BYTES = 1024
MAX_BODY_WITH_TOKEN_BYTES = 2048

_LEAF_PREFIX = b"\x00" + STATEMENT_CONTEXT
_BODY_RE = re.compile(
    rb'\{"epoch":"([1-9][0-9]{0,18})","jkt":"([0-9a-f]{64})",'
    rb'"kid":"([A-Za-z0-9][A-Za-z0-9._-]{0,62})","root":"([0-9a-f]{64})",'
    rb'"signedAtNs":"([1-9][0-9]{0,18})","size":"([1-9][0-9]{0,9})",'
    rb'"suite":"(blake3|blake3-all|fips)",(?:"token":(' + TOKEN_RE + rb'),)?"v":"1"\}'
)


@dataclass(frozen=True, slots=True)
class WitnessBatch:
    """What a witness signs. `root` and `thumbprint` are 32 bytes; `size` counts statements.

    `kid`, `thumbprint` and `epoch` are those of the witness key, also where `token` is there.
    """

    suite: str
    root: bytes
    size: int
    kid: str
    thumbprint: bytes
    epoch: int
    signed_at_ns: int
    token: Token | None = None

    def encode(self) -> bytes:
        """Return the body bytes."""
        token = "" if self.token is None else f'"token":{self.token.encode().decode("ascii")},'
        return (
            f'{{"epoch":"{self.epoch}","jkt":"{self.thumbprint.hex()}","kid":"{self.kid}",'
            f'"root":"{self.root.hex()}","signedAtNs":"{self.signed_at_ns}",'
            f'"size":"{self.size}","suite":"{self.suite}",{token}"v":"1"}}'
        ).encode("ascii")


def parse_body(data: bytes) -> WitnessBatch:
    """Read the body of a witness batch.

    Raises:
        ReceiptFormatError: if a single byte differs from the canonical text.
    """
    match = _BODY_RE.fullmatch(data)
    if match is None:
        raise ReceiptFormatError(
            "signature.body", "is not the canonical text of a witness batch, version 1"
        )
    epoch, thumbprint, kid, root, signed_at_ns, size, suite, token = match.groups()
    return WitnessBatch(
        suite=suite.decode(),
        root=bytes.fromhex(root.decode()),
        size=int(size),
        kid=kid.decode(),
        thumbprint=bytes.fromhex(thumbprint.decode()),
        epoch=int(epoch),
        signed_at_ns=int(signed_at_ns),
        token=None if token is None else parse_token(token),
    )


def statement_leaf_hash(suite: str, statement: bytes) -> bytes:
    """Return the 32-byte leaf hash of a statement."""
    return get_suite(suite).H(_LEAF_PREFIX + statement)


def batch_root(suite: str, leaf_hashes: list[bytes]) -> bytes:
    """Return the 32-byte root over statement leaf hashes."""
    return merkle.root_of_hashes(leaf_hashes, hasher=get_suite(suite).H)


def verify_batch_path(
    suite: str, batch: WitnessBatch, index: int, leaf_hash: bytes, path: Sequence[bytes]
) -> None:
    """Check that a statement is in a batch.

    Raises:
        InvalidProofError: if the path does not lead from the leaf to the signed root.
    """
    merkle.verify_inclusion(
        index, batch.size, leaf_hash, path, batch.root, hasher=get_suite(suite).H
    )


def check_signature(batch: WitnessBatch, pae: bytes, sig: bytes, key: VerificationKey) -> None:
    """Check that the key that a batch names, or a token that it certified, signed the batch.

    Args:
        batch: As `parse_body` gives it.
        pae: What is signed: the DSSE PAE of `PAYLOAD_TYPE` and the body.
        sig: The signature.
        key: The one that `batch` names by kid, thumbprint and epoch.

    Raises:
        VerificationError: SIGNATURE_CHANGED; or naming the rule that the token breaks.
    """
    try:
        if batch.token is None:
            key.verify(sig, pae)
        else:
            verify_signature(verify_token(batch.token, key, batch.signed_at_ns), sig, pae)
    except InvalidSignatureError as error:
        raise VerificationError(
            error.message, check=Check.WITNESS_SIGNATURE, finding=Finding.SIGNATURE_CHANGED
        ) from error


def check_times(batch: WitnessBatch, key: VerificationKey) -> None:
    """Check that the key was valid when it signed, and when it certified a signing token.

    Raises:
        VerificationError: KEY_NOT_VALID.
    """
    times_ns = [batch.signed_at_ns]
    if batch.token is not None:
        times_ns.append(batch.token.certificate.not_before_ns)
    try:
        for time_ns in times_ns:
            key.check_valid_at(time_ns, check=Check.KEY_VALIDITY)
    except VerificationError as error:
        error.finding = Finding.KEY_NOT_VALID
        raise


def signature_digest(suite: str, body: bytes, sig: bytes) -> bytes:
    """Return the 32-byte digest by which entries bind the witness's signature."""
    return digest_of_signed(suite, dsse.pae(PAYLOAD_TYPE, body), sig)


def digest_of_signed(suite: str, pae: bytes, sig: bytes) -> bytes:
    """Return the same digest, given the bytes that were signed."""
    return get_suite(suite).H(SIGNATURE_CONTEXT + len(pae).to_bytes(4, "big") + pae + sig)
