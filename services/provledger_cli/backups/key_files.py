"""The files that `local:` URIs of a registry name, which `backup` takes and `restore` looks for.

local:witness-1.pem                         keys/witness-1.pem
local:new/w.key?passphrase-file=w.pass      keys/new/w.key, keys/w.pass
local:/etc/keys/w.pem                       where it is: no part of the data directory
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Final

import sqlalchemy as sa

KEYS = sa.text("SELECT kid, uri FROM keys ORDER BY kid")

_SCHEME: Final = "local:"
_PASSPHRASE_FILE: Final = "passphrase-file="


def names(uris: Iterable[str]) -> list[str]:
    """Their paths, as the URIs have them: absolute, or below the key directory. Each once."""
    found: dict[str, None] = {}
    for uri in uris:
        if not uri.startswith(_SCHEME):
            continue
        key, _, query = uri.removeprefix(_SCHEME).partition("?")
        for text in (key, query.removeprefix(_PASSPHRASE_FILE)):
            if text:
                found[str(PurePath(text))] = None
    return list(found)


def missing(directory: Path, uris: Iterable[str]) -> tuple[str, ...]:
    """Those that are not there; `directory`: where relative ones begin."""
    return tuple(name for name in names(uris) if not (directory / name).is_file())
