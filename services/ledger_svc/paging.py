"""Page tokens (AIP-158): opaque to callers, bound to the query they came from.

::

    token = base64url(JCS({"q": digest of the query, "t": tree size, "v": "1", ...position}))

A token is no secret and guards nothing: whoever makes one up sees what the query would show him
anyway. It pins the tree size that the proofs of a listing lead to.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Final

from provledger import jcs
from provledger.errors import FieldViolation, InvalidArgumentError, InvalidJSONError

_CONTEXT: Final = b"provledger/page/v1\n"
_MAX_TOKEN_CHARS: Final = 512


def page_token(query: Mapping[str, str], position: Mapping[str, str]) -> str:
    """The token of a page that ended at `position`, for the listing that `query` describes."""
    data = jcs.encode({**position, "q": _digest(query), "v": "1"})
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def read_page_token(token: str, query: Mapping[str, str], names: frozenset[str]) -> dict[str, str]:
    """The position in a token: exactly the members `names`.

    Raises:
        InvalidArgumentError: INVALID_PAGE_TOKEN; not one of ours, or of another query.
    """
    try:
        if len(token) > _MAX_TOKEN_CHARS:
            raise ValueError("too long")
        data = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        members = jcs.parse(data)
    except (ValueError, InvalidJSONError):
        raise bad_token("is not a token that this service gave out") from None
    if not isinstance(members, dict) or members.keys() != names | {"q", "v"}:
        raise bad_token("is not a token that this service gave out")
    # PostgreSQL takes no NUL in text.
    if not all(isinstance(value, str) and "\0" not in value for value in members.values()):
        raise bad_token("is not a token that this service gave out")
    if members["q"] != _digest(query) or members["v"] != "1":
        raise bad_token("belongs to a request with other parameters; repeat those, or start anew")
    return {name: members[name] for name in names}


def read_decimal(text: str, minimum: int) -> int:
    """A number out of a token.

    Raises:
        InvalidArgumentError: INVALID_PAGE_TOKEN.
    """
    digits = text.removeprefix("-")
    if digits.isascii() and digits.isdigit() and len(digits) <= 18 and int(text) >= minimum:
        return int(text)
    raise bad_token("is not a token that this service gave out")


def bad_token(description: str) -> InvalidArgumentError:
    """The error for a token that cannot be used."""
    return InvalidArgumentError(
        "INVALID_PAGE_TOKEN",
        f"page_token: {description}",
        violations=[FieldViolation("page_token", description, "INVALID_PAGE_TOKEN")],
    )


def _digest(query: Mapping[str, str]) -> str:
    return hashlib.sha256(_CONTEXT + jcs.encode(dict(query))).hexdigest()[:24]
