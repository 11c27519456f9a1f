"""What keys have signed: batches of statements, checkpoints, heads; each verified once.

Whether a signature counts is asked of the key set: its purpose, epoch and validity, and what a
revocation leaves of it (`provledger.revocation`). See `provledger.verify`, which draws the order of
the checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Final, TypeVar

from provledger import checkpoint as checkpoints
from provledger import dsse, note
from provledger.errors import (
    InputError,
    InvalidSignatureError,
    ReceiptFormatError,
    UnknownKeyError,
    VerificationError,
)
from provledger.hashing import SUITES, Hasher, sha256
from provledger.head import PAYLOAD_TYPE as HEAD_TYPE
from provledger.head import Head, parse_head
from provledger.keyset import KeyPurpose, KeySet, KeyState, VerificationKey
from provledger.known_trees import KnownTrees
from provledger.merkle import KnownTree
from provledger.receipt import Receipt, WitnessSignature
from provledger.report import Check, CheckResult, Finding, Outcome
from provledger.revocation import (
    Trees,
    Unsettled,
    check_before,
    is_same,
    is_shown,
    named_for,
    not_placed,
)
from provledger.signing_token import UsesSeen
from provledger.witness_batch import (
    PAYLOAD_TYPE,
    WitnessBatch,
    check_signature,
    check_times,
    digest_of_signed,
    parse_body,
)

_CACHE_SIZE: Final = 256

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class SignedBatch:
    """A batch whose signature verifies.

    `tree` is that of its statements, `digest` its signature digest, 32 bytes; `result` says who
    signed. `revoked` is its key where
    that was revoked, but what it signed before may stand: the log has to tell, for each receipt.
    """

    batch: WitnessBatch
    tree: KnownTree
    digest: bytes
    result: CheckResult
    revoked: VerificationKey | None = None


class Signed:
    """Opens what was signed under one key set, remembering the last few hundred of each kind.

    Not safe for use from several threads at once.
    """

    def __init__(self, keys: KeySet, trees: Trees, known: KnownTrees) -> None:
        self._keys = keys
        self._trees = trees
        self._known = known
        known.note_all(trees)
        self._batches: dict[tuple[bytes, bytes], SignedBatch] = {}
        self._checkpoints: dict[tuple[str, bytes], checkpoints.Checkpoint] = {}
        self._log_trees: dict[tuple[str, bytes, Hasher], KnownTree] = {}
        self._token_uses = UsesSeen()
        # An export shows only at its end which checkpoints are of one history: `provledger.export`
        # sets a dictionary, and settles there what was put into it.
        self.unsettled: Unsettled | None = None

    def batch(self, signature: WitnessSignature) -> SignedBatch:
        """Return the signed batch; raises VerificationError."""
        cache_key = (signature.body, signature.sig)
        found = self._batches.get(cache_key)
        if found is None:
            found = self._open_batch(signature.body, signature.sig)
            remember(self._batches, cache_key, found)
        return found

    def _open_batch(self, body: bytes, sig: bytes) -> SignedBatch:
        try:
            batch = parse_body(body)
        except ReceiptFormatError as error:
            raise VerificationError(
                str(error), check=Check.WITNESS_SIGNATURE, finding=Finding.SIGNATURE_CHANGED
            ) from error
        key = _key_valid(
            partial(
                self._keys.find,
                purpose=KeyPurpose.WITNESS,
                kid=batch.kid,
                thumbprint=batch.thumbprint,
                epoch=batch.epoch,
                check=Check.KEY_VALIDITY,
            )
        )
        pae = dsse.pae(PAYLOAD_TYPE, body)
        signer = f"kid {batch.kid}"
        check_signature(batch, pae, sig, key)
        if batch.token is not None:
            signer += f", by use {batch.token.use} of a signing token"
        revoked = None
        if key.state is KeyState.REVOKED and key.covered:
            # A thief can write any time: only the log tells. Asked for each receipt.
            revoked = key
        else:
            check_times(batch, key)
            if batch.token is not None:
                self._token_uses.note(batch.token, sha256(body))
        return SignedBatch(
            batch,
            KnownTree(batch.size, batch.root, SUITES[batch.suite].H),
            digest_of_signed(batch.suite, pae, sig),
            CheckResult(Check.WITNESS_SIGNATURE, Outcome.HOLDS, signer),
            revoked,
        )

    def checkpoint(self, signed: bytes, origin: str) -> checkpoints.Checkpoint:
        """Return a checkpoint after checking its log signature.

        Raises:
            UnknownKeyError: if none of the keys that the log signed it with are in the set.
            VerificationError: if no checkpoint key of the set signed it, its origin differs, or
                another tree of its size was met.
        """
        cache_key = (origin, signed)
        found = self._checkpoints.get(cache_key)
        if found is None:
            found = self._open_checkpoint(signed, origin)
            self._known.note(origin, found.size, found.root)
            remember(self._checkpoints, cache_key, found)
        return found

    def log_tree(self, signed: bytes, origin: str, hasher: Hasher) -> KnownTree:
        """Return the tree of a checkpoint; raises VerificationError as `checkpoint` does."""
        cache_key = (origin, signed, hasher)
        found = self._log_trees.get(cache_key)
        if found is None:
            checkpoint = self.checkpoint(signed, origin)
            found = KnownTree(checkpoint.size, checkpoint.root, hasher)
            remember(self._log_trees, cache_key, found)
        return found

    def _open_checkpoint(self, signed: bytes, origin: str) -> checkpoints.Checkpoint:
        keys = self._keys.for_purpose(KeyPurpose.CHECKPOINT)
        try:
            found = _open_by(keys, signed, origin)
            allowed = [key for key in keys if _may_sign(key, origin, found)]
            if len(allowed) != len(keys):
                revoked = [key for key in keys if key.state is KeyState.REVOKED]
                try:
                    found = _open_by(allowed, signed, origin)
                except InputError:
                    _refuse_unnamed(keys, signed, origin)
                    self._open_by_revoked(revoked, signed, origin)
        except (InputError, InvalidSignatureError) as error:
            if _is_by_unknown(keys, signed, origin):
                raise UnknownKeyError(
                    f"the checkpoint is not signed by a log key of {origin!r} that is in the given "
                    "key set",
                    check=Check.CHECKPOINT_SIGNATURE,
                    finding=Finding.KEY_NOT_VALID,
                ) from error
            raise VerificationError(
                f"the checkpoint is not signed by a log key of {origin!r}: {error}",
                check=Check.CHECKPOINT_SIGNATURE,
                finding=Finding.SIGNATURE_CHANGED,
            ) from error
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

    def compare(self, trees: Trees) -> None:
        """Hold trees against those that were met, and remember them; raises VerificationError."""
        self._known.note_all(trees)

    def head(self, envelope: bytes) -> Head:
        """Return a head that somebody kept, after checking its signature.

        Under a revoked key it counts if its tree is the one that the revocation names, or is shown
        to be a prefix of it.

        Raises:
            VerificationError: if no valid head key of the set signed it; or it came later than what
                the revocation names, or nothing shows that it did not; or another tree of its size
                was met.
        """
        head, key = self._open_head(envelope)
        if key.state is KeyState.REVOKED and key.covered:
            self._check_head_covered(key, head)
        else:
            _key_valid(lambda: key.check_valid_at(head.signed_at_ns, check=Check.HEAD))
        self._known.note(head.origin, head.size, head.root, check=Check.HEAD)
        return head

    def own_head(self, envelope: bytes) -> Head | None:
        """Return the head that an export carries, after checking its signature; None if the key
        that signed it is revoked.

        Whoever has that key can make a head for an earlier receipt, of a tree that is true: it does
        not say any more that the export is whole.

        Raises:
            VerificationError: if no valid head key of the set signed it.
        """
        head, key = self._open_head(envelope)
        if key.state is KeyState.REVOKED:
            return None
        _key_valid(lambda: key.check_valid_at(head.signed_at_ns, check=Check.HEAD))
        return head

    def _open_head(self, envelope: bytes) -> tuple[Head, VerificationKey]:
        """Read a head, and find the key whose signature it has; raises VerificationError."""
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
        try:
            key.verify(opened.signatures[0].sig, pae)
        except InvalidSignatureError as error:
            raise VerificationError(
                error.message, check=Check.HEAD, finding=Finding.SIGNATURE_CHANGED
            ) from error
        return head, key

    def _check_head_covered(self, key: VerificationKey, head: Head) -> None:
        tree = checkpoints.Checkpoint(head.origin, head.size, head.root)
        named = named_for(key, head.origin)
        if named is None or (tree.size >= named.size and not is_same(tree, named)):
            raise VerificationError(
                f"key {key.kid!r} is revoked ({key.revocation_reason}), and the head of tree size "
                f"{tree.size} is not covered by what others held before",
                check=Check.HEAD,
                finding=Finding.KEY_NOT_VALID if named is None else Finding.CAME_LATER,
            )
        if is_same(tree, named) or is_shown(tree, named, self._trees):
            return
        if self.unsettled is None:
            raise not_placed(tree, named, Check.HEAD)
        self.unsettled.setdefault((tree, named), "")

    def check_covered(self, receipt: Receipt, key: VerificationKey) -> CheckResult:
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
            checkpoint = self.checkpoint(proof.checkpoint, proof.origin)
            if not is_same(checkpoint, named) and not is_shown(checkpoint, named, self._trees):
                if self.unsettled is None:
                    raise not_placed(checkpoint, named, Check.KEY_VALIDITY)
                self.unsettled.setdefault((checkpoint, named), receipt.name)
            detail = f"key {key.kid!r} is revoked; covered by the checkpoint of {named.size}"
            return CheckResult(Check.KEY_VALIDITY, Outcome.HOLDS, detail)
        raise VerificationError(
            f"key {key.kid!r} is revoked ({key.revocation_reason}): {why}",
            check=Check.KEY_VALIDITY,
            finding=finding,
        )


def remember(cache: dict[Any, Any], key: Any, value: Any) -> None:
    """Put something into a cache of the last few hundred."""
    # Insertion order is age: dropping the oldest is enough, since receipts come in chain order.
    if len(cache) >= _CACHE_SIZE:
        del cache[next(iter(cache))]
    cache[key] = value


def _open_by(keys: Iterable[VerificationKey], signed: bytes, origin: str) -> checkpoints.Checkpoint:
    """Read a checkpoint that one of `keys` signed; raises InputError, InvalidSignatureError."""
    vkeys = [_note_key(key, origin) for key in keys]
    if (plain := checkpoints.open_plain(signed, vkeys, origin)) is not None:
        return plain
    return checkpoints.open_checkpoint(signed, vkeys, origin=origin)[0]


def _is_by_unknown(keys: Iterable[VerificationKey], signed: bytes, origin: str) -> bool:
    """Whether a checkpoint of that log has lines in its name, none of them by one of `keys`."""
    try:
        parsed = note.parse(signed)
        of_origin = checkpoints.parse(parsed.text).origin == origin
        # No key has such a name, if the origin is none that a log can have.
        known = {_note_key(key, origin).note_key_id for key in keys}
    except InputError:
        return False
    named = {line.note_key_id for line in parsed.signatures if line.name == origin}
    return of_origin and bool(named) and known.isdisjoint(named)


def _may_sign(key: VerificationKey, origin: str, found: checkpoints.Checkpoint) -> bool:
    """Whether a checkpoint key's signature counts for a tree: by its size, never by a time."""
    if key.state is KeyState.REVOKED:
        # Its thief can sign any tree of any size; only the one others hold is beyond him.
        named = named_for(key, origin)
        return named is not None and is_same(found, named)
    if _is_unnamed(key, origin):
        return False
    return all(each.holds(found.size) for each in key.sizes if each.origin == origin)


