"""Whether a listing comes to an end, as far as its page tokens tell (AIP-158).

A page may be empty and not the last: a service looks through so many rows for each. A token that
comes again leads to the same pages again, without end.
"""

from __future__ import annotations

from typing import Final

from provledger.client.answers import bad_response

MAX_EMPTY_PAGES: Final = 100_000
"""Empty pages in a row. The ledger service looks through 5,000 rows for each."""


class Pages:
    """The tokens of one listing, two of them however long it is.

    `token` is that of the next page, "" for the first; `more` says whether there is one.

    Each token is compared with the one before it and with one that is kept, which is replaced after
    1, 2, 4, 8 ... pages (Brent): a circle of any length is met within some rounds of it.
    """

    def __init__(self) -> None:
        self.token = ""
        self.more = True
        self._kept = ""
        self._age = 0
        self._keep_for = 1
        self._empty = 0

    def turn(self, next_token: str, items: int) -> None:
        """Note a page of so many items and the token of the one behind it, if there is one.

        Raises:
            InternalError: BAD_RESPONSE, the token was there before, or all pages are empty.
        """
        if not next_token:
            self.more = False
            return
        if next_token in (self.token, self._kept):
            raise bad_response("a page token came for a second time: the listing has no end")
        self._empty = 0 if items else self._empty + 1
        if self._empty > MAX_EMPTY_PAGES:
            raise bad_response(f"{MAX_EMPTY_PAGES} pages in a row are empty")
        self._age += 1
        if self._age == self._keep_for:
            self._kept, self._age, self._keep_for = next_token, 0, self._keep_for * 2
        self.token = next_token
