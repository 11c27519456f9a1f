"""A witness in memory: real statements, commitments, batch trees and Ed25519 signatures.

Of the checks it makes only the plain ones: identifiers, strict JSON, the states an action wants.
A missing diff replaces the whole document.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from provledger import disclosure, dsse, jcs, jwk, names
from provledger.api.common.v1 import common_pb2
from provledger.api.witness.v1 import witness_pb2
from provledger.errors import FieldViolation, InputError, InvalidArgumentError, InvalidJSONError
from provledger.rpc.errors import status_to_pb
from provledger.statement import Check, Statement
from provledger.witness_batch import PAYLOAD_TYPE, WitnessBatch, batch_root, statement_leaf_hash
from tests.inmem.faults import Faults

SUITES = {
    common_pb2.SUITE_BLAKE3: "blake3",
    common_pb2.SUITE_BLAKE3_ALL: "blake3-all",
    common_pb2.SUITE_FIPS: "fips",
}
ACTIONS = {
    common_pb2.ACTION_CREATE: "CREATE",
    common_pb2.ACTION_UPDATE: "UPDATE",
    common_pb2.ACTION_DELETE: "DELETE",
}


class InMemoryWitness:
    """Stands in for `WitnessServiceStub`.

    `clock` gives the time of signing. `strangers` puts as many statements of others in front of
    each batch, as a busy witness does.
    """

    def __init__(
        self, *, kid: str = "witness-1", epoch: int = 1, clock: Callable[[], int] = time.time_ns
    ) -> None:
        self.faults = Faults()
        self.clock = clock
        self.strangers = 0
        self.rotate(kid, epoch)

    def rotate(self, kid: str, epoch: int) -> None:
        """Sign with a new key from now on."""
        self.kid, self.epoch = kid, epoch
        self._key = Ed25519PrivateKey.generate()
        self.public_key = self._key.public_key()
        self.thumbprint = jwk.thumbprint_of(self.public_key)

    async def WitnessBatch(
        self,
        request: witness_pb2.WitnessBatchRequest,
        context: Any = None,
        **_: Any,
    ) -> witness_pb2.WitnessBatchResponse:
        self.faults.enter("WitnessBatch", request)
        response = self.answer(request)
        self.faults.leave("WitnessBatch", request)
        return response

    def answer(self, request: witness_pb2.WitnessBatchRequest) -> witness_pb2.WitnessBatchResponse:
        suite = SUITES[request.suite]
        leaves = [os.urandom(32) for _ in range(self.strangers)]
        response = witness_pb2.WitnessBatchResponse()
        now_ns = self.clock()
        passed = False
        for item in request.items:
            result = response.results.add()
            try:
                witnessed = self._witness(request, item, now_ns)
            except InputError as error:
                result.rejection.CopyFrom(status_to_pb(error))
            except InvalidArgumentError as error:
                result.rejection.CopyFrom(status_to_pb(error))
            else:
                passed = True
                witnessed.batch_index = len(leaves)
                leaves.append(statement_leaf_hash(suite, witnessed.statement))
                result.witnessed.CopyFrom(witnessed)
        if not passed:
            return response
        body = WitnessBatch(
            suite=suite,
            root=batch_root(suite, leaves),
            size=len(leaves),
            kid=self.kid,
            thumbprint=self.thumbprint,
            epoch=self.epoch,
            signed_at_ns=now_ns,
        ).encode()
        response.body = body
        response.sig = self._key.sign(dsse.pae(PAYLOAD_TYPE, body))
        response.leaf_hashes = b"".join(leaves)
        response.kid, response.epoch, response.signed_at_ns = self.kid, self.epoch, now_ns
        return response

    def _witness(
        self,
        request: witness_pb2.WitnessBatchRequest,
        item: witness_pb2.WitnessItem,
        now_ns: int,
    ) -> witness_pb2.WitnessedStatement:
        draft = item.draft
        names.check_text(draft.actor.id, "actor.id")
        content: Any
        action = ""
        if draft.WhichOneof("content") == "mutation":
            content = draft.mutation
            receipt_type, media_type = "mutation", "application/json"
            action = ACTIONS[content.action]
            value: Any = _mutation_payload(content, action)
            payload = jcs.encode(value)
            is_json = True
        else:
            content = draft.document
            receipt_type = names.check_receipt_type(content.receipt_type, "document.receipt_type")
            media_type = names.check_media_type(content.media_type, "document.media_type")
            if receipt_type.startswith("ledger.") and not request.system:
                raise _refusal("document.receipt_type", "is the system's own")
            is_json = names.is_json_media_type(media_type)
            value = _parse(content.payload, "document.payload") if is_json else None
            payload = jcs.encode(value) if is_json else content.payload
        names.check_resource_type(content.resource_type)
        names.check_resource_id(content.resource_id)
        if is_json:
            commitment = disclosure.commit_fields(
                value, os.urandom(32), mutation=receipt_type == "mutation"
            )
        else:
            commitment = disclosure.commit_blob(media_type, payload, os.urandom(16))
        statement = Statement(
            ledger=request.ledger,
            ledger_uid=request.ledger_uid,
            receipt_id=names.receipt_id_text(item.receipt_id),
            request_id=draft.request_id,
            receipt_type=receipt_type,
            action=action,
            resource_type=content.resource_type,
            resource_id=content.resource_id,
            actor_id=draft.actor.id,
            actor_type=draft.actor.type,
            principal=item.principal,
            origin_service=draft.origin.service,
            trace_id=draft.origin.trace_id,
            upstream_events=tuple(draft.origin.upstream_events),
            op_id=draft.op_id,
            op_parent_id=draft.op_parent_id,
            occurred_at=draft.occurred_at,
            witnessed_at_ns=now_ns,
            media_type=media_type,
            profile=commitment.profile,
            payload_hash=commitment.root,
            checks=(Check("json-strict", "1", "passed"),),
            salt=os.urandom(16),
        ).encode()
        return witness_pb2.WitnessedStatement(
            statement=statement,
            payload=payload,
            receipt_type=receipt_type,
            profile=commitment.profile,
            commitment_size=commitment.size,
            secret=commitment.secret,
            payload_hash=commitment.root,
        )


def _mutation_payload(mutation: common_pb2.Mutation, action: str) -> dict[str, Any]:
    previous = _parse(mutation.previous_state or b"null", "mutation.previous_state")
    new = _parse(mutation.new_state or b"null", "mutation.new_state")
    if (previous is None) != (action == "CREATE"):
        raise _refusal("mutation.previous_state", f"does not fit {action}")
    if (new is None) != (action == "DELETE"):
        raise _refusal("mutation.new_state", f"does not fit {action}")
    diff: Any = [{"op": "replace", "path": "", "value": new}]
    if mutation.diff:
        diff = _parse(mutation.diff, "mutation.diff")
    return {
        "mutationType": action,
        "entityType": mutation.resource_type,
        "entityId": mutation.resource_id,
        "previousState": previous,
        "newState": new,
        "diff": diff,
    }


def _parse(data: bytes, field: str) -> Any:
    try:
        return jcs.parse(data)
    except InvalidJSONError as error:
        raise _refusal(field, str(error), "INVALID_JSON") from error


def _refusal(field: str, text: str, reason: str = "REFUSED") -> InvalidArgumentError:
    return InvalidArgumentError(
        reason, f"{field}: {text}", violations=[FieldViolation(field, text, reason)]
    )
