"""Key events: what happens to an installation's keys, in bytes that are endorsed (design §6).

An event is RFC 8785 text; binary is lower-case hex, integers are decimal strings
(docs/formats/key-events.md)::

    {"v":"1","event":"key.genesis","atNs":N,
     "keys":[{"kid","purpose","uri","jwk","jkt","epoch":"1","notBeforeNs":N}, ...],
     "recovery":{"kid","jwk","jkt"}}
    {"v":"1","event":"key.created","genesis":H,"atNs":N,"kid","purpose","uri","jwk","jkt"}
    {"v":"1","event":"key.rotated","genesis":H,"atNs":N,"kid","purpose","jkt","epoch":E,
     "notBeforeNs":N,"previous":{"kid","jkt"}, "sizes":[{"origin","size"}]}
    {"v":"1","event":"key.retired","genesis":H,"atNs":N,"kid","purpose","jkt","notAfterNs":N,
     "sizes":[...]}
    {"v":"1","event":"key.revoked","genesis":H,"atNs":N,"kid","purpose","jkt","reason",
     "after":[{"origin","size","root"}]}

`genesis` is the SHA-256 of the genesis event, so that no event of one installation stands in
another. Each event is endorsed: signatures over one of two DSSE PAEs, of the event's bytes or of
their SHA-256 (32 bytes), where a key's provider does not take the whole::

    PAE("application/vnd.provledger.key-event.v1+json", event)
    PAE("application/vnd.provledger.key-event-sha256.v1", SHA-256(event))

Which events make a history is `provledger.key_history`'s to say.

Pure: no I/O, no clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from provledger import dsse, jcs, names
from provledger.errors import (
    InputError,
    InvalidJSONError,
    InvalidSignatureError,
    KeyFormatError,
)
from provledger.jwk import (
    PublicKey,
    jwk_from_public_key,
    public_key_from_jwk,
    thumbprint,
    verify_signature,
)
from provledger.keyset import (
    MAX_REASON_BYTES,
    CoveredCheckpoint,
    KeyPurpose,
)

PAYLOAD_TYPE: Final = "application/vnd.provledger.key-event.v1+json"
DIGEST_PAYLOAD_TYPE: Final = "application/vnd.provledger.key-event-sha256.v1"
TENANT: Final = "system"
LEDGER: Final = "keys"
LEDGER_NAME: Final = f"tenants/{TENANT}/ledgers/{LEDGER}"
CHECK: Final = "key_ledger"

MAX_EVENT_BYTES: Final = 256 * 1024
"""A checkpoint key begins and ends with the size of each log: room for the thousand and one that an
anchor has at most."""
_INT64_MAX: Final = 2**63 - 1


class EventType(StrEnum):
    """What happened. The text is the receipt type in the key ledger, too."""

    GENESIS = "key.genesis"
    CREATED = "key.created"
    ROTATED = "key.rotated"
    RETIRED = "key.retired"
    REVOKED = "key.revoked"


@dataclass(frozen=True, slots=True)
class KeyRef:
    """A key by name and by what it is. `thumbprint` is RFC 7638, 32 bytes."""

    kid: str
    thumbprint: bytes

    def to_json(self) -> dict[str, Any]:
        """Its members."""
        return {"kid": self.kid, "jkt": self.thumbprint.hex()}


@dataclass(frozen=True, slots=True)
class FirstKey:
    """A key that a genesis names. `jwk` holds the members RFC 7638 hashes."""

    kid: str
    purpose: str
    uri: str
    jwk: Mapping[str, str] = field(hash=False)
    thumbprint: bytes
    not_before_ns: int

    def to_json(self) -> dict[str, Any]:
        """Its members."""
        return {
            "kid": self.kid,
            "purpose": self.purpose,
            "uri": self.uri,
            "jwk": dict(self.jwk),
            "jkt": self.thumbprint.hex(),
            "epoch": "1",
            "notBeforeNs": str(self.not_before_ns),
        }


@dataclass(frozen=True, slots=True)
class LogSize:
    """A tree size of a log."""

    origin: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyEvent:
    """One event; members that its type does not have keep their defaults. Times: Unix ns."""

    event: EventType
    at_ns: int
    kid: str
    thumbprint: bytes
    purpose: str = ""
    genesis: bytes = b""
    uri: str = ""
    jwk: Mapping[str, str] = field(default_factory=dict, hash=False)
    epoch: int = 0
    not_before_ns: int = 0
    not_after_ns: int = 0
    previous: KeyRef | None = None
    sizes: tuple[LogSize, ...] = ()
    reason: str = ""
    after: tuple[CoveredCheckpoint, ...] = ()
    first_keys: tuple[FirstKey, ...] = ()
    # Its digest once it was asked for: journals are looked through by it, again and again.
    _digest: list[bytes] = field(default_factory=list, init=False, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """The event as a JSON value. Of a genesis, kid, jkt and jwk are the recovery key's."""
        value: dict[str, Any] = {"v": "1", "event": self.event.value, "atNs": str(self.at_ns)}
        if self.event is EventType.GENESIS:
            value["keys"] = [key.to_json() for key in self.first_keys]
            recovery = {"kid": self.kid, "jkt": self.thumbprint.hex(), "jwk": dict(self.jwk)}
            return {**value, "recovery": recovery}
        value |= {
            "genesis": self.genesis.hex(),
            "kid": self.kid,
            "jkt": self.thumbprint.hex(),
            "purpose": self.purpose,
        }
        if self.event is EventType.CREATED:
            value |= {"uri": self.uri, "jwk": dict(self.jwk)}
        if self.event is EventType.ROTATED:
            value |= {"epoch": str(self.epoch), "notBeforeNs": str(self.not_before_ns)}
            if self.previous is not None:
                value["previous"] = self.previous.to_json()
        if self.event is EventType.RETIRED:
            value["notAfterNs"] = str(self.not_after_ns)
        if self.event in (EventType.ROTATED, EventType.RETIRED):
            value["sizes"] = [
                {"origin": each.origin, "size": str(each.size)} for each in self.sizes
            ]
        if self.event is EventType.REVOKED:
            value["reason"] = self.reason
            value["after"] = [
                {"origin": each.origin, "size": str(each.size), "root": each.root.hex()}
                for each in self.after
            ]
        return value

    def encode(self) -> bytes:
        """The bytes that are endorsed, RFC 8785."""
        return jcs.encode(self.to_json())

    def digest(self) -> bytes:
        """SHA-256 of the bytes: 32 bytes, by which an event is named."""
        if not self._digest:
            self._digest.append(hashlib.sha256(self.encode()).digest())
        return self._digest[0]


