"""The writes of a flush as one statement each, for PostgreSQL.

A flush is answered when its entries and its signed head are durable, and each round trip to the
server counts. A statement of its own is a transaction of its own: it needs no BEGIN and no COMMIT.

Several are on their way at once. Each begins by locking the log's row, if it is still ours: so they
run one after the other, and see the size that the one before left. (A plain UPDATE that asks for
the size looks at the row as of its own beginning, and would not wait for the other.) All the rest
hangs on that, so that nothing happens where the lock finds another epoch, or a size that none of a
statement's flushes follows upon. Of those it brings along, it stores what lies beyond that size.

Arrays travel in binary (`%b`): as text, psycopg writes them in Python, 18 µs for each kilobyte. One
of nothing but None, as `forks` mostly is, has no type in binary and is text in any case.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

from sqlalchemy.engine import Connection

from anchor_svc.storage import Flush, Signed
from provledger import tiles

_HELD: Final = """held AS (
  SELECT log_uid, size FROM logs
  WHERE log_uid = %(log_uid)s AND writer_epoch = %(epoch)s
  FOR NO KEY UPDATE
)"""

_GROWN: Final = """grown AS (
  UPDATE logs SET size = %(size)s, root = %(root)s{tiled}
  FROM held WHERE logs.log_uid = held.log_uid AND held.size {follows}
  RETURNING logs.log_uid, held.size AS old_size
)"""

_TILED: Final = "tiled_size = greatest(tiled_size, %(tiled_size)s)"

_SET_TILED: Final = """tiled AS (
  UPDATE logs SET tiled_size = greatest(tiled_size, %(tiled_size)s)
  FROM held WHERE logs.log_uid = held.log_uid
  RETURNING logs.log_uid
)"""

_ENTRIES: Final = """added_entries AS (
  INSERT INTO entries (log_uid, start_index, bundle)
  SELECT grown.log_uid, piece.start_index, piece.bundle
  FROM grown, unnest(%(start_indices)b::bigint[], %(bundles)b::bytea[])
    AS piece (start_index, bundle)
  WHERE piece.start_index >= grown.old_size
)"""

_INTENDED: Final = """intended AS (
  INSERT INTO checkpoints (log_uid, size, root, intended_at_ns)
  SELECT grown.log_uid, head.size, head.root, head.now_ns
  FROM grown, unnest(%(sizes)b::bigint[], %(roots)b::bytea[], %(times_ns)b::bigint[])
    AS head (size, root, now_ns)
  WHERE head.size > grown.old_size
)"""

# The same for a flush that brings no earlier ones: an array costs as much as ten plain values.
_INTENDED_ALONE: Final = """intended AS (
  INSERT INTO checkpoints (log_uid, size, root, intended_at_ns)
  SELECT log_uid, %(size)s, %(root)s, %(now_ns)s FROM grown
)"""

_RUNS: Final = """begun_runs AS (
  INSERT INTO runs (log_uid, ledger_uid, start_seq, start_index)
  SELECT grown.log_uid, run.ledger_uid, run.start_seq, run.start_index
  FROM grown, unnest(%(run_ledgers)b::bytea[], %(run_seqs)b::bigint[], %(run_indices)b::bigint[])
    AS run (ledger_uid, start_seq, start_index)
  WHERE run.start_index >= grown.old_size
)"""

_LEDGERS: Final = """moved_ledgers AS (
  INSERT INTO ledgers
    (log_uid, ledger_uid, suite, seq, receipt_hash, log_index, run_start_seq, forked_seq)
  SELECT grown.log_uid, ledger.* FROM grown, unnest(
      %(uids)b::bytea[], %(suites)b::text[], %(seqs)b::bigint[], %(receipt_hashes)b::bytea[],
      %(log_indices)b::bigint[], %(run_starts)b::bigint[], %(forks)s::bigint[]
    ) AS ledger (ledger_uid, suite, seq, receipt_hash, log_index, run_start_seq, forked_seq)
  ON CONFLICT (log_uid, ledger_uid) DO UPDATE SET
    seq = excluded.seq, receipt_hash = excluded.receipt_hash, log_index = excluded.log_index,
    run_start_seq = excluded.run_start_seq, forked_seq = excluded.forked_seq
)"""

# SPEC: released is only the first signature stored for a size (design §4, "Log").
_NOTES: Final = """stored AS (
  UPDATE checkpoints SET note = signed.note
  FROM {source}, unnest(%(note_sizes)b::bigint[], %(notes)b::bytea[]) AS signed (size, note)
  WHERE checkpoints.log_uid = {source}.log_uid AND checkpoints.size = signed.size
    AND checkpoints.note IS NULL
  RETURNING checkpoints.size
)"""

_ONE_NOTE: Final = """stored AS (
  UPDATE checkpoints SET note = %(note)s FROM {source}
  WHERE checkpoints.log_uid = {source}.log_uid AND checkpoints.size = %(note_size)s
    AND checkpoints.note IS NULL
  RETURNING checkpoints.size
)"""

# What a statement reads, it reads as of before itself: `logs.tiled_size` is an old one. From there
# on, so that it does not look at what was dropped long ago.
_DROPPED: Final = """dropped AS (
  DELETE FROM entries USING {source}
  WHERE entries.log_uid = {source}.log_uid AND start_index < %(tiled_size)s
    AND start_index >= (SELECT tiled_size FROM logs WHERE log_uid = %(log_uid)s)
)"""

_PUBLISHED: Final = """published AS (
  UPDATE checkpoints SET published_at_ns = %(now_ns)s FROM held
  WHERE checkpoints.log_uid = held.log_uid AND checkpoints.size = %(at_size)s
    AND note IS NOT NULL AND published_at_ns IS NULL
)"""


@cache
def _commit_text(
    *, alone: bool, grows: bool, runs: bool, ledgers: bool, notes: int, tiled: bool
) -> str:
    """The statement that stores a flush; what has nothing to do is left out, and costs nothing."""
    follows = "= %(old_size)s" if alone else "= ANY(%(old_sizes)b::bigint[])"
    parts = [_HELD, _GROWN.format(tiled=f", {_TILED}" if tiled else "", follows=follows)]
    parts += [_ENTRIES, _INTENDED_ALONE if alone else _INTENDED] if grows else []
    parts += [_RUNS] if runs else []
    parts += [_LEDGERS] if ledgers else []
    parts += [(_NOTES if notes > 1 else _ONE_NOTE).format(source="grown")] if notes else []
    parts += [_DROPPED.format(source="grown")] if tiled else []
    return _select(parts, "grown", *(["stored"] if notes else []))


@cache
def _notes_text(*, notes: int, tiled: bool) -> str:
    parts = [_HELD, (_NOTES if notes > 1 else _ONE_NOTE).format(source="held")]
    parts += [_SET_TILED, _DROPPED.format(source="held")] if tiled else []
    return _select(parts, "held", "stored")


def _select(parts: Sequence[str], *counted: str) -> str:
    """A statement of parts that follow one another, and how many rows some of them had."""
    counts = ", ".join(f"(SELECT count(*) FROM {name})" for name in counted)  # noqa: S608 - ours
    return f"WITH {', '.join(parts)} SELECT {counts}"


def commit(
    connection: Connection, log_uid: bytes, epoch: int, flush: Flush, signed: Signed
) -> int | None:
    """Store a flush and notes; how many of these were the first, None if nothing was stored.

    That is where the fence did not hold, or the log did not have the flush's old size.
    """
    flushes = (*flush.earlier, flush)
    values: dict[str, Any] = {
        "log_uid": log_uid,
        "epoch": epoch,
        "size": flush.size,
        "root": flush.root,
        **_note_values(signed),
    }
    if flush.earlier:
        values |= {
            "old_sizes": [each.old_size for each in flushes],
            "sizes": [each.size for each in flushes],
            "roots": [each.root for each in flushes],
            "times_ns": [each.now_ns for each in flushes],
        }
    else:
        values |= {"old_size": flush.old_size, "now_ns": flush.now_ns}
    grows = flush.size > flush.old_size
    if grows:
        pieces = [piece for each in flushes for piece in each.pieces]
        values |= {
            "start_indices": [piece.start_index for piece in pieces],
            "bundles": [tiles.encode_bundle(piece.entries) for piece in pieces],
        }
    runs = [run for each in flushes for run in each.runs]
    if runs:
        values["run_ledgers"] = [run.ledger_uid for run in runs]
        values["run_seqs"] = [run.start_seq for run in runs]
        values["run_indices"] = [run.start_index for run in runs]
    ledgers = {state.ledger_uid: state for each in flushes for state in each.ledgers}
    if ledgers:
        states = ledgers.values()
        values |= {
            "uids": [state.ledger_uid for state in states],
            "suites": [state.suite for state in states],
            "seqs": [state.seq for state in states],
            "receipt_hashes": [state.receipt_hash for state in states],
            "log_indices": [state.log_index for state in states],
            "run_starts": [state.run_start_seq for state in states],
            "forks": [state.forked_seq for state in states],
        }
    text = _commit_text(
        alone=not flush.earlier,
        grows=grows,
        runs=bool(runs),
        ledgers=bool(ledgers),
        notes=min(len(signed.notes), 2),
        tiled=bool(signed.tiled_size),
    )
    grown, *stored = connection.exec_driver_sql(text, values).one()
    return sum(stored) if grown == 1 else None


def store_notes(connection: Connection, log_uid: bytes, epoch: int, signed: Signed) -> int | None:
    """Store notes of intended heads; how many were the first, None if the fence did not hold."""
    values = {"log_uid": log_uid, "epoch": epoch, **_note_values(signed)}
    text = _notes_text(notes=min(len(signed.notes), 2), tiled=bool(signed.tiled_size))
    held, stored = connection.exec_driver_sql(text, values).one()
    return int(stored) if held == 1 else None


def mark_published(
    connection: Connection, log_uid: bytes, epoch: int, size: int, now_ns: int
) -> bool:
    """Record that a signed head is served; whether the fence held."""
    values = {"log_uid": log_uid, "epoch": epoch, "at_size": size, "now_ns": now_ns}
    text = _select([_HELD, _PUBLISHED], "held")
    return bool(connection.exec_driver_sql(text, values).scalar_one() == 1)


def _note_values(signed: Signed) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if len(signed.notes) == 1:
        ((values["note_size"], values["note"]),) = signed.notes.items()
    elif signed.notes:
        values |= {"note_sizes": [*signed.notes], "notes": [*signed.notes.values()]}
    if signed.tiled_size:
        values["tiled_size"] = signed.tiled_size
    return values
