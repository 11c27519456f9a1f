"""The journal of the key ledger: key events on their way from a decision to an entry. Pure.

::

    proposed ──endorsed by all who must──> sealed ──in the key ledger──> recorded
        └── a rotation can be taken back        └── forward only: the effect comes with the record

Where there is no key ledger yet (no genesis was proposed), keys change as `registry` alone says.
Where there is one:

* a rotation takes effect when its event is recorded: until then the old key signs, and nothing
  fails; while the ledger service is away it waits as pending;
* a revocation takes effect at once, and is recorded when it can be (`keys_svc.revoking`);
* one event at a time is sealed and not recorded, so that the order of seals is that of the ledger;
* before an event is sealed, the whole history and it are replayed under the rules of
  `provledger.key_history`: nothing that a verifier would refuse ever reaches the ledger.

Every transition is safe to repeat.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from keys_svc.proposals import genesis_digest, propose, propose_created, propose_rotated
from keys_svc.registry import EventRecord, EventState, KeyBinding, KeyRecord, Registry
from provledger.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InputError,
    InvalidArgumentError,
    InvalidSignatureError,
    NotFoundError,
    VerificationError,
)
from provledger.jwk import public_key_from_jwk, thumbprint
from provledger.key_events import (
    Endorsement,
    EventType,
    FirstKey,
    KeyEvent,
    LogSize,
    SignedEvent,
    verify_endorsement,
)
from provledger.key_history import History
from provledger.keyset import KeyPurpose, KeyState, SizeRange

RECOVERY_PURPOSE: Final = "recovery"


def is_kept(registry: Registry) -> bool:
    """Whether there is a key ledger."""
    return bool(registry.events)


def history_of(registry: Registry) -> History:
    """What the recorded events, and a sealed one, make of the keys."""
    done = sorted((e for e in registry.events if e.position), key=lambda e: e.position)
    return _replay(tuple(each.signed for each in done))


class _Replay:
    """The last history that was asked for: the next one most often begins with the same events.

    Replaced as a whole, from whichever thread; losing it only costs another replay.
    """

    last: tuple[tuple[SignedEvent, ...], History] = ((), History())


def _replay(events: tuple[SignedEvent, ...]) -> History:
    """Each event is verified once in a process, however long the history has become."""
    before, history = _Replay.last
    if events[: len(before)] != before:
        before, history = (), History()
    for each in events[len(before) :]:
        history = history.apply(each)
    _Replay.last = events, history
    return history


def find(registry: Registry, digest: bytes) -> EventRecord:
    """The event of this SHA-256; raises NotFoundError (KEY_EVENT_NOT_FOUND)."""
    for each in registry.events:
        if each.signed.event.digest() == digest:
            return each
    raise NotFoundError(
        "KEY_EVENT_NOT_FOUND",
        "there is no such key event; it may have been taken back",
        metadata={"digest": digest.hex()},
    )


def open_events(registry: Registry) -> tuple[EventRecord, ...]:
    """Events that are not in the key ledger yet, in order."""
    return tuple(each for each in registry.events if each.state is not EventState.RECORDED)


def in_order(registry: Registry, position: int = 0, number: int = 0) -> list[EventRecord]:
    """Events behind a place: those of the key ledger, then those on their way to it.

    position: in the key ledger, the last one that is left out. number: the last event on its way
        that is left out; one that got its place meanwhile is behind that of all others.
    """
    placed = (each for each in registry.events if each.position > position)
    on_the_way = (e for e in registry.events if not e.position and e.number > number)
    return [
        *sorted(placed, key=lambda each: each.position),
        *sorted(on_the_way, key=lambda each: each.number),
    ]


def endorsers(registry: Registry, record: EventRecord) -> tuple[str, ...]:
    """Kids of keys that may endorse an event, besides the key it is about and the recovery key."""
    event = record.signed.event
    if event.event is EventType.GENESIS:
        return tuple(key.kid for key in event.first_keys)
    return history_of(registry).may_endorse(event)


def propose_genesis(registry: Registry, recovery: KeyBinding, now_ns: int) -> Registry:
    """Begin a key ledger with the keys that are active now.

    Raises FailedPreconditionError (KEY_LEDGER_NOT_POSSIBLE), AlreadyExistsError
    (KEY_LEDGER_EXISTS, KEY_REUSED).
    """
    for each in registry.events:
        if each.event_type is EventType.GENESIS:
            if each.signed.event.thumbprint == recovery.thumbprint:
                return registry
            raise AlreadyExistsError(
                "KEY_LEDGER_EXISTS",
                f"the key ledger began with recovery key {each.signed.event.kid!r}",
                metadata={"kid": each.signed.event.kid},
            )
    # Only the key of COSE receipts is one that an installation may do without.
    optional = [each for each in (registry.active(KeyPurpose.RECEIPT),) if each is not None]
    needed = [purpose for purpose in KeyPurpose if purpose is not KeyPurpose.RECEIPT]
    active = [*(registry.active(purpose) for purpose in needed), *optional]
    if any(each is None or each.epoch != 1 for each in active) or any(
        each.epoch > 1 for each in registry
    ):
        raise FailedPreconditionError(
            "KEY_LEDGER_NOT_POSSIBLE",
            "a key ledger begins with the first key of every purpose, before the first rotation",
        )
    if any(
        each.kid == recovery.kid or each.binding.thumbprint == recovery.thumbprint
        for each in registry
    ):
        raise AlreadyExistsError(
            "KEY_REUSED",
            "the recovery key must be a key of its own",
            metadata={"kid": recovery.kid},
        )
    event = KeyEvent(
        event=EventType.GENESIS,
        at_ns=now_ns,
        kid=recovery.kid,
        thumbprint=recovery.thumbprint,
        jwk=recovery.jwk,
        first_keys=tuple(
            FirstKey(
                each.kid,
                each.purpose.value,
                each.binding.uri,
                each.binding.jwk,
                each.binding.thumbprint,
                each.not_before_ns or 0,
            )
            for each in active
            if each is not None
        ),
    )
    registry = propose(registry, event)
    for key in [key for key in registry if key.epoch == 0]:
        registry = propose_created(registry, key, now_ns)
    return registry


def create(registry: Registry, binding: KeyBinding, now_ns: int) -> Registry:
    """As `Registry.create`, with its event.

    With a key ledger no key is active before an event says so, the first of its purpose included.
    """
    if not is_kept(registry):
        return registry.create(binding, now_ns)
    known = registry.is_registered(binding)
    after = registry if known else registry.add_pending(binding, now_ns)
    return propose_created(after, after.get(binding.kid), now_ns)


def rotate(
    registry: Registry,
    kid: str,
    purpose: KeyPurpose,
    now_ns: int,
    *,
    drain_ns: int,
    binding: KeyBinding | None = None,
    hold_pending: bool = False,
    sizes: Iterable[LogSize] = (),
) -> Registry:
    """As `Registry.rotate`; with a key ledger, only proposed: `record` activates the key.

    With `hold_pending` not even that, only that the key comes in; asking without it goes on.
    `sizes`: how large the logs are now, for a checkpoint key. Raises besides
    FailedPreconditionError (ROTATION_IN_PROGRESS).
    """
    after = registry.rotate(
        kid,
        purpose,
        now_ns,
        drain_ns=drain_ns,
        binding=binding,
        hold_pending=hold_pending or is_kept(registry),
    )
    if not is_kept(registry) or after.get(kid).state is not KeyState.PENDING:
        return after
    after = propose_created(after, after.get(kid), now_ns)
    if hold_pending:
        return after
    for each in open_events(after):
        if each.event_type is EventType.ROTATED and each.signed.event.purpose == purpose:
            if each.signed.event.kid == kid:
                return after
            _check_pending(after, each)
            other = each.signed.event.kid
            raise FailedPreconditionError(
                "ROTATION_IN_PROGRESS",
                f"the rotation to key {other!r} is not finished; finish it (keys rotate --kid "
                f"{other} --purpose {purpose}) or take it back (the same with --cancel)",
                metadata={"kid": other, "purpose": purpose.value},
            )
    return propose_rotated(after, after.get(kid), now_ns, tuple(sizes))


def cancel(registry: Registry, kid: str) -> Registry:
    """Take a rotation back; raises FailedPreconditionError (ROTATION_SEALED) if it is too late."""
    record = registry.get(kid)
    if record.state is not KeyState.PENDING:
        # What an earlier version left behind: it can never be sealed, and is in everybody's way.
        moot = [each for each in open_events(registry) if _is_moot(registry, each, record)]
        if moot:
            return without(registry, moot)
        for each in open_events(registry):
            if each.event_type is EventType.ROTATED and each.signed.event.kid == kid:
                _check_pending(registry, each, "ROTATION_SEALED")
        raise FailedPreconditionError(
            "ROTATION_SEALED",
            f"key {kid!r} is {record.state.value} already; rotate to another one instead",
            metadata={"kid": kid},
        )
    mine = [e for e in open_events(registry) if e.signed.event.kid == kid]
    if sealed_rotation(registry, record.purpose, kid) is not None:
        raise FailedPreconditionError(
            "ROTATION_SEALED",
            f"the rotation to key {kid!r} is endorsed already and goes forward only",
            metadata={"kid": kid},
        )
    return without(registry, [e for e in mine if e.state is EventState.PROPOSED])


def _check_pending(
    registry: Registry, rotated: EventRecord, reason: str = "ROTATION_IN_PROGRESS"
) -> None:
    """Raise FailedPreconditionError if the key of an open rotation took another's place at once."""
    event = rotated.signed.event
    if registry.get(event.kid).state is KeyState.ACTIVE and event.previous is not None:
        raise FailedPreconditionError(
            reason,
            f"key {event.kid!r} took the place of another at once, and the key ledger does not say "
            f"so yet; finish it (the same keys revoke {event.previous.kid} --replace-by "
            f"{event.kid}, with the recovery key); if {event.kid} cannot be used, replace that one "
            f"as well (keys revoke {event.kid} --replace-by NEW)",
            metadata={"kid": event.kid, "purpose": event.purpose},
        )


