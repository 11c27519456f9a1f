"""The key registry: which key is active for which purpose, and how that may change. Pure.

The life of a key (design §6)::

    create ──> pending ──rotate/commit──> active ──rotate of another──> draining ──time──> retired
                  │                                                        │                  │
                  └──────────────────────────── revoke ────────────────────┴──────────────────┘

Rules held here:

* a kid is bound once to purpose, thumbprint and URI; none of them is ever reused for another kid
  (a URI is unique within its purpose: two services may call their files alike);
* a purpose has at most one active key; `epoch` counts its activations from 1;
* the first key of a purpose becomes active at once, every later one waits as pending;
* what an old key signs counts until the end of its drain window, so that nothing in flight fails,
  by whichever clock it is dated (`KeysServicer` adds how far that may be ahead);
* retired is not stored: it is draining whose time has passed.

Every transition is safe to repeat: a caller that lost the answer asks again and gets the same.
Left to others: time (`now_ns` is an argument), storage and its atomicity (`keys_svc.storage`),
who may call (`provledger.rpc`), the private keys (the signing services).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from provledger.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    NotFoundError,
)
from provledger.jwk import public_key_from_jwk
from provledger.key_events import EventType, SignedEvent
from provledger.keyset import (
    CoveredCheckpoint,
    KeyPurpose,
    KeySet,
    KeyState,
    SizeRange,
    VerificationKey,
)

MAX_KEYS: Final = 8192
MAX_PENDING: Final = 1000


@dataclass(frozen=True, slots=True)
class KeyBinding:
    """What a kid stands for, once and for all. `thumbprint` is RFC 7638, 32 bytes."""

    kid: str
    purpose: KeyPurpose
    uri: str
    # The members that RFC 7638 hashes, and no others.
    jwk: Mapping[str, str] = field(hash=False)
    thumbprint: bytes


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One key. Times are Unix nanoseconds; None where not set (yet).

    `number` counts registrations from 1, over all purposes. `epoch` is 0 until activated.
    """

    binding: KeyBinding
    number: int
    state: KeyState
    created_at_ns: int
    epoch: int = 0
    not_before_ns: int | None = None
    not_after_ns: int | None = None
    revocation_reason: str = ""
    covered: tuple[CoveredCheckpoint, ...] = ()
    sizes: tuple[SizeRange, ...] = ()

    @property
    def kid(self) -> str:
        """Its key id."""
        return self.binding.kid

    @property
    def purpose(self) -> KeyPurpose:
        """What it may sign."""
        return self.binding.purpose

    def state_at(self, now_ns: int) -> KeyState:
        """Return its state, where a drain window that has passed means retired."""
        over = self.not_after_ns is not None and now_ns > self.not_after_ns
        return KeyState.RETIRED if self.state is KeyState.DRAINING and over else self.state


class EventState(StrEnum):
    """Where a key event stands on its way to the key ledger."""

    PROPOSED = "proposed"
    SEALED = "sealed"
    RECORDED = "recorded"


@dataclass(frozen=True, slots=True)
class EventRecord:
    """A key event in the journal. `position` counts sealed events from 1, in the ledger's order;
    0 before. `receipt` is its name in the key ledger, once recorded."""

    number: int
    signed: SignedEvent
    state: EventState = EventState.PROPOSED
    position: int = 0
    receipt: str = ""

    @property
    def event_type(self) -> EventType:
        """What it says happened."""
        return self.signed.event.event


