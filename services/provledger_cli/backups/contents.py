"""What a backup may hold, by name, and what its manifest must say; see `archive`.

Whatever else is in a data directory says where services are, that they run, or that nobody has to
confirm a restore: that is never taken from a file. Nor is what SQLite would look for beside a
database.
"""

from __future__ import annotations

import re
from typing import Any, Final

from provledger import tiles
from provledger.errors import TileError
from provledger_cli.embedded.datadir import PIN_FILE

SERVICES: Final = ("keys", "anchor", "ledger")
"""Those with a database, in the order in which snapshots of them are taken."""

_MAX_PART: Final = 255
_MAX_DEPTH: Final = 10
_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_FILES: Final = frozenset({"config.json", PIN_FILE, "import.key"})
_DATABASE: Final = re.compile(rf"db/(?:{'|'.join(SERVICES)})(?:\.sqlite3|/[a-z0-9_]+\.copy)")
_LOG: Final = re.compile(r"tiles/logs/[0-9a-f]+/(.+)")
_HEX: Final = re.compile(r"[0-9a-f]+")
_NS: Final = re.compile(r"[0-9]{1,20}")
_REVISION: Final = re.compile(r"[0-9]{4}")


def is_name(name: str) -> bool:
    """Whether a backup may hold a file of that name."""
    if _NAME.fullmatch(name) is None or ".." in name:
        return False
    if any(len(part) > _MAX_PART for part in name.split("/")):
        return False
    if name in _FILES or name.startswith("keys/") or _DATABASE.fullmatch(name):
        return True
    found = _LOG.fullmatch(name)
    return found is not None and (found[1] == "checkpoint" or _is_tile(found[1]))


def _is_tile(path: str) -> bool:
    try:
        tiles.parse_path(path)
    except TileError:
        return False
    return True


def check_about(about: Any) -> None:
    """Raise ValueError, KeyError or TypeError unless it says all that a restore needs to know."""
    texts = [
        (about["takenAtNs"], _NS),
        *((about["revisions"][service], _REVISION) for service in SERVICES),
        *((log["uid"], _HEX) for log in about["logs"]),
    ]
    if not isinstance(about["database"], str):
        raise TypeError("database")
    _check_depth(about, _MAX_DEPTH)
    for text, pattern in texts:
        if pattern.fullmatch(text) is None:
            raise ValueError("about")


def _check_depth(value: Any, left: int) -> None:
    if not left:
        raise ValueError("depth")
    for each in value.values() if isinstance(value, dict) else value:
        if isinstance(each, dict | list):
            _check_depth(each, left - 1)
