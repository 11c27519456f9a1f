"""The one invariant, in one place: what clients were told, against what there is. No I/O.

* Every acknowledged receipt is there, exactly once, where and as it was acknowledged, and verifies.
* Sequences have no gap: each ledger is a chain from its genesis on, and all of it is in the log.
* Heads never fork: all checkpoints that were ever seen, those in receipts too, are of one history,
  which is the log's, and each sink has one of all of it. It has each that anybody was told it has,
  or that the anchor keeps evidence of, and it covers the receipt that it was said of. Each signed
  head of a ledger that was ever seen names the last receipt that the log has of it at that size.
* Lists by what one can filter by are what of the whole list fits, and clients were told nothing
  that contradicts what they had been told before.
* Nothing is there that nobody sent, or otherwise than it was sent; and nothing was refused that no
  fault excuses.

`check` raises BrokenInvariantError with everything that is wrong, so that one run shows all of it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field

from provledger.checkpoint import Checkpoint, parse
from provledger.client import RangeReport
from provledger.entry import parse_entry, receipt_hash
from provledger.errors import ProvledgerError, VerificationError
from provledger.merkle import leaf_hash
from provledger.note import parse as parse_note
from provledger.proof import CompactRange
from provledger.receipt import Receipt
from provledger.report import Check, Finding, Outcome
from provledger.statement import Statement, parse_statement
from provledger.verify import Verifier
from tests.faults.as_sent import not_as_sent
from tests.faults.heads import Heads
from tests.faults.known import History, Holdings, Summary
from tests.faults.lists import wrong_lists

MOST_SHOWN = 20

GENESIS = "ledger.created"
KEY_LEDGER = "tenants/system/ledgers/keys"
CALLERS_LEDGER = "tenants/rpcs/ledgers/main"
UNRECORDED = frozenset({KEY_LEDGER, CALLERS_LEDGER})
"""Ledgers whose receipts are not of the clients that write down what they send: the service itself
appends to the one, `tests.faults.rpcs` to the other, and looks at what comes of it."""


class BrokenInvariantError(AssertionError):
    """The invariant does not hold."""


@dataclass
class _Findings:
    texts: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        self.texts.append(text)

    def raise_any(self) -> None:
        if self.texts:
            more = len(self.texts) - MOST_SHOWN
            rest = [f"... and {more} more"] if more > 0 else []
            raise BrokenInvariantError("\n".join([*self.texts[:MOST_SHOWN], *rest]))


def check_logs(history: History, logs: Sequence[Holdings]) -> Summary:
    """Compare with all logs, each ledger with its own; raises BrokenInvariantError.

    What clients know of ledgers or logs that are not there is held against the first.
    """
    findings, sums = _Findings(), [0] * len(Summary.__dataclass_fields__)
    for part, holdings in zip(_apart(history, logs), logs, strict=True):
        summary = _compare(part, holdings, findings)
        sums = [sum_ + more for sum_, more in zip(sums, astuple(summary), strict=True)]
    findings.raise_any()
    return Summary(*sums)


def check(history: History, holdings: Holdings) -> Summary:
    """Compare with one log; raises BrokenInvariantError."""
    return check_logs(history, [holdings])


def _apart(history: History, logs: Sequence[Holdings]) -> list[History]:
    """What clients know, by the log that it is of."""
    by_ledger = {name: place for place, each in enumerate(logs) for name in each.receipts}
    by_origin = {_named_log(each.leaves): place for place, each in enumerate(logs)}

    def of_ledger(place: int, name: str) -> bool:
        return by_ledger.get(name, 0) == place

    return [
        History(
            {key: sent for key, sent in history.sent.items() if of_ledger(place, key[0])},
            tuple(item for item in history.acknowledged if of_ledger(place, item.ledger)),
            tuple(item for item in history.refused if of_ledger(place, item.ledger)),
            tuple(n for n in history.checkpoints if by_origin.get(_origin(n), 0) == place),
            tuple(item for item in history.anchored if of_ledger(place, item.ledger)),
            tuple(item for item in history.heads if of_ledger(place, item.ledger)),
            tuple(item for item in history.contradicted if of_ledger(place, item.name)),
        )
        for place in range(len(logs))
    ]


def _compare(history: History, holdings: Holdings, findings: _Findings) -> Summary:
    verifier = Verifier(holdings.keys)
    for ledger, receipts in holdings.receipts.items():
        _check_chain(ledger, receipts, findings)
        _check_each(ledger, receipts, verifier, findings)
        _check_range(ledger, receipts, holdings.ranges.get(ledger), findings)
        for text in wrong_lists(receipts, holdings.lists.get(ledger, {})):
            findings.add(f"{ledger}: {text}")
    _check_log(holdings, findings)
    _check_known(history, holdings, findings)
    _check_anchored(history, holdings, findings)
    _check_evidence(holdings, findings)
    _check_heads(history, holdings, verifier, findings)
    for item in history.refused:
        findings.add(f"{item.ledger} {item.request_id}: refused: {item}")
    for told in history.contradicted:
        findings.add(f"{told.name}: {told.text}")
    proven = [
        proof.checkpoint
        for receipts in holdings.receipts.values()
        for receipt in receipts
        for proof in receipt.proofs
    ]
    headed = [item.checkpoint for item in history.heads]
    shown = [*history.checkpoints, *headed, holdings.published, *proven]
    sunk = [note for notes in holdings.sunk.values() for note in notes]
    notes = list(dict.fromkeys([*shown, *sunk]))
    _check_checkpoints(notes, holdings, verifier, findings)
    return Summary(
        receipts=sum(map(len, holdings.receipts.values())),
        acknowledged=len({(item.ledger, item.request_id) for item in history.acknowledged}),
        sent=len(history.sent),
        checkpoints=len(notes),
        seen=len(set(history.checkpoints)),
        anchored=len({item.checkpoint for item in history.anchored}),
        heads=len(set(history.heads)),
    )


def _check_chain(ledger: str, receipts: Sequence[Receipt], findings: _Findings) -> None:
    """Seq from 0 without gap, each linked to the one before, in the order of their times."""
    previous: Receipt | None = None
    for place, receipt in enumerate(receipts):
        where = f"{ledger} seq {receipt.seq}"
        if receipt.ledger != ledger or receipt.seq != place:
            findings.add(f"{where}: stands where seq {place} should be")
        if receipt.previous_hash != (previous.receipt_hash if previous else None):
            findings.add(f"{where}: is not linked to the receipt before it")
        if previous is not None and receipt.t_ns <= previous.t_ns:
            findings.add(f"{where}: is not later than the receipt before it")
        previous = receipt


def _check_each(
    ledger: str, receipts: Sequence[Receipt], verifier: Verifier, findings: _Findings
) -> None:
    """Each receipt verifies, and a signed checkpoint covers it."""
    for receipt in receipts:
        try:
            report = verifier.verify(receipt)
        except VerificationError as error:
            findings.add(f"{ledger} seq {receipt.seq}: does not verify: {error}")
            continue
        outcomes = {result.check: result.outcome for result in report.results}
        if outcomes.get(Check.CHECKPOINT_SIGNATURE) is not Outcome.HOLDS:
            findings.add(f"{ledger} seq {receipt.seq}: no signed checkpoint covers it")


def _check_range(
    ledger: str, receipts: Sequence[Receipt], report: RangeReport | None, findings: _Findings
) -> None:
    """The service has looked at all that it lists, and asked the log where each of it is."""
    whole = (0, len(receipts) - 1, len(receipts), receipts[-1].receipt_hash if receipts else b"")
    if report is None or whole != (
        report.start_seq,
        report.checked_seq,
        report.checked_count,
        report.receipt_hash,
    ):
        findings.add(f"{ledger}: what is stored was checked as {report}, not all of it")
    elif not report.places_checked:
        findings.add(f"{ledger}: the log was not asked where all of its receipts are")


def _check_log(holdings: Holdings, findings: _Findings) -> None:
    """The log holds each ledger's entries, in order, each once and each where receipts say."""
    names = {each.ledger_uid: ledger for ledger, all_ in holdings.receipts.items() for each in all_}
    next_seq: Counter[bytes] = Counter()
    for index, leaf in enumerate(holdings.leaves[1:], start=1):
        try:
            entry = parse_entry(leaf)
        except ProvledgerError as error:
            findings.add(f"log index {index}: holds no entry: {error}")
            continue
        name = names.get(entry.ledger_uid)
        seq, next_seq[entry.ledger_uid] = next_seq[entry.ledger_uid], entry.seq + 1
        if name is None:
            findings.add(f"log index {index}: is of a ledger that is not there")
        elif entry.seq != seq:
            findings.add(f"log index {index}: is {name} seq {entry.seq}, not {seq}")
        elif entry.seq >= len(holdings.receipts[name]):
            findings.add(f"log index {index}: {name} denies its seq {entry.seq}")
        else:
            receipt = holdings.receipts[name][entry.seq]
            if receipt.receipt_hash != receipt_hash(entry.suite, leaf):
                findings.add(f"log index {index}: {name} seq {entry.seq} is another one there")
            if {proof.log_index for proof in receipt.proofs} != {index}:
                findings.add(f"log index {index}: {name} seq {entry.seq} is said to be elsewhere")
    for uid, name in names.items():
        if next_seq[uid] != len(holdings.receipts[name]):
            findings.add(f"{name}: the log holds {next_seq[uid]} of its receipts")


