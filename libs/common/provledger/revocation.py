"""What of a revoked key's work stands (design §6). Pure.

A thief can write any time into what he signs, so a revocation names, for each log, a checkpoint
that others hold::

    index in the log      0 ........ named.size - 1 | named.size ........
    an entry              covered                   | came later
    a smaller checkpoint  covered, once it is shown to be a prefix of the named one
    not in the log        never logged

That two checkpoints belong to one history is shown by consistency proofs that lead to a third one:
both are then prefixes of the same tree (RFC 9162 §2.1.4). An export brings such proofs; a single
receipt does not, and stands on the named checkpoint itself, or on what an export has shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeAlias

from provledger.checkpoint import Checkpoint
from provledger.errors import VerificationError
from provledger.keyset import (
    CoveredCheckpoint,
    KeyPurpose,
    KeySet,
    KeyState,
    VerificationKey,
)
from provledger.report import Check, Finding

Trees: TypeAlias = Mapping[tuple[str, int], bytes]
"""Roots by (origin, tree size), of one history for each origin."""

Unsettled: TypeAlias = dict[tuple[Checkpoint, CoveredCheckpoint], str]
"""Pairs that have to be of one history, with the first receipt that needs it, or ""."""


def for_trees_alone(keys: KeySet) -> KeySet:
    """The keys for an export of which only its trees are taken, and none of its receipts: what
    revoked witness keys signed is as good there as anything else.

    That two trees are of one history follows from their roots alone, whoever signed the receipts.
    Keys of the log are left as they are: which trees count is for them to say. Times go as well:
    of a revoked key they are what its thief writes.
    """
    return KeySet(
        replace(
            key,
            state=KeyState.RETIRED,
            revocation_reason="",
            covered=(),
            not_before_ns=0,
            not_after_ns=None,
        )
        if key.state is KeyState.REVOKED and key.purpose is KeyPurpose.WITNESS
        else key
        for key in keys
    )


def named_for(key: VerificationKey, origin: str) -> CoveredCheckpoint | None:
    """The checkpoint of a log that the revocation of `key` names, if it names one."""
    return next((each for each in key.covered if each.origin == origin), None)


def is_same(found: Checkpoint, named: CoveredCheckpoint) -> bool:
    """Whether a checkpoint is the very one that is named."""
    return (found.size, found.root) == (named.size, named.root)


def is_shown(found: Checkpoint, named: CoveredCheckpoint, trees: Trees) -> bool:
    """Whether `trees` shows both to be of one history."""
    origin = found.origin
    return (
        trees.get((origin, found.size)) == found.root
        and trees.get((origin, named.size)) == named.root
    )


def check_before(key: VerificationKey, found: Checkpoint) -> CoveredCheckpoint:
    """What a checkpoint, signed by a revoked log key, has to be a prefix of.

    Raises:
        VerificationError: nothing covers it, or it came later.
    """
    named = named_for(key, found.origin)
    if named is None:
        raise VerificationError(
            f"the checkpoint is signed by key {key.kid!r}, which is revoked "
            f"({key.revocation_reason}); nothing of {found.origin} is covered",
            check=Check.CHECKPOINT_SIGNATURE,
            finding=Finding.KEY_NOT_VALID,
        )
    if found.size >= named.size and not is_same(found, named):
        raise VerificationError(
            f"the checkpoint of size {found.size} is signed by key {key.kid!r} alone, which is "
            f"revoked ({key.revocation_reason}), and is not the one of {named.size} that others "
            "held before",
            check=Check.CHECKPOINT_SIGNATURE,
            finding=Finding.CAME_LATER,
        )
    return named


def not_placed(found: Checkpoint, named: CoveredCheckpoint, check: Check) -> VerificationError:
    """The error where nothing shows that two checkpoints are of one history."""
    return VerificationError(
        f"a key that signed is revoked, and nothing shows that the checkpoint of size {found.size} "
        f"and the one of {named.size} that the revocation names belong to one history; export "
        "again, or fetch the receipt anew against that checkpoint (get --checkpoint FILE)",
        check=check,
        finding=Finding.NOT_PLACED,
    )
