"""Checkpoints of before, and the proofs that the one of an export extends them.

Those that are held elsewhere are compared with the log's own first, and their signatures checked
by the registry's keys, where it can be asked: what an export carries beside its receipts is the
history of its log, and a verifier takes anything else for tampering.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from provledger import checkpoint as checkpoints
from provledger import note
from provledger.api.anchor.v1 import anchor_pb2
from provledger.client.paging import Pages
from provledger.errors import (
    NotFoundError,
    OutOfRangeError,
    StatusError,
    UnknownKeyError,
    VerificationError,
)
from provledger.export import MAX_CONSISTENCY_PROOFS, ConsistencyProof
from provledger.keyset import KeySet
from provledger.report import Check, Finding
from provledger.verify import Verifier
from provledger_cli import output
from provledger_cli.connect import Remote
from provledger_cli.failures import CommandError
from provledger_cli.verifying.receipts import kept_checkpoint


async def consistency(
    remote: Remote, log: str, origin: str, size: int, count: int, known: Sequence[bytes]
) -> list[ConsistencyProof]:
    """Earlier checkpoints with the proofs that the one of this size extends them, oldest first.

    `known` are signed notes held elsewhere: all of them are there. Those that revocations name, and
    `count` of the newest that a sink was given, are there as far as they find room.

    Raises:
        CommandError: a known one is of another log, or newer than the checkpoint of this size, or
            signed by keys that the registry does not have; or there are too many of them.
        VerificationError: the log has another tree of that size, or has signed none, or does not
            reach it; or did not sign the note.
        StatusError: what the services say.
    """
    keys = await _registered_keys(remote)
    notes = await _known_notes(remote, log, origin, size, known)
    _check_signatures(keys, origin, notes)
    wanted = [] if keys is None else [named.size for key in keys for named in key.covered]
    wanted += await anchored_sizes(remote, log, size, count)
    for earlier_size in wanted:
        if len(notes) == MAX_CONSISTENCY_PROOFS:
            break
        if earlier_size not in notes and 0 < earlier_size <= size:
            try:
                notes[earlier_size] = await _own_note(remote, log, earlier_size)
            except (NotFoundError, OutOfRangeError):
                # Named by a revocation for another log: this one signed nothing of that size.
                continue
    proofs: list[ConsistencyProof] = []
    for earlier_size in sorted(notes):
        request = anchor_pb2.GetConsistencyProofRequest(
            log=log, old_size=earlier_size, new_size=size
        )
        proof = await remote.call(remote.anchor.GetConsistencyProof, request)
        proofs.append(ConsistencyProof(notes[earlier_size], tuple(proof.hashes)))
    return proofs


async def anchored_sizes(remote: Remote, log: str, below: int, count: int) -> list[int]:
    """Sizes of the newest checkpoints that a sink was given, all smaller than `below`."""
    sizes: dict[int, None] = {}
    pages = Pages()
    while pages.more and len(sizes) < count:
        request = anchor_pb2.ListAnchorsRequest(log=log, page_size=1000, page_token=pages.token)
        try:
            page = await remote.call(remote.anchor.ListAnchors, request)
        except StatusError as error:
            if error.code != "UNIMPLEMENTED":
                raise
            break
        for anchor in page.anchors:
            if 0 < anchor.tree_size < below and len(sizes) < count:
                sizes[anchor.tree_size] = None
        pages.turn(page.next_page_token, len(page.anchors))
    return list(sizes)


async def _known_notes(
    remote: Remote, log: str, origin: str, size: int, known: Sequence[bytes]
) -> dict[int, bytes]:
    """Signed notes by their size, each of the history of this log up to `size`."""
    notes: dict[int, bytes] = {}
    for signed in known:
        kept = kept_checkpoint(signed)
        if kept.origin != origin:
            raise CommandError(
                f"the checkpoint of size {kept.size} is of another log: {kept.origin}, not "
                f"{origin}",
                hint="give one of this ledger's log, or leave it out",
            )
        await _check_history(remote, log, kept)
        if kept.size > size:
            raise CommandError(
                f"the checkpoint of size {kept.size} is newer than that of size {size}, the newest "
                "that every sink holds",
                hint="wait for that with `provledger status --wait 30`, or leave it out",
            )
        notes[kept.size] = signed
    if len(notes) > MAX_CONSISTENCY_PROOFS:
        raise CommandError(
            f"{len(notes)} checkpoints are more than an export carries",
            hint=f"give {MAX_CONSISTENCY_PROOFS} at most",
        )
    return notes


async def _check_history(remote: Remote, log: str, kept: checkpoints.Checkpoint) -> None:
    """Check that the log has signed the tree in a checkpoint. Signatures are for later: a tree that
    the log does not have is worth more than who signed it."""
    if not kept.size:
        raise CommandError("the checkpoint is of size 0, which proves nothing", hint="leave it out")
    try:
        signed = await _own_note(remote, log, kept.size)
    except OutOfRangeError as error:
        # A log keeps what it signs before it hands it out: it never was as large, or it was cut.
        raise VerificationError(
            f"the log does not reach the checkpoint of size {kept.size}: {error.message}. It was "
            "cut, or is an older copy, unless that checkpoint is forged: keep it, and see "
            "docs/runbooks/split-view.md",
            check=Check.TRUNCATION,
            finding=Finding.TRUNCATED,
        ) from error
    except NotFoundError as error:
        if error.reason != "CHECKPOINT_NOT_FOUND":
            raise
        # What a log has signed it has kept, whichever sizes it happened to sign.
        raise VerificationError(
            f"the log has signed no tree of size {kept.size}. That checkpoint is of another "
            "history, unless it is forged: keep it, and see docs/runbooks/split-view.md",
            check=Check.CONSISTENCY,
            finding=Finding.HEAD_NOT_EXTENDING,
        ) from error
    if checkpoints.parse(note.parse(signed).text).root != kept.root:
        raise VerificationError(
            f"the log's tree of size {kept.size} is not the one in that checkpoint. Two histories "
            "were shown, unless it is forged: keep it, and see docs/runbooks/split-view.md",
            check=Check.CONSISTENCY,
            finding=Finding.HEAD_NOT_EXTENDING,
        )


async def _own_note(remote: Remote, log: str, size: int) -> bytes:
    request = anchor_pb2.GetCheckpointRequest(log=log, tree_size=size)
    signed: bytes = (await remote.call(remote.anchor.GetCheckpoint, request)).checkpoint
    return signed


def _check_signatures(keys: KeySet | None, origin: str, notes: Mapping[int, bytes]) -> None:
    """Check that the log signed these notes.

    One by a key that was revoked shows nothing to a verifier, who passes it over: it is told.
    """
    if not notes:
        return
    if keys is None:
        output.say(
            "the signatures of the given checkpoints were not checked, for want of keys: "
            "`provledger verify` does"
        )
        return
    verifier = Verifier(keys)
    # Their trees are the log's own: what a revoked key signed of them is settled by the verifier.
    verifier.leave_unsettled({})
    for size, signed in notes.items():
        try:
            verifier.open_checkpoint(signed, origin)
        except UnknownKeyError as error:
            raise CommandError(
                f"whether the log signed the checkpoint of size {size} cannot be told: {error}",
                hint="leave it out; the log has that very tree, and signed it by another key",
            ) from error
        except VerificationError as error:
            if error.finding != Finding.CAME_LATER:
                raise
            output.say(f"the checkpoint of size {size} shows nothing: {output.literal(error)}")


async def _registered_keys(remote: Remote) -> KeySet | None:
    """The keys of the registry; None if it is not known, or does not answer."""
    if not remote.has("keys"):
        return None
    try:
        return KeySet.parse(await remote.client.jwks())
    except StatusError as error:
        output.say(f"whether a key was revoked is not known: {output.literal(error.message)}")
        return None