def _check_known(history: History, holdings: Holdings, findings: _Findings) -> None:
    """Whatever was acknowledged is there as it was; nothing is doubled, nothing invented."""
    by_request: dict[tuple[str, str], list[tuple[Receipt, Statement]]] = {}
    for ledger, receipts in holdings.receipts.items():
        for receipt in receipts:
            statement = parse_statement(receipt.statement)
            found = by_request.setdefault((ledger, statement.request_id), [])
            found.append((receipt, statement))
    for (ledger, request_id), found in by_request.items():
        where = f"{ledger} {request_id}"
        if len(found) > 1:
            seqs = [receipt.seq for receipt, _ in found]
            findings.add(f"{where}: is there {len(seqs)} times, as seq {seqs}")
        receipt, statement = found[0]
        if (receipt.seq == 0) is not (receipt.receipt_type == GENESIS):
            findings.add(f"{where}: is a {receipt.receipt_type} at seq {receipt.seq}")
        if receipt.seq == 0 or ledger in UNRECORDED:
            continue
        sent = history.sent.get((ledger, request_id))
        if sent is None:
            findings.add(f"{where}: nobody sent it")
        elif others := not_as_sent(sent.draft, receipt, statement):
            findings.add(f"{where}: what is recorded is not what was sent: {', '.join(others)}")
    for item in history.acknowledged:
        where = f"{item.ledger} {item.request_id}"
        known = by_request.get((item.ledger, item.request_id))
        if not known:
            findings.add(f"{where}: was acknowledged as seq {item.seq} and is not there")
            continue
        there, _ = known[0]
        if (there.name, there.seq, there.t_ns, there.receipt_hash) != (
            item.name,
            item.seq,
            item.t_ns,
            item.receipt_hash,
        ):
            findings.add(
                f"{where}: was acknowledged as {item.name}, seq {item.seq}, and is there as "
                f"{there.name}, seq {there.seq}"
            )


