"""The work behind `verify --cose`: a COSE receipt (RFC 9942), offline, for a receipt or an entry.

A COSE receipt says that an entry is in a log, and nothing else: neither that its ledger hangs
together, nor what the statement says. So for a receipt its own checks are made as well.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from provledger.cose_receipt import CHECK, MAX_BYTES, CoseReceipt, verify_cose_receipt
from provledger.errors import VerificationError
from provledger.export import is_export
from provledger.key_ledger_age import check_place
from provledger.outside import NOBODY
from provledger.rebuild import entry_of
from provledger.receipt import Receipt, parse_receipt
from provledger.report import CheckResult, Finding, Status
from provledger.tiles import MAX_ENTRY_BYTES
from provledger_cli import file_kinds
from provledger_cli.failures import CommandError
from provledger_cli.sources import LineSource
from provledger_cli.verifying.checking import (
    MAX_LINE_BYTES,
    Trusted,
    Verdict,
    first_part,
    verify_receipt,
)


def verify_receipt_and_cose(
    path: Path,
    cose: Path,
    trusted: Trusted,
    *,
    head: bytes | None = None,
    checkpoint: bytes | None = None,
) -> Verdict:
    """Verify a receipt in a file, as `verify_file` does, and a COSE receipt of its entry.

    Raises:
        VerificationError: one of them does not hold, or they contradict each other.
        CommandError: the file is an export, or something else.
        CoseReceiptError: the COSE receipt cannot be read.
    """
    data = _read_receipt(path)
    # First of all: what can be read no longer as the receipt that it was does not hold.
    verdict = verify_receipt(data, trusted, head=head, checkpoint=checkpoint)
    receipt = parse_receipt(data)
    if not isinstance(receipt, Receipt):
        raise CommandError("a receipt v0.1 is in no log", hint="name one of v0.2")
    entry = entry_of(receipt)
    found = verify_cose_receipt(_read(cose, MAX_BYTES), entry, trusted.keys_of_one())
    _check_same_place(found, receipt)
    try:
        _note(found, entry, trusted)
    except VerificationError as error:
        error.receipt = receipt.name
        raise
    return replace(verdict, details=verdict.details | {CHECK: _document(found)})


def verify_entry_and_cose(path: Path, cose: Path, trusted: Trusted) -> Verdict:
    """Verify a COSE receipt of an entry, given as the bytes that were logged; raises as above.

    It brings no checkpoint, so that whoever else is to be believed has nothing to speak of.
    """
    if trusted.outside.required != NOBODY.required:
        raise CommandError(
            "--policy, --tsa-cert and --online are about checkpoints, and a COSE receipt of an "
            "entry brings none",
            hint="verify the whole receipt or an export with them",
        )
    entry = _read(path, MAX_ENTRY_BYTES)
    found = verify_cose_receipt(_read(cose, MAX_BYTES), entry, trusted.keys_of_one())
    _note(found, entry, trusted)
    results: tuple[CheckResult, ...] = ()
    details: dict[str, Any] = {CHECK: _document(found)}
    if trusted.key_ledger is not None:
        results = (check_place(trusted.key_ledger.found, {found.origin: found.log_index}),)
        details["key_ledger_uid"] = trusted.key_ledger_uid.hex()
    subject = f"the entry at log index {found.log_index}"
    return Verdict(subject, Status.VERIFIED, 0, results, details)


def _note(found: CoseReceipt, entry: bytes, trusted: Trusted) -> None:
    """Hold its tree against those that were met; raises VerificationError."""
    trusted.known.note(found.origin, found.tree_size, found.root(entry), check=CHECK)


def _check_same_place(found: CoseReceipt, receipt: Receipt) -> None:
    """Check that both say of one entry that it is at one index of one log."""
    places = {proof.log_index for proof in receipt.proofs if proof.origin == found.origin}
    if receipt.proofs and not places:
        raise _contradicts(f"it is of the log {found.origin}, and the receipt of another", receipt)
    if places - {found.log_index}:
        raise _contradicts(
            f"it has the entry at {found.log_index} of {found.origin}, the receipt at "
            f"{', '.join(map(str, sorted(places)))}",
            receipt,
        )


def _contradicts(message: str, receipt: Receipt) -> VerificationError:
    return VerificationError(
        f"the COSE receipt contradicts the receipt: {message}",
        check=CHECK,
        finding=Finding.PROOF_INVALID,
        receipt=receipt.name,
    )


def _document(found: CoseReceipt) -> dict[str, Any]:
    return {
        "outcome": "holds",
        "kid": found.kid,
        "origin": found.origin,
        "tree_size": found.tree_size,
        "log_index": found.log_index,
    }


def _read_receipt(path: Path) -> bytes:
    """The one receipt in a file, plain or .gz, on one line or over many; raises CommandError."""
    with LineSource(path, max_line_bytes=MAX_LINE_BYTES) as source:
        lines = source.lines()
        start, _ = first_part(lines)
        if is_export(start):
            raise CommandError(
                "--cose goes with one receipt, or with --entry",
                hint=f"{path} is an export, which holds many: name the receipt's file, or the "
                "entry's",
            )
        file_kinds.refuse_others(path, chain([start], lines))
    return start


def _too_long(path: Path, max_bytes: int) -> CommandError:
    return CommandError(f"{path} is longer than {max_bytes:,} bytes", hint="is it that file?")


def _read(path: Path, max_bytes: int) -> bytes:
    # One byte more than there may be shows that it is too long.
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise _too_long(path, max_bytes)
    return data
