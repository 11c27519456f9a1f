"""Page tokens of ListKeys and ListKeyEvents (AIP-158): opaque to callers, tied to their query.

A token holds the number of the last key shown, so that keys registered meanwhile shift nothing; of
events, the last place in the key ledger and the last number of one on its way there, together. It
is no secret and guards nothing: whoever makes one up sees what the query would show him anyway.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Final

from provledger.errors import FieldViolation, InvalidArgumentError

_MAX_TOKEN_CHARS: Final = 64
_NUMBER_BITS: Final = 32
_TOKEN: Final = re.compile(rb"1\.([0-9a-f]{16})\.([1-9][0-9]{0,18})")


def page_token(number: int, query: str) -> str:
    """Return the token of a page that ends with key `number` of the listing `query`, whose first
    word is the RPC."""
    text = f"1.{_digest(query)}.{number}".encode("ascii")
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode("ascii")


def read_page_token(token: str, query: str) -> int:
    """Return the number in a token; raises InvalidArgumentError (INVALID_PAGE_TOKEN)."""
    match = None
    if len(token) <= _MAX_TOKEN_CHARS and token.isascii():
        try:
            match = _TOKEN.fullmatch(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        except ValueError:
            pass
    if match is None:
        raise _bad_token(f"is not a token that {query.split(maxsplit=1)[0]} gave out")
    if match[1].decode("ascii") != _digest(query):
        raise _bad_token("belongs to a request with other parameters; repeat those, or start anew")
    return int(match[2])


def event_page_token(position: int, number: int, query: str) -> str:
    """Return the token of a page of events up to this place, and this number of those on the way.

    Either is 0 if there was none, not both.
    """
    return page_token((position << _NUMBER_BITS) + number, query)


def read_event_page_token(token: str, query: str) -> tuple[int, int]:
    """Return both numbers in a token; raises as `read_page_token`."""
    return divmod(read_page_token(token, query), 1 << _NUMBER_BITS)


def _digest(query: str) -> str:
    return hashlib.sha256(b"provledger/page/v1\n" + query.encode()).hexdigest()[:16]


def _bad_token(description: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        "INVALID_PAGE_TOKEN",
        f"page_token: {description}",
        violations=[FieldViolation("page_token", description, "INVALID_PAGE_TOKEN")],
    )
