"""The work behind `log fsck`: a log's files, its stored heads and the ledger's rows, held together.

Two ways to the same walk (`provledger.fsck`):

    data directory   files, heads and rows as they lie there; services may run meanwhile
    services         published files (a directory or URL), rows as the ledger service lists them

What counts as logged is asked first and the files are read afterwards, so that a log that grows
meanwhile is never short of an entry.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from provledger import checkpoint as checkpoints
from provledger import logdirs, note, tiles
from provledger.api.anchor.v1 import anchor_pb2
from provledger.client import ReceiptSummary
from provledger.entry import parse_entry
from provledger.errors import InputError, LogDamagedError, UnknownKeyError, VerificationError
from provledger.fsck import (
    BUNDLE,
    CHECKPOINT,
    Bundle,
    Head,
    LedgerBinder,
    LogFiles,
    LoggedRun,
    TreeWalk,
)
from provledger.hashing import Hasher, suite
from provledger.keyset import KeyPurpose, KeySet
from provledger.report import Finding
from provledger.revocation import Unsettled, named_for
from provledger.verify import Verifier
from provledger_cli.anchoring import is_stale, ledgers
from provledger_cli.connect import Remote
from provledger_cli.failures import CommandError
from provledger_cli.tlog.logfiles import Files
from provledger_cli.tlog.places import ANCHOR_ROW, Named, PlaceBinder, check_named
from provledger_cli.tlog.stored import AnchorRows, StoredLog

Progress = Callable[[int, int], None]
"""Told how many of how many entries were looked at."""

_UNVOUCHED: Final = frozenset({Finding.CAME_LATER, Finding.KEY_NOT_VALID, Finding.NOT_PLACED})
_CATCH_UP_S: Final = 15.0
_PAGE: Final = 250


class Rows(Protocol):
    """The ledgers' rows, as far as a log is concerned."""

    def ends(self, origin: str) -> list[tuple[bytes, int]]:
        """(uid, last seq that counts as logged) of the ledgers in a log."""
        ...

    def hashes(self, ledger_uid: bytes, start_seq: int, count: int) -> Sequence[bytes | None]:
        """Receipt hashes from a seq on, None where there is no row."""
        ...


class StoredRows(Rows, Protocol):
    """Rows as they are stored, with what the ledger service does not tell of itself."""

    def genesis(self, ledger_uid: bytes) -> Named | None:
        """What a ledger's own row says, and the statement of its genesis; None without either."""
        ...


@dataclass(frozen=True, slots=True)
class Checked:
    """What was looked at and held. `signatures`: False if there were no keys to check them with.

    unvouched: how many of `heads` were signed by a revoked or retired key alone, which stands for
    none of them: their trees are the log's all the same.
    """

    origin: str
    published_size: int
    size: int
    ledgers: int
    tiles: int
    bundles: int
    partials: int
    heads: int
    unvouched: int
    signatures: bool


class _Checkpoints:
    """Reads checkpoints, with the keys or, for want of them, without.

    What a revoked key signed stands as far as it is of one history with the checkpoint that its
    revocation names. The walk shows that: it makes the root of each of both (`named`).
    """

    def __init__(self, keys: KeySet | None) -> None:
        self._keys = () if keys is None else keys.for_purpose(KeyPurpose.CHECKPOINT)
        self._verifier = None if keys is None else Verifier(keys)
        self._unsettled: Unsettled = {}
        if self._verifier is not None:
            self._verifier.leave_unsettled(self._unsettled)
        self.has_keys = keys is not None
        self.unvouched = 0

    def named(self, origin: str) -> list[Head]:
        """What revocations name of a log, in order of size: heads that others hold."""
        found = []
        for key in self._keys:
            if (named := named_for(key, origin)) is not None:
                name = f"checkpoint of tree size {named.size} that {key.kid} was revoked after"
                found.append(Head(named.size, named.root, name))
        return sorted(found, key=lambda head: head.size)

    def open_stored(self, signed: bytes, origin: str, name: str) -> checkpoints.Checkpoint:
        """As `open`; one that an ended key signed, and does not stand for, is counted."""
        # All that is named is a head of the walk: which of them asked for it is not kept.
        self._unsettled.clear()
        if self._verifier is not None:
            try:
                return self._verifier.open_checkpoint(signed, origin)
            except UnknownKeyError:
                pass
            except VerificationError as error:
                # An honest log may have signed it before anybody knew of the theft, or the
                # revocation names nothing of it; or it was away when its key was retired. Forged,
                # its tree is not the one the walk makes.
                if error.finding in _UNVOUCHED:
                    self.unvouched += 1
                    return checkpoints.parse(note.parse(signed).text)
        return self.open(signed, origin, name)

    def open(self, signed: bytes, origin: str, name: str) -> checkpoints.Checkpoint:
        """The checkpoint in a note of that log; raises LogDamagedError."""
        try:
            if self._verifier is not None:
                return self._verifier.open_checkpoint(signed, origin)
            found = checkpoints.parse(note.parse(signed).text)
        except InputError as error:
            raise LogDamagedError(f"{name} cannot be read: {error}", check=CHECKPOINT) from error
        except VerificationError as error:
            raise LogDamagedError(f"{name}: {error.message}", check=CHECKPOINT) from error
        if found.origin != origin:
            raise LogDamagedError(f"{name} is of another log, {found.origin}", check=CHECKPOINT)
        return found


