"""Timestamp tokens over checkpoints (RFC 3161), asked for and verified.

What is stamped is the note with exactly one signature line, the log's::

    message = checkpoint body || LF || the log's signature line       (`imprint_message`)
    imprint = SHA-256(message)

so that it does not change when cosignatures arrive. Evidence of kind `rfc3161` is JCS::

    {"alg": "sha256", "chain": [DER as hex, ...], "imprint": hex, "nonce": decimal,
     "response": the whole TimeStampResp as hex DER, "v": "1"}

`verify_token` asks for the certificate of the authority itself, not only for a root: in
`rfc3161-client` up to 1.0.8 an answer could bring its own root. Not checked: revocation. Needs the
extra `timestamp`, for whose want MissingExtraError is raised; there is no I/O here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from provledger import jcs, note
from provledger.errors import (
    InputError,
    InvalidJSONError,
    KeyFormatError,
    MissingExtraError,
    VerificationError,
)

KIND: Final = "rfc3161"
MAX_RESPONSE_BYTES: Final = 24 * 1024
_SHA256: Final = x509.ObjectIdentifier("2.16.840.1.101.3.4.2.1")
_PANIC: Final = "PanicException"
_MEMBERS: Final = {"v", "alg", "imprint", "nonce", "response", "chain"}
_HEX: Final = re.compile(r"(?:[0-9a-f]{2})*")
_NONCE: Final = re.compile(r"0|[1-9][0-9]{0,77}")
"""Up to 256 bits; ours have 64."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A timestamp authority that is trusted: its own certificate, and the chain above it."""

    certificate: x509.Certificate
    roots: tuple[x509.Certificate, ...]
    intermediates: tuple[x509.Certificate, ...] = ()

    @classmethod
    def from_pem(cls, certificate: bytes, chain: bytes) -> Authority:
        """From PEM texts: the authority's certificate, and those above it up to a root.

        Raises:
            KeyFormatError: they cannot be read, or no root is among them.
        """
        try:
            (own,) = x509.load_pem_x509_certificates(certificate)
            above = [item for item in x509.load_pem_x509_certificates(chain) if item != own]
        except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
            raise KeyFormatError("a timestamp authority's certificate cannot be read") from error
        roots = tuple(item for item in above if item.issuer == item.subject)
        if not roots:
            raise KeyFormatError("the authority's chain has no root that signed itself")
        return cls(own, roots, tuple(item for item in above if item not in roots))

    @property
    def public_key(self) -> bytes:
        """SubjectPublicKeyInfo, DER: what tells authorities apart, whatever certificates say."""
        return self.certificate.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )


@dataclass(frozen=True, slots=True)
class Stamp:
    """A token that was verified: the time in it, with its zone, and whose it is."""

    time: datetime
    authority: Authority


@dataclass(frozen=True, slots=True)
class Request:
    """A request to send, DER, and the nonce that the answer must repeat."""

    der: bytes
    nonce: int
    message: bytes


@dataclass(frozen=True, slots=True)
class Token:
    """Evidence as it was read; nothing in it is verified."""

    imprint: bytes
    nonce: int
    response: bytes


def imprint_message(signed: bytes, origin: str) -> bytes:
    """The note with the log's own line alone; raises NoteError if it has none."""
    parsed = note.parse(signed)
    for line in parsed.signatures:
        if line.name == origin:
            own = note.signature_line(line.name, line.note_key_id, line.signature)
            return note.format_note(parsed.text, [own])
    raise InputError("the note has no signature line of its log")


def build_request(message: bytes) -> Request:
    """A request for `message`, with a fresh nonce, that asks for the certificates too."""
    client = _client()
    made = (
        client.TimestampRequestBuilder()
        .data(message)
        .hash_algorithm(client.HashAlgorithm.SHA256)
        .build()
    )
    return Request(made.as_bytes(), int(made.nonce), message)


