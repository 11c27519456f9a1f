"""Endorsements of a key event's SHA-256, by keys whose provider does not take the whole event."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keys_svc import journal
from keys_svc.registry import EventState, Registry
from provledger import dsse
from provledger.errors import InvalidArgumentError, InvalidSignatureError, VerificationError
from provledger.jwk import Algorithm, PublicKey, verify_signature
from provledger.key_events import (
    Endorsement,
    EventType,
    KeyEvent,
    KeyRef,
    LogSize,
    SignedEvent,
    parse_signed,
    verify_endorsement,
)
from provledger.key_history import replay
from provledger.keyset import KeyState
from provledger.kms.errors import KMSConfigError, KMSMessageTooLongError
from provledger.kms.signing import sign_key_event
from tests.unit.test_key_events import C1, GENESIS, R1, START, W1, W2, Maker, about, maker, signed
from tests.unit.test_keys_journal import kept, rotate  # noqa: F401

WHOLE = "application/vnd.provledger.key-event.v1+json"
DIGEST = "application/vnd.provledger.key-event-sha256.v1"
C2 = maker("checkpoint-2", 12)
SIZES = tuple(LogSize(f"log.example/{number:032x}", number) for number in range(1000))
CREATED = about(EventType.CREATED, C2, "checkpoint", uri="local:c2.pem", jwk=C2.jwk)
ROTATED = about(
    EventType.ROTATED,
    C2,
    "checkpoint",
    epoch=2,
    not_before_ns=300,
    previous=KeyRef(C1.kid, C1.thumbprint),
    sizes=SIZES,
)
RETIRED = about(EventType.RETIRED, C1, "checkpoint", not_after_ns=900, sizes=SIZES)


def sha256(event: KeyEvent) -> bytes:
    return hashlib.sha256(event.encode()).digest()


def by_digest(key: Maker, event: KeyEvent) -> Endorsement:
    sig = key.private.sign(dsse.pae(DIGEST, sha256(event)))
    return Endorsement(key.kid, key.thumbprint, sig)


def test_keys_are_replaced_by_events_that_are_endorsed_by_their_digest() -> None:
    """The two forms may stand beside each other: one key may be elsewhere than the other."""
    events = [
        START,
        SignedEvent(CREATED, (by_digest(C1, CREATED), C2.endorse(CREATED))),
        SignedEvent(ROTATED, (by_digest(C1, ROTATED), by_digest(C2, ROTATED))),
        SignedEvent(RETIRED, (by_digest(C2, RETIRED),)),
    ]
    assert [parse_signed(each.encode()) for each in events] == events
    keys = replay(events, R1.thumbprint).keys
    assert keys["checkpoint-1"].state is KeyState.RETIRED
    assert keys["checkpoint-2"].state is KeyState.ACTIVE


OTHER = replace(ROTATED, sizes=SIZES[:-1])
NEIGHBOURS: dict[str, Callable[[], bytes]] = {
    "the digest of another event": lambda: dsse.pae(DIGEST, sha256(OTHER)),
    "the digest under the type of whole events": lambda: dsse.pae(WHOLE, sha256(ROTATED)),
    "the event under the type of digests": lambda: dsse.pae(DIGEST, ROTATED.encode()),
    "another version of the type": lambda: dsse.pae(DIGEST + "1", sha256(ROTATED)),
    "the digest in hex": lambda: dsse.pae(DIGEST, sha256(ROTATED).hex().encode()),
    "half of the digest": lambda: dsse.pae(DIGEST, sha256(ROTATED)[:16]),
    "the digest alone": lambda: sha256(ROTATED),
    "the digest of the whole PAE": lambda: dsse.pae(
        DIGEST, hashlib.sha256(dsse.pae(WHOLE, ROTATED.encode())).digest()
    ),
    "the whole of another event": lambda: dsse.pae(WHOLE, OTHER.encode()),
}


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_what_is_neither_form_of_the_event_endorses_nothing(name: str) -> None:
    wrong = Endorsement(C1.kid, C1.thumbprint, C1.private.sign(NEIGHBOURS[name]()))
    with pytest.raises(InvalidSignatureError):
        verify_endorsement(C1.private.public_key(), wrong.sig, ROTATED.encode())
    events = [START, signed(CREATED, C1, C2), SignedEvent(ROTATED, (wrong, C2.endorse(ROTATED)))]
    with pytest.raises(VerificationError, match="'checkpoint-1' does not verify"):
        replay(events, None)


def test_digest_by_another_key_endorses_nothing() -> None:
    wrong = replace(by_digest(C2, ROTATED), kid=C1.kid, thumbprint=C1.thumbprint)
    events = [START, signed(CREATED, C1, C2), SignedEvent(ROTATED, (wrong, C2.endorse(ROTATED)))]
    with pytest.raises(VerificationError, match="'checkpoint-1' does not verify"):
        replay(events, None)


def test_keys_service_takes_the_digest_and_no_neighbour_of_it(kept: Registry) -> None:  # noqa: F811
    registry = rotate(kept, W2)
    event = journal.open_events(registry)[0].signed.event
    good = by_digest(W1, event)
    wrong = replace(good, sig=W1.private.sign(dsse.pae(WHOLE, sha256(event))))
    with pytest.raises(InvalidArgumentError) as caught:
        journal.endorse(registry, event.digest(), [wrong])
    assert caught.value.reason == "ENDORSEMENT_INVALID"
    sealed = journal.endorse(registry, event.digest(), [good, by_digest(W2, event)])
    assert journal.find(sealed, event.digest()).state is EventState.SEALED


# --- signing ---


@dataclass
class BoundedSigner:
    """A key whose provider takes messages up to so many bytes."""

    most: int
    refusal: type[KMSConfigError] = KMSMessageTooLongError
    private: Ed25519PrivateKey = C1.private
    signed: list[bytes] = field(default_factory=list)
    uri: str = "test:"
    algorithm: Algorithm = Algorithm.ED25519

    @property
    def public_key(self) -> PublicKey:
        return self.private.public_key()

    async def sign(self, message: bytes) -> bytes:
        if len(message) > self.most:
            raise self.refusal("too long")
        self.signed.append(message)
        return self.private.sign(message)

    async def close(self) -> None:
        pass


async def test_event_is_endorsed_whole_wherever_its_key_takes_it() -> None:
    for event in (GENESIS, CREATED, ROTATED, RETIRED):
        whole = dsse.pae(WHOLE, event.encode())
        signer = BoundedSigner(len(whole))
        verify_signature(signer.public_key, await sign_key_event(signer, event), whole)
        signer = BoundedSigner(len(whole) - 1)
        sig = await sign_key_event(signer, event)
        assert signer.signed == [dsse.pae(DIGEST, sha256(event))]
        verify_endorsement(signer.public_key, sig, event.encode())


async def test_key_that_refuses_for_another_reason_is_not_asked_for_the_digest() -> None:
    signer = BoundedSigner(0, KMSConfigError)
    with pytest.raises(KMSConfigError, match="too long"):
        await sign_key_event(signer, ROTATED)
    with pytest.raises(KMSMessageTooLongError):
        await sign_key_event(BoundedSigner(0), ROTATED)
    assert not signer.signed
