"""The work behind `verify --key-ledger`: the key ledger in a file of its own.

The file that is verified may carry one as well, as exports do, and so may a history. Then the one
with fewer events must be the beginning of the other, and it is the other one that gives the keys:
what any of them knows of a revocation counts. With a pin alone, that of a history is the one given.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from provledger.errors import VerificationError
from provledger.key_events import CHECK
from provledger.key_ledger import KeyLedger, verify_key_ledger, witness_keys_as_they_were
from provledger.key_ledger_lines import read_events, take
from provledger.keyset import KeySet
from provledger.known_trees import KnownTrees
from provledger.outside import NOBODY, Outside
from provledger.revocation import Trees


@dataclass(frozen=True, slots=True)
class Comparison:
    """How a key ledger compares with that in an export.

    `ahead`: how many events it has more, fewer than 0 if it has less. `keys`: the keys to verify
    the export with, if it is ahead. `lines`: all those of the export, once more.
    """

    ahead: int
    keys: KeySet
    lines: Iterator[bytes]


@dataclass(frozen=True, slots=True)
class GivenKeyLedger:
    """Verified from `pin` on; nobody else was asked of it. `keys`: a JWK Set that says the same,
    None if none was given."""

    lines: Sequence[bytes]
    pin: bytes
    keys: KeySet | None
    found: KeyLedger

    @property
    def uid(self) -> bytes:
        """Of the ledger, 16 bytes."""
        return self.found.report.header.ledger_uid

    def key_set(self) -> KeySet:
        """The keys. The set, where it was given, knows the planned end of a key that drains."""
        return self.found.key_set() if self.keys is None else self.keys

    def against(self, export: Iterable[bytes], known: KnownTrees) -> Comparison:
        """Compare it with the one in an export, if that has or is one.

        Raises:
            VerificationError: neither is the beginning of the other, or the one in the export does
                not hold.
        """
        reader = iter(export)
        first = next(reader, b"")
        carried, lines = take(chain([first], reader))
        if not carried:
            return Comparison(self.found.history.count, self.key_set(), lines)
        ours, theirs = read_events(self.lines), read_events(carried)
        common = min(len(ours), len(theirs))
        if ours[:common] != theirs[:common]:
            raise VerificationError(
                "the key ledger given, or that of the history, and the one in the file go on from "
                "different events",
                check=CHECK,
            )
        if len(ours) > common:
            verify_key_ledger(carried, self.pin, uid=self.uid, known=known)
        keys = self.key_set()
        if carried[0] == first:
            keys = witness_keys_as_they_were(keys)
        return Comparison(len(ours) - len(theirs), keys, lines)

    def ask(self, outside: Outside, asked: Trees) -> None:
        """Ask those outside of it, who were asked of the trees `asked`; raises VerificationError.

        They are not asked twice of one tree, in whichever file the evidence is. Of another they
        are: keys of a checkpoint that nobody cosigned would make all other cosignatures moot.
        """
        if outside != NOBODY and not self.found.report.own_tree.items() <= asked.items():
            verify_key_ledger(self.lines, self.pin, outside=outside)
