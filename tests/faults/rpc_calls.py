"""The calls of `tests.faults.rpcs` to ledger, anchor and witness service."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from provledger.api.anchor.v1 import anchor_pb2
from provledger.api.common.v1 import common_pb2
from provledger.api.keys.v1 import keys_pb2
from provledger.api.ledger.v1 import ledger_pb2
from provledger.api.witness.v1 import witness_pb2
from provledger.checkpoint import parse
from provledger.client import AsyncClient, CallPolicy, Mutation
from provledger.entry import parse_entry
from provledger.note import parse as parse_note
from provledger_cli.embedded.bootstrap import PURPOSES, local_key
from tests.faults import evidence, observe
from tests.faults.checker import CALLERS_LEDGER
from tests.faults.rpcs import ATTEMPT_S, Caller, rpc

LEDGER = CALLERS_LEDGER
ANY = "logs/-"
SEQS = 3
"""Receipts that the ledger has, after its genesis, before anybody attacks."""


def _draft(request_id: str) -> common_pb2.Draft:
    return common_pb2.Draft(
        request_id=request_id,
        actor=common_pb2.Actor(id="caller", type="service"),
        mutation=common_pb2.Mutation(
            action=common_pb2.ACTION_CREATE,
            resource_type="Item",
            resource_id=request_id,
            new_state=b"{}",
        ),
    )


async def prepare(caller: Caller) -> None:
    """Make the ledger that calls are about; it may be there."""
    request = ledger_pb2.CreateLedgerRequest(parent="tenants/rpcs", ledger_id="main")
    await caller.see("ledger", "CreateLedger", request)
    for number in range(SEQS):
        append = ledger_pb2.AppendRequest(
            ledger=LEDGER,
            draft=_draft(f"prepared-{number}"),
            wait_for=common_pb2.ANCHOR_STATE_ANCHORED,
        )
        await caller.see("ledger", "Append", append)


async def _ledger(caller: Caller) -> ledger_pb2.Ledger:
    request = ledger_pb2.GetLedgerRequest(name=LEDGER)
    found: ledger_pb2.Ledger = (await caller.see("ledger", "GetLedger", request)).ledger
    return found


async def _receipt(caller: Caller) -> common_pb2.Receipt:
    """The first one after the genesis, logged and with its proofs."""
    request = ledger_pb2.ListReceiptsRequest(parent=LEDGER, page_size=2)
    listed = (await caller.see("ledger", "ListReceipts", request)).receipts
    get = ledger_pb2.GetReceiptRequest(name=listed[1].name, wait_for=common_pb2.ANCHOR_STATE_LOGGED)
    found: common_pb2.Receipt = (await caller.see("ledger", "GetReceipt", get)).receipt
    return found


async def _count(caller: Caller, resource_id: str) -> int:
    request = ledger_pb2.ListReceiptsRequest(
        parent=LEDGER, resource_type="Item", resource_id=resource_id
    )
    return len((await caller.see("ledger", "ListReceipts", request)).receipts)


# --- ledger


@rpc("ledger", "CreateLedger")
async def create_ledger(caller: Caller) -> None:
    request = ledger_pb2.CreateLedgerRequest(parent="tenants/rpcs", ledger_id=caller.name("made"))
    made = (await caller.ask("ledger", "CreateLedger", request)).ledger
    again = await caller.see("ledger", "CreateLedger", request)
    assert (again.ledger.uid, again.created) == (made.uid, False)
    listing = ledger_pb2.ListLedgersRequest(parent="tenants/rpcs", page_size=1000)
    listed = (await caller.see("ledger", "ListLedgers", listing)).ledgers
    assert [each.uid for each in listed if each.name == made.name] == [made.uid]


@rpc("ledger", "GetLedger")
async def get_ledger(caller: Caller) -> None:
    answer = await caller.ask("ledger", "GetLedger", ledger_pb2.GetLedgerRequest(name=LEDGER))
    assert answer.ledger.uid == (await _ledger(caller)).uid


@rpc("ledger", "ListLedgers")
async def list_ledgers(caller: Caller) -> None:
    request = ledger_pb2.ListLedgersRequest(parent="tenants/rpcs", page_size=1000)
    listed = (await caller.ask("ledger", "ListLedgers", request)).ledgers
    assert (await _ledger(caller)).uid in [each.uid for each in listed]


@rpc("ledger", "Append")
async def append(caller: Caller) -> None:
    request = ledger_pb2.AppendRequest(ledger=LEDGER, draft=_draft(caller.name("single")))
    made = (await caller.ask("ledger", "Append", request)).receipt
    again = await caller.see("ledger", "Append", request)
    assert again.repeated_request
    assert (again.receipt.name, again.receipt.receipt_hash) == (made.name, made.receipt_hash)
    assert await _count(caller, request.draft.request_id) == 1


@rpc("ledger", "AppendBatch")
async def append_batch(caller: Caller) -> None:
    drafts = [_draft(caller.name("batch")) for _ in range(3)]
    request = ledger_pb2.AppendBatchRequest(ledger=LEDGER, drafts=drafts)
    made = (await caller.ask("ledger", "AppendBatch", request)).results
    again = (await caller.see("ledger", "AppendBatch", request)).results
    assert [each.receipt.name for each in made] == [each.receipt.name for each in again]
    for draft in drafts:
        assert await _count(caller, draft.request_id) == 1


async def append_many(caller: Caller) -> None:
    """So many that they are looked up before they are witnessed, and copied into the database."""
    drafts = [_draft(caller.name("many")) for _ in range(120)]
    request = ledger_pb2.AppendBatchRequest(ledger=LEDGER, drafts=drafts)
    made = (await caller.ask("ledger", "AppendBatch", request)).results
    assert len({each.receipt.name for each in made}) == len(drafts)


@rpc("ledger", "AppendStream")
async def append_stream(caller: Caller) -> None:
    names = [caller.name("stream") for _ in range(3)]

    async def drafts() -> AsyncIterator[Mutation]:
        for name in names:
            yield Mutation(
                action="CREATE",
                resource_type="Item",
                resource_id=name,
                actor_id="caller",
                request_id=name,
                new_state={},
            )

    policy = CallPolicy(timeout_s=30.0, attempt_timeout_s=ATTEMPT_S)
    address = f"127.0.0.1:{caller.proxies['ledger'].port}"
    async with AsyncClient(address, policy=policy) as client:
        results = [each async for each in client.append_stream(LEDGER, drafts())]
    await caller.settled("ledger")
    assert [each.request_id for each in results] == names
    assert all(each.summary is not None for each in results)
    for name in names:
        assert await _count(caller, name) == 1


@rpc("ledger", "GetReceipt")
async def get_receipt(caller: Caller) -> None:
    expected = await _receipt(caller)
    request = ledger_pb2.GetReceiptRequest(name=expected.name)
    found = (await caller.ask("ledger", "GetReceipt", request)).receipt
    assert (found.name, found.receipt_hash) == (expected.name, expected.receipt_hash)
    (await _evidence(caller)).check_receipt(found)


@rpc("ledger", "ListReceipts")
async def list_receipts(caller: Caller) -> None:
    request = ledger_pb2.ListReceiptsRequest(parent=LEDGER, page_size=SEQS)
    found = (await caller.ask("ledger", "ListReceipts", request)).receipts
    seen = (await caller.see("ledger", "ListReceipts", request)).receipts
    assert len(found) == SEQS
    # How far each is anchored, and by which checkpoint, may be another moment later.
    assert [(each.name, each.receipt_hash) for each in found] == [
        (each.name, each.receipt_hash) for each in seen
    ]


@rpc("ledger", "GetHead")
async def get_head(caller: Caller) -> None:
    await _receipt(caller)
    size = await _signed_size(caller)
    request = ledger_pb2.GetHeadRequest(name=LEDGER, tree_size=size)
    head = await caller.ask("ledger", "GetHead", request)
    assert head.checkpoint == (await caller.see("ledger", "GetHead", request)).checkpoint
    newest = await caller.ask("ledger", "GetHead", ledger_pb2.GetHeadRequest(name=LEDGER))
    await _check_heads(caller, size, head, newest)


async def _check_heads(caller: Caller, size: int, head: Any, newest: Any) -> None:
    """One as of a tree size, and one as of the newest checkpoint after that was seen."""
    newest_size = parse(parse_note(newest.checkpoint).text).size
    assert newest_size >= size
    found = await _evidence(caller, newest_size)
    for each in (head, newest):
        found.check_head(each.head, each.checkpoint)


@rpc("ledger", "VerifyRange")
async def verify_range(caller: Caller) -> None:
    request = ledger_pb2.VerifyRangeRequest(name=LEDGER, start_seq=0, end_seq=SEQS)
    answer = await caller.ask("ledger", "VerifyRange", request)
    assert (answer.checked_seq, answer.checked_count) == (SEQS, SEQS + 1)


# --- anchor


async def _signed_size(caller: Caller) -> int:
    """Size of a checkpoint that is there, and stays."""
    request = anchor_pb2.GetCheckpointRequest(log=ANY)
    return int((await caller.see("anchor", "GetCheckpoint", request)).tree_size)


async def _evidence(caller: Caller, size: int = 0) -> evidence.Evidence:
    """What answers about the ledger are held against, up to a tree size at the least."""
    return await evidence.gather(caller, await _ledger(caller), size)


async def _index(caller: Caller) -> int:
    (proof, *_) = (await _receipt(caller)).proofs
    return int(proof.log_index)


@rpc("anchor", "GetLog")
async def get_log(caller: Caller) -> None:
    request = anchor_pb2.GetLogRequest(name=ANY)
    found = (await caller.ask("anchor", "GetLog", request)).log
    seen = (await caller.see("anchor", "GetLog", request)).log
    assert (found.uid, found.vkey, found.origin) == (seen.uid, seen.vkey, seen.origin)


@rpc("anchor", "ListLogs")
async def list_logs(caller: Caller) -> None:
    log = (await caller.see("anchor", "GetLog", anchor_pb2.GetLogRequest(name=ANY))).log
    request = anchor_pb2.ListLogsRequest(page_size=1000)
    assert log.uid in [each.uid for each in (await caller.ask("anchor", "ListLogs", request)).logs]


@rpc("anchor", "GetTile")
async def get_tile(caller: Caller) -> None:
    request = anchor_pb2.GetCheckpointRequest(log=ANY, published=True)
    size = int((await caller.see("anchor", "GetCheckpoint", request)).tree_size)
    path = f"tile/entries/000.p/{size}" if size < 256 else "tile/entries/000"
    await caller.same("anchor", "GetTile", anchor_pb2.GetTileRequest(log=ANY, path=path))


@rpc("anchor", "CreateLog")
async def create_log(caller: Caller) -> None:
    tenant = f"tenants/{caller.name('logs')}"
    request = anchor_pb2.CreateLogRequest(tenant=tenant, suite=common_pb2.SUITE_BLAKE3)
    before = await _logs(caller)
    made = (await caller.ask("anchor", "CreateLog", request)).log
    again = await caller.see("anchor", "CreateLog", request)
    assert (again.log.uid, again.created) == (made.uid, False)
    assert await _logs(caller) == {*before, made.uid}


async def _logs(caller: Caller) -> set[bytes]:
    request = anchor_pb2.ListLogsRequest(page_size=1000)
    return {each.uid for each in (await caller.see("anchor", "ListLogs", request)).logs}


@rpc("anchor", "SubmitLeaves")
async def submit_leaves(caller: Caller) -> None:
    """A ledger's first leaves; that new ones come once is for the way from the ledger to show."""
    ledger = await _ledger(caller)
    leaves = observe.published_leaves(caller.cluster.data.tiles / ledger.log)
    request = anchor_pb2.SubmitLeavesRequest(
        log=ANY,
        ledger_uid=ledger.uid,
        suite=ledger.suite,
        start_seq=0,
        entries=[leaf for leaf in leaves[1:] if parse_entry(leaf).ledger_uid == ledger.uid][:2],
    )
    answer = await caller.ask("anchor", "SubmitLeaves", request)
    assert answer.runs == (await caller.see("anchor", "SubmitLeaves", request)).runs


