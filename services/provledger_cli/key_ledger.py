"""The key ledger as a file: the key events in an export of `tenants/system/ledgers/keys`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from provledger.errors import InputError, VerificationError
from provledger.export import FOOTER_PREFIX, is_export, verify_export
from provledger.key_events import (
    CHECK,
    LEDGER_NAME,
    EventType,
    History,
    SignedEvent,
    check_key_set,
    parse_signed,
    replay,
)
from provledger.keyset import KeyPurpose, KeySet, KeyState
from provledger.receipt import Receipt, parse_receipt
from provledger_cli.checking import MAX_LINE_BYTES
from provledger_cli.sources import LineSource

_TYPES = frozenset(EventType)


def read_events(path: Path) -> list[tuple[SignedEvent, str]]:
    """The events of an export, in order, each with its receipt's name; nothing is verified.

    Raises:
        VerificationError: it is no export of a key ledger.
    """
    events: list[tuple[SignedEvent, str]] = []
    with LineSource(path, max_line_bytes=MAX_LINE_BYTES) as source:
        for receipt in _receipts(source.lines()):
            if receipt.receipt_type not in _TYPES:
                continue
            try:
                if receipt.ledger != LEDGER_NAME or receipt.payload is None:
                    raise VerificationError(f"it is of {receipt.ledger}", check=CHECK)
                events.append((parse_signed(receipt.payload), receipt.name))
            except InputError as error:
                raise VerificationError(
                    f"a key event cannot be read: {error}", check=CHECK, receipt=receipt.name
                ) from error
    return events


def _receipts(lines: Iterator[bytes]) -> Iterator[Receipt]:
    if not is_export(next(lines, b"")):
        raise VerificationError("the file is no export of a key ledger", check=CHECK)
    for line in lines:
        if line.startswith(FOOTER_PREFIX):
            return
        try:
            receipt = parse_receipt(line)
        except InputError as error:
            raise VerificationError(f"a receipt cannot be read: {error}", check=CHECK) from error
        if isinstance(receipt, Receipt):
            yield receipt


def verify_key_ledger(path: Path, pin: bytes, keys: KeySet | None = None) -> History:
    """Verify an export of the key ledger from a pinned genesis; the history of the keys.

    The events are replayed under their rules, and then the export itself is verified with the keys
    that came out: its chain, its log and its witness are those the history names. `keys`, if given,
    must say the same as the ledger.

    Raises:
        VerificationError: the first thing that does not hold.
    """
    history = replay((signed for signed, _ in read_events(path)), pin)
    with LineSource(path, max_line_bytes=MAX_LINE_BYTES) as source:
        verify_export(source.lines(), _witness_keys_as_they_were(history.key_set()))
    if keys is not None:
        check_key_set(history, keys)
    return history


def _witness_keys_as_they_were(keys: KeySet) -> KeySet:
    """The keys, with revoked witness keys taken as retired.

    The entry that replaces a stolen witness key may still be witnessed by that key. An event holds
    by its endorsements and by its place in the log; its witness adds nothing to that.
    """
    return KeySet(
        replace(key, state=KeyState.RETIRED, revocation_reason="", covered=())
        if key.state is KeyState.REVOKED and key.purpose is KeyPurpose.WITNESS
        else key
        for key in keys
    )
