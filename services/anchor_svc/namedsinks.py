"""Whose sinks are: the log's, or those of tenants whose policies named them, in whatever version.

Evidence stays when the policy that asked for it is replaced or taken back, and so does the answer
to whom it is shown (docs/adr/0020).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from anchor_svc.quorum import cosigner_uri
from anchor_svc.storage import PolicyRow

_BLANKS: Final = re.compile(r"[ \t]+")


@dataclass(frozen=True, slots=True)
class Foreign:
    """Whose evidence is not for everybody.

    of_tenants: URIs of sinks that only tenants named. by_tenant: those that each of them named.
    """

    of_tenants: frozenset[str] = frozenset()
    by_tenant: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def owned_by(self, tenant: str) -> frozenset[str]:
        """Sinks that versions of this tenant's policy named; what they returned is for it."""
        return self.by_tenant.get(tenant, frozenset())


class NamedSinks:
    """URIs of the sinks that some version of a policy named. Only grows.

    shared: URIs of the settings' sinks, which are of the log.
    """

    def __init__(self, shared: Iterable[str]) -> None:
        self._shared = set(shared)
        self._by_tenant: dict[str, frozenset[str]] = {}

    def add(self, row: PolicyRow, *, shared: bool) -> None:
        """Take note of a stored version. shared: it is of the log, or of the settings."""
        if shared:
            self._shared.update(_named(row.text))
        else:
            before = self._by_tenant.get(row.tenant, frozenset())
            self._by_tenant[row.tenant] = before.union(_named(row.text))

    def foreign(self) -> Foreign:
        """What is of tenants, as of now."""
        named = frozenset[str]().union(*self._by_tenant.values())
        return Foreign(named - self._shared, dict(self._by_tenant))


def _named(text: bytes) -> Iterator[str]:
    """As `named_sinks`, also of a text that cannot be read as a whole: another version wrote it,
    and asked those sinks."""
    for line in text.decode("utf-8", "replace").split("\n"):
        match [word for word in _BLANKS.split(line) if word]:
            case ["sink", _, uri]:
                yield uri
            case ["witness", _, _, url]:
                yield cosigner_uri(url)
