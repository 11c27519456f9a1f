"""A client of c2sp.org/tlog-witness: our checkpoints, cosigned by somebody else.

Evidence of kind `tlog-cosignature` is a signed note: the checkpoint, the log's own line, and those
of the cosigner that verify under the keys we were told. Whatever else it sent is dropped.

The cosigner is the one who remembers: it answers 409 with the size it cosigned last if that is not
the one we thought. A smaller one, after an answer that was lost or a restart of ours, is where the
proof then starts. A larger one than ours, or another history, is an alarm: our log was rolled back,
or somebody signs with its key. (That a larger one may be ours, by another sink that reaches the
same cosigner, is for the relay to know.)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from anchor_svc.sinks import Evidence, PublishedCheckpoint, SinkError, SinkIntegrityError
from anchor_svc.sinks.http import Answer, Poster
from provledger import _base64, note
from provledger.errors import NoteError, NotFoundError, OutOfRangeError
from provledger.settings import ConfigError

KIND: Final = "tlog-cosignature"
_SIZE = re.compile(rb"(0|[1-9][0-9]{0,18})\n")
_TEXT: Final = "text/plain; charset=utf-8"


class CosignerSink:
    """One cosigner at `url`, whose cosignatures verify by one of `keys`."""

    def __init__(self, uri: str, url: str, keys: Sequence[note.VerifierKey]) -> None:
        if not keys or not all(key.is_cosigner for key in keys):
            raise ConfigError("sinks: a cosigner's vkey is of type 0x04 or 0x06")
        self.uri = uri
        self.keys = tuple(keys)
        self._poster = Poster(url)
        # What it told us it cosigned last; the relay's cursor is the least it can be.
        self._size = 0

    async def anchor(self, checkpoint: PublishedCheckpoint) -> Evidence:
        """Have the checkpoint cosigned; see `AnchorSink`."""
        size = min(max(self._size, checkpoint.known_size), checkpoint.size)
        ours = _own_note(checkpoint)
        answer = await self._submit(checkpoint, size, ours)
        _refuse_more(answer, checkpoint)
        told = _told_size(answer)
        if told is not None and told != size:
            self._size = size = told
            answer = await self._submit(checkpoint, size, ours)
            _refuse_more(answer, checkpoint)
        if answer.status == 200:
            evidence = self._accept(answer.body, ours)
            self._size = checkpoint.size
            return evidence
        if answer.status == 422 or (answer.status == 409 and size == checkpoint.size):
            # Older cosigners answer 409, without a size, where others say 422.
            raise SinkIntegrityError(
                f"it has cosigned another history of this log, up to tree size {size}"
            )
        raise answer.busy()

    async def holds(self, checkpoint: PublishedCheckpoint) -> bool:
        """Ask for what it cosigned last, by claiming that it was this; see `Remembering`.

        Anybody's server may say a size, or 200. That the cosigner holds no more is said by its
        cosignature alone, which one that is behind gives for a proof: it takes this checkpoint.
        """
        ours = _own_note(checkpoint)
        answer = await self._submit(checkpoint, checkpoint.size, ours)
        _refuse_more(answer, checkpoint)
        told = _told_size(answer)
        if answer.status == 422 or (answer.status == 409 and told in (None, checkpoint.size)):
            raise SinkIntegrityError(f"it has cosigned another head of size {checkpoint.size}")
        if told is not None and (told == 0 or told < checkpoint.known_size):
            return False
        if told is not None:
            answer = await self._submit(checkpoint, told, ours)
            _refuse_more(answer, checkpoint)
            if answer.status == 422:
                raise SinkIntegrityError(f"it has cosigned another head of size {told}")
        if answer.status != 200:
            raise answer.busy()
        self._accept(answer.body, ours)
        return True

    def misses(self, evidence: bytes) -> bool:
        """Whether evidence of before, perhaps under other keys, lacks one key's cosignature."""
        try:
            lines = note.parse(evidence).signatures
        except NoteError:
            return True
        held = {(line.name, line.note_key_id) for line in lines}
        return any((key.name, key.note_key_id) not in held for key in self.keys)

    async def close(self) -> None:
        """See `AnchorSink`."""
        self._poster.close()

    async def _submit(self, checkpoint: PublishedCheckpoint, size: int, ours: bytes) -> Answer:
        hashes: Sequence[bytes] = []
        if 0 < size < checkpoint.size:
            if checkpoint.prove is None:
                raise SinkError("there is nothing to prove consistency with")
            try:
                hashes = await checkpoint.prove(size)
            except (NotFoundError, OutOfRangeError) as error:
                raise SinkIntegrityError(
                    f"it has cosigned a checkpoint of tree size {size}, which we never signed"
                ) from error
        lines = [f"old {size}\n", *(f"{_base64.encode(item)}\n" for item in hashes), "\n"]
        return await self._poster.post("".join(lines).encode() + ours, _TEXT, "/add-checkpoint")

    def _accept(self, lines: bytes, ours: bytes) -> Evidence:
        """What is kept of an answer; raises SinkError if no cosignature in it verifies."""
        own = note.parse(ours)
        try:
            cosigned = note.parse(ours + lines)
            if cosigned.text != own.text:
                raise SinkError("the answer is more than signature lines")
            opened = note.open(ours + lines, self.keys)
        except NoteError as error:
            raise SinkError(f"the answer holds no cosignature that verifies: {error}") from error
        kept = [
            note.signature_line(item.key.name, item.key.note_key_id, item.signature)
            for item in opened.signatures
            # A time of 0 claims nothing about what is the largest tree (c2sp.org/tlog-cosignature).
            if item.timestamp_unix_s
        ]
        if not kept:
            raise SinkError("the cosignature has no time")
        return Evidence(KIND, ours + b"".join(kept))


def _own_note(checkpoint: PublishedCheckpoint) -> bytes:
    """The checkpoint with the log's own lines only: cosigners have a use for no others."""
    parsed = note.parse(checkpoint.note)
    lines = [
        note.signature_line(line.name, line.note_key_id, line.signature)
        for line in parsed.signatures
        if line.name == checkpoint.origin
    ]
    return note.format_note(parsed.text, lines)


def _refuse_more(answer: Answer, checkpoint: PublishedCheckpoint) -> None:
    told = _told_size(answer)
    if told is not None and told > checkpoint.size:
        raise SinkIntegrityError(
            "it says, and shows no signature, that it has cosigned a checkpoint of tree size "
            f"{told}, larger than ours of {checkpoint.size}: our log was rolled back, another "
            "signs in its name, or it is wrong",
            held_size=told,
        )


def _told_size(answer: Answer) -> int | None:
    match = _SIZE.fullmatch(answer.body) if answer.status == 409 else None
    return None if match is None else int(match[1])
