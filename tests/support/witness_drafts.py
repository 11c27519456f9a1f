"""Drafts as the witness gets them, and how it refuses them."""

from __future__ import annotations

from typing import Any

import pytest

from provledger import jcs
from provledger.errors import InvalidArgumentError
from witness_svc.checks import Checked, Document, Draft, Mutation, check

DRAFT = Draft(
    request_id="r-1",
    actor_id="bot",
    actor_type="service",
    origin_service="importer",
    trace_id="0af7651916cd43dd8448eb211c80319c",
    upstream_events=("git:1",),
    op_id="op-2",
    op_parent_id="op-1",
    occurred_at="2024-01-02T03:04:05+01:00",
    content=None,
)
SECRET = bytes(32)
# Stands in values of refused drafts, and must never come back in an error.
MARKER = "hush-4711"


def mutation(
    action: str,
    previous: bytes = b"",
    new: bytes = b"",
    diff: bytes = b"",
    *,
    resource_type: str = "Version",
    resource_id: str = "redis/8.8.2",
) -> Draft:
    return DRAFT._replace(content=Mutation(action, resource_type, resource_id, previous, new, diff))


def document(
    payload: bytes = b"{}",
    *,
    receipt_type: str = "evidence.recovery",
    media_type: str = "application/json",
    resource_type: str = "Case",
    resource_id: str = "case-1",
) -> Draft:
    content = Document(receipt_type, media_type, payload, resource_type, resource_id)
    return DRAFT._replace(content=content)


def refused(draft: Draft, reason: str, field: str, *, system: bool = False) -> InvalidArgumentError:
    """Check that a draft is refused for this reason and field, and tells no value."""
    with pytest.raises(InvalidArgumentError) as caught:
        check(draft, system=system)
    error = caught.value
    (violation,) = error.violations
    assert (error.reason, violation.reason, violation.field) == (reason, reason, field)
    assert error.metadata["field"] == field
    assert MARKER not in f"{error} {error.metadata} {error.violations}"
    return error


def payload_of(checked: Checked) -> Any:
    value = jcs.parse(checked.payload)
    assert jcs.encode(value) == checked.payload
    return value