def check_stored(
    anchor: AnchorRows,
    uid: bytes,
    files: Files,
    rows: StoredRows,
    keys: KeySet | None,
    on_progress: Progress,
) -> Checked:
    """Check a log where it is stored, up to its newest head, published or not.

    Raises:
        LogDamagedError: for the first thing that does not fit.
    """
    reader = _Checkpoints(keys)
    ends = rows.ends(anchor.log(uid).origin)
    # What was published is marked once its file is there; the file before the log's row, which
    # holds what is published by then.
    published_size = anchor.published_size(uid)
    published = files.read("checkpoint")
    log = anchor.log(uid)
    hasher = suite(log.suite).tree
    size, root = 0, hasher(b"")
    if published is not None:
        stated = reader.open(published, log.origin, "checkpoint")
        size, root = stated.size, stated.root
    if size < published_size:
        found = "missing" if published is None else f"of tree size {size}"
        raise LogDamagedError(
            f"the published checkpoint is {found}, but one of tree size {published_size} has been "
            "published: it was lost or put back",
            check=CHECKPOINT,
        )
    if size > log.size:
        raise LogDamagedError(
            f"the published checkpoint is of tree size {size}, but the database knows of "
            f"{log.size} only: it is older than the files",
            check=CHECKPOINT,
        )
    stored = _stored_heads(anchor, log, reader)
    heads = heapq.merge(stored, reader.named(log.origin), key=lambda head: head.size)
    walk = TreeWalk(files, hasher, size, root, heads)
    binder, places = LedgerBinder(log.origin), PlaceBinder()

    def compare(bundle: Bundle) -> None:
        for run in _compare(binder, bundle, rows):
            first, last = (
                parse_entry(bundle.entries[run.log_indices[place] - bundle.start])
                for place in (0, -1)
            )
            if first.seq == 0:
                check_named(run.ledger_uid, rows.genesis(run.ledger_uid), first, log.origin)
            count = len(run.log_indices)
            places.compare(run, last.suite, anchor.runs(uid, run.ledger_uid, run.start_seq, count))

    for bundle in walk.bundles():
        compare(bundle)
        on_progress(bundle.start + len(bundle.entries), log.size)
    for bundle in _unpublished(files, log, size):
        compare(bundle)
        walk.extend(bundle.entries)
        on_progress(walk.entries_checked, log.size)
    walk.finish()
    if walk.root != log.root:
        raise LogDamagedError(
            f"the entries do not make the root that logs has at tree size {log.size}",
            check=ANCHOR_ROW,
        )
    unsigned_size = anchor.unsigned_size(uid, size)
    if unsigned_size is not None:
        raise LogDamagedError(
            f"the checkpoint of tree size {unsigned_size} has been published, but the database "
            "has none that is signed: it was lost",
            check=CHECKPOINT,
        )
    binder.finish(ends)
    places.finish(log.ledgers, log.runs)
    return _checked(walk, binder, log.origin, size, reader)


def check_known(logs: Path, uids: Iterable[bytes], known: Container[bytes]) -> None:
    """Check that the database knows all logs that something was published of.

    uids: of the directories in `logs`, listed before what the database knows.

    Raises:
        LogDamagedError: it does not; names all of these logs, and is of the first.
    """
    lost = [f"logs/{uid.hex()}" for uid in logdirs.forgotten(logs, uids, known)]
    if lost:
        damaged = LogDamagedError(
            f"published, but the database knows of no such log: {', '.join(lost)}. It is older "
            "than the files (docs/runbooks/stale-restore.md)",
            check=CHECKPOINT,
            path="checkpoint",
        )
        damaged.log = lost[0]
        raise damaged


def check_published(
    files: Files,
    origin: str,
    hasher: Hasher,
    least_size: int,
    ends: list[tuple[bytes, int]],
    rows: Rows,
    keys: KeySet | None,
    on_progress: Progress,
) -> Checked:
    """Check a log as it is published, once that reaches `least_size`.

    Raises:
        LogDamagedError: for the first thing that does not fit.
        CommandError: nothing that large is published in time.
    """
    reader = _Checkpoints(keys)
    stated = _wait_for_size(files, origin, reader, least_size)
    walk = TreeWalk(files, hasher, stated.size, stated.root, reader.named(origin))
    binder = LedgerBinder(origin)
    for bundle in walk.bundles():
        _compare(binder, bundle, rows)
        on_progress(bundle.start + len(bundle.entries), stated.size)
    walk.finish()
    binder.finish(ends)
    return _checked(walk, binder, origin, stated.size, reader)