@dataclass(frozen=True, slots=True)
class Registry:
    """All keys, by kid, as of `revision`, which grows by one with every change.

    `events` is the journal of the key ledger (`keys_svc.journal`), by number; empty where there is
    no key ledger.
    """

    revision: int = 0
    keys: Mapping[str, KeyRecord] = field(default_factory=lambda: MappingProxyType({}))
    events: tuple[EventRecord, ...] = ()

    def __iter__(self) -> Iterator[KeyRecord]:
        return iter(self.keys.values())

    def get(self, kid: str) -> KeyRecord:
        """Return the key; raises NotFoundError."""
        record = self.keys.get(kid)
        if record is None:
            raise NotFoundError("KEY_NOT_FOUND", f"there is no key {kid!r}", metadata={"kid": kid})
        return record

    def active(self, purpose: KeyPurpose) -> KeyRecord | None:
        """Return the key that signs for `purpose`, if there is one."""
        return next((k for k in self if k.purpose == purpose and k.state is KeyState.ACTIVE), None)

    def predecessor(self, record: KeyRecord) -> KeyRecord | None:
        """Return the key that `record` replaced, or that it would replace if it is pending."""
        if record.epoch == 0:
            return self.active(record.purpose)
        earlier = [k for k in self if k.purpose == record.purpose and 0 < k.epoch < record.epoch]
        return max(earlier, key=lambda k: k.epoch, default=None)

    def signing_keys(self, now_ns: int) -> tuple[KeyRecord, ...]:
        """Return what a signing service needs: all keys pending, active or draining, in order."""
        wanted = (KeyState.PENDING, KeyState.ACTIVE, KeyState.DRAINING)
        return tuple(k for k in self if k.state_at(now_ns) in wanted)

    def key_set(self, now_ns: int) -> KeySet:
        """Return what a verifier needs: every key that ever was active."""
        return KeySet(_verification_key(k, now_ns) for k in self if k.epoch > 0)

    def create(self, binding: KeyBinding, now_ns: int) -> Registry:
        """Register a key: active if its purpose never had one, pending otherwise.

        Raises AlreadyExistsError (KEY_ID_REUSED, KEY_REUSED, KEY_URI_REUSED).
        """
        if self.is_registered(binding):
            return self
        registry = self.add_pending(binding, now_ns)
        if any(k.purpose == binding.purpose and k.epoch > 0 for k in self):
            return registry
        return registry.activate(binding.kid, now_ns, drain_ns=0)

    def rotate(
        self,
        kid: str,
        purpose: KeyPurpose,
        now_ns: int,
        *,
        drain_ns: int,
        binding: KeyBinding | None = None,
        hold_pending: bool = False,
    ) -> Registry:
        """Make `kid` the active key of `purpose`, registering it first if `binding` is given.

        With `hold_pending` it is only registered, for `commit` to finish. Raises as `create` and
        `commit` do, and FailedPreconditionError (KEY_PURPOSE_MISMATCH).
        """
        if binding is not None and not self.is_registered(binding):
            registry = self.add_pending(binding, now_ns)
        else:
            registry = self
        if kid not in registry.keys:
            raise NotFoundError(
                "KEY_NOT_FOUND",
                f"there is no key {kid!r}; give its uri and jwk to register it",
                metadata={"kid": kid},
            )
        record = registry.keys[kid]
        if record.purpose != purpose:
            raise FailedPreconditionError(
                "KEY_PURPOSE_MISMATCH",
                f"key {kid!r} has purpose {record.purpose.value}, not {purpose.value}; "
                "one key has one purpose",
                metadata={"kid": kid, "purpose": record.purpose.value},
            )
        if hold_pending and record.state is KeyState.PENDING:
            return registry
        return registry.commit(kid, now_ns, drain_ns=drain_ns)

    def commit(self, kid: str, now_ns: int, *, drain_ns: int) -> Registry:
        """Activate a pending key; the active one drains until now + `drain_ns` nanoseconds.

        Raises NotFoundError (KEY_NOT_FOUND), FailedPreconditionError (KEY_NOT_PENDING).
        """
        record = self.get(kid)
        if record.state is KeyState.ACTIVE:
            return self
        if record.state is not KeyState.PENDING:
            state = record.state_at(now_ns).value
            raise FailedPreconditionError(
                "KEY_NOT_PENDING",
                f"key {kid!r} is {state} and cannot become active again; "
                "make a new key under a new kid and rotate to that",
                metadata={"kid": kid, "state": state},
            )
        return self.activate(kid, now_ns, drain_ns=drain_ns)

    def with_event(self, record: EventRecord) -> Registry:
        """The registry with one event added to the journal, or changed in it."""
        events = {**{each.number: each for each in self.events}, record.number: record}
        return replace(
            self,
            revision=self.revision + 1,
            events=tuple(events[number] for number in sorted(events)),
        )

    def revoke(
        self, kid: str, reason: str, now_ns: int, after: tuple[CoveredCheckpoint, ...] = ()
    ) -> Registry:
        """Take a key out of use for good; what it signed no longer counts by itself.

        Raises NotFoundError (KEY_NOT_FOUND), FailedPreconditionError (KEY_ACTIVE,
        KEY_ALREADY_REVOKED).
        """
        record = self.get(kid)
        if record.state is KeyState.ACTIVE:
            raise FailedPreconditionError(
                "KEY_ACTIVE",
                f"key {kid!r} is the active {record.purpose.value} key; rotate to another one "
                f"first (keys rotate --kid NEW --purpose {record.purpose.value}), then revoke it",
                metadata={"kid": kid, "purpose": record.purpose.value},
            )
        if record.state is KeyState.REVOKED:
            _check_same_revocation(record, reason, after)
            return self
        not_after_ns = record.not_after_ns
        if not_after_ns is not None:
            # Never moved back before the activation, whatever the clock says.
            not_after_ns = min(not_after_ns, max(now_ns, record.not_before_ns or 0))
        revoked = replace(
            record,
            state=KeyState.REVOKED,
            not_after_ns=not_after_ns,
            revocation_reason=reason,
            covered=after,
        )
        return self.with_key(revoked)

    def is_registered(self, binding: KeyBinding) -> bool:
        """Say whether exactly this key is known; raises AlreadyExistsError if a part is taken."""
        known = self.keys.get(binding.kid)
        if known is not None:
            if known.binding == binding:
                return True
            differs = ", ".join(
                name
                for name in ("purpose", "uri", "thumbprint")
                if getattr(known.binding, name) != getattr(binding, name)
            )
            raise AlreadyExistsError(
                "KEY_ID_REUSED",
                f"kid {binding.kid!r} stands for another key already ({differs} differ); "
                "a kid is never reused: choose a new one",
                metadata={"kid": binding.kid, "differs": differs},
            )
        for other in self:
            if other.binding.thumbprint == binding.thumbprint:
                raise AlreadyExistsError(
                    "KEY_REUSED",
                    f"this key is registered already, as {other.kid!r} with purpose "
                    f"{other.purpose.value}; one key has one kid and one purpose",
                    metadata={"kid": binding.kid, "registered_as": other.kid},
                )
            if other.purpose == binding.purpose and other.binding.uri == binding.uri:
                raise AlreadyExistsError(
                    "KEY_URI_REUSED",
                    f"the URI belongs to key {other.kid!r}; a URI names one exact key for good",
                    metadata={"kid": binding.kid, "registered_as": other.kid},
                )
        return False

    def add_pending(self, binding: KeyBinding, now_ns: int) -> Registry:
        """Add a key as pending; raises FailedPreconditionError (TOO_MANY_KEYS)."""
        if len(self.keys) >= MAX_KEYS:
            raise FailedPreconditionError(
                "TOO_MANY_KEYS", f"the registry holds {MAX_KEYS} keys, which is all it takes"
            )
        if sum(each.state is KeyState.PENDING for each in self) >= MAX_PENDING:
            # Whoever watches gets all of them, with their events, in one message.
            raise FailedPreconditionError(
                "TOO_MANY_KEYS",
                f"{MAX_PENDING} keys are pending, which is all the registry takes; revoke those "
                "that are not to be used",
            )
        number = max((k.number for k in self), default=0) + 1
        return self.with_key(KeyRecord(binding, number, KeyState.PENDING, created_at_ns=now_ns))

    def activate(
        self, kid: str, now_ns: int, *, drain_ns: int, not_before_ns: int | None = None
    ) -> Registry:
        """Make a pending key active, and let the active one drain until now + `drain_ns`.

        `not_before_ns`: when its validity began, where the key ledger says so.
        """
        record = self.keys[kid]
        old = self.active(record.purpose)
        epoch = max((k.epoch for k in self if k.purpose == record.purpose), default=0) + 1
        registry = self
        if old is not None:
            # A clock that went back must not end a key before it began.
            now_ns = max(now_ns, (old.not_before_ns or 0) + 1)
            drained = replace(old, state=KeyState.DRAINING, not_after_ns=now_ns + drain_ns)
            registry = registry.with_key(drained)
        active = replace(
            record,
            state=KeyState.ACTIVE,
            epoch=epoch,
            not_before_ns=now_ns if not_before_ns is None else not_before_ns,
        )
        return registry.with_key(active)

    def with_key(self, record: KeyRecord) -> Registry:
        """The registry with one key added or changed."""
        keys = {**self.keys, record.kid: record}
        return replace(self, revision=self.revision + 1, keys=MappingProxyType(keys))


def _check_same_revocation(
    record: KeyRecord, reason: str, after: tuple[CoveredCheckpoint, ...]
) -> None:
    if record.revocation_reason != reason:
        what = "for another reason, which stands"
    elif set(record.covered) != set(after):
        covered = ", ".join(f"{each.origin} up to {each.size}" for each in record.covered)
        what = (
            f"with other checkpoints, which stand ({covered or 'none, so nothing it signed'}); "
            "to run the same again, give the same"
        )
    else:
        return
    raise FailedPreconditionError(
        "KEY_ALREADY_REVOKED",
        f"key {record.kid!r} was revoked before, {what}",
        metadata={"kid": record.kid},
    )


def _verification_key(record: KeyRecord, now_ns: int) -> VerificationKey:
    return VerificationKey.from_public_key(
        public_key_from_jwk(record.binding.jwk),
        kid=record.kid,
        purpose=record.purpose,
        epoch=record.epoch,
        state=record.state_at(now_ns),
        not_before_ns=record.not_before_ns or 0,
        not_after_ns=record.not_after_ns,
        revocation_reason=record.revocation_reason,
        covered=record.covered,
        sizes=record.sizes,
    )
