"""Asks an anchor whose logs are held for everything that an anchor can be asked for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import islice
from typing import Any, Final

import grpc
import pytest
from google.protobuf.message import Message

from provledger.api.anchor.v1 import anchor_pb2 as pb
from provledger.api.anchor.v1 import anchor_pb2_grpc
from provledger.api.common.v1 import common_pb2
from provledger.client import CallPolicy, Client, Mutation
from provledger.entry import parse_entry
from provledger.errors import StatusError
from provledger.retry import NO_RETRY
from provledger.rpc.errors import from_rpc_error
from provledger.rpc.key_events import event_to_pb
from tests.faults.cluster import Cluster, eventually
from tests.support.key_history import GENESIS

RPCS: Final = tuple(
    method.name for method in pb.DESCRIPTOR.services_by_name["AnchorService"].methods
)
REFUSED: Final = frozenset(
    {
        *("SubmitLeaves", "GetLedgerHead", "GetCoseReceipt", "CreateLog", "SignKeyEvent"),
        # A ledger that hears how far it is begins to append.
        "GetLedgerState",
    }
)
"""All others are answered, out of what was signed before the copy."""
_TIMEOUT_S: Final = 30.0


def check_held(cluster: Cluster, leaves: Mapping[str, list[bytes]], reason: str) -> None:
    """Check that the anchor signs nothing, by any RPC, and goes on to show what it has.

    leaves: of each log, by the last part of its name, as they were before all but the sinks was put
    back; more than it knows of.
    """
    with grpc.insecure_channel(cluster.endpoint("anchor")) as channel:
        stub = anchor_pb2_grpc.AnchorServiceStub(channel)
        for name, entries in leaves.items():
            signed = (cluster.data.tiles / "logs" / name / "checkpoint").read_bytes()
            log = f"logs/{name}"
            eventually(partial(_hears_of_keys, stub, log), "the anchor has heard of its keys")
            size = stub.GetCheckpoint(pb.GetCheckpointRequest(log=log)).tree_size
            assert 1 < size < len(entries), "nothing was lost"
            for rpc in RPCS:
                _check_rpc(stub, rpc, _request(rpc, log, entries, size), reason, signed)
            assert "remembers more" in stub.GetLog(pb.GetLogRequest(name=log)).log.held
            # Of all logs together: none of them may be missing a ledger.
            with pytest.raises(grpc.RpcError) as caught:
                stub.GetLog(pb.GetLogRequest(name=log, count_ledgers=True), timeout=_TIMEOUT_S)
            assert from_rpc_error(caught.value).reason == reason


def check_nothing_recorded(endpoint: str, ledger: str, reason: str) -> None:
    """Check that a ledger of a held log refuses each way to append, and to say what is newest."""

    def draft(number: int) -> Mutation:
        text = f"held-{number}"
        return Mutation(
            action="CREATE",
            resource_type="Item",
            resource_id=text,
            actor_id="a",
            request_id=text,
            new_state={},
        )

    def streamed() -> None:
        for result in client.append_stream(ledger, [draft(3)]):
            assert result.error is not None
            raise result.error

    with Client(endpoint, policy=CallPolicy(timeout_s=_TIMEOUT_S, retry=NO_RETRY)) as client:
        seq = client.get_ledger(ledger).seq
        for ask in (
            lambda: client.append(ledger, draft(0)),
            lambda: client.append_batch(ledger, [draft(1), draft(2)]),
            streamed,
            lambda: client.get_head(ledger),
        ):
            with pytest.raises(StatusError) as caught:
                ask()
            assert caught.value.reason == reason, caught.value
        assert client.get_ledger(ledger).seq == seq


def _hears_of_keys(stub: Any, log: str) -> bool:
    """Not so for a moment after a start, whatever is held: the keys service is asked meanwhile."""
    try:
        stub.GetLog(pb.GetLogRequest(name=log), timeout=_TIMEOUT_S)
    except grpc.RpcError as exc:
        if from_rpc_error(exc).reason != "KEY_LEASE_EXPIRED":
            raise
        return False
    return True


def _check_rpc(stub: Any, rpc: str, request: Message, reason: str, signed: bytes) -> None:
    answer: Any = None
    try:
        if rpc == "WatchCheckpoints":
            watch = stub.WatchCheckpoints(request, timeout=_TIMEOUT_S)
            (answer,) = islice(watch, 1)
            watch.cancel()
        else:
            answer = getattr(stub, rpc)(request, timeout=_TIMEOUT_S)
    except grpc.RpcError as exc:
        error = from_rpc_error(exc)
        assert rpc in REFUSED, f"{rpc}: {error!r}"
        assert error.reason == reason, f"{rpc}: {error!r}"
        return
    assert rpc not in REFUSED, f"{rpc} is answered: {answer}"
    for where in (answer, getattr(answer, "proof", None)):
        if where is not None and "checkpoint" in where.DESCRIPTOR.fields_by_name:
            assert where.checkpoint == signed, f"{rpc} shows a newer checkpoint"


def _request(rpc: str, log: str, leaves: list[bytes], size: int) -> Message:
    """A good request; KeyError for an RPC that is new: is it to be refused while a log is held?"""
    places = {parse_entry(leaf).ledger_uid: at for at, leaf in enumerate(leaves[1:size], start=1)}
    # Ledgers may have been made after the copy.
    entry = next(leaf for leaf in leaves[size:] if parse_entry(leaf).ledger_uid in places)
    lost = parse_entry(entry)
    known = places[lost.ledger_uid]
    requests: dict[str, Message] = {
        "GetLog": pb.GetLogRequest(name=log, with_tenants=True),
        "ListLogs": pb.ListLogsRequest(),
        "GetTile": pb.GetTileRequest(log=log, path=_tile(size)),
        "CreateLog": pb.CreateLogRequest(tenant="tenants/held", suite=common_pb2.SUITE_BLAKE3),
        "SubmitLeaves": pb.SubmitLeavesRequest(
            log=log,
            ledger_uid=lost.ledger_uid,
            suite=common_pb2.SUITE_BLAKE3,
            start_seq=lost.seq,
            entries=[entry],
        ),
        "GetLedgerState": pb.GetLedgerStateRequest(log=log, ledger_uid=lost.ledger_uid),
        "GetInclusionProof": pb.GetInclusionProofRequest(log=log, log_index=known),
        "GetCoseReceipt": pb.GetCoseReceiptRequest(log=log, log_index=known),
        "BatchGetInclusionProofs": pb.BatchGetInclusionProofsRequest(
            log=log, ledger_uid=lost.ledger_uid, seqs=[0]
        ),
        "GetConsistencyProof": pb.GetConsistencyProofRequest(log=log, old_size=1),
        "GetCheckpoint": pb.GetCheckpointRequest(log=log),
        "WatchCheckpoints": pb.WatchCheckpointsRequest(log=log),
        "GetLedgerHead": pb.GetLedgerHeadRequest(log=log, ledger_uid=lost.ledger_uid),
        "ListAnchors": pb.ListAnchorsRequest(log=log),
        "ListSinks": pb.ListSinksRequest(log=log),
        "RetrySink": pb.RetrySinkRequest(log=log),
        "SetPolicy": pb.SetPolicyRequest(log=log, tenant="tenants/held", validate_only=True),
        "GetPolicy": pb.GetPolicyRequest(log=log),
        "SignKeyEvent": pb.SignKeyEventRequest(event=event_to_pb(GENESIS), kid="checkpoint-1"),
    }
    return requests[rpc]


def _tile(size: int) -> str:
    return "tile/entries/000" if size >= 256 else f"tile/entries/000.p/{size}"