def _check_anchored(history: History, holdings: Holdings, findings: _Findings) -> None:
    """Whatever was said to be held by sinks is, by each of them, at the size that covers it."""
    sunk = {sink: frozenset(notes) for sink, notes in holdings.sunk.items()}
    for item in history.anchored:
        where = f"{item.name} at log index {item.log_index}"
        size = _size(item.checkpoint)
        said = {*item.sinks, *(sunk if item.by_all else ())}
        lacking = sorted(sink for sink in said if item.checkpoint not in sunk.get(sink, ()))
        if lacking:
            findings.add(
                f"{where}: {lacking} lacks the checkpoint of tree size {size} that was said to be "
                "anchored"
            )
        elif not item.log_index < size <= len(holdings.leaves):
            findings.add(f"{where}: was said to be anchored by a checkpoint of tree size {size}")
        else:
            leaf = holdings.leaves[item.log_index]
            if receipt_hash(parse_entry(leaf).suite, leaf) != item.receipt_hash:
                findings.add(f"{where}: another receipt stands there")


def _check_evidence(holdings: Holdings, findings: _Findings) -> None:
    """What the anchor keeps as evidence of a sink is there, in that sink."""
    for sink, sizes in holdings.evidence.items():
        held = {_size(note) for note in holdings.sunk.get(sink, ())}
        for size in sorted(frozenset(sizes) - held):
            findings.add(f"{sink}: lacks tree size {size}, of which the anchor keeps evidence")


