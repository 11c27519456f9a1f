"""A good request, or a few, for every RPC: names that exist, and fields that pass every check.

What is made here is damaged elsewhere, by a fuzzer or one field at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from provledger.api.anchor.v1 import anchor_pb2
from provledger.api.common.v1 import common_pb2
from provledger.api.keys.v1 import keys_pb2
from provledger.api.ledger.v1 import ledger_pb2
from provledger.api.witness.v1 import witness_pb2

SERVICES: dict[str, Any] = {
    "ledger": ledger_pb2.DESCRIPTOR.services_by_name["LedgerService"],
    "anchor": anchor_pb2.DESCRIPTOR.services_by_name["AnchorService"],
    "keys": keys_pb2.DESCRIPTOR.services_by_name["KeysService"],
    "witness": witness_pb2.DESCRIPTOR.services_by_name["WitnessService"],
}


@dataclass(frozen=True, kw_only=True)
class World:
    """What there is to ask for: names in full, uids of 16 bytes, digests of 32.

    kid: a registered key. spare_kid, spare_jwk: a key that nothing signs with, to be rotated to and
    revoked. recovery_kid, recovery_jwk: the key that a key ledger began with, or would begin with.
    event, digest, endorsements: a key event, and its SHA-256. payloads, pin: those of a key
    ledger. submitted_uid, entries: a ledger that the log `own_log` holds nothing of, and its first
    entries. seqs: receipts of the ledger `ledger_uid` in the log `log`.
    """

    tenant: str
    ledger: str
    ledger_uid: bytes
    receipt: str
    log: str
    own_log: str
    submitted_uid: bytes
    entries: Sequence[bytes]
    kid: str
    spare_kid: str
    spare_jwk: bytes
    recovery_kid: str
    recovery_jwk: bytes
    event: keys_pb2.KeyEvent
    digest: bytes
    endorsements: Sequence[keys_pb2.KeyEndorsement]
    payloads: Sequence[bytes]
    pin: bytes
    policy: str
    seqs: Sequence[int] = (0, 1)
    tree_size: int = 2


def draft(**fields: Any) -> common_pb2.Draft:
    """A draft, but for its content."""
    made = common_pb2.Draft(
        actor=common_pb2.Actor(id="a", type="user"),
        origin=common_pb2.Origin(service="s", trace_id="0" * 31 + "1", upstream_events=["e"]),
        op_id="o",
        op_parent_id="p",
        occurred_at="2024-05-16T00:00:00Z",
    )
    made.MergeFrom(common_pb2.Draft(**fields))
    return made


def drafts() -> Iterator[common_pb2.Draft]:
    """One of each kind, with request ids of their own."""
    states = {"previous_state": b'{"a":1,"b":[2]}', "new_state": b'{"a":2,"b":[]}'}
    patch = b'[{"op":"replace","path":"/a","value":2},{"op":"remove","path":"/b/0"}]'
    common: Any = {"resource_type": "T", "resource_id": "i"}
    fields: Any
    number = itertools.count(1)
    for action, fields in (
        (common_pb2.ACTION_CREATE, {"new_state": states["new_state"]}),
        (common_pb2.ACTION_UPDATE, states),
        (common_pb2.ACTION_UPDATE, {**states, "diff": patch}),
        (common_pb2.ACTION_DELETE, {"previous_state": states["previous_state"]}),
    ):
        yield draft(
            request_id=str(next(number)),
            mutation=common_pb2.Mutation(action=action, **common, **fields),
        )
    for media_type, payload in (("application/json", b'{"x":1.5}'), ("text/plain", b"\xff")):
        yield draft(
            request_id=str(next(number)),
            document=common_pb2.Document(
                receipt_type="evidence.x", media_type=media_type, payload=payload, **common
            ),
        )


def good_requests(service: str, method: str, world: World) -> list[Message]:
    """Good requests for an RPC; KeyError for one that was forgotten here."""
    return _REQUESTS[service](world)[method]


def _ledger(world: World) -> dict[str, list[Message]]:
    pb, ledger = ledger_pb2, world.ledger
    basic = common_pb2.RECEIPT_VIEW_BASIC
    some = list(drafts())
    return {
        "CreateLedger": [
            pb.CreateLedgerRequest(
                parent=world.tenant, ledger_id="more", suite=common_pb2.SUITE_BLAKE3
            )
        ],
        "GetLedger": [pb.GetLedgerRequest(name=ledger)],
        "ListLedgers": [pb.ListLedgersRequest(parent=world.tenant, page_size=2)],
        "Append": [
            pb.AppendRequest(
                ledger=ledger, draft=each, view=basic, wait_for=common_pb2.ANCHOR_STATE_PENDING
            )
            for each in some
        ],
        "AppendBatch": [pb.AppendBatchRequest(ledger=ledger, drafts=some, view=basic)],
        "AppendStream": [
            pb.AppendStreamRequest(ledger=ledger, draft=some[0], view=basic),
            pb.AppendStreamRequest(ledger=ledger, drafts=some[:2], view=basic),
        ],
        "GetReceipt": [
            pb.GetReceiptRequest(
                name=world.receipt,
                view=common_pb2.RECEIPT_VIEW_FULL,
                wait_for=common_pb2.ANCHOR_STATE_PENDING,
            )
        ],
        "ListReceipts": [
            pb.ListReceiptsRequest(
                parent=ledger,
                page_size=3,
                view=common_pb2.RECEIPT_VIEW_FULL,
                resource_type="T",
                resource_id="i",
                actor_id="a",
                receipt_type="mutation",
                start_t_ns=1,
                end_t_ns=2**62,
                tree_size=world.tree_size,
            )
        ],
        "GetHead": [pb.GetHeadRequest(name=ledger, tree_size=world.tree_size)],
        "VerifyRange": [pb.VerifyRangeRequest(name=ledger, start_seq=0, end_seq=1)],
    }


def _anchor(world: World) -> dict[str, list[Message]]:
    pb, log, size, uid = anchor_pb2, world.log, world.tree_size, world.ledger_uid
    return {
        "GetLog": [pb.GetLogRequest(name=log, with_tenants=True)],
        "ListLogs": [pb.ListLogsRequest(page_size=1)],
        "GetTile": [pb.GetTileRequest(log=log, path=f"tile/0/000.p/{size}", max_bytes=9)],
        "CreateLog": [
            pb.CreateLogRequest(
                tenant=world.tenant, suite=common_pb2.SUITE_BLAKE3, kept_for=[world.tenant]
            )
        ],
        "SubmitLeaves": [
            pb.SubmitLeavesRequest(
                log=world.own_log,
                ledger_uid=world.submitted_uid,
                suite=common_pb2.SUITE_BLAKE3,
                start_seq=0,
                entries=world.entries,
                with_proofs=True,
            )
        ],
        "GetLedgerState": [pb.GetLedgerStateRequest(log=log, ledger_uid=uid)],
        "GetInclusionProof": [
            pb.GetInclusionProofRequest(log=log, log_index=1, tree_size=size, tenant=world.tenant)
        ],
        "GetCoseReceipt": [pb.GetCoseReceiptRequest(log=log, log_index=1, tree_size=size)],
        "BatchGetInclusionProofs": [
            pb.BatchGetInclusionProofsRequest(
                log=log, ledger_uid=uid, seqs=world.seqs, tree_size=size, tenant=world.tenant
            )
        ],
        "GetConsistencyProof": [pb.GetConsistencyProofRequest(log=log, old_size=1, new_size=size)],
        "GetCheckpoint": [pb.GetCheckpointRequest(log=log, tree_size=size)],
        "WatchCheckpoints": [
            pb.WatchCheckpointsRequest(log=log, published=True, tenant=world.tenant)
        ],
        "GetLedgerHead": [pb.GetLedgerHeadRequest(log=log, ledger_uid=uid, tree_size=size)],
        "ListAnchors": [pb.ListAnchorsRequest(log=log, page_size=2, sink="file:///x")],
        "ListSinks": [pb.ListSinksRequest(log=log)],
        "RetrySink": [pb.RetrySinkRequest(log=log)],
        "SetPolicy": [
            pb.SetPolicyRequest(log=log, tenant=world.tenant, text=world.policy, expected_version=0)
        ],
        "GetPolicy": [pb.GetPolicyRequest(log=log, tenant=world.tenant)],
        "SignKeyEvent": [pb.SignKeyEventRequest(event=world.event, kid=world.kid)],
    }


def _keys(world: World) -> dict[str, list[Message]]:
    pb, spare, uri = keys_pb2, world.spare_kid, f"local:{world.spare_kid}.pem"
    purpose = pb.KEY_PURPOSE_RECEIPT
    key: Any = {"kid": spare, "purpose": purpose, "uri": uri, "jwk": world.spare_jwk}
    signer = pb.Signer(watcher="w", instance="i")
    return {
        "CreateKey": [pb.CreateKeyRequest(**key)],
        "GetKey": [pb.GetKeyRequest(name=f"keys/{world.kid}")],
        "ListKeys": [pb.ListKeysRequest(page_size=2, purpose=purpose)],
        "RotateKey": [
            pb.RotateKeyRequest(**key, hold_pending=True),
            pb.RotateKeyRequest(kid=spare, purpose=purpose),
        ],
        "CommitRotation": [pb.CommitRotationRequest(kid=spare)],
        "RevokeKey": [
            pb.RevokeKeyRequest(
                kid=spare,
                reason="lost",
                after=[pb.CoveredCheckpoint(origin="log.test/1", size=2, root=bytes(32))],
            )
        ],
        "GetJwks": [pb.GetJwksRequest()],
        "ProposeGenesis": [
            pb.ProposeGenesisRequest(
                recovery_kid=world.recovery_kid, recovery_jwk=world.recovery_jwk
            )
        ],
        "EndorseKeyEvent": [
            pb.EndorseKeyEventRequest(digest=world.digest, endorsements=world.endorsements)
        ],
        "RecordKeyEvent": [pb.RecordKeyEventRequest(digest=world.digest, receipt=world.receipt)],
        "CancelRotation": [pb.CancelRotationRequest(kid=spare)],
        "ListKeyEvents": [pb.ListKeyEventsRequest()],
        "ReportSigner": [pb.ReportSignerRequest(signer=signer)],
        "ListSigners": [pb.ListSignersRequest()],
        "RebuildRegistry": [
            pb.RebuildRegistryRequest(
                payloads=world.payloads,
                receipts=[_another(world.receipt)] * len(world.payloads),
                pin=world.pin,
            )
        ],
        "RebuildRegistryStream": [
            pb.RebuildRegistryStreamRequest(
                payloads=world.payloads,
                receipts=[_another(world.receipt)] * len(world.payloads),
                pin=world.pin,
                event_count=len(world.payloads),
            )
        ],
        "WatchKeys": [pb.WatchKeysRequest(watcher="w")],
    }


def _witness(world: World) -> dict[str, list[Message]]:
    pb = witness_pb2
    receipt_id = world.submitted_uid[:6] + b"\x70\x00\x80" + world.submitted_uid[9:]
    items = [pb.WitnessItem(receipt_id=receipt_id, principal="p", draft=each) for each in drafts()]
    return {
        "WitnessBatch": [
            pb.WitnessBatchRequest(
                ledger=world.ledger,
                ledger_uid=world.ledger_uid,
                suite=common_pb2.SUITE_BLAKE3,
                items=items,
            )
        ],
        "SignKeyEvent": [pb.SignKeyEventRequest(event=world.event, kid=world.kid)],
    }


_REQUESTS = {"ledger": _ledger, "anchor": _anchor, "keys": _keys, "witness": _witness}


def _another(receipt: str) -> str:
    """The name of a receipt beside one, so that a rebuild is never of what is recorded already."""
    return receipt[:-1] + ("0" if receipt[-1] != "0" else "1")
