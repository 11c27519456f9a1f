"""Signed notes of c2sp.org/signed-note: a text, signed by one or more keys.

::

    note     = text LF sigline+                    text ends in LF and may hold empty lines
    sigline  = U+2014 SP name SP base64(key id[4] || signature) LF
    vkey     = name "+" hex(key id) "+" base64(type || public key)

A key is known by its name and its key id together. Lines of other keys are ignored, a wrong
signature by a known key rejects the whole note, and so does having no known one. Until `open`
has returned, the text must not be shown or used.

What a signature of each type signs is in `provledger._note_keys`. The four bytes are called
`note_key_id` everywhere, and never `kid`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from provledger import _base64
from provledger._note_keys import (
    COSIGNATURE_ED25519,
    COSIGNATURE_ML_DSA_44,
    ECDSA,
    ED25519,
    RFC6962_STH,
    VerifierKey,
    cosignature_message,
    format_vkey,
    is_key_name,
    note_key_id,
    parse_vkey,
    sth_message,
    subtree_message,
    verify_signature,
)
from provledger.errors import NoteError

__all__ = [
    "COSIGNATURE_ED25519",
    "COSIGNATURE_ML_DSA_44",
    "ECDSA",
    "ED25519",
    "MAX_NOTE_BYTES",
    "MAX_SIGNATURES",
    "RFC6962_STH",
    "Note",
    "ParsedNote",
    "Signature",
    "VerifiedSignature",
    "VerifierKey",
    "cosignature_message",
    "format_note",
    "format_vkey",
    "is_key_name",
    "note_key_id",
    "open",
    "parse",
    "parse_vkey",
    "signature_line",
    "sth_message",
    "subtree_message",
]

MAX_NOTE_BYTES = 1 << 20
"""Longest note we read."""

MAX_SIGNATURES = 100
"""Most signature lines we read; the specification asks for 16 at least."""

_MARK = "\N{EM DASH} "
_KEY_ID_BYTES = 4
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line, not verified. `signature` is what follows the four bytes of key id."""

    name: str
    note_key_id: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class VerifiedSignature:
    """A signature that `key` made.

    Cosignatures carry the time at which the cosigner says it signed (Unix seconds; 0 for a
    subtree that claims none), tree heads of RFC 6962 theirs in Unix milliseconds.
    """

    key: VerifierKey
    signature: bytes
    timestamp_unix_s: int | None = None
    sth_timestamp_unix_ms: int | None = None


@dataclass(frozen=True, slots=True)
class ParsedNote:
    """A note as it stands, with nothing verified. Its text is not to be shown or used."""

    text: bytes
    signatures: tuple[Signature, ...]


@dataclass(frozen=True, slots=True)
class Note:
    """An opened note: `text` is signed by every key in `signatures`, of which there is one or
    more. `unverified` are the lines of keys that were not asked for, each once."""

    text: bytes
    signatures: tuple[VerifiedSignature, ...]
    unverified: tuple[Signature, ...]


def open(data: bytes, vkeys: Sequence[str | VerifierKey]) -> Note:
    """Verify `data` with the given verifier keys. Raises NoteError.

    Each known key counts once, by its first line. A known key whose signature does not verify
    rejects the note, and so does the absence of any known key.
    """
    known = _index_keys(vkeys)
    parsed = parse(data)
    seen: set[tuple[str, bytes]] = set()
    verified: list[VerifiedSignature] = []
    unverified: dict[Signature, None] = {}  # an ordered set
    for line in parsed.signatures:
        pair = (line.name, line.note_key_id)
        key = known.get(pair)
        if key is None:
            unverified[line] = None
        elif pair not in seen:
            seen.add(pair)
            seconds, milliseconds = verify_signature(key, parsed.text, line.signature)
            verified.append(VerifiedSignature(key, line.signature, seconds, milliseconds))
    if not verified:
        raise NoteError("no signature by a known key")
    return Note(parsed.text, tuple(verified), tuple(unverified))


def parse(data: bytes) -> ParsedNote:
    """Take a note apart without verifying anything. Raises NoteError."""
    if not isinstance(data, bytes):
        raise NoteError("note must be given as bytes")
    if len(data) > MAX_NOTE_BYTES:
        raise NoteError(f"note is longer than {MAX_NOTE_BYTES} bytes")
    try:
        whole = data.decode("utf-8")
    except UnicodeDecodeError:
        raise NoteError("note is not UTF-8") from None
    if _CONTROL.search(whole):
        raise NoteError("note holds control characters")
    # SPEC: the text is separated from the signatures by the last empty line in the note.
    text, blank, lines = whole.rpartition("\n\n")
    if not blank or not lines.endswith("\n"):
        raise NoteError("note needs a text, an empty line and signature lines")
    split = lines[:-1].split("\n")
    if len(split) > MAX_SIGNATURES:
        raise NoteError(f"note has more than {MAX_SIGNATURES} signature lines")
    return ParsedNote((text + "\n").encode(), tuple(map(_parse_line, split)))


def signature_line(name: str, key_id: bytes, signature: bytes) -> bytes:
    """One line of a note: who signed, and the signature after the key id of 4 bytes."""
    if not is_key_name(name):
        raise NoteError("key name is empty or holds a space, a plus or a control character")
    if not isinstance(key_id, bytes) or len(key_id) != _KEY_ID_BYTES or not signature:
        raise NoteError("signature line needs a key id of 4 bytes and a signature")
    return f"{_MARK}{name} {_base64.encode(key_id + signature)}\n".encode()


def format_note(text: bytes, lines: Sequence[bytes]) -> bytes:
    """The note of `text` and signature lines as `signature_line` makes them.

    Raises NoteError when `parse` would not give the same text and as many signatures back.
    """
    data = b"".join((text, b"\n", *lines))
    parsed = parse(data)
    if parsed.text != text or len(parsed.signatures) != len(lines):
        raise NoteError("text must end in a newline, and signature lines be single lines")
    return data


def _parse_line(line: str) -> Signature:
    mark, _, rest = line.partition(" ")
    name, _, blob_b64 = rest.partition(" ")
    blob = _base64.decode(blob_b64)
    if mark + " " != _MARK or not is_key_name(name) or blob is None or len(blob) <= _KEY_ID_BYTES:
        raise NoteError("malformed signature line")
    return Signature(name, blob[:_KEY_ID_BYTES], blob[_KEY_ID_BYTES:])


def _index_keys(vkeys: Sequence[str | VerifierKey]) -> dict[tuple[str, bytes], VerifierKey]:
    if isinstance(vkeys, str | bytes):
        raise NoteError("verifier keys must be a list")
    known: dict[tuple[str, bytes], VerifierKey] = {}
    for item in vkeys:
        key = item if isinstance(item, VerifierKey) else parse_vkey(item)
        pair = (key.name, key.note_key_id)
        if known.setdefault(pair, key) != key:
            # Whoever chose one of the two knew the other: such a pair is no accident.
            raise NoteError("two different verifier keys share their name and key id")
    return known
