"""Whether signed heads of ledgers say what the log holds, which its leaves show. No I/O."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from provledger.entry import parse_entry, receipt_hash
from provledger.errors import ProvledgerError, VerificationError
from provledger.report import Finding
from provledger.verify import Verifier


class Heads:
    """Holds heads against the leaves of one log, as many as there are by now."""

    def __init__(self, leaves: Sequence[bytes], verifier: Verifier, origin: str) -> None:
        """`origin` is the log's; leaves that are no entries count as nobody's."""
        self._leaves = leaves
        self._verifier = verifier
        self._origin = origin
        # By ledger: the log indices of its entries, rising.
        self._places: dict[bytes, list[int]] = {}
        for index, leaf in enumerate(leaves[1:], start=1):
            try:
                self._places.setdefault(parse_entry(leaf).ledger_uid, []).append(index)
            except ProvledgerError:
                continue

    def problem(self, ledger_uid: bytes, envelope: bytes, checkpoint: bytes) -> str:
        """What is wrong with a head of a ledger and the checkpoint that came with it, or ""."""
        try:
            head = self._verifier.open_head(envelope)
            signed = self._verifier.open_checkpoint(checkpoint, self._origin)
        except VerificationError as error:
            fork = "FORK: " if error.finding is Finding.HEAD_NOT_EXTENDING else ""
            return f"{fork}a head, or its checkpoint, does not verify: {error}"
        where = f"a head of seq {head.seq} at tree size {head.size}"
        if (head.origin, head.ledger_uid) != (self._origin, ledger_uid):
            return f"{where} is of another log or ledger"
        if (head.size, head.root) != (signed.size, signed.root):
            return f"{where} came with a checkpoint of another tree"
        if head.size > len(self._leaves):
            return f"ROLLED BACK: {where} was seen; there are {len(self._leaves)} leaves"
        places = self._places.get(ledger_uid, [])
        before = bisect_left(places, head.size)
        if not before or places[before - 1] != head.log_index:
            return f"FORK: {where} names log index {head.log_index}, which is not the last one"
        leaf = self._leaves[head.log_index]
        entry = parse_entry(leaf)
        if (entry.seq, receipt_hash(entry.suite, leaf)) != (head.seq, head.receipt_hash):
            return f"FORK: {where} names another receipt than the log has there"
        return ""
