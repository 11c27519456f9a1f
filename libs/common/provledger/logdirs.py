"""Directories of logs, `logs/<uid hex>/` beside a database: which of them it should know.

A log gets its row first, and its directory afterwards. So a directory in which something was
published, of a log that has no row, is one that a database of an older copy has forgotten. What
is in it stays what it was: `GIVEN_UP` there is an operator's word that the loss was dealt with, or
that the log never was of this installation. It ends when the log is opened, and so was not lost.

Trust: operational. Who makes such a file has the log denied, and another one made in its place.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Final

GIVEN_UP: Final = "given-up"
_SIGNS: Final = ("checkpoint", "tiles-elsewhere")
_UID: Final = re.compile(r"[0-9a-f]{32}")


def parse_uid(name: str) -> bytes | None:
    """The uid, 16 bytes, that a directory is called by; None for another name."""
    return bytes.fromhex(name) if _UID.fullmatch(name) else None


def listed(logs: Path) -> list[bytes]:
    """Uids by which directories in `logs` are called, in order; ask before what the database has.

    Raises OSError if it cannot be read; one that is not there has none.
    """
    try:
        names = os.listdir(logs)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(uid for uid in map(parse_uid, names) if uid is not None)


def forgotten(logs: Path, uids: Iterable[bytes], known: Container[bytes]) -> list[bytes]:
    """Those of listed uids that the database does not know, with something published in them."""
    return [
        uid
        for uid in uids
        if uid not in known
        and any(_there(logs / uid.hex() / sign) for sign in _SIGNS)
        and not is_given_up(logs, uid)
    ]


def is_given_up(logs: Path, uid: bytes) -> bool:
    """Whether an operator says that nobody is to miss this log; not, if that cannot be read."""
    try:
        return (logs / uid.hex() / GIVEN_UP).is_file()
    except OSError:
        return False


def _there(path: Path) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        # A bad sector is no reason to forget a log.
        return True
    return True
