"""Reading a statement quickly: read by its types, written again, and compared.

The members stand below in the order of canonical text. msgspec writes strings as RFC 8785 does, so
that what comes out as it went in has no second spelling, and no member that is unknown or there
twice. What writing would not show is looked at here. Any other text is for the reader in
`provledger.statement`, which draws the format and says what is wrong.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "urn:provledger:statement:v1"

_MAX_DIGITS: Final = 19
_HASH_CHARS: Final = 64
_UID_CHARS: Final = 32
# Beside the digest, of which there is one: uid and salt.
_HEX_CHARS: Final = _HASH_CHARS + 2 * _UID_CHARS


class Actor(msgspec.Struct, gc=False):
    """Who did it."""

    id: str
    type: str | UnsetType = UNSET


class Check(msgspec.Struct, gc=False):
    """A check of the witness's."""

    name: str
    result: str
    version: str


class Origin(msgspec.Struct, gc=False):
    """Where it came from; never empty."""

    service: str | UnsetType = UNSET
    trace_id: str | UnsetType = msgspec.field(name="traceId", default=UNSET)
    upstream: tuple[str, ...] | UnsetType = UNSET


class Predicate(msgspec.Struct, gc=False, kw_only=True):
    """What happened."""

    action: str | UnsetType = UNSET
    actor: Actor
    checks: tuple[Check, ...]
    profile: str = msgspec.field(name="commitmentProfile")
    ledger: str
    ledger_uid: str = msgspec.field(name="ledgerUid")
    media_type: str = msgspec.field(name="mediaType")
    occurred_at: str | UnsetType = msgspec.field(name="occurredAt", default=UNSET)
    op_id: str | UnsetType = msgspec.field(name="opId", default=UNSET)
    op_parent_id: str | UnsetType = msgspec.field(name="opParentId", default=UNSET)
    origin: Origin | UnsetType = UNSET
    principal: str
    receipt_id: str = msgspec.field(name="receiptId")
    receipt_type: str = msgspec.field(name="receiptType")
    request_id: str = msgspec.field(name="requestId")
    resource_id: str = msgspec.field(name="resourceId")
    resource_type: str = msgspec.field(name="resourceType")
    salt: str
    witnessed_at: str = msgspec.field(name="witnessedAtNs")


class Digest(msgspec.Struct, gc=False):
    """The payload's commitment, under the name of its profile."""

    blob: str | UnsetType = msgspec.field(name="provledgerBlobV1", default=UNSET)
    fields: str | UnsetType = msgspec.field(name="provledgerFieldsV1", default=UNSET)


class Subject(msgspec.Struct, gc=False):
    """What it happened to."""

    digest: Digest
    name: str


class Text(msgspec.Struct, gc=False):
    """A whole statement."""

    type: str = msgspec.field(name="_type")
    predicate: Predicate
    predicate_type: str = msgspec.field(name="predicateType")
    subject: tuple[Subject]

    @property
    def digest(self) -> str:
        """The payload's commitment in hex, "" if it is not the one digest of the profile."""
        digest = self.subject[0].digest
        blob, fields = digest.blob, digest.fields
        if self.predicate.profile == "fields-v1":
            return fields if fields is not UNSET and blob is UNSET else ""
        if self.predicate.profile == "blob-v1":
            return blob if blob is not UNSET and fields is UNSET else ""
        return ""


_read: Final = msgspec.json.Decoder(Text).decode
_write: Final = msgspec.json.Encoder().encode


def read(data: bytes) -> Text | None:
    """Return what the canonical text of a statement says, or None if it is not, or unsure."""
    try:
        text = _read(data)
        return text if _write(text) == data and _is_sound(text) else None
    except (ValueError, RecursionError):
        return None


def _is_sound(text: Text) -> bool:
    """Whether all is as it must be that two equal texts do not show."""
    said = text.predicate
    digits = text.digest + said.ledger_uid + said.salt
    number = said.witnessed_at
    return (
        text.type == TYPE
        and text.predicate_type == PREDICATE_TYPE
        and text.subject[0].name == f"{said.resource_type}/{said.resource_id}"
        # What was not said is left out.
        and "" not in (said.action, said.actor.type, said.occurred_at, said.op_id)
        and said.op_parent_id != ""
        and (said.origin is UNSET or _says_something(said.origin))
        and len(digits) == _HEX_CHARS
        and len(said.ledger_uid) == len(said.salt) == _UID_CHARS
        and bytes.fromhex(digits).hex() == digits
        and len(number) <= _MAX_DIGITS
        and not number.startswith("-")
        and str(int(number)) == number
    )


def _says_something(origin: Origin) -> bool:
    members = (origin.service, origin.trace_id, origin.upstream)
    return any(members) and "" not in members and () not in members
