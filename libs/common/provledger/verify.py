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
  key is in the key set;
- *sink_evidence*: what sinks returned names that very checkpoint;
- *cosigner_quorum*, *timestamp_token*, *object_lock*: what others say of it, as far as the verifier
  says whom to believe (`provledger.outside`).

A check that does not hold raises `VerificationError`; one that was not made is reported as such,
and a receipt without a proof of inclusion is *unverified*. Whole exports, chains and truncation are
`provledger.export`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any, Final, TypeVar

from provledger import checkpoint as checkpoints
from provledger import dsse, jcs, names, note
from provledger.disclosure import (
    BLOB_PROFILE,
    commit_blob,
    commit_fields,
    verify_disclosures,
)
from provledger.entry import Entry, receipt_hash
from provledger.errors import (
    InputError,
    InvalidJSONError,
    InvalidProofError,
    InvalidSignatureError,
    ReceiptFormatError,
    VerificationError,
)
from provledger.hashing import SUITES, sha256
from provledger.head import PAYLOAD_TYPE as HEAD_TYPE
from provledger.head import Head, parse_head
from provledger.jwk import verify_signature
from provledger.keyset import KeyPurpose, KeySet, KeyState, VerificationKey
from provledger.merkle import leaf_hash, verify_inclusion
from provledger.outside import NOBODY, Outside, check_named
from provledger.receipt import (
    LegacyReceipt,
    Proof,
    Receipt,
    parse_receipt,
)
from provledger.report import Check, CheckResult, Finding, Outcome, Report
from provledger.revocation import (
    Trees,
    Unsettled,
    check_before,
    is_same,
    is_shown,
    named_for,
    not_placed,
)
from provledger.signing_token import UsesSeen, verify_token
from provledger.statement import Statement, parse_statement
from provledger.witness_batch import (
    PAYLOAD_TYPE,
    WitnessBatch,
    parse_body,
    signature_digest,
    statement_leaf_hash,
    verify_batch_path,
)

_CACHE_SIZE: Final = 256
# Made once: a receipt has a dozen results, most of them the same for every receipt.
_HOLDS: Final = {check: CheckResult(check, Outcome.HOLDS) for check in Check}
_ALONE: Final = CheckResult(Check.CHAIN, Outcome.NOT_CHECKED, "needs the receipts around it")
_TRUNCATION: Final = CheckResult(
    Check.TRUNCATION, Outcome.NOT_CHECKED, "needs a head obtained elsewhere"
)

