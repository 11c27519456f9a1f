"""Key events as messages of `provledger.api.keys.v1`, and back; shared by all who handle them.

Whoever signs an event builds its bytes from these members: nobody is asked to sign bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from provledger import jcs
from provledger.api.keys.v1 import keys_pb2 as pb
from provledger.errors import InputError, InvalidArgumentError, KeyFormatError
from provledger.key_events import (
    Endorsement,
    EventType,
    FirstKey,
    KeyEvent,
    KeyRef,
    LogSize,
    parse_event,
)
from provledger.keyset import CoveredCheckpoint, KeyPurpose

PURPOSES_PB: Final = {
    KeyPurpose.WITNESS: pb.KEY_PURPOSE_WITNESS,
    KeyPurpose.CHECKPOINT: pb.KEY_PURPOSE_CHECKPOINT,
    KeyPurpose.HEAD: pb.KEY_PURPOSE_HEAD,
    KeyPurpose.RECEIPT: pb.KEY_PURPOSE_RECEIPT,
}
_PURPOSES: Final[dict[int, str]] = {number: each.value for each, number in PURPOSES_PB.items()}
_TYPES_PB: Final = {
    EventType.GENESIS: pb.KEY_EVENT_TYPE_GENESIS,
    EventType.CREATED: pb.KEY_EVENT_TYPE_CREATED,
    EventType.ROTATED: pb.KEY_EVENT_TYPE_ROTATED,
    EventType.RETIRED: pb.KEY_EVENT_TYPE_RETIRED,
    EventType.REVOKED: pb.KEY_EVENT_TYPE_REVOKED,
}
_TYPES: Final[dict[int, EventType]] = {number: each for each, number in _TYPES_PB.items()}


def event_to_pb(event: KeyEvent) -> pb.KeyEvent:
    """An event as a message."""
    previous = event.previous
    return pb.KeyEvent(
        type=_TYPES_PB[event.event],
        at_ns=event.at_ns,
        kid=event.kid,
        thumbprint=event.thumbprint,
        purpose=PURPOSES_PB[KeyPurpose(event.purpose)] if event.purpose else 0,  # type: ignore[arg-type]
        genesis=event.genesis,
        uri=event.uri,
        jwk=jcs.encode(dict(event.jwk)) if event.jwk else b"",
        epoch=event.epoch,
        not_before_ns=event.not_before_ns,
        not_after_ns=event.not_after_ns,
        previous_kid=previous.kid if previous is not None else "",
        previous_thumbprint=previous.thumbprint if previous is not None else b"",
        sizes=[pb.LogSize(origin=each.origin, size=each.size) for each in event.sizes],
        reason=event.reason,
        after=[
            pb.CoveredCheckpoint(origin=each.origin, size=each.size, root=each.root)
            for each in event.after
        ],
        first_keys=[
            pb.FirstKey(
                kid=each.kid,
                purpose=PURPOSES_PB[KeyPurpose(each.purpose)],
                uri=each.uri,
                jwk=jcs.encode(dict(each.jwk)),
                thumbprint=each.thumbprint,
                not_before_ns=each.not_before_ns,
            )
            for each in event.first_keys
        ],
    )


def event_from_pb(message: pb.KeyEvent) -> KeyEvent:
    """Read an event, checking every member; raises InvalidArgumentError."""
    try:
        event = KeyEvent(
            event=_TYPES[message.type],
            at_ns=message.at_ns,
            kid=message.kid,
            thumbprint=message.thumbprint,
            purpose=_PURPOSES[message.purpose] if message.purpose else "",
            genesis=message.genesis,
            uri=message.uri,
            jwk=_jwk_from_pb(message.jwk) if message.jwk else {},
            epoch=message.epoch,
            not_before_ns=message.not_before_ns,
            not_after_ns=message.not_after_ns,
            previous=KeyRef(message.previous_kid, message.previous_thumbprint)
            if message.previous_kid
            else None,
            sizes=tuple(LogSize(each.origin, each.size) for each in message.sizes),
            reason=message.reason,
            after=covered_from_pb(message.after),
            first_keys=tuple(
                FirstKey(
                    each.kid,
                    _PURPOSES[each.purpose],
                    each.uri,
                    _jwk_from_pb(each.jwk),
                    each.thumbprint,
                    each.not_before_ns,
                )
                for each in message.first_keys
            ),
        )
        read = parse_event(event.to_json())
    except (KeyError, InputError) as error:
        raise InvalidArgumentError(
            "INVALID_KEY_EVENT", f"event: is not a key event: {error}", metadata={"field": "event"}
        ) from None
    if read != event:
        raise InvalidArgumentError(
            "INVALID_KEY_EVENT", "event: has members that its type does not have"
        )
    return read


def _jwk_from_pb(data: bytes) -> Mapping[str, str]:
    value = jcs.parse(data)
    if not isinstance(value, dict):
        raise KeyFormatError("a jwk is not a JSON object")
    return value


def covered_from_pb(messages: object) -> tuple[CoveredCheckpoint, ...]:
    """Read covered checkpoints as they are."""
    return tuple(
        CoveredCheckpoint(each.origin, each.size, each.root)
        for each in messages  # type: ignore[attr-defined]
    )


def endorsement_to_pb(endorsement: Endorsement) -> pb.KeyEndorsement:
    """An endorsement as a message."""
    return pb.KeyEndorsement(
        kid=endorsement.kid, thumbprint=endorsement.thumbprint, sig=endorsement.sig
    )


def endorsement_from_pb(message: pb.KeyEndorsement) -> Endorsement:
    """Read an endorsement as it is; verifying it says whether it is one."""
    return Endorsement(message.kid, message.thumbprint, message.sig)