def _check_heads(
    history: History, holdings: Holdings, verifier: Verifier, findings: _Findings
) -> None:
    """Each head that was shown names what the log has, whenever that was."""
    uids = {name: each.ledger_uid for name, all_ in holdings.receipts.items() for each in all_[:1]}
    heads = Heads(holdings.leaves, verifier, _named_log(holdings.leaves))
    for item in dict.fromkeys(history.heads):
        if item.ledger not in uids:
            findings.add(f"{item.ledger}: a head was shown, and it is not there")
        elif text := heads.problem(uids[item.ledger], item.head, item.checkpoint):
            findings.add(f"{item.ledger}: {text}")


def _size(note: bytes) -> int:
    return parse(parse_note(note).text).size


def _check_checkpoints(
    notes: Sequence[bytes], holdings: Holdings, verifier: Verifier, findings: _Findings
) -> None:
    """Every checkpoint has the root that the log's own leaves have at its size, and of all of
    them there is one in each sink. Leaf 0 names the log."""
    wanted: dict[int, list[Checkpoint]] = {}
    whole: set[bytes] = set()
    for note in notes:
        try:
            found = verifier.open_checkpoint(note, _origin(note))
        except VerificationError as error:
            if error.finding is Finding.HEAD_NOT_EXTENDING:
                size = parse(parse_note(note).text).size
                findings.add(f"FORK: a checkpoint of tree size {size} has another root: {error}")
            else:
                findings.add(f"a checkpoint does not verify: {error}")
            continue
        wanted.setdefault(found.size, []).append(found)
        if found.size == len(holdings.leaves):
            whole.add(note)
    if not holdings.sunk:
        findings.add("there is no sink")
    for sink, sunk in holdings.sunk.items():
        if whole.isdisjoint(sunk):
            findings.add(f"{sink}: has no checkpoint of all {len(holdings.leaves)} leaves")
    origins = {found.origin for all_ in wanted.values() for found in all_}
    if len(origins) > 1:
        findings.add("there are checkpoints of two logs")
    if _named_log(holdings.leaves) not in origins:
        findings.add("log index 0: names another log, or none")
    tree = CompactRange()
    for leaf in [*holdings.leaves, None]:
        root = tree.root()
        for found in wanted.pop(tree.size, ()):
            if found.root != root:
                findings.add(f"FORK: a checkpoint of tree size {found.size} has another root")
        if leaf is not None:
            tree.append(leaf_hash(leaf))
    for size in sorted(wanted):
        findings.add(f"ROLLED BACK: a checkpoint of tree size {size} was seen; there are "
                     f"{len(holdings.leaves)} leaves")  # fmt: skip


def _origin(note: bytes) -> str:
    return note.split(b"\n", 1)[0].decode()


def _named_log(leaves: Sequence[bytes]) -> str:
    """The origin that leaf 0 names, "" if it names none."""
    try:
        value = json.loads(leaves[0])["log"]["origin"]
    except (IndexError, KeyError, TypeError, ValueError):
        return ""
    return value if isinstance(value, str) else ""
