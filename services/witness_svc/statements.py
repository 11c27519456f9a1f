"""From a draft that passed to its statement: commitment, statement bytes, leaf hash (design §4).

`StatementMaker` writes the bytes of `provledger.statement.Statement.encode` by a template of its
own, since it makes one for every receipt there is; a test holds the two together. Pure: time and
randomness are given.
"""

from __future__ import annotations

from dataclasses import dataclass
from json.encoder import encode_basestring as _quote
from typing import Final, NamedTuple

from provledger import disclosure, names, witness_batch
from provledger.disclosure import BLOB_PROFILE, BLOB_SALT_BYTES, FIELDS_PROFILE, Commitment
from provledger.errors import IdentifierError
from provledger.statement import (
    DIGEST_NAMES,
    MAX_STATEMENT_BYTES,
    PREDICATE_TYPE,
    SALT_BYTES,
    STATEMENT_TYPE,
    Check,
)
from witness_svc import checks
from witness_svc.checks import Checked, Draft
from witness_svc.refusals import refusal

RANDOM_BYTES: Final = SALT_BYTES + disclosure.FIELDS_SECRET_BYTES
"""Fresh random bytes that each statement takes: its salt, and the secret of its commitment."""

CHECK_VERSION: Final = "1"
PASSED: Final = "passed"


@dataclass(frozen=True, slots=True)
class Place:
    """What all statements of one call share. `ledger_uid` is 16 bytes."""

    ledger: str
    ledger_uid: bytes
    suite: str
    witnessed_at_ns: int


class Made(NamedTuple):
    """A statement, ready to be signed, and what the ledger keeps beside it."""

    statement: bytes
    leaf_hash: bytes
    payload: bytes
    receipt_type: str
    commitment: Commitment


def checks_made(check_names: tuple[str, ...]) -> tuple[Check, ...]:
    """Return the checks of these names as statements hold them."""
    return tuple(Check(name, CHECK_VERSION, PASSED) for name in check_names)


def _checks_text(check_names: tuple[str, ...]) -> str:
    made = (
        f'{{"name":"{made.name}","result":"{made.result}","version":"{made.version}"}}'
        for made in checks_made(check_names)
    )
    return f"[{','.join(made)}]"


_CHECKS_TEXTS: Final = {
    check_names: _checks_text(check_names)
    for check_names in (checks.MUTATION_CHECKS, checks.JSON_CHECKS, checks.NO_CHECKS)
}


class StatementMaker:
    """Makes the statements of one call.

    Only what a caller chose freely is quoted: everything else is held to a form without quotes,
    backslashes and controls, by `witness_svc.checks` or by ourselves.
    """

    def __init__(self, place: Place) -> None:
        self._suite = place.suite
        self._ledger = f'"ledger":"{place.ledger}","ledgerUid":"{place.ledger_uid.hex()}"'
        self._end = (
            f'"witnessedAtNs":"{place.witnessed_at_ns}"}},"predicateType":"{PREDICATE_TYPE}",'
            f'"subject":[{{"digest":{{'
        )

    def make(
        self, draft: Draft, checked: Checked, receipt_id: bytes, principal: str, random: bytes
    ) -> Made:
        """Make the statement of a draft that passed.

        Args:
            draft: The draft.
            checked: What its check came to.
            receipt_id: UUIDv7, 16 bytes.
            principal: Authenticated principal of the caller.
            random: `RANDOM_BYTES` fresh random bytes.

        Raises:
            InvalidArgumentError: for a receipt id, principal or statement size out of bounds.
        """
        try:
            receipt_id_text = names.receipt_id_text(receipt_id)
            names.check_text(principal, "principal")
        except IdentifierError as error:
            raise refusal("INVALID_IDENTIFIER", error.field, error.message) from None
        salt, secret = random[:SALT_BYTES], random[SALT_BYTES:]
        if checked.fields is not None:
            commitment = disclosure.commit_walked(checked.fields, secret)
        else:
            commitment = disclosure.commit_blob(
                checked.media_type, checked.payload, secret[:BLOB_SALT_BYTES]
            )
        statement = self._encode(draft, checked, receipt_id_text, principal, salt, commitment.root)
        if len(statement) > MAX_STATEMENT_BYTES:
            raise refusal(
                "STATEMENT_TOO_LARGE",
                "content",
                f"makes a statement of more than {MAX_STATEMENT_BYTES} bytes",
            )
        return Made(
            statement,
            witness_batch.statement_leaf_hash(self._suite, statement),
            checked.payload,
            checked.receipt_type,
            commitment,
        )

    def _encode(
        self,
        draft: Draft,
        checked: Checked,
        receipt_id: str,
        principal: str,
        salt: bytes,
        payload_hash: bytes,
    ) -> bytes:
        """Return the statement's RFC 8785 bytes: members in order, what was not said left out."""
        profile = BLOB_PROFILE if checked.fields is None else FIELDS_PROFILE
        action = f'"action":"{checked.action}",' if checked.action else ""
        actor_type = f',"type":{_quote(draft.actor_type)}' if draft.actor_type else ""
        occurred_at = f'"occurredAt":"{draft.occurred_at}",' if draft.occurred_at else ""
        op_id = f'"opId":{_quote(draft.op_id)},' if draft.op_id else ""
        op_parent_id = f'"opParentId":{_quote(draft.op_parent_id)},' if draft.op_parent_id else ""
        return (
            f'{{"_type":"{STATEMENT_TYPE}","predicate":{{{action}'
            f'"actor":{{"id":{_quote(draft.actor_id)}{actor_type}}},'
            f'"checks":{_CHECKS_TEXTS[checked.checks]},"commitmentProfile":"{profile}",'
            f'{self._ledger},"mediaType":"{checked.media_type}",'
            f"{occurred_at}{op_id}{op_parent_id}{_origin(draft)}"
            f'"principal":{_quote(principal)},"receiptId":"{receipt_id}",'
            f'"receiptType":"{checked.receipt_type}","requestId":{_quote(draft.request_id)},'
            f'"resourceId":{_quote(checked.resource_id)},'
            f'"resourceType":{_quote(checked.resource_type)},"salt":"{salt.hex()}",'
            f'{self._end}"{DIGEST_NAMES[profile]}":"{payload_hash.hex()}"}},'
            f'"name":{_quote(f"{checked.resource_type}/{checked.resource_id}")}}}]}}'
        ).encode()


def _origin(draft: Draft) -> str:
    """Return the member `origin` with a comma behind it, or nothing where nothing was said."""
    parts = []
    if draft.origin_service:
        parts.append(f'"service":{_quote(draft.origin_service)}')
    if draft.trace_id:
        parts.append(f'"traceId":"{draft.trace_id}"')
    if draft.upstream_events:
        parts.append(f'"upstream":[{",".join(map(_quote, draft.upstream_events))}]')
    return f'"origin":{{{",".join(parts)}}},' if parts else ""
