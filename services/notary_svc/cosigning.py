"""Which checkpoints are cosigned: the rules of c2sp.org/tlog-witness, without any I/O.

A request to add a checkpoint looks like this::

    old <decimal> LF                what the log believes was cosigned last
    <base64 of 32 bytes> LF         0 to 63 hashes, the consistency proof
    LF
    <signed checkpoint, verbatim>

Rules, in their order:

1.  400  the body cannot be read
2.  404  the origin is not one of ours
3.  403  no signature by a trusted key of that origin, or one that does not verify
4.  400  old is larger than the checkpoint's size
5.  409  old is not the size cosigned last; the answer says which is
6.  422  an empty tree has another root than H("")
7.  422  a proof from the empty tree that is not empty
8.  422  same size, other root
9.  422  the consistency proof does not verify
10. 200  cosigned

Rules 1 to 4 need the request only (`parse_request`, `authenticate`); 5 to 9 are decided inside of
the storage's atomic update (`extend`), and what is cosigned there is stored before it is released.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from provledger import _base64, merkle, note
from provledger._checkpoint_body import Checkpoint, parse_checkpoint
from provledger.errors import InvalidProofError, NoteError, ProvledgerError
from provledger.hashing import sha256

MAX_PROOF: Final = 63
MAX_BODY_BYTES: Final = 64 * 1024
"""A checkpoint with ML-DSA lines of a few cosigners and a proof of 63 hashes fits in."""

TEXT: Final = "text/plain; charset=utf-8"
SIZE: Final = "text/x.tlog.size"

_OLD = re.compile(rb"old (0|[1-9][0-9]{0,18})")


class RefusedError(ProvledgerError):
    """A request that gets no cosignature: an HTTP status and what the answer holds."""

    def __init__(
        self, status: int, message: str, *, body: str = "", media_type: str = TEXT
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = body or message + "\n"
        self.media_type = media_type


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it was read; nothing in it is verified."""

    old_size: int
    proof: tuple[bytes, ...]
    checkpoint: Checkpoint
    signed: bytes


@dataclass(frozen=True, slots=True)
class Submission:
    """A request whose checkpoint a trusted key of its log signed.

    text: the checkpoint's body. log_lines: the trusted signatures on it, as lines of a note.
    """

    request: Request
    text: bytes
    log_lines: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Cosigned:
    """What was cosigned last for an origin: tree size, root (32 bytes), and the note, which holds
    the log's lines and ours."""

    size: int
    root: bytes
    note: bytes


def parse_request(body: bytes) -> Request:
    """Read a request; rule 1. Raises RefusedError."""
    head, blank, signed = body.partition(b"\n\n")
    if not blank:
        raise RefusedError(400, "there is no empty line before the checkpoint")
    old, *hashes = head.split(b"\n")
    match = _OLD.fullmatch(old)
    if match is None:
        raise RefusedError(400, "the first line is not 'old' and a tree size")
    if len(hashes) > MAX_PROOF:
        raise RefusedError(400, f"the proof has more than {MAX_PROOF} hashes")
    try:
        proof = tuple(_base64.decode(line.decode("ascii")) for line in hashes)
        text = note.parse(signed).text
        checkpoint = parse_checkpoint(text, hasher=None)
    except (NoteError, UnicodeDecodeError) as error:
        raise RefusedError(400, f"the request cannot be read: {error}") from error
    known = tuple(item for item in proof if item is not None and len(item) == 32)
    if len(known) != len(proof):
        raise RefusedError(400, "a line of the proof is not the base64 of 32 bytes")
    return Request(int(match[1]), known, checkpoint, signed)


def authenticate(request: Request, trusted: Mapping[str, Sequence[note.VerifierKey]]) -> Submission:
    """Verify the log's signature; rules 2 to 4. Raises RefusedError."""
    keys = trusted.get(request.checkpoint.origin)
    if not keys:
        raise RefusedError(404, "this log is not known here")
    try:
        opened = note.open(request.signed, keys)
    except NoteError as error:
        raise RefusedError(403, f"not signed by a trusted key of this log: {error}") from error
    if request.old_size > request.checkpoint.size:
        raise RefusedError(400, "old is larger than the size of the checkpoint")
    lines = tuple(_signed_line(request.signed, item.key) for item in opened.signatures)
    return Submission(request, opened.text, lines)


def extend(
    submission: Submission,
    last: Cosigned | None,
    cosign: Callable[[bytes], Sequence[bytes]],
) -> Cosigned:
    """What is stored in place of `last`; rules 5 to 10. Raises RefusedError.

    cosign: lines of signature for the body of a checkpoint; called only if it may be cosigned.
    """
    request = submission.request
    new = request.checkpoint
    last_size = 0 if last is None else last.size
    if request.old_size != last_size:
        raise RefusedError(
            409, f"the size cosigned last is {last_size}", body=f"{last_size}\n", media_type=SIZE
        )
    if new.size == 0 and new.root != sha256(b""):
        raise RefusedError(422, "an empty tree has another root")
    if last_size == 0:
        # SPEC: nothing is proven about what comes after the empty tree.
        if request.proof:
            raise RefusedError(422, "a proof from the empty tree is empty")
    elif last is not None:
        try:
            merkle.verify_consistency(last.size, new.size, list(request.proof), last.root, new.root)
        except InvalidProofError as error:
            raise RefusedError(422, f"not an extension of what was cosigned: {error}") from error
    lines = [*submission.log_lines, *cosign(submission.text)]
    return Cosigned(new.size, new.root, note.format_note(submission.text, lines))


def own_lines(signed: bytes, names: set[tuple[str, bytes]]) -> bytes:
    """The lines of a note that are under one of these pairs of name and key id: the answer."""
    return b"".join(
        note.signature_line(line.name, line.note_key_id, line.signature)
        for line in note.parse(signed).signatures
        if (line.name, line.note_key_id) in names
    )


def origin_id(origin: str) -> str:
    """What names an origin in monitoring paths: the hash of its line, in hex."""
    return sha256(origin.encode()).hex()


def _signed_line(signed: bytes, key: note.VerifierKey) -> bytes:
    for line in note.parse(signed).signatures:
        if (line.name, line.note_key_id) == (key.name, key.note_key_id):
            return note.signature_line(line.name, line.note_key_id, line.signature)
    raise RefusedError(403, "the log's signature is not there")
