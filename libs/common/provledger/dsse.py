"""DSSE v1.0.2: the bytes that are signed, and the envelope around them.

::

    PAE(type, body) = "DSSEv1" SP LEN(type) SP type SP LEN(body) SP body   LEN = decimal bytes
    envelope        = {"payload": base64, "payloadType": text,
                       "signatures": [{"keyid": text, "sig": base64}, ...]}

Signing and verifying are elsewhere. A verifier checks the PAE first, then the payload type, and
then reads the payload of the very envelope it verified. `keyid` is a hint and never trusted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from provledger import _base64, jcs
from provledger.errors import EnvelopeError, InvalidJSONError

MAX_SIGNATURES = 100
"""Most signatures that an envelope may carry."""

# Deep inside of unknown members we look at nothing, but strict JSON still has its limits.
_MAX_FIELDS = 10_000


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature over the PAE: `keyid` (may be empty; a hint) and the raw bytes."""

    keyid: str
    sig: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """A decoded envelope. Nothing in it is verified."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]

    @property
    def pae(self) -> bytes:
        """What each signature signs."""
        return pae(self.payload_type, self.payload)


def pae(payload_type: str, body: bytes) -> bytes:
    """Pre-authentication encoding of `body`, with `payload_type` in UTF-8."""
    try:
        kind = payload_type.encode("utf-8")
    except UnicodeEncodeError:
        raise EnvelopeError("payload type holds a lone surrogate") from None
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(body), body)


def encode(envelope: Envelope) -> bytes:
    """The envelope as canonical JSON, base64 in the standard alphabet."""
    try:
        return jcs.encode(
            {
                "payload": _base64.encode(envelope.payload),
                "payloadType": envelope.payload_type,
                "signatures": [
                    {"keyid": signature.keyid, "sig": _base64.encode(signature.sig)}
                    for signature in envelope.signatures
                ],
            }
        )
    except InvalidJSONError as error:
        raise EnvelopeError(f"envelope cannot be written: {error}") from error


def decode(data: bytes) -> Envelope:
    """Read an envelope from strict JSON.

    Either base64 alphabet will do, unknown members are ignored and a missing keyid is empty.
    Raises EnvelopeError for anything else that breaks the form, an envelope without signatures
    included.
    """
    try:
        document = jcs.parse(data, max_fields=_MAX_FIELDS)
    except InvalidJSONError as error:
        raise EnvelopeError(f"envelope is not strict JSON: {error}") from error
    if not isinstance(document, dict):
        raise EnvelopeError("envelope is not a JSON object")
    payload_type = document.get("payloadType")
    if not isinstance(payload_type, str):
        raise EnvelopeError("payloadType is missing or no string")
    listed = document.get("signatures")
    if not isinstance(listed, list) or not 1 <= len(listed) <= MAX_SIGNATURES:
        raise EnvelopeError(f"signatures must be a list of 1 to {MAX_SIGNATURES}")
    return Envelope(
        payload_type=payload_type,
        payload=_bytes(document, "payload"),
        signatures=tuple(_signature(item) for item in listed),
    )


def _signature(item: Any) -> Signature:
    if not isinstance(item, dict):
        raise EnvelopeError("a signature is not a JSON object")
    keyid = item.get("keyid", "")
    if keyid is None:
        keyid = ""
    if not isinstance(keyid, str):
        raise EnvelopeError("keyid is no string")
    return Signature(keyid=keyid, sig=_bytes(item, "sig"))


def _bytes(document: dict[str, Any], name: str) -> bytes:
    text = document.get(name)
    data = _base64.decode_either(text) if isinstance(text, str) else None
    if data is None:
        raise EnvelopeError(f"{name} is missing or not base64")
    return data
