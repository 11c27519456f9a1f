"""The chain of an export: what each receipt must be to the one before it."""

from __future__ import annotations

from typing import Final

from provledger._export_lines import Link
from provledger.errors import VerificationError
from provledger.head import Head
from provledger.report import Check, Finding
from provledger.signing_token import UsesSeen

_STATEMENTS_REMEMBERED: Final = 65_536


class Chain:
    """The links so far. `last` is the newest one that holds, `count` how many there are."""

    def __init__(self, outside_head: Head | None) -> None:
        self._outside_head = outside_head
        self._statements: dict[bytes, None] = {}
        self._uses = UsesSeen()
        self.last: Link | None = None
        self.count = 0
        self.unverified = 0
        self.masked = 0

    def add(self, link: Link) -> None:
        """Check a receipt that holds in itself against the one before it; raises
        VerificationError."""
        self._check_statement_is_new(link)
        self._check_order(link)
        if link.use is not None:
            # Again: lines that were checked elsewhere were held against some others only.
            self._uses.note(*link.use)
        if self._outside_head is not None and link.seq == self._outside_head.seq:
            _check_is(link, self._outside_head)
        self.last = link
        self.count += 1
        self.unverified += not link.verified
        self.masked += link.masked

    def _check_order(self, link: Link) -> None:
        last = self.last
        expected = 0 if last is None else last.seq + 1
        if link.seq > expected:
            raise VerificationError(
                f"seq {expected} is missing before it", check=Check.CHAIN, finding=Finding.DELETED
            )
        if link.seq < expected:
            raise VerificationError(
                f"seq {link.seq} was there already",
                check=Check.CHAIN,
                finding=Finding.INSERTED,
            )
        if last is None:
            return
        if link.previous_hash != last.receipt_hash:
            raise VerificationError(
                "it does not follow the receipt before it",
                check=Check.CHAIN,
                finding=Finding.INSERTED,
            )
        if link.t_ns <= last.t_ns:
            raise VerificationError(
                "t_ns does not increase", check=Check.CHAIN, finding=Finding.TIMESTAMP_CHANGED
            )

    def _check_statement_is_new(self, link: Link) -> None:
        """Refuse a statement that was linked already, so that one signature counts once.

        Looked for among the last 65,536 receipts, to keep memory constant: a ledger that links an
        older one again would have to keep a signature for longer than any flush does.
        """
        if link.statement in self._statements:
            raise VerificationError(
                "its statement was linked before", check=Check.CHAIN, finding=Finding.INSERTED
            )
        if len(self._statements) == _STATEMENTS_REMEMBERED:
            del self._statements[next(iter(self._statements))]
        self._statements[link.statement] = None


def _check_is(link: Link, head: Head) -> None:
    """Check that a receipt is the one that a head given from elsewhere names."""
    if head.receipt_hash != link.receipt_hash:
        raise VerificationError(
            f"seq {head.seq} is another receipt than the head given names",
            check=Check.TRUNCATION,
            finding=Finding.HEAD_NOT_EXTENDING,
        )
    if link.log_index not in (None, head.log_index):
        raise VerificationError(
            f"seq {head.seq} is at log index {link.log_index}, not at {head.log_index} as the head "
            "given says",
            check=Check.TRUNCATION,
            finding=Finding.HEAD_NOT_EXTENDING,
        )
