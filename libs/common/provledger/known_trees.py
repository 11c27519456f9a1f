"""The trees that a verification has met: one root for each size of each log. Pure.

A log that signs two trees of one size shows two histories, and whoever holds both has the evidence
that it does: neither holds then, whichever of the things at hand it comes with. So everything that
is verified together shares one of these: proofs, an export's own checkpoint and earlier ones, the
key ledger, a history, a head and a checkpoint from elsewhere, a COSE receipt.

That trees are of different sizes says nothing of whether they are of one history: what is shown of
that is `provledger.revocation.Trees`.
"""

from __future__ import annotations

from typing import Final

from provledger.errors import VerificationError
from provledger.report import Check, Finding
from provledger.revocation import Trees

_MAX_TREES: Final = 65_536
"""The oldest are forgotten beyond that: a verifier may live long, and an export has one tree and at
most some 4,000 earlier ones."""


class KnownTrees:
    """Roots, 32 bytes, by origin and tree size. Not safe for use from several threads at once."""

    def __init__(self, trees: Trees | None = None) -> None:
        self._roots = dict(trees or {})

    def note(
        self, origin: str, size: int, root: bytes, *, check: Check | str = Check.CONSISTENCY
    ) -> None:
        """Remember a tree whose signature holds.

        Raises:
            VerificationError: HEAD_NOT_EXTENDING, another one of that size was met. `check` is the
                one that did not hold.
        """
        known = self._roots.setdefault((origin, size), root)
        if known != root:
            raise VerificationError(
                f"it is in another tree of size {size} of {origin} than something else at hand: "
                f"with the root {root.hex()}, not {known.hex()}. Both are signed, so that there "
                "are two histories",
                check=check,
                finding=Finding.HEAD_NOT_EXTENDING,
            )
        if len(self._roots) > _MAX_TREES:
            del self._roots[next(iter(self._roots))]

    def note_all(self, trees: Trees) -> None:
        """Remember several; raises VerificationError as `note` does."""
        for (origin, size), root in trees.items():
            self.note(origin, size, root)

    def snapshot(self) -> Trees:
        """What is known by now, for another process."""
        return dict(self._roots)
