"""A registry, built anew from the key ledger. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType

from keys_svc.registry import EventRecord, EventState, KeyBinding, KeyRecord, Registry
from provledger.errors import FailedPreconditionError, InvalidArgumentError, VerificationError
from provledger.key_events import SignedEvent
from provledger.key_history import History, KeyFacts, replay
from provledger.keyset import KeyPurpose, KeyState


def verified(events: Iterable[tuple[SignedEvent, str]], pin: bytes) -> History:
    """Replay the (event, receipt) pairs of a key ledger; all that a registry holds take a minute.

    Raises InvalidArgumentError (KEY_LEDGER_BROKEN).
    """
    try:
        return replay((signed for signed, _ in events), pin)
    except VerificationError as error:
        raise InvalidArgumentError("KEY_LEDGER_BROKEN", f"payloads: {error.message}") from None


def check_empty(registry: Registry, pairs: list[tuple[SignedEvent, str]]) -> bool:
    """Whether a registry is empty; False if it has exactly these events already.

    Raises FailedPreconditionError (REGISTRY_NOT_EMPTY).
    """
    known = [(each.signed, each.receipt) for each in registry.events]
    if (registry.keys or known) and known != pairs:
        raise FailedPreconditionError(
            "REGISTRY_NOT_EMPTY",
            "a registry that holds keys is not rebuilt; begin with an empty one",
        )
    return not known


def rebuild(
    registry: Registry,
    events: Iterable[tuple[SignedEvent, str]],
    pin: bytes,
    now_ns: int,
    history: History | None = None,
) -> Registry:
    """Build an empty registry from the (event, receipt) pairs of a key ledger.

    `history`: what `verified` made of these events and this pin before, if it did.

    One that has exactly these events already is returned as it is: the answer to an earlier call
    may have been lost.

    Raises FailedPreconditionError (REGISTRY_NOT_EMPTY), InvalidArgumentError (KEY_LEDGER_BROKEN).
    """
    pairs = list(events)
    is_empty = check_empty(registry, pairs)
    if history is None:
        history = verified(pairs, pin)
    if not is_empty:
        return registry
    records = tuple(
        EventRecord(number, signed, EventState.RECORDED, number, receipt)
        for number, (signed, receipt) in enumerate(pairs, 1)
    )
    keys = {
        facts.kid: _record_of(facts, number, now_ns)
        for number, facts in enumerate(history.keys.values(), 1)
    }
    return Registry(registry.revision + 1, MappingProxyType(keys), records)


def _record_of(facts: KeyFacts, number: int, now_ns: int) -> KeyRecord:
    # Nobody remembers until when a draining key was meant to drain: it ends now at the latest.
    not_after_ns = facts.not_after_ns
    state = facts.state
    if state is KeyState.DRAINING:
        not_after_ns = max(now_ns, facts.not_before_ns)
    return KeyRecord(
        KeyBinding(
            facts.kid, KeyPurpose(facts.purpose), facts.uri, dict(facts.jwk), facts.thumbprint
        ),
        number,
        # Retired is not stored: it is draining whose time has passed.
        KeyState.DRAINING if state is KeyState.RETIRED else state,
        facts.created_at_ns,
        facts.epoch,
        facts.not_before_ns or None,
        not_after_ns,
        facts.reason,
        facts.after,
        facts.sizes,
    )