def verify_token(
    response: bytes, message: bytes, authority: Authority, nonce: int | None
) -> datetime:
    """Check a TimeStampResp over `message`; returns the time in it, with its zone.

    Raises:
        VerificationError: whatever does not hold.
    """
    client = _client()
    if len(response) > MAX_RESPONSE_BYTES:
        raise VerificationError("the timestamp response is too long")
    try:
        decoded = client.decode_timestamp_response(response)
        info = decoded.tst_info
        imprint = info.message_imprint
        # Ours to check: the library takes whatever algorithm the token names.
        if imprint.hash_algorithm != _SHA256:
            raise VerificationError("the token's imprint is not by SHA-256")
        if bytes(imprint.message) != hashlib.sha256(message).digest():
            raise VerificationError("the token is for something else")
        builder = client.VerifierBuilder(
            tsa_certificate=authority.certificate,
            roots=list(authority.roots),
            intermediates=list(authority.intermediates),
            nonce=nonce,
        )
        builder.build().verify(decoded, hashlib.sha256(message).digest())
        _check_usage(authority.certificate)
        time: datetime = info.gen_time
    except client.VerificationError as error:
        raise VerificationError(f"the timestamp does not verify: {error}") from error
    except VerificationError:
        raise
    except BaseException as error:
        # Not only ValueError: what is wrong with a certificate is `InvalidVersion` and others that
        # have nothing but Exception in common, and a panic of the client (pyo3) not even that.
        if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
            raise
        raise VerificationError("the timestamp response cannot be read") from error
    return time


def encode_evidence(request: Request, response: bytes, authority: Authority) -> bytes:
    """Evidence of kind `rfc3161`."""
    chain = [authority.certificate, *authority.intermediates, *authority.roots]
    return jcs.encode(
        {
            "v": "1",
            "alg": "sha256",
            "imprint": hashlib.sha256(request.message).hexdigest(),
            "nonce": str(request.nonce),
            "response": response.hex(),
            "chain": [item.public_bytes(Encoding.DER).hex() for item in chain],
        }
    )


def parse_evidence(data: bytes) -> Token:
    """Read evidence of kind `rfc3161`; raises VerificationError. Its chain is not used: an
    authority is trusted by what the verifier brings."""
    try:
        value: Any = jcs.parse(data)
    except InvalidJSONError as error:
        raise VerificationError("timestamp evidence cannot be read") from error
    if not isinstance(value, dict) or value.keys() != _MEMBERS or jcs.encode(value) != data:
        raise VerificationError("timestamp evidence has other members, or is not canonical")
    if value["v"] != "1" or value["alg"] != "sha256":
        raise VerificationError("timestamp evidence is of an unknown version or algorithm")
    chain, nonce = value["chain"], value["nonce"]
    # int() and bytes.fromhex() take spaces, and int() signs, underscores and numbers as well.
    if not isinstance(chain, list) or not all(
        type(text) is str and _HEX.fullmatch(text)
        for text in (value["imprint"], value["response"], *chain)
    ):
        raise VerificationError("timestamp evidence holds what is not lower-case hex")
    if type(nonce) is not str or not _NONCE.fullmatch(nonce):
        raise VerificationError("timestamp evidence has a nonce that is not decimal")
    return Token(bytes.fromhex(value["imprint"]), int(nonce), bytes.fromhex(value["response"]))


def check_evidence(
    data: bytes, signed: bytes, origin: str, authorities: Sequence[Authority]
) -> Stamp | None:
    """Check evidence over a checkpoint; None if no authority is given to check it by.

    Raises:
        VerificationError: it is for another checkpoint, or by none of the authorities.
    """
    token = parse_evidence(data)
    message = imprint_message(signed, origin)
    if token.imprint != hashlib.sha256(message).digest():
        raise VerificationError("a timestamp is for another checkpoint")
    problem: VerificationError | None = None
    for authority in authorities:
        try:
            time = verify_token(token.response, message, authority, token.nonce)
            return Stamp(time, authority)
        except VerificationError as error:
            problem = error
    if problem is not None:
        raise problem
    return None


def _check_usage(certificate: x509.Certificate) -> None:
    # RFC 3161 §2.3: the one purpose of the key.
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    if list(usage) != [ExtendedKeyUsageOID.TIME_STAMPING]:
        raise VerificationError("the authority's certificate is for more than timestamps")


def _client() -> Any:
    try:
        import rfc3161_client
    except ImportError as error:
        # No VerificationError: nothing was found out about any token.
        raise MissingExtraError(
            "timestamps cannot be checked: install the extra, provledger[timestamp]"
        ) from error
    return rfc3161_client
