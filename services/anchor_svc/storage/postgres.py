"""The two writes of a flush as one statement each, for PostgreSQL.

A flush is answered when both are durable, and each round trip to the server counts. A statement of
its own is a transaction of its own: it needs no BEGIN and no COMMIT. Every part of it hangs on the
row that the fence updated, so that nothing happens where the fence finds another epoch or size.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy.engine import Connection

from anchor_svc.storage import Flush
from provledger import tiles

_COMMIT: Final = """
WITH grown AS (
  UPDATE logs SET size = %(size)s, root = %(root)s
  WHERE log_uid = %(log_uid)s AND writer_epoch = %(epoch)s AND size = %(old_size)s
  RETURNING log_uid
), added_entries AS (
  INSERT INTO entries (log_uid, start_index, bundle)
  SELECT grown.log_uid, piece.start_index, piece.bundle
  FROM grown, unnest(%(start_indices)s::bigint[], %(bundles)s::bytea[])
    AS piece (start_index, bundle)
), intended AS (
  INSERT INTO checkpoints (log_uid, size, root, intended_at_ns)
  SELECT log_uid, %(size)s, %(root)s, %(now_ns)s FROM grown
  WHERE %(size)s::bigint > %(old_size)s::bigint
), begun_runs AS (
  INSERT INTO runs (log_uid, ledger_uid, start_seq, start_index)
  SELECT grown.log_uid, run.ledger_uid, run.start_seq, run.start_index
  FROM grown, unnest(%(run_ledgers)s::bytea[], %(run_seqs)s::bigint[], %(run_indices)s::bigint[])
    AS run (ledger_uid, start_seq, start_index)
), moved_ledgers AS (
  INSERT INTO ledgers
    (log_uid, ledger_uid, suite, seq, receipt_hash, log_index, run_start_seq, forked_seq)
  SELECT grown.log_uid, ledger.* FROM grown, unnest(
      %(uids)s::bytea[], %(suites)s::text[], %(seqs)s::bigint[], %(receipt_hashes)s::bytea[],
      %(log_indices)s::bigint[], %(run_starts)s::bigint[], %(forks)s::bigint[]
    ) AS ledger (ledger_uid, suite, seq, receipt_hash, log_index, run_start_seq, forked_seq)
  ON CONFLICT (log_uid, ledger_uid) DO UPDATE SET
    seq = excluded.seq, receipt_hash = excluded.receipt_hash, log_index = excluded.log_index,
    run_start_seq = excluded.run_start_seq, forked_seq = excluded.forked_seq
)
SELECT count(*) FROM grown
"""

# What the statement reads, it reads as of before itself: `logs.tiled_size` is the old one, and
# `checkpoints.note` the one stored earlier.
_STORE_NOTE: Final = """
WITH held AS (
  UPDATE logs SET tiled_size = %(tiled_size)s
  WHERE log_uid = %(log_uid)s AND writer_epoch = %(epoch)s
  RETURNING log_uid
), stored AS (
  UPDATE checkpoints SET note = %(note)s FROM held
  WHERE checkpoints.log_uid = held.log_uid AND size = %(size)s AND note IS NULL
  RETURNING size
), dropped AS (
  DELETE FROM entries USING held
  WHERE entries.log_uid = held.log_uid AND start_index < %(tiled_size)s
    AND start_index >= (SELECT tiled_size FROM logs WHERE log_uid = %(log_uid)s)
)
SELECT
  (SELECT count(*) FROM held),
  (SELECT count(*) FROM stored),
  (SELECT note FROM checkpoints WHERE log_uid = %(log_uid)s AND size = %(size)s)
"""


def commit(connection: Connection, log_uid: bytes, epoch: int, flush: Flush) -> bool:
    """Store a flush; whether the fence held and the log had the flush's old size."""
    values: dict[str, Any] = {
        "log_uid": log_uid,
        "epoch": epoch,
        "old_size": flush.old_size,
        "size": flush.size,
        "root": flush.root,
        "now_ns": flush.now_ns,
        "start_indices": [piece.start_index for piece in flush.pieces],
        "bundles": [tiles.encode_bundle(piece.entries) for piece in flush.pieces],
        "run_ledgers": [run.ledger_uid for run in flush.runs],
        "run_seqs": [run.start_seq for run in flush.runs],
        "run_indices": [run.start_index for run in flush.runs],
        "uids": [state.ledger_uid for state in flush.ledgers],
        "suites": [state.suite for state in flush.ledgers],
        "seqs": [state.seq for state in flush.ledgers],
        "receipt_hashes": [state.receipt_hash for state in flush.ledgers],
        "log_indices": [state.log_index for state in flush.ledgers],
        "run_starts": [state.run_start_seq for state in flush.ledgers],
        "forks": [state.forked_seq for state in flush.ledgers],
    }
    return bool(connection.exec_driver_sql(_COMMIT, values).scalar_one() == 1)


def store_note(
    connection: Connection, log_uid: bytes, epoch: int, size: int, note: bytes, tiled_size: int
) -> tuple[bool, bytes | None]:
    """Store a head's first note; whether the fence held, and the note that is stored, if any."""
    held, stored, earlier = connection.exec_driver_sql(
        _STORE_NOTE,
        {
            "log_uid": log_uid,
            "epoch": epoch,
            "size": size,
            "note": note,
            "tiled_size": tiled_size,
        },
    ).one()
    if stored:
        return held == 1, note
    return held == 1, None if earlier is None else bytes(earlier)