def sealed_rotation(registry: Registry, purpose: KeyPurpose, kid: str = "") -> EventRecord | None:
    """The rotation of a purpose, or to a key, that is endorsed and not recorded yet."""
    for each in registry.events:
        event = each.signed.event
        sealed = each.state is EventState.SEALED and event.event is EventType.ROTATED
        if sealed and event.purpose == purpose and kid in ("", event.kid):
            return each
    return None


def without(registry: Registry, events: Iterable[EventRecord]) -> Registry:
    """The registry without events that were only proposed; the same one if there are none."""
    drop = {each.number for each in events}
    if not drop:
        return registry
    kept = tuple(each for each in registry.events if each.number not in drop)
    return replace(registry, revision=registry.revision + 1, events=kept)


def _is_moot(registry: Registry, each: EventRecord, record: KeyRecord) -> bool:
    """Whether it is only proposed that a key comes in, or becomes active, and never can be so."""
    if each.state is not EventState.PROPOSED or each.signed.event.kid != record.kid:
        return False
    others = [other for other in registry.events if other.signed.event.kid == record.kid]
    never_active = record.state is KeyState.REVOKED and record.epoch == 0
    if each.event_type is EventType.CREATED:
        # A revocation that is to be told needs it said before.
        return never_active and all(o.event_type is not EventType.REVOKED for o in others)
    said = any(
        other.event_type is EventType.ROTATED and other.state is not EventState.PROPOSED
        for other in others
    )
    return each.event_type is EventType.ROTATED and (never_active or said)


