"""An anchor in memory: one real Merkle log, signed checkpoints and heads, and a pretended sink."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from provledger import checkpoint, dsse, jwk, merkle, note
from provledger.api.anchor.v1 import anchor_pb2
from provledger.api.common.v1 import common_pb2
from provledger.entry import parse_entry, receipt_hash
from provledger.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    StatusError,
)
from provledger.head import PAYLOAD_TYPE as HEAD_TYPE
from provledger.head import Head
from tests.inmem.faults import Faults, rpc_error
from tests.inmem.witness import SUITES


@dataclass(frozen=True, slots=True)
class _Logged:
    seq: int
    index: int
    receipt_hash: bytes


class InMemoryAnchor:
    """Stands in for `AnchorServiceStub`. `sinks` off means that there is none, and nothing is
    anchored; `anchored_size` follows the tree at once while `anchoring` is on. `held` is why the
    log does not say what it has of ledgers, as one that was restored."""

    def __init__(self, *, sinks: bool = True) -> None:
        self.faults = Faults()
        self.held: StatusError | None = None
        self.uid = bytes(range(16))
        self.origin = f"log.test/{self.uid.hex()}"
        self._key = Ed25519PrivateKey.generate()
        self.public_key = self._key.public_key()
        self._head_key = Ed25519PrivateKey.generate()
        self.sinks = sinks
        self.anchoring = True
        self.proves = True
        self.policy: anchor_pb2.AnchorPolicy | None = None
        self.tenants: list[anchor_pb2.TenantPromise] = []
        self._anchored = 0
        self.leaves: list[bytes] = [merkle.leaf_hash(b'{"log":{}}')]
        self.ledgers: dict[bytes, list[_Logged]] = {}
        self._proofs: dict[int, list[list[bytes]]] = {}
        self._changed = asyncio.Event()

    @property
    def anchored_size(self) -> int:
        if not self.sinks:
            return -1
        if self.anchoring:
            self._anchored = len(self.leaves)
        return self._anchored

    @property
    def vkey(self) -> str:
        raw = jwk.raw_public_bytes(self.public_key)
        return note.format_vkey(self.origin, note.ED25519, raw)

    async def GetLog(
        self, request: anchor_pb2.GetLogRequest, context: Any = None, **_: Any
    ) -> anchor_pb2.GetLogResponse:
        self.faults.enter("GetLog", request)
        if request.count_ledgers:
            self._check_held()
        return anchor_pb2.GetLogResponse(
            log=anchor_pb2.Log(
                name=f"logs/{self.uid.hex()}",
                uid=self.uid,
                origin=self.origin,
                suite=common_pb2.SUITE_BLAKE3,
                vkey=self.vkey,
                key_thumbprint=jwk.thumbprint_of(self.public_key),
                tree_size=len(self.leaves),
                published_size=len(self.leaves),
                anchored_size=self.anchored_size,
                policy=self.policy,
                tenants=self.tenants if request.with_tenants else (),
            ),
            ledger_count=len(self.ledgers) if request.count_ledgers else 0,
        )

    def _check_held(self) -> None:
        if self.held is not None:
            raise rpc_error(self.held)

    async def SubmitLeaves(
        self,
        request: anchor_pb2.SubmitLeavesRequest,
        context: Any = None,
        **_: Any,
    ) -> anchor_pb2.SubmitLeavesResponse:
        self.faults.enter("SubmitLeaves", request)
        response = self._submit(request)
        if request.with_proofs and self.proves:
            seqs = range(request.start_seq, request.start_seq + len(request.entries))
            response.proofs.CopyFrom(self._prove(request.ledger_uid, list(seqs), 0))
            response.proofs.ClearField("evidence")
            response.proofs.anchored = False
        self.faults.leave("SubmitLeaves", request)
        return response

    def _submit(self, request: anchor_pb2.SubmitLeavesRequest) -> anchor_pb2.SubmitLeavesResponse:
        logged = self.ledgers.setdefault(request.ledger_uid, [])
        runs: list[anchor_pb2.LeafRun] = []
        for place, data in enumerate(request.entries):
            entry = parse_entry(data)
            seq = request.start_seq + place
            leaf = merkle.leaf_hash(data)
            if seq > len(logged) or entry.seq != seq:
                raise FailedPreconditionError("SEQ_GAP", "an entry is missing")
            if seq < len(logged):
                if self.leaves[logged[seq].index] != leaf:
                    raise FailedPreconditionError("LEDGER_FORKED", "another entry is there")
            else:
                if (entry.prev or b"") != (logged[-1].receipt_hash if logged else b""):
                    raise FailedPreconditionError("PREV_MISMATCH", "another past")
                digest = receipt_hash(SUITES[request.suite], data)
                logged.append(_Logged(seq, len(self.leaves), digest))
                self.leaves.append(leaf)
            index = logged[seq].index
            if runs and runs[-1].start_index + runs[-1].count == index:
                runs[-1].count += 1
            else:
                runs.append(anchor_pb2.LeafRun(start_seq=seq, start_index=index, count=1))
        self._changed.set()
        self._changed = asyncio.Event()
        return anchor_pb2.SubmitLeavesResponse(runs=runs, tree_size=len(self.leaves))

    async def GetLedgerState(
        self,
        request: anchor_pb2.GetLedgerStateRequest,
        context: Any = None,
        **_: Any,
    ) -> anchor_pb2.GetLedgerStateResponse:
        self.faults.enter("GetLedgerState", request)
        self._check_held()
        logged = self.ledgers.get(request.ledger_uid)
        if not logged:
            return anchor_pb2.GetLedgerStateResponse(
                seq=-1, log_index=-1, tree_size=len(self.leaves)
            )
        last = logged[-1]
        return anchor_pb2.GetLedgerStateResponse(
            seq=last.seq,
            receipt_hash=last.receipt_hash,
            log_index=last.index,
            tree_size=len(self.leaves),
        )

    async def BatchGetInclusionProofs(
        self,
        request: anchor_pb2.BatchGetInclusionProofsRequest,
        context: Any = None,
        **_: Any,
    ) -> anchor_pb2.BatchGetInclusionProofsResponse:
        self.faults.enter("BatchGetInclusionProofs", request)
        seqs = list(request.seqs)
        if sorted(set(seqs)) != seqs or not 1 <= len(seqs) <= 1000:
            raise InvalidArgumentError("INVALID_FIELD", "seqs must be strictly increasing")
        return self._prove(request.ledger_uid, seqs, request.tree_size)

    def _prove(
        self, ledger_uid: bytes, seqs: list[int], tree_size: int
    ) -> anchor_pb2.BatchGetInclusionProofsResponse:
        size = tree_size or len(self.leaves)
        if size > len(self.leaves):
            raise NotFoundError("CHECKPOINT_NOT_FOUND", "no checkpoint of that size")
        if size not in self._proofs:
            self._proofs = {size: merkle.inclusion_proofs(self.leaves[:size])}
        logged = self.ledgers.get(ledger_uid, [])
        proofs = [
            anchor_pb2.IndexedProof(
                seq=seq,
                log_index=logged[seq].index,
                hashes=b"".join(self._proofs[size][logged[seq].index]),
            )
            for seq in seqs
            if seq < len(logged) and logged[seq].index < size
        ]
        anchored = self.sinks and self.anchored_size >= size
        return anchor_pb2.BatchGetInclusionProofsResponse(
            proofs=proofs,
            origin=self.origin,
            checkpoint=self.checkpoint(size),
            tree_size=size,
            evidence=[self._evidence()] if anchored else [],
            anchored=anchored,
        )

    def _evidence(self) -> common_pb2.AnchorEvidence:
        return common_pb2.AnchorEvidence(
            sink="memory:", kind="memory", acknowledged_at_ns=time.time_ns(), evidence=b"{}"
        )

    def checkpoint(self, size: int) -> bytes:
        text = checkpoint.format(self.origin, size, merkle.root_of_hashes(self.leaves[:size]))
        key_id = note.note_key_id(self.origin, note.ED25519, jwk.raw_public_bytes(self.public_key))
        line = note.signature_line(self.origin, key_id, self._key.sign(text))
        return note.format_note(text, [line])

    async def GetLedgerHead(
        self,
        request: anchor_pb2.GetLedgerHeadRequest,
        context: Any = None,
        **_: Any,
    ) -> anchor_pb2.GetLedgerHeadResponse:
        self.faults.enter("GetLedgerHead", request)
        size = request.tree_size or len(self.leaves)
        covered = [item for item in self.ledgers.get(request.ledger_uid, []) if item.index < size]
        if not covered:
            raise NotFoundError("LEDGER_NOT_LOGGED", "nothing of this ledger is logged")
        body = Head(
            ledger_uid=request.ledger_uid,
            seq=covered[-1].seq,
            receipt_hash=covered[-1].receipt_hash,
            log_index=covered[-1].index,
            origin=self.origin,
            size=size,
            root=merkle.root_of_hashes(self.leaves[:size]),
            kid="head-1",
            epoch=1,
            signed_at_ns=time.time_ns(),
        ).encode()
        sig = self._head_key.sign(dsse.pae(HEAD_TYPE, body))
        envelope = dsse.Envelope(HEAD_TYPE, body, (dsse.Signature("head-1", sig),))
        return anchor_pb2.GetLedgerHeadResponse(
            head=dsse.encode(envelope), checkpoint=self.checkpoint(size)
        )

    async def WatchCheckpoints(
        self, request: anchor_pb2.WatchCheckpointsRequest, context: Any = None
    ) -> AsyncIterator[anchor_pb2.WatchCheckpointsResponse]:
        self.faults.enter("WatchCheckpoints", request)
        while True:
            changed = self._changed
            yield anchor_pb2.WatchCheckpointsResponse(
                checkpoint=self.checkpoint(len(self.leaves)),
                tree_size=len(self.leaves),
                anchored_size=self.anchored_size,
            )
            await changed.wait()
