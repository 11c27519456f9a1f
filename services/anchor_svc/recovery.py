"""Creating a log, and rebuilding the edge of its tree from what is stored.

The edge is what a crash, a restart or a doubtful write leaves to be found out again:

1. full tiles up to `tiled_size` give the roots in the last tile of each level above the lowest;
2. entries stored from there on give the leaf hashes of the lowest level, and whatever they fill;
3. the root of all that must be the stored root of the log and of its newest head, or we refuse to
   go on (DATA_LOSS), naming the tile or entry that does not fit if it can be found;
4. what the rows of ledgers say that they have in the log must be as much as it holds. Where rows
   were cut or are gone, a ledger would be given a second history, or heads that deny its end.

A head that is only intended is signed afterwards by `committer`, for the size and root found here.

A database may go back under a process that goes on (a standby that lagged takes over). What this
process has released is what it holds the database against then: `check_released`.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from typing import Final

from anchor_svc.checkpointing import first_entry, make_origin
from anchor_svc.proofs import View, disagrees_below, tile_root
from anchor_svc.storage import DEFAULT_ALIAS, CheckpointRow, LogRow, Storage
from anchor_svc.tilestore import TileStore
from anchor_svc.tree import EMPTY, TILE_WIDTH, Edge, Growth
from provledger import checkpoint as checkpoints
from provledger import merkle, note, tiles
from provledger.errors import DataLossError, NoteError
from provledger.hashing import Hasher, suite

LOG_UID_BYTES: Final = 16
BEHIND: Final = frozenset({"DATABASE_BEHIND", "HISTORY_CHANGED"})
"""Reasons that say that the database is not the one which belongs to what was signed."""
_MAX_DIGITS: Final = len(str(checkpoints.MAX_TREE_SIZE))


class BehindPublishedError(DataLossError):
    """DATABASE_BEHIND, by what was published. `published` is that file as it is, not verified."""

    published: bytes = b""


class _WrongRootError(DataLossError):
    """ROOT_MISMATCH, of a tree with this edge; why is not looked for yet."""

    def __init__(self, edge: Edge) -> None:
        super().__init__("ROOT_MISMATCH", "the stored tree does not have its stored root")
        self.edge = edge


@dataclass(frozen=True, slots=True)
class Stored:
    """A log as it was found.

    edge: of the tree with all stored entries. growth: what these completed since `tiled_size`;
    perhaps on disk already, perhaps not. newest: the head of that tree. signed: the newest signed
    one, None if there is none yet.
    """

    log: LogRow
    edge: Edge
    growth: Growth
    newest: CheckpointRow
    signed: CheckpointRow | None


@dataclass(frozen=True, slots=True)
class Tiled:
    """The edge of what was in full tiles, as far as the log's `tiled_size` was then."""

    size: int
    edge: Edge


async def create_log(
    storage: Storage,
    *,
    origin_prefix: str,
    suite_name: str,
    keys: list[tuple[str, bytes]],
    now_ns: int,
    log_uid: bytes | None = None,
    alias: str = DEFAULT_ALIAS,
) -> LogRow:
    """Create a log, by its alias: its uid is random, its leaf 0 says what it is.

    Returns the log there is, if another process was first. Raises ConfigError for the prefix.
    """
    uid = secrets.token_bytes(LOG_UID_BYTES) if log_uid is None else log_uid
    origin = make_origin(origin_prefix, uid)
    entry = first_entry(uid, origin, suite_name, keys)
    log = LogRow(
        log_uid=uid,
        origin=origin,
        suite=suite_name,
        size=1,
        root=merkle.leaf_hash(entry, suite(suite_name).tree),
        tiled_size=0,
        writer_epoch=0,
        created_at_ns=now_ns,
        alias=alias,
    )
    return await storage.create_log(log, entry)


