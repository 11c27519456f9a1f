"""Bad requests made from the contracts: for any message type, from its descriptor alone.

Values are those at which code breaks: too long, too many, of the wrong size, negative, beyond a
type's range, not text, unknown. Some fields get good values, so that a request gets past the first
check and meets the second.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

TEXTS = (
    "", "x", "x" * 129, "x" * 70_000, "\x00", "a\nb", "tenants/acme/ledgers/main", "logs/-", "-",
    "tenants/-", "tenants/acme", "tenants/acme/ledgers/" + "y" * 300, "é" * 600, "../..", "\u202e",
    "tenants/acme/ledgers/main/receipts/019aa2a3-4768-71e1-a1e1-e1e1e1e1e1e1", "local:x.pem",
    "keys/witness-1", "witness-1", "2024-05-16T00:00:00Z", "0" * 32, "eyJ2IjoiMSJ9", "%00", "'--",
)  # fmt: skip
BLOBS = (
    b"", b"\x00", bytes(15), bytes(16), bytes(17), bytes(31), bytes(32), bytes(33), b"{}", b"[]",
    b'{"a":1,"a":2}', b"[" * 5000, b"\xff" * 64, b'{"a":1}', b'"' + b"x" * 100_000 + b'"',
    b'[{"op":"test"}]', b"1e400", bytes(300_000),
)  # fmt: skip
COUNTS = (0, 0, 1, 1, 2, 17, 1001)
HUGE_COUNT = 30_000

_SIGNED = (0, 1, -1, 2, 1000, 2**31 - 1, -(2**31))
_SIGNED_64 = (*_SIGNED, 2**63 - 1, -(2**63), 1_763_665_200_000_000_000)
_MAX_DEPTH = 6
_MAX_BYTES = 3_000_000

# Field 536870911, the last there is, as a varint; group and lengths that lead nowhere.
_UNKNOWN_FIELDS = (b"\xf8\xff\xff\xff\x0f\x01", b"\xfa\xff\xff\xff\x0f\x03abc")
GARBAGE = (
    b"\x00", b"\xff" * 40, b"\x0a", b"\x0a\xff\xff\xff\xff\x0f", b"\x08\x80", b"\x0b\x0b\x0b",
    b"\x0a\x02\xff\xfe", b"\x0c", bytes(1000),
)  # fmt: skip


def requests(method: Any, rng: random.Random, count: int) -> Iterator[bytes]:
    """That many requests for an RPC, as bytes; some are no message at all."""
    kind = GetMessageClass(method.input_type)
    yield b""
    yield from rng.sample(GARBAGE, 2)
    for number in range(count - 3):
        data = _message(kind, rng, 0).SerializeToString()
        if number % 4 == 0:
            data += rng.choice(_UNKNOWN_FIELDS)
        if number % 7 == 0:
            data = data[: rng.randint(0, len(data))]
        yield data


def _message(kind: type[Message], rng: random.Random, depth: int) -> Message:
    message = kind()
    field: Any
    for field in kind.DESCRIPTOR.fields:
        if rng.random() < 0.35 or depth > _MAX_DEPTH:
            continue
        if field.is_repeated:
            _fill(message, field, rng, depth)
        elif field.message_type is not None:
            child = _message(GetMessageClass(field.message_type), rng, depth + 1)
            getattr(message, field.name).CopyFrom(child)
        else:
            setattr(message, field.name, _scalar(field, rng))
    return message


def _fill(message: Message, field: Any, rng: random.Random, depth: int) -> None:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return
    count = HUGE_COUNT if rng.random() < 0.02 else rng.choice(COUNTS)
    values = getattr(message, field.name)
    if field.message_type is not None:
        child = _message(GetMessageClass(field.message_type), rng, depth + 1)
        count = min(count, 1 + _MAX_BYTES // (1 + child.ByteSize()))
        values.extend([child] * count)
    else:
        value = _scalar(field, rng)
        size = len(value) if isinstance(value, str | bytes) else 8
        values.extend([value] * min(count, 1 + _MAX_BYTES // (1 + size)))


def _scalar(field: Any, rng: random.Random) -> object:
    if field.type == FieldDescriptor.TYPE_STRING:
        return rng.choice(TEXTS)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return rng.choice(BLOBS)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return rng.random() < 0.5
    if field.type == FieldDescriptor.TYPE_ENUM:
        return rng.choice((0, 1, 2, 3, 99, -1, 2**31 - 1))
    if field.type == FieldDescriptor.TYPE_INT64:
        return rng.choice(_SIGNED_64)
    if field.type == FieldDescriptor.TYPE_INT32:
        return rng.choice(_SIGNED)
    if field.type in (FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_UINT64):
        return rng.choice((0, 1, 2**32 - 1))
    return rng.choice((0.0, float("nan"), float("inf"), -1.0))
