"""What a receipt says, held against what was signed and committed to; see `provledger.verify`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from provledger import jcs, names
from provledger.disclosure import (
    BLOB_PROFILE,
    FIELDS_PROFILE,
    commit_blob,
    commit_fields,
    verify_disclosures,
)
from provledger.errors import (
    InvalidJSONError,
    InvalidProofError,
    ReceiptFormatError,
    VerificationError,
)
from provledger.merkle import KnownTree
from provledger.receipt import Receipt
from provledger.report import Check, Finding
from provledger.statement import Bound, read_bound
from provledger.witness_batch import WitnessBatch, statement_leaf_hash

_MUTATION: Final = "mutation"
GENESIS: Final = "ledger.created"
_GENESIS_MEMBERS: Final = frozenset(
    "logKey logOrigin logUid predecessor suite v witnessKey".split()
)


def check_statement(receipt: Receipt) -> Bound:
    """Check that the statement is canonical and says what the receipt's own members say.

    Raises:
        VerificationError: naming the first member at odds.
    """
    try:
        stated = read_bound(receipt.statement)
    except ReceiptFormatError as error:
        raise VerificationError(
            str(error), check=Check.STATEMENT, finding=Finding.STATEMENT_CHANGED
        ) from error
    if stated.ledger_uid != receipt.ledger_uid or stated.ledger != receipt.ledger:
        raise VerificationError(
            "the statement was made for another ledger",
            check=Check.STATEMENT,
            finding=Finding.FOREIGN_LEDGER,
        )
    if names.receipt_name(stated.ledger, stated.receipt_id) != receipt.name:
        raise _at_odds("id")
    if stated.receipt_type != receipt.receipt_type:
        raise _at_odds("receiptType")
    if stated.payload_hash != receipt.payload_hash:
        raise _at_odds("payloadHash", Finding.HASH_CHANGED)
    if stated.profile != receipt.commitment.profile:
        raise _at_odds("commitment.profile")
    return stated


def _at_odds(member: str, finding: Finding = Finding.STATEMENT_CHANGED) -> VerificationError:
    return VerificationError(
        f"{member} is not what the statement says", check=Check.STATEMENT, finding=finding
    )


def check_signer(receipt: Receipt, batch: WitnessBatch) -> None:
    """Check that the receipt names the key and the suite of its batch; raises VerificationError."""
    if batch.kid != receipt.kid:
        raise VerificationError(
            "kid is not the one that signed",
            check=Check.WITNESS_SIGNATURE,
            finding=Finding.SIGNATURE_CHANGED,
        )
    if batch.suite != receipt.suite:
        raise VerificationError(
            "suite is not the one that was signed",
            check=Check.WITNESS_SIGNATURE,
            finding=Finding.HASH_CHANGED,
        )


def check_in_batch(receipt: Receipt, batch: WitnessBatch, tree: KnownTree) -> bytes:
    """Return the statement's leaf hash after checking that the signed batch, a tree, holds it.

    Raises:
        VerificationError: the path does not lead from it to the signed root.
    """
    signature = receipt.signature
    statement_hash = statement_leaf_hash(batch.suite, receipt.statement)
    try:
        tree.verify(signature.index, statement_hash, signature.path)
    except InvalidProofError as error:
        raise VerificationError(
            "the statement is not in the batch that was signed",
            check=Check.STATEMENT,
            finding=Finding.STATEMENT_CHANGED,
        ) from error
    return statement_hash


def check_commitment(receipt: Receipt, stated: Bound) -> bool:
    """Check the payload against its commitment; return True if only part of it is shown.

    Raises:
        VerificationError: if what is shown does not make the root the statement names, or is of
            another mutation than the statement.
    """
    opening = receipt.commitment
    if opening.secret is None:
        try:
            shown = verify_disclosures(receipt.payload_hash, opening.disclosures, opening.digests)
        except ReceiptFormatError as error:
            raise _payload_changed(str(error)) from error
        except VerificationError as error:
            raise _payload_changed(error.message) from error
        # Where nothing is shown the mask is empty: null says that all of it is.
        if opening.size != len(opening.digests) or receipt.fields_mask != tuple(sorted(shown)):
            raise _payload_changed("fields_mask or size is not what is disclosed")
        if stated.receipt_type == _MUTATION:
            _check_disclosed_mutation(shown, stated)
        return True
    if receipt.fields_mask is not None or receipt.payload is None:
        raise _payload_changed("a payload that is shown in full has no fields_mask")
    value: jcs.JSONValue = None
    try:
        if opening.profile == BLOB_PROFILE:
            made = commit_blob(stated.media_type, receipt.payload, opening.secret)
        else:
            read = receipt.payload_read
            value = jcs.parse(receipt.payload) if read is None else read
            made = commit_fields(
                value,
                opening.secret,
                mutation=stated.receipt_type == _MUTATION,
                plain=read is not None,
            )
    except (InvalidJSONError, ReceiptFormatError) as error:
        raise _payload_changed(f"the payload cannot be committed to: {error}") from error
    if made.root != receipt.payload_hash or made.size != opening.size:
        raise _payload_changed("the payload, its secret or its size is not what was committed to")
    if stated.receipt_type == _MUTATION:
        _check_mutation(value, stated)
    return False


def _check_mutation(value: jcs.JSONValue, stated: Bound) -> None:
    """Check that a payload in full is of the mutation that is stated; raises VerificationError."""
    if type(value) is not dict:
        raise _payload_changed("the payload of a mutation is an object")
    for member, said in _repeated(stated):
        if value.get(member) != said:
            raise _at_odds(f"payload.{member}")
    # An object with members 0, 1, ... may have the very fields of an array: two payloads, one root.
    if type(value.get("diff")) is not list:
        raise _payload_changed("the diff of a mutation is an array")


def _check_disclosed_mutation(shown: Mapping[str, Any], stated: Bound) -> None:
    """The same for those of the three members that are shown."""
    for member, said in _repeated(stated):
        if shown.get(f"/{member}", said) != said:
            raise _at_odds(f"payload.{member}")


def _repeated(stated: Bound) -> tuple[tuple[str, str], ...]:
    """The members of a mutation that repeat the statement, with what they must be."""
    return (
        ("mutationType", stated.action),
        ("entityType", stated.resource_type),
        ("entityId", stated.resource_id),
    )


def check_genesis(receipt: Receipt) -> str:
    """Check that a ledger's first receipt is in the log that it names, of the suite it names.

    A log knows what it holds of a ledger and not what others do: the same chain, begun again in
    another log, could go on otherwise there. Of one that does not show all of its payload, what it
    shows is checked.

    Returns:
        Which of log and suite it does not show, for people; "" if it shows both.

    Raises:
        VerificationError: it is no genesis, or its proofs or its suite are others.
    """
    said = _genesis(receipt)
    if said.get("suite", receipt.suite) != receipt.suite:
        raise VerificationError(
            "the genesis names another suite", check=Check.CHAIN, finding=Finding.HASH_CHANGED
        )
    if any(proof.origin != said.get("logOrigin", proof.origin) for proof in receipt.proofs):
        raise VerificationError(
            "a proof is of another log than the genesis names",
            check=Check.INCLUSION,
            finding=Finding.PROOF_INVALID,
        )
    wanted = {"logOrigin": "which log it is of", "suite": "its suite"}
    return " and ".join([what for member, what in wanted.items() if member not in said])


def _genesis(receipt: Receipt) -> Mapping[str, Any]:
    """The members that a genesis shows, checked for their form; raises VerificationError."""
    opening = receipt.commitment
    if opening.profile != FIELDS_PROFILE:
        raise _no_genesis("is no JSON")
    said: Mapping[str, Any]
    if opening.secret is None:
        shown = verify_disclosures(receipt.payload_hash, opening.disclosures, opening.digests)
        said = {pointer.removeprefix("/"): value for pointer, value in shown.items()}
        whole = said.keys() <= _GENESIS_MEMBERS
    else:
        try:
            value = jcs.parse(receipt.payload or b"")
        except InvalidJSONError as error:
            raise _payload_changed(f"the genesis is no JSON: {error}") from error
        said = value if isinstance(value, dict) else {}
        whole = said.keys() == _GENESIS_MEMBERS
    if not whole or said.get("v", "1") != "1":
        raise _no_genesis("does not have the members of a genesis, version 1")
    if said.get("predecessor") is not None:
        raise _no_genesis("names a predecessor, which version 1 does not have")
    for member in ("logKey", "witnessKey"):
        if member in said and not _is_thumbprint(said[member]):
            raise _no_genesis(f"has a {member} that is no thumbprint")
    if {"logOrigin", "logUid"} <= said.keys() and not _ends_in(said["logOrigin"], said["logUid"]):
        raise _no_genesis("has a logUid that is not the last segment of its logOrigin")
    return said


def _is_thumbprint(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _ends_in(origin: Any, uid: Any) -> bool:
    return isinstance(origin, str) and origin.rpartition("/")[2] == uid


def _no_genesis(what: str) -> VerificationError:
    return VerificationError(
        f"the payload of {GENESIS} {what}", check=Check.FORMAT, finding=Finding.FORMAT
    )


def _payload_changed(message: str) -> VerificationError:
    return VerificationError(message, check=Check.COMMITMENT, finding=Finding.PAYLOAD_CHANGED)