async def look(storage: Storage, store: TileStore, log_uid: bytes) -> Tiled:
    """Find out whether a log can be opened, before it is taken from whoever writes to it now.

    Full tiles stay what they are. All else may be of two moments while somebody writes, and then
    says nothing: `load` is called again once nobody else does. Nor is it looked into then, which
    would read a good part of all tiles.

    Raises:
        DataLossError: what is stored does not fit together.
    """
    log = await storage.log(log_uid)
    edge = await asyncio.to_thread(_tiled_edge, store, log.tiled_size, suite(log.suite).tree)
    tiled = Tiled(log.tiled_size, edge)
    try:
        await _rebuild(storage, store, log, tiled)
    except DataLossError as error:
        if await storage.log(log_uid) == log:
            raise await _diagnosed(error, store, log) from None
    return tiled


async def load(
    storage: Storage, store: TileStore, log: LogRow, tiled: Tiled | None = None
) -> Stored:
    """Rebuild the edge of a log; reads at most 255 tiles of each level, none if `tiled` is it.

    Raises:
        DataLossError: what is stored does not fit together.
    """
    try:
        return await _rebuild(storage, store, log, tiled)
    except DataLossError as error:
        raise await _diagnosed(error, store, log) from None


async def _rebuild(
    storage: Storage, store: TileStore, log: LogRow, tiled: Tiled | None = None
) -> Stored:
    """As `load`; what is behind a wrong root is for `_diagnosed` to say."""
    hasher = suite(log.suite).tree
    # Before what the database says: that has what is published, and may get more meanwhile.
    published = await asyncio.to_thread(store.read_checkpoint)
    pieces = await storage.pieces(log.log_uid, log.tiled_size)
    if tiled is not None and tiled.size == log.tiled_size:
        edge = tiled.edge
    else:
        edge = await asyncio.to_thread(_tiled_edge, store, log.tiled_size, hasher)
    entries: list[bytes] = []
    for piece in pieces:
        if piece.start_index != log.tiled_size + len(entries):
            raise _missing_entry(log.tiled_size + len(entries))
        entries += piece.entries
    if log.tiled_size + len(entries) < log.size:
        raise _missing_entry(log.tiled_size + len(entries))
    edge, growth = edge.extend(merkle.leaf_hashes(entries, hasher), entries, hasher)
    newest = await storage.newest_checkpoint(log.log_uid)
    signed = await storage.newest_signed(log.log_uid)
    if edge.size != log.size or edge.root(hasher) != log.root:
        raise _WrongRootError(edge)
    if newest is None or (newest.size, newest.root) != (log.size, log.root):
        raise DataLossError(
            "CHECKPOINT_LOST", f"the head of tree size {log.size} is not among the checkpoints"
        )
    if signed is not None:
        check_note(log.origin, signed)
    await _check_published(storage, published, log, signed)
    await _check_ledgers(storage, log)
    return Stored(log, edge, growth, newest, signed)


def check_released(log: LogRow | None, released: View | None) -> None:
    """Check that the database still has what this process has released of a log.

    log: its row, read after `released` was taken; None if it is gone. A log only grows, so an
    older database has a smaller one.

    Raises:
        DataLossError: DATABASE_BEHIND, the log is smaller than the released head; HISTORY_CHANGED,
            as large, with another root.
    """
    if released is None:
        return
    stored_size = 0 if log is None else log.size
    if log is None or stored_size < released.size:
        raise _forgotten(released.size, stored_size)
    if stored_size == released.size and log.root != released.root:
        raise _changed(released.size, stored_size)


async def check_released_head(storage: Storage, log_uid: bytes, released: View | None) -> None:
    """As `check_released`, by the head itself: also where the log has grown beyond it since.

    Raises:
        DataLossError: DATABASE_BEHIND, it is not among the signed ones; HISTORY_CHANGED, it has
            another root there.
    """
    if released is None:
        return
    head = await storage.checkpoint(log_uid, released.size)
    if head is not None and head.root != released.root:
        raise _changed(released.size, released.size)
    if head is None or head.note is None:
        signed = await storage.newest_signed(log_uid)
        raise _forgotten(released.size, 0 if signed is None else signed.size)


