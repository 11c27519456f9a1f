"""Errors over HTTP: problem details (RFC 9457) made of the same typed errors as over gRPC.

::

    HTTP/1.1 404 Not Found
    Content-Type: application/problem+json

    {"type": "urn:provledger:error:TILE_NOT_PUBLISHED", "title": "NOT_FOUND", "status": 404,
     "detail": "...", "reason": "TILE_NOT_PUBLISHED", "domain": "provledger",
     "metadata": {"tile": "tile/0/001"}}

`reason` and `domain` are those of AIP-193 and part of the API (docs/formats/errors.md); statuses
follow google.rpc.Code. What we do not know is 500 without detail, as everywhere.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from provledger.errors import StatusError

MEDIA_TYPE: Final = "application/problem+json"
DOMAIN: Final = "provledger"

HTTP_STATUS: Final[Mapping[str, int]] = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "INTERNAL": 500,
    "DATA_LOSS": 500,
    "UNKNOWN": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
"""The HTTP status of each code of google.rpc.Code."""


def problem(error: StatusError, status: int | None = None) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer for an error; `status` only where HTTP has its own."""
    if status is None:
        status = HTTP_STATUS.get(error.code, 500)
    document: dict[str, Any] = {
        "type": f"urn:provledger:error:{error.reason}",
        "title": error.code,
        "status": status,
        "detail": error.message,
        "reason": error.reason,
        "domain": DOMAIN,
        "metadata": error.metadata,
    }
    if error.violations:
        document["violations"] = [
            {"field": item.field, "description": item.description, "reason": item.reason}
            for item in error.violations
        ]
    # An answer that says "not yet" must not be the answer tomorrow.
    headers = {"content-type": MEDIA_TYPE, "cache-control": "no-store"}
    if error.retry_delay_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_delay_s)))
    return status, headers, json.dumps(document).encode()