@rpc("anchor", "GetLedgerState")
async def get_ledger_state(caller: Caller) -> None:
    uid = (await _ledger(caller)).uid
    request = anchor_pb2.GetLedgerStateRequest(log=ANY, ledger_uid=uid)
    assert (await caller.ask("anchor", "GetLedgerState", request)).seq >= SEQS


@rpc("anchor", "GetInclusionProof")
async def get_inclusion_proof(caller: Caller) -> None:
    index = await _index(caller)
    request = anchor_pb2.GetInclusionProofRequest(
        log=ANY, log_index=index, tree_size=await _signed_size(caller)
    )
    proof = (await caller.ask("anchor", "GetInclusionProof", request)).proof
    assert proof.log_index == index
    (await _evidence(caller)).check_inclusion(index, proof.hashes, proof.checkpoint)


@rpc("anchor", "GetCoseReceipt")
async def get_cose_receipt(caller: Caller) -> None:
    index = await _index(caller)
    request = anchor_pb2.GetCoseReceiptRequest(
        log=ANY, log_index=index, tree_size=await _signed_size(caller)
    )
    answer = await caller.ask("anchor", "GetCoseReceipt", request)
    (await _evidence(caller)).check_cose(answer.receipt, index)
    assert answer.tree_size == request.tree_size


