"""The key ledger's RPCs on a real keys service: the journal survives, a registry is rebuilt."""

from __future__ import annotations

from pathlib import Path

import pytest

from keys_svc import journal
from keys_svc.registry import Registry
from keys_svc.revoking import revoke
from provledger import jcs, names
from provledger.api.keys.v1 import keys_pb2 as pb
from provledger.errors import FailedPreconditionError, InvalidArgumentError, UnavailableError
from provledger.keyset import MAX_CLOCK_AHEAD_NS, KeyPurpose, KeyState
from provledger.rpc.key_events import PURPOSES_PB, endorsement_to_pb, event_from_pb
from tests.integration.test_keys_svc import Keys, keys_on
from tests.unit.test_key_events import C1, H1, R1, W1, W2
from tests.unit.test_keys_journal import binding, carry, rotate

RECEIPT = "tenants/system/ledgers/keys/receipts/019aa2a3-4768-71e1-a1e1-e1e1e1e1e1e1"


def history() -> Registry:
    """A registry with a rotation and a revocation behind it."""
    registry = Registry()
    for key, purpose in zip((W1, C1, H1), KeyPurpose, strict=False):
        registry = registry.create(binding(key, purpose), 10)
    registry = carry(journal.propose_genesis(registry, binding(R1), 20))
    return carry(revoke(carry(rotate(registry, W2)), "witness-1", "stolen", 600))


async def test_an_empty_registry_is_rebuilt_and_stays_so(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'keys.sqlite3'}"
    events = history().events
    request = pb.RebuildRegistryRequest(
        payloads=[each.signed.encode() for each in events],
        receipts=[RECEIPT] * len(events),
        pin=R1.thumbprint,
    )
    async with keys_on(url, tmp_path) as keys:
        for damage in ({"pin": W2.thumbprint}, {"payloads": request.payloads[1:]}):
            bad = pb.RebuildRegistryRequest()
            bad.CopyFrom(request)
            for name, value in damage.items():
                bad.ClearField(name)
                bad.MergeFrom(pb.RebuildRegistryRequest(**{name: value}))  # type: ignore[arg-type]
            with pytest.raises(InvalidArgumentError):
                await keys.ask("RebuildRegistry", bad)
        assert (await keys.ask("RebuildRegistry", request)).key_count == 4
        # Asked again, as by one whose answer was lost, it changes nothing; by less, it refuses.
        assert (await keys.ask("RebuildRegistry", request)).key_count == 4
        shorter = pb.RebuildRegistryRequest()
        shorter.CopyFrom(request)
        del shorter.payloads[-1], shorter.receipts[-1]
        with pytest.raises(FailedPreconditionError):
            await keys.ask("RebuildRegistry", shorter)
    # Started again, on what was stored.
    async with keys_on(url, tmp_path) as keys:
        states = {key.kid: key.state for key in await keys.jwks()}
        assert states == {
            "witness-1": KeyState.REVOKED,
            "witness-2": KeyState.ACTIVE,
            "checkpoint-1": KeyState.ACTIVE,
            "head-1": KeyState.ACTIVE,
        }
        listed = (await keys.ask("ListKeyEvents", pb.ListKeyEventsRequest())).events
        assert [each.payload for each in listed] == [each.signed.encode() for each in events]
        page = await keys.ask("ListKeyEvents", pb.ListKeyEventsRequest(page_size=2))
        rest = pb.ListKeyEventsRequest(page_size=100, page_token=page.next_page_token)
        assert len(page.events) == 2
        assert [*page.events, *(await keys.ask("ListKeyEvents", rest)).events] == list(listed)


async def test_the_journal_is_there_after_a_restart_at_every_step(tmp_path: Path) -> None:
    """Killed between any two steps, the service goes on where its journal stands."""
    url = f"sqlite:///{tmp_path / 'keys.sqlite3'}"
    async with keys_on(url, tmp_path) as keys:
        for key, purpose in zip((W1, C1, H1), PURPOSES_PB.values(), strict=False):
            await keys.create(purpose, kid=key.kid, uri=f"local:{key.kid}.pem", jwk=_jwk(key.jwk))
        request = pb.ProposeGenesisRequest(recovery_kid=R1.kid, recovery_jwk=_jwk(R1.jwk))
        await keys.ask("ProposeGenesis", request)
    makers = {each.kid: each for each in (W1, W2, C1, H1, R1)}
    rotated = False
    for _ in range(12):
        async with keys_on(url, tmp_path) as keys:
            listed = (await keys.ask("ListKeyEvents", pb.ListKeyEventsRequest())).events
            waiting = [each for each in listed if each.state != pb.KEY_EVENT_STATE_RECORDED]
            if not waiting:
                if rotated:
                    break
                rotated = True
                answer = await keys.rotate(kid=W2.kid, uri="local:w2.pem", jwk=_jwk(W2.jwk))
                assert answer.key.state == pb.KEY_STATE_PENDING
                continue
            event = waiting[0]
            if event.state == pb.KEY_EVENT_STATE_SEALED:
                record = pb.RecordKeyEventRequest(digest=event.digest, receipt=RECEIPT)
                await keys.ask("RecordKeyEvent", record)
                continue
            read = event_from_pb(event.event)
            kids = {*event.endorser_kids, event.event.kid}
            request_2 = pb.EndorseKeyEventRequest(
                digest=event.digest,
                endorsements=[endorsement_to_pb(makers[kid].endorse(read)) for kid in kids],
            )
            await keys.ask("EndorseKeyEvent", request_2)
    async with keys_on(url, tmp_path) as keys:
        states = {key.kid: key.state for key in await keys.jwks()}
    assert (states["witness-1"], states["witness-2"]) == (KeyState.DRAINING, KeyState.ACTIVE)


