"""Whose sinks are: the log's, or those of tenants whose policies named them, in whatever version.

Evidence stays when the policy that asked for it is replaced or taken back, and so does the answer
to whom it is shown (docs/adr/0020).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from anchor_svc.quorum import cosigner_uri
from anchor_svc.storage import PolicyRow

_BLANKS: Final = re.compile(r"[ \t]+")


class NamedSinks:
    """URIs of the sinks that some version of a policy named. Only grows.

    shared: URIs of the settings' sinks, which are of the log.
    """

    def __init__(self, shared: Iterable[str]) -> None:
        self._shared = set(shared)
        self._of_tenants: set[str] = set()

    def add(self, row: PolicyRow, *, shared: bool) -> None:
        """Take note of a stored version. shared: it is of the log, or of the settings."""
        (self._shared if shared else self._of_tenants).update(_named(row.text))

    def of_tenants(self) -> frozenset[str]:
        """The sinks that only tenants named."""
        return frozenset(self._of_tenants - self._shared)


def _named(text: bytes) -> Iterator[str]:
    """As `named_sinks`, also of a text that cannot be read as a whole: another version wrote it,
    and asked those sinks."""
    for line in text.decode("utf-8", "replace").split("\n"):
        match [word for word in _BLANKS.split(line) if word]:
            case ["sink", _, uri]:
                yield uri
            case ["witness", _, _, url]:
                yield cosigner_uri(url)
