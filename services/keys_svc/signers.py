"""Who signs with what now: reports of the signing services, each with a lease. In memory only.

What is decided by reports: when a drained key is written down as retired, what `keys rotate` shows,
how large the logs are where a checkpoint key begins or ends, for which those count that sign
checkpoints, and whether our clock is fit to say when a key begins or ends. After a restart the
services report again within seconds.

A report is that of whoever is authenticated as its caller: nobody ends, replaces or pushes out that
of another one. Where all are anonymous, on loopback, they have the room together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Final

from provledger import names
from provledger.api.keys.v1 import keys_pb2 as pb
from provledger.errors import IdentifierError
from provledger.rpc.auth import ANONYMOUS

Name = tuple[str, str, str]
"""Whose a report is: caller, watcher, instance."""

_MAX_SIGNERS: Final = 256
_MAX_KEYS: Final = 16
_MAX_LOGS: Final = 10_001
_MAX_NAME_BYTES: Final = 64
_MAX_ORIGIN_BYTES: Final = 1024
_CHECKPOINT: Final = pb.KEY_PURPOSE_CHECKPOINT


def check_report(signer: pb.Signer) -> None:
    """Refuse a report that could not be written down; raises IdentifierError."""
    for name in ("watcher", "instance"):
        names.check_text(getattr(signer, name), f"signer.{name}", max_bytes=_MAX_NAME_BYTES)
    if len(signer.keys) > _MAX_KEYS:
        raise IdentifierError("signer.keys", f"has more than {_MAX_KEYS}")
    if len(signer.log_sizes) > _MAX_LOGS:
        raise IdentifierError("signer.log_sizes", f"has more than {_MAX_LOGS}")
    for at, key in enumerate(signer.keys):
        names.check_text(key.kid, f"signer.keys[{at}].kid", max_bytes=_MAX_NAME_BYTES)
    for at, each in enumerate(signer.log_sizes):
        where = f"signer.log_sizes[{at}]"
        names.check_text(each.origin, f"{where}.origin", max_bytes=_MAX_ORIGIN_BYTES)
        if each.size < 0:
            raise IdentifierError(f"{where}.size", "is below 0")


class Signers:
    """Reports by caller, watcher and instance. `lease_ns`: how long one counts, nanoseconds."""

    def __init__(self, lease_ns: int) -> None:
        self._lease_ns = lease_ns
        self._reports: dict[Name, tuple[int, pb.Signer]] = {}

    def report(
        self, signer: pb.Signer, now_ns: int, *, caller: str = ANONYMOUS, leaving: bool = False
    ) -> Name | None:
        """Take a report in; whose went for it, if there is room for no more.

        caller: the principal. Whoever has most of them loses his oldest: of what one caller makes
        up, only his own reports have no room. One who starts again and again, each time as another
        instance, loses those that are gone anyway.
        """
        name = (caller, signer.watcher, signer.instance)
        if leaving:
            self._reports.pop(name, None)
            return None
        self._reports[name] = (now_ns, signer)
        if len(self._reports) <= _MAX_SIGNERS:
            return None
        self.list(now_ns)
        if len(self._reports) <= _MAX_SIGNERS:
            return None
        ((most, _),) = Counter(by for by, _, _ in self._reports).most_common(1)
        dropped = min(
            (each for each in self._reports if each[0] == most),
            key=lambda each: self._reports[each][0],
        )
        del self._reports[dropped]
        return dropped

    def list(self, now_ns: int) -> list[pb.Signer]:
        """Those whose lease has not ended."""
        self._reports = {
            name: each
            for name, each in self._reports.items()
            if abs(now_ns - each[0]) <= self._lease_ns
        }
        return [signer for _, signer in self._reports.values()]

    def log_sizes(self, now_ns: int, kids: Collection[str]) -> dict[str, int]:
        """The largest tree size of each log, by origin, of those who sign checkpoints by one of
        these keys: others know nothing of it."""
        sizes: dict[str, int] = {}
        for signer in self.list(now_ns):
            if not any(each.purpose == _CHECKPOINT and each.kid in kids for each in signer.keys):
                continue
            for each in signer.log_sizes:
                sizes[each.origin] = max(each.size, sizes.get(each.origin, 0))
        return sizes

    def age_ns(self, now_ns: int) -> int:
        """How old the oldest report is that counts, of those who sign checkpoints; 0 if none is."""
        self.list(now_ns)
        came_ns = (
            at_ns
            for at_ns, signer in self._reports.values()
            if any(each.purpose == _CHECKPOINT for each in signer.keys)
        )
        return max(0, now_ns - min(came_ns, default=now_ns))

    def all_use(self, purpose: int, kid: str, now_ns: int) -> bool:
        """Whether some service reported for a purpose, and every one that did uses this key."""
        kids = {
            each.kid
            for signer in self.list(now_ns)
            for each in signer.keys
            if each.purpose == purpose
        }
        return kids == {kid}

    def ahead_ns(self, now_ns: int) -> int:
        """By how much our clock was ahead of that of everybody who reported it, then; 0 if of none.

        One that agrees with us is enough: the thief of a key could report whatever keeps it.
        """
        self.list(now_ns)
        told = (each for each in self._reports.values() if each[1].time_ns > 0)
        return max(0, min((at_ns - signer.time_ns for at_ns, signer in told), default=0))

    def latest_ns(self, now_ns: int) -> int:
        """What time it is at the latest, in Unix nanoseconds: by our clock or, if that is behind
        all that were reported, by the least of them. As there, one that agrees is enough."""
        self.list(now_ns)
        told = (
            signer.time_ns - at_ns for at_ns, signer in self._reports.values() if signer.time_ns > 0
        )
        return now_ns + max(0, min(told, default=0))

    def behind_ns(self, now_ns: int, purpose: int, kid: str) -> int:
        """By how much our clock was behind that of everybody who reported to sign with a key; 0 if
        of none. As there, one that agrees with us is enough."""
        self.list(now_ns)
        told = (
            signer.time_ns - at_ns
            for at_ns, signer in self._reports.values()
            if signer.time_ns > 0
            and any(each.purpose == purpose and each.kid == kid for each in signer.keys)
        )
        return max(0, min(told, default=0))
