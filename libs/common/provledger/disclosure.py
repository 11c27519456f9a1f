"""Payload commitments: salted, field by field, so that any field can be shown or left out later.

Profile `fields-v1` (JSON; design §4), drawn once::

    field      = (RFC 6901 pointer, value): scalars, arrays and empty objects; objects are walked
    secret     = 32 random bytes for each receipt
    stream     = SHAKE256("provledger/salts/v1\\n" || secret)
                 16 bytes for each field in UTF-8 order of the pointers, then 32 for each decoy
    disclosure = b64url(JCS([b64url(salt), pointer, value]))        a legal SD-JWT disclosure
    digest     = SHA-256(ASCII(disclosure))                         RFC 9901 §4.2.3
    list       = digests and decoys, a power of two >= 8 of them, sorted as bytes, no two equal
    root       = SHA-256("provledger/fields/v1\\n" || u32 count || list)

In the payload of a mutation each operation `/diff/{i}` is a field of its own. Profile `blob-v1`
(every other media type)::

    root = SHA-256("provledger/blob/v1\\n" || salt16 || u32 len(type) || type || u64 len || bytes)

SHA-256 is used in every suite, so that a disclosure stays a legal SD-JWT disclosure. Nothing here
makes secrets: they are given. A salt leaves only inside a disclosure to who may see that field.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from operator import itemgetter
from struct import Struct
from typing import Any

import orjson

from provledger import _json_structure, jcs
from provledger.errors import InvalidJSONError, ReceiptFormatError, VerificationError

FIELDS_PROFILE = "fields-v1"
BLOB_PROFILE = "blob-v1"
FIELDS_SECRET_BYTES = 32
BLOB_SALT_BYTES = 16
_BAD_ESCAPE = re.compile(r"~(?![01])")
MIN_LIST_SIZE = 8
MAX_FIELDS = 4096
MAX_POINTER_BYTES = 4 * 1024 * 1024
"""Limit of the pointers of all fields together, in UTF-8.