@rpc("anchor", "BatchGetInclusionProofs")
async def batch_get_inclusion_proofs(caller: Caller) -> None:
    await _receipt(caller)
    request = anchor_pb2.BatchGetInclusionProofsRequest(
        log=ANY,
        ledger_uid=(await _ledger(caller)).uid,
        seqs=[0, 1],
        tree_size=await _signed_size(caller),
    )
    answer = await caller.ask("anchor", "BatchGetInclusionProofs", request)
    assert [each.seq for each in answer.proofs] == [0, 1]
    found = await _evidence(caller)
    for each in answer.proofs:
        hashes = [bytes(each.hashes[at : at + 32]) for at in range(0, len(each.hashes), 32)]
        found.check_inclusion(each.log_index, hashes, answer.checkpoint)


@rpc("anchor", "GetConsistencyProof")
async def get_consistency_proof(caller: Caller) -> None:
    size = await _signed_size(caller)
    request = anchor_pb2.GetConsistencyProofRequest(log=ANY, old_size=1, new_size=size)
    answer = await caller.ask("anchor", "GetConsistencyProof", request)
    assert answer.new_size == size
    (await _evidence(caller, size)).check_consistency(1, size, answer.hashes)


@rpc("anchor", "GetCheckpoint")
async def get_checkpoint(caller: Caller) -> None:
    request = anchor_pb2.GetCheckpointRequest(log=ANY, tree_size=await _signed_size(caller))
    answer = await caller.ask("anchor", "GetCheckpoint", request)
    seen = await caller.see("anchor", "GetCheckpoint", request)
    assert (answer.checkpoint, answer.tree_size) == (seen.checkpoint, seen.tree_size)


