"""How much a request may hold, asked of its raw bytes before it is parsed.

Parsed, a message costs a hundred bytes and some hundred nanoseconds for each message in it, and an
empty one is two bytes on the wire, or hardly any compressed: 16 MiB become a gigabyte, and seconds
of the event loop. What is parsed is never given back before the whole message is, the fields that a
later one of the same number replaces included.

Of the protobuf encoding (protobuf.dev, "Encoding") this needs that a message is a sequence of tags
and values::

    tag as varint: field number << 3 | wire type | value
    wire type: 0 varint, 1 eight bytes, 2 length as varint and so many bytes, 5 four bytes

So the tags of each message are counted, up to the most that it can have by its descriptor and by
`Limit`s of its repeated fields, and some. Of those in small messages it is known without a look.
Whether anything is well formed is the parser's to say: what cannot be walked is left to it, and it
gets no further either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from provledger.errors import InvalidArgumentError

_SMALL_REQUEST_BYTES: Final = 32 * 1024
"""Requests of no more are not looked into: some megabytes and milliseconds at the worst."""
_SMALL_CHILD_BYTES: Final = 1024
"""The same for each message in a larger request, a draft for example."""
_SMALL_MESSAGE_BYTES: Final = 64
"""And for those in these."""
_SPARE: Final = 32
"""Beyond what a message can have: fields of later versions, and room for the service to say itself
what is wrong with a request that is somewhat too large."""
_MOST_UNSAID: Final = 20_000
"""Elements of repeated fields without a limit; as much costs a few milliseconds."""
_MOST_UNSAID_INSIDE: Final = 256
"""The same in each element of a repeated field: the events that a draft names, for example."""
_MOST_IN_ALL: Final = 100_000
"""Tags that are counted of one request; what one may hold beyond it has no RPC."""
_MAX_VARINT_BYTES: Final = 10
_MASK: Final = 2**32 - 1
"""Parsers take that much of a tag; no length is larger."""

_VARINT, _I64, _LEN, _START_GROUP, _END_GROUP, _I32 = range(6)
_PACKABLE: Final = frozenset(range(1, 19)) - {
    FieldDescriptor.TYPE_STRING,
    FieldDescriptor.TYPE_GROUP,
    FieldDescriptor.TYPE_MESSAGE,
    FieldDescriptor.TYPE_BYTES,
}


@dataclass(frozen=True, slots=True)
class Limit:
    """Of a repeated field: most elements, and the error of whoever sends far more of them."""

    most: int
    error: Callable[[], Exception] | None = None


Limits = Mapping[str, Limit]
"""By the full name of the field, `provledger.api.ledger.v1.AppendBatchRequest.drafts`."""


@dataclass(slots=True)
class _Shape:
    """Of a message: its most tags, the messages in it by their tag, the most bytes of packed
    fields by theirs."""

    most: int = 0
    error: Callable[[], Exception] | None = None
    messages: dict[int, _Shape] = field(default_factory=dict)
    packed: dict[int, int] = field(default_factory=dict)

    def raise_too_many(self) -> None:
        raise self.error() if self.error is not None else too_many_fields()


def bounded(decode: Callable[[bytes], Any], limits: Limits) -> Callable[[bytes], Any]:
    """`decode`, which is a generated message's `FromString`, behind the count; others as they are.

    What it returns raises, beside what `decode` does: InvalidArgumentError (MALFORMED_REQUEST), or
    the error of a limit.
    """
    try:
        descriptor: Descriptor = decode.__self__.DESCRIPTOR  # type: ignore[attr-defined]
    except AttributeError:
        return decode
    shape = _shape_of(descriptor, limits, _MOST_UNSAID)

    def bounded_decode(data: bytes) -> Any:
        if len(data) > _SMALL_REQUEST_BYTES:
            _check(data, shape)
        return decode(data)

    return bounded_decode


def field_name(message: type[Message], name: str) -> str:
    """The full name of a field, for `Limits`. Raises KeyError if there is no such field."""
    return message.DESCRIPTOR.fields_by_name[name].full_name


def too_many_fields() -> InvalidArgumentError:
    """The error of a request for which no limit has one of its own."""
    return InvalidArgumentError(
        "MALFORMED_REQUEST", "the request holds more fields than a message of this RPC may"
    )


def _shape_of(descriptor: Descriptor, limits: Limits, most_unsaid: int) -> _Shape:
    """The shape of messages of a type, which must not hold its own type."""
    shape = _Shape(most=_SPARE)
    for each in descriptor.fields:
        most, inside = 1, most_unsaid
        tag = each.number << 3 | _LEN
        if each.is_repeated:
            limit = limits.get(each.full_name, Limit(most_unsaid))
            most, inside = limit.most, _MOST_UNSAID_INSIDE
            shape.error = shape.error or limit.error
            if each.type in _PACKABLE:
                shape.packed[tag] = (most + _SPARE) * _MAX_VARINT_BYTES
        if each.message_type is not None and _can_hold_many(each.message_type):
            shape.messages[tag] = _shape_of(each.message_type, limits, inside)
        shape.most += most
    return shape


def _can_hold_many(descriptor: Descriptor) -> bool:
    """Whether anything grows with what messages of a type hold, beside their own bytes."""
    return any(each.is_repeated or each.message_type is not None for each in descriptor.fields)


def _check(data: bytes, shape: _Shape) -> None:
    try:
        _count(data, 0, len(data), shape, _SMALL_CHILD_BYTES, _MOST_IN_ALL)
    except IndexError:
        # It ends in the middle of something, there where the parser will find that too.
        return


def _count(data: bytes, at: int, end: int, shape: _Shape, small: int, budget: int) -> int:
    """Count the tags of the message from `at` to `end`, and of those in it that are larger than
    `small` bytes; how many there are, at most `budget`."""
    most = left = min(shape.most, budget)
    inside = 0
    while at < end:
        left -= 1
        if left < 0:
            shape.raise_too_many()
        tag = data[at]
        at += 1
        if tag & 0x80:
            tag, at = _varint(data, at - 1)
        kind = tag & 7
        if kind == _LEN:
            length = data[at]
            at += 1
            if length & 0x80:
                # Of two bytes, as those of most elements, without a call: that halves a walk.
                more = data[at]
                if more & 0x80:
                    length, at = _varint(data, at - 1)
                else:
                    length += (more << 7) - 0x80
                    at += 1
            if length > small:
                stop = min(at + length, end)
                inner = shape.messages.get(tag)
                if inner is not None:
                    rest = budget - inside - most + left
                    inside += _count(data, at, stop, inner, _SMALL_MESSAGE_BYTES, rest)
                elif length > shape.packed.get(tag, length):
                    shape.raise_too_many()
            at += length
        elif kind == _VARINT:
            if data[at] & 0x80:
                _, at = _varint(data, at)
            else:
                at += 1
        elif kind == _I32:
            at += 4
        elif kind == _I64:
            at += 8
        elif kind not in (_START_GROUP, _END_GROUP):
            raise IndexError
    return most - left + inside


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The varint at a place, and the place behind it. Raises IndexError for one without an end."""
    value = 0
    for shift in range(0, 7 * _MAX_VARINT_BYTES, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value & _MASK, at
    raise IndexError