Every pointer repeats the names above it, so that a few kilobytes of JSON can spell gigabytes. This
is 1 KiB for each of 4,096 fields. A receipt of 8 MiB shows them all as a payload; one by one each
stands there twice, as JSON text and that in base64, so that it may have no room for all of them.
"""

_MAX_SHOWN_CHARS = 1024
_SALTS_CONTEXT = b"provledger/salts/v1\n"
_FIELDS_CONTEXT = b"provledger/fields/v1\n"
_BLOB_CONTEXT = b"provledger/blob/v1\n"
_SALT_BYTES = 16
_DECOY_BYTES = 32
_TO_URL = bytes.maketrans(b"+/", b"-_")
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
# A salt of 16 bytes with two zeros behind it is 24 characters of base64 of its own, the first 22
# of which are the salt's: so the salts of a payload are encoded in one go.
_SALT_PADDING = b"\0\0"
_SALT_STEP = 24
_SALT_CHARS = 22
# The types whose orjson text is their RFC 8785 text; integers are bounded by the strict parser.
# A Fragment is canonical text that its maker vouches for.
_PLAIN = frozenset((str, int, bool, type(None), orjson.Fragment))

_sha256 = hashlib.sha256
_to_base64 = binascii.b2a_base64
_dumps = orjson.dumps
_pointer_of = itemgetter(0)
_SORTED = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER


@dataclass(frozen=True, slots=True)
class Commitment:
    """A payload commitment as its maker holds it.

    `root` is 32 bytes; `size` the number of digests in the list (0 for `blob-v1`); `secret` what
    opens all of it.
    """

    profile: str
    root: bytes
    size: int
    secret: bytes


@dataclass(frozen=True, slots=True)
class Disclosure:
    """One opened field."""

    text: str
    pointer: str
    value: Any


def walk(value: Any, *, mutation: bool = False) -> list[tuple[str, Any]]:
    """List the fields of a payload as (pointer, value), in UTF-8 order of the pointers.

    Raises:
        InvalidJSONError: if there are more than 4,096 fields, or their pointers are longer than
            4 MiB in all.
    """
    fields: list[tuple[str, Any]] = []
    room = MAX_POINTER_BYTES
    if mutation and type(value) is dict and type(value.get("diff")) is list and value["diff"]:
        rest = dict(value)
        fields = [(f"/diff/{index}", step) for index, step in enumerate(rest.pop("diff"))]
        room -= sum(len(pointer) for pointer, _ in fields)
        room = _walk_object(rest, "/", fields, room)
    elif type(value) is dict and value:
        room = _walk_object(value, "/", fields, room)
    else:
        fields.append(("", value))
    if len(fields) > MAX_FIELDS:
        raise InvalidJSONError(f"has more than {MAX_FIELDS} fields")
    # Characters were counted, of at most four bytes each: almost no payload needs a closer look.
    if 4 * (MAX_POINTER_BYTES - room) > MAX_POINTER_BYTES:
        room = MAX_POINTER_BYTES - sum(len(pointer.encode()) for pointer, _ in fields)
    if room < 0:
        raise _pointers_too_long()
    # UTF-8 order is code point order, which is how Python compares text.
    fields.sort(key=_pointer_of)
    return fields


def _walk_object(
    members: dict[str, Any], prefix: str, fields: list[tuple[str, Any]], room: int
) -> int:
    """List the fields in an object; return what their pointers, in characters, leave of `room`."""
    for name, member in members.items():
        if "~" in name or "/" in name:
            name = name.replace("~", "~0").replace("/", "~1")
        if type(member) is dict and member:
            room = _walk_object(member, f"{prefix}{name}/", fields, room)
        else:
            pointer = prefix + name
            room -= len(pointer)
            # Here and not at the end, so that no more of them is ever held than one too many.
            if room < 0:
                raise _pointers_too_long()
            fields.append((pointer, member))
    return room


def _pointers_too_long() -> InvalidJSONError:
    return InvalidJSONError(
        f"has fields whose pointers are longer than {MAX_POINTER_BYTES} bytes in all"
    )


def list_size(count: int) -> int:
    """Return the padded length of a list of `count` digests: a power of two, at least 8."""
    return max(MIN_LIST_SIZE, 1 << (count - 1).bit_length())


def commit_fields(
    value: Any, secret: bytes, *, mutation: bool = False, plain: bool = False
) -> Commitment:
    """Commit to a JSON payload field by field.

    Args:
        value: The parsed payload, as `provledger.jcs.parse` returns it.
        secret: 32 fresh random bytes.
        mutation: True for the payload of a mutation, whose patch operations are fields.
        plain: True where `jcs.canonical_part` had an answer for the value, so that all of it is
            known to have its RFC 8785 text from orjson.

    Raises:
        InvalidJSONError: for what `walk` refuses, or a value that has no canonical form.
    """
    fields = walk(value, mutation=mutation)
    digests = _digests(fields, secret, _plain_disclosures if plain else _disclosures)
    return Commitment(FIELDS_PROFILE, _fields_root(digests), len(digests), secret)


def commit_walked(fields: list[tuple[str, Any]], secret: bytes) -> Commitment:
    """Commit to fields as `walk` lists them; see `commit_fields`.

    Values are as `provledger.jcs.parse` returns them, or an `orjson.Fragment` of canonical JSON,
    where that text was made already.
    """
    digests = _digests(fields, secret, _parsed_disclosures)
    return Commitment(FIELDS_PROFILE, _fields_root(digests), len(digests), secret)


def disclose_all(value: Any, secret: bytes, *, mutation: bool = False) -> list[Disclosure]:
    """Return the disclosure of every field, in the order of the pointers."""
    fields = walk(value, mutation=mutation)
    count = len(fields)
    texts = _disclosures(fields, _splitter(count, 0)(_stream(secret, count, 0)))
    return [
        Disclosure(text.decode("ascii"), pointer, member)
        for text, (pointer, member) in zip(texts, fields, strict=True)
    ]


def digest_list(value: Any, secret: bytes, *, mutation: bool = False) -> list[bytes]:
    """Return the sorted list of digests and decoys, 32 bytes each, that the root is made of."""
    return _digests(walk(value, mutation=mutation), secret)


def commit_blob(media_type: str, data: bytes, salt: bytes) -> Commitment:
    """Commit to a payload of any media type as a whole; `salt` is 16 fresh random bytes."""
    if len(salt) != BLOB_SALT_BYTES:
        raise ReceiptFormatError("commitment.secret", "must be 16 bytes for blob-v1")
    name = media_type.encode()
    root = _sha256(
        b"".join(
            (
                _BLOB_CONTEXT,
                salt,
                len(name).to_bytes(4, "big"),
                name,
                len(data).to_bytes(8, "big"),
                data,
            )
        )
    ).digest()
    return Commitment(BLOB_PROFILE, root, 0, salt)


def parse_disclosure(text: str) -> Disclosure:
    """Read one disclosure.

    Raises:
        ReceiptFormatError: if it is not the canonical text of [salt, pointer, value] with a salt of
            16 bytes, or stands deeper in its payload than 64 arrays and objects.
    """
    try:
        raw = text.encode("ascii")
        data = binascii.a2b_base64(raw.translate(_TO_STANDARD) + b"=" * (-len(raw) % 4))
        if _json_structure.is_above(data):
            raise ReceiptFormatError("commitment.disclosures", "holds one of too many values")
        # A payload that is an array stands one level deeper here than it may by itself.
        value = jcs.parse(data, max_depth=jcs.MAX_DEPTH + 1)
    except (ValueError, InvalidJSONError) as error:
        raise ReceiptFormatError("commitment.disclosures", "holds one that is no JSON") from error
    match value:
        case [str(salt), str(pointer), member] if _is_salt(salt) and _is_field(pointer, member):
            pass
        case _:
            raise ReceiptFormatError("commitment.disclosures", "holds one of a wrong shape")
    # What is above the field in its payload counts too, and the array that it is opened in.
    above = min(pointer.count("/"), jcs.MAX_DEPTH + 1)
    try:
        canonical = jcs.encode(value, max_depth=jcs.MAX_DEPTH + 1 - above)
    except InvalidJSONError as error:
        raise ReceiptFormatError(
            "commitment.disclosures", f"holds one nested deeper than {jcs.MAX_DEPTH}"
        ) from error
    if _b64url(canonical) != raw:
        raise ReceiptFormatError("commitment.disclosures", "holds one in a loose spelling")
    return Disclosure(text, pointer, member)


def _is_salt(text: str) -> bool:
    """Whether it is base64url of 16 bytes, in the one spelling."""
    raw = text.encode("utf-8", "surrogatepass")
    try:
        salt = binascii.a2b_base64(raw.translate(_TO_STANDARD) + b"==")
    except ValueError:
        return False
    return len(salt) == _SALT_BYTES and _b64url(salt) == raw


def _is_field(pointer: str, member: Any) -> bool:
    """Whether a payload can have such a field; of objects only patch operations are one."""
    # One expression for all of it would keep some hundred bytes for each character.
    if (pointer and pointer[0] != "/") or _BAD_ESCAPE.search(pointer):
        return False
    return not (isinstance(member, dict) and member) or pointer.startswith("/diff/")


def verify_disclosures(
    root: bytes, disclosures: Sequence[str], digests: Sequence[bytes]
) -> dict[str, Any]:
    """Check disclosed fields against a commitment and return them by pointer.

    Args:
        root: The committed root, 32 bytes.
        disclosures: The opened fields, base64url text each.
        digests: The whole list, sorted, 32 bytes each.

    Raises:
        VerificationError: if the list does not make the root, a disclosure is not in the list, or
            pointers repeat, conflict (`/a` beside `/a/b`) or are longer than 4 MiB in all.
        ReceiptFormatError: if one was committed to that is no disclosure.
    """
    count = len(digests)
    if (
        count > MAX_FIELDS
        or count != list_size(count)
        or any(len(digest) != 32 for digest in digests)
    ):
        raise VerificationError("the digest list has a wrong size", check="commitment")
    if any(left >= right for left, right in pairwise(digests)):
        raise VerificationError("the digest list is not sorted and distinct", check="commitment")
    if _fields_root(digests) != root:
        raise VerificationError("the digest list does not make the root", check="commitment")
    known = frozenset(digests)
    shown: dict[str, Any] = {}
    room = MAX_POINTER_BYTES
    for text in disclosures:
        # Before it is read: anybody can add one as long as a receipt, that costs its reader dearly.
        if _sha256(text.encode("ascii", "replace")).digest() not in known:
            raise VerificationError("a disclosure is not committed", check="commitment")
        opened = parse_disclosure(text)
        if opened.pointer in shown:
            raise VerificationError(
                f"{_shortened(opened.pointer)} is disclosed twice", check="commitment"
            )
        room -= len(opened.pointer.encode())
        if room < 0:
            raise VerificationError(
                f"the pointers disclosed are longer than {MAX_POINTER_BYTES} bytes in all",
                check="commitment",
            )
        shown[opened.pointer] = opened.value
    _refuse_conflicts(shown)
    return shown


def _refuse_conflicts(pointers: Iterable[str]) -> None:
    """Refuse a pointer that lies inside another one's value."""
    # In the order of their tokens, those inside a pointer come right behind it: neighbours tell.
    ordered = sorted(pointers, key=lambda pointer: pointer.split("/"))
    for outer, inner in pairwise(ordered):
        if inner.startswith(f"{outer}/"):
            raise VerificationError(
                f"{_shortened(inner)} conflicts with {_shortened(outer)}", check="commitment"
            )


