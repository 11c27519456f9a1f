"""Signing tokens: a key in memory that signs in the name of a witness key (design §6).

A witness whose key is slow, throttled or away for a moment may have it certify a fresh key that
lives in the witness's memory. The certificate is RFC 8785 text in one line::

    {"epoch":"1","jkt":"<thumbprint of the witness key, hex>",
     "key":{"crv":"Ed25519","kty":"OKP","x":"<base64url>"},"kid":"witness-1","maxUses":"20000",
     "notAfterNs":"1763665500000000000","notBeforeNs":"1763665200000000000","purpose":"witness",
     "v":"1"}

The witness key signs the DSSE PAE of that under a type of its own. A batch signed by the key in
memory carries both, and counts::

    "token":{"cert":{...},"sig":"<hex>","use":"17"}          member of the body, before "v"

Rules, all of them for a verifier: the certificate names the kid, thumbprint and epoch of the body;
it lasts for five minutes at most, and the body's `signedAtNs` lies within; `use` is from 1 to
`maxUses`; the key in memory has the algorithm of the witness key. No two batches have the same use
of one token: whoever holds many of them can tell that a key was copied (`provledger.verify`).

Trust: a thief of the key in memory signs as the witness key, with times of these five minutes only
and uses that nobody saw yet. Left to others: whether the witness key was valid.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final, Self

from provledger import dsse, jcs
from provledger.errors import InvalidSignatureError, KeyFormatError, VerificationError
from provledger.jwk import (
    Algorithm,
    PublicKey,
    algorithm_of,
    jwk_from_public_key,
    public_key_from_jwk,
    thumbprint_of,
)
from provledger.keyset import KeyPurpose, VerificationKey
from provledger.report import Check, Finding

PAYLOAD_TYPE: Final = "application/vnd.provledger.signing-token.v1+json"
MAX_LIFETIME_NS: Final = 300 * 1_000_000_000
MAX_USES: Final = 65_536
ALGORITHMS: Final = frozenset({Algorithm.ED25519, Algorithm.ECDSA_P256, Algorithm.ECDSA_P384})
"""Of witness keys that may certify: what else there is, is too long to ride in every batch."""

_MAX_SIG_BYTES: Final = 128

_KID: Final = rb'"kid":"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"'
_KEY: Final = (
    rb'\{"crv":"Ed25519","kty":"OKP","x":"[A-Za-z0-9_-]{43}"\}'
    rb'|\{"crv":"P-256","kty":"EC","x":"[A-Za-z0-9_-]{43}","y":"[A-Za-z0-9_-]{43}"\}'
    rb'|\{"crv":"P-384","kty":"EC","x":"[A-Za-z0-9_-]{64}","y":"[A-Za-z0-9_-]{64}"\}'
)
_NUMBER: Final = rb"[1-9][0-9]{0,18}"

TOKEN_RE: Final = (
    rb'\{"cert":\{"epoch":"' + _NUMBER + rb'","jkt":"[0-9a-f]{64}","key":(?:' + _KEY + rb")"
    rb"," + _KID + rb',"maxUses":"' + _NUMBER + rb'","notAfterNs":"' + _NUMBER + rb'",'
    rb'"notBeforeNs":"' + _NUMBER + rb'","purpose":"witness","v":"1"\},'
    rb'"sig":"(?:[0-9a-f]{2}){1,%d}","use":"' % _MAX_SIG_BYTES + _NUMBER + rb'"\}'
)
"""The only spelling of a token in a batch body."""

_TOKEN: Final = re.compile(TOKEN_RE)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a witness key says of a key in memory.

    kid, thumbprint (32 bytes), epoch: the witness key.
    jwk: the key in memory, as the RFC 8785 text of the members that RFC 7638 hashes.
    not_before_ns, not_after_ns: Unix nanoseconds, both inclusive, at most five minutes apart.
    max_uses: batches it may sign.
    """

    kid: str
    thumbprint: bytes
    epoch: int
    jwk: str
    not_before_ns: int
    not_after_ns: int
    max_uses: int

    @classmethod
    def of(
        cls, public_key: PublicKey, *, kid: str, thumbprint: bytes, epoch: int, **bounds: int
    ) -> Self:
        """Make the certificate of a key in memory; nobody has signed it yet."""
        jwk = jcs.encode(jwk_from_public_key(public_key)).decode("ascii")
        return cls(kid=kid, thumbprint=thumbprint, epoch=epoch, jwk=jwk, **bounds)

    @property
    def public_key(self) -> PublicKey:
        """The key in memory; raises KeyFormatError for one that cannot be used."""
        return public_key_from_jwk(json.loads(self.jwk))

    def encode(self) -> bytes:
        """Return its RFC 8785 bytes."""
        return (
            f'{{"epoch":"{self.epoch}","jkt":"{self.thumbprint.hex()}","key":{self.jwk},'
            f'"kid":"{self.kid}","maxUses":"{self.max_uses}",'
            f'"notAfterNs":"{self.not_after_ns}","notBeforeNs":"{self.not_before_ns}",'
            f'"purpose":"{KeyPurpose.WITNESS.value}","v":"1"}}'
        ).encode("ascii")

    @property
    def pae(self) -> bytes:
        """What the witness key signs."""
        return dsse.pae(PAYLOAD_TYPE, self.encode())

    def check_bounds(self) -> None:
        """Raise KeyFormatError unless window and number of uses are within what is allowed."""
        if not 0 <= self.not_after_ns - self.not_before_ns <= MAX_LIFETIME_NS:
            raise KeyFormatError("a signing token lasts for five minutes at most")
        if not 1 <= self.max_uses <= MAX_USES:
            raise KeyFormatError(f"a signing token has at most {MAX_USES} uses")