@rpc("anchor", "WatchCheckpoints")
async def watch_checkpoints(caller: Caller) -> None:
    size = await _signed_size(caller)
    request = anchor_pb2.WatchCheckpointsRequest(log=ANY)
    assert (await caller.first("anchor", "WatchCheckpoints", request)).tree_size >= size


@rpc("anchor", "GetLedgerHead")
async def get_ledger_head(caller: Caller) -> None:
    await _receipt(caller)
    uid, size = (await _ledger(caller)).uid, await _signed_size(caller)
    request = anchor_pb2.GetLedgerHeadRequest(log=ANY, ledger_uid=uid, tree_size=size)
    answer = await caller.ask("anchor", "GetLedgerHead", request)
    assert answer.checkpoint == (await caller.see("anchor", "GetLedgerHead", request)).checkpoint
    request = anchor_pb2.GetLedgerHeadRequest(log=ANY, ledger_uid=uid)
    newest = await caller.ask("anchor", "GetLedgerHead", request)
    await _check_heads(caller, size, answer, newest)


@rpc("anchor", "ListAnchors")
async def list_anchors(caller: Caller) -> None:
    request = anchor_pb2.ListAnchorsRequest(log=ANY)
    assert (await caller.ask("anchor", "ListAnchors", request)).anchors


