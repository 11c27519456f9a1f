"""Messages of `provledger.api.keys.v1` to and from the domain's values; all checks of form."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from keys_svc import journal
from keys_svc.paging import (
    event_page_token,
    page_token,
    read_event_page_token,
    read_page_token,
)
from keys_svc.registry import EventRecord, EventState, KeyBinding, KeyRecord, Registry
from provledger import jcs, names
from provledger.api.keys.v1 import keys_pb2 as pb
from provledger.errors import (
    FieldViolation,
    IdentifierError,
    InvalidArgumentError,
    InvalidJSONError,
    KeyFormatError,
)
from provledger.fips import policy
from provledger.jwk import (
    algorithm_of,
    jwk_from_public_key,
    public_key_from_jwk,
    thumbprint_of,
)
from provledger.key_events import SignedEvent, parse_signed
from provledger.keyset import (
    MAX_REASON_BYTES,
    CoveredCheckpoint,
    KeyPurpose,
    KeyState,
    check_purpose,
)
from provledger.kms import check_uri
from provledger.kms.errors import KMSConfigError
from provledger.rpc.key_events import covered_from_pb, endorsement_to_pb, event_to_pb

MAX_JWK_BYTES: Final = 4096
MAX_URI_BYTES: Final = 1024
MAX_WATCHER_BYTES: Final = 64
MAX_COVERED: Final = 64
MAX_EVENTS: Final = 10_000
DEFAULT_PAGE_SIZE: Final = 50
MAX_PAGE_SIZE: Final = 1000
PAGE_BYTES: Final = 4 * 1024 * 1024

_PURPOSES_PB: Final = {
    KeyPurpose.WITNESS: pb.KEY_PURPOSE_WITNESS,
    KeyPurpose.CHECKPOINT: pb.KEY_PURPOSE_CHECKPOINT,
    KeyPurpose.HEAD: pb.KEY_PURPOSE_HEAD,
    KeyPurpose.RECEIPT: pb.KEY_PURPOSE_RECEIPT,
}
_PURPOSES: Final[dict[int, KeyPurpose]] = {number: each for each, number in _PURPOSES_PB.items()}
_STATES_PB: Final = {
    KeyState.PENDING: pb.KEY_STATE_PENDING,
    KeyState.ACTIVE: pb.KEY_STATE_ACTIVE,
    KeyState.DRAINING: pb.KEY_STATE_DRAINING,
    KeyState.RETIRED: pb.KEY_STATE_RETIRED,
    KeyState.REVOKED: pb.KEY_STATE_REVOKED,
}

_EVENT_STATES_PB: Final = {
    EventState.PROPOSED: pb.KEY_EVENT_STATE_PROPOSED,
    EventState.SEALED: pb.KEY_EVENT_STATE_SEALED,
    EventState.RECORDED: pb.KEY_EVENT_STATE_RECORDED,
}

T = TypeVar("T")


class Violations:
    """Collects what is wrong with a request, so that one answer names all of it."""

    def __init__(self) -> None:
        self.found: list[FieldViolation] = []

    def add(self, field: str, description: str, reason: str) -> None:
        """Note one bad field."""
        self.found.append(FieldViolation(field, description, reason))

    def check(self, field: str, read: Callable[[], T], default: T) -> T:
        """Return `read()`, or note why it failed and return `default`."""
        try:
            return read()
        except IdentifierError as error:
            self.add(field, error.message, "INVALID_IDENTIFIER")
        except (InvalidJSONError, KeyFormatError, KMSConfigError) as error:
            self.add(field, str(error), "INVALID_FORMAT")
        return default

    def raise_if_any(self) -> None:
        """Raise InvalidArgumentError if anything was noted."""
        if self.found:
            fields = ", ".join(violation.field for violation in self.found)
            raise InvalidArgumentError(
                "INVALID_FIELD",
                f"the request has {len(self.found)} bad field(s): {fields}",
                metadata={"fields": fields},
                violations=self.found,
            )


def key_to_pb(record: KeyRecord, now_ns: int) -> pb.Key:
    """Return a key as of `now_ns` (Unix nanoseconds)."""
    return pb.Key(
        name=f"keys/{record.kid}",
        kid=record.kid,
        purpose=_PURPOSES_PB[record.purpose],
        state=_STATES_PB[record.state_at(now_ns)],
        epoch=record.epoch,
        uri=record.binding.uri,
        jwk=jcs.encode(dict(record.binding.jwk)),
        thumbprint=record.binding.thumbprint,
        created_at_ns=record.created_at_ns,
        not_before_ns=record.not_before_ns or 0,
        not_after_ns=record.not_after_ns or 0,
        revocation_reason=record.revocation_reason,
    )


def binding_from_pb(request: pb.CreateKeyRequest | pb.RotateKeyRequest) -> KeyBinding:
    """Read what a kid is to stand for; raises InvalidArgumentError naming every bad field."""
    violations = Violations()
    kid = violations.check("kid", lambda: names.check_kid(request.kid), "")
    purpose = _purpose(violations, request.purpose)
    violations.check("uri", lambda: _check_uri(request.uri), None)
    no_jwk: tuple[dict[str, str], bytes] = ({}, b"")
    jwk, thumbprint = violations.check("jwk", lambda: _read_jwk(request.jwk, kid), no_jwk)
    violations.raise_if_any()
    algorithm = algorithm_of(public_key_from_jwk(jwk))
    violations.check("jwk", lambda: policy.check_signing_key(algorithm, purpose), None)
    violations.check("jwk", lambda: check_purpose(algorithm, purpose), None)
    violations.raise_if_any()
    return KeyBinding(kid, purpose, request.uri, jwk, thumbprint)


def rotation_from_pb(
    request: pb.RotateKeyRequest,
) -> tuple[str, KeyPurpose, KeyBinding | None]:
    """Return (kid, purpose, what to register first, if anything); raises InvalidArgumentError."""
    if request.uri or request.jwk:
        binding = binding_from_pb(request)
        return binding.kid, binding.purpose, binding
    violations = Violations()
    kid = violations.check("kid", lambda: names.check_kid(request.kid), "")
    purpose = _purpose(violations, request.purpose)
    violations.raise_if_any()
    return kid, purpose, None


def kid_from_pb(kid: str) -> str:
    """Read the `kid` of a request; raises InvalidArgumentError."""
    violations = Violations()
    violations.check("kid", lambda: names.check_kid(kid), "")
    violations.raise_if_any()
    return kid


def key_name_from_pb(name: str) -> str:
    """Return the kid in the `name` of a request; raises InvalidArgumentError."""
    violations = Violations()
    kid = violations.check("name", lambda: names.parse_key_name(name), "")
    violations.raise_if_any()
    return kid


def event_record_to_pb(registry: Registry, record: EventRecord) -> pb.JournaledKeyEvent:
    """Return an event of the journal with what is still to be done for it."""
    open_still = record.state is not EventState.RECORDED
    return pb.JournaledKeyEvent(
        digest=record.signed.event.digest(),
        event=event_to_pb(record.signed.event),
        endorsements=[endorsement_to_pb(each) for each in record.signed.endorsements],
        state=_EVENT_STATES_PB[record.state],
        receipt=record.receipt,
        endorser_kids=journal.endorsers(registry, record) if open_still else (),
        payload=record.signed.encode() if record.position else b"",
    )


def recovery_from_pb(request: pb.ProposeGenesisRequest) -> KeyBinding:
    """Read a recovery key; raises InvalidArgumentError naming every bad field."""
    violations = Violations()
    kid = violations.check("recovery_kid", lambda: names.check_kid(request.recovery_kid), "")
    no_jwk: tuple[dict[str, str], bytes] = ({}, b"")
    jwk, thumbprint = violations.check(
        "recovery_jwk", lambda: _read_jwk(request.recovery_jwk, kid), no_jwk
    )
    violations.raise_if_any()
    return KeyBinding(kid, KeyPurpose.WITNESS, "", jwk, thumbprint)


def rebuild_from_pb(
    request: pb.RebuildRegistryRequest, *, most: int = MAX_EVENTS
) -> list[tuple[SignedEvent, str]]:
    """Read the events of a key ledger, at most `most`, each with its receipt.

    Raises InvalidArgumentError.
    """
    violations = Violations()
    if not 1 <= len(request.payloads) <= most:
        violations.add("payloads", f"must be 1 to {most}", "OUT_OF_RANGE")
    if len(request.payloads) != len(request.receipts):
        violations.add("receipts", "must be as many as payloads", "OUT_OF_RANGE")
    if len(request.pin) != 32:
        violations.add("pin", "must be 32 bytes", "INVALID_FORMAT")
    violations.raise_if_any()
    events = [
        violations.check(f"payloads[{index}]", partial(parse_signed, payload), None)
        for index, payload in enumerate(request.payloads)
    ]
    violations.raise_if_any()
    pairs = zip(events, request.receipts, strict=True)
    return [(event, receipt) for event, receipt in pairs if event is not None]


def revocation_from_pb(
    request: pb.RevokeKeyRequest,
) -> tuple[str, str, tuple[CoveredCheckpoint, ...]]:
    """Return (kid, reason, covered checkpoints); raises InvalidArgumentError."""
    violations = Violations()
    violations.check("kid", lambda: names.check_kid(request.kid), "")
    violations.check(
        "reason",
        lambda: names.check_text(request.reason, "reason", max_bytes=MAX_REASON_BYTES),
        "",
    )
    if len(request.after) > MAX_COVERED:
        violations.add("after", f"must be at most {MAX_COVERED}", "OUT_OF_RANGE")
    for index, each in enumerate(request.after[:MAX_COVERED]):
        violations.check(
            f"after[{index}].origin",
            partial(names.check_text, each.origin, "origin", max_bytes=MAX_URI_BYTES),
            "",
        )
        if each.size < 1 or len(each.root) != 32:
            violations.add(
                f"after[{index}]", "needs a size of 1 or more, a root of 32 bytes", "INVALID_FORMAT"
            )
    if len({each.origin for each in request.after}) != len(request.after):
        violations.add("after", "names a log twice", "INVALID_FORMAT")
    violations.raise_if_any()
    return request.kid, request.reason, covered_from_pb(request.after)


def watcher_from_pb(request: pb.WatchKeysRequest) -> str:
    """Return the watcher's name, which may be empty; raises InvalidArgumentError."""
    violations = Violations()
    watcher = request.watcher
    violations.check(
        "watcher",
        lambda: names.check_text(watcher, "watcher", max_bytes=MAX_WATCHER_BYTES, required=False),
        "",
    )
    violations.raise_if_any()
    return watcher