def retire(
    registry: Registry,
    now_ns: int,
    ready: Iterable[str],
    sizes: Mapping[str, int],
    settle_ns: int = 0,
) -> Registry:
    """Propose the retirement of every drained key whose purpose is among the `ready` ones.

    `sizes`: how large the logs are, by origin, for checkpoint keys. They count what a key signed
    last if it ended `settle_ns` ago or earlier; the others wait. A retirement that is only proposed
    gives way to one by these sizes if it names a larger one, or lacks one: somebody reported that
    wrongly, or did not report, and no anchor endorses it.
    """
    if not is_kept(registry):
        return registry
    changed = registry
    purposes = set(ready)
    told = {e.signed.event.kid: e for e in registry.events if e.event_type is EventType.RETIRED}
    for each in registry:
        ended = each.state_at(now_ns - settle_ns) is KeyState.RETIRED
        drained = each.state is KeyState.DRAINING and ended
        if not drained or each.purpose not in purposes:
            continue
        checkpoint = each.purpose is KeyPurpose.CHECKPOINT
        if (before := told.get(each.kid)) is not None:
            if not (checkpoint and _is_refuted(before, sizes)):
                continue
            changed = without(changed, [before])
        event = KeyEvent(
            event=EventType.RETIRED,
            at_ns=now_ns,
            genesis=genesis_digest(changed),
            kid=each.kid,
            thumbprint=each.binding.thumbprint,
            purpose=each.purpose.value,
            not_after_ns=each.not_after_ns or 0,
            sizes=tuple(LogSize(o, s) for o, s in sorted(sizes.items())) if checkpoint else (),
        )
        changed = propose(changed, event)
    return changed


