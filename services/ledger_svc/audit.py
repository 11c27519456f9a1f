"""Recomputes stored rows, every column of every row, and names the first that does not fit.

What binds a column, in the order in which it is asked:

    batches.*                           the body names suite, kid, and the root that leaf hashes and
                                        siblings make
    entries.statement, batch_index      the statement is that leaf
    request_id, receipt_id, ...         the statement says the same
    payload, secret, commitment_size    opened, they make the root that the statement names; a
                                        mutation's payload is of the entity that is stated
    seq, t_ns, receipt_hash, batches.*  the entry rebuilt from all of these has the receipt hash,
                                        and the next entry, or the head, names it
    heads.*, ledgers.*, log_runs.*      the last receipt, the genesis, and each other

Whether the witness's signature verifies is asked by who holds the keys (`provledger.verify`). Where
two columns can explain a fault equally well, both are named. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from ledger_svc import chain
from ledger_svc.batch_tree import BatchTree
from ledger_svc.chain import BatchRow, HeadState, LedgerInfo, Row, Stored
from provledger import jcs, names
from provledger.disclosure import (
    BLOB_PROFILE,
    BLOB_SALT_BYTES,
    FIELDS_PROFILE,
    FIELDS_SECRET_BYTES,
    Commitment,
    commit_blob,
    commit_fields,
)
from provledger.errors import DataLossError, InputError, InvalidProofError
from provledger.statement import Statement, parse_statement
from provledger.witness_batch import (
    WitnessBatch,
    parse_body,
    signature_digest,
    statement_leaf_hash,
)

# A payload holds states and a diff, each within the limits of one document.
_MAX_DEPTH: Final = 3 * jcs.MAX_DEPTH
_MAX_FIELDS: Final = 16 * jcs.MAX_FIELDS
_MAX_T_NS: Final = 2**63 - 1
_TREE_COLUMNS: Final = "batches.first_index, batches.leaf_hashes or batches.siblings"


@dataclass(frozen=True, slots=True)
class _Batch:
    """A batch whose row hangs together."""

    row: BatchRow
    body: WitnessBatch
    tree: BatchTree
    signature_hex: str


class Auditor:
    """Checks the rows of one ledger, in order, in as many chunks as they come.

    `previous` is the row before the first one to be checked, None at seq 0; it is taken as it is.
    """

    def __init__(self, ledger: LedgerInfo, state: HeadState, previous: Row | None) -> None:
        self._ledger = ledger
        self._state = state
        self._previous = previous
        self._batch: _Batch | None = None
        self.checked_count = 0

    @property
    def previous(self) -> Row | None:
        """The last row that was checked."""
        return self._previous

    def check(
        self, rows: Sequence[Row], batches: Mapping[int, BatchRow], following: Row | None
    ) -> None:
        """Check rows that must come next. `batches` holds all whose `batch_seq` is from the first
        row's batch to the last row; `following` is the row behind, None at the end.

        Raises:
            DataLossError: CHAIN_BROKEN, with `seq` and `column` as metadata.
        """
        behind = [*rows[1:], following]
        for row, successor in zip(rows, behind, strict=True):
            self._check_row(row, batches, successor)
            self._previous = row
            self.checked_count += 1
        self._refuse_stray_batches(rows, batches)

    def missing(self, seq: int) -> NoReturn:
        """Report a seq that has no row, or the head that says there should be one."""
        last = self._previous
        if last is not None and last.receipt_hash == self._state.head.receipt_hash:
            self._fail(seq, "heads.seq", "is not the last seq there is")
        self._fail(seq, "seq", "is missing")

    def _check_row(self, row: Row, batches: Mapping[int, BatchRow], successor: Row | None) -> None:
        previous = self._previous
        expected = 0 if previous is None else previous.seq + 1
        if row.seq != expected:
            self._fail(expected, "seq", "is missing")
        batch = self._batch_of(row, batches)
        self._check_leaf(row, batch, batches)
        statement = self._check_statement(row)
        self._check_commitment(row, statement)
        if not (0 if previous is None else previous.t_ns) < row.t_ns <= _MAX_T_NS:
            self._fail(row.seq, "t_ns", "does not come after the time before it")
        self._check_hash(row, batch, successor)

    # --- the batch

    def _batch_of(self, row: Row, batches: Mapping[int, BatchRow]) -> _Batch:
        previous = self._previous
        before = -1 if previous is None else previous.batch_seq
        if row.batch_seq not in (row.seq, before) or row.batch_seq < 0:
            self._fail(row.seq, "batch_seq", "is neither its own seq nor that of the row before")
        if self._batch is None or self._batch.row.batch_seq != row.batch_seq:
            found = batches.get(row.batch_seq)
            if found is None:
                self._fail(row.seq, "batch_seq", "names a batch that is not there")
            self._batch = self._check_batch(row.seq, found)
        return self._batch

    def _check_batch(self, seq: int, row: BatchRow) -> _Batch:
        try:
            body = parse_body(row.body)
        except InputError:
            self._fail(seq, "batches.body", "is not the body of a witness batch")
        if body.suite != self._ledger.suite:
            self._fail(seq, "ledgers.suite or batches.body", "name different suites")
        try:
            tree = chain.tree_of(row, body.size, body.suite)
        except InvalidProofError:
            self._fail(seq, _TREE_COLUMNS, "are not part of a tree of the size that is signed")
        if tree.root != body.root:
            self._fail(seq, _TREE_COLUMNS, "do not make the root that is signed")
        if body.kid != row.kid:
            self._fail(seq, "batches.kid", "is not the one in the body")
        digest = signature_digest(body.suite, row.body, row.sig)
        return _Batch(row, body, tree, digest.hex())

    def _refuse_stray_batches(self, rows: Sequence[Row], batches: Mapping[int, BatchRow]) -> None:
        """Every batch that starts among the rows must be the batch of the row it starts at."""
        if not rows:
            return
        own = {row.batch_seq for row in rows if row.batch_seq == row.seq}
        for batch_seq in sorted(batches):
            if rows[0].seq <= batch_seq <= rows[-1].seq and batch_seq not in own:
                self._fail(batch_seq, "batches.batch_seq", "belongs to no receipt")

    # --- the statement

    def _check_leaf(self, row: Row, batch: _Batch, batches: Mapping[int, BatchRow]) -> None:
        leaf = statement_leaf_hash(self._ledger.suite, row.statement)
        if batch.tree.leaf(row.batch_index) == leaf:
            return
        if _holds(batch.row, leaf):
            self._fail(row.seq, "batch_index", "is not where the statement is in its batch")
        other = batches.get(row.seq)
        if other is not None and _holds(other, leaf):
            self._fail(row.seq, "batch_seq", "is not the batch that holds the statement")
        self._fail(row.seq, "statement", "is not the one that was signed")

    def _check_statement(self, row: Row) -> Statement:
        ledger = self._ledger
        try:
            statement = parse_statement(row.statement)
            receipt_id = names.receipt_id_bytes(statement.receipt_id)
        except InputError:
            self._fail(row.seq, "statement", "is not a statement of ours")
        if row.ledger_uid != ledger.uid or statement.ledger_uid != ledger.uid:
            self._fail(row.seq, "ledger_uid", "is not that of this ledger")
        if statement.ledger != ledger.name:
            self._fail(row.seq, "ledgers.tenant or ledgers.ledger", "is not the one stated")
        for column, stored, stated in (
            ("receipt_id", row.receipt_id, receipt_id),
            ("request_id", row.request_id, statement.request_id),
            ("receipt_type", row.receipt_type, statement.receipt_type),
            ("resource_type", row.resource_type, statement.resource_type),
            ("resource_id", row.resource_id, statement.resource_id),
            ("actor_id", row.actor_id, statement.actor_id),
            ("payload_hash", row.payload_hash, statement.payload_hash),
        ):
            if stored != stated:
                self._fail(row.seq, column, "is not what the statement says")
        return statement

    def _check_commitment(self, row: Row, statement: Statement) -> None:
        length = FIELDS_SECRET_BYTES if statement.profile == FIELDS_PROFILE else BLOB_SALT_BYTES
        if len(row.secret) != length:
            self._fail(row.seq, "secret", "has a wrong length")
        try:
            value = _parse(row, statement)
            commitment = _commit(row, statement, value)
        except InputError:
            self._fail(row.seq, "payload", "is not canonical JSON")
        if commitment.root != statement.payload_hash:
            self._fail(row.seq, "payload or secret", "do not open the commitment")
        if commitment.size != row.commitment_size:
            self._fail(row.seq, "commitment_size", "is not the size of the commitment")
        if statement.is_mutation and not _is_stated(value, statement):
            self._fail(row.seq, "payload or statement", "are of different mutations")
        if statement.is_mutation and type(value.get("diff")) is not list:
            self._fail(row.seq, "payload", "has a diff that is no array")

    # --- the chain

    def _check_hash(self, row: Row, batch: _Batch, successor: Row | None) -> None:
        previous = self._previous
        stored = Stored(row, None if previous is None else previous.receipt_hash)
        receipt_hash = self._hash(stored, batch)
        if receipt_hash == row.receipt_hash:
            return
        if receipt_hash is not None and self._named_behind(row, receipt_hash, batch, successor):
            self._fail(row.seq, "receipt_hash", "is not the hash of its entry")
        # All else is bound by now, so that the time or the signature must be wrong. A neighbour
        # of the same batch that does fit clears the signature.
        before_fits = previous is not None and previous.batch_seq == row.batch_seq
        behind_fits = (
            successor is not None
            and successor.batch_seq == row.batch_seq
            and self._named_behind(row, row.receipt_hash, batch, successor)
        )
        if before_fits or behind_fits:
            self._fail(row.seq, "t_ns", "is not the time in its entry")
        if successor is not None and successor.batch_seq == row.batch_seq:
            self._fail(row.seq, "batches.body or batches.sig", "are not what its entry binds")
        self._fail(row.seq, "t_ns, batches.body or batches.sig", "are not what its entry binds")

    def _named_behind(
        self, row: Row, receipt_hash: bytes, batch: _Batch, successor: Row | None
    ) -> bool:
        """Whether what comes behind `row`, in its own batch or the head, names this hash."""
        if successor is None:
            return self._state.head.receipt_hash == receipt_hash
        if successor.batch_seq != row.batch_seq:
            return False
        return self._hash(Stored(successor, receipt_hash), batch) == successor.receipt_hash

    def _hash(self, stored: Stored, batch: _Batch) -> bytes | None:
        """The receipt hash that a row should have; None where its leaf is not in the batch."""
        leaf = batch.tree.leaf(stored.row.batch_index)
        if leaf is None:
            return None
        return chain.entry_of(self._ledger, stored, leaf, batch.signature_hex)[1]

    # --- head, genesis

    def check_head(self, last_seq: int) -> None:
        """Check the head against the last row of the table, `last_seq`, checked or not."""
        head, logged_seq = self._state.head, self._state.logged_seq
        if head.seq != last_seq:
            self._fail(min(head.seq, last_seq) + 1, "heads.seq", "is not the last seq there is")
        if not -1 <= logged_seq <= head.seq:
            self._fail(max(0, head.seq), "heads.logged_seq", "lies outside of the chain")
        last = self._previous
        if last is not None and last.seq == head.seq:
            if last.receipt_hash != head.receipt_hash:
                self._fail(last.seq, "heads.receipt_hash", "is not that of the last receipt")
            if last.t_ns != head.t_ns:
                self._fail(last.seq, "heads.t_ns", "is not that of the last receipt")

    def check_genesis(self, genesis: Row | None) -> None:
        """Check what the ledger's own row says against its first receipt."""
        ledger = self._ledger
        if genesis is None:
            self._fail(0, "seq", "is missing")
        if genesis.receipt_type != chain.GENESIS_TYPE:
            self._fail(0, "receipt_type", f"is not {chain.GENESIS_TYPE}")
        try:
            said = jcs.parse(genesis.payload)
            log_name = f"logs/{said['logUid']}"
            suite, origin = said["suite"], said["logOrigin"]
        except (InputError, KeyError, TypeError):
            self._fail(0, "payload", "is not that of a genesis")
        for column, stored, stated in (
            ("ledgers.suite", ledger.suite, suite),
            ("ledgers.log_origin", ledger.log_origin, origin),
            ("ledgers.log_name", ledger.log_name, log_name),
            ("ledgers.created_at_ns", ledger.created_at_ns, genesis.t_ns),
        ):
            if stored != stated:
                self._fail(0, column, "is not what the genesis says")

    def check_runs(
        self, runs: Iterable[tuple[int, int, int]], first_seq: int, last_seq: int
    ) -> None:
        """Check that runs (start seq, start index, count) cover the logged part of a range.

        They are those that overlap it, in order. Their places themselves are the log's to say.
        """
        logged_seq = self._state.logged_seq
        next_seq = None
        next_index = 0
        end_seq = -1
        for start_seq, start_index, count in runs:
            if count < 1 or start_seq < 0 or start_seq + count - 1 > logged_seq:
                self._fail(start_seq, "log_runs.count", "reaches beyond what is logged")
            if next_seq is None and first_seq < start_seq:
                self._fail(first_seq, "log_runs.start_seq", "leaves a gap")
            if next_seq is not None and start_seq != next_seq:
                self._fail(next_seq, "log_runs.start_seq", "leaves a gap or an overlap")
            if start_index < next_index:
                self._fail(start_seq, "log_runs.start_index", "goes backwards")
            next_seq, next_index = start_seq + count, start_index + count
            end_seq = next_seq - 1
        if end_seq < min(logged_seq, last_seq) and first_seq <= logged_seq:
            self._fail(end_seq + 1, "log_runs.count", "does not reach what is logged")

    def _fail(self, seq: int, column: str, what: str) -> NoReturn:
        raise broken(self._ledger, seq, column, what)


