"""Key events as they are proposed: what a change of the registry has to say. Pure."""

from __future__ import annotations

from typing import Final

from keys_svc.registry import EventRecord, KeyRecord, Registry
from provledger.errors import FailedPreconditionError, UnavailableError
from provledger.key_events import MAX_EVENT_BYTES, EventType, KeyEvent, KeyRef, LogSize, SignedEvent
from provledger.keyset import MAX_CLOCK_AHEAD_NS, KeyPurpose, KeyState

_ENDORSEMENT_BYTES: Final = 16 * 1024


def propose_created(registry: Registry, record: KeyRecord, now_ns: int) -> Registry:
    """Say that a key comes in, unless that was said, or it is revoked and never will."""
    known = any(
        each.event_type is EventType.CREATED and each.signed.event.kid == record.kid
        for each in registry.events
    )
    # Nobody opens a revoked key, so that it would never endorse that it comes in.
    if known or record.epoch > 0 or record.state is KeyState.REVOKED:
        return registry
    event = KeyEvent(
        event=EventType.CREATED,
        at_ns=now_ns,
        genesis=genesis_digest(registry),
        kid=record.kid,
        thumbprint=record.binding.thumbprint,
        purpose=record.purpose.value,
        uri=record.binding.uri,
        jwk=record.binding.jwk,
    )
    return propose(registry, event)


def propose_rotated(
    registry: Registry,
    record: KeyRecord,
    now_ns: int,
    sizes: tuple[LogSize, ...],
    old: KeyRecord | None = None,
    *,
    may_be_early: bool = False,
) -> Registry:
    """Say that a key becomes the active one; raises UnavailableError (NO_ACTIVE_KEY).

    `old`: the key it replaces by the key ledger, if that is not the active one of the registry.
    `may_be_early`: the recovery key is to endorse it, and our clock is to be believed, so that it
    may begin before that one.
    """
    old = old or registry.active(record.purpose)
    epoch = 1 + max(each.epoch for each in registry if each.purpose == record.purpose)
    if old is None and epoch > 1:
        raise UnavailableError(
            "NO_ACTIVE_KEY", f"there is no {record.purpose.value} key to rotate from"
        )
    event = KeyEvent(
        event=EventType.ROTATED,
        at_ns=now_ns,
        genesis=genesis_digest(registry),
        kid=record.kid,
        thumbprint=record.binding.thumbprint,
        purpose=record.purpose.value,
        epoch=epoch,
        not_before_ns=_begin_ns(old, now_ns, may_be_early),
        previous=KeyRef(old.kid, old.binding.thumbprint) if old is not None else None,
        sizes=sizes if record.purpose is KeyPurpose.CHECKPOINT else (),
    )
    return propose(registry, event)


def _begin_ns(old: KeyRecord | None, now_ns: int, may_be_early: bool) -> int:
    """When the key in the place of `old` begins, Unix nanoseconds."""
    begun_ns = (old.not_before_ns or 0) if old is not None else 0
    if may_be_early and begun_ns - now_ns > MAX_CLOCK_AHEAD_NS:
        # Our clock was ahead when that one began. Nobody signs before then, with neither.
        return now_ns
    # A clock that went back must not end a key before it began.
    return max(now_ns, begun_ns + 1) if old is not None else now_ns


def propose(registry: Registry, event: KeyEvent) -> Registry:
    """Put an event into the journal.

    Raises:
        FailedPreconditionError: KEY_EVENT_TOO_LARGE, nobody could read it once it is endorsed.
    """
    if len(event.encode()) > MAX_EVENT_BYTES - _ENDORSEMENT_BYTES:
        raise FailedPreconditionError(
            "KEY_EVENT_TOO_LARGE",
            f"with its endorsements the event would be of more than {MAX_EVENT_BYTES} bytes: it "
            f"names {len(event.sizes)} logs, more than a checkpoint key can be changed for",
            metadata={"kid": event.kid},
        )
    number = 1 + max((each.number for each in registry.events), default=0)
    return registry.with_event(EventRecord(number, SignedEvent(event)))


def genesis_digest(registry: Registry) -> bytes:
    """What the events of this key ledger name as their genesis, 32 bytes."""
    return registry.events[0].signed.event.digest()
