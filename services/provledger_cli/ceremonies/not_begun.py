"""Active keys that nobody signs with yet: they begin ahead of the clocks of those who would.

A key begins at the time that the keys service's clock said when it was made, or rotated to. If that
was ahead, as the whole machine's was, nobody signs once it is right again until that time has come
(CLOCK_SKEW); the same is true while a clock is behind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from provledger.api.keys.v1 import keys_pb2
from provledger.keyset import KeyPurpose, KeySet, KeyState
from provledger_cli.ceremonies.registry import time_text
from provledger_cli.connect import Remote

_ALLOWED_NS = 300 * 10**9
"""As `signing_time_ns` of `provledger.keyring`: up to there services sign all the same."""

_DATED = frozenset({KeyPurpose.WITNESS, KeyPurpose.HEAD})
"""What is signed for these says when. Checkpoints and COSE receipts are signed all the same."""

RUNBOOK = "docs/runbooks/kms-rotate.md#a-key-that-has-not-begun"


@dataclass(frozen=True, slots=True)
class NotBegun:
    """An active key, and by how much the clock of a service is behind its start.

    not_before_ns: its start, Unix nanoseconds. signer: who reports to sign with it.
    """

    kid: str
    purpose: str
    not_before_ns: int
    behind_s: int
    signer: str

    def document(self) -> dict[str, Any]:
        """As `--json` shows it."""
        return {
            "kid": self.kid,
            "purpose": self.purpose,
            "not_before_ns": str(self.not_before_ns),
            "behind_s": self.behind_s,
            "signer": self.signer,
        }

    def __str__(self) -> str:
        return (
            f"{self.kid}, the active {self.purpose} key, begins {time_text(self.not_before_ns)}, "
            f"{self.behind_s} s ahead of the clock of the {self.signer}, which signs nothing until "
            "then: the clock is behind, or it was ahead when the key was made"
        )


async def not_begun(remote: Remote) -> list[NotBegun]:
    """The active keys for which that is so, by the reports of those who sign; each once.

    Raises:
        StatusError: the keys service does not say.
    """
    answer = await remote.call(remote.keys.GetJwks, keys_pb2.GetJwksRequest())
    keys = {key.kid: key for key in KeySet.parse(answer.jwks)}
    listed = await remote.call(remote.keys.ListSigners, keys_pb2.ListSignersRequest())
    found: dict[str, NotBegun] = {}
    for signer in listed.signers:
        for kid in (each.kid for each in signer.keys if signer.time_ns > 0):
            key = keys.get(kid)
            if key is None or key.state is not KeyState.ACTIVE or key.purpose not in _DATED:
                continue
            behind_ns = key.not_before_ns - signer.time_ns
            if behind_ns > _ALLOWED_NS:
                found[kid] = NotBegun(
                    kid, key.purpose.value, key.not_before_ns, behind_ns // 10**9, signer.watcher
                )
    return [found[kid] for kid in sorted(found)]
