"""Whose sinks are: the log's, or those of tenants whose policies named them, in whatever version.

Evidence stays when the policy that asked for it is replaced or taken back, and so does the answer
to whom it is shown (docs/adr/0020). It stays when a sink leaves the settings, too; so those that
were ever in them are stored like a policy, under a name of their own:

    # ["file:///srv/anchors", "s3://bucket/prefix"]
    quorum none

As a policy that asks for nothing: a version of ours that does not know the name opens no sink.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from anchor_svc.quorum import cosigner_uri
from anchor_svc.storage import PolicyRow

_BLANKS: Final = re.compile(r"[ \t]+")

SETTINGS: Final = "settings"
"""Whose versions those of the settings' file are; no tenant is called so (`tenants/{tenant}`)."""

SETTINGS_SINKS: Final = "settings-sinks"
"""Whose versions name the sinks of the settings, each those that no earlier one does."""


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
    """URIs of the sinks that some version of a policy or of the settings named. Only grows.

    given: URIs of the settings' sinks, which are of the log.
    """

    def __init__(self, given: Iterable[str]) -> None:
        self._given = frozenset(given)
        self._shared: set[str] = set()
        self._by_tenant: dict[str, frozenset[str]] = {}

    def add(self, row: PolicyRow) -> None:
        """Take note of a stored version."""
        if row.tenant == SETTINGS_SINKS:
            self._shared.update(_listed(row.text))
        elif row.tenant in ("", SETTINGS):
            self._shared.update(_named(row.text))
        else:
            before = self._by_tenant.get(row.tenant, frozenset())
            self._by_tenant[row.tenant] = before.union(_named(row.text))

    def unstored(self) -> bytes:
        """The text that says which sinks of the settings no version says yet; empty if all are."""
        missing = sorted(self._given - self._shared)
        return f"# {json.dumps(missing)}\nquorum none\n".encode() if missing else b""

    def foreign(self) -> Foreign:
        """What is of tenants, as of now."""
        named = frozenset[str]().union(*self._by_tenant.values())
        return Foreign(named - self._shared - self._given, dict(self._by_tenant))


def _listed(text: bytes) -> list[str]:
    """The sinks of the settings in a stored text; none in one of another version's making."""
    try:
        return [str(uri) for uri in json.loads(text.split(b"\n")[0].removeprefix(b"# "))]
    except (ValueError, TypeError):
        return []


def _named(text: bytes) -> Iterator[str]:
    """As `named_sinks`, also of a text that cannot be read as a whole: another version wrote it,
    and asked those sinks."""
    for line in text.decode("utf-8", "replace").split("\n"):
        match [word for word in _BLANKS.split(line) if word]:
            case ["sink", _, uri]:
                yield uri
            case ["witness", _, _, url]:
                yield cosigner_uri(url)