@dataclass(frozen=True, slots=True)
class Endorsement:
    """A signature over the PAE of an event or of its digest, and whose it is."""

    kid: str
    thumbprint: bytes
    sig: bytes

    def to_json(self) -> dict[str, Any]:
        """Its members."""
        return {"kid": self.kid, "jkt": self.thumbprint.hex(), "sig": self.sig.hex()}


@dataclass(frozen=True, slots=True)
class SignedEvent:
    """An event with its endorsements: the payload of one receipt of the key ledger."""

    event: KeyEvent
    endorsements: tuple[Endorsement, ...] = ()

    def encode(self) -> bytes:
        """The payload's bytes, RFC 8785."""
        return jcs.encode(
            {
                "event": self.event.to_json(),
                "endorsements": [each.to_json() for each in self.endorsements],
            }
        )

    def with_endorsements(self, more: Iterable[Endorsement]) -> SignedEvent:
        """The same event with more endorsements; one for each key, the first one stays."""
        known = {each.thumbprint: each for each in self.endorsements}
        for each in more:
            known.setdefault(each.thumbprint, each)
        return replace(self, endorsements=tuple(known.values()))


def whole_pae(body: bytes) -> bytes:
    """What an endorsement of the event of these bytes signs."""
    return dsse.pae(PAYLOAD_TYPE, body)


def digest_pae(body: bytes) -> bytes:
    """What it signs where the whole is too long for the key's provider: always as short."""
    return dsse.pae(DIGEST_PAYLOAD_TYPE, hashlib.sha256(body).digest())


def verify_endorsement(public_key: PublicKey, sig: bytes, body: bytes) -> None:
    """Verify an endorsement of the event of these bytes; raises InvalidSignatureError.

    Either form holds, whatever the length: verifiers need not know what a provider takes.
    """
    try:
        verify_signature(public_key, sig, whole_pae(body))
    except InvalidSignatureError:
        verify_signature(public_key, sig, digest_pae(body))


