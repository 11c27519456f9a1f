"""JSON Patches of mutations (RFC 6902): those given are checked, the others are made. Pure.

Of a given patch every operation must apply, and the result must be the new state, compared as
canonical bytes (1 equals 1.0; true is not 1). A `replace` may carry `from`, the value it replaces,
which must then be what stands at its path at that step. Stored is what was given.

Making one is `provledger.patch.make`, which applies what it made and compares, too.
"""

from __future__ import annotations

from typing import Any, Final

from provledger import jcs, patch
from provledger.errors import InvalidArgumentError, InvalidJSONError, PatchError
from witness_svc.refusals import refusal

MAX_MADE_OPERATIONS: Final = 256
"""Operations of a patch that is made: beyond it, one replacement of the whole says it better."""

MAX_COPIES: Final = 16
"""`copy` operations of a given patch at most."""

_FIELD: Final = "mutation.diff"


def whole(new_text: bytes) -> bytes:
    """Return the canonical bytes of the operation that replaces the whole document."""
    return b'{"op":"replace","path":"","value":%b}' % new_text


def check_given(
    data: bytes, max_depth: int, previous: Any, new: Any, new_text: bytes
) -> list[bytes]:
    """Return the canonical bytes of each operation of a patch that turns `previous` into `new`.

    `new_text` is the canonical form of `new`.

    Raises:
        InvalidArgumentError: for a patch that is malformed or does something else.
    """
    try:
        operations = jcs.parse(data, max_depth=max_depth)
    except InvalidJSONError as error:
        raise refusal("INVALID_JSON", _FIELD, error.message, pointer=error.pointer) from None
    if type(operations) is not list:
        raise refusal("PATCH_DOES_NOT_APPLY", _FIELD, "must be an array of operations", pointer="")
    # What a patch copies usually ends up in the new state, so that this is generous.
    max_bytes = 2 * (len(data) + len(jcs.encode(previous)) + len(new_text)) + 4096
    result = _apply_with_from(previous, operations, max_bytes)
    if _encode(result) != new_text:
        raise refusal(
            "PATCH_RESULT_DIFFERS",
            _FIELD,
            "does not turn the previous state into the new one",
            pointer=first_difference(result, new),
        )
    return [jcs.encode(operation) for operation in operations]


def make(previous: Any, new: Any) -> list[bytes]:
    """Return the canonical bytes of each operation of a patch from `previous` to `new`."""
    operations = patch.make(previous, new, max_operations=MAX_MADE_OPERATIONS)
    return [jcs.encode(operation) for operation in operations]


def first_difference(left: Any, right: Any) -> str:
    """Return the pointer of a first place where two values differ in canonical form.

    Where a member or element is on one side only, the pointer is its own.
    """
    pointer = ""
    while True:
        step = _step_to_difference(left, right)
        if step is None:
            return pointer
        token, left, right = step
        pointer = f"{pointer}/{patch.escape_token(token)}"


_ABSENT: Final = object()


def _step_to_difference(left: Any, right: Any) -> tuple[str, Any, Any] | None:
    """Return (token, left child, right child) of a child that differs; None to stop here."""
    if type(left) is dict and type(right) is dict:
        for name in sorted(left.keys() | right.keys()):
            children = left.get(name, _ABSENT), right.get(name, _ABSENT)
            if not _same(*children):
                return name, *children
    elif type(left) is list and type(right) is list:
        for index, (one, other) in enumerate(zip(left, right, strict=False)):
            if not _same(one, other):
                return str(index), one, other
        if len(left) != len(right):
            return str(min(len(left), len(right))), _ABSENT, _ABSENT
    return None


def _apply_with_from(previous: Any, operations: list[Any], max_bytes: int) -> Any:
    """Apply a patch in which each `replace` with a `from` is led by a `test` of that value."""
    steps: list[Any] = []
    # For each step, the operation it stands for and whether it is a test put in by us.
    sources: list[tuple[int, bool]] = []
    for index, operation in enumerate(operations):
        if type(operation) is dict and operation.get("op") == "replace" and "from" in operation:
            steps.append({"op": "test", "path": operation.get("path"), "value": operation["from"]})
            sources.append((index, True))
        steps.append(operation)
        sources.append((index, False))
    try:
        return _apply(previous, steps, max_bytes)
    except PatchError as error:
        if error.index is None:
            raise _does_not_apply(error, None) from None
        index, is_test = sources[error.index]
        if is_test and _applies(previous, [*steps[: error.index], operations[index]], max_bytes):
            raise refusal(
                "PATCH_FROM_DIFFERS",
                _FIELD,
                f"operation {index}: its from is not what stands there",
                pointer=operations[index]["path"],
                index=str(index),
            ) from None
        raise _does_not_apply(error, index) from None


def _apply(previous: Any, steps: list[Any], max_bytes: int) -> Any:
    """Apply a patch whose document may not grow beyond `max_bytes` by copying.

    Thirty copies of the document into itself make gigabytes of a hundred bytes, so after each one
    the document is measured.
    """
    copies = [
        index + 1
        for index, step in enumerate(steps)
        if type(step) is dict and step.get("op") == "copy"
    ]
    if not copies:
        return patch.apply(previous, steps)
    if len(copies) > MAX_COPIES:
        raise PatchError(f"has more than {MAX_COPIES} copy operations")
    document, start = previous, 0
    for end in (*copies, len(steps)):
        try:
            document = patch.apply(document, steps[start:end])
        except PatchError as error:
            index = None if error.index is None else start + error.index
            message = str(error).removeprefix(f"operation {error.index}: ")
            raise PatchError(message, index=index, pointer=error.pointer) from None
        encoded = _encode(document)
        if encoded is None or len(encoded) > max_bytes:
            raise PatchError("copies too much", index=end - 1)
        start = end
    return document


def _applies(previous: Any, steps: list[Any], max_bytes: int) -> bool:
    try:
        _apply(previous, steps, max_bytes)
    except PatchError:
        return False
    return True


def _does_not_apply(error: PatchError, index: int | None) -> InvalidArgumentError:
    metadata = {} if index is None else {"index": str(index)}
    # The library's message counts steps, some of which are ours.
    message = str(error).removeprefix(f"operation {error.index}: ")
    description = message if index is None else f"operation {index}: {message}"
    return refusal("PATCH_DOES_NOT_APPLY", _FIELD, description, pointer=error.pointer, **metadata)


def _encode(value: Any) -> bytes | None:
    """Return the canonical bytes, or None of a value that is nested beyond having any."""
    try:
        return jcs.encode(value)
    except InvalidJSONError:
        return None


def _same(left: Any, right: Any) -> bool:
    """Say whether two values have one canonical form."""
    # Unequal values never have: the costly comparison is for telling true from 1 and false from 0.
    return bool(left == right) and (left is right or _encode(left) == _encode(right))
