"""The history of an installation's keys, and the rules that make it one (design §6).

`replay` goes through the events of a key ledger, and holds these rules:

* the genesis is endorsed by every key it names, the recovery key included, and the pinned
  thumbprint is one of theirs;
* every later event is endorsed by a key of the same purpose that was valid before it (for a
  retirement or revocation: another one than the key it is about), or by the recovery key;
* a key that comes in endorses its own creation and its own activation; the first one of a purpose
  that the genesis does not name replaces none, so that only the recovery key can let it in;
* a key begins after the one that it replaces, unless the recovery key endorses that;
* a kid and a thumbprint come in once; epochs go up by one; nothing leaves retired or revoked.

Pure: no I/O, no clock. Whether a record is in the log at all is `provledger.key_ledger`'s to check.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from provledger.errors import InvalidSignatureError, VerificationError
from provledger.jwk import public_key_from_jwk
from provledger.key_events import (
    CHECK,
    EventType,
    KeyEvent,
    KeyRef,
    SignedEvent,
    verify_endorsement,
)
from provledger.keyset import (
    CoveredCheckpoint,
    KeyPurpose,
    KeySet,
    KeyState,
    SizeRange,
    VerificationKey,
)

_LIVE: Final = (KeyState.ACTIVE, KeyState.DRAINING)


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """What the history says of one key. `sizes`: from and to which tree size it signs, by log."""

    kid: str
    purpose: str
    uri: str
    jwk: Mapping[str, str] = field(hash=False)
    thumbprint: bytes
    created_at_ns: int
    state: KeyState = KeyState.PENDING
    epoch: int = 0
    not_before_ns: int = 0
    not_after_ns: int | None = None
    reason: str = ""
    after: tuple[CoveredCheckpoint, ...] = ()
    sizes: tuple[SizeRange, ...] = ()

    def verification_key(self) -> VerificationKey:
        """As verifiers use it; only for keys that were active once."""
        return VerificationKey.from_public_key(
            public_key_from_jwk(self.jwk),
            kid=self.kid,
            purpose=KeyPurpose(self.purpose),
            epoch=self.epoch,
            state=self.state,
            not_before_ns=self.not_before_ns,
            not_after_ns=self.not_after_ns,
            revocation_reason=self.reason,
            covered=self.after,
            sizes=self.sizes,
        )


@dataclass(frozen=True, slots=True)
class _Index:
    """What an event asks about all keys, so that none goes through thousands of retired ones.

    kids: by thumbprint. live: kids of active and draining keys. epochs: the highest, by purpose.
    """

    kids: Mapping[bytes, str] = field(default_factory=dict)
    live: tuple[str, ...] = ()
    epochs: Mapping[str, int] = field(default_factory=dict)

    def with_keys(self, changed: Iterable[KeyFacts]) -> _Index:
        """The index after some keys came in or changed."""
        kids, epochs, live = self.kids, dict(self.epochs), dict.fromkeys(self.live)
        for key in changed:
            if key.thumbprint not in kids:
                # A change of state is no new key, and shares what may be a large mapping.
                kids = dict(kids)
                kids[key.thumbprint] = key.kid
            epochs[key.purpose] = max(key.epoch, epochs.get(key.purpose, 0))
            if key.state in _LIVE:
                live[key.kid] = None
            else:
                live.pop(key.kid, None)
        return _Index(kids, tuple(live), epochs)


@dataclass(frozen=True, slots=True)
class History:
    """Where the keys stand after some events. Immutable; `apply` gives the next one."""

    genesis: bytes = b""
    recovery: KeyRef | None = None
    recovery_jwk: Mapping[str, str] = field(default_factory=dict, hash=False)
    keys: Mapping[str, KeyFacts] = field(default_factory=dict, hash=False)
    count: int = 0
    index: _Index = field(default_factory=_Index, compare=False, repr=False)

    def key_set(self) -> KeySet:
        """What a verifier needs: every key that was active once."""
        return KeySet(each.verification_key() for each in self.keys.values() if each.epoch > 0)

    def apply(self, signed: SignedEvent, *, pin: bytes | None = None) -> History:
        """The history after one more event; raises VerificationError (check `key_ledger`).

        `pin`, 32 bytes, is asked of the genesis only: a thumbprint among its endorsers.
        """
        event = signed.event
        if (event.event is EventType.GENESIS) != (self.recovery is None):
            raise _broken(event, "a key ledger begins with its genesis, and has only one")
        after = self._start(event) if event.event is EventType.GENESIS else self._next(event)
        endorsers = self._endorsers(signed, after)
        if event.event is EventType.GENESIS:
            named = {key.thumbprint for key in event.first_keys} | {event.thumbprint}
            if not named <= endorsers:
                raise _broken(event, "not every key it names endorses it")
            if pin is not None and pin not in named:
                raise _broken(event, "the pinned thumbprint is none of the genesis")
        else:
            self._check_endorsed(event, endorsers)
        return replace(after, count=self.count + 1)

    def may_endorse(self, event: KeyEvent) -> tuple[str, ...]:
        """Kids of keys valid before the event that may endorse it, besides the recovery key."""
        if self._is_early(event):
            return ()
        return tuple(
            each.kid
            for each in sorted(self._live(event.purpose), key=lambda key: -key.epoch)
            if not (event.event in (EventType.RETIRED, EventType.REVOKED) and each.kid == event.kid)
        )

    def _is_early(self, event: KeyEvent) -> bool:
        """Whether a key begins no later than the one it replaces, which began by a clock that was
        ahead: no other way leads back, and only the recovery key opens it."""
        previous = event.previous if event.event is EventType.ROTATED else None
        old = self.keys.get(previous.kid) if previous is not None else None
        return old is not None and event.not_before_ns <= old.not_before_ns

    def _check_endorsed(self, event: KeyEvent, endorsers: set[bytes]) -> None:
        valid = {self.keys[kid].thumbprint for kid in self.may_endorse(event)}
        if self.recovery is not None:
            valid.add(self.recovery.thumbprint)
        if not endorsers & valid:
            why = "no key that was valid before it, and not the recovery key either"
            if self._is_early(event):
                why = "it begins before the key it replaces, which takes the recovery key"
            raise _broken(event, why)
        comes_in = event.event in (EventType.CREATED, EventType.ROTATED)
        if comes_in and event.thumbprint not in endorsers:
            raise _broken(event, "the key that comes in does not endorse it as well")

    def _endorsers(self, signed: SignedEvent, after: History) -> set[bytes]:
        """Thumbprints of the keys whose endorsement verifies; one that does not is an error."""
        body = signed.event.encode()
        found: set[bytes] = set()
        for each in signed.endorsements:
            jwk = after._jwk_of(each.thumbprint)
            if jwk is None or each.thumbprint in found:
                raise _broken(signed.event, f"endorsed by {each.kid!r}, unknown or twice")
            known = after.keys.get(each.kid)
            named = known.thumbprint if known is not None else None
            if after.recovery is not None and each.kid == after.recovery.kid:
                named = after.recovery.thumbprint
            if named != each.thumbprint:
                raise _broken(signed.event, f"an endorsement calls its key {each.kid!r}: it is not")
            try:
                verify_endorsement(public_key_from_jwk(jwk), each.sig, body)
            except InvalidSignatureError:
                raise _broken(
                    signed.event, f"the endorsement by {each.kid!r} does not verify"
                ) from None
            found.add(each.thumbprint)
        return found

    def _start(self, event: KeyEvent) -> History:
        keys: dict[str, KeyFacts] = {}
        thumbprints = {event.thumbprint}
        for each in event.first_keys:
            if each.kid in keys or each.kid == event.kid or each.thumbprint in thumbprints:
                raise _broken(event, f"it names {each.kid!r}, or its key, twice")
            thumbprints.add(each.thumbprint)
            keys[each.kid] = KeyFacts(
                each.kid,
                each.purpose,
                each.uri,
                each.jwk,
                each.thumbprint,
                event.at_ns,
                state=KeyState.ACTIVE,
                epoch=1,
                not_before_ns=each.not_before_ns,
            )
        if len({key.purpose for key in keys.values()}) != len(keys) or not keys:
            raise _broken(event, "it names no key, or two of one purpose")
        return History(
            genesis=event.digest(),
            recovery=KeyRef(event.kid, event.thumbprint),
            recovery_jwk=event.jwk,
            keys=keys,
            index=_Index().with_keys(keys.values()),
        )

    def _next(self, event: KeyEvent) -> History:
        if event.genesis != self.genesis:
            raise _broken(event, "it belongs to another genesis")
        if event.event is EventType.CREATED:
            return self._created(event)
        known = self.keys.get(event.kid)
        if known is None:
            raise _broken(event, "there is no such key")
        if known.thumbprint != event.thumbprint or known.purpose != event.purpose:
            raise _broken(event, "the kid stands for another key")
        change = {
            EventType.ROTATED: self._rotated,
            EventType.RETIRED: self._retired,
            EventType.REVOKED: self._revoked,
        }[event.event]
        return self._with(*change(event, known))

    def _created(self, event: KeyEvent) -> History:
        known = event.kid in self.keys or self._jwk_of(event.thumbprint) is not None
        if known or (self.recovery is not None and event.kid == self.recovery.kid):
            raise _broken(event, "its kid or its key came in before; neither is ever reused")
        return self._with(
            KeyFacts(event.kid, event.purpose, event.uri, event.jwk, event.thumbprint, event.at_ns)
        )

    def _rotated(self, event: KeyEvent, known: KeyFacts) -> Sequence[KeyFacts]:
        if known.state is not KeyState.PENDING:
            raise _broken(event, f"the key is {known.state.value}, not pending")
        old = self.active(event.purpose)
        if event.previous != (KeyRef(old.kid, old.thumbprint) if old is not None else None):
            raise _broken(event, "the key it replaces is not the active one")
        if event.epoch != 1 + self.index.epochs.get(event.purpose, 0):
            raise _broken(event, "the epoch is not the next one")
        new = replace(
            known,
            state=KeyState.ACTIVE,
            epoch=event.epoch,
            not_before_ns=event.not_before_ns,
            sizes=tuple(SizeRange(each.origin, each.size) for each in event.sizes),
        )
        return (new,) if old is None else (replace(old, state=KeyState.DRAINING), new)

    def _retired(self, event: KeyEvent, known: KeyFacts) -> Sequence[KeyFacts]:
        if known.state is not KeyState.DRAINING:
            raise _broken(event, f"the key is {known.state.value}, not draining")
        if event.not_after_ns < known.not_before_ns:
            raise _broken(event, "it ends before it begins")
        starts = {each.origin: each.start for each in known.sizes}
        sizes = tuple(
            SizeRange(each.origin, starts.pop(each.origin, 0), each.size) for each in event.sizes
        ) + tuple(SizeRange(origin, start) for origin, start in starts.items())
        return (
            replace(known, state=KeyState.RETIRED, not_after_ns=event.not_after_ns, sizes=sizes),
        )

    def _revoked(self, event: KeyEvent, known: KeyFacts) -> Sequence[KeyFacts]:
        if known.state in (KeyState.ACTIVE, KeyState.REVOKED):
            raise _broken(event, f"the key is {known.state.value}")
        return (replace(known, state=KeyState.REVOKED, reason=event.reason, after=event.after),)

    def active(self, purpose: str) -> KeyFacts | None:
        """The key that signs for a purpose."""
        return next((k for k in self._live(purpose) if k.state is KeyState.ACTIVE), None)

    def _live(self, purpose: str) -> Iterable[KeyFacts]:
        """Keys of a purpose that sign, or may have signed what comes now: active and draining."""
        return (self.keys[kid] for kid in self.index.live if self.keys[kid].purpose == purpose)

    def _jwk_of(self, thumbprint: bytes) -> Mapping[str, str] | None:
        """The public key of a thumbprint that came in, the recovery key's included."""
        if self.recovery is not None and thumbprint == self.recovery.thumbprint:
            return self.recovery_jwk
        kid = self.index.kids.get(thumbprint)
        return None if kid is None else self.keys[kid].jwk

    def _with(self, *changed: KeyFacts) -> History:
        # A copy and an update: twice as fast as a merge of two, which hashes every kid again.
        keys = dict(self.keys)
        keys.update((key.kid, key) for key in changed)
        return replace(self, keys=keys, index=self.index.with_keys(changed))


