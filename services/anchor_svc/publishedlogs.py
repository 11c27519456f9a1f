"""Our own places of logs, the directory and the bucket: what is published there without a row.

The part of `lostlogs` that asks nobody else. It blocks: for a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from anchor_svc.bucketfiles import MAX_CHECKPOINT_BYTES
from provledger import checkpoint as checkpoints
from provledger import logdirs, logs, note
from provledger.errors import NoteError, UnavailableError
from provledger.s3 import Bucket

log = logs.get(__name__)

_REFUSED: Final = "STORAGE_REFUSED"


@dataclass(frozen=True, slots=True)
class Lost:
    """A log without a row, by its uid. where: what still knows of it. size: of its tree, as stated
    there; 0 if that cannot be read. reason: of the error that others get meanwhile."""

    uid: bytes
    where: str
    size: int
    reason: str = "DATABASE_BEHIND"


@dataclass(frozen=True, slots=True)
class Named:
    """The uids by which directories are called, in `directory` and in `bucket`."""

    directory: Collection[bytes]
    bucket: Collection[bytes]


class PublishedLogs:
    """Directories of logs below `directory`, and in a bucket, if tiles are there."""

    def __init__(self, directory: Path, bucket: Bucket | None) -> None:
        self._directory = directory
        self._bucket = bucket

    def named(self) -> Named:
        """Return what there is. A log gets its row first: so look at these before the rows.

        Raises:
            OSError: the directory cannot be read.
            UnavailableError: nor can the bucket. That we may not list it is a gap, which is told.
        """
        return Named(logdirs.listed(self._directory), self._list_bucket())

    def without_row(
        self,
        named: Named,
        known: Container[bytes],
        origins: Callable[[bytes], Collection[str]],
    ) -> list[Lost]:
        """Return those in which something was published, and whose uid is not `known`.

        origins: what a log of ours with some uid is called. Raises UnavailableError as `named`.
        """
        forgotten = logdirs.forgotten(self._directory, named.directory, known)
        unknown = sorted(uid for uid in named.bucket if uid not in known)
        return [
            *(self._in_directory(uid) for uid in forgotten),
            *self._in_bucket(unknown, origins),
        ]

    def _in_directory(self, uid: bytes) -> Lost:
        place = self._directory / uid.hex()
        try:
            stated = _stated((place / "checkpoint").read_bytes())
        except OSError:
            stated = None
        return Lost(uid, str(place), stated.size if stated else 0)

    def _list_bucket(self) -> list[bytes]:
        if self._bucket is None:
            return []
        try:
            names = list(self._bucket.directories("logs/"))
        except UnavailableError as error:
            if error.reason != _REFUSED:
                raise
            log.warning("anchor.bucket_not_listed", message=error.message, needs="s3:ListBucket")
            return []
        return [uid for uid in map(logdirs.parse_uid, names) if uid is not None]

    def _in_bucket(
        self, uids: Iterable[bytes], origins: Callable[[bytes], Collection[str]]
    ) -> list[Lost]:
        found = []
        for uid in uids:
            if self._bucket is None or logdirs.is_given_up(self._directory, uid):
                continue
            key = f"logs/{uid.hex()}/checkpoint"
            try:
                stored = self._bucket.get(key, max_bytes=MAX_CHECKPOINT_BYTES)
            except UnavailableError as error:
                if error.reason != _REFUSED:
                    raise
                # Perhaps another installation's; our own, we are allowed to read.
                log.warning("anchor.bucket_not_read", message=error.message, key=key)
                continue
            if stored is None:
                continue
            stated = _stated(stored.data)
            # Another installation may use the same prefix of a bucket.
            if stated is None or stated.origin in origins(uid):
                found.append(
                    Lost(uid, self._bucket.uri.join(key).text, stated.size if stated else 0)
                )
        return found


def _stated(data: bytes) -> checkpoints.Checkpoint | None:
    """What a checkpoint states; None if it cannot be read. Its signatures are not looked at."""
    try:
        return checkpoints.parse(note.parse(data).text)
    except NoteError:
        return None
