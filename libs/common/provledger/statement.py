"""Statements: what happened, as in-toto Statement v1 in RFC 8785 bytes (design §4).

A statement is made once, by the witness, and stored and shipped as these bytes. Indented here, one
line in truth::

    {"_type": "https://in-toto.io/Statement/v1",
     "predicate": {"action": "UPDATE", "actor": {"id": "bot", "type": "service"},
                   "checks": [{"name": "transition", "result": "passed", "version": "1"}],
                   "commitmentProfile": "fields-v1", "ledger": "tenants/acme/ledgers/main",
                   "ledgerUid": "<hex>", "mediaType": "application/json",
                   "occurredAt": "2024-01-02T03:04:05+01:00",
                   "origin": {"service": "billing", "traceId": "<hex>", "upstream": ["git:..."]},
                   "principal": "anonymous", "receiptId": "<UUIDv7>", "receiptType": "mutation",
                   "requestId": "...", "resourceId": "redis/8.8.2", "resourceType": "Version",
                   "salt": "<hex of 16 bytes>", "witnessedAtNs": "1763665200000000000"},
     "predicateType": "urn:provledger:statement:v1",
     "subject": [{"digest": {"provledgerFieldsV1": "<root hex>"}, "name": "Version/redis/8.8.2"}]}

`action`, `occurredAt`, `origin` and its parts, `opId`, `opParentId` and the actor's `type` are left
out where nothing was said. The salt keeps the public hash of a statement from being guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from provledger import _statement_canonical, disclosure
from provledger.errors import ReceiptFormatError

STATEMENT_TYPE = _statement_canonical.TYPE
PREDICATE_TYPE = _statement_canonical.PREDICATE_TYPE
MAX_STATEMENT_BYTES = 32_768
SALT_BYTES = 16

DIGEST_NAMES = {
    disclosure.FIELDS_PROFILE: "provledgerFieldsV1",
    disclosure.BLOB_PROFILE: "provledgerBlobV1",
}
ACTIONS = ("CREATE", "UPDATE", "DELETE")

_REQUIRED = frozenset(
    "actor checks commitmentProfile ledger ledgerUid mediaType principal receiptId receiptType "
    "requestId resourceId resourceType salt witnessedAtNs".split()
)
_OPTIONAL = frozenset("action occurredAt opId opParentId origin".split())


@dataclass(frozen=True, slots=True)
class Check:
    """A check the witness made before it signed."""

    name: str
    version: str
    result: str


@dataclass(frozen=True, slots=True)
class Statement:
    """What a statement says. Text that was not said is "", hashes are bytes."""

    ledger: str
    ledger_uid: bytes
    receipt_id: str
    request_id: str
    receipt_type: str
    action: str
    resource_type: str
    resource_id: str
    actor_id: str
    actor_type: str
    principal: str
    origin_service: str
    trace_id: str
    upstream_events: tuple[str, ...]
    op_id: str
    op_parent_id: str
    occurred_at: str
    witnessed_at_ns: int
    media_type: str
    profile: str
    payload_hash: bytes
    checks: tuple[Check, ...]
    salt: bytes

    @property
    def is_mutation(self) -> bool:
        """Whether the payload is a mutation's, whose patch operations are fields."""
        return self.receipt_type == "mutation"

    def encode(self) -> bytes:
        """Return the statement's bytes."""
        actor = {"id": self.actor_id}
        if self.actor_type:
            actor["type"] = self.actor_type
        predicate: dict[str, Any] = {
            "actor": actor,
            "checks": [
                {"name": check.name, "result": check.result, "version": check.version}
                for check in self.checks
            ],
            "commitmentProfile": self.profile,
            "ledger": self.ledger,
            "ledgerUid": self.ledger_uid.hex(),
            "mediaType": self.media_type,
            "principal": self.principal,
            "receiptId": self.receipt_id,
            "receiptType": self.receipt_type,
            "requestId": self.request_id,
            "resourceId": self.resource_id,
            "resourceType": self.resource_type,
            "salt": self.salt.hex(),
            "witnessedAtNs": str(self.witnessed_at_ns),
        }
        if self.action:
            predicate["action"] = self.action
        if self.op_id:
            predicate["opId"] = self.op_id
        if self.op_parent_id:
            predicate["opParentId"] = self.op_parent_id
        if self.occurred_at:
            predicate["occurredAt"] = self.occurred_at
        origin: dict[str, Any] = {}
        if self.origin_service:
            origin["service"] = self.origin_service
        if self.trace_id:
            origin["traceId"] = self.trace_id
        if self.upstream_events:
            origin["upstream"] = list(self.upstream_events)
        if origin:
            predicate["origin"] = origin
        statement = {
            "_type": STATEMENT_TYPE,
            "predicate": predicate,
            "predicateType": PREDICATE_TYPE,
            "subject": [
                {
                    "digest": {DIGEST_NAMES[self.profile]: self.payload_hash.hex()},
                    "name": f"{self.resource_type}/{self.resource_id}",
                }
            ],
        }
        # Every name is ASCII and every leaf is text, where orjson's sorted output is RFC 8785's.
        return orjson.dumps(statement, option=orjson.OPT_SORT_KEYS)


