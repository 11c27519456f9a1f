"""When a checkpoint counts as anchored: by a policy, or else once every sink holds it.

Pure. Cosigners of a policy count by the cosignatures in the evidence, whatever sink brought them,
and other sinks by having returned any. What is decided here is operational: whoever relies on a
receipt decides again, by a policy of their own (`provledger.verify`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

from anchor_svc.storage import AnchorRow
from provledger import note
from provledger.errors import NoteError
from provledger.policy import Policy

COSIGNATURE: Final = "tlog-cosignature"
MAX_EVIDENCE_BYTES: Final = 64 * 1024
MAX_SHOWN: Final = 64
"""Pieces of evidence in a proof: a receipt that held more could not be read
(docs/formats/receipt.md)."""


def cosigner_uri(url: str) -> str:
    """The sink that a policy's cosigner at `url` is."""
    return f"{url.rstrip('/')}?protocol=tlog-witness"


def named_sinks(policy: Policy | None) -> set[str]:
    """URIs of the sinks that a policy names, cosigners among them."""
    if policy is None:
        return set()
    urls = (item.url for item in policy.cosigners.values())
    return {*policy.sinks.values(), *(cosigner_uri(url) for url in urls if url is not None)}


def joined(held: AnchorRow, more: AnchorRow) -> AnchorRow:
    """The evidence of one sink for one checkpoint, after it was asked once more.

    What it said first stays, for those who go by it. Only cosignatures by further keys are new, and
    are added; those that would make it too large to be kept are not.
    """
    if {held.kind, more.kind} != {COSIGNATURE}:
        return held
    try:
        first, second = note.parse(held.evidence), note.parse(more.evidence)
    except NoteError:
        return held
    known = {(line.name, line.note_key_id) for line in first.signatures}
    lines = [
        note.signature_line(line.name, line.note_key_id, line.signature)
        for line in second.signatures
        if (line.name, line.note_key_id) not in known
    ]
    evidence = held.evidence + b"".join(lines)
    too_large = len(evidence) > MAX_EVIDENCE_BYTES
    too_many = len(first.signatures) + len(lines) > note.MAX_SIGNATURES
    if first.text != second.text or too_large or too_many:
        return held
    return replace(held, evidence=evidence)


class Quorum:
    """A policy with the sinks there are; `sinks` are their URIs.

    uris: of these sinks and of those that the policy names.
    """

    def __init__(self, policy: Policy | None, sinks: Iterable[str]) -> None:
        self.policy = policy
        self._sinks = frozenset(sinks)
        self.uris = self._sinks | named_sinks(policy)
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
            members.update(self._cosigned_by(row))
        return self.policy.met_by(members)

    def shown(
        self, rows: Sequence[AnchorRow], foreign: Collection[str], once: Collection[str] = ()
    ) -> list[AnchorRow]:
        """What of the evidence for one checkpoint is shown to a tenant whose policy this is.

        foreign: URIs of sinks that policies of tenants name, or once did. What these say is shown
        to a tenant of another policy only if it counts for him. once: those of them that a policy
        of his own named, in any version. At most MAX_SHOWN: the policy's own first, then what is
        everybody's, then what his earlier policies asked for.
        """
        own = [row for row in rows if row.sink in self.uris or self._cosigned_by(row)]
        kept = {row.sink for row in own}
        others = [row for row in rows if row.sink not in kept and row.sink not in foreign]
        kept.update(row.sink for row in others)
        earlier = [row for row in rows if row.sink not in kept and row.sink in once]
        return [*own, *others, *earlier][:MAX_SHOWN]

    def _cosigned_by(self, row: AnchorRow) -> Collection[str]:
        """The policy's cosigners whose cosignature this is."""
        if self.policy is None or row.kind != COSIGNATURE:
            return ()
        try:
            return self.policy.cosigned_by(row.evidence)
        except NoteError:
            return ()  # stored under keys that the policy no longer has as they were
