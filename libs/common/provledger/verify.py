"""Verification of single receipts, offline: no I/O, no clock, no service (design §5, "Verify").

What is checked, in this order, and what it binds:

- *format*: every member is there, once, in its form;
- *statement*: the statement's bytes are canonical and agree with the receipt's own members;
- *witness_signature*: the statement is in the signed batch and the signature verifies;
- *key_validity*: the key was one of purpose `witness`, of that epoch, valid when it signed; a
  signing token, where there is one, was valid too, and is used once for each of its numbers;
- *commitment*: the payload, opened, makes the root the statement names;
- *entry*: the entry rebuilt from the receipt has the receipt hash it claims;
- *timestamp*: `timestamp_iso` says the same moment as `t_ns`;
- *inclusion*, *checkpoint_signature*: every proof leads from the entry to a checkpoint whose log
  key is in the key set; in one log all of them to one place, and in trees of one size to one tree;
- *sink_evidence*: what sinks returned names that very checkpoint;
- *cosigner_quorum*, *timestamp_token*, *object_lock*: what others say of it, as far as the verifier
  says whom to believe (`provledger.outside`).

A check that does not hold raises `VerificationError`; one that was not made is reported as such,
and a receipt without a proof of inclusion is *unverified*. Whole exports, chains and truncation are
`provledger.export`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from provledger import checkpoint as checkpoints
from provledger import names
from provledger._verify_claims import (
    GENESIS,
    check_commitment,
    check_genesis,
    check_in_batch,
    check_signer,
    check_statement,
)
from provledger._verify_signed import Signed, remember
from provledger.entry import encode_entry, receipt_hash
from provledger.errors import InvalidProofError, ReceiptFormatError, VerificationError
from provledger.hashing import SUITES
from provledger.head import Head
from provledger.keyset import KeySet
from provledger.known_trees import KnownTrees
from provledger.merkle import leaf_hash
from provledger.outside import NOBODY, Outside, check_named
from provledger.receipt import LegacyReceipt, Proof, Receipt, parse_receipt
from provledger.report import Check, CheckResult, Finding, Outcome, Report
from provledger.revocation import Trees, Unsettled

# Made once: a receipt has a dozen results, most of them the same for every receipt.
_HOLDS: Final = {check: CheckResult(check, Outcome.HOLDS) for check in Check}
_FORMAT: Final = _HOLDS[Check.FORMAT]
_STATEMENT: Final = _HOLDS[Check.STATEMENT]
_COMMITMENT: Final = _HOLDS[Check.COMMITMENT]
_KEY_VALIDITY: Final = _HOLDS[Check.KEY_VALIDITY]
_ENTRY: Final = _HOLDS[Check.ENTRY]
_TIMESTAMP: Final = _HOLDS[Check.TIMESTAMP]
FIELDS_SHOWN: Final = CheckResult(Check.COMMITMENT, Outcome.HOLDS, "the fields shown")
"""The result for a receipt that does not show all of its payload: it may show nothing of it."""
_ALONE: Final = CheckResult(Check.CHAIN, Outcome.NOT_CHECKED, "needs the receipts around it")
_TRUNCATION: Final = CheckResult(
    Check.TRUNCATION, Outcome.NOT_CHECKED, "needs a head obtained elsewhere"
)
_NOBODY_SAYS: Final = NOBODY.check(())
_NO_PROOF: Final = tuple(
    CheckResult(check, Outcome.NOT_CHECKED, "the receipt has no proof yet")
    for check in (Check.INCLUSION, Check.CHECKPOINT_SIGNATURE, Check.SINK_EVIDENCE)
)


def verify_receipt(
    receipt: Receipt | LegacyReceipt | bytes | str | Mapping[str, Any],
    keys: KeySet | bytes | str | Mapping[str, Any],
    outside: Outside = NOBODY,
) -> Report:
    """Verify one receipt against a key set, offline.

    Args:
        receipt: A receipt, or its JSON as text or value.
        keys: The trusted public keys, or a JWK Set as text or value.
        outside: Whom else to believe; what it asks for becomes required.

    Returns:
        Every check by name with its outcome; `.status` adds them up.

    Raises:
        VerificationError: for the first check that does not hold, with `.check` and `.finding`.
        KeyFormatError: if the key set cannot be read.
    """
    return Verifier(keys, outside).verify(receipt)


class Verifier:
    """Verifies receipts under one key set, remembering the signatures it has seen.

    Many receipts share a witness batch and a checkpoint; each is checked once. `trees` are of one
    history, as another export has shown; `known` is shared by all that is verified together. Not
    safe for use from several threads at once.
    """

    def __init__(
        self,
        keys: KeySet | bytes | str | Mapping[str, Any],
        outside: Outside = NOBODY,
        *,
        trees: Trees = MappingProxyType({}),
        known: KnownTrees | None = None,
    ) -> None:
        self._outside = outside
        self._required = outside.required
        self._signed = Signed(
            keys if isinstance(keys, KeySet) else KeySet.parse(keys), trees, known or KnownTrees()
        )
        # By what a receipt's proofs have in common with those of its neighbours.
        self._evidence: dict[_Common, tuple[CheckResult, ...]] = {}
        self._others: dict[_Common, list[CheckResult]] = {}

    def verify(self, receipt: Receipt | LegacyReceipt | bytes | str | Mapping[str, Any]) -> Report:
        """Verify one receipt; see `verify_receipt`."""
        if not isinstance(receipt, Receipt | LegacyReceipt):
            receipt = _parse(receipt)
        if isinstance(receipt, LegacyReceipt):
            return _legacy_report(receipt)
        try:
            return Report(receipt.name, self._check(receipt), self._required)
        except VerificationError as error:
            error.receipt = error.receipt or receipt.name
            raise

    def open_checkpoint(self, signed: bytes, origin: str) -> checkpoints.Checkpoint:
        """Return a checkpoint after checking its log signature against the key set.

        Raises:
            VerificationError: if no checkpoint key of the set signed it, its origin differs, or
                another tree of its size was met.
        """
        return self._signed.checkpoint(signed, origin)

    def open_head(self, envelope: bytes) -> Head:
        """Return a head that was kept, a DSSE envelope, after checking its signature.

        Raises:
            VerificationError: if no valid head key of the set signed it, or another tree of its
                size was met. One that is revoked did so validly for a tree that its revocation
                covers.
        """
        return self._signed.head(envelope)

    def open_own_head(self, envelope: bytes) -> Head | None:
        """Return the head that an export carries; None if the key that signed it is revoked.

        Raises:
            VerificationError: if no valid head key of the set signed it.
        """
        return self._signed.own_head(envelope)

    def compare(self, trees: Trees) -> None:
        """Hold trees against those that were met, and remember them; raises VerificationError."""
        self._signed.compare(trees)

    def leave_unsettled(self, unsettled: Unsettled) -> None:
        """Put into `unsettled`, from now on, what only the end of an export can show."""
        self._signed.unsettled = unsettled

    def _check(self, receipt: Receipt) -> tuple[CheckResult, ...]:
        stated = check_statement(receipt)
        signed = self._signed.batch(receipt.signature)
        check_signer(receipt, signed.batch)
        statement_hash = check_in_batch(receipt, signed.batch, signed.tree)
        masked = check_commitment(receipt, stated)
        entry = encode_entry(
            receipt.suite,
            receipt.ledger_uid.hex(),
            receipt.seq,
            receipt.t_ns,
            receipt.previous_hash,
            statement_hash,
            receipt.payload_hash,
            signed.digest.hex(),
        )
        self._check_entry(receipt, entry)
        proven = self._check_proofs(receipt, entry)
        if stated.receipt_type == GENESIS and (hidden := check_genesis(receipt)):
            why = f"the genesis does not show {hidden}"
            proven = (_not_checked(Check.INCLUSION, why), *proven[1:])
        validity = _KEY_VALIDITY
        if signed.revoked is not None:
            validity = self._signed.check_covered(receipt, signed.revoked)
        return (
            _FORMAT,
            _STATEMENT,
            FIELDS_SHOWN if masked else _COMMITMENT,
            signed.result,
            validity,
            _ENTRY,
            _TIMESTAMP,
            _ALONE,
            *proven,
            *self._check_others(receipt.proofs),
            _TRUNCATION,
        )

    def _check_entry(self, receipt: Receipt, entry: bytes) -> None:
        if names.timestamp_iso(receipt.t_ns) != receipt.timestamp_iso:
            raise VerificationError(
                "timestamp_iso and t_ns name different moments",
                check=Check.TIMESTAMP,
                finding=Finding.TIMESTAMP_CHANGED,
            )
        if (receipt.previous_hash is None) != (receipt.seq == 0):
            raise VerificationError(
                "previousHash is null at seq 0 and nowhere else",
                check=Check.ENTRY,
                finding=Finding.HASH_CHANGED,
            )
        if receipt_hash(receipt.suite, entry) == receipt.receipt_hash:
            return
        # Everything else in the entry is bound by the signature: one of four was changed. The log
        # can tell whether it was the hash itself.
        if self._is_logged(receipt, entry):
            raise VerificationError(
                "receiptHash is not the hash of the entry, which the log holds as it is",
                check=Check.ENTRY,
                finding=Finding.HASH_CHANGED,
            )
        raise VerificationError(
            "the entry does not have that receiptHash: t_ns, seq, previousHash or it was changed",
            check=Check.ENTRY,
            finding=Finding.TIMESTAMP_CHANGED,
        )

    def _is_logged(self, receipt: Receipt, entry: bytes) -> bool:
        try:
            results = self._check_proofs(receipt, entry)
        except VerificationError:
            return False
        return any(result.outcome is Outcome.HOLDS for result in results)

    def _check_proofs(self, receipt: Receipt, entry: bytes) -> tuple[CheckResult, ...]:
        """Check that every proof leads from the entry to a signed checkpoint, and the evidence."""
        proofs = receipt.proofs
        if not proofs:
            return _NO_PROOF
        hasher = SUITES[receipt.suite].tree
        leaf = leaf_hash(entry, hasher)
        sizes: list[int] = []
        for proof in proofs:
            tree = self._signed.log_tree(proof.checkpoint, proof.origin, hasher)
            try:
                tree.verify(proof.log_index, leaf, proof.hashes)
            except InvalidProofError as error:
                raise VerificationError(
                    f"the entry is not at index {proof.log_index} of {proof.origin}",
                    check=Check.INCLUSION,
                    finding=Finding.PROOF_INVALID,
                ) from error
            sizes.append(tree.size)
        if len(proofs) > 1:
            _check_one_place(proofs)
        common = _common(proofs)
        found = self._evidence.get(common)
        if found is None:
            found = (
                _holds(Check.INCLUSION, f"tree size {max(sizes)}"),
                _holds(Check.CHECKPOINT_SIGNATURE, ", ".join(proof.origin for proof in proofs)),
                _check_evidence(tuple(zip(proofs, sizes, strict=True))),
            )
            remember(self._evidence, common, found)
        return found

    def _check_others(self, proofs: tuple[Proof, ...]) -> list[CheckResult]:
        """Check what others say of the checkpoints."""
        if self._outside is NOBODY and not any(proof.evidence for proof in proofs):
            return _NOBODY_SAYS
        if self._outside.ask_store is not None:
            # A store is asked for each receipt: it may answer otherwise by then.
            return self._outside.check(proofs)
        common = _common(proofs)
        found = self._others.get(common)
        if found is None:
            found = self._outside.check(proofs)
            remember(self._others, common, found)
        return found


def _check_one_place(proofs: tuple[Proof, ...]) -> None:
    """Check that no log has the entry at two places: it has each once."""
    places: dict[str, int] = {}
    for proof in proofs:
        if places.setdefault(proof.origin, proof.log_index) != proof.log_index:
            raise VerificationError(
                f"the entry is at index {places[proof.origin]} of {proof.origin}, and at "
                f"{proof.log_index} as well",
                check=Check.INCLUSION,
                finding=Finding.PROOF_INVALID,
            )


_Common = tuple[tuple[str, bytes, tuple[Any, ...]], ...]


def _common(proofs: tuple[Proof, ...]) -> _Common:
    """All of the proofs but the place of the entry: what evidence is judged by."""
    return tuple([(proof.origin, proof.checkpoint, proof.evidence) for proof in proofs])


def _check_evidence(proofs: tuple[tuple[Proof, int], ...]) -> CheckResult:
    """Check what can be recomputed of the sinks' answers, given proofs and their tree sizes."""
    found = [(proof, size, item) for proof, size in proofs for item in proof.evidence]
    if not found:
        return _not_checked(Check.SINK_EVIDENCE, "no sink has answered for this checkpoint")
    unknown = {item.kind for proof, size, item in found if not check_named(proof, size, item)}
    if unknown:
        return _not_checked(Check.SINK_EVIDENCE, f"of kind {', '.join(sorted(unknown))}")
    return _holds(Check.SINK_EVIDENCE, "names this checkpoint; sink and time are claims")


def _parse(source: bytes | str | Mapping[str, Any]) -> Receipt | LegacyReceipt:
    try:
        return parse_receipt(source)
    except ReceiptFormatError as error:
        raise VerificationError(str(error), check=Check.FORMAT, finding=Finding.FORMAT) from error


def _legacy_report(receipt: LegacyReceipt) -> Report:
    reason = "receipts v0.1 do not say how they were hashed"
    return Report(
        receipt.name,
        tuple(_not_checked(check, reason) for check in Check if check is not Check.FORMAT),
    )


def _holds(check: Check, detail: str = "") -> CheckResult:
    return CheckResult(check, Outcome.HOLDS, detail)


def _not_checked(check: Check, detail: str) -> CheckResult:
    return CheckResult(check, Outcome.NOT_CHECKED, detail)
