"""What a monitor of a log decides: whether heads belong together, are fresh, and hold our entries.

    heads      every two that were seen must be joined: the newer tree, read from checked tiles,
               begins with the older one. If not, that is a split view, with evidence
    fresh      a cosigner said so lately, or without cosigners, the log has grown lately
    ours       the leaf at the index a receipt names is that receipt's entry

Pure: time is an argument, files come by `LogFiles`. Left to others: fetching, what is remembered,
whom to tell (`provledger_cli.watching.monitor`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from provledger import checkpoint as checkpoints
from provledger import merkle, note
from provledger.checkpoint import Checkpoint
from provledger.entry import Entry, receipt_hash
from provledger.errors import InputError, NoteError, SplitViewError, VerificationError
from provledger.fsck import LogFiles
from provledger.hashing import Hasher, sha256
from provledger.note import VerifierKey
from provledger.policy import Policy
from provledger.receipt import Receipt
from provledger.split_view import SplitView
from provledger.tiletree import TileTree
from provledger.witness_batch import signature_digest, statement_leaf_hash


@dataclass(frozen=True, slots=True)
class SeenHead:
    """A head that the log signed: what it states, and the signed note."""

    checkpoint: Checkpoint
    signed: bytes

    @property
    def size(self) -> int:
        """Its tree size."""
        return self.checkpoint.size


class LogView:
    """A log as its monitor knows it: by name and public keys (more than one while they overlap).

    hasher: of its tree; SHA-256 for every C2SP log, and BLAKE3 for our suite `blake3-all`.
    Raises NoteError for keys that are none, or of different names.
    """

    def __init__(self, vkeys: Sequence[str], hasher: Hasher = sha256) -> None:
        self.keys: list[VerifierKey] = [note.parse_vkey(vkey) for vkey in vkeys]
        self.hasher = hasher
        names = {key.name for key in self.keys}
        if len(names) != 1:
            raise NoteError("the keys of one log all have its name")
        self.origin = names.pop()
        self._last: TileTree | None = None

    def open(self, signed: bytes) -> SeenHead:
        """A head, if the log signed it.

        Raises:
            InputError: it is no checkpoint at all, which says nothing of the log.
            VerificationError: it is one, and not of this log, or not signed by it.
        """
        try:
            checkpoints.parse(note.parse(signed).text)
        except InputError as error:
            raise InputError(f"the checkpoint cannot be read: {error}") from error
        try:
            found, _ = checkpoints.open_checkpoint(signed, self.keys, origin=self.origin)
        except InputError as error:
            raise VerificationError(
                f"the checkpoint is not one of {self.origin}: {error}",
                check="checkpoint_signature",
            ) from error
        return SeenHead(found, signed)

    def tree(self, head: SeenHead, files: LogFiles) -> TileTree:
        """The tree of a head; raises LogDamagedError. The last one is kept."""
        last = self._last
        if last is None or (last.size, last.root) != (head.size, head.checkpoint.root):
            last = self._last = TileTree(files, head.size, head.checkpoint.root, self.hasher)
        return last

    def check_joined(self, one: SeenHead, other: SeenHead, files: LogFiles) -> None:
        """Check that two heads, in any order, belong to one history.

        Raises:
            SplitViewError: they do not; with the evidence.
            LogDamagedError: it cannot be told, for want of good tiles.
        """
        older, newer = sorted((one, other), key=lambda head: head.size)
        if older.size == newer.size:
            if older.checkpoint.root != newer.checkpoint.root:
                self._split(older, newer, newer.checkpoint.root, [])
            return
        if older.size == 0:
            return
        tree = self.tree(newer, files)
        prefix_root = tree.root_at(older.size)
        proof = tree.consistency(older.size)
        merkle.verify_consistency(
            older.size, newer.size, proof, prefix_root, newer.checkpoint.root, self.hasher
        )
        if prefix_root != older.checkpoint.root:
            self._split(older, newer, prefix_root, proof)

    def _split(
        self, older: SeenHead, newer: SeenHead, prefix_root: bytes, proof: list[bytes]
    ) -> None:
        evidence = SplitView(older.signed, newer.signed, prefix_root, tuple(proof))
        evidence.verify(self.keys, self.hasher)
        raise SplitViewError(
            f"{self.origin} signed two heads, of tree sizes {older.size} and {newer.size}, that "
            "are not of one history",
            evidence=evidence.encode(),
        )


def newest_cosignature(
    signed: bytes, cosigners: Sequence[VerifierKey], *, until_unix_s: float = math.inf
) -> int | None:
    """When the last of these cosigners signed a note, in Unix seconds; None if none did.

    until_unix_s: what is dated later is left out.

    Raises:
        VerificationError: a line in one of their names does not verify.
    """
    if not cosigners:
        return None
    known = {(key.name, key.note_key_id) for key in cosigners}
    try:
        lines = note.parse(signed).signatures
        if not any((line.name, line.note_key_id) in known for line in lines):
            return None
        opened = note.open(signed, cosigners)
    except NoteError as error:
        raise VerificationError(str(error), check="cosigner_quorum") from error
    times = [item.timestamp_unix_s for item in opened.signatures if item.timestamp_unix_s]
    return max((at for at in times if at <= until_unix_s), default=None)


def cosigned_by(signed: bytes, policy: Policy) -> dict[str, int]:
    """Which cosigners of a policy signed a note: name to Unix seconds.

    Raises:
        VerificationError: a line in one of their names does not verify.
    """
    try:
        return policy.cosigned_by(signed)
    except NoteError as error:
        raise VerificationError(str(error), check="cosigner_quorum") from error


def check_present(receipt: Receipt, origin: str, tree: TileTree) -> bool:
    """Check that a receipt's entry is in the tree where the receipt says; False if it does not say.

    Also False for a place beyond the tree: there it cannot be yet.

    Raises:
        VerificationError: another entry is there, or the receipt is not whole.
        LogDamagedError: it cannot be told, for want of good tiles.
    """
    places = [proof.log_index for proof in receipt.proofs if proof.origin == origin]
    if not places or max(places) >= tree.size:
        return False
    leaf_hash = merkle.leaf_hash(entry_of(receipt), tree.hasher)
    for log_index in places:
        if tree.leaf_hash(log_index) != leaf_hash:
            raise VerificationError(
                f"the log holds another entry at log index {log_index}",
                check="inclusion",
                receipt=receipt.name,
            )
    return True


def entry_of(receipt: Receipt) -> bytes:
    """The entry bytes that a receipt stands for; raises VerificationError if it is not whole."""
    body, sig = receipt.signature.body, receipt.signature.sig
    entry = Entry(
        ledger_uid=receipt.ledger_uid,
        suite=receipt.suite,
        seq=receipt.seq,
        t_ns=receipt.t_ns,
        prev=receipt.previous_hash,
        statement=statement_leaf_hash(receipt.suite, receipt.statement),
        payload=receipt.payload_hash,
        signature=signature_digest(receipt.suite, body, sig),
    ).encode()
    if receipt_hash(receipt.suite, entry) != receipt.receipt_hash:
        raise VerificationError(
            "the receipt does not have its receiptHash", check="entry", receipt=receipt.name
        )
    return entry