def _shortened(pointer: str) -> str:
    """A pointer as an error names it: one may be as long as a receipt."""
    if len(pointer) <= _MAX_SHOWN_CHARS:
        return repr(pointer)
    return f"{pointer[:_MAX_SHOWN_CHARS]!r}..."


def _stream(secret: bytes, fields: int, decoys: int) -> bytes:
    if len(secret) != FIELDS_SECRET_BYTES:
        raise ReceiptFormatError("commitment.secret", "must be 32 bytes for fields-v1")
    length = fields * _SALT_BYTES + decoys * _DECOY_BYTES
    return hashlib.shake_256(_SALTS_CONTEXT + secret).digest(length)


def _digests(
    fields: list[tuple[str, Any]],
    secret: bytes,
    disclose: Callable[[list[tuple[str, Any]], Sequence[bytes]], list[bytes]] | None = None,
) -> list[bytes]:
    """Return the sorted digests and decoys. This is the hottest part of an append."""
    count = len(fields)
    decoys = list_size(count) - count
    random = _splitter(count, decoys)(_stream(secret, count, decoys))
    digests = [
        _sha256(text).digest() for text in (disclose or _disclosures)(fields, random[:count])
    ]
    digests += random[count:]
    # No two are equal, unless somebody found a collision of SHA-256; verifiers make sure.
    digests.sort()
    return digests


