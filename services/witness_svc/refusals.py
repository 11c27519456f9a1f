"""How a draft is turned down: one shape for every rule (AIP-193)."""

from __future__ import annotations

from provledger.errors import FieldViolation, InvalidArgumentError


def refusal(
    reason: str, field: str, description: str, *, pointer: str | None = None, **metadata: str
) -> InvalidArgumentError:
    """Return the error for one broken rule; the caller raises it.

    Args:
        reason: The rule, UPPER_SNAKE_CASE, part of the API.
        field: Path of the field, relative to the draft, such as `mutation.new_state`.
        description: What the rule wants; never repeats a value.
        pointer: RFC 6901 pointer into the JSON of that field, "" for the whole of it.
        metadata: Other variable parts.
    """
    metadata["field"] = field
    if pointer is not None:
        metadata["pointer"] = pointer
    if pointer:
        description = f"{description} (at {pointer!r})"
    return InvalidArgumentError(
        reason,
        f"{field}: {description}",
        metadata=metadata,
        violations=(FieldViolation(field, description, reason),),
    )
