"""What services and clients are answered: batches that the witness signed, results of appends."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from ledger_svc.chain import LedgerInfo
from ledger_svc.witnessing import Pending, read_response
from provledger import names
from provledger.api.common.v1 import common_pb2
from provledger.api.witness.v1 import witness_pb2
from provledger.client import convert as client_convert
from provledger.receipt import Receipt
from provledger.statement import parse_statement
from provledger.witness_batch import parse_body, statement_leaf_hash
from tests.fuzz import trusted

FIRST_BATCH: Final = slice(1, 4)
"""The receipts of the chain's first batch after its genesis."""

_SUITES: Final = {"blake3": common_pb2.SUITE_BLAKE3}


def read_witnessed(response: Any) -> None:
    """As the ledger reads what its witness signed for as many drafts as there are results."""
    chain = trusted.CHAIN
    ledger = LedgerInfo(chain.uid, "acme", "main", chain.suite, "logs/-", chain.origin, 1)
    asked = [_pending(each) for each in _first_batch()]
    items = [*asked, *asked[-1:] * 1000][: len(response.results)]
    witnessed = read_response(ledger, items, response)
    assert len(witnessed.results) == len(response.results)
    assert (witnessed.seal is None) == all(
        isinstance(each, Exception) for each in witnessed.results
    )


@cache
def _first_batch() -> list[Receipt]:
    return list(trusted.CHAIN.receipts())[FIRST_BATCH]


@cache
def _asked(statement: bytes) -> tuple[bytes, common_pb2.Draft]:
    """The receipt id and the draft that a statement is the answer to; states are not compared."""
    stated = parse_statement(statement)
    draft = common_pb2.Draft(
        request_id=stated.request_id,
        actor=common_pb2.Actor(id=stated.actor_id, type=stated.actor_type),
        origin=common_pb2.Origin(
            service=stated.origin_service,
            trace_id=stated.trace_id,
            upstream_events=stated.upstream_events,
        ),
        op_id=stated.op_id,
        op_parent_id=stated.op_parent_id,
        occurred_at=stated.occurred_at,
        mutation=common_pb2.Mutation(
            action=f"ACTION_{stated.action}",
            resource_type=stated.resource_type,
            resource_id=stated.resource_id,
        ),
    )
    return names.receipt_id_bytes(stated.receipt_id), draft


def _pending(receipt: Receipt) -> Pending:
    receipt_id, draft = _asked(receipt.statement)
    pending = Pending(draft, "anonymous", 1)
    pending.receipt_id = receipt_id
    return pending


def read_result(message: Any) -> None:
    """As a client reads what became of a draft."""
    client_convert.result_from_pb(message, index=0, request_id="r", full=True)


def witnessed_batch() -> bytes:
    """The answer that the chain's first batch came in."""
    receipts = _first_batch()
    signature = receipts[0].signature
    body = parse_body(signature.body)
    return witness_pb2.WitnessBatchResponse(
        results=[
            witness_pb2.WitnessResult(
                witnessed=witness_pb2.WitnessedStatement(
                    statement=each.statement,
                    payload=each.payload,
                    receipt_type=each.receipt_type,
                    profile=each.commitment.profile,
                    commitment_size=each.commitment.size,
                    secret=each.commitment.secret,
                    payload_hash=each.payload_hash,
                    batch_index=place,
                )
            )
            for place, each in enumerate(receipts)
        ],
        body=signature.body,
        sig=signature.sig,
        leaf_hashes=b"".join(
            statement_leaf_hash(trusted.CHAIN.suite, each.statement) for each in receipts
        ),
        kid=body.kid,
        epoch=body.epoch,
        signed_at_ns=body.signed_at_ns,
    ).SerializeToString()


def full_receipt(receipt: Receipt) -> common_pb2.Receipt:
    """A receipt as the FULL view has it."""
    return common_pb2.Receipt(
        name=receipt.name,
        receipt_type=receipt.receipt_type,
        ledger_uid=receipt.ledger_uid,
        suite=_SUITES[receipt.suite],
        seq=receipt.seq,
        t_ns=receipt.t_ns,
        previous_hash=receipt.previous_hash or b"",
        payload_hash=receipt.payload_hash,
        receipt_hash=receipt.receipt_hash,
        kid=receipt.kid,
        statement=receipt.statement,
        payload=receipt.payload,
        signature=common_pb2.WitnessSignature(
            body=receipt.signature.body,
            sig=receipt.signature.sig,
            index=receipt.signature.index,
            path=receipt.signature.path,
        ),
        commitment=common_pb2.Commitment(
            profile=receipt.commitment.profile,
            size=receipt.commitment.size,
            secret=receipt.commitment.secret or b"",
        ),
        proofs=[
            common_pb2.InclusionProof(
                origin=each.origin,
                log_index=each.log_index,
                hashes=each.hashes,
                checkpoint=each.checkpoint,
            )
            for each in receipt.proofs
        ],
    )
