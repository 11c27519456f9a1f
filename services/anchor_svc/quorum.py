"""When a checkpoint counts as anchored: by a policy, or else once every sink holds it.

Pure. Cosigners of a policy count by the cosignatures in the evidence, whatever sink brought them,
and other sinks by having returned any. What is decided here is operational: whoever relies on a
receipt decides again, by a policy of their own (`provledger.verify`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

from anchor_svc.storage import AnchorRow
from provledger.errors import NoteError
from provledger.policy import Policy

COSIGNATURE: Final = "tlog-cosignature"


class Quorum:
    """A policy with the sinks there are; `sinks` are their URIs."""

    def __init__(self, policy: Policy | None, sinks: Iterable[str]) -> None:
        self.policy = policy
        self._sinks = frozenset(sinks)
        self._asks = policy is not None and policy.quorum is not None
        self.has_sinks = bool(self._sinks) or self._asks

    def could_miss(self, uris: Collection[str], keys: Collection[Any]) -> bool:
        """Whether a checkpoint may be anchored that these sinks and cosigners know nothing of.

        uris: of sinks. keys: public keys of cosigners.
        """
        if self.policy is None or not self._asks:
            return self._sinks.isdisjoint(uris)
        known = {name for name, uri in self.policy.sinks.items() if uri in uris}
        known |= {
            name for name, item in self.policy.cosigners.items() if item.key.public_key in keys
        }
        return self.policy.met_by(self.policy.required() - known)

    def met(self, rows: Sequence[AnchorRow]) -> bool:
        """Whether the evidence for one checkpoint is enough."""
        held_by = {row.sink for row in rows}
        if self.policy is None or not self._asks:
            return bool(self._sinks) and held_by >= self._sinks
        members = {name for name, uri in self.policy.sinks.items() if uri in held_by}
        for row in rows:
            if row.kind == COSIGNATURE:
                try:
                    members.update(self.policy.cosigned_by(row.evidence))
                except NoteError:
                    continue  # stored under keys that the policy no longer has as they were
        return self.policy.met_by(members)
