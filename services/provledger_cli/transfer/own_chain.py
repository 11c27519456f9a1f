"""Whether what a service lists is the ledger that an export is planned of, while it is written.

No signature is looked at: that is for `provledger verify`. An export that is said to be done is the
asked ledger's whole chain up to its head, and the head that is kept elsewhere is the same ledger's.
"""

from __future__ import annotations

from provledger import checkpoint as checkpoints
from provledger import dsse, note
from provledger.errors import InternalError
from provledger.head import parse_head
from provledger.receipt import Receipt
from provledger_cli.transfer.exporting import Plan


class OwnChain:
    """Takes the receipts of a plan in their order. `check` and `end` are for `write_export`."""

    def __init__(self, plan: Plan) -> None:
        """Raises InternalError if head or checkpoint are not those of the plan's ledger."""
        self._plan = plan
        self._count = 0
        self._last_hash: bytes | None = None
        self._check_checkpoint()

    def check(self, receipt: Receipt) -> None:
        """Raise InternalError unless this is the next receipt of the ledger."""
        header = self._plan.header
        if receipt.ledger != header.ledger or receipt.ledger_uid != header.ledger_uid:
            raise _bad(f"{receipt.name} is not a receipt of {header.ledger}")
        if receipt.seq != self._count:
            raise _bad(f"seq {receipt.seq} is listed where {self._count} should be")
        if receipt.previous_hash != self._last_hash:
            raise _bad(f"seq {receipt.seq} does not follow the receipt before it")
        self._count += 1
        self._last_hash = receipt.receipt_hash

    def end(self) -> None:
        """Raise InternalError unless the last receipt is the one that the head names."""
        if self._plan.head is None:
            return
        head = parse_head(dsse.decode(self._plan.head).payload)
        if (head.seq, head.receipt_hash) != (self._count - 1, self._last_hash):
            raise _bad(f"the head names another last receipt than seq {self._count - 1} listed")

    def _check_checkpoint(self) -> None:
        header = self._plan.header
        stated = checkpoints.parse(note.parse(self._plan.checkpoint).text)
        if (stated.origin, stated.size) != (header.origin, header.tree_size):
            raise _bad(f"the checkpoint is not that of size {header.tree_size} of {header.origin}")
        if self._plan.head is None:
            return
        head = parse_head(dsse.decode(self._plan.head).payload)
        if head.ledger_uid != header.ledger_uid:
            raise _bad(f"the head is not that of {header.ledger}")
        if (head.origin, head.size, head.root) != (stated.origin, stated.size, stated.root):
            raise _bad("head and checkpoint are not of the same tree")


def _bad(message: str) -> InternalError:
    return InternalError("BAD_RESPONSE", message)
