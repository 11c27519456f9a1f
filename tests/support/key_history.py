"""The key ledger of the ledgers in `tests.support.chain`, in the same log as theirs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from provledger import dsse, jcs
from provledger.jwk import jwk_from_public_key, thumbprint_of
from provledger.key_events import (
    LEDGER,
    PAYLOAD_TYPE,
    TENANT,
    Endorsement,
    EventType,
    FirstKey,
    KeyEvent,
    KeyRef,
    LogSize,
    SignedEvent,
    request_id,
)
from provledger.keyset import CoveredCheckpoint
from tests.support.chain import ORIGIN, START_NS, Chain, private_key

FIRST = {"witness-1": "witness", "checkpoint-1": "checkpoint", "head-1": "head"}
RECOVERY = "recovery-1"


def thumbprint(kid: str) -> bytes:
    """RFC 7638 thumbprint of the key that belongs to a label, 32 bytes."""
    return thumbprint_of(private_key(kid).public_key())


def jwk(kid: str) -> dict[str, str]:
    """Its public half."""
    return jwk_from_public_key(private_key(kid).public_key())


PIN = thumbprint(RECOVERY)


def genesis(first: Mapping[str, str]) -> KeyEvent:
    """The first event, with these keys and their purposes."""
    return KeyEvent(
        event=EventType.GENESIS,
        at_ns=START_NS,
        kid=RECOVERY,
        thumbprint=thumbprint(RECOVERY),
        jwk=jwk(RECOVERY),
        first_keys=tuple(
            FirstKey(kid, purpose, f"local:{kid}.pem", jwk(kid), thumbprint(kid), 0)
            for kid, purpose in first.items()
        ),
    )


GENESIS = genesis(FIRST)


def endorsed(event: KeyEvent, *by: str) -> SignedEvent:
    """The event, endorsed by the keys of these labels."""
    message = dsse.pae(PAYLOAD_TYPE, event.encode())
    return SignedEvent(
        event,
        tuple(Endorsement(kid, thumbprint(kid), private_key(kid).sign(message)) for kid in by),
    )


def replaced(
    old: str, new: str, purpose: str, covered: CoveredCheckpoint, size: int = 0
) -> list[SignedEvent]:
    """`new` takes the place of `old`, which is revoked; by the recovery key."""

    def about(kind: EventType, kid: str, **more: object) -> KeyEvent:
        return KeyEvent(
            event=kind,
            at_ns=START_NS,
            kid=kid,
            thumbprint=thumbprint(kid),
            purpose=purpose,
            genesis=GENESIS.digest(),
            **more,  # type: ignore[arg-type]
        )

    created = about(EventType.CREATED, new, uri=f"local:{new}.pem", jwk=jwk(new))
    rotated = about(
        EventType.ROTATED,
        new,
        epoch=2,
        not_before_ns=1,
        previous=KeyRef(old, thumbprint(old)),
        sizes=(LogSize(ORIGIN, size),) if purpose == "checkpoint" else (),
    )
    revoked = about(EventType.REVOKED, old, reason="stolen", after=(covered,))
    return [
        endorsed(created, RECOVERY, new),
        endorsed(rotated, RECOVERY, new),
        endorsed(revoked, RECOVERY),
    ]


def key_chain(
    events: Iterable[SignedEvent] = (),
    *,
    leaves: Iterable[bytes] = (),
    seed: str = "chain",
    first: Mapping[str, str] | None = None,
) -> Chain:
    """The key ledger with its genesis and these events; `leaves`: what its log holds as well. With
    another `seed` it has another uid; `first` is of which keys its genesis tells besides."""
    chain = Chain(tenant=TENANT, ledger=LEDGER, seed=seed)
    chain.leaves[1:1] = list(leaves)
    named = {**FIRST, **(first or {})}
    for each in [endorsed(genesis(named), *named, RECOVERY), *events]:
        record(chain, each)
    return chain


def record(keys: Chain, signed: SignedEvent, *, receipt_type: str = "", request: str = "") -> None:
    """Append an event to a key ledger; type and request id are its own, unless told otherwise."""
    misstated = keys.misstated
    keys.misstated = misstated | {"request_id": request or request_id(signed.event.digest())}
    keys.append([(receipt_type or signed.event.event.value, jcs.parse(signed.encode()))])
    keys.misstated = misstated


def in_one_log(chain: Chain, keys: Chain) -> None:
    """Give two ledgers one log, in which the key ledger comes last."""
    own = [leaf for leaf in chain.leaves if leaf not in keys.leaves[1:]]
    shared = [*own, *(leaf for leaf in keys.leaves[1:] if leaf not in own)]
    chain.leaves, keys.leaves = shared, list(shared)