def replay(events: Iterable[SignedEvent], pin: bytes | None) -> History:
    """Go through a whole history; raises VerificationError for the first broken rule.

    `pin`: thumbprint (32 bytes) of a key of the genesis, from the verifier's configuration; None
    takes any genesis, for those who hold the history themselves.
    """
    history = History()
    for signed in events:
        history = history.apply(signed, pin=pin)
    if history.recovery is None:
        raise VerificationError("the key ledger holds no genesis", check=CHECK)
    return history


def check_key_set(history: History, keys: KeySet) -> None:
    """Compare a JWK Set with the key ledger; raises VerificationError where they disagree.

    The end of a draining key is planned until its retirement is recorded, so until then the set
    may name one that the ledger does not.
    """
    expected = {key.kid: key for key in history.key_set()}
    for key in keys:
        known = expected.pop(key.kid, None)
        if known is None:
            raise VerificationError(
                f"key {key.kid!r} of the key set is not in the key ledger", check=CHECK
            )
        facts = ("thumbprint", "purpose", "epoch", "not_before_ns", "covered", "sizes")
        differs = [name for name in facts if getattr(key, name) != getattr(known, name)]
        if (key.state is KeyState.REVOKED) != (known.state is KeyState.REVOKED):
            differs.append("state")
        if (key.state is KeyState.ACTIVE) != (known.state is KeyState.ACTIVE):
            differs.append("state")
        if known.state is KeyState.RETIRED and key.not_after_ns != known.not_after_ns:
            differs.append("not_after_ns")
        if key.revocation_reason != known.revocation_reason:
            differs.append("revocation_reason")
        if differs:
            raise VerificationError(
                f"the key set and the key ledger disagree about key {key.kid!r}: "
                f"{', '.join(differs)}",
                check=CHECK,
            )
    if expected:
        missing = ", ".join(sorted(expected))
        raise VerificationError(f"the key set leaves out {missing}", check=CHECK)


def _broken(event: KeyEvent, why: str) -> VerificationError:
    return VerificationError(f"{event.event.value} of key {event.kid!r}: {why}", check=CHECK)
