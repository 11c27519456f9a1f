"""JSON Patches of mutations (RFC 6902): those given are checked, the others are made. Pure.

Of a given patch every operation must apply, and the result must be the new state, compared as
canonical bytes (1 equals 1.0; true is not 1). A `replace` or `remove` may carry `from`, the value
that stands at its path before it, which must then be so at that step. Stored is what was given.

Making one is `provledger.patch.make`, which applies what it made and compares, too.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from provledger import jcs, patch
from provledger.errors import InvalidArgumentError, InvalidJSONError, PatchError, PatchLimitError
from witness_svc.refusals import refusal

MAX_MADE_OPERATIONS: Final = 256
"""Operations of a patch that is made: beyond it, one replacement of the whole says it better."""

MAX_COPIED_TIMES: Final = 6
"""What the `copy` operations of a given patch may copy together: so many times the bytes of patch
and states, and `SPARE_COPIED_BYTES` more. Thirty copies of a document into itself make gigabytes of
a hundred bytes; but what is copied usually ends up in the new state: this is generous. A value that
is kept as the one before at each of sixteen steps may be copied each time, since the states hold it
thrice; a megabyte of empty objects, copied as often as this, takes 150 MB."""

SPARE_COPIED_BYTES: Final = 4096

_FIELD: Final = "mutation.diff"


class State(NamedTuple):
    """A state and its canonical bytes."""

    value: Any
    text: bytes


ABSENT: Final = State(None, b"null")


def whole(new_text: bytes) -> bytes:
    """Return the canonical bytes of the operation that replaces the whole document."""
    return b'{"op":"replace","path":"","value":%b}' % new_text


def check_given(data: bytes, max_depth: int, previous: State, new: State) -> list[bytes]:
    """Return the canonical bytes of each operation of a patch that turns `previous` into `new`.

    Raises:
        InvalidArgumentError: for a patch that is malformed or does something else.
    """
    try:
        operations = jcs.parse(data, max_depth=max_depth)
    except InvalidJSONError as error:
        raise refusal("INVALID_JSON", _FIELD, error.message, pointer=error.pointer) from None
    if type(operations) is not list:
        raise refusal("PATCH_DOES_NOT_APPLY", _FIELD, "must be an array of operations", pointer="")
    given_bytes = len(data) + len(previous.text) + len(new.text)
    max_copied_bytes = MAX_COPIED_TIMES * given_bytes + SPARE_COPIED_BYTES
    result = _apply_with_from(previous.value, operations, max_copied_bytes)
    if _encode(result) != new.text:
        raise refusal(
            "PATCH_RESULT_DIFFERS",
            _FIELD,
            "does not turn the previous state into the new one",
            pointer=first_difference(result, new.value),
        )
    return [jcs.encode_parsed(operation) for operation in operations]


def make(previous: State, new: State) -> list[bytes]:
    """Return the canonical bytes of each operation of a patch from `previous` to `new`."""
    operations = patch.make(
        previous.value,
        new.value,
        max_operations=MAX_MADE_OPERATIONS,
        texts=(previous.text, new.text),
    )
    if len(operations) == 1 and operations[0]["op"] == "replace" and not operations[0]["path"]:
        return [whole(new.text)]
    return [jcs.encode_parsed(operation) for operation in operations]


def first_difference(left: Any, right: Any) -> str:
    """Return the pointer of a first place where two values differ in canonical form.

    Where a member or element is on one side only, the pointer is its own.
    """
    way = _way_to_difference(left, right) or []
    return "".join(f"/{patch.escape_token(token)}" for token in reversed(way))


def _way_to_difference(left: Any, right: Any) -> list[str] | None:
    """Return the tokens to a first difference, the last one first; None where there is none.

    One walk finds it, whose depth is that of the shallower value.
    """
    if type(left) is dict and type(right) is dict:
        for name in sorted(left.keys() | right.keys()):
            if name not in left or name not in right:
                return [name]
            way = _way_to_difference(left[name], right[name])
            if way is not None:
                return [*way, name]
        return None
    if type(left) is list and type(right) is list:
        for index, (one, other) in enumerate(zip(left, right, strict=False)):
            way = _way_to_difference(one, other)
            if way is not None:
                return [*way, str(index)]
        return None if len(left) == len(right) else [str(min(len(left), len(right)))]
    # Python has True == 1, JSON has not.
    same = left == right and isinstance(left, bool) is isinstance(right, bool)
    return None if same else []


def _apply_with_from(previous: Any, operations: list[Any], max_copied_bytes: int) -> Any:
    """Apply a patch in which operations that tell what was there are led by a `test` of it."""
    steps: list[Any] = []
    # For each step, the operation it stands for and whether it is a test put in by us.
    sources: list[tuple[int, bool]] = []
    for index, operation in enumerate(operations):
        if type(operation) is dict and _tells_what_was_there(operation):
            steps.append({"op": "test", "path": operation["path"], "value": operation["from"]})
            sources.append((index, True))
        steps.append(operation)
        sources.append((index, False))
    try:
        return patch.apply(previous, steps, max_copied_bytes=max_copied_bytes)
    except PatchError as error:
        if error.index is None:
            raise _does_not_apply(error, None) from None
        index, is_test = sources[error.index]
        until_then = [*steps[: error.index], operations[index]]
        if is_test and _applies(previous, until_then, max_copied_bytes):
            raise refusal(
                "PATCH_FROM_DIFFERS",
                _FIELD,
                f"operation {index}: its from is not what stands there",
                pointer=operations[index]["path"],
                index=str(index),
            ) from None
        raise _does_not_apply(error, index) from None


def _tells_what_was_there(operation: dict[str, Any]) -> bool:
    # Without a path it is the operation that is refused, and not a test that nobody wrote.
    told = operation.get("op") in ("replace", "remove") and "from" in operation
    return told and "path" in operation


def _applies(previous: Any, steps: list[Any], max_copied_bytes: int) -> bool:
    try:
        patch.apply(previous, steps, max_copied_bytes=max_copied_bytes)
    except PatchError:
        return False
    return True


def _does_not_apply(error: PatchError, index: int | None) -> InvalidArgumentError:
    metadata = {} if index is None else {"index": str(index)}
    # The library's message counts steps, some of which are ours.
    message = str(error).removeprefix(f"operation {error.index}: ")
    description = message if index is None else f"operation {index}: {message}"
    reason = "PATCH_TOO_LARGE" if isinstance(error, PatchLimitError) else "PATCH_DOES_NOT_APPLY"
    return refusal(reason, _FIELD, description, pointer=error.pointer, **metadata)


def _encode(value: Any) -> bytes | None:
    """Return the canonical bytes, or None of a value that is nested beyond having any."""
    try:
        return jcs.encode_parsed(value)
    except TypeError:
        return None
