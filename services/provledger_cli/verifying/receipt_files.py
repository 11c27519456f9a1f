"""The receipts in a file: those of an export, or the one that it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from provledger.export import FOOTER_PREFIX, KEY_LEDGER_PREFIX, is_export, parse_footer
from provledger.receipt import Receipt, parse_canonical_receipt, parse_receipt
from provledger_cli.failures import CommandError
from provledger_cli.sources import LineSource
from provledger_cli.verifying.checking import MAX_LINE_BYTES, first_part


def receipts_of(path: Path) -> Iterator[Receipt]:
    """The receipts of an export, or the one in a file; raises InputError or CommandError.

    An export has one at least, and as many as its footer counts. One that is alone may be spread
    over lines by a pretty printer.
    """
    with LineSource(path, max_line_bytes=MAX_LINE_BYTES) as source:
        lines = source.lines()
        start, _ = first_part(lines)
        if is_export(start):
            yield from _receipts_in(path, lines)
            return
        receipt = parse_receipt(start)
        if not isinstance(receipt, Receipt):
            raise CommandError(f"{path} is a receipt v0.1, which names no place in a log")
        yield receipt


def _receipts_in(path: Path, lines: Iterator[bytes]) -> Iterator[Receipt]:
    count = 0
    for line in lines:
        if line.startswith(FOOTER_PREFIX):
            stated = parse_footer(line).count
            if count == stated != 0:
                return
            what = f"{count:,} receipts, and its footer counts {stated:,}"
            raise CommandError(f"{path} has {what}", hint="export again")
        if not line.startswith(KEY_LEDGER_PREFIX):
            yield parse_canonical_receipt(line.rstrip(b"\n"))
            count += 1
    raise CommandError(f"{path} has no footer: it is cut off", hint="export again")
