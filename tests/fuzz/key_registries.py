"""Registries of the keys service that requests are tried on; the same in every run."""

from __future__ import annotations

from typing import Final

from keys_svc import journal
from keys_svc.registry import EventState, KeyBinding, Registry
from provledger import dsse
from provledger.key_events import PAYLOAD_TYPE, Endorsement, EventType, SignedEvent
from provledger.keyset import KeyPurpose
from provledger.rpc.key_events import endorsement_to_pb
from tests.support.chain import private_key
from tests.support.key_history import jwk, thumbprint

NOW_NS: Final = 1000
RECOVERY: Final = "recovery-1"
SPARE: Final = "spare"
RECEIPT_NAME: Final = "tenants/system/ledgers/keys/receipts/019aa2a3-4768-71e1-a1e1-e1e1e1e1e1e1"
_FIRST: Final = {
    "witness-1": KeyPurpose.WITNESS,
    "checkpoint-1": KeyPurpose.CHECKPOINT,
    "head-1": KeyPurpose.HEAD,
    "receipt-1": KeyPurpose.RECEIPT,
}


def binding(kid: str, purpose: KeyPurpose) -> KeyBinding:
    """A key of a label."""
    return KeyBinding(kid, purpose, f"local:{kid}.pem", jwk(kid), thumbprint(kid))


def endorsement(signed: SignedEvent, kid: str) -> Endorsement:
    """That of the key of a label."""
    message = dsse.pae(PAYLOAD_TYPE, signed.event.encode())
    return Endorsement(kid, thumbprint(kid), private_key(kid).sign(message))


def _endorse(registry: Registry, signed: SignedEvent, *kids: str) -> Registry:
    return journal.endorse(
        registry, signed.event.digest(), [endorsement(signed, kid) for kid in kids]
    )


def _plain() -> Registry:
    """No key ledger; a rotation of the receipt key is held."""
    registry = Registry()
    for kid, purpose in _FIRST.items():
        registry = registry.create(binding(kid, purpose), 10)
    return journal.rotate(
        registry,
        SPARE,
        KeyPurpose.RECEIPT,
        20,
        drain_ns=1000,
        binding=binding(SPARE, KeyPurpose.RECEIPT),
        hold_pending=True,
    )


def _kept() -> Registry:
    """A key ledger; the events of a rotation of the receipt key are open, the first one sealed."""
    registry = Registry()
    for kid, purpose in _FIRST.items():
        registry = registry.create(binding(kid, purpose), 10)
    registry = journal.propose_genesis(registry, binding(RECOVERY, KeyPurpose.WITNESS), 20)
    (genesis,) = journal.open_events(registry)
    registry = _endorse(registry, genesis.signed, *_FIRST, RECOVERY)
    registry = journal.record(registry, genesis.signed.event.digest(), RECEIPT_NAME, 30, 1000)
    registry = journal.rotate(
        registry,
        SPARE,
        KeyPurpose.RECEIPT,
        40,
        drain_ns=1000,
        binding=binding(SPARE, KeyPurpose.RECEIPT),
    )
    created = journal.open_events(registry)[0]
    assert created.event_type is EventType.CREATED
    return _endorse(registry, created.signed, "receipt-1", SPARE)


EMPTY: Final = Registry()
PLAIN: Final = _plain()
KEPT: Final = _kept()
ALL: Final = (EMPTY, PLAIN, KEPT)
SEALED: Final = next(each for each in KEPT.events if each.state is EventState.SEALED)
GENESIS: Final = KEPT.events[0].signed
ENDORSEMENTS: Final = [endorsement_to_pb(each) for each in SEALED.signed.endorsements]
PIN: Final = thumbprint(RECOVERY)