@lru_cache(maxsize=256)
def _splitter(salts: int, decoys: int) -> Callable[[bytes], tuple[bytes, ...]]:
    """Return a function that takes a stream apart: the salts, then the decoys."""
    return Struct(f"{_SALT_BYTES}s" * salts + f"{_DECOY_BYTES}s" * decoys).unpack


def _parsed_disclosures(fields: list[tuple[str, Any]], salts: Sequence[bytes]) -> list[bytes]:
    """Return the disclosures of fields whose values the strict parser returned."""
    return _disclosures(fields, salts, jcs.encode_parsed)


def _disclosures(
    fields: list[tuple[str, Any]],
    salts: Sequence[bytes],
    encode: Callable[[Any], bytes] = jcs.encode,
) -> list[bytes]:
    """Return the disclosure of each field under its salt."""
    texts = _salt_texts(salts)
    start = 0
    lines = []
    for pointer, value in fields:
        salt = texts[start : start + _SALT_CHARS]
        start += _SALT_STEP
        if type(value) in _PLAIN:
            lines.append(_to_base64(_dumps((salt, pointer, value))))
        else:
            # The parts of a canonical array are canonical, so only the value needs more care.
            opened = _dumps((salt, pointer))[:-1]
            lines.append(_to_base64(b"%b,%b]" % (opened, encode(value))))
    return _made(lines)


def _plain_disclosures(fields: list[tuple[str, Any]], salts: Sequence[bytes]) -> list[bytes]:
    """Return the same for values that orjson writes as RFC 8785 does, all of them."""
    texts = _salt_texts(salts)
    return _made(
        [
            _to_base64(_dumps((texts[start : start + _SALT_CHARS], *field), option=_SORTED))
            for start, field in zip(range(0, len(texts), _SALT_STEP), fields, strict=True)
        ]
    )


def _salt_texts(salts: Sequence[bytes]) -> str:
    """The base64url of each salt, at every 24th character."""
    return _to_base64(_SALT_PADDING.join(salts), newline=False).translate(_TO_URL).decode("ascii")


def _made(lines: list[bytes]) -> list[bytes]:
    # Each line ends in a line feed; one pass over all makes base64url without padding of them.
    made = b"".join(lines).translate(_TO_URL, b"=").split(b"\n")
    made.pop()
    return made


def _b64url(data: bytes) -> bytes:
    return _to_base64(data, newline=False).translate(_TO_URL, b"=")


def _fields_root(digests: Sequence[bytes]) -> bytes:
    count = len(digests).to_bytes(4, "big")
    return _sha256(b"".join((_FIELDS_CONTEXT, count, *digests))).digest()
