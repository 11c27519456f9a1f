"""The work behind `export`: a ledger, page by page, into one file that verifies on its own.

All proofs lead to one checkpoint, so that pages fetched while the ledger grows fit together; what
was recorded after that checkpoint is for the next export. The file appears when it is whole.
"""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, cast

from provledger import dsse
from provledger.api.anchor.v1 import anchor_pb2
from provledger.client import Ledger, ReceiptPage
from provledger.client.paging import Pages
from provledger.errors import (
    FailedPreconditionError,
    InternalError,
    NotFoundError,
    OutOfRangeError,
)
from provledger.export import (
    BinarySink,
    ConsistencyProof,
    ExportHeader,
    ExportWriter,
)
from provledger.head import Head, parse_head
from provledger.key_events import LEDGER_NAME as KEY_LEDGER_NAME
from provledger.receipt import Receipt
from provledger_cli import output
from provledger_cli.anchoring import log_state, wait_until_anchored
from provledger_cli.anchors import DEFAULT_LOG
from provledger_cli.connect import Remote
from provledger_cli.failures import CommandError
from provledger_cli.placing import writing
from provledger_cli.transfer.key_ledger_wait import key_ledger_anchored
from provledger_cli.verifying.earlier_checkpoints import consistency

RECENT_CHECKPOINTS: Final = 256
"""Earlier published checkpoints that an export carries, unless told otherwise."""

_KEY_LEDGER_WAIT_S: Final = 5.0
_PAGE_SIZE: Final = 500
_PAGE_TIMEOUT_S: Final = 120.0
# Between attempts at a page that comes without proofs.
_PROOF_WAITS_S: Final = (0.5, 2.0, 5.0)
# Higher levels cost more time than they save space: hashes and signatures do not compress.
_GZIP_LEVEL: Final = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """What an export is pinned to: its header, the head's envelope, what goes in the footer.

    head: None for what a held log signs no head of.
    """

    header: ExportHeader
    last_seq: int
    head: bytes | None
    checkpoint: bytes
    consistency: tuple[ConsistencyProof, ...]
    # Lines of the key ledger's export; empty where it is left out.
    key_ledger: tuple[bytes, ...] = ()

    def begin(self, file: BinarySink) -> ExportWriter:
        """Write what comes before the receipts."""
        writer = ExportWriter(file, self.header)
        writer.write_key_ledger(self.key_ledger)
        return writer

    def end(self, writer: ExportWriter) -> None:
        """Write what comes after them."""
        writer.finish(head=self.head, checkpoint=self.checkpoint, consistency=self.consistency)


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    ledger: str
    receipts: int
    tree_size: int
    earlier_checkpoints: int
    key_events: int
    last_seq: int
    bytes_written: int
    seconds: float


async def prepare(
    remote: Remote,
    ledger_name: str,
    *,
    wait_s: float,
    earlier: int = RECENT_CHECKPOINTS,
    known_checkpoints: Sequence[bytes] = (),
    key_ledger: bool = True,
    on_wait: Callable[[int, int], None] = lambda done, total: None,
) -> Plan:
    """Pick the checkpoint to export against, and fetch what belongs to it.

    `wait_s` 0 takes what is anchored already. `known_checkpoints` are signed notes held elsewhere,
    for which a consistency proof is put in as well; revocations name others.
    `key_ledger`: put in the key ledger as of that checkpoint, or where it is in another log, as of
    one of that log from then on.

    Raises:
        CommandError: if what is recorded is not anchored in time, or a known checkpoint is none of
            this log up to then, or signed by a key that is not known.
        VerificationError: a known checkpoint is of another history of the log, or of more than it,
            or not signed by it.
        StatusError: what the services say.
    """
    ledger = await remote.client.get_ledger(ledger_name)
    patience_s = wait_s or _KEY_LEDGER_WAIT_S
    key_log: str | None = None
    if key_ledger and ledger_name != KEY_LEDGER_NAME and remote.has("anchor"):
        # Else a rotation of this moment could be in the receipts, and not yet in the key ledger.
        key_log = await key_ledger_anchored(remote, patience_s)
    tree_size = await _tree_size(remote, ledger, wait_s, on_wait)
    try:
        signed = await remote.client.get_head(ledger_name, tree_size=tree_size)
    except FailedPreconditionError as error:
        if error.reason != "RESTORED_BEHIND":
            raise
        message = output.literal(error.message)
        output.say(f"{message}\nThis is an archive of what the copy has, without a head")
        return await _archive(remote, ledger, earlier, known_checkpoints)
    head = parse_head(dsse.decode(signed.head).payload)
    origin = ledger.log_origin or head.origin
    proofs: list[ConsistencyProof] = []
    if remote.has("anchor"):
        log = ledger.log or DEFAULT_LOG
        proofs = await consistency(remote, log, origin, head.size, earlier, known_checkpoints)
    header = ExportHeader(
        ledger=ledger.name,
        ledger_uid=ledger.uid,
        suite=ledger.suite,
        origin=origin,
        tree_size=head.size,
        created_at_ns=time.time_ns(),
    )
    events: list[bytes] = []
    if key_log == ledger.log:
        events = await _key_ledger_lines(remote, head.size)
    elif key_log is not None:
        events = await _key_ledger_of_another_log(remote, key_log, head, patience_s)
    return Plan(header, head.seq, signed.head, signed.checkpoint, tuple(proofs), tuple(events))


