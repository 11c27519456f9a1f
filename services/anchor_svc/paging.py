"""Page tokens of listings (AIP-158): opaque to callers, tied to the query they came from.

A token holds the place after which the next page begins, in the order of (size, sink), so that
anchors that arrive meanwhile shift nothing. It is no secret and guards nothing: whoever makes one
up sees what the query would show anyway.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Final

from provledger.errors import FieldViolation, InvalidArgumentError

_MAX_TOKEN_CHARS: Final = 4096
_TOKEN: Final = re.compile(rb"1\.([0-9a-f]{16})\.(0|[1-9][0-9]{0,18})\.(.+)", re.DOTALL)


def page_token(place: tuple[int, str], query: str) -> str:
    """The token of a page that ends at `place` (tree size, sink) of the listing `query`."""
    size, sink = place
    text = f"1.{_digest(query)}.{size}.{sink}".encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode("ascii")


def read_page_token(token: str, query: str) -> tuple[int, str]:
    """The place in a token; raises InvalidArgumentError (INVALID_PAGE_TOKEN)."""
    match, sink = None, ""
    if len(token) <= _MAX_TOKEN_CHARS and token.isascii():
        try:
            match = _TOKEN.fullmatch(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
            sink = match[3].decode() if match else ""
        except ValueError:
            match = None
    if match is None or "\0" in sink or int(match[2]) >= 2**63:
        raise _bad_token("is not a token that this listing gave out")
    if match[1].decode("ascii") != _digest(query):
        raise _bad_token("belongs to a request with other parameters; repeat those, or start anew")
    return int(match[2]), sink


def _digest(query: str) -> str:
    return hashlib.sha256(b"provledger/page/v1\n" + query.encode()).hexdigest()[:16]


def _bad_token(description: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        "INVALID_PAGE_TOKEN",
        f"page_token: {description}",
        violations=[FieldViolation("page_token", description, "INVALID_PAGE_TOKEN")],
    )