@dataclass(frozen=True, slots=True)
class Token:
    """A certificate, the witness key's signature over it, and which use of it a batch is."""

    certificate: Certificate
    sig: bytes
    use: int

    def encode(self) -> bytes:
        """Return its RFC 8785 bytes, as they stand in a body."""
        return b'{"cert":%b,"sig":"%b","use":"%d"}' % (
            self.certificate.encode(),
            self.sig.hex().encode("ascii"),
            self.use,
        )


def parse_token(data: bytes) -> Token:
    """Read a token; raises KeyFormatError if a single byte differs from the canonical text."""
    if _TOKEN.fullmatch(data) is None:
        raise KeyFormatError("is not the canonical text of a signing token, version 1")
    value: dict[str, Any] = json.loads(data)
    cert = value["cert"]
    return Token(
        Certificate(
            kid=cert["kid"],
            thumbprint=bytes.fromhex(cert["jkt"]),
            epoch=int(cert["epoch"]),
            jwk=json.dumps(cert["key"], separators=(",", ":")),
            not_before_ns=int(cert["notBeforeNs"]),
            not_after_ns=int(cert["notAfterNs"]),
            max_uses=int(cert["maxUses"]),
        ),
        bytes.fromhex(value["sig"]),
        int(value["use"]),
    )


def verify_token(token: Token, issuer: VerificationKey, signed_at_ns: int) -> PublicKey:
    """Check that `issuer`, the key a batch names, certified the token for that batch.

    Args:
        token: From the body of the batch.
        issuer: The witness key that the body names. Whether it was valid is the caller's to ask.
        signed_at_ns: The body's own word, Unix nanoseconds.

    Returns:
        The key in memory, which must verify the batch's signature.

    Raises:
        VerificationError: naming the rule that is broken.
    """
    cert = token.certificate
    named = (cert.kid, cert.thumbprint, cert.epoch)
    if named != (issuer.kid, issuer.thumbprint, issuer.epoch):
        raise _changed(f"the signing token is of another key than {issuer.kid!r}")
    try:
        issuer.verify(token.sig, cert.pae)
    except InvalidSignatureError:
        raise _changed(f"the signing token is not certified by key {issuer.kid!r}") from None
    try:
        cert.check_bounds()
        public_key = cert.public_key
    except KeyFormatError as error:
        raise _not_valid(str(error)) from None
    if issuer.algorithm not in ALGORITHMS or algorithm_of(public_key) is not issuer.algorithm:
        raise _not_valid(
            f"the signing token of key {issuer.kid!r} is of another algorithm than that key, or "
            "of one that has no tokens"
        )
    if not cert.not_before_ns <= signed_at_ns <= cert.not_after_ns:
        raise _not_valid(
            f"the signing token of key {issuer.kid!r} was not valid: signed at {signed_at_ns} ns, "
            f"valid from {cert.not_before_ns} to {cert.not_after_ns} ns"
        )
    if not 1 <= token.use <= cert.max_uses:
        raise _not_valid(
            f"the signing token of key {issuer.kid!r} has {cert.max_uses} uses, this is {token.use}"
        )
    return public_key


class UsesSeen:
    """Which batch was which use of which token, to tell when two claim to be the same one.

    Remembers so many uses, the newest ones: batches come in the order of the chain.
    """

    def __init__(self, max_uses: int = 100_000) -> None:
        self._max_uses = max_uses
        self._seen: dict[tuple[bytes, int], bytes] = {}

    def note(self, token: Token, batch_digest: bytes) -> None:
        """Note a verified batch by the digest of its body, 32 bytes.

        Raises:
            VerificationError: another batch was the same use of the same token.
        """
        use = (thumbprint_of(token.certificate.public_key), token.use)
        if self._seen.setdefault(use, batch_digest) != batch_digest:
            raise _not_valid(
                f"two batches are use {token.use} of the same signing token of key "
                f"{token.certificate.kid!r}: its key was copied; revoke that key"
            )
        if len(self._seen) > self._max_uses:
            del self._seen[next(iter(self._seen))]


def _changed(why: str) -> VerificationError:
    return VerificationError(why, check=Check.WITNESS_SIGNATURE, finding=Finding.SIGNATURE_CHANGED)


def _not_valid(why: str) -> VerificationError:
    return VerificationError(why, check=Check.KEY_VALIDITY, finding=Finding.KEY_NOT_VALID)