def _compare(binder: LedgerBinder, bundle: Bundle, rows: Rows) -> list[LoggedRun]:
    runs = binder.read(bundle)
    for run in runs:
        stored = rows.hashes(run.ledger_uid, run.start_seq, len(run.receipt_hashes))
        binder.compare(run, stored)
    return runs


def _stored_heads(anchor: AnchorRows, log: StoredLog, reader: _Checkpoints) -> Iterator[Head]:
    for row in anchor.heads(log.uid, log.size):
        name = f"stored checkpoint of tree size {row.size}"
        if row.note is not None:
            stated = reader.open_stored(row.note, log.origin, name)
            if (stated.size, stated.root) != (row.size, row.root):
                raise LogDamagedError(f"{name} does not say what its row does", check=CHECKPOINT)
        yield Head(row.size, row.root, name)


def _unpublished(files: LogFiles, log: StoredLog, size: int) -> Iterator[Bundle]:
    """Entries from a size on, out of full bundles as far as there are, then out of the database."""
    while size < log.size:
        if size >= log.tiled_size:
            yield Bundle(size, log.tail[size - log.tiled_size : log.size - log.tiled_size])
            return
        index, place = divmod(size, tiles.TILE_WIDTH)
        path = tiles.entries_path(index)
        data = files.read(path)
        try:
            entries = [] if data is None else tiles.decode_bundle(data)
        except InputError:
            entries = []
        if len(entries) != tiles.TILE_WIDTH:
            raise LogDamagedError(
                f"{path} is missing or cannot be read", check=BUNDLE, path=path, log_index=size
            )
        yield Bundle(size, entries[place:])
        size += len(entries) - place


def _wait_for_size(
    files: Files, origin: str, reader: _Checkpoints, least_size: int
) -> checkpoints.Checkpoint:
    deadline_s = time.monotonic() + _CATCH_UP_S
    while True:
        signed = files.read("checkpoint")
        found = None if signed is None else reader.open(signed, origin, "checkpoint")
        if found is not None and found.size >= least_size:
            return found
        if time.monotonic() > deadline_s:
            size = 0 if found is None else found.size
            raise CommandError(
                f"{files.where} shows a checkpoint of tree size {size}, but the ledgers count on "
                f"{least_size}",
                hint="is it the log of these services? Is the anchor publishing?",
            )
        time.sleep(0.2)


def _checked(
    walk: TreeWalk, binder: LedgerBinder, origin: str, published_size: int, reader: _Checkpoints
) -> Checked:
    return Checked(
        origin=origin,
        published_size=published_size,
        size=walk.entries_checked,
        ledgers=len(binder.ledgers),
        tiles=walk.tiles_checked,
        bundles=walk.bundles_checked,
        partials=walk.partials_checked,
        heads=walk.heads_checked,
        unvouched=reader.unvouched,
        signatures=reader.has_keys,
    )


class ServiceRows:
    """Rows as the ledger service lists them, each ledger in its order; a `Rows`."""

    def __init__(self, runner: asyncio.Runner, remote: Remote) -> None:
        self._runner = runner
        self._remote = remote
        self._names: dict[bytes, str] = {}
        self._lists: dict[bytes, AsyncIterator[ReceiptSummary]] = {}
        self._ready: dict[bytes, deque[bytes]] = {}

    def log(self, name: str) -> Any:
        """The log as the anchor service describes it; `logs/-` is its default one."""
        request = anchor_pb2.GetLogRequest(name=name)
        return self._runner.run(self._remote.call(self._remote.anchor.GetLog, request)).log

    def keys(self) -> KeySet:
        """The keys that the keys service publishes."""
        return KeySet.parse(self._runner.run(self._remote.client.jwks()))

    def ends(self, origin: str) -> list[tuple[bytes, int]]:
        """See `Rows`."""
        return self._runner.run(self._ends(origin))

    def hashes(self, ledger_uid: bytes, start_seq: int, count: int) -> Sequence[bytes | None]:
        """See `Rows`; asked for in order."""
        return self._runner.run(self._hashes(ledger_uid, count))

    async def _ends(self, origin: str) -> list[tuple[bytes, int]]:
        found = []
        stored, missing = await ledgers(self._remote)
        if missing is not None and not is_stale(missing):
            raise missing
        # What an older copy does not list is missed where the log has it.
        for ledger in stored:
            self._names[ledger.uid] = ledger.name
            if ledger.log_origin == origin:
                found.append((ledger.uid, ledger.logged_seq))
        return found

    async def _hashes(self, uid: bytes, count: int) -> list[bytes | None]:
        if uid not in self._names:
            # It may have been made since they were listed.
            await self._ends("")
        if uid not in self._names:
            return []
        ready = self._ready.setdefault(uid, deque())
        if uid not in self._lists:
            self._lists[uid] = self._remote.client.list_summaries(self._names[uid], page_size=_PAGE)
        while len(ready) < count:
            summary = await anext(self._lists[uid], None)
            if summary is None:
                break
            ready.append(summary.receipt_hash)
        return [ready.popleft() for _ in range(min(count, len(ready)))]
