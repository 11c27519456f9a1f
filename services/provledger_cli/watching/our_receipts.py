"""Receipts of ours, as `monitor --expect` has them: what they say that a log must hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from provledger.errors import InputError, VerificationError
from provledger.hashing import sha256
from provledger.monitoring import LogView, SeenHead, check_present
from provledger.receipt import Receipt
from provledger.tiletree import TileTree
from provledger_cli.failures import CommandError
from provledger_cli.tlog.logfiles import TimedFiles
from provledger_cli.verifying.receipt_files import receipts_of


class OurReceipts:
    """Files of receipts, held against one log.

    expect_s: how long entries are asked for, in seconds; the next time goes on behind those that
    were found.
    """

    def __init__(self, view: LogView, files: TimedFiles, expect_s: float) -> None:
        self._view = view
        self._files = files
        self._expect_s = expect_s
        # How many receipts at the beginning of each file were found.
        self._present: dict[Path, int] = {}

    def heads_of(self, path: Path) -> list[SeenHead]:
        """The heads that the log signed for receipts of a file, the largest first. An export has
        one; those that the keys we have did not sign say nothing.

        Raises:
            SplitViewError: two of them are of one size, and not of one tree.
        """
        found: dict[int, SeenHead] = {}
        for signed in _checkpoints_of(path, self._view.origin):
            try:
                other = self._view.open(signed)
            except (InputError, VerificationError):
                continue
            self._view.check_joined(found.setdefault(other.size, other), other, self._files)
        return [found[size] for size in sorted(found, reverse=True)]

    def count_present(self, path: Path, tree: TileTree) -> tuple[int, int]:
        """How many receipts of a file are found in the tree, and how many are not (yet)."""
        known = self._present.get(path, 0)
        found = missing = 0
        for at, receipt in enumerate(_receipts_of(path)):
            if at == known:
                self._files.allow(self._expect_s)
            if at < known or check_present(receipt, self._view.origin, tree):
                found += 1
            else:
                missing += 1
            if not missing:
                self._present[path] = found
        return found, missing


def _receipts_of(path: Path) -> Iterator[Receipt]:
    try:
        yield from receipts_of(path)
    except (InputError, OSError) as error:
        raise CommandError(f"{path} cannot be read: {error}") from error


def _checkpoints_of(path: Path, origin: str) -> Iterator[bytes]:
    """Checkpoints of a log that the receipts of a file lead to, each once."""
    digests: set[bytes] = set()
    for receipt in _receipts_of(path):
        for proof in receipt.proofs:
            if proof.origin == origin and (digest := sha256(proof.checkpoint)) not in digests:
                digests.add(digest)
                yield proof.checkpoint
