"""Where each ledger is, as the anchor's rows say it, against the entries of a log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from provledger.errors import LogDamagedError
from provledger.fsck import LoggedRun
from provledger_cli.tlog.places import Place, PlaceBinder

A, B = b"a" * 16, b"b" * 16

# By log index, from 1 on: a0 a1 b0 a2 | a3 b1, in two bundles.
LOGGED = (
    LoggedRun(A, 0, [1, 2, 4], [b"a0", b"a1", b"a2"]),
    LoggedRun(B, 0, [3], [b"b0"]),
    LoggedRun(A, 3, [5], [b"a3"]),
    LoggedRun(B, 1, [6], [b"b1"]),
)
RUNS = {A: {0: 1, 2: 4}, B: {0: 3, 1: 6}}
PLACES = {A: Place("blake3", 3, b"a3", 5, 2), B: Place("fips", 1, b"b1", 6, 1)}

Runs = dict[bytes, dict[int, int]]
Places = dict[bytes, Place]


def check(runs: Runs, places: Places) -> None:
    binder = PlaceBinder()
    for run in LOGGED:
        seqs = range(run.start_seq, run.start_seq + len(run.log_indices))
        stored = [(seq, index) for seq, index in runs[run.ledger_uid].items() if seq in seqs]
        binder.compare(run, "blake3" if run.ledger_uid == A else "fips", stored)
    binder.finish(places, sum(map(len, runs.values())))


def test_rows_that_are_of_the_entries_hold() -> None:
    check(RUNS, PLACES)
    # Cut finer than need be, they lead to the same places.
    finer = {**RUNS, A: {0: 1, 1: 2, 2: 4, 3: 5}}
    check(finer, {**PLACES, A: replace(PLACES[A], run_start_seq=3)})
    # A ledger that the log was asked for, and has nothing of.
    check(RUNS, {**PLACES, b"c": Place("fips", -1, b"", -1, 0)})


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda runs, places: runs[A].pop(0), "entry 1 is not where runs has it"),
        (lambda runs, places: runs[A].pop(2), "entry 4 is not where runs has it"),
        (lambda runs, places: runs[B].update({1: 5}), "entry 6 is not where runs has it"),
        (lambda runs, places: runs[B].update({7: 9}), "has 5 rows"),
        (lambda runs, places: places.pop(B), "seq 1 of ledger 62"),
        (lambda runs, places: places.update({b"c": places[B]}), "the log does not have: seq 1"),
        *(
            (
                lambda runs, places, column=column, value=value: places.update(
                    {A: replace(places[A], **{column: value})}
                ),
                "ledgers does not end where the log does: seq 3 of ledger 61",
            )
            for column, value in (
                ("suite", "fips"),
                ("seq", 2),
                ("receipt_hash", b"a2"),
                ("log_index", 4),
                ("run_start_seq", 0),
            )
        ),
    ],
)
def test_rows_that_are_not_are_found(change: Callable[[Runs, Places], object], match: str) -> None:
    runs, places = {uid: dict(each) for uid, each in RUNS.items()}, dict(PLACES)
    change(runs, places)
    with pytest.raises(LogDamagedError, match=match):
        check(runs, places)
