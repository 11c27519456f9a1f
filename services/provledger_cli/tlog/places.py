"""What the databases say of ledgers beside their receipts, held against the entries of a log.

    anchor's `ledgers`    where each ledger ends, which heads are signed by
    anchor's `runs`       where its entries are
    ledger's `ledgers`    what its genesis, the entry of seq 0, says: its name, and this log

Pure. A few numbers and a hash are held for each ledger, whatever there is of entries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from provledger.entry import Entry
from provledger.errors import InputError, LogDamagedError
from provledger.fsck import LEDGER_ROW, LoggedRun
from provledger.statement import parse_statement
from provledger.witness_batch import statement_leaf_hash

ANCHOR_ROW: Final = "anchor_row"


@dataclass(frozen=True, slots=True)
class Place:
    """The last entry of a ledger, as a row of the anchor's `ledgers`. receipt_hash: 32 bytes."""

    suite: str
    seq: int
    receipt_hash: bytes
    log_index: int
    run_start_seq: int


@dataclass(frozen=True, slots=True)
class Named:
    """A ledger's own row, and the statement of its genesis; empty where that is gone."""

    name: str
    log_origin: str
    statement: bytes


def check_named(ledger_uid: bytes, named: Named | None, genesis: Entry, origin: str) -> None:
    """Check that a ledger has the name that its genesis states, and is in this log.

    genesis: its entry of seq 0, in the log of that origin.

    Raises:
        LogDamagedError: it has another one, or nobody can tell.
    """
    ledger = f"ledger {ledger_uid.hex()}"
    if named is None or statement_leaf_hash(genesis.suite, named.statement) != genesis.statement:
        raise LogDamagedError(f"{ledger} has another genesis than was logged", check=LEDGER_ROW)
    try:
        stated = parse_statement(named.statement).ledger
    except InputError as error:
        raise LogDamagedError(f"{ledger}: its genesis: {error}", check=LEDGER_ROW) from error
    if named.name != stated:
        raise LogDamagedError(
            f"{ledger} is called {named.name}, but its genesis states {stated}", check=LEDGER_ROW
        )
    if named.log_origin != origin:
        raise LogDamagedError(
            f"{ledger} is in this log, but is said to be in {named.log_origin}", check=LEDGER_ROW
        )


class PlaceBinder:
    """Follows where each ledger is in a log, and compares with the anchor's rows."""

    def __init__(self) -> None:
        # By ledger: its last entry, and the log index of where that one's run began.
        self._last: dict[bytes, tuple[Place, int]] = {}
        self._runs = 0

    def compare(self, run: LoggedRun, suite: str, stored: Sequence[tuple[int, int]]) -> None:
        """Compare entries with the rows of `runs` (start seq, start index) that begin among them.

        suite: of the last of them.

        Raises:
            LogDamagedError: by the rows, one of them is somewhere else.
        """
        starts = dict(stored)
        last = self._last.get(run.ledger_uid)
        # Before its first run, no entry fits: index 0 is the log's own.
        begun = (0, -1) if last is None else (last[0].run_start_seq, last[1])
        for seq, log_index in enumerate(run.log_indices, run.start_seq):
            if seq in starts:
                begun = (seq, starts.pop(seq))
                self._runs += 1
            if begun[1] + seq - begun[0] != log_index:
                _fail(f"entry {log_index} is not where runs has it:", run.ledger_uid, seq)
        last_seq = run.start_seq + len(run.log_indices) - 1
        place = Place(suite, last_seq, run.receipt_hashes[-1], run.log_indices[-1], begun[0])
        self._last[run.ledger_uid] = (place, begun[1])

    def finish(self, ledgers: Mapping[bytes, Place], runs: int) -> None:
        """Say that there are no more entries. ledgers: all rows of the log; runs: how many it has.

        Raises:
            LogDamagedError: a ledger ends elsewhere than its row says, or rows are of no entry.
        """
        for uid, (place, _) in self._last.items():
            if ledgers.get(uid) != place:
                _fail("ledgers does not end where the log does:", uid, place.seq)
        for uid, stored in ledgers.items():
            if uid not in self._last and stored.seq >= 0:
                _fail("ledgers names an entry that the log does not have:", uid, stored.seq)
        if runs != self._runs:
            raise LogDamagedError(
                f"the anchor's runs has {runs} rows of this log, but its entries make {self._runs}",
                check=ANCHOR_ROW,
            )


def _fail(what: str, ledger_uid: bytes, seq: int) -> NoReturn:
    raise LogDamagedError(
        f"the anchor's rows are not what was logged: {what} seq {seq} of ledger {ledger_uid.hex()}",
        check=ANCHOR_ROW,
    )
