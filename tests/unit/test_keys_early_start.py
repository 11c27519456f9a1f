"""By whose clock a key has not begun, so that the one in its place begins before it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from keys_svc import journal
from keys_svc.registry import Registry
from keys_svc.servicer import KeysServicer
from keys_svc.signers import Signers
from provledger.api.keys.v1 import keys_pb2 as pb
from provledger.keyset import MAX_CLOCK_AHEAD_NS
from tests.unit.test_key_events import W2, W3
from tests.unit.test_keys_journal import DRAIN_NS, binding, carry, rotate
from tests.unit.test_keys_revoking import kept

DAY_NS = 24 * 3600 * 10**9
BEGAN_NS = 10 * DAY_NS


class Live:
    """A registry in memory."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    async def update(self, decide: Callable[[Registry], Registry]) -> Registry:
        self.registry = decide(self.registry)
        return self.registry


def signer(kid: str, time_ns: int, instance: str = "a") -> pb.Signer:
    key = pb.SignerKey(purpose=pb.KEY_PURPOSE_WITNESS, kid=kid, epoch=2)
    return pb.Signer(watcher="witness", instance=instance, keys=[key], time_ns=time_ns)


@pytest.mark.parametrize(
    ("signers", "early"),
    [
        # It is our clock that is wrong: who signs has the time in which the key began.
        ((signer("witness-2", BEGAN_NS + 5),), False),
        ((signer("witness-2", BEGAN_NS - DAY_NS + MAX_CLOCK_AHEAD_NS + 1),), False),
        ((signer("witness-2", BEGAN_NS - DAY_NS + MAX_CLOCK_AHEAD_NS),), True),
        # As elsewhere, one that agrees with us is enough.
        ((signer("witness-2", BEGAN_NS), signer("witness-2", BEGAN_NS - DAY_NS, "b")), True),
        # Nobody says so who signs with the key.
        ((signer("witness-9", BEGAN_NS),), True),
        ((), True),
    ],
)
async def test_a_key_begins_before_the_one_it_replaces_unless_our_clock_is_behind(
    signers: tuple[pb.Signer, ...], early: bool
) -> None:
    registry = carry(rotate(kept(), W2, BEGAN_NS), now_ns=BEGAN_NS)
    live = Live(carry(journal.create(registry, binding(W3), BEGAN_NS + 1), now_ns=BEGAN_NS + 1))
    now_ns = BEGAN_NS - DAY_NS
    reports = Signers(30 * 10**9)
    for each in signers:
        reports.report(each, now_ns)
    servicer = KeysServicer(
        live,  # type: ignore[arg-type]
        drain_ns=DRAIN_NS,
        lease_ms=30_000,
        signers=reports,
        clock=lambda: now_ns,
    )
    request = pb.RevokeKeyRequest(kid="witness-2", reason="stolen", replacement_kid="witness-3")
    await servicer.RevokeKey(request, None)
    begins_ns = live.registry.get("witness-3").not_before_ns
    assert begins_ns == (now_ns if early else BEGAN_NS + 1)