_Value = TypeVar("_Value")


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

    Many receipts share a witness batch and a checkpoint; each is checked once. Not safe for use
    from several threads at once.
    """

    def __init__(
        self,
        keys: KeySet | bytes | str | Mapping[str, Any],
        outside: Outside = NOBODY,
        *,
        trees: Trees = MappingProxyType({}),
    ) -> None:
        self._outside = outside
        self._trees = trees
        self._keys = keys if isinstance(keys, KeySet) else KeySet.parse(keys)
        self._batches: dict[tuple[bytes, bytes], tuple[WitnessBatch, bytes]] = {}
        self._token_uses = UsesSeen()
        self._revoked: dict[tuple[bytes, bytes], VerificationKey] = {}
        self._checkpoints: dict[tuple[str, bytes], checkpoints.Checkpoint] = {}
        # An export shows only at its end which checkpoints are of one history: `provledger.export`
        # sets a dictionary, and settles there what was put into it.
        self.unsettled: Unsettled | None = None

    def verify(self, receipt: Receipt | LegacyReceipt | bytes | str | Mapping[str, Any]) -> Report:
        """Verify one receipt; see `verify_receipt`."""
        if not isinstance(receipt, Receipt | LegacyReceipt):
            receipt = _parse(receipt)
        if isinstance(receipt, LegacyReceipt):
            return _legacy_report(receipt)
        try:
            return Report(receipt.name, tuple(self._check(receipt)), self._outside.required)
        except VerificationError as error:
            error.receipt = error.receipt or receipt.name
            raise

    def _check(self, receipt: Receipt) -> list[CheckResult]:
        statement = check_statement(receipt)
        batch, digest = self._batch(receipt)
        statement_hash = _check_in_batch(receipt, batch)
        masked = check_commitment(receipt, statement)
        entry = Entry(
            ledger_uid=receipt.ledger_uid,
            suite=receipt.suite,
            seq=receipt.seq,
            t_ns=receipt.t_ns,
            prev=receipt.previous_hash,
            statement=statement_hash,
            payload=receipt.payload_hash,
            signature=digest,
        ).encode()
        self._check_entry(receipt, entry)
        proofs = self._check_proofs(receipt, entry)
        revoked = self._revoked.get((receipt.signature.body, receipt.signature.sig))
        validity = _HOLDS[Check.KEY_VALIDITY]
        if revoked is not None:
            validity = self._check_covered(receipt, revoked)
        return [
            _HOLDS[Check.FORMAT],
            _HOLDS[Check.STATEMENT],
            _holds(Check.COMMITMENT, "the fields shown") if masked else _HOLDS[Check.COMMITMENT],
            _holds(Check.WITNESS_SIGNATURE, _signed_by(batch)),
            validity,
            _HOLDS[Check.ENTRY],
            _HOLDS[Check.TIMESTAMP],
            _ALONE,
            *proofs,
            *self._outside.check(receipt.proofs),
            _TRUNCATION,
        ]

    def _batch(self, receipt: Receipt) -> tuple[WitnessBatch, bytes]:
        """Return the signed batch and its signature digest, verified."""
        signature = receipt.signature
        cache_key = (signature.body, signature.sig)
        found = self._batches.get(cache_key)
        if found is None:
            batch = _format(lambda: parse_body(signature.body))
            key = _key_valid(
                lambda: self._keys.find(
                    purpose=KeyPurpose.WITNESS,
                    kid=batch.kid,
                    thumbprint=batch.thumbprint,
                    epoch=batch.epoch,
                    check=Check.KEY_VALIDITY,
                )
            )
            pae = dsse.pae(PAYLOAD_TYPE, signature.body)
            if batch.token is None:
                _verify_signature(key.verify, signature.sig, pae)
            else:
                in_memory = verify_token(batch.token, key, batch.signed_at_ns)
                _verify_signature(partial(verify_signature, in_memory), signature.sig, pae)
            if key.state is KeyState.REVOKED and key.covered:
                # A thief can write any time: only the log tells. Asked for each receipt.
                self._revoked[cache_key] = key
            else:
                self._check_times(key, batch, signature.body)
            digest = signature_digest(batch.suite, signature.body, signature.sig)
            found = batch, digest
            _remember(self._batches, cache_key, found)
        batch = found[0]
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
        return found

    def _check_times(self, key: VerificationKey, batch: WitnessBatch, body: bytes) -> None:
        """Check that the key was valid when it signed, and when it certified a signing token."""
        times = [batch.signed_at_ns]
        if batch.token is not None:
            times.append(batch.token.certificate.not_before_ns)
            self._token_uses.note(batch.token, sha256(body))
        for time_ns in times:
            _key_valid(partial(key.check_valid_at, time_ns, check=Check.KEY_VALIDITY))

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

    def _check_proofs(self, receipt: Receipt, entry: bytes) -> list[CheckResult]:
        if not receipt.proofs:
            reason = "the receipt has no proof yet"
            return [
                _not_checked(Check.INCLUSION, reason),
                _not_checked(Check.CHECKPOINT_SIGNATURE, reason),
                _not_checked(Check.SINK_EVIDENCE, reason),
            ]
        hasher = SUITES[receipt.suite].tree
        leaf = leaf_hash(entry, hasher)
        sizes: list[int] = []
        for proof in receipt.proofs:
            checkpoint = self.open_checkpoint(proof.checkpoint, proof.origin)
            try:
                verify_inclusion(
                    proof.log_index,
                    checkpoint.size,
                    leaf,
                    list(proof.hashes),
                    checkpoint.root,
                    hasher=hasher,
                )
            except InvalidProofError as error:
                raise VerificationError(
                    f"the entry is not at index {proof.log_index} of {proof.origin}",
                    check=Check.INCLUSION,
                    finding=Finding.PROOF_INVALID,
                ) from error
            sizes.append(checkpoint.size)
        return [
            _holds(Check.INCLUSION, f"tree size {max(sizes)}"),
            _holds(Check.CHECKPOINT_SIGNATURE, ", ".join(p.origin for p in receipt.proofs)),
            _check_evidence(tuple(zip(receipt.proofs, sizes, strict=True))),
        ]

    def _check_covered(self, receipt: Receipt, key: VerificationKey) -> CheckResult:
        """Tell what a revoked key signed before it was stolen from what came later.

        Covered is an entry that is proven to be below the size of the checkpoint the revocation
        names, in that very tree or in one shown to be consistent with it.

        Raises:
            VerificationError: the entry came later, was never logged, or cannot be placed.
        """
        why, finding = "the receipt was never logged", Finding.NEVER_LOGGED
        for proof in receipt.proofs:
            named = named_for(key, proof.origin)
            if named is None:
                why = f"the revocation names no checkpoint of {proof.origin}"
                finding = Finding.KEY_NOT_VALID
                continue
            if proof.log_index >= named.size:
                why = f"it was logged at {proof.log_index}, after the checkpoint of {named.size}"
                finding = Finding.CAME_LATER
                continue
            checkpoint = self.open_checkpoint(proof.checkpoint, proof.origin)
            if not is_same(checkpoint, named) and not is_shown(checkpoint, named, self._trees):
                if self.unsettled is None:
                    raise not_placed(checkpoint, named, Check.KEY_VALIDITY)
                self.unsettled.setdefault((checkpoint, named), receipt.name)
            detail = f"key {key.kid!r} is revoked; covered by the checkpoint of {named.size}"
            return _holds(Check.KEY_VALIDITY, detail)
        raise VerificationError(
            f"key {key.kid!r} is revoked ({key.revocation_reason}): {why}",
            check=Check.KEY_VALIDITY,
            finding=finding,
        )

    def open_checkpoint(self, signed: bytes, origin: str) -> checkpoints.Checkpoint:
        """Return a checkpoint after checking its log signature against the key set.

        Raises:
            VerificationError: if no checkpoint key of the set signed it, or its origin differs.
        """
        cache_key = (origin, signed)
        found = self._checkpoints.get(cache_key)
        if found is None:
            keys = self._keys.for_purpose(KeyPurpose.CHECKPOINT)
            try:
                found = _open_by(keys, signed, origin)
                allowed = [key for key in keys if _may_sign(key, origin, found)]
                if len(allowed) != len(keys):
                    revoked = [key for key in keys if key.state is KeyState.REVOKED]
                    try:
                        found = _open_by(allowed, signed, origin)
                    except InputError:
                        self._open_by_revoked(revoked, signed, origin)
            except (InputError, InvalidSignatureError) as error:
                raise VerificationError(
                    f"the checkpoint is not signed by a log key of {origin!r}: {error}",
                    check=Check.CHECKPOINT_SIGNATURE,
                    finding=Finding.SIGNATURE_CHANGED,
                ) from error
            _remember(self._checkpoints, cache_key, found)
        return found

    def _open_by_revoked(self, keys: list[VerificationKey], signed: bytes, origin: str) -> None:
        """Take a checkpoint that revoked keys signed if it is a prefix of the one that is named.

        Raises:
            InvalidSignatureError: none of them signed it.
            VerificationError: it came later, or nothing shows that it did not.
        """
        signers = []
        for key in keys:
            with suppress(InputError):
                signers.append((key, _open_by([key], signed, origin)))
        if not signers:
            raise InvalidSignatureError("no key that may sign a tree of its size signed it")
        key, found = signers[0]
        named = check_before(key, found)
        if is_shown(found, named, self._trees):
            return
        if self.unsettled is None:
            raise not_placed(found, named, Check.CHECKPOINT_SIGNATURE)
        self.unsettled.setdefault((found, named), "")

    def open_head(self, envelope: bytes) -> Head:
        """Return the head in a DSSE envelope after checking its signature against the key set.

        Raises:
            VerificationError: if no valid head key of the set signed it.
        """
        try:
            opened = dsse.decode(envelope)
            head = parse_head(opened.payload)
        except InputError as error:
            raise VerificationError(
                f"the head cannot be read: {error}", check=Check.HEAD, finding=Finding.FORMAT
            ) from error
        # One signature, its key id, one spelling: so that no byte of the envelope is loose.
        expected = dsse.Envelope(HEAD_TYPE, opened.payload, opened.signatures[:1])
        if dsse.encode(expected) != envelope or opened.signatures[0].keyid != head.kid:
            raise VerificationError(
                "the envelope is not the canonical one of one head",
                check=Check.HEAD,
                finding=Finding.FORMAT,
            )
        key = _key_valid(
            lambda: self._keys.find(
                purpose=KeyPurpose.HEAD, kid=head.kid, epoch=head.epoch, check=Check.HEAD
            )
        )
        pae = dsse.pae(HEAD_TYPE, opened.payload)
        _verify_signature(key.verify, opened.signatures[0].sig, pae, Check.HEAD)
        _key_valid(lambda: key.check_valid_at(head.signed_at_ns, check=Check.HEAD))
        return head


def check_statement(receipt: Receipt) -> Statement:
    """Check that the statement is canonical and says what the receipt's own members say.

    Raises:
        VerificationError: naming the first member at odds.
    """
    try:
        statement = parse_statement(receipt.statement)
    except ReceiptFormatError as error:
        raise VerificationError(
            str(error), check=Check.STATEMENT, finding=Finding.STATEMENT_CHANGED
        ) from error
    if statement.ledger_uid != receipt.ledger_uid or statement.ledger != receipt.ledger:
        raise VerificationError(
            "the statement was made for another ledger",
            check=Check.STATEMENT,
            finding=Finding.FOREIGN_LEDGER,
        )
    expected = {
        "id": (names.receipt_name(statement.ledger, statement.receipt_id), receipt.name),
        "receiptType": (statement.receipt_type, receipt.receipt_type),
        "payloadHash": (statement.payload_hash, receipt.payload_hash),
        "commitment.profile": (statement.profile, receipt.commitment.profile),
    }
    for member, (stated, claimed) in expected.items():
        if stated != claimed:
            raise VerificationError(
                f"{member} is not what the statement says",
                check=Check.STATEMENT,
                finding=Finding.HASH_CHANGED
                if member == "payloadHash"
                else Finding.STATEMENT_CHANGED,
            )
    return statement


def check_commitment(receipt: Receipt, statement: Statement) -> bool:
    """Check the payload against its commitment; return True if only part of it is shown.

    Raises:
        VerificationError: if what is shown does not make the root the statement names.
    """
    opening = receipt.commitment
    if opening.secret is None:
        shown = verify_disclosures(receipt.payload_hash, opening.disclosures, opening.digests)
        if opening.size != len(opening.digests) or list(receipt.fields_mask or ()) != sorted(shown):
            raise VerificationError(
                "fields_mask or size is not what is disclosed",
                check=Check.COMMITMENT,
                finding=Finding.PAYLOAD_CHANGED,
            )
        return True
    if receipt.fields_mask is not None or receipt.payload is None:
        raise VerificationError(
            "a payload that is shown in full has no fields_mask",
            check=Check.COMMITMENT,
            finding=Finding.PAYLOAD_CHANGED,
        )
    try:
        if opening.profile == BLOB_PROFILE:
            made = commit_blob(statement.media_type, receipt.payload, opening.secret)
        else:
            value = jcs.parse(receipt.payload)
            made = commit_fields(value, opening.secret, mutation=statement.is_mutation)
    except (InvalidJSONError, ReceiptFormatError) as error:
        raise VerificationError(
            f"the payload cannot be committed to: {error}",
            check=Check.COMMITMENT,
            finding=Finding.PAYLOAD_CHANGED,
        ) from error
    if made.root != receipt.payload_hash or made.size != opening.size:
        raise VerificationError(
            "the payload, its secret or its size is not what was committed to",
            check=Check.COMMITMENT,
            finding=Finding.PAYLOAD_CHANGED,
        )
    return False


def _open_by(keys: Iterable[VerificationKey], signed: bytes, origin: str) -> checkpoints.Checkpoint:
    """Read a checkpoint that one of `keys` signed; raises InputError, InvalidSignatureError."""
    vkeys = [_note_key(key, origin) for key in keys]
    return checkpoints.open_checkpoint(signed, vkeys, origin=origin)[0]


def _may_sign(key: VerificationKey, origin: str, found: checkpoints.Checkpoint) -> bool:
    """Whether a checkpoint key's signature counts for a tree: by its size, never by a time."""
    if key.state is KeyState.REVOKED:
        # Its thief can sign any tree of any size; only the one others hold is beyond him.
        named = named_for(key, origin)
        return named is not None and is_same(found, named)
    return all(each.holds(found.size) for each in key.sizes if each.origin == origin)


