"""What reports of signing services may decide, and what must not be written down of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import fields

import pytest

from anchor_svc.config import Settings
from keys_svc import journal
from keys_svc.registry import KeyBinding, Registry
from keys_svc.servicer import KeysServicer
from keys_svc.signers import Signers, check_report
from provledger import jcs
from provledger.api.keys.v1 import keys_pb2 as pb
from provledger.disclosure import FIELDS_SECRET_BYTES, commit_fields
from provledger.errors import FailedPreconditionError, IdentifierError
from provledger.key_events import KeyEvent, LogSize, parse_signed
from provledger.keyset import KeyPurpose
from tests.support.anchoring import eventually
from tests.unit.test_key_events import C1, H1, R1, W1, X1
from tests.unit.test_keys_journal import DRAIN_NS, binding, carry

CHECKPOINT = pb.KEY_PURPOSE_CHECKPOINT
ORIGIN = "log.example/0"
# Those of tenants, and the one that the others share.
MOST_LOGS = 1 + next(
    each.metadata["max"] for each in fields(Settings) if each.name == "max_own_logs"
)


def report(
    kid: str, sizes: dict[str, int], *, purpose: pb.KeyPurpose = CHECKPOINT, name: str = "anchor"
) -> pb.Signer:
    return pb.Signer(
        watcher=name,
        instance="1",
        keys=[pb.SignerKey(purpose=purpose, kid=kid, epoch=1)],
        log_sizes=[pb.LogSize(origin=origin, size=size) for origin, size in sizes.items()],
    )


def test_sizes_are_said_by_those_who_sign_checkpoints() -> None:
    """Whoever else may report could bound a key for good, or lift its bound."""
    signers = Signers(1000)
    signers.report(report("checkpoint-1", {ORIGIN: 100}), 0)
    signers.report(
        report("witness-1", {ORIGIN: 10**15}, purpose=pb.KEY_PURPOSE_WITNESS, name="witness"), 0
    )
    signers.report(report("checkpoint-9", {ORIGIN: 10**15}, name="other"), 0)
    signers.report(pb.Signer(watcher="x", instance="1", log_sizes=[pb.LogSize(origin="y")]), 0)
    assert signers.log_sizes(500, {"checkpoint-1"}) == {ORIGIN: 100}
    assert signers.log_sizes(500, ()) == {}
    assert signers.log_sizes(5000, {"checkpoint-1"}) == {}


@pytest.mark.parametrize(
    ("signer", "field"),
    [
        (report("c", {"": 1}), "signer.log_sizes[0].origin"),
        (report("c", {"a" * 1025: 1}), "signer.log_sizes[0].origin"),
        (report("c", {"a": 1, "b": -1}), "signer.log_sizes[1].size"),
        (report("c", {str(each): 1 for each in range(10_002)}), "signer.log_sizes"),
        (report("", {}), "signer.keys[0].kid"),
        (pb.Signer(watcher="a", instance="b", keys=[pb.SignerKey(kid="c")] * 17), "signer.keys"),
        (pb.Signer(watcher="", instance="b"), "signer.watcher"),
    ],
)
def test_reports_that_could_not_be_written_down_are_refused(signer: pb.Signer, field: str) -> None:
    with pytest.raises(IdentifierError) as caught:
        check_report(signer)
    assert caught.value.field == field
    check_report(report("c", {"a" * 1024: 0}))


def test_an_event_that_nobody_could_read_is_not_proposed() -> None:
    """It would be stored, and the registry could not be read any more."""
    registry = Registry()
    for key, purpose in zip((W1, C1, H1), KeyPurpose, strict=False):
        registry = registry.create(binding(key, purpose), 10)
    kept = carry(journal.propose_genesis(registry, binding(R1), 20))
    successor: KeyBinding = binding(X1, KeyPurpose.CHECKPOINT)

    def rotated(count: int) -> Registry:
        sizes = [LogSize(f"provledger.local/{each:048}", 10**6) for each in range(count)]
        return journal.rotate(
            kept,
            X1.kid,
            KeyPurpose.CHECKPOINT,
            400,
            drain_ns=1000,
            binding=successor,
            sizes=sizes,
        )

    for event in rotated(MOST_LOGS).events:
        payload = event.signed.encode()
        assert parse_signed(payload) == event.signed
        # The witness takes it as a document.
        commit_fields(jcs.parse(payload), bytes(FIELDS_SECRET_BYTES))
    with pytest.raises(FailedPreconditionError) as caught:
        rotated(3 * MOST_LOGS)
    assert caught.value.reason == "KEY_EVENT_TOO_LARGE"


class Live:
    """A registry in memory, and when it was looked at `looks` times more."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.looks = 0

    async def load(self) -> Registry:
        self.looks += 1
        return self.registry

    async def update(self, decide: Callable[[Registry], Registry]) -> None:
        self.registry = decide(self.registry)


async def test_a_key_is_retired_by_sizes_that_were_reported_after_its_end() -> None:
    """A report was lost: the one before it counts what the old key signed until then."""
    registry = Registry()
    for key, purpose in zip((W1, C1, H1), KeyPurpose, strict=False):
        registry = registry.create(binding(key, purpose), 10)
    kept = carry(journal.propose_genesis(registry, binding(R1), 20))
    successor: KeyBinding = binding(X1, KeyPurpose.CHECKPOINT)
    rotated = journal.rotate(
        kept, X1.kid, KeyPurpose.CHECKPOINT, 400, drain_ns=DRAIN_NS, binding=successor
    )
    live = Live(carry(rotated))
    end_ns = live.registry.get(C1.kid).not_after_ns
    assert end_ns is not None
    now_ns = end_ns
    lease_ns = 30_000_000_000
    signers = Signers(lease_ns)
    servicer = KeysServicer(
        live,  # type: ignore[arg-type]
        drain_ns=DRAIN_NS,
        lease_ms=30_000,
        signers=signers,
        clock=lambda: now_ns,
    )

    async def looked() -> list[KeyEvent]:
        looks = live.looks
        await eventually(lambda: live.looks >= looks + 2)
        return [each.signed.event for each in journal.open_events(live.registry)]

    signers.report(report(X1.kid, {ORIGIN: 100}), now_ns)
    running = asyncio.create_task(servicer.retire_drained(0.001))
    now_ns += lease_ns
    assert await looked() == []
    # An anchor whose clock is behind signed with it for as long as it may go by what it heard.
    signers.report(report(X1.kid, {ORIGIN: 120}), now_ns)
    assert await looked() == []
    now_ns += lease_ns
    signers.report(report(X1.kid, {ORIGIN: 130}), now_ns)
    await eventually(lambda: bool(journal.open_events(live.registry)))
    (event,) = await looked()
    assert (event.kid, event.sizes) == (C1.kid, (LogSize(ORIGIN, 130),))
    running.cancel()


def test_our_clock_is_ahead_if_nobody_agrees_with_it() -> None:
    signers = Signers(1000)
    assert signers.ahead_ns(500) == 0
    for instance, time_ns in (("a", 100), ("b", 0)):
        signers.report(pb.Signer(watcher="witness", instance=instance, time_ns=time_ns), 500)
    # One that does not say, as of an earlier version, is not asked.
    assert signers.ahead_ns(600) == 400
    signers.report(pb.Signer(watcher="anchor", instance="c", time_ns=490), 500)
    assert signers.ahead_ns(600) == 10
    signers.report(pb.Signer(watcher="anchor", instance="c", time_ns=900), 500)
    assert signers.ahead_ns(600) == 0
    assert signers.ahead_ns(1501) == 0, "they do not count for ever"