def check_note(origin: str, row: CheckpointRow) -> None:
    """Check that a stored note states what its row does; its signature is for others to verify.

    Raises:
        DataLossError: it states another head, or cannot be read.
    """
    try:
        stated = checkpoints.parse(note.parse(row.note or b"").text)
    except NoteError:
        stated = None
    if stated is None or (stated.origin, stated.size, stated.root) != (origin, row.size, row.root):
        raise DataLossError(
            "CHECKPOINT_DAMAGED",
            f"the stored checkpoint of tree size {row.size} does not say what it should",
            metadata={"treeSize": str(row.size)},
        )


def checkpoint_lost(size: int) -> DataLossError:
    """The error for a signed checkpoint that was there, as what is left of it shows."""
    return DataLossError(
        "CHECKPOINT_LOST",
        f"the checkpoint of tree size {size} was published, and its row or its note is gone from "
        "the database; restore the database",
        metadata={"treeSize": str(size)},
    )


def _tiled_edge(store: TileStore, size: int, hasher: Hasher) -> Edge:
    """The edge of a tree of `size` leaves, a multiple of 256, all of them in full tiles."""
    if size % TILE_WIDTH:
        raise DataLossError("LOG_ROW_CHANGED", "the stored tiled size does not end with a tile")
    levels: list[tuple[bytes, ...]] = []
    level, below = 0, size
    while below:
        full, width = divmod(below, TILE_WIDTH)
        # Hashes of this level's last tile are roots of full tiles one level down.
        first = full * TILE_WIDTH
        levels.append(
            tuple(
                tile_root(store.read_tile(level - 1, index), hasher)
                for index in range(first, first + width)
            )
        )
        level, below = level + 1, full
    return Edge(size, tuple(levels), ()) if levels else EMPTY


async def _diagnosed(error: DataLossError, store: TileStore, log: LogRow) -> DataLossError:
    """The error to raise: the same one, or for a wrong root why it is wrong."""
    if not isinstance(error, _WrongRootError):
        return error
    hasher = suite(log.suite).tree
    return await asyncio.to_thread(_wrong_root, store, log, error.edge, hasher)


def _wrong_root(store: TileStore, log: LogRow, edge: Edge, hasher: Hasher) -> DataLossError:
    """The error for a root that is not the stored one, with whatever can be said about why."""
    level, below = 0, log.tiled_size
    while below >= TILE_WIDTH:
        below //= TILE_WIDTH
        for index in range(below - below % TILE_WIDTH, below):
            if disagrees_below(store, level, index, hasher):
                path = tiles.tile_path(level, index)
                return _root_error(f"{path} does not fit what is below it", {"tile": path})
        level += 1
    published = store.read_checkpoint()
    odd = None if published is None else _odd_entry(store, published, edge)
    if odd is not None:
        return _root_error(
            f"the stored entry {odd} is not the published one", {"logIndex": str(odd)}
        )
    return _root_error(
        f"look at the stored entries from log index {log.tiled_size} on, and at the stored root",
        {"logIndex": str(log.tiled_size)},
    )


def _odd_entry(store: TileStore, published: bytes, edge: Edge) -> int | None:
    """An index whose stored entry differs from the partial tile of the last published size."""
    try:
        size = checkpoints.parse(note.parse(published).text).size
    except NoteError:
        return None
    index, width = divmod(size, TILE_WIDTH)
    if not width or index != edge.size // TILE_WIDTH:
        return None
    stored = edge.levels[0]
    for place, leaf_hash in enumerate(store.read_partial(0, index, width) or ()):
        if place >= len(stored) or stored[place] != leaf_hash:
            return index * TILE_WIDTH + place
    return None