@rpc("anchor", "ListSinks")
async def list_sinks(caller: Caller) -> None:
    answer = await caller.ask("anchor", "ListSinks", anchor_pb2.ListSinksRequest(log=ANY))
    assert {sink.uri for sink in answer.sinks} == caller.cluster.sinks.keys()


@rpc("anchor", "RetrySink")
async def retry_sink(caller: Caller) -> None:
    """None waits; a sink that is asked twice is asked once too often, and says the same."""
    assert not (await caller.ask("anchor", "RetrySink", anchor_pb2.RetrySinkRequest(log=ANY))).sinks


@rpc("anchor", "SetPolicy")
async def set_policy(caller: Caller) -> None:
    """With the version that it is to replace, which the first attempt has replaced."""
    request = anchor_pb2.SetPolicyRequest(
        log=ANY,
        tenant=f"tenants/{caller.name('policies')}",
        text=f"sink a {caller.cluster.data.anchors.as_uri()}\nquorum a\n",
        expected_version=0,
    )
    assert (await caller.ask("anchor", "SetPolicy", request)).policy.version == 1
    get = anchor_pb2.GetPolicyRequest(log=ANY, tenant=request.tenant)
    assert (await caller.see("anchor", "GetPolicy", get)).own_version == 1


@rpc("anchor", "GetPolicy")
async def get_policy(caller: Caller) -> None:
    request = anchor_pb2.GetPolicyRequest(log=ANY, tenant="tenants/rpcs")
    answer = await caller.ask("anchor", "GetPolicy", request)
    assert answer.source == anchor_pb2.POLICY_SOURCE_NONE


async def _sign_key_event(caller: Caller, service: str, purpose: str, kid: str, ask: Any) -> None:
    """By an old key, for an event that stays open: the new key, whose file is gone, never signs."""
    new = caller.name(purpose)
    uri, jwk = await local_key(caller.cluster.data, new, purpose)
    (caller.cluster.data.keys / f"{new}.pem").unlink()
    create = keys_pb2.CreateKeyRequest(kid=new, purpose=PURPOSES[purpose], uri=uri, jwk=jwk)
    await caller.see("keys", "CreateKey", create)
    listed = await caller.see("keys", "ListKeyEvents", keys_pb2.ListKeyEventsRequest())
    (event,) = (each.event for each in listed.events if each.event.kid == new)
    await caller.same(service, "SignKeyEvent", ask(event=event, kid=kid))
    await caller.see("keys", "CancelRotation", keys_pb2.CancelRotationRequest(kid=new))


@rpc("anchor", "SignKeyEvent")
async def anchor_signs_key_event(caller: Caller) -> None:
    ask = anchor_pb2.SignKeyEventRequest
    await _sign_key_event(caller, "anchor", "head", "head-1", ask)


# --- witness


@rpc("witness", "SignKeyEvent")
async def witness_signs_key_event(caller: Caller) -> None:
    ask = witness_pb2.SignKeyEventRequest
    await _sign_key_event(caller, "witness", "witness", "witness-1", ask)


@rpc("witness", "WitnessBatch")
async def witness_batch(caller: Caller) -> None:
    """What nobody commits is nowhere; what is signed twice differs, and both are right."""
    ledger = await _ledger(caller)
    name = caller.name("witnessed")
    uuid7 = time.time_ns() // 1_000_000 << 80 | 7 << 76 | 2 << 62
    request = witness_pb2.WitnessBatchRequest(
        ledger=LEDGER,
        ledger_uid=ledger.uid,
        suite=ledger.suite,
        items=[
            witness_pb2.WitnessItem(
                receipt_id=uuid.UUID(int=uuid7).bytes, principal="caller", draft=_draft(name)
            )
        ],
    )
    (result,) = (await caller.ask("witness", "WitnessBatch", request)).results
    assert result.HasField("witnessed")
    assert await _count(caller, name) == 0