async def test_a_key_counts_for_what_it_signed_though_our_clock_is_behind(tmp_path: Path) -> None:
    """It signed until the entry that ends it; a registry rebuilt by such a clock says the same."""
    recorded_ns, drain_ns = names.receipt_time_ns(RECEIPT), 60 * 10**9 + MAX_CLOCK_AHEAD_NS
    report = pb.ReportSignerRequest(
        signer=pb.Signer(watcher="witness", instance="a", time_ns=recorded_ns)
    )
    clock = lambda: recorded_ns - 3600 * 10**9  # noqa: E731 - as the service takes it
    async with keys_on(f"sqlite:///{tmp_path / 'keys.sqlite3'}", tmp_path, clock=clock) as keys:
        for key, purpose in zip((W1, C1, H1), PURPOSES_PB.values(), strict=False):
            await keys.create(purpose, kid=key.kid, uri=f"local:{key.kid}.pem", jwk=_jwk(key.jwk))
        request = pb.ProposeGenesisRequest(recovery_kid=R1.kid, recovery_jwk=_jwk(R1.jwk))
        await keys.ask("ProposeGenesis", request)
        await keys.ask("ReportSigner", report)
        await _carry(keys)
        await keys.rotate(kid=W2.kid, uri="local:w2.pem", jwk=_jwk(W2.jwk))
        events = await _carry(keys)
        before = await keys.jwks()
    rebuild = pb.RebuildRegistryRequest(
        payloads=[each.payload for each in events],
        receipts=[each.receipt for each in events],
        pin=R1.thumbprint,
    )
    async with keys_on(f"sqlite:///{tmp_path / 'again.sqlite3'}", tmp_path, clock=clock) as keys:
        await keys.ask("RebuildRegistry", rebuild)
        for registry in (before, await keys.jwks()):
            old = registry.find(purpose="witness", kid="witness-1")
            assert (old.state, old.not_after_ns) == (KeyState.DRAINING, recorded_ns + drain_ns)
        # A time that is none would not fit into the registry.
        rebuild.receipts[-1] = rebuild.receipts[-1].replace("019aa2a3", "ffffffff")
        with pytest.raises(InvalidArgumentError, match="2100"):
            await keys.ask("RebuildRegistry", rebuild)
        record = pb.RecordKeyEventRequest(digest=bytes(32), receipt=rebuild.receipts[-1])
        with pytest.raises(InvalidArgumentError, match="2100"):
            await keys.ask("RecordKeyEvent", record)


async def test_no_receipt_decides_that_a_replaced_key_counts_for_years(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the clock of whoever is furthest ahead it was made now, or it is not taken yet."""
    recorded_ns = names.receipt_time_ns(RECEIPT)
    now_ns = [recorded_ns]
    url = f"sqlite:///{tmp_path / 'keys.sqlite3'}"
    async with keys_on(url, tmp_path, clock=lambda: now_ns[0]) as keys:
        for key, purpose in zip((W1, C1, H1), PURPOSES_PB.values(), strict=False):
            await keys.create(purpose, kid=key.kid, uri=f"local:{key.kid}.pem", jwk=_jwk(key.jwk))
        request = pb.ProposeGenesisRequest(recovery_kid=R1.kid, recovery_jwk=_jwk(R1.jwk))
        await keys.ask("ProposeGenesis", request)
        await _carry(keys)
        now_ns[0] = recorded_ns - 24 * 3600 * 10**9
        await keys.rotate(kid=W2.kid, uri="local:w2.pem", jwk=_jwk(W2.jwk))
        for time_ns in (0, now_ns[0] + 1, recorded_ns - 2 * MAX_CLOCK_AHEAD_NS - 10**6):
            signer = pb.Signer(watcher="witness", instance="a", time_ns=time_ns)
            await keys.ask("ReportSigner", pb.ReportSignerRequest(signer=signer))
            with monkeypatch.context() as patch:
                # It would be tried again for as long as the call may take.
                patch.setattr("tests.integration.test_keys_svc.TIMEOUT_S", 2.0)
                with pytest.raises(UnavailableError, match="ahead of the clocks") as caught:
                    await _carry(keys)
            assert caught.value.reason == "CLOCK_SKEW"
        assert (await keys.jwks()).find(purpose="witness", kid="witness-1").state == "active"
        signer.time_ns = recorded_ns - 2 * MAX_CLOCK_AHEAD_NS
        await keys.ask("ReportSigner", pb.ReportSignerRequest(signer=signer))
        await _carry(keys)
        assert (await keys.jwks()).find(purpose="witness", kid="witness-1").state == "draining"


async def _carry(keys: Keys) -> list[pb.JournaledKeyEvent]:
    """Have every open event endorsed by all who may, and recorded; all events, then."""
    makers = {each.kid: each for each in (W1, W2, C1, H1, R1)}
    while True:
        events = list((await keys.ask("ListKeyEvents", pb.ListKeyEventsRequest())).events)
        event = next((e for e in events if e.state != pb.KEY_EVENT_STATE_RECORDED), None)
        if event is None:
            return events
        read = event_from_pb(event.event)
        kids = {*event.endorser_kids, event.event.kid}
        given = [endorsement_to_pb(makers[kid].endorse(read)) for kid in kids]
        endorse = pb.EndorseKeyEventRequest(digest=event.digest, endorsements=given)
        await keys.ask("EndorseKeyEvent", endorse)
        record = pb.RecordKeyEventRequest(digest=event.digest, receipt=RECEIPT)
        await keys.ask("RecordKeyEvent", record)


def _jwk(jwk: dict[str, str]) -> bytes:
    return jcs.encode(dict(jwk))
