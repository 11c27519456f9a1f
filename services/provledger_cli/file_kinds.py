"""What a file is that `verify` or `restore` was given: what it is for, however damaged, or another.

Something else is no answer (exit code 2): the evidence is missing, as it is where a download failed
or the wrong file was named. What was an export or a receipt does not hold (1), whatever was done
to it, so long as anything of it can be told.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from provledger.head import PAYLOAD_TYPE as HEAD_TYPE
from provledger_cli.failures import CommandError

# Members of a receipt, v0.1 too, and the lines of an export that are none. Names that other JSON
# of ours has as well (`kid`, `payload`) tell nothing.
_MEMBER_RE: Final = re.compile(
    rb'"(?:export|footer|keyLedger|commitment|fields_mask|ledgerUid|receiptType|receiptHash|'
    rb'payloadHash|previousHash|timestamp_iso|t_ns|schema|statement|proofs)"\s*:'
)
# How each begins, of which not even the first member's name may be left.
_BEGINNINGS: Final = (b'{"export":', b'{"commitment":')
_HEAD_TYPE: Final = msgspec.json.encode(HEAD_TYPE)


class _Told(msgspec.Struct, gc=False):
    """The members that tell JSON of ours apart, unread: the rest is passed over, however large."""

    keys: msgspec.Raw = msgspec.Raw()
    payload_type: msgspec.Raw = msgspec.field(name="payloadType", default=msgspec.Raw())


_read: Final = msgspec.json.Decoder(_Told).decode
_CHECKPOINT_RE: Final = re.compile(rb"[^\n]+\n[0-9]+\n[A-Za-z0-9+/]{43}=\n")


def refuse_others(
    path: Path,
    lines: Iterable[bytes],
    *,
    is_none: str = "is neither an export nor a receipt",
    hint: str = "was it fetched whole? name an export, plain or .gz, or one receipt as JSON",
) -> None:
    """Refuse a file of which no line is of an export or a receipt; read up to the first that is.

    `is_none` says in words that it is none of what was asked for, `hint` what was.

    Raises:
        CommandError: it is empty, or something else.
    """
    start = b""
    for line in lines:
        if _MEMBER_RE.search(line):
            return
        start = start or line.strip()
    if start and any(each.startswith(start) for each in _BEGINNINGS):
        return
    if not start:
        raise CommandError(f"{path} is empty", hint=hint)
    other = _kind_of(start)
    what = f"; it looks like {other}" if other else ""
    raise CommandError(f"{path} {is_none}{what}", hint=hint)


def kind_of(start: bytes) -> str:
    """What of ours a file is that begins like that, and is no backup; "" if nothing plainly is."""
    if _MEMBER_RE.search(start) or start.startswith(_BEGINNINGS):
        return "an export or a receipt"
    return _kind_of(start.strip())


def _kind_of(start: bytes) -> str:
    """What else of ours begins like that, "" if nothing plainly does."""
    if _CHECKPOINT_RE.match(start):
        return "a signed checkpoint"
    try:
        value = _read(start)
    except (ValueError, RecursionError):
        return ""
    if bytes(value.keys).startswith(b"["):
        return "a key set (--keys)"
    return "a signed head (--head)" if bytes(value.payload_type) == _HEAD_TYPE else ""