async def _archive(
    remote: Remote, ledger: Ledger, earlier: int, known_checkpoints: Sequence[bytes]
) -> Plan:
    """All that is logged of a copy that is older than what was anchored.

    Its log signs nothing any more, and so stands still: the newest checkpoint covers it.
    """
    log = ledger.log or DEFAULT_LOG
    signed = await remote.call(
        remote.anchor.GetCheckpoint, anchor_pb2.GetCheckpointRequest(log=log)
    )
    proofs = await consistency(
        remote, log, ledger.log_origin, signed.tree_size, earlier, known_checkpoints
    )
    header = ExportHeader(
        ledger=ledger.name,
        ledger_uid=ledger.uid,
        suite=ledger.suite,
        origin=ledger.log_origin,
        tree_size=signed.tree_size,
        created_at_ns=time.time_ns(),
    )
    return Plan(header, ledger.logged_seq, None, signed.checkpoint, tuple(proofs))


async def _key_ledger_lines(remote: Remote, tree_size: int, signed_from_ns: int = 0) -> list[bytes]:
    """The key ledger's export against the checkpoint of a size, as lines.

    `signed_from_ns`: its head must not be signed before. Raises CommandError if it is.
    """
    ledger = await remote.client.get_ledger(KEY_LEDGER_NAME)
    try:
        signed = await remote.client.get_head(KEY_LEDGER_NAME, tree_size=tree_size)
    except (NotFoundError, OutOfRangeError):
        return []
    head = parse_head(dsse.decode(signed.head).payload)
    if head.signed_at_ns < signed_from_ns:
        raise CommandError(
            "the anchor's clock went back between two heads, and the key ledger's seems the older",
            hint="export again",
        )
    header = ExportHeader(
        KEY_LEDGER_NAME, ledger.uid, ledger.suite, head.origin, head.size, time.time_ns()
    )
    plan = Plan(header, head.seq, signed.head, signed.checkpoint, ())
    buffer = Lines()
    writer = plan.begin(buffer)
    async for page in receipts(remote, plan):
        for receipt in page:
            writer.write(receipt)
    plan.end(writer)
    return buffer.take()


async def _key_ledger_of_another_log(
    remote: Remote, log: str, head: Head, wait_s: float
) -> list[bytes]:
    """The key ledger's export against a checkpoint of its own log, taken after `head` was signed.

    No tree joins the two: a verifier goes by the times of their heads (docs/formats/export.md).
    """
    # Again: what it said when we asked first may be older than what that head covers.
    await key_ledger_anchored(remote, wait_s)
    size = await _anchored_size(remote, log)
    if not size:
        output.say("nothing of the key ledger is anchored yet: it is not in the export")
        return []
    return await _key_ledger_lines(remote, size, head.signed_at_ns)


class Lines:
    """A file to the writer of exports, a list of lines to their reader."""

    def __init__(self) -> None:
        self._ready: list[bytes] = []

    def write(self, line: bytes, /) -> int:
        """Take one line."""
        self._ready.append(line)
        return len(line)

    def take(self) -> list[bytes]:
        """Hand over what was written since the last time."""
        taken, self._ready = self._ready, []
        return taken


async def receipts(remote: Remote, plan: Plan) -> AsyncIterator[Sequence[Receipt]]:
    """Yield the planned receipts, a page at a time, each with a proof to the plan's checkpoint.

    An archive has no head: what the log lost of it, it cannot prove.

    Raises:
        CommandError: a receipt came without its proof, again and again.
        InternalError: if the ledger lists fewer than its head says.
    """
    pages = Pages()
    count = bare = 0
    while pages.more and count <= plan.last_seq:
        page, covered = await _proved_page(remote, plan, pages.token)
        pages.turn(page.next_page_token, len(page.receipts))
        count += len(covered)
        if plan.head is None:
            bare += sum(not _is_proved(receipt, plan) for receipt in covered)
        yield covered
    if bare:
        output.say(f"{bare:,} receipts have no proof to the log's checkpoint")
    if count != plan.last_seq + 1:
        raise InternalError(
            "INCOMPLETE_LISTING",
            f"the ledger listed {count} receipts, there should be {plan.last_seq + 1}",
        )


