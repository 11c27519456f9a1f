"""Recomputes a log from its entries on: every hash of every tile, and every head (RFC 9162 §2.1).

::

    entry bundle ──leaf hashes──> tile of level 0 ──root──> one hash of level 1 ──...──> root
         │                              compared                  compared            compared
         └──receipt hash──> the ledger's row                                      with every head

`TreeWalk` goes through the files of c2sp.org/tlog-tiles from the left, in constant memory: it keeps
the last tile of each level. Partial tiles that lie about, of sizes published earlier, are compared
too. `LedgerBinder` says which receipt each entry claims to be, and compares with what the ledger
has. What does not fit is raised as LogDamagedError, the first file or entry named; where a bundle
and the tile above it disagree, the tree above decides which of them is wrong.

Pure: files come by `LogFiles`, rows by whoever asks for them. Left to others: the signatures of
checkpoints (`provledger.verify`, `provledger.note`), and the other columns of the ledger's rows,
which `VerifyRange` binds to the receipt hash.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn, Protocol

from provledger import jcs, merkle, tiles
from provledger.entry import parse_entry, receipt_hash
from provledger.errors import InputError, LogDamagedError, TileError
from provledger.hashing import HASH_BYTES, Hasher
from provledger.proof import CompactRange

BUNDLE: Final = "entry_bundle"
TILE: Final = "hash_tile"
PARTIAL: Final = "partial_tile"
CHECKPOINT: Final = "checkpoint"
LEDGER_ROW: Final = "ledger_row"

_WIDTH: Final = tiles.TILE_WIDTH


class LogFiles(Protocol):
    """The files of one log, by their path below its prefix."""

    def read(self, path: str) -> bytes | None:
        """The whole file, None if there is none."""
        ...

    def partial_widths(self, path: str) -> Sequence[int]:
        """Widths of the partial files that lie beside a full one's path; may know of none."""
        ...


@dataclass(frozen=True, slots=True)
class Head:
    """A tree head that must come out. root: 32 bytes. name: what to call it when it does not."""

    size: int
    root: bytes
    name: str


@dataclass(frozen=True, slots=True)
class Bundle:
    """Entries that fit the tile above them, from log index `start` on."""

    start: int
    entries: Sequence[bytes]