def parse_statement(data: bytes) -> Statement:
    """Read a statement.

    Raises:
        ReceiptFormatError: if it is not the canonical text of a statement of ours; the field says
            which member is wrong.
    """
    if len(data) > MAX_STATEMENT_BYTES:
        raise ReceiptFormatError("statement", f"is longer than {MAX_STATEMENT_BYTES} bytes")
    text = _statement_canonical.read(data)
    if text is not None:
        return _from_text(text)
    try:
        # A lenient reader will do: what it lets pass does not survive the comparison below.
        value = orjson.loads(data)
    except ValueError as error:
        raise ReceiptFormatError("statement", "is not JSON") from error
    statement = _from_value(value)
    # One comparison refuses every other spelling, unknown member and duplicate.
    if statement.encode() != data:
        raise ReceiptFormatError("statement", "is not the canonical text of a statement")
    return statement


class Bound(NamedTuple):
    """What of a statement its draft, receipt or payload repeats, and how to open the latter."""

    ledger: str
    ledger_uid: bytes
    receipt_id: str
    receipt_type: str
    action: str
    resource_type: str
    resource_id: str
    media_type: str
    profile: str
    payload_hash: bytes
    request_id: str
    actor_id: str


def read_bound(data: bytes) -> Bound:
    """Read so much of a statement; raises ReceiptFormatError as `parse_statement` does."""
    text = _statement_canonical.read(data) if len(data) <= MAX_STATEMENT_BYTES else None
    if text is None:
        made = parse_statement(data)
        return Bound(
            made.ledger, made.ledger_uid, made.receipt_id, made.receipt_type, made.action,
            made.resource_type, made.resource_id, made.media_type, made.profile, made.payload_hash,
            made.request_id, made.actor_id,
        )  # fmt: skip
    said = text.predicate
    return Bound(
        said.ledger, bytes.fromhex(said.ledger_uid), said.receipt_id, said.receipt_type,
        said.action or "", said.resource_type, said.resource_id, said.media_type, said.profile,
        bytes.fromhex(text.digest), said.request_id, said.actor.id,
    )  # fmt: skip


def _from_text(text: _statement_canonical.Text) -> Statement:
    said = text.predicate
    origin = said.origin or _statement_canonical.Origin()
    return Statement(
        ledger=said.ledger,
        ledger_uid=bytes.fromhex(said.ledger_uid),
        receipt_id=said.receipt_id,
        request_id=said.request_id,
        receipt_type=said.receipt_type,
        action=said.action or "",
        resource_type=said.resource_type,
        resource_id=said.resource_id,
        actor_id=said.actor.id,
        actor_type=said.actor.type or "",
        principal=said.principal,
        origin_service=origin.service or "",
        trace_id=origin.trace_id or "",
        upstream_events=origin.upstream or (),
        op_id=said.op_id or "",
        op_parent_id=said.op_parent_id or "",
        occurred_at=said.occurred_at or "",
        witnessed_at_ns=int(said.witnessed_at),
        media_type=said.media_type,
        profile=said.profile,
        payload_hash=bytes.fromhex(text.digest),
        checks=tuple([Check(each.name, each.version, each.result) for each in said.checks]),
        salt=bytes.fromhex(said.salt),
    )