async def _proved_page(remote: Remote, plan: Plan, token: str) -> tuple[ReceiptPage, list[Receipt]]:
    """A page, and the receipts in it that are planned, with their proofs.

    Services of before leave the proofs out while the anchor does not answer.
    """
    waits_s = iter(_PROOF_WAITS_S)
    while True:
        page = await remote.client.list_page(
            plan.header.ledger,
            page_size=_PAGE_SIZE,
            page_token=token,
            tree_size=plan.header.tree_size,
            timeout_s=_PAGE_TIMEOUT_S,
        )
        # What is newer than the checkpoint has no proof yet.
        covered = [receipt for receipt in page.receipts if receipt.seq <= plan.last_seq]
        bare = next((receipt for receipt in covered if not _is_proved(receipt, plan)), None)
        if bare is None or plan.head is None:
            return page, covered
        wait_s = next(waits_s, None)
        if wait_s is None:
            raise CommandError(
                f"{bare.name} comes without a proof to the checkpoint of size "
                f"{plan.header.tree_size}",
                hint="the anchor may be away: see `provledger status`, and run it again",
            )
        await asyncio.sleep(wait_s)


def _is_proved(receipt: Receipt, plan: Plan) -> bool:
    """Whether one of its proofs leads to the plan's checkpoint, whoever else signed it."""
    text, blank, _ = plan.checkpoint.rpartition(b"\n\n")
    return any(proof.checkpoint.startswith(text + blank) for proof in receipt.proofs)


async def write_export(
    remote: Remote,
    plan: Plan,
    out: Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    check: Callable[[Receipt], None] = lambda receipt: None,
    at_end: Callable[[], None] = lambda: None,
) -> Exported:
    """Write what is planned to a file, which appears when it is whole, or to a pipe or `-`.

    `check` is given each receipt in its order, and `at_end` called before the file takes its place:
    what they raise keeps it from doing so.
    """
    started_s = time.monotonic()
    with writing(out) as raw, _packed(out, counted := _Counted(raw)) as file:
        writer = plan.begin(file)
        async for page in receipts(remote, plan):
            for receipt in page:
                check(receipt)
                writer.write(receipt)
            on_progress(writer.count, plan.last_seq + 1)
        at_end()
        plan.end(writer)
    return Exported(
        ledger=plan.header.ledger,
        receipts=writer.count,
        tree_size=plan.header.tree_size,
        earlier_checkpoints=len(plan.consistency),
        key_events=max(0, len(plan.key_ledger) - 3),
        last_seq=plan.last_seq,
        bytes_written=counted.size_bytes,
        seconds=time.monotonic() - started_s,
    )


async def _tree_size(
    remote: Remote, ledger: Ledger, wait_s: float, on_wait: Callable[[int, int], None]
) -> int:
    """The size of the checkpoint to export against: the newest that every sink holds."""
    if not remote.has("anchor"):
        return 0
    if wait_s:
        _, _, reached = await wait_until_anchored(
            remote, wait_s, only=ledger.name, on_progress=on_wait
        )
        if not reached:
            raise CommandError(
                f"not everything in {ledger.name} was anchored within {wait_s:.0f} s",
                hint="see `provledger status`; --no-wait exports what is anchored already",
            )
    size = await _anchored_size(remote, ledger.log or DEFAULT_LOG)
    if not size:
        raise CommandError(
            "nothing is anchored yet", hint="wait for it with `provledger status --wait 30`"
        )
    return size


async def _anchored_size(remote: Remote, log: str) -> int:
    """Tree size that every sink holds, or that is published where there are no sinks."""
    state = await log_state(remote, name=log)
    return state.published_size if state.anchored_size is None else state.anchored_size


class _Counted:
    """A binary file that is written, and how much was written to it: a pipe does not know."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size_bytes = 0

    def write(self, data: bytes, /) -> int:
        """Write all of it."""
        self.size_bytes += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        """Hand it on."""
        self._file.flush()


@contextmanager
def _packed(path: Path, raw: _Counted) -> Iterator[BinarySink]:
    """Compressed, if the name says so."""
    if not path.name.endswith(".gz"):
        yield raw
        return
    # Without name and time, so that the same export is the same file.
    with gzip.GzipFile("", "wb", _GZIP_LEVEL, cast(IO[bytes], raw), mtime=0) as packed:
        yield cast(BinarySink, packed)