def _is_refuted(retired: EventRecord, sizes: Mapping[str, int]) -> bool:
    """Whether a proposed `key.retired` names more of a log than is reported of it, or nothing."""
    named = {each.origin: each.size for each in retired.signed.event.sizes}
    return retired.state is EventState.PROPOSED and any(
        named.get(origin, size + 1) > size for origin, size in sizes.items()
    )


def endorse(registry: Registry, digest: bytes, more: Iterable[Endorsement]) -> Registry:
    """Add endorsements to an event, and seal it if it now has those it needs and its turn came.

    Raises InvalidArgumentError (ENDORSEMENT_INVALID) for one that does not verify.
    """
    record = find(registry, digest)
    if record.state is not EventState.PROPOSED:
        return registry
    signed = record.signed.with_endorsements(_verified(registry, record, more))
    changed = registry
    if signed != record.signed:
        record = replace(record, signed=signed)
        changed = registry.with_event(record)
    if any(each.state is EventState.SEALED for each in registry.events):
        return changed
    about = registry.keys.get(record.signed.event.kid)
    if about is not None and _is_moot(registry, record, about):
        return changed
    try:
        history_of(registry).apply(signed)
    except VerificationError:
        return changed
    position = 1 + max(each.position for each in registry.events)
    return changed.with_event(replace(record, state=EventState.SEALED, position=position))


def record(registry: Registry, digest: bytes, receipt: str, now_ns: int, drain_ns: int) -> Registry:
    """Take a sealed event as recorded, and let it take effect.

    One that is recorded gets another receipt, if it has one now: it was not in the key ledger, or
    not any more. Raises FailedPreconditionError (KEY_EVENT_NOT_SEALED).
    """
    found = find(registry, digest)
    if found.state is EventState.RECORDED:
        if found.receipt == receipt:
            return registry
        return registry.with_event(replace(found, receipt=receipt))
    if found.state is EventState.PROPOSED:
        raise FailedPreconditionError(
            "KEY_EVENT_NOT_SEALED",
            "the event is not endorsed by all who must",
            metadata={"digest": digest.hex()},
        )
    changed = registry.with_event(replace(found, state=EventState.RECORDED, receipt=receipt))
    return _take_effect(changed, found.signed.event, now_ns, drain_ns)


def _take_effect(registry: Registry, event: KeyEvent, now_ns: int, drain_ns: int) -> Registry:
    if event.event is EventType.ROTATED:
        return take_place(registry, event, now_ns, drain_ns)
    if event.event is EventType.RETIRED:
        key = registry.get(event.kid)
        return registry.with_key(
            replace(
                key,
                not_after_ns=event.not_after_ns,
                sizes=history_of(registry).keys[event.kid].sizes,
            )
        )
    return registry


def take_place(registry: Registry, event: KeyEvent, now_ns: int, drain_ns: int) -> Registry:
    """Make the key of a `key.rotated` the active one, valid as the event says."""
    if registry.get(event.kid).state is KeyState.PENDING:
        registry = registry.activate(
            event.kid, now_ns, drain_ns=drain_ns, not_before_ns=event.not_before_ns
        )
    key = registry.get(event.kid)
    if key.epoch == 0:
        # Revoked before it ever signed, which an earlier version let happen to a sealed rotation.
        return registry
    sizes = tuple(SizeRange(each.origin, each.size) for each in event.sizes)
    return registry.with_key(replace(key, not_before_ns=event.not_before_ns, sizes=sizes))


def _verified(
    registry: Registry, record: EventRecord, more: Iterable[Endorsement]
) -> list[Endorsement]:
    genesis, event = registry.events[0].signed.event, record.signed.event
    # One by a key that the key ledger has not heard of would keep the event out for good.
    known = {event.kid, *history_of(registry).keys, *(key.kid for key in event.first_keys)}
    jwks = {each.kid: each.binding.jwk for each in registry if each.kid in known}
    jwks[genesis.kid] = genesis.jwk
    body = event.encode()
    checked = []
    for each in more:
        try:
            jwk = jwks[each.kid]
            if thumbprint(jwk) != each.thumbprint:
                raise InvalidSignatureError("its thumbprint is that of another key")
            verify_endorsement(public_key_from_jwk(jwk), each.sig, body)
        except (KeyError, InputError, InvalidSignatureError):
            raise InvalidArgumentError(
                "ENDORSEMENT_INVALID",
                f"the endorsement by {each.kid!r} does not verify",
                metadata={"kid": each.kid},
            ) from None
        checked.append(each)
    return checked
