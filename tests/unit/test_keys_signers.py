"""What reports of signing services may decide, and what must not be written down of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import fields, replace

import pytest

from anchor_svc.config import Settings
from keys_svc import journal
from keys_svc.registry import EventState, KeyBinding, Registry
from keys_svc.servicer import KeysServicer
from keys_svc.signers import Signers, check_report
from provledger import jcs
from provledger.api.keys.v1 import keys_pb2 as pb
from provledger.disclosure import FIELDS_SECRET_BYTES, commit_fields
from provledger.errors import FailedPreconditionError, IdentifierError
from provledger.key_events import KeyEvent, LogSize, parse_signed
from provledger.keyset import KeyPurpose
from provledger.rpc import auth
from tests.support.anchoring import eventually
from tests.unit.test_key_events import C1, H1, R1, W1, W2, X1
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

    async def update(self, decide: Callable[[Registry], Registry]) -> Registry:
        self.registry = decide(self.registry)
        return self.registry


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


def draining(now_ns: int) -> Registry:
    """A key ledger whose first checkpoint key was replaced, and has drained long before then."""
    registry = Registry()
    for key, purpose in zip((W1, C1, H1), KeyPurpose, strict=False):
        registry = registry.create(binding(key, purpose), 10)
    kept = carry(journal.propose_genesis(registry, binding(R1), 20))
    successor: KeyBinding = binding(X1, KeyPurpose.CHECKPOINT)
    rotated = journal.rotate(
        kept, X1.kid, KeyPurpose.CHECKPOINT, 400, drain_ns=DRAIN_NS, binding=successor
    )
    done = carry(rotated)
    assert done.get(C1.kid).not_after_ns < now_ns  # type: ignore[operator]
    return done


@pytest.mark.parametrize("lie", [{ORIGIN: 2**62}, {}, {"another": 5}, {ORIGIN: 201}])
def test_a_retirement_by_what_nobody_reports_any_more_gives_way(lie: dict[str, int]) -> None:
    """No anchor would endorse it, and nobody could take it back."""
    now_ns = 10**12
    ready = [KeyPurpose.CHECKPOINT]
    proposed = journal.retire(draining(now_ns), now_ns, ready, lie)
    (before,) = journal.open_events(proposed)
    # By whichever key it was endorsed meanwhile.
    event = before.signed.event
    proposed = proposed.with_event(
        replace(before, signed=before.signed.with_endorsements([W1.endorse(event)]))
    )
    assert journal.retire(proposed, now_ns, [], {ORIGIN: 200}) is proposed
    mended = journal.retire(proposed, now_ns + 5, ready, {ORIGIN: 200})
    (after,) = journal.open_events(mended)
    assert after.signed.event.sizes == (LogSize(ORIGIN, 200),)
    assert after.signed.endorsements == ()
    # What grows since, and what is not heard of, changes nothing: it could never be endorsed.
    for sizes in ({ORIGIN: 300}, {}, {ORIGIN: 200}):
        assert journal.retire(mended, now_ns + 9, ready, sizes) is mended
    done = carry(mended)
    assert [each.end for each in done.get(C1.kid).sizes] == [200]
    assert journal.retire(done, now_ns + 9, ready, {ORIGIN: 100}) is done


def test_a_retirement_that_is_sealed_goes_forward() -> None:
    now_ns = 10**12
    ready = [KeyPurpose.CHECKPOINT]
    proposed = journal.retire(draining(now_ns), now_ns, ready, {ORIGIN: 200})
    (event,) = journal.open_events(proposed)
    by = X1.endorse(event.signed.event)
    sealed = journal.endorse(proposed, event.signed.event.digest(), [by])
    assert [each.state for each in journal.open_events(sealed)] == [EventState.SEALED]
    assert journal.retire(sealed, now_ns, ready, {ORIGIN: 100}) is sealed


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


def test_no_caller_keeps_out_the_reports_of_another_one() -> None:
    """It would say alone how large the logs are, and what time it is."""
    signers = Signers(1000)
    for each in range(300):
        went = signers.report(report("checkpoint-1", {}, name=f"made-up {each}"), each, caller="x")
        assert went == (None if each < 256 else ("x", f"made-up {each - 256}", "1"))
    told = report("checkpoint-1", {ORIGIN: 100})
    assert signers.report(told, 300, caller="anchor") == ("x", "made-up 44", "1")
    # Neither does it end that of another one, or put its own in that place.
    signers.report(told, 300, caller="x", leaving=True)
    signers.report(report("checkpoint-1", {ORIGIN: 1}), 300, caller="x")
    for each in range(300):
        signers.report(report("checkpoint-1", {}, name=f"more {each}"), 400, caller="x")
    assert signers.log_sizes(400, {"checkpoint-1"}) == {ORIGIN: 100}
    assert len(signers.list(400)) == 256


def test_names_that_no_longer_report_leave_room_to_those_who_do() -> None:
    """Where all are anonymous, and somebody starts again and again under another name."""
    signers = Signers(1000)
    signers.report(report("checkpoint-1", {ORIGIN: 90}), 0)
    for each in range(255):
        signers.report(pb.Signer(watcher="witness", instance=str(each)), each)
    signers.report(report("checkpoint-1", {ORIGIN: 100}), 500)
    assert signers.report(pb.Signer(watcher="witness", instance="255"), 501) == (
        auth.ANONYMOUS,
        "witness",
        "0",
    )
    # All but two have ended by then.
    assert signers.report(pb.Signer(watcher="witness", instance="256"), 1255) is None
    assert len(signers.list(1255)) == 3
    assert signers.log_sizes(1255, {"checkpoint-1"}) == {ORIGIN: 100}


async def test_made_up_reports_do_not_hinder_a_replacement(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The first to report were all of one caller, who tells of another time."""
    registry = Registry()
    for key, purpose in zip((W1, C1, H1), KeyPurpose, strict=False):
        registry = registry.create(binding(key, purpose), 10)
    live = Live(registry.add_pending(binding(W2), 10))
    now_ns = 10**18
    servicer = KeysServicer(
        live,  # type: ignore[arg-type]
        drain_ns=DRAIN_NS,
        lease_ms=30_000,
        clock=lambda: now_ns,
    )

    async def told(caller: str, instance: str, time_ns: int) -> None:
        auth.set_principal(caller)
        signer = pb.Signer(watcher="witness", instance=instance, time_ns=time_ns)
        await servicer.ReportSigner(pb.ReportSignerRequest(signer=signer), None)

    for each in range(300):
        await told("spiffe://example/thief", str(each), 1)
    await told("spiffe://example/anchor", "a", now_ns)
    request = pb.RevokeKeyRequest(kid=W1.kid, reason="stolen", replacement_kid=W2.kid)
    await servicer.RevokeKey(request, None)
    active = live.registry.active(KeyPurpose.WITNESS)
    assert active is not None
    assert active.kid == W2.kid
    assert caplog.messages.count("keys.report_dropped") == 1


def test_one_report_does_not_say_how_late_it_is_where_another_agrees_with_us() -> None:
    """Whoever may report could lift the bound on the time of a receipt."""
    signers = Signers(1000)
    assert signers.latest_ns(500) == 500
    signers.report(pb.Signer(watcher="x", instance="1", time_ns=10**18), 500)
    assert signers.latest_ns(500) == 10**18
    signers.report(pb.Signer(watcher="witness", instance="1", time_ns=540), 500)
    assert signers.latest_ns(600) == 640
    signers.report(pb.Signer(watcher="anchor", instance="1", time_ns=400), 500)
    assert signers.latest_ns(600) == 600
