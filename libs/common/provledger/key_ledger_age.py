"""Whether a key ledger in a file of its own is as new as what is verified with its keys. Pure.

What an export carries is whole as of that export (`provledger.key_ledger`). A file of its own may
end before a key was revoked, which whoever stole that key would like::

    an export, one log     its tree is no larger than that of the key ledger
    an export, two logs    its head is not signed after that of the key ledger; without a head,
                           nothing says as of when it is
    a receipt, one log     its place is in the tree of the key ledger, whatever tree it is proven in
    a receipt, two logs    nothing joins them. It is not from after the key ledger by its own word,
                           which a thief chooses: so that this is *not checked*

What is not shown to be as new cannot be told. And nobody learns from a key ledger what was revoked
after its end, of what it is new enough for either: so it is always said as of when the keys are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from provledger import names
from provledger.errors import VerificationError
from provledger.export import ExportReport
from provledger.key_ledger import KeyLedger
from provledger.report import Check, CheckResult, Finding, Outcome

_ANEW: Final = "export the key ledger anew, after what is verified"
_AN_ARCHIVE: Final = (
    "verify an archive, whose log signs no more heads, with a key set that you trust (--keys)"
)
"""A key ledger must have a head, so that none can be exported after such a one from there."""


def check_no_older(ledger: KeyLedger, export: ExportReport) -> None:
    """Check that a key ledger is as new as an export that was verified with its keys.

    Raises:
        VerificationError: NOT_PLACED, it is not, or that cannot be told.
    """
    own, other = ledger.report, export
    if own.header.origin == other.header.origin:
        if own.header.tree_size < other.header.tree_size:
            why = f"the export is of tree size {other.header.tree_size}"
            raise _not_placed(ledger, why, then=_ANEW if other.head else f"{_ANEW}; {_AN_ARCHIVE}")
        return
    if own.head is None or other.head is None:
        why = "nothing says as of when the export is, which is in another log and has no head"
        raise _not_placed(ledger, why, then=_AN_ARCHIVE)
    if own.head.signed_at_ns < other.head.signed_at_ns:
        when = names.timestamp_iso(other.head.signed_at_ns)
        raise _not_placed(ledger, f"the export, which is in another log, has a head of {when}")


def check_place(
    ledger: KeyLedger, places: Mapping[str, int], *, at_ns: int | None = None, receipt: str = ""
) -> CheckResult:
    """Check that a key ledger is as new as a receipt that was verified with its keys.

    places: its log index by the origin of each log that it is proven to be in. at_ns: when it was
    appended, by its own word; None if it does not say. receipt: its name.

    Raises:
        VerificationError: NOT_PLACED, it came later, or says so.
    """
    header, head = ledger.report.header, ledger.report.head
    index = places.get(header.origin)
    if index is not None:
        if index >= header.tree_size:
            raise _not_placed(ledger, f"the receipt is at log index {index}", receipt)
        return CheckResult(Check.KEY_LEDGER, Outcome.HOLDS, ledger.as_of)
    if head is not None and at_ns is not None and at_ns > head.signed_at_ns:
        raise _not_placed(ledger, f"the receipt is of {names.timestamp_iso(at_ns)}", receipt)
    where = "in another log" if places else "which is in no log by what is here"
    detail = f"{ledger.as_of}; nothing shows whether the receipt, {where}, came before"
    return CheckResult(Check.KEY_LEDGER, Outcome.NOT_CHECKED, detail)


def _not_placed(
    ledger: KeyLedger, why: str, receipt: str = "", *, then: str = _ANEW
) -> VerificationError:
    return VerificationError(
        "the key ledger given may be too old to tell of every revocation: it is as of "
        f"{ledger.end}, and {why}; {then}",
        check=Check.KEY_LEDGER,
        finding=Finding.NOT_PLACED,
        receipt=receipt,
    )
