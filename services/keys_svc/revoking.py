"""Revocations, with what becomes of rotations that are under way. Pure.

A revocation takes effect at once; its event, where there is a key ledger, follows when it can. What
was only proposed about the keys of a revocation gives way to it. What is sealed may be in the key
ledger already, and goes forward: the key of such a rotation counts as the next active one, so that
it cannot be revoked before it is, and is the only one that can take another key's place.

A key that took another's place at once, and then turns out to be of no use, would keep the key
ledger waiting for its endorsement for ever. Replaced itself, it is forgotten as one that was never
active: the next one takes the place of the key that is active by the key ledger.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from keys_svc.journal import (
    history_of,
    is_kept,
    open_events,
    sealed_rotation,
    take_place,
    without,
)
from keys_svc.proposals import genesis_digest, propose, propose_created, propose_rotated
from keys_svc.registry import EventRecord, EventState, KeyRecord, Registry
from provledger.errors import FailedPreconditionError
from provledger.key_events import EventType, KeyEvent, LogSize
from provledger.keyset import MAX_CLOCK_AHEAD_NS, CoveredCheckpoint, KeyState


def revoke(
    registry: Registry,
    kid: str,
    reason: str,
    now_ns: int,
    *,
    after: tuple[CoveredCheckpoint, ...] = (),
    replacement_kid: str = "",
    sizes: Iterable[LogSize] = (),
    behind_ns: int = 0,
) -> Registry:
    """As `Registry.revoke`, at once, with its event; an active key is replaced at once as well.

    `sizes`: how large the logs are now, for a checkpoint key. `behind_ns`: by how much our clock is
    behind those of all who sign with the key, by which its replacement is to begin. Raises besides
    FailedPreconditionError (ROTATION_SEALED, KEY_NOT_PENDING, KEY_NOT_TOLD).
    """
    record = registry.get(kid)
    changed = registry
    if replacement_kid and record.state is KeyState.ACTIVE:
        # If our clock is behind, it does not show that the key has not begun.
        early = behind_ns <= MAX_CLOCK_AHEAD_NS
        changed = _replaced(changed, record, replacement_kid, now_ns, tuple(sizes), early)
        record = changed.get(kid)
        if record.epoch == 0 and after:
            raise FailedPreconditionError(
                "KEY_NOT_TOLD",
                f"the key ledger has not heard that key {kid!r} is active, and never will: no "
                "checkpoint lets what it signed stand; leave out --after",
                metadata={"kid": kid},
            )
    if record.epoch == 0 and sealed_rotation(registry, record.purpose, kid) is not None:
        raise FailedPreconditionError(
            "ROTATION_SEALED",
            f"the rotation to key {kid!r} is endorsed already and goes forward only; once it is "
            f"recorded (keys rotate --kid {kid} waits for that), revoke the key with --replace-by",
            metadata={"kid": kid},
        )
    changed = changed.revoke(kid, reason, now_ns, after)
    if not is_kept(registry) or changed is registry:
        return changed
    changed = without(changed, _overtaken(changed, record))
    if record.epoch == 0 and not _is_told(changed, kid):
        # The key ledger never hears of it: there is nothing to revoke there.
        return changed
    event = KeyEvent(
        event=EventType.REVOKED,
        at_ns=now_ns,
        genesis=genesis_digest(changed),
        kid=kid,
        thumbprint=record.binding.thumbprint,
        purpose=record.purpose.value,
        reason=reason,
        after=after,
    )
    return propose(changed, event)


def _replaced(
    registry: Registry,
    record: KeyRecord,
    replacement_kid: str,
    now_ns: int,
    sizes: tuple[LogSize, ...],
    may_be_early: bool,
) -> Registry:
    """Another key in the place of an active one, at once; `may_be_early` as in `proposals`."""
    new = registry.get(replacement_kid)
    if new.purpose != record.purpose or new.state is not KeyState.PENDING:
        raise FailedPreconditionError(
            "KEY_NOT_PENDING",
            f"key {replacement_kid!r} is not a pending {record.purpose.value} key",
            metadata={"kid": replacement_kid},
        )
    if not is_kept(registry):
        return registry.activate(replacement_kid, now_ns, drain_ns=0)
    sealed = sealed_rotation(registry, record.purpose)
    if sealed is not None:
        event = sealed.signed.event
        if event.kid != replacement_kid:
            raise FailedPreconditionError(
                "ROTATION_SEALED",
                f"the rotation to key {event.kid!r} is endorsed already and goes forward only; "
                f"let that key take the place: --replace-by {event.kid}",
                metadata={"kid": event.kid},
            )
        return take_place(registry, event, now_ns, 0)
    changed = without(registry, [e for e in open_events(registry) if _is_waiting(registry, e, new)])
    useless = _never_told(changed, record)
    old = None
    if useless:
        changed = _forgotten(changed, useless)
        known = history_of(changed).active(record.purpose.value)
        old = changed.get(known.kid) if known is not None else None
    changed = propose_created(changed, new, now_ns)
    changed = propose_rotated(changed, new, now_ns, sizes, old, may_be_early=may_be_early)
    not_before_ns = changed.events[-1].signed.event.not_before_ns
    return changed.activate(replacement_kid, now_ns, drain_ns=0, not_before_ns=not_before_ns)


def _never_told(registry: Registry, record: KeyRecord) -> list[KeyRecord]:
    """Keys that took another's place at once, of which the key ledger can never hear that.

    That is so for one that has not endorsed it itself and is revoked, or is `record`, which is
    about to be: nobody opens it any more. What came behind it names it as the key it replaces.
    """
    proposed = {
        each.signed.event.kid
        for each in open_events(registry)
        if each.event_type is EventType.ROTATED and each.state is EventState.PROPOSED
    }
    chain = [
        key
        for key in registry
        if key.purpose == record.purpose and key.epoch > 0 and key.kid in proposed
    ]
    chain.sort(key=lambda key: key.epoch)
    for at, key in enumerate(chain):
        revoked = key.kid == record.kid or key.state is KeyState.REVOKED
        if revoked and not _endorses_itself(registry, key.kid):
            return chain[at:]
    return []


def _endorses_itself(registry: Registry, kid: str) -> bool:
    """Whether all that a key has to endorse of itself is endorsed by it, or sealed."""
    return all(
        any(by.kid == kid for by in each.signed.endorsements)
        for each in open_events(registry)
        if each.signed.event.kid == kid
        and each.event_type in (EventType.CREATED, EventType.ROTATED)
        and each.state is EventState.PROPOSED
    )


def _forgotten(registry: Registry, keys: Iterable[KeyRecord]) -> Registry:
    """The registry where these keys were never active, without what was proposed about them."""
    for key in keys:
        mine = [each for each in registry.events if each.signed.event.kid == key.kid]
        # The key ledger may know the key, and then has to hear that it is revoked.
        known = any(each.state is not EventState.PROPOSED for each in mine)
        kept = {EventType.REVOKED} if known else set[EventType]()
        proposed = [each for each in mine if each.state is EventState.PROPOSED]
        registry = without(registry, [each for each in proposed if each.event_type not in kept])
        state = KeyState.REVOKED if key.state is KeyState.REVOKED else KeyState.PENDING
        never = replace(key, state=state, epoch=0, not_before_ns=None, not_after_ns=None, sizes=())
        registry = registry.with_key(never)
    return registry


def _is_waiting(registry: Registry, each: EventRecord, new: KeyRecord) -> bool:
    """Whether an event proposes an ordinary rotation of this purpose.

    One whose key took another's place at once is in force already, and has to be told.
    """
    event = each.signed.event
    if each.event_type is not EventType.ROTATED or each.state is not EventState.PROPOSED:
        return False
    return event.purpose == new.purpose and registry.get(event.kid).epoch == 0


def _overtaken(registry: Registry, record: KeyRecord) -> list[EventRecord]:
    """What was proposed about a key and cannot come any more, now that it is revoked."""
    kinds = {EventType.RETIRED}
    if record.epoch == 0:
        # Services do not open a revoked key, so that it will never endorse that it comes in.
        kinds |= {EventType.CREATED, EventType.ROTATED}
    return [
        each
        for each in open_events(registry)
        if each.state is EventState.PROPOSED
        and each.event_type in kinds
        and each.signed.event.kid == record.kid
    ]


def _is_told(registry: Registry, kid: str) -> bool:
    """Whether the key ledger has heard of a key, or is about to."""
    return any(
        each.event_type is EventType.CREATED and each.signed.event.kid == kid
        for each in registry.events
    )
