"""The calls of `tests.faults.rpcs` to the keys service.

They are made to one of its own, beside which there is no other service: key events wait until the
test itself endorses them and says that they are recorded. `fresh` gives one with an empty registry.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from provledger.api.keys.v1 import keys_pb2 as pb
from provledger.jwk import thumbprint_of
from provledger.kms import open_signer
from provledger.kms.signing import sign_key_event
from provledger.rpc.key_events import event_from_pb
from provledger_cli.embedded.bootstrap import PURPOSES, local_key
from provledger_cli.embedded.config import KEYS, RECOVERY_KID
from tests.faults.cluster import Cluster
from tests.faults.rpcs import Caller, rpc

WITNESS = pb.KEY_PURPOSE_WITNESS

EMPTY = frozenset(
    ("keys", method)
    for method in ("CommitRotation", "ProposeGenesis", "RebuildRegistry", "RebuildRegistryStream")
)
"""Calls that begin with an empty registry."""


def fresh(cluster: Cluster) -> None:
    """Have the keys service run with an empty registry."""
    cluster["keys"].kill()
    for path in cluster.data.databases.glob("keys.sqlite3*"):
        path.unlink()
    cluster.restart("keys")


async def prepare(caller: Caller) -> None:
    """Record the genesis, so that later events can be sealed."""
    (genesis, *_) = await _events(caller)
    await _seal(caller, genesis, KEYS.values())
    await caller.see("keys", "RecordKeyEvent", _record(genesis))


async def _new(caller: Caller, what: str) -> pb.CreateKeyRequest:
    kid = caller.name(what)
    uri, jwk = await local_key(caller.cluster.data, kid, "witness")
    return pb.CreateKeyRequest(kid=kid, purpose=WITNESS, uri=uri, jwk=jwk)


async def _events(caller: Caller, kid: str = "") -> list[pb.JournaledKeyEvent]:
    answer = await caller.see("keys", "ListKeyEvents", pb.ListKeyEventsRequest())
    return [each for each in answer.events if kid in ("", each.event.kid)]


async def _get(caller: Caller, kid: str) -> pb.Key:
    answer = await caller.see("keys", "GetKey", pb.GetKeyRequest(name=f"keys/{kid}"))
    key: pb.Key = answer.key
    return key


def _record(event: pb.JournaledKeyEvent) -> pb.RecordKeyEventRequest:
    receipt = "tenants/system/ledgers/keys/receipts/019aa2a3-4768-71e1-a1e1-e1e1e1e1e1e1"
    return pb.RecordKeyEventRequest(digest=event.digest, receipt=receipt)


async def _endorsement(key_dir: Path, event: pb.JournaledKeyEvent, kid: str) -> pb.KeyEndorsement:
    signer = await open_signer(f"local:{kid}.pem", key_dir)
    try:
        sig = await sign_key_event(signer, event_from_pb(event.event))
        return pb.KeyEndorsement(kid=kid, thumbprint=thumbprint_of(signer.public_key), sig=sig)
    finally:
        await signer.close()


async def _endorse(
    caller: Caller, event: pb.JournaledKeyEvent, by: Iterable[str]
) -> pb.EndorseKeyEventRequest:
    key_dir = caller.cluster.data.keys
    endorsements = [await _endorsement(key_dir, event, kid) for kid in by]
    return pb.EndorseKeyEventRequest(digest=event.digest, endorsements=endorsements)


async def _seal(caller: Caller, event: pb.JournaledKeyEvent, by: Iterable[str]) -> None:
    await caller.see("keys", "EndorseKeyEvent", await _endorse(caller, event, by))


# --- what changes keys


@rpc("keys", "CreateKey")
async def create_key(caller: Caller) -> None:
    request = await _new(caller, "created")
    made = (await caller.ask("keys", "CreateKey", request)).key
    assert (await caller.see("keys", "CreateKey", request)).key == made
    assert [each.event.type for each in await _events(caller, request.kid)] == [
        pb.KEY_EVENT_TYPE_CREATED
    ]
    listed = await caller.see("keys", "ListKeys", pb.ListKeysRequest(page_size=1000))
    assert [each.kid for each in listed.keys].count(request.kid) == 1


@rpc("keys", "RotateKey")
async def rotate_key(caller: Caller) -> None:
    new = await _new(caller, "rotated")
    request = pb.RotateKeyRequest(kid=new.kid, purpose=WITNESS, uri=new.uri, jwk=new.jwk)
    answer = await caller.ask("keys", "RotateKey", request)
    assert answer.key.state == pb.KEY_STATE_PENDING
    assert [each.event.type for each in await _events(caller, new.kid)] == [
        pb.KEY_EVENT_TYPE_CREATED,
        pb.KEY_EVENT_TYPE_ROTATED,
    ]
    # Only one at a time.
    await caller.see("keys", "CancelRotation", pb.CancelRotationRequest(kid=new.kid))


@rpc("keys", "CancelRotation")
async def cancel_rotation(caller: Caller) -> None:
    new = await _new(caller, "cancelled")
    request = pb.RotateKeyRequest(kid=new.kid, purpose=WITNESS, uri=new.uri, jwk=new.jwk)
    await caller.see("keys", "RotateKey", request)
    answer = await caller.ask("keys", "CancelRotation", pb.CancelRotationRequest(kid=new.kid))
    assert answer.key.state == pb.KEY_STATE_PENDING
    assert await _events(caller, new.kid) == []


@rpc("keys", "RevokeKey")
async def revoke_key(caller: Caller) -> None:
    new = await _new(caller, "revoked")
    await caller.see("keys", "CreateKey", new)
    # One that the key ledger has heard of: of another it need not hear that it is revoked.
    (event,) = await _events(caller, new.kid)
    await _seal(caller, event, (new.kid, "witness-1"))
    await caller.see("keys", "RecordKeyEvent", _record(event))
    request = pb.RevokeKeyRequest(kid=new.kid, reason="stolen")
    answer = await caller.ask("keys", "RevokeKey", request)
    assert answer.key.state == pb.KEY_STATE_REVOKED
    types = [each.event.type for each in await _events(caller, new.kid)]
    assert types.count(pb.KEY_EVENT_TYPE_REVOKED) == 1


@rpc("keys", "EndorseKeyEvent")
async def endorse_key_event(caller: Caller) -> None:
    new = await _new(caller, "endorsed")
    await caller.see("keys", "CreateKey", new)
    (event,) = await _events(caller, new.kid)
    request = await _endorse(caller, event, (new.kid, "witness-1"))
    answer = (await caller.ask("keys", "EndorseKeyEvent", request)).event
    assert sorted(each.kid for each in answer.endorsements) == sorted((new.kid, "witness-1"))
    assert answer.state == pb.KEY_EVENT_STATE_SEALED
    # Only one at a time.
    await caller.see("keys", "RecordKeyEvent", _record(event))


@rpc("keys", "RecordKeyEvent")
async def record_key_event(caller: Caller) -> None:
    new = await _new(caller, "recorded")
    await caller.see("keys", "CreateKey", new)
    (event,) = await _events(caller, new.kid)
    await _seal(caller, event, (new.kid, "witness-1"))
    answer = (await caller.ask("keys", "RecordKeyEvent", _record(event))).event
    assert answer.state == pb.KEY_EVENT_STATE_RECORDED
    assert [each.digest for each in await _events(caller, new.kid)] == [event.digest]


@rpc("keys", "CommitRotation")
async def commit_rotation(caller: Caller) -> None:
    old, new = await _new(caller, "first"), await _new(caller, "second")
    await caller.see("keys", "CreateKey", old)
    request = pb.RotateKeyRequest(
        kid=new.kid, purpose=WITNESS, uri=new.uri, jwk=new.jwk, hold_pending=True
    )
    await caller.see("keys", "RotateKey", request)
    answer = await caller.ask("keys", "CommitRotation", pb.CommitRotationRequest(kid=new.kid))
    assert (answer.key.state, answer.key.epoch) == (pb.KEY_STATE_ACTIVE, 2)
    assert answer.previous.kid == old.kid
    assert (await _get(caller, old.kid)).state == pb.KEY_STATE_DRAINING


@rpc("keys", "ProposeGenesis")
async def propose_genesis(caller: Caller) -> None:
    for purpose, kid in KEYS.items():
        uri, jwk = await local_key(caller.cluster.data, kid, purpose)
        key = pb.CreateKeyRequest(kid=kid, purpose=PURPOSES[purpose], uri=uri, jwk=jwk)
        await caller.see("keys", "CreateKey", key)
    _, recovery = await local_key(caller.cluster.data, RECOVERY_KID, "recovery")
    request = pb.ProposeGenesisRequest(recovery_kid=RECOVERY_KID, recovery_jwk=recovery)
    event = (await caller.ask("keys", "ProposeGenesis", request)).event
    assert [each.digest for each in await _events(caller)] == [event.digest]


@rpc("keys", "RebuildRegistry")
async def rebuild_registry(caller: Caller) -> None:
    """From a key ledger of one entry."""
    genesis = await _lost(caller)
    request = pb.RebuildRegistryRequest(
        payloads=[genesis.payload],
        receipts=[_record(genesis).receipt],
        pin=genesis.event.thumbprint,
    )
    assert (await caller.ask("keys", "RebuildRegistry", request)).key_count == len(KEYS)
    assert [each.digest for each in await _events(caller)] == [genesis.digest]


@rpc("keys", "RebuildRegistryStream")
async def rebuild_registry_stream(caller: Caller) -> None:
    """The same, in two parts."""
    genesis = await _lost(caller)
    parts = [
        pb.RebuildRegistryStreamRequest(pin=genesis.event.thumbprint, event_count=1),
        pb.RebuildRegistryStreamRequest(
            payloads=[genesis.payload], receipts=[_record(genesis).receipt]
        ),
    ]
    answer = await caller.ask_in_parts("keys", "RebuildRegistryStream", parts)
    assert answer.key_count == len(KEYS)
    assert [each.digest for each in await _events(caller)] == [genesis.digest]


async def _lost(caller: Caller) -> pb.JournaledKeyEvent:
    """Seal a genesis, and lose the registry; the event."""
    await propose_genesis(caller)
    (genesis,) = await _events(caller)
    await _seal(caller, genesis, (RECOVERY_KID, *KEYS.values()))
    (genesis,) = await _events(caller)
    fresh(caller.cluster)
    return genesis


@rpc("keys", "ReportSigner")
async def report_signer(caller: Caller) -> None:
    signer = pb.Signer(watcher="caller", instance=caller.name("signer"))
    await caller.ask("keys", "ReportSigner", pb.ReportSignerRequest(signer=signer))
    seen = (await caller.see("keys", "ListSigners", pb.ListSignersRequest())).signers
    assert [each.instance for each in seen].count(signer.instance) == 1
    leaving = pb.ReportSignerRequest(signer=signer, leaving=True)
    await caller.see("keys", "ReportSigner", leaving)


# --- what only asks


@rpc("keys", "GetKey")
async def get_key(caller: Caller) -> None:
    await caller.same("keys", "GetKey", pb.GetKeyRequest(name="keys/witness-1"))


@rpc("keys", "ListKeys")
async def list_keys(caller: Caller) -> None:
    assert (await caller.same("keys", "ListKeys", pb.ListKeysRequest())).keys


@rpc("keys", "GetJwks")
async def get_jwks(caller: Caller) -> None:
    await caller.same("keys", "GetJwks", pb.GetJwksRequest())


@rpc("keys", "ListKeyEvents")
async def list_key_events(caller: Caller) -> None:
    assert (await caller.same("keys", "ListKeyEvents", pb.ListKeyEventsRequest())).events


@rpc("keys", "ListSigners")
async def list_signers(caller: Caller) -> None:
    await caller.same("keys", "ListSigners", pb.ListSignersRequest())


@rpc("keys", "WatchKeys")
async def watch_keys(caller: Caller) -> None:
    first = await caller.first("keys", "WatchKeys", pb.WatchKeysRequest(watcher="caller"))
    assert "witness-1" in [each.kid for each in first.keys]