def check_named(ledger: LedgerInfo, genesis: Row | None) -> None:
    """Check that a ledger has the name and the log that its genesis states.

    Raises:
        DataLossError: CHAIN_BROKEN; it has others, or there is no genesis that can be read.
    """
    if genesis is None:
        raise broken(ledger, 0, "seq", "is missing")
    try:
        stated = parse_statement(genesis.statement)
    except InputError:
        raise broken(ledger, 0, "statement", "is not a statement of ours") from None
    if stated.ledger != ledger.name:
        raise broken(ledger, 0, "ledgers.tenant or ledgers.ledger", "is not the one stated")
    try:
        said = jcs.parse(genesis.payload)
        origin = said["logOrigin"]
    except (InputError, KeyError, TypeError):
        raise broken(ledger, 0, "payload", "is not that of a genesis") from None
    if origin != ledger.log_origin:
        raise broken(ledger, 0, "ledgers.log_origin", "is not what the genesis says")


def broken(ledger: LedgerInfo, seq: int, column: str, what: str) -> DataLossError:
    """The error for a stored chain that does not fit, naming the place."""
    return DataLossError(
        "CHAIN_BROKEN",
        f"{ledger.name}: receipt {seq}: {column} {what}",
        metadata={"ledger": ledger.name, "seq": str(seq), "column": column},
    )