def list_keys(registry: Registry, request: pb.ListKeysRequest, now_ns: int) -> pb.ListKeysResponse:
    """Return one page of keys, newest first (AIP-132, AIP-158); raises InvalidArgumentError."""
    violations = Violations()
    if request.page_size < 0:
        violations.add("page_size", "must not be negative", "OUT_OF_RANGE")
    purpose: KeyPurpose | None = None
    if request.purpose != pb.KEY_PURPOSE_UNSPECIFIED:
        purpose = _purpose(violations, request.purpose)
    violations.raise_if_any()
    query = f"ListKeys {purpose or 'of any purpose'}"
    below = read_page_token(request.page_token, query) if request.page_token else None
    keys = sorted(registry, key=lambda key: key.number, reverse=True)
    if purpose is not None:
        keys = [key for key in keys if key.purpose == purpose]
    if below is not None:
        keys = [key for key in keys if key.number < below]
    size = min(request.page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
    page = keys[:size]
    return pb.ListKeysResponse(
        keys=[key_to_pb(key, now_ns) for key in page],
        next_page_token=page_token(page[-1].number, query) if len(keys) > size else "",
    )


def list_key_events(
    registry: Registry, request: pb.ListKeyEventsRequest
) -> pb.ListKeyEventsResponse:
    """Return one page of key events in order; raises InvalidArgumentError.

    Where no page size is given it is all of them: there were no pages once.
    """
    violations = Violations()
    if request.page_size < 0:
        violations.add("page_size", "must not be negative", "OUT_OF_RANGE")
    violations.raise_if_any()
    query = "ListKeyEvents"
    position, number = 0, 0
    if request.page_token:
        position, number = read_event_page_token(request.page_token, query)
    size = min(request.page_size, MAX_PAGE_SIZE)
    room = PAGE_BYTES
    response = pb.ListKeyEventsResponse()
    for record in journal.in_order(registry, position, number):
        event = event_record_to_pb(registry, record)
        room -= event.ByteSize()
        full = len(response.events) >= size or (room < 0 and response.events)
        if request.page_size and full:
            response.next_page_token = event_page_token(position, number, query)
            break
        response.events.append(event)
        if record.position:
            position = record.position
        else:
            number = record.number
    return response


def _purpose(violations: Violations, number: int) -> KeyPurpose:
    purpose = _PURPOSES.get(number)
    if purpose is None:
        known = ", ".join(pb.KeyPurpose.Name(each) for each in _PURPOSES_PB.values())
        violations.add("purpose", f"is required; one of {known}", "REQUIRED")
        return KeyPurpose.WITNESS
    return purpose


def _check_uri(uri: str) -> None:
    names.check_text(uri, "uri", max_bytes=MAX_URI_BYTES)
    check_uri(uri)


def _read_jwk(data: bytes, kid: str) -> tuple[dict[str, str], bytes]:
    """Return (the members that RFC 7638 hashes, thumbprint)."""
    if not data:
        raise KeyFormatError("is required")
    if len(data) > MAX_JWK_BYTES:
        raise KeyFormatError(f"must be at most {MAX_JWK_BYTES} bytes")
    jwk = jcs.parse(data)
    if not isinstance(jwk, dict):
        raise KeyFormatError("must be a JSON object, one JWK")
    public_key = public_key_from_jwk(jwk)
    if kid and jwk.get("kid", kid) != kid:
        raise KeyFormatError("its member kid differs from the kid of the request")
    return jwk_from_public_key(public_key), thumbprint_of(public_key)