class TreeWalk:
    """A walk over a log of `size` leaves whose root is `root`; `heads` come in order of size.

    Each bundle is yielded once it fits its tile, so that the caller may look at the entries before
    what is above them is compared.
    """

    def __init__(
        self,
        files: LogFiles,
        hasher: Hasher,
        size: int,
        root: bytes,
        heads: Iterable[Head] = (),
    ) -> None:
        self._files = files
        self._hasher = hasher
        self._size = size
        self._root = root
        self._heads = iter(heads)
        self._next_head = next(self._heads, None)
        # The last tile of each level so far, hashes computed here.
        self._levels: list[list[bytes]] = []
        self._range = CompactRange(hasher=hasher)
        self.tiles_checked = 0
        self.bundles_checked = 0
        self.partials_checked = 0
        self.heads_checked = 0

    @property
    def entries_checked(self) -> int:
        """How many entries are part of the tree so far."""
        return self._range.size

    @property
    def root(self) -> bytes:
        """The root of the tree so far, 32 bytes."""
        return self._range.root()

    def bundles(self) -> Iterator[Bundle]:
        """Walk over all files.

        Raises:
            LogDamagedError: for the first tile, bundle or head that does not fit.
        """
        for index in range(-(-self._size // _WIDTH)):
            width = min(_WIDTH, self._size - index * _WIDTH)
            entries = self._read_bundle(index, width)
            hashes = merkle.leaf_hashes(entries, self._hasher)
            self._compare_leaves(index, entries, hashes)
            self._compare_partials(0, index, hashes)
            self._compare_partial_bundles(index, entries)
            self.bundles_checked += 1
            yield Bundle(index * _WIDTH, entries)
            self._grow(hashes)
            if width == _WIDTH:
                self._add(1, merkle.root_of_hashes(hashes, self._hasher))
        for level, hashes in enumerate(self._levels):
            if level and hashes:
                self._compare_tile(level, self._size >> (8 * (level + 1)), hashes)
        if self._range.size == self._size and self._range.root() != self._root:
            _fail(
                f"the entries do not make the root of the checkpoint of tree size {self._size}",
                CHECKPOINT,
                "checkpoint",
            )

    def extend(self, entries: Sequence[bytes]) -> None:
        """Go on with entries that are in no published tile yet; only heads are compared.

        Raises:
            LogDamagedError: a head does not come out.
        """
        self._grow(merkle.leaf_hashes(entries, self._hasher))

    def finish(self) -> None:
        """Say that there are no more entries.

        Raises:
            LogDamagedError: a head covers more than there is.
        """
        head = self._next_head
        if head is not None:
            _fail(
                f"the {head.name} covers entries that are not there: they end at "
                f"{self._range.size}",
                CHECKPOINT,
                log_index=self._range.size,
            )

    # --- entries and leaf hashes

    def _read_bundle(self, index: int, width: int) -> list[bytes]:
        path = tiles.entries_path(index, width)
        data = self._files.read(path)
        if data is None and width < _WIDTH:
            # SPEC: partial tiles may go once the full tile is there, which readers fall back to.
            data = self._files.read(tiles.entries_path(index))
        if data is None:
            _fail("is missing", BUNDLE, path, index * _WIDTH)
        try:
            entries = tiles.decode_bundle(data)
        except TileError as error:
            _fail(f"cannot be read: {error}", BUNDLE, path, index * _WIDTH)
        if len(entries) < width:
            _fail("holds too few entries", BUNDLE, path, index * _WIDTH + len(entries))
        return entries[:width]

    def _compare_leaves(self, index: int, entries: list[bytes], hashes: list[bytes]) -> None:
        stored = self._read_tile(0, index, len(hashes))
        self.tiles_checked += 1
        if stored == hashes:
            return
        place = next(i for i, (a, b) in enumerate(zip(stored, hashes, strict=True)) if a != b)
        log_index = index * _WIDTH + place
        tile_path = tiles.tile_path(0, index, len(hashes))
        bundle_path = tiles.entries_path(index, len(hashes))
        by_entries, by_tile = self._fits_above(index, hashes), self._fits_above(index, stored)
        if by_entries and not by_tile:
            _fail(f"hash {place} is not that of entry {log_index}", TILE, tile_path, log_index)
        if by_tile and not by_entries:
            _fail(f"entry {log_index} is not the one logged", BUNDLE, bundle_path, log_index)
        _fail(
            f"entry {log_index} and {tile_path} do not fit each other, and the tree above fits "
            "neither",
            BUNDLE,
            bundle_path,
            log_index,
        )

    def _fits_above(self, index: int, hashes: Sequence[bytes]) -> bool:
        """Whether the tree above agrees with these hashes in the level 0 tile of that index."""
        if len(hashes) < _WIDTH:
            tree = self._range.copy()
            tree.extend(hashes)
            return tree.root() == self._root
        parent, place = divmod(index, _WIDTH)
        width = min(_WIDTH, self._size // _WIDTH - parent * _WIDTH)
        try:
            stored = self._read_tile(1, parent, width)
        except LogDamagedError:
            return False
        return stored[place] == merkle.root_of_hashes(hashes, self._hasher)

    # --- the tree

    def _grow(self, hashes: Sequence[bytes]) -> None:
        """Add leaves, and compare every head on the way."""
        done = 0
        while self._next_head is not None and self._next_head.size <= self._range.size + (
            len(hashes) - done
        ):
            head = self._next_head
            upto = done + head.size - self._range.size
            self._range.extend(hashes[done:upto])
            done = upto
            if self._range.root() != head.root:
                _fail(f"the entries do not make the root of the {head.name}", CHECKPOINT)
            self.heads_checked += 1
            self._next_head = next(self._heads, None)
        self._range.extend(hashes[done:])

    def _add(self, level: int, root: bytes) -> None:
        """One more hash of a level, compared when its tile is full."""
        while len(self._levels) <= level:
            self._levels.append([])
        hashes = self._levels[level]
        hashes.append(root)
        if len(hashes) == _WIDTH:
            below = self._range.size >> (8 * level)
            self._compare_tile(level, below // _WIDTH - 1, hashes)
            self._levels[level] = []
            self._add(level + 1, merkle.root_of_hashes(hashes, self._hasher))

    def _compare_tile(self, level: int, index: int, hashes: list[bytes]) -> None:
        stored = self._read_tile(level, index, len(hashes))
        self.tiles_checked += 1
        if stored != hashes:
            place = next(i for i, (a, b) in enumerate(zip(stored, hashes, strict=True)) if a != b)
            first = (index * _WIDTH + place) << (8 * level)
            _fail(
                f"hash {place} is not that of the {1 << (8 * level):,} entries from {first} on",
                TILE,
                tiles.tile_path(level, index, len(hashes)),
            )
        self._compare_partials(level, index, hashes)

    def _read_tile(self, level: int, index: int, width: int) -> list[bytes]:
        path = tiles.tile_path(level, index, width)
        data = self._files.read(path)
        if data is None and width < _WIDTH:
            full = self._files.read(tiles.tile_path(level, index))
            data = None if full is None else full[: width * HASH_BYTES]
        if data is None:
            _fail("is missing", TILE, path)
        try:
            return tiles.parse_tile(data, width)
        except TileError:
            _fail("is of a wrong length", TILE, path)

    # --- what lies about of sizes published earlier

    def _compare_partials(self, level: int, index: int, hashes: Sequence[bytes]) -> None:
        full = tiles.tile_path(level, index)
        for width in self._files.partial_widths(full):
            # Wider ones were published since the walk began.
            if width <= len(hashes):
                self._compare_file(tiles.tile_path(level, index, width), b"".join(hashes[:width]))

    def _compare_partial_bundles(self, index: int, entries: Sequence[bytes]) -> None:
        for width in self._files.partial_widths(tiles.entries_path(index)):
            if width <= len(entries):
                self._compare_file(
                    tiles.entries_path(index, width), tiles.encode_bundle(entries[:width])
                )

    def _compare_file(self, path: str, expected: bytes) -> None:
        data = self._files.read(path)
        if data is None:
            return  # the full one has taken its place meanwhile
        self.partials_checked += 1
        if data != expected:
            _fail("does not hold the beginning of its tile", PARTIAL, path)


@dataclass(frozen=True, slots=True)
class LoggedRun:
    """Entries of one ledger in one bundle: what they say they are.

    log_indices, receipt_hashes (32 bytes each): by seq, from `start_seq` on without a gap.
    """

    ledger_uid: bytes
    start_seq: int
    log_indices: Sequence[int]
    receipt_hashes: Sequence[bytes]


class LedgerBinder:
    """Binds the entries of a log to receipts; holds two values for each ledger."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._last: dict[bytes, tuple[int, bytes]] = {}

    @property
    def ledgers(self) -> Mapping[bytes, int]:
        """The last seq of each ledger so far."""
        return {uid: seq for uid, (seq, _) in self._last.items()}

    def read(self, bundle: Bundle) -> list[LoggedRun]:
        """What the entries of a bundle say they are; bundles come in order.

        Raises:
            LogDamagedError: an entry cannot be read, or does not follow the one before it.
        """
        found: dict[bytes, tuple[int, list[int], list[bytes]]] = {}
        for log_index, data in enumerate(bundle.entries, bundle.start):
            if log_index == 0:
                self._check_first(data)
                continue
            try:
                entry = parse_entry(data)
            except InputError as error:
                _fail(f"entry {log_index}: {error}", LEDGER_ROW, log_index=log_index)
            last_seq, last_hash = self._last.get(entry.ledger_uid, (-1, None))
            if entry.seq != last_seq + 1 or entry.prev != last_hash:
                _fail(
                    f"entry {log_index} is seq {entry.seq} of ledger {entry.ledger_uid.hex()}, "
                    f"which does not follow its seq {last_seq} in the log",
                    LEDGER_ROW,
                    log_index=log_index,
                )
            digest = receipt_hash(entry.suite, data)
            self._last[entry.ledger_uid] = (entry.seq, digest)
            _, indices, hashes = found.setdefault(entry.ledger_uid, (entry.seq, [], []))
            indices.append(log_index)
            hashes.append(digest)
        return [LoggedRun(uid, *rest) for uid, rest in found.items()]

    def compare(self, run: LoggedRun, stored: Sequence[bytes | None]) -> None:
        """Compare a run with the receipt hashes of the ledger's rows, None where there is no row.

        Raises:
            LogDamagedError: one is another, or is missing.
        """
        for place, expected in enumerate(run.receipt_hashes):
            found = stored[place] if place < len(stored) else None
            if found != expected:
                what = "has no receipt" if found is None else "has another receipt"
                log_index = run.log_indices[place]
                _fail(
                    f"entry {log_index} is logged, but ledger {run.ledger_uid.hex()} {what} "
                    f"{run.start_seq + place}",
                    LEDGER_ROW,
                    log_index=log_index,
                )

    def finish(self, ledgers: Iterable[tuple[bytes, int]]) -> None:
        """Check that all is there: `ledgers` says how far each counts as logged (uid, seq).

        Raises:
            LogDamagedError: a row counts as logged, and is not in the log.
        """
        for uid, seq in ledgers:
            last_seq = self._last.get(uid, (-1, b""))[0]
            if last_seq < seq:
                _fail(
                    f"ledger {uid.hex()} counts receipts up to {seq} as logged, but the log holds "
                    f"them up to {last_seq} only",
                    LEDGER_ROW,
                )

    def _check_first(self, data: bytes) -> None:
        try:
            value = jcs.parse(data)
        except InputError:
            value = None
        said = value.get("log") if isinstance(value, dict) else None
        if not isinstance(said, dict) or said.get("origin") != self._origin:
            _fail("entry 0 is not the one that opens this log", LEDGER_ROW, log_index=0)


def _fail(message: str, check: str, path: str = "", log_index: int | None = None) -> NoReturn:
    text = f"{path} {message}" if path else message
    raise LogDamagedError(text, check=check, path=path, log_index=log_index)
