"""Telling kinds of tampering apart once a check on an exported chain has failed.

A failed check says *that* something is wrong with a receipt; what the lines after it hold says
*what* was done: a changed receipt is followed by the next seq, an inserted one by its own seq
again, and a missing seq turns up later if it was only moved. This runs once, on the way out, so it
may read the rest of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Protocol

from provledger.errors import VerificationError
from provledger.receipt import Receipt
from provledger.report import Check, Finding


class Linked(Protocol):
    """What is asked of the receipt before a broken one."""

    @property
    def seq(self) -> int: ...

    @property
    def receipt_hash(self) -> bytes: ...


# In the canonical order of a receipt's members nothing that a caller wrote stands behind its own
# `previousHash` and `seq`, as it does before them: of those two the last match counts.
_NAME_RE = re.compile(rb'"id":"([a-z0-9/-]{1,256})"')
_SEQ_RE = re.compile(rb'"seq":"([0-9]{1,19})"')
_PREVIOUS_RE = re.compile(rb'"previousHash":"([0-9a-f]{64})"')


def claimed_name(line: bytes) -> str:
    """Return the name a line claims to be a receipt of, or "" if even that cannot be read."""
    match = _NAME_RE.search(line)
    return "" if match is None else match[1].decode("ascii")


def diagnose(
    error: VerificationError,
    receipt: Receipt | None,
    previous: Linked | None,
    rest: Iterable[bytes],
) -> None:
    """Set `error.finding` from what surrounds the broken receipt.

    Args:
        error: What was raised for the receipt.
        receipt: The broken receipt, if it could be read.
        previous: The last receipt that holds.
        rest: The lines after the broken one; they are consumed.
    """
    if receipt is None or error.finding == Finding.FOREIGN_LEDGER:
        return
    expected = 0 if previous is None else previous.seq + 1
    if error.check == Check.CHAIN:
        if error.finding == Finding.DELETED and _occurs(expected, rest):
            error.finding = Finding.REORDERED
        return
    following = next(iter(rest), b"")
    if _seq_of(following) == receipt.seq == expected:
        error.finding = Finding.INSERTED
    elif error.check == Check.ENTRY and error.finding == Finding.TIMESTAMP_CHANGED:
        error.finding = _changed_member(receipt, previous, expected, following)


def _changed_member(
    receipt: Receipt, previous: Linked | None, expected: int, following: bytes
) -> Finding:
    """Tell which member of an entry was changed, by what its neighbours say of it."""
    linked = previous is None or receipt.previous_hash == previous.receipt_hash
    if receipt.seq != expected or not linked:
        return Finding.HASH_CHANGED
    claimed = _PREVIOUS_RE.findall(following)
    if claimed and bytes.fromhex(claimed[-1].decode()) != receipt.receipt_hash:
        return Finding.HASH_CHANGED
    return Finding.TIMESTAMP_CHANGED


def _occurs(seq: int, lines: Iterable[bytes]) -> bool:
    return any(_seq_of(line) == seq for line in lines)


def _seq_of(line: bytes) -> int | None:
    claimed = _SEQ_RE.findall(line)
    return int(claimed[-1]) if claimed else None
