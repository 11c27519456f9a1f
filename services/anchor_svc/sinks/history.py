"""Whether what a sink holds beyond its last acknowledgement is of the history it is handed.

It may well hold more than it acknowledged: a checkpoint of ours whose answer was lost. It may as
well hold one of another history, larger than what a stale copy of our log was put back with and
smaller than what that has grown to. The two differ by a consistency proof, and by nothing else.
"""

from __future__ import annotations

from anchor_svc.sinks import PublishedCheckpoint, SinkError, SinkIntegrityError
from provledger import checkpoint as checkpoints
from provledger import merkle, note
from provledger.errors import InvalidProofError, NoteError, NotFoundError, OutOfRangeError


def read_held(data: bytes, where: str, origin: str) -> checkpoints.Checkpoint:
    """Read a checkpoint that a sink holds; its signatures are not asked for.

    Raises:
        SinkIntegrityError: it is none, or one of another log.
    """
    try:
        held = checkpoints.parse(note.parse(data).text)
    except NoteError as error:
        raise SinkIntegrityError(f"the checkpoint in {where} cannot be read") from error
    if held.origin != origin:
        raise SinkIntegrityError(f"the checkpoint in {where} is of another log")
    return held


async def check_earlier(published: PublishedCheckpoint, held: checkpoints.Checkpoint) -> None:
    """Check that the smaller tree that a sink holds is a prefix of the one it is handed.

    Raises:
        SinkIntegrityError: it is not: another history.
        SinkError: there is no way to tell.
        StatusError: why it cannot be proven now.
    """
    if published.prove is None:
        raise SinkError("there is nothing to prove consistency with")
    what = f"there is a checkpoint of tree size {held.size}"
    why = "another history of this log: ours was rolled back, or somebody else writes there"
    try:
        proof = await published.prove(held.size)
    except (NotFoundError, OutOfRangeError) as error:
        raise SinkIntegrityError(f"{what}, which we never signed: {why}") from error
    try:
        merkle.verify_consistency(
            held.size, published.size, proof, held.root, published.root, published.hasher
        )
    except InvalidProofError as error:
        raise SinkIntegrityError(f"{what} that is no part of ours: {why}") from error
