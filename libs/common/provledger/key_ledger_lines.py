"""The lines of a key ledger in an export, its own or another ledger's, and the events in them.

Nothing is verified here (`provledger.key_ledger` does); what is read is bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final

from provledger.errors import (
    InputError,
    KeyLedgerTooLargeError,
    NoKeyLedgerError,
    VerificationError,
)
from provledger.export import FOOTER_PREFIX, KEY_LEDGER_PREFIX, is_export, parse_header
from provledger.key_events import (
    CHECK,
    LEDGER_NAME,
    EventType,
    SignedEvent,
    parse_signed,
    request_id,
)
from provledger.receipt import Receipt, parse_receipt
from provledger.statement import read_bound

MAX_KEY_LEDGER_BYTES: Final = 128 * 1024 * 1024
"""An event with its proof takes some 4.6 KB, and a key has three in its life: this has room for
all keys that a registry takes (113 MB). All of it is held while it is verified."""

_TYPES: Final = frozenset(EventType)
_TYPE_PREFIX: Final = "key."
"""Of the types of all key events, later ones too: nobody but the services may have it stated."""


def lines_of(export: Iterable[bytes]) -> list[bytes]:
    """The lines of the key ledger in an export: all of them, if it is an export of nothing else.

    Reads no further than it must. Raises VerificationError: there is none.
    """
    reader = iter(export)
    first = next(reader, b"")
    if not is_export(first):
        raise broken("the file is no export of a key ledger")
    if names_key_ledger(first):
        return bounded(first, reader)
    carried, _ = split(reader)
    if not carried:
        raise NoKeyLedgerError("the export carries no key ledger", check=CHECK)
    return carried


def take(export: Iterable[bytes]) -> tuple[list[bytes], Iterator[bytes]]:
    """The lines of the key ledger in an export, none if it has none, and all its lines once more.

    Raises:
        KeyLedgerTooLargeError: it is.
    """
    reader = iter(export)
    first = next(reader, b"")
    try:
        alone = parse_header(first).ledger == LEDGER_NAME
    except InputError:
        return [], chain([first], reader)
    if alone:
        lines = bounded(first, reader)
        return lines, iter(lines)
    carried, others = split(reader)
    return carried, chain([first], wrap(carried), others)


def split(lines: Iterable[bytes]) -> tuple[list[bytes], Iterator[bytes]]:
    """Take the key ledger off the lines after an export's header; its lines, and the others.

    Raises:
        KeyLedgerTooLargeError: it is.
    """
    reader = iter(lines)
    carried: list[bytes] = []
    size = 0
    for line in reader:
        if not line.startswith(KEY_LEDGER_PREFIX):
            return carried, chain([line], reader)
        carried.append(line[len(KEY_LEDGER_PREFIX) :].removesuffix(b"}\n") + b"\n")
        size += len(line)
        _check_size(size)
    return carried, iter(())


def wrap(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a key ledger as an export of another ledger carries them."""
    return (KEY_LEDGER_PREFIX + line.removesuffix(b"\n") + b"}\n" for line in lines)


def read_events(lines: Iterable[bytes]) -> list[tuple[SignedEvent, str]]:
    """The events of an export, in order, each with its receipt's name; nothing is verified.

    Those of types that this version does not know are passed over: `verify_key_ledger` says so.

    Raises:
        VerificationError: it is no export of a key ledger.
    """
    return read(lines)[0]


def read(lines: Iterable[bytes]) -> tuple[list[tuple[SignedEvent, str]], Receipt | None]:
    """The same, and the first receipt of a type `key.*` that is none of ours."""
    reader = iter(lines)
    if not is_export(next(reader, b"")):
        raise broken("the file is no export of a key ledger")
    events: list[tuple[SignedEvent, str]] = []
    unknown: Receipt | None = None
    for receipt in receipts(reader):
        if receipt.receipt_type not in _TYPES:
            if receipt.receipt_type.startswith(_TYPE_PREFIX):
                unknown = unknown or receipt
            continue
        try:
            events.append((_event(receipt), receipt.name))
        except InputError as error:
            raise VerificationError(
                f"a key event cannot be read: {error}", check=CHECK, receipt=receipt.name
            ) from error
    return events, unknown


def _event(receipt: Receipt) -> SignedEvent:
    """The event in a receipt; raises VerificationError, InputError."""
    why, signed = "", None
    if receipt.ledger != LEDGER_NAME:
        why = f"it is of {receipt.ledger}"
    elif receipt.payload is None:
        why = "a key event does not show its payload"
    else:
        signed = parse_signed(receipt.payload)
        if signed.event.event != receipt.receipt_type:
            why = f"a receipt of type {receipt.receipt_type} holds a {signed.event.event}"
        elif read_bound(receipt.statement).request_id != request_id(signed.event.digest()):
            why = "the request id of a key event does not name it"
    if signed is None or why:
        raise VerificationError(why, check=CHECK, receipt=receipt.name)
    return signed


def names_key_ledger(header_line: bytes) -> bool:
    """Whether an export is one of the key ledger alone, by its header; raises VerificationError."""
    try:
        return parse_header(header_line).ledger == LEDGER_NAME
    except InputError as error:
        raise broken(f"the header cannot be read: {error}") from error


def bounded(first: bytes, rest: Iterator[bytes]) -> list[bytes]:
    """All lines of an export of the key ledger; raises KeyLedgerTooLargeError."""
    lines, size = [first], len(first)
    for line in rest:
        lines.append(line)
        size += len(line)
        _check_size(size)
    return lines


def _check_size(size: int) -> None:
    """Raise KeyLedgerTooLargeError for a key ledger of more than we read; `size` in bytes."""
    if size > MAX_KEY_LEDGER_BYTES:
        # It may hold for all that we know: nothing of it was looked at.
        raise KeyLedgerTooLargeError(
            f"the key ledger is longer than {MAX_KEY_LEDGER_BYTES} bytes, which is all that this "
            "version reads: what it says of the keys cannot be told",
            check=CHECK,
        )


def receipts(lines: Iterator[bytes]) -> Iterator[Receipt]:
    """The receipts before an export's footer but the masked; raises VerificationError."""
    for line in lines:
        if line.startswith(FOOTER_PREFIX):
            return
        try:
            receipt = parse_receipt(line)
        except InputError as error:
            raise VerificationError(f"a receipt cannot be read: {error}", check=CHECK) from error
        if isinstance(receipt, Receipt):
            yield receipt


def broken(message: str) -> VerificationError:
    """What to raise where a key ledger does not hold."""
    return VerificationError(message, check=CHECK)