def _from_value(value: Any) -> Statement:
    if not isinstance(value, dict):
        raise ReceiptFormatError("statement", "is not an object")
    if value.get("_type") != STATEMENT_TYPE or value.get("predicateType") != PREDICATE_TYPE:
        raise ReceiptFormatError("statement", "is not a statement of a type we know")
    predicate = value.get("predicate")
    if not isinstance(predicate, dict) or not (
        predicate.keys() >= _REQUIRED and predicate.keys() <= _REQUIRED | _OPTIONAL
    ):
        raise ReceiptFormatError("statement.predicate", "does not have the members it must")
    profile = _text(predicate, "commitmentProfile")
    if profile not in DIGEST_NAMES:
        raise ReceiptFormatError("statement.predicate.commitmentProfile", "is not one we know")
    match value.get("subject"):
        case [{"digest": dict(digests), "name": str()}] if list(digests) == [DIGEST_NAMES[profile]]:
            payload_hash = _hex(digests, DIGEST_NAMES[profile], 32)
        case _:
            raise ReceiptFormatError("statement.subject", "is not one subject with our digest")
    actor = _object(predicate, "actor")
    origin = _object(predicate, "origin")
    return Statement(
        ledger=_text(predicate, "ledger"),
        ledger_uid=_hex(predicate, "ledgerUid", 16),
        receipt_id=_text(predicate, "receiptId"),
        request_id=_text(predicate, "requestId"),
        receipt_type=_text(predicate, "receiptType"),
        action=_text(predicate, "action", optional=True),
        resource_type=_text(predicate, "resourceType"),
        resource_id=_text(predicate, "resourceId"),
        actor_id=_text(actor, "id"),
        actor_type=_text(actor, "type", optional=True),
        principal=_text(predicate, "principal"),
        origin_service=_text(origin, "service", optional=True),
        trace_id=_text(origin, "traceId", optional=True),
        upstream_events=_upstream(origin),
        op_id=_text(predicate, "opId", optional=True),
        op_parent_id=_text(predicate, "opParentId", optional=True),
        occurred_at=_text(predicate, "occurredAt", optional=True),
        witnessed_at_ns=_decimal(predicate, "witnessedAtNs"),
        media_type=_text(predicate, "mediaType"),
        profile=profile,
        payload_hash=payload_hash,
        checks=_checks(predicate["checks"]),
        salt=_hex(predicate, "salt", SALT_BYTES),
    )


def _object(members: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = members.get(name, {})
    if not isinstance(value, dict):
        raise ReceiptFormatError(f"statement.predicate.{name}", "is not an object")
    return value


def _text(members: Mapping[str, Any], name: str, *, optional: bool = False) -> str:
    value = members.get(name)
    if value is None and optional and name not in members:
        return ""
    if not isinstance(value, str):
        raise ReceiptFormatError(f"statement.{name}", "is not text")
    return value


def _hex(members: Mapping[str, Any], name: str, length: int) -> bytes:
    try:
        value = bytes.fromhex(_text(members, name))
    except ValueError as error:
        raise ReceiptFormatError(f"statement.{name}", "is not hex") from error
    if len(value) != length:
        raise ReceiptFormatError(f"statement.{name}", f"is not {length} bytes of hex")
    return value


def _decimal(members: Mapping[str, Any], name: str) -> int:
    text = _text(members, name)
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise ReceiptFormatError(f"statement.{name}", "is not a decimal number")
    return int(text)


def _upstream(origin: Mapping[str, Any]) -> tuple[str, ...]:
    value = origin.get("upstream", [])
    if not isinstance(value, list) or not all(isinstance(event, str) for event in value):
        raise ReceiptFormatError("statement.predicate.origin.upstream", "is not a list of text")
    return tuple(value)


def _checks(value: Any) -> tuple[Check, ...]:
    if not isinstance(value, list):
        raise ReceiptFormatError("statement.predicate.checks", "is not a list")
    checks = []
    for item in value:
        if not isinstance(item, dict) or item.keys() != {"name", "result", "version"}:
            raise ReceiptFormatError("statement.predicate.checks", "holds one of a wrong shape")
        checks.append(Check(_text(item, "name"), _text(item, "version"), _text(item, "result")))
    return tuple(checks)
