"""The work behind `verify`: what was checked and how it came out.

Nothing here, nor in what it imports, knows gRPC or a database: a file is verified with the library
alone. Checks and findings have the names of `provledger.report`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Final

import msgspec

from provledger import verify_pool
from provledger.errors import VerificationError
from provledger.export import CheckLines, ExportReport, is_export, verify_export
from provledger.held import check_held
from provledger.key_ledger import verify_from_pin, verify_key_ledger
from provledger.key_ledger_age import check_no_older, check_place
from provledger.key_ledger_lines import lines_of, take
from provledger.keyset import KeySet
from provledger.known_trees import KnownTrees
from provledger.outside import NOBODY, Outside
from provledger.receipt import MAX_RECEIPT_BYTES, LegacyReceipt, Receipt, parse_receipt
from provledger.report import Check, CheckResult, Outcome, Report, Status
from provledger.revocation import Trees, for_trees_alone
from provledger.verify import FIELDS_SHOWN, Verifier
from provledger_cli import file_kinds
from provledger_cli.failures import COULD_NOT_TELL, HOLDS, CommandError
from provledger_cli.sources import LineSource
from provledger_cli.verifying.given_key_ledger import GivenKeyLedger

MAX_LINE_BYTES: Final = 32 * 1024 * 1024
"""The footer of an export with thousands of consistency proofs is its longest line."""

_JSON_SPACE: Final = b" \t\r\n"
_MAX_SPREAD_BYTES: Final = 2 * MAX_RECEIPT_BYTES
"""Of a receipt over lines, without what these begin and end with: twice as long at most."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What verifying found; what does not hold is raised, so everything here holds or is open.

    `subject` is the ledger or receipt; `details` is shown and put into the JSON as it is.
    """

    subject: str
    status: Status
    receipts: int
    results: tuple[CheckResult, ...]
    details: dict[str, Any]

    @property
    def exit_code(self) -> int:
        """0 if it is verified, 2 if that could not be told."""
        return HOLDS if self.status is Status.VERIFIED else COULD_NOT_TELL


class HistoryError(VerificationError):
    """The history given cannot be counted on, and what is wrong is nowhere but in there: of the
    file to verify nothing was told. `path` is the history, `cause` what is wrong with it."""

    def __init__(self, path: Path, cause: VerificationError) -> None:
        super().__init__(
            f"in the history {path}, and not in what is verified: {cause.message}",
            check=cause.check,
            finding=cause.finding,
        )
        self.path = path
        self.cause = cause


@dataclass(frozen=True, slots=True)
class Trusted:
    """What a verification begins with: keys, or the pin of a key ledger that a file carries.

    `key_ledger_uid` says of which ledger the keys were replayed, or of which they must be;
    `key_ledger` is that ledger, where it came in another file than the one to verify. `trees` is
    what another export has shown of the log, and `asked` those of them for which it met `outside`:
    whom else to believe. `known` has all trees that are met, in whichever file. `jobs` says how
    many processes check receipts, 0 for one a core.
    """

    keys: KeySet | None = None
    pin: bytes | None = None
    key_ledger_uid: bytes = b""
    outside: Outside = NOBODY
    trees: Trees | None = None
    jobs: int = 0
    key_ledger: GivenKeyLedger | None = None
    asked: Trees = field(default_factory=dict)
    known: KnownTrees = field(default_factory=KnownTrees)

    def verify(self, lines: Iterable[bytes], **options: Any) -> ExportReport:
        """Verify an export; raises VerificationError."""
        report, given = self._verify(lines, lambda keys: keys, **options)
        if given is None:
            return report
        given.ask(self.outside, {**self.asked, **report.own_tree})
        check_no_older(given.found, report)
        return given.found.told_in(report)

    def knowing(self, lines: Iterable[bytes]) -> Trusted:
        """The same, with what another export of the log shows of it, and of the keys.

        Of its receipts nothing is taken: what a revocation leaves of them is not asked. All else
        must hold, theirs as well.

        Raises:
            VerificationError: the export does not hold, or the key ledger is older than it.
        """
        pin = self.pin if self.key_ledger is None else self.key_ledger.pin
        carried: list[bytes] = []
        if pin is not None:
            carried, lines = take(lines)
        report, given = self._verify(lines, for_trees_alone)
        if given is not None:
            check_no_older(given.found, report)
        asked = report.own_tree if report.status is Status.VERIFIED else {}
        knowing = replace(self, trees=report.trees, asked=asked)
        if pin is None or not carried or given is not None:
            return knowing
        return knowing._knowing_keys(carried, pin)

    def _knowing_keys(self, lines: list[bytes], pin: bytes) -> Trusted:
        """The same, with the keys of a key ledger that was verified, if it tells more of them."""
        found = verify_key_ledger(lines, pin, uid=self.key_ledger_uid, known=self.known)
        given = self.key_ledger
        if given is None:
            return self.replayed_from(GivenKeyLedger(lines, pin, self.keys, found))
        if found.history.count <= given.found.history.count:
            return self
        # A key set that came with the shorter one does not know what the longer one adds.
        return self.replayed_from(GivenKeyLedger(lines, pin, None, found))

    def replayed_from(self, given: GivenKeyLedger) -> Trusted:
        """The same, with the keys of a key ledger that came in another file."""
        return replace(
            self, keys=given.key_set(), pin=None, key_ledger_uid=given.uid, key_ledger=given
        )

    def _verify(
        self, lines: Iterable[bytes], judged_by: Callable[[KeySet], KeySet], **options: Any
    ) -> tuple[ExportReport, GivenKeyLedger | None]:
        """Also the key ledger that was given, unless what the file carries says as much.

        judged_by: makes of the keys those that the lines are verified with.
        """
        more = {"outside": self.outside, "trees": self.trees, "known": self.known, **options}
        given, pin, keys = self.key_ledger, self.pin, self.keys
        if given is not None:
            compared = given.against(lines, self.known)
            lines, keys = compared.lines, compared.keys
            if compared.ahead <= 0:
                # A key set that came with a shorter one was compared with that, and is as old.
                pin, keys, given = given.pin, None if compared.ahead else given.keys, None
        if pin is not None:
            more |= {"check_with": self._check_lines, "uid": self.key_ledger_uid}
            return verify_from_pin(lines, pin, keys, judged_by=judged_by, **more), None
        keys = judged_by(self.known_keys() if keys is None else keys)
        more["check_lines"] = self._check_lines(keys)
        events = 0 if given is None else given.found.history.count
        return verify_export(lines, keys, key_events=events, **more), given

    def _check_lines(self, keys: KeySet) -> CheckLines:
        return verify_pool.check_lines(
            keys, self.outside, trees=self.trees, known=self.known, jobs=self.jobs
        )

    def known_keys(self) -> KeySet:
        """The keys; CommandError if none were given."""
        if self.keys is None:
            raise CommandError(
                "a file is verified with keys you trust: give --keys, or --pin where it carries "
                "the key ledger",
                hint="whoever runs the services writes them with: provledger keys jwks "
                "--out jwks.json",
            )
        return self.keys

    def keys_of_one(self) -> KeySet:
        """The keys for something that has no key ledger with it; CommandError if a pin asks for
        one."""
        if self.pin is not None:
            raise CommandError(
                "a receipt carries no key ledger, so that --pin says nothing of it",
                hint="give the export that does, or that of the key ledger: --key-ledger FILE",
            )
        return self.known_keys()

    def verify_one(
        self, data: bytes, head: bytes | None, checkpoint: bytes | None
    ) -> tuple[Report, tuple[CheckResult, ...]]:
        """Verify one receipt, and hold it against what is given; raises VerificationError."""
        trees = self.trees or {}
        verifier = Verifier(self.keys_of_one(), self.outside, trees=trees, known=self.known)
        report = verifier.verify(data)
        receipt = parse_receipt(data)
        if self.key_ledger is not None:
            result = self._of_key_ledger(self.key_ledger, receipt, verifier)
            report = replace(report, results=(*report.results, result))
        if head is None and checkpoint is None:
            return report, ()
        if not isinstance(receipt, Receipt):
            raise CommandError("a receipt v0.1 cannot be held against a head or a checkpoint")
        return report, check_held(receipt, verifier, trees, head=head, checkpoint=checkpoint)

    def _of_key_ledger(
        self, given: GivenKeyLedger, receipt: Receipt | LegacyReceipt, verifier: Verifier
    ) -> CheckResult:
        shown = trees_of(receipt, verifier)
        # Others are content with one of several proofs, and it is not said with which.
        given.ask(self.outside, {**self.asked, **(shown if len(shown) == 1 else {})})
        if not isinstance(receipt, Receipt):
            return check_place(given.found, {}, receipt=receipt.name)
        places = {proof.origin: proof.log_index for proof in receipt.proofs}
        return check_place(given.found, places, at_ns=receipt.t_ns, receipt=receipt.name)


def replayed(trusted: Trusted, path: Path) -> Trusted:
    """Take the keys from a key ledger in a file, from the pin on; raises VerificationError."""
    if trusted.pin is None:
        raise CommandError("--key-ledger needs --pin", hint="give both, or --keys")
    with LineSource(path, max_line_bytes=MAX_LINE_BYTES) as source:
        lines = lines_of(exported(path, source.lines()))
    ledger = verify_key_ledger(
        lines, trusted.pin, trusted.keys, uid=trusted.key_ledger_uid, known=trusted.known
    )
    return trusted.replayed_from(GivenKeyLedger(lines, trusted.pin, trusted.keys, ledger))


def with_history(trusted: Trusted, path: Path) -> Trusted:
    """Take from another export of the log what it shows of it and of the keys.

    Raises:
        HistoryError: it does not hold, or the key ledger given is older than it.
        VerificationError: a tree in it contradicts one that was met elsewhere.
        CommandError: it is no export.
    """
    # What it contradicts is told from what is wrong in there alone, which is no fault of the file.
    met = KnownTrees()
    with LineSource(path, max_line_bytes=MAX_LINE_BYTES) as source:
        lines = exported(path, source.lines())
        try:
            knowing = replace(trusted, known=met).knowing(lines)
        except VerificationError as error:
            raise HistoryError(path, error) from error
    trusted.known.note_all(met.snapshot())
    return replace(knowing, known=trusted.known)


def exported(path: Path, lines: Iterator[bytes]) -> Iterator[bytes]:
    """The lines of a file that must be an export, damaged or not.

    Raises:
        CommandError: it is empty, one receipt, or something else.
    """
    hint = "was it fetched whole? name an export, plain or .gz"
    start, is_one = first_part(lines)
    if not is_export(start):
        file_kinds.refuse_others(path, chain([start], lines), is_none="is no export", hint=hint)
        if is_one:
            raise CommandError(f"{path} is no export; it looks like one receipt", hint=hint)
    return chain([start], lines)


def trees_of(receipt: Receipt | LegacyReceipt, verifier: Verifier) -> Trees:
    """The trees that the proofs of a verified receipt lead to."""
    proofs = receipt.proofs if isinstance(receipt, Receipt) else ()
    found = [verifier.open_checkpoint(proof.checkpoint, proof.origin) for proof in proofs]
    return {(each.origin, each.size): each.root for each in found}


def verify_file(
    path: Path,
    trusted: Trusted,
    *,
    head: bytes | None = None,
    checkpoint: bytes | None = None,
    on_progress: Callable[[int, int], None] = lambda position_bytes, receipts: None,
) -> Verdict:
    """Verify an export, or a file that holds one receipt.

    Raises:
        VerificationError: for the first thing that does not hold.
        CommandError: for a file that cannot be read, or is something else.
    """
    with LineSource(path, max_line_bytes=MAX_LINE_BYTES) as source:
        lines = source.lines()
        start, is_one = first_part(lines)
        if not is_export(start):
            # What is read here of a file of many lines is not missed: it fails at its first.
            file_kinds.refuse_others(path, chain([start], lines))
            if is_one:
                return verify_receipt(start, trusted, head=head, checkpoint=checkpoint)
        return verify_lines(
            chain([start], lines),
            trusted,
            head=head,
            checkpoint=checkpoint,
            on_progress=lambda count: on_progress(source.position_bytes, count),
        )


def verify_lines(
    lines: Iterable[bytes],
    trusted: Trusted,
    *,
    head: bytes | None,
    checkpoint: bytes | None,
    on_progress: Callable[[int], None],
) -> Verdict:
    """Verify an export from its lines; raises VerificationError."""
    report = trusted.verify(lines, head=head, checkpoint=checkpoint, progress=on_progress)
    status = report.status
    truncation = {result.check: result.outcome for result in report.results}.get(Check.TRUNCATION)
    # Who gives a head or checkpoint asks a question; without its answer nothing is settled.
    if (head is not None or checkpoint is not None) and truncation is not Outcome.HOLDS:
        status = Status.UNVERIFIED
    return Verdict(
        subject=report.header.ledger,
        status=status,
        receipts=report.count,
        results=report.results,
        details={
            "ledger_uid": report.header.ledger_uid.hex(),
            "suite": report.header.suite,
            "origin": report.header.origin,
            # Without a checkpoint, nothing says that what the header states is so.
            "tree_size": report.header.tree_size if report.own_tree else None,
            "last_seq": report.last_seq,
            "last_receipt_hash": report.last_hash.hex(),
            "unverified_receipts": report.unverified,
            "first_unverified": _place(report.first_unverified),
            "masked_receipts": report.masked,
            "key_ledger_uid": report.key_ledger_uid.hex() or None,
        },
    )


def _place(found: tuple[str, int] | None) -> dict[str, Any] | None:
    return None if found is None else {"receipt": found[0], "line": found[1]}


def first_part(lines: Iterator[bytes]) -> tuple[bytes, bool]:
    """The first line of an export, or all of a file that may be one receipt; and whether it may.

    A receipt may be spread over lines by a pretty printer; then it does not begin like an export.
    """
    first = next(lines, b"")
    if is_export(first):
        return first, False
    read, objects = bytearray(first), int(first.startswith(b'{"'))
    for line in lines:
        read += line.strip(_JSON_SPACE) + b"\n"
        objects += line.startswith(b'{"')
        if len(read) > _MAX_SPREAD_BYTES:
            return bytes(read), False
    # Several objects, one a line, are an export whose first line was damaged.
    return (bytes(read), False) if objects > 1 else (_compact(bytes(read)), True)


def _compact(data: bytes) -> bytes:
    """JSON that is longer than any receipt, without the space in it: no value is read for that."""
    if len(data) <= MAX_RECEIPT_BYTES:
        return data
    try:
        return msgspec.json.format(data, indent=-1)
    except (ValueError, RecursionError):
        return data


def verify_receipt(
    data: bytes, trusted: Trusted, *, head: bytes | None = None, checkpoint: bytes | None = None
) -> Verdict:
    """Verify one receipt; raises VerificationError."""
    report, held = trusted.verify_one(data, head, checkpoint)
    # As with an export: a question without its answer settles nothing.
    answered = all(result.outcome is Outcome.HOLDS for result in held)
    return Verdict(
        subject=report.receipt,
        status=report.status if answered else Status.UNVERIFIED,
        receipts=1,
        results=(*report.results, *held),
        details={
            "masked_receipts": int(FIELDS_SHOWN in report.results),
            "key_ledger_uid": trusted.key_ledger_uid.hex() or None,
        },
    )