async def _check_published(
    storage: Storage, published: bytes | None, log: LogRow, signed: CheckpointRow | None
) -> None:
    """Compare with the published checkpoint: a database from an older backup has forgotten it.

    One that is missing or cannot be read is written anew by the publisher. What it still says of
    its size counts: there was one of that size.
    """
    if published is None:
        return
    newest = 0 if signed is None else signed.size
    try:
        stated = checkpoints.parse(note.parse(published).text)
    except NoteError:
        if (size := _legible_size(published, log.origin)) > newest:
            raise _database_behind(size, newest, published) from None
        return
    if stated.size > newest:
        raise _database_behind(stated.size, newest, published)
    row = await storage.checkpoint(log.log_uid, stated.size)
    if row is None or (log.origin, row.root) != (stated.origin, stated.root):
        raise DataLossError(
            "HISTORY_CHANGED",
            f"the checkpoint of tree size {stated.size} that was published is not among those in "
            "the database: this is another history of the log, and nothing more is signed in it",
            metadata=_sizes(stated.size, newest),
        )


async def _check_ledgers(storage: Storage, log: LogRow) -> None:
    """Check that the ledgers' rows account for every leaf: all but the first are theirs.

    An aggregate over all of them, so only when a log is opened or read anew; a row by itself is
    compared with its entry when it is used (`admission.check_state`).
    """
    size, entries = await storage.leaf_counts(log.log_uid)
    if entries != size - 1:
        raise DataLossError(
            "LEDGER_ROWS_DAMAGED",
            f"the log holds {size - 1} entries of ledgers, and the rows in `ledgers` say "
            f"{entries}: rows were changed or are gone. Nothing is signed, so that no ledger is "
            "cut or gets a second history; restore the database, or those rows "
            "(docs/runbooks/damaged-log.md)",
            metadata={"logEntries": str(size - 1), "ledgerEntries": str(entries)},
        )


def _legible_size(published: bytes, origin: str) -> int:
    """The tree size in a checkpoint that cannot be read as a whole; 0 if there is none."""
    first, _, rest = published.partition(b"\n")
    size, end, _ = rest.partition(b"\n")
    legible = first == origin.encode() and end and size.isdigit() and len(size) <= _MAX_DIGITS
    return int(size) if legible and int(size) <= checkpoints.MAX_TREE_SIZE else 0


def _database_behind(
    published_size: int, stored_size: int, published: bytes
) -> BehindPublishedError:
    error = BehindPublishedError(
        "DATABASE_BEHIND",
        f"a checkpoint of tree size {published_size} was published, but the database knows of "
        f"{stored_size} only: it is older than the data directory. Nothing is signed, so that "
        "no second history begins; restore the newer database",
        metadata=_sizes(published_size, stored_size),
    )
    error.published = published
    return error


def _forgotten(released_size: int, stored_size: int) -> DataLossError:
    return DataLossError(
        "DATABASE_BEHIND",
        f"the database has forgotten the checkpoint of tree size {released_size}, which was "
        f"released, and knows of {stored_size} only: it is older than this process. Nothing more "
        "is signed, and no ledger is told how far it is; restore the newer database",
        metadata={"releasedSize": str(released_size), "storedSize": str(stored_size)},
    )


def _changed(released_size: int, stored_size: int) -> DataLossError:
    return DataLossError(
        "HISTORY_CHANGED",
        f"the database has another root of tree size {released_size} than the checkpoint that was "
        "released: this is another history of the log, and nothing more is signed in it",
        metadata={"releasedSize": str(released_size), "storedSize": str(stored_size)},
    )


def _sizes(published_size: int, stored_size: int) -> dict[str, str]:
    return {"publishedSize": str(published_size), "storedSize": str(stored_size)}


def _root_error(hint: str, metadata: dict[str, str]) -> DataLossError:
    return DataLossError(
        "ROOT_MISMATCH", f"the stored tree does not have its stored root: {hint}", metadata=metadata
    )


def _missing_entry(index: int) -> DataLossError:
    return DataLossError(
        "ENTRIES_LOST",
        f"the entry at log index {index} is neither in a tile nor in the database",
        metadata={"logIndex": str(index)},
    )