@lru_cache(maxsize=_CACHE_SIZE)
def _note_key(key: VerificationKey, origin: str) -> note.VerifierKey:
    """Return a log key under the name it signs with; making one costs a curve point."""
    return note.parse_vkey(key.vkey(origin))


def _signed_by(batch: WitnessBatch) -> str:
    if batch.token is None:
        return f"kid {batch.kid}"
    return f"kid {batch.kid}, by use {batch.token.use} of a signing token"


def _check_in_batch(receipt: Receipt, batch: WitnessBatch) -> bytes:
    """Return the statement's leaf hash after checking that the signed batch holds it."""
    signature = receipt.signature
    statement_hash = statement_leaf_hash(batch.suite, receipt.statement)
    try:
        verify_batch_path(batch.suite, batch, signature.index, statement_hash, list(signature.path))
    except InvalidProofError as error:
        raise VerificationError(
            "the statement is not in the batch that was signed",
            check=Check.STATEMENT,
            finding=Finding.STATEMENT_CHANGED,
        ) from error
    return statement_hash


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


def _key_valid(check: Callable[[], _Value]) -> _Value:
    try:
        return check()
    except VerificationError as error:
        error.finding = Finding.KEY_NOT_VALID
        raise


def _verify_signature(
    verify: Callable[[bytes, bytes], None],
    sig: bytes,
    message: bytes,
    check: Check = Check.WITNESS_SIGNATURE,
) -> None:
    try:
        verify(sig, message)
    except InvalidSignatureError as error:
        raise VerificationError(
            error.message, check=check, finding=Finding.SIGNATURE_CHANGED
        ) from error


def _format(read: Callable[[], _Value]) -> _Value:
    try:
        return read()
    except ReceiptFormatError as error:
        raise VerificationError(
            str(error), check=Check.WITNESS_SIGNATURE, finding=Finding.SIGNATURE_CHANGED
        ) from error


def _remember(cache: dict[Any, Any], key: Any, value: Any) -> None:
    # Insertion order is age: dropping the oldest is enough, since receipts come in chain order.
    if len(cache) >= _CACHE_SIZE:
        del cache[next(iter(cache))]
    cache[key] = value


def _holds(check: Check, detail: str = "") -> CheckResult:
    return CheckResult(check, Outcome.HOLDS, detail)


def _not_checked(check: Check, detail: str) -> CheckResult:
    return CheckResult(check, Outcome.NOT_CHECKED, detail)
