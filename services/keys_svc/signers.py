"""Who signs with what now: reports of the signing services, each with a lease. In memory only.

Nothing is decided by a report but when a drained key is written down as retired, and what
`keys rotate` shows: a signing service that lies about it changes neither what it may sign nor what
verifies. After a restart the services report again within seconds.
"""

from __future__ import annotations

from provledger.api.keys.v1 import keys_pb2 as pb

_MAX_SIGNERS = 256


class Signers:
    """Reports by (watcher, instance). `lease_ns`: how long one counts, nanoseconds."""

    def __init__(self, lease_ns: int) -> None:
        self._lease_ns = lease_ns
        self._reports: dict[tuple[str, str], tuple[int, pb.Signer]] = {}

    def report(self, signer: pb.Signer, now_ns: int, *, leaving: bool = False) -> None:
        """Take a report in."""
        name = (signer.watcher, signer.instance)
        if leaving:
            self._reports.pop(name, None)
        elif name in self._reports or len(self._reports) < _MAX_SIGNERS:
            self._reports[name] = (now_ns, signer)

    def list(self, now_ns: int) -> list[pb.Signer]:
        """Those whose lease has not ended."""
        self._reports = {
            name: each
            for name, each in self._reports.items()
            if abs(now_ns - each[0]) <= self._lease_ns
        }
        return [signer for _, signer in self._reports.values()]

    def log_sizes(self, now_ns: int) -> dict[str, int]:
        """The largest tree size reported for each log, by origin."""
        sizes: dict[str, int] = {}
        for signer in self.list(now_ns):
            for each in signer.log_sizes:
                sizes[each.origin] = max(each.size, sizes.get(each.origin, 0))
        return sizes

    def all_use(self, purpose: int, kid: str, now_ns: int) -> bool:
        """Whether some service reported for a purpose, and every one that did uses this key."""
        kids = {
            each.kid
            for signer in self.list(now_ns)
            for each in signer.keys
            if each.purpose == purpose
        }
        return kids == {kid}