def parse_event(value: Any) -> KeyEvent:
    """Read an event from its JSON value; raises KeyFormatError. It must be in canonical form."""
    try:
        event = _read_event(value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise KeyFormatError(
            f"the key event has a member that is not of its form: {error}"
        ) from None
    except KeyFormatError:
        raise
    except InputError as error:
        raise KeyFormatError(f"the key event: {error}") from None
    if event.to_json() != value:
        raise KeyFormatError("the key event has other members, or is not in its canonical form")
    return event


def request_id(digest: bytes) -> str:
    """The request id of an event's receipt, from its SHA-256: so no event is recorded twice."""
    return f"key-event-{digest.hex()}"


def parse_signed(data: bytes) -> SignedEvent:
    """Read the payload of a receipt of the key ledger; raises KeyFormatError."""
    if len(data) > MAX_EVENT_BYTES:
        raise KeyFormatError(f"a key event has at most {MAX_EVENT_BYTES} bytes")
    try:
        value = jcs.parse(data)
    except InvalidJSONError as error:
        raise KeyFormatError(f"the key event is not strict JSON: {error}") from None
    if not isinstance(value, dict) or value.keys() != {"event", "endorsements"}:
        raise KeyFormatError("a signed key event has the members event and endorsements")
    event = parse_event(value["event"])
    try:
        endorsements = tuple(
            Endorsement(names.check_kid(e["kid"]), _hex(e["jkt"], 32), bytes.fromhex(e["sig"]))
            for e in value["endorsements"]
        )
    except (KeyError, TypeError, ValueError, InputError):
        raise KeyFormatError("an endorsement is not of its form") from None
    signed = SignedEvent(event, endorsements)
    if signed.encode() != data:
        raise KeyFormatError("the signed key event is not in its canonical form")
    return signed


def _read_event(value: Mapping[str, Any]) -> KeyEvent:
    if value["v"] != "1":
        raise KeyFormatError("this version of key events is not known")
    kind = EventType(value["event"])
    at_ns = _int(value["atNs"])
    if kind is EventType.GENESIS:
        recovery = value["recovery"]
        return KeyEvent(
            event=kind,
            at_ns=at_ns,
            kid=names.check_kid(recovery["kid"]),
            jwk=_jwk(recovery["jwk"], recovery["jkt"]),
            thumbprint=_hex(recovery["jkt"], 32),
            first_keys=tuple(_first_key(each) for each in value["keys"]),
        )
    previous = value.get("previous")
    event = KeyEvent(
        event=kind,
        at_ns=at_ns,
        genesis=_hex(value["genesis"], 32),
        kid=names.check_kid(value["kid"]),
        thumbprint=_hex(value["jkt"], 32),
        purpose=KeyPurpose(value["purpose"]).value,
        uri=_string(value.get("uri", "")),
        jwk=_jwk(value["jwk"], value["jkt"]) if "jwk" in value else {},
        epoch=_int(value.get("epoch", "0")),
        not_before_ns=_int(value.get("notBeforeNs", "0")),
        not_after_ns=_int(value.get("notAfterNs", "0")),
        previous=None
        if previous is None
        else KeyRef(names.check_kid(previous["kid"]), _hex(previous["jkt"], 32)),
        sizes=tuple(LogSize(_text(e["origin"]), _int(e["size"])) for e in value.get("sizes", ())),
        reason=_string(value.get("reason", "")),
        after=tuple(
            CoveredCheckpoint(_text(e["origin"]), _int(e["size"]), _hex(e["root"], 32))
            for e in value.get("after", ())
        ),
    )
    if (kind is EventType.CREATED) != bool(event.jwk):
        raise KeyFormatError("a created key, and no other event but the genesis, names a jwk")
    # The first key of a purpose that the genesis does not name replaces none.
    replaces = kind is EventType.ROTATED and event.epoch != 1
    if replaces != (event.previous is not None):
        raise KeyFormatError("a rotation from epoch 2 on, and nothing else, names the previous key")
    if event.reason:
        names.check_text(event.reason, "reason", max_bytes=MAX_REASON_BYTES)
    return event


def _first_key(value: Mapping[str, Any]) -> FirstKey:
    return FirstKey(
        kid=names.check_kid(value["kid"]),
        purpose=KeyPurpose(value["purpose"]).value,
        uri=_text(value["uri"]),
        jwk=_jwk(value["jwk"], value["jkt"]),
        thumbprint=_hex(value["jkt"], 32),
        not_before_ns=_int(value["notBeforeNs"]),
    )


def _jwk(value: Mapping[str, Any], jkt: str) -> dict[str, str]:
    jwk = jwk_from_public_key(public_key_from_jwk(value))
    if jwk != value or thumbprint(jwk).hex() != jkt:
        raise KeyFormatError("a jwk is not the one its thumbprint names")
    return jwk


def _int(text: str) -> int:
    number = int(text)
    if str(number) != text or not 0 <= number <= _INT64_MAX:
        raise ValueError("not a canonical decimal")
    return number


def _hex(text: str, length: int) -> bytes:
    raw = bytes.fromhex(text)
    if len(raw) != length or raw.hex() != text:
        raise ValueError("not lower-case hex of the right length")
    return raw


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _text(value: Any) -> str:
    return names.check_text(value, "text", max_bytes=1024)
