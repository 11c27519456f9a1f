"""The key ledger as an export, alone or in the export of another ledger (design §6).

Its events are replayed under their rules (`provledger.key_history`) from a pinned genesis on, and
then the export itself is verified with the keys that came out: its chain, its log, its witness and
its signed head are those the history names. So the pin is all that a verifier has to bring.

An export of another ledger carries it in lines `{"keyLedger":<line>}`, against the checkpoint that
all its proofs lead to (docs/formats/export.md): it is then whole as of that checkpoint. Where the
two are in different logs, no tree joins them: it has a checkpoint of its own, and its head must not
be signed before that of the export.

Pure: lines in, a history out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from provledger import names
from provledger.errors import (
    InputError,
    InvalidProofError,
    NoKeyLedgerError,
    UnknownEventError,
    VerificationError,
)
from provledger.export import (
    CheckLines,
    ConsistencyProof,
    ExportHeader,
    ExportReport,
    look_at_none,
    parse_footer,
    parse_header,
    verify_export,
)
from provledger.hashing import SUITES
from provledger.key_events import CHECK
from provledger.key_history import History, check_key_set, replay
from provledger.key_ledger_lines import (
    bounded,
    broken,
    names_key_ledger,
    read,
    receipts,
    split,
    wrap,
)
from provledger.keyset import KeyPurpose, KeySet, KeyState, VerificationKey
from provledger.known_trees import KnownTrees
from provledger.merkle import verify_consistency
from provledger.outside import NOBODY, Outside
from provledger.receipt import Receipt
from provledger.report import Check, CheckResult, Finding, Outcome, Status
from provledger.revocation import Trees
from provledger.verify import Verifier


@dataclass(frozen=True, slots=True)
class KeyLedger:
    """A key ledger that holds: what it says of the keys, and what verifying it found."""

    history: History
    report: ExportReport

    def key_set(self) -> KeySet:
        """Every key that was active once."""
        return self.history.key_set()

    @property
    def end(self) -> str:
        """Where it ends, and when, for people: nothing later is known from it."""
        header, head = self.report.header, self.report.head
        when = "" if head is None else f", {names.timestamp_iso(head.signed_at_ns)}"
        return f"tree size {header.tree_size} of {header.origin}{when}"

    @property
    def as_of(self) -> str:
        """What the keys were replayed from, for people."""
        return f"{self.history.count} events from the pinned genesis on, as of {self.end}"

    def told_in(self, report: ExportReport, more: str = "") -> ExportReport:
        """The report of an export, which says that its keys come from here."""
        result = CheckResult(Check.KEY_LEDGER, Outcome.HOLDS, self.as_of + more)
        return replace(
            report,
            results=tuple(
                result if each.check is result.check else each for each in report.results
            ),
            # The genesis names keys and not its ledger: whoever compares uids finds a second one.
            key_ledger_uid=self.report.header.ledger_uid,
        )


def verify_key_ledger(
    lines: Sequence[bytes],
    pin: bytes,
    keys: KeySet | None = None,
    *,
    uid: bytes = b"",
    outside: Outside = NOBODY,
    known: KnownTrees | None = None,
) -> KeyLedger:
    """Verify an export of the key ledger from a pinned genesis on.

    `pin` is the RFC 7638 thumbprint, 32 bytes, of a key that the genesis names. `keys`, if given,
    must say the same as the ledger. `uid`, 16 bytes: which ledger it must be, for one genesis can
    begin several. `outside`: whom else to believe of its checkpoint. `known`: the trees that are
    met in a verification of which this is a part.

    Raises:
        VerificationError: the first thing that does not hold, or is not there. NOT_PLACED: all
            holds but that it has an event of a type that this version does not know, which may say
            anything of the keys.
    """
    events, unknown = read(lines)
    history = replay((signed for signed, _ in events), pin)
    trusted = witness_keys_as_they_were(history.key_set())
    report = verify_export(lines, trusted, outside=outside, known=known)
    outcomes = {result.check: result.outcome for result in report.results}
    if report.status is not Status.VERIFIED or outcomes.get(Check.HEAD) is not Outcome.HOLDS:
        raise broken(
            "not all of it is in the log, what was asked for is not there, or no signed head says "
            "where it ends"
        )
    if uid and report.header.ledger_uid != uid:
        raise broken(f"it is the ledger {report.header.ledger_uid.hex()}, not {uid.hex()}")
    _refuse_unknown(unknown)
    if keys is not None:
        check_key_set(history, keys)
    return KeyLedger(history, report)


def verify_by_earlier(
    lines: Sequence[bytes], pin: bytes, earlier: Sequence[ConsistencyProof] = ()
) -> History:
    """Verify an export of the key ledger whose own checkpoint or head a revoked key signed.

    Such an export is made while the registry is behind, or once it was. Its events are proven by a
    checkpoint that a key of the log signed which is not revoked: its own, one that its footer has,
    or one of `earlier`, which prove that its own extends them. All of them must be in that tree.
    Its head need not count: whoever takes the events must know from elsewhere where they end.

    Raises:
        VerificationError: the first thing that does not hold, or no such checkpoint is there.
    """
    events, unknown = read(lines)
    history = replay((signed for signed, _ in events), pin)
    keys = history.key_set()
    report = verify_export(lines, KeySet(map(_as_if_retired, keys)))
    footer = parse_footer(lines[-1])
    if report.status is not Status.VERIFIED or footer.head is None or footer.checkpoint is None:
        raise broken("not all of it is in the log, or no head says where it ends")
    origin, size = report.header.origin, report.header.tree_size
    root = report.own_tree[origin, size]
    verifier = Verifier(KeySet(each for each in keys if each.state is not KeyState.REVOKED))
    places = [
        proof.log_index
        for receipt in receipts(iter(lines[1:]))
        for proof in receipt.proofs
        if proof.origin == origin
    ]
    proven = 0
    for each in (ConsistencyProof(footer.checkpoint, ()), *footer.consistency, *earlier):
        try:
            known = verifier.open_checkpoint(each.checkpoint, origin)
            verify_consistency(
                known.size, size, list(each.hashes), known.root, root,
                hasher=SUITES[report.header.suite].tree,
            )  # fmt: skip
        except (VerificationError, InvalidProofError):
            continue
        proven = max(proven, known.size)
    last = max(places, default=size)
    if last >= proven:
        raise VerificationError(
            f"the checkpoint of size {size} that it leads to is signed by a revoked key alone, and "
            f"none of the earlier ones that it carries, and that count, has its last event, at log "
            f"index {last}: the largest is of size {proven}",
            check=CHECK,
            finding=Finding.NOT_PLACED,
        )
    _refuse_unknown(unknown)
    return history


def _refuse_unknown(unknown: Receipt | None) -> None:
    """Refuse what holds but for a receipt that may say anything of the keys.

    Not before the rest holds: nobody can have a forgery be told so by adding a line.
    """
    if unknown is not None:
        raise UnknownEventError(
            f"the key ledger has an event of type {unknown.receipt_type}, which this version does "
            "not know: what it says of the keys cannot be told; use a newer version",
            check=CHECK,
            finding=Finding.NOT_PLACED,
            receipt=unknown.name,
        )


def _as_if_retired(key: VerificationKey) -> VerificationKey:
    """A revoked key as one whose signatures hold, whatever they are worth."""
    if key.state is not KeyState.REVOKED or key.purpose is KeyPurpose.HEAD:
        return key
    return replace(key, state=KeyState.RETIRED, revocation_reason="", covered=(), sizes=())


def verify_from_pin(
    lines: Iterable[bytes],
    pin: bytes,
    keys: KeySet | None = None,
    *,
    uid: bytes = b"",
    head: bytes | None = None,
    checkpoint: bytes | None = None,
    progress: Callable[[int], None] | None = None,
    outside: Outside = NOBODY,
    trees: Trees | None = None,
    known: KnownTrees | None = None,
    judged_by: Callable[[KeySet], KeySet] = lambda keys: keys,
    check_with: Callable[[KeySet], CheckLines] = lambda _keys: look_at_none,
) -> ExportReport:
    """Verify an export with the key ledger it carries, and nothing but a pinned thumbprint.

    The key ledger must be whole as of the export's own checkpoint: who leaves out its last events,
    such as a revocation, would have to leave out what was logged since. Where it is in another log,
    its head must not be signed before that of the export. `keys`, if given, must say the same;
    `uid`, 16 bytes, says which ledger the key ledger must be; `judged_by` makes of the keys that
    the ledger names those that the export is verified with, and `check_with` a `check_lines` of
    those; everything else is as in `provledger.export.verify_export`.

    Raises:
        VerificationError: the first thing that does not hold, or is not there.
    """
    known = known or KnownTrees()
    reader = iter(lines)
    first = next(reader, b"")
    if names_key_ledger(first):
        carried = bounded(first, reader)
        rest: Iterable[bytes] = carried
    else:
        carried, others = split(reader)
        if not carried:
            raise NoKeyLedgerError("the export carries no key ledger", check=CHECK)
        rest = chain([first], wrap(carried), others)
    # In the same log both are as of one checkpoint, of which others are asked with the receipts.
    alone = rest is carried or _is_of_one_log(carried, first)
    try:
        asked = NOBODY if alone else outside
        ledger = verify_key_ledger(carried, pin, keys, uid=uid, outside=asked, known=known)
    except VerificationError as error:
        error.line = None if error.line is None else error.line + (rest is not carried)
        raise
    trusted = judged_by(ledger.key_set())
    if rest is carried:
        trusted = witness_keys_as_they_were(trusted)
    elif not _as_of_one_tree(ledger.report.header, parse_header(first)):
        raise broken("it is as of another checkpoint than the export that carries it")
    report = verify_export(
        rest,
        trusted,
        head=head,
        checkpoint=checkpoint,
        progress=progress,
        outside=outside,
        trees=trees,
        known=known,
        key_events=ledger.history.count,
        check_lines=check_with(trusted),
    )
    if ledger.report.header.origin == report.header.origin:
        return ledger.told_in(report)
    _check_not_older(ledger.report, report)
    return ledger.told_in(report, ", by a head no older than the export's")


def witness_keys_as_they_were(keys: KeySet) -> KeySet:
    """The keys, with revoked witness keys taken as retired.

    The entry that replaces a stolen witness key may still be witnessed by that key. An event holds
    by its endorsements and by its place in the log; its witness adds nothing to that.
    """
    return KeySet(
        replace(key, state=KeyState.RETIRED, revocation_reason="", covered=())
        if key.state is KeyState.REVOKED and key.purpose is KeyPurpose.WITNESS
        else key
        for key in keys
    )


def _is_of_one_log(carried: Sequence[bytes], header_line: bytes) -> bool:
    try:
        return parse_header(carried[0]).origin == parse_header(header_line).origin
    except InputError as error:
        raise broken(f"a header cannot be read: {error}") from error


def _as_of_one_tree(inner: ExportHeader, outer: ExportHeader) -> bool:
    return inner.origin != outer.origin or inner.tree_size == outer.tree_size


def _check_not_older(ledger: ExportReport, export: ExportReport) -> None:
    """Check by the heads that a key ledger in another log is no older than the export."""
    if ledger.head is None or export.head is None:
        raise broken("it is in another log, and no signed head says as of when the export is")
    if ledger.head.signed_at_ns < export.head.signed_at_ns:
        raise broken("it is in another log, and older than the export that carries it")
