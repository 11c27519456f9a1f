"""How old a head may be for `monitor`, and by whose word it is fresh."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from provledger import note
from provledger.keyset import MAX_CLOCK_AHEAD_NS
from provledger.monitoring import SeenHead, cosigned_by, newest_cosignature
from provledger.note import VerifierKey
from provledger.policy import Policy
from provledger_cli.watching.alarms import FRESHNESS, Alarm, Look

_MAX_AHEAD_S: Final = MAX_CLOCK_AHEAD_NS // 1_000_000_000
"""What is dated further ahead of us says nothing of how old a head is."""
_AHEAD: Final = f"dated over {_MAX_AHEAD_S} s ahead of our clock: one of the two is wrong"


@dataclass(frozen=True, slots=True)
class Freshness:
    """What is asked of the age of a head.

    max_age_s: None for any age. cosigners, policy: who must have cosigned it; not both. clock: Unix
    seconds.
    """

    max_age_s: int | None
    cosigners: Sequence[VerifierKey]
    policy: Policy | None
    clock: Callable[[], float]

    def check_cosigned(self, head: SeenHead, look: Look) -> None:
        """Note whether those who must have cosigned a head, and not too long ago."""
        if self.policy is not None:
            self._check_quorum(self.policy, head, look)
        else:
            self._check_newest(head, look)

    def _check_newest(self, head: SeenHead, look: Look) -> None:
        at, max_age_s = newest_cosignature(head.signed, self.cosigners), self.max_age_s
        now = int(self.clock())
        if at is not None and max_age_s is not None and at - now > _MAX_AHEAD_S:
            at = newest_cosignature(head.signed, self.cosigners, until_unix_s=now + _MAX_AHEAD_S)
            if at is None or now - at > max_age_s:
                look.unknown[FRESHNESS] = f"the newest cosignature is {_AHEAD}"
                return
        self.check_since(at, "was", "cosigned", look, why=_plain(head))

    def check_since(
        self, at: int | None, verb: str, what: str, look: Look, *, why: str = ""
    ) -> None:
        """Note whether something happened last within the age that is asked for.

        at: Unix seconds; None if it never did.
        """
        age_s = None if at is None else int(self.clock()) - at
        max_age_s = self.max_age_s
        if age_s is None or (max_age_s is not None and age_s > max_age_s):
            since = "ever" if age_s is None else f"for {age_s} s"
            look.add(Alarm(self._too_old, f"it {verb} not {what} {since}{why}", FRESHNESS))
        else:
            look.held[FRESHNESS] = f"{what} {max(0, age_s)} s ago or later"

    def _check_quorum(self, policy: Policy, head: SeenHead, look: Look) -> None:
        max_age_s = self.max_age_s
        now, times = int(self.clock()), cosigned_by(head.signed, policy)
        since = 0 if max_age_s is None else now - max_age_s
        fresh = {name for name, at in times.items() if at >= since}
        if max_age_s is not None:
            ahead = {name for name in fresh if times[name] - now > _MAX_AHEAD_S}
            if policy.met_by(fresh) and not policy.met_by(fresh - ahead):
                who = ", ".join(sorted(ahead))
                look.unknown[FRESHNESS] = f"the cosignature by {who} is {_AHEAD}"
                return
            fresh -= ahead
        names = ", ".join(sorted(fresh))
        if policy.met_by(fresh):
            look.held[FRESHNESS] = f"cosigned by {names}"
            return
        within = "" if max_age_s is None else f"within {max_age_s} s "
        message = f"{within}it was cosigned by {names or 'nobody'}, which is not enough"
        message += _plain(head)
        look.add(Alarm(self._too_old, message, FRESHNESS))

    @property
    def _too_old(self) -> str:
        """The kind of alarm: without an age that is asked for, nothing is too old."""
        return "cosigner_quorum" if self.max_age_s is None else "stale"


def _plain(head: SeenHead) -> str:
    """What to say of a head that nobody but the log signed; "" for others."""
    if any(line.name != head.checkpoint.origin for line in note.parse(head.signed).signatures):
        return ""
    return (
        ": only the log signed it. Heads that Provledger's own logs publish carry no cosignatures, "
        "ever: leave --cosigner and --policy out for them"
    )