def _parse(row: Row, statement: Statement) -> jcs.JSONValue:
    """The payload as JSON; None where it was committed to as bytes."""
    if statement.profile == BLOB_PROFILE:
        return None
    value = jcs.parse(row.payload, max_depth=_MAX_DEPTH, max_fields=_MAX_FIELDS)
    if jcs.encode(value) != row.payload:
        raise InputError("not canonical")
    return value


def _commit(row: Row, statement: Statement, value: jcs.JSONValue) -> Commitment:
    if statement.profile == BLOB_PROFILE:
        return commit_blob(statement.media_type, row.payload, row.secret)
    return commit_fields(value, row.secret, mutation=statement.is_mutation)


def _is_stated(value: jcs.JSONValue, statement: Statement) -> bool:
    """Whether a mutation's payload repeats what the statement says, as verification asks."""
    return isinstance(value, dict) and all(
        value.get(member) == said
        for member, said in (
            ("mutationType", statement.action),
            ("entityType", statement.resource_type),
            ("entityId", statement.resource_id),
        )
    )


def _holds(batch: BatchRow, leaf: bytes) -> bool:
    """Whether a leaf hash is among those kept of a batch."""
    data = batch.leaf_hashes
    return any(data[start : start + len(leaf)] == leaf for start in range(0, len(data), len(leaf)))