def _is_unnamed(key: VerificationKey, origin: str) -> bool:
    """Whether a key was retired with the sizes of other logs, and this one not among them."""
    return (
        key.state is KeyState.RETIRED
        and bool(key.sizes)
        and not any(each.origin == origin for each in key.sizes)
    )


def _refuse_unnamed(keys: Iterable[VerificationKey], signed: bytes, origin: str) -> None:
    """Refuse a checkpoint of a log that a retired key may have been brought to later.

    Raises:
        VerificationError: NOT_PLACED, such a key alone signed it. Its end names how large each log
            was that it signed: this one was not there yet, or was out of service then.
    """
    for key in keys:
        if not _is_unnamed(key, origin):
            continue
        try:
            _open_by([key], signed, origin)
        except InputError:
            continue
        raise VerificationError(
            f"the checkpoint is signed by key {key.kid!r}, which was retired, and its retirement "
            f"does not name {origin}; fetch it anew, under a newer checkpoint",
            check=Check.CHECKPOINT_SIGNATURE,
            finding=Finding.NOT_PLACED,
        )


@lru_cache(maxsize=_CACHE_SIZE)
def _note_key(key: VerificationKey, origin: str) -> note.VerifierKey:
    """Return a log key under the name it signs with; making one costs a curve point."""
    return note.parse_vkey(key.vkey(origin))


def _key_valid(check: Callable[[], _Value]) -> _Value:
    try:
        return check()
    except VerificationError as error:
        error.finding = Finding.KEY_NOT_VALID
        raise
