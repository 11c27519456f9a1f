"""Sinks inside a data directory go with it, wherever it is moved or copied to.

`config.json` names sinks by URI, and beside them the path of the data directory as it was then::

    {"database_url": "", "sinks": ["file:///srv/m1/anchors"], "fips": false, "data_dir": "/srv/m1"}

Read in `/srv/m2`, the sink there is `file:///srv/m2/anchors`. Else a moved directory would be
compared with an empty one, so that nobody noticed that its databases were put back to older ones;
and a copy would write into the anchors of the original, which would refuse everything from then on.

Earlier versions wrote no `data_dir`. Where services ran last stands in `endpoints.json`, in the
paths of their logs, and tells the same unless they have run since the move. Nor do they look at
one that is there: those that ran since the move anchored where the sinks were before it.

A path that leads to the same directory (a link, also one that was left where it was before) is no
move: its sinks keep the URIs by which evidence is kept.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from provledger_cli.embedded import endpoints
from provledger_cli.embedded.datadir import DataDir
from provledger_cli.embedded.endpoints import Endpoints
from provledger_cli.failures import CommandError


def home(data_dir: DataDir, kept: str, sinks: Iterable[str]) -> Path:
    """The path that sinks inside the data directory begin with, where they were written.

    kept: what `config.json` says of it, "" if nothing.
    """
    sinks = tuple(sinks)
    if Path(kept).is_absolute() and not is_outdated(data_dir, kept, sinks):
        return Path(kept)
    for sink in sinks:
        path = _path(sink)
        if path is not None and is_same(path.parent, data_dir.path):
            return path.parent
    return _ran_in(data_dir, _endpoints(data_dir)) or data_dir.path


def is_outdated(data_dir: DataDir, kept: str, sinks: Iterable[str]) -> bool:
    """Whether an earlier version ran here though sinks were kept for the path `kept`.

    It took them as they stand there, and what it recorded is known to those alone, also where the
    directory was moved once more since. A sink that is not there any more knows nothing, as behind
    a link that was left at the old place for a while.

    Where it ran neither here nor at `kept`, and a data directory is still at `kept`, this one is
    taken for a copy of that, in which it ran by a link that is gone.
    """
    before = Path(kept)
    if not before.is_absolute() or is_same(before, data_dir.path):
        return False
    known = _endpoints(data_dir)
    ran = _ran_in(data_dir, known)
    if known is None or known.data_dir or ran is None or ran == before or is_same(ran, before):
        return False
    if not is_same(ran, data_dir.path) and DataDir(before).config.exists():
        return False
    paths = filter(None, map(_path, sinks))
    return any(path.is_relative_to(before) and os.path.isdir(path) for path in paths)


def follow(sinks: Iterable[str], before: Path, now: Path) -> tuple[str, ...]:
    """The sinks, with those inside the directory `before` being inside `now` instead."""
    return tuple(_follow(sink, before, now) for sink in sinks)


def is_same(path: Path, other: Path) -> bool:
    """Whether both lead to one directory, which is there."""
    try:
        return path.samefile(other)
    except OSError:
        return False


def anchors_of_another(data_dir: DataDir, sinks: Iterable[str]) -> Path | None:
    """The data directory whose `anchors` are the only sink here, though our own hold something.

    It need not be one, and can have been moved away: then that is where these anchors come from,
    if they are not a choice of somebody's.
    """
    paths = [_path(sink) for sink in sinks]
    path = paths[0] if len(paths) == 1 else None
    if path is None or path.name != data_dir.anchors.name or is_same(path, data_dir.anchors):
        return None
    try:
        with os.scandir(data_dir.anchors) as entries:
            return path.parent if any(entries) else None
    except OSError:
        return None


def _endpoints(data_dir: DataDir) -> Endpoints | None:
    with contextlib.suppress(CommandError):  # a broken file tells nothing
        return endpoints.read(data_dir.endpoints)
    return None


def _ran_in(data_dir: DataDir, known: Endpoints | None) -> Path | None:
    """The data directory in which services ran last, as its path was then."""
    for service in known.services.values() if known is not None else ():
        log = Path(service.log)
        if log.is_absolute() and log.parent.name == data_dir.logs.name:
            return log.parent.parent
    return None


def _follow(sink: str, before: Path, now: Path) -> str:
    path = _path(sink)
    if path is None or not path.is_relative_to(before):
        return sink
    query = urlsplit(sink).query
    return (now / path.relative_to(before)).as_uri() + (f"?{query}" if query else "")


def _path(sink: str) -> Path | None:
    """The directory of a `file:` sink."""
    try:
        parts = urlsplit(sink)
    except ValueError:
        return None
    path = Path(unquote(parts.path))
    return path if parts.scheme == "file" and path.is_absolute() else None
