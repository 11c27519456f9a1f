"""Good requests with one field that is not: every field in turn, those of messages inside too.

What is around the field stays good, so that a request fails by that field, or not at all. Besides
values at which code breaks, those near the good one: cut off, longer, one more, one bit off.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Set
from typing import Any, Final, NamedTuple

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from tests.faults.bad_requests import BLOBS, TEXTS

COUNTS: Final = (2, 1001)
_INTEGERS: Final = (-1, 2**31 - 1, -(2**31))
_INTEGERS_64: Final = (*_INTEGERS, 2**63 - 1, -(2**63))
_NO_TEXT: Final = b"\xff\xfe"


class Mutant(NamedTuple):
    """A request as bytes, and the name of the field that differs, such as `draft.actor.id`."""

    field: str
    data: bytes


def mutants(
    good: Message, rng: random.Random, *, most: int | None = None, avoid: Set[str] = frozenset()
) -> Iterator[Mutant]:
    """Neighbours of a message, in which one field is another.

    most: for each field, chosen by `rng`; all if None. avoid: texts that would do harm.
    """
    for path, holder, field in _fields(good):
        found = list(_values(good, holder, field, avoid))
        if most is not None and len(found) > most:
            found = rng.sample(found, most)
        if holder is good:
            found.extend(_in_no_form(good, field))
        for data in found:
            yield Mutant(path, data)


def _fields(holder: Message, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every field that is there, or could be, with the message that holds it."""
    field: Any
    for field in holder.DESCRIPTOR.fields:
        path = f"{prefix}{field.name}"
        yield path, holder, field
        if field.message_type is None:
            continue
        if field.is_repeated:
            # The first stands for all: what holds for one holds for another.
            inside = list(getattr(holder, field.name))[:1]
        else:
            inside = [getattr(holder, field.name)] if holder.HasField(field.name) else []
        for each in inside:
            yield from _fields(each, f"{path}.")


def _values(good: Message, holder: Any, field: Any, avoid: Set[str]) -> Iterator[bytes]:
    """The message as bytes, each time with another value of a field; it is left as it was."""
    kept = type(holder)()
    kept.CopyFrom(holder)
    if field.is_repeated:
        changes = _repeated(holder, field)
    elif field.message_type is not None:
        changes = iter([lambda: holder.ClearField(field.name)])
    else:
        changes = (
            _setting(holder, field, value)
            for value in _scalars(field, getattr(kept, field.name))
            if value not in avoid
        )
    for change in changes:
        change()
        yield good.SerializeToString()
        holder.CopyFrom(kept)


def _in_no_form(good: Message, field: Any) -> Iterator[bytes]:
    """The message as bytes, with a field of its own that is not written as that field is."""
    data = good.SerializeToString()
    if field.type == FieldDescriptor.TYPE_STRING:
        # The last of a field that comes twice counts.
        yield data + bytes([field.number << 3 | 2, len(_NO_TEXT)]) + _NO_TEXT
    # A varint where there is text, and text where there is a varint.
    wire = 0 if field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES) else 2
    yield data + bytes([field.number << 3 | wire, 1, 1])


def _setting(holder: Any, field: Any, value: Any) -> Any:
    return lambda: setattr(holder, field.name, value)


def _repeated(holder: Any, field: Any) -> Iterator[Any]:
    values = getattr(holder, field.name)
    first = list(values)[:1]
    yield lambda: holder.ClearField(field.name)
    for count in COUNTS:
        yield lambda count=count: values.extend(first * count)
    if first and field.message_type is None:
        for value in _scalars(field, first[0]):
            yield lambda value=value: values.__setitem__(0, value)
    elif first:
        yield values[0].Clear


def _scalars(field: Any, good: Any) -> list[Any]:
    if field.type == FieldDescriptor.TYPE_STRING:
        near = [good[:-1], good + "x", good + "/", good + "\x00", good.upper(), " " + good]
        found: list[Any] = [*near, *TEXTS]
    elif field.type == FieldDescriptor.TYPE_BYTES:
        flipped = bytes([good[0] ^ 1]) + good[1:] if good else b"\x01"
        found = [good[:-1], good + b"\x00", flipped, good * 2, *BLOBS]
    elif field.type == FieldDescriptor.TYPE_BOOL:
        found = [not good]
    elif field.type == FieldDescriptor.TYPE_ENUM:
        # None of another known value: it is no error, and what it does is for other tests.
        found = [0, 99, -1, 2**31 - 1]
    elif field.type == FieldDescriptor.TYPE_INT64:
        found = [good + 1, good - 1, *_INTEGERS_64]
    elif field.type == FieldDescriptor.TYPE_INT32:
        found = [good + 1, good - 1, *_INTEGERS]
    else:
        found = [good + 1, 0, 2**32 - 1]
    return [value for value in found if value != good]
