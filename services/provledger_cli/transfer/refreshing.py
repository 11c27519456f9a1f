"""The work behind `refresh EXPORT`: made anew, verified, and only then in the old one's place.

The old file is evidence: of what the log was when it was written. So the new one must extend its
checkpoint and reach its head, under keys that its holder trusts, or the services show another
history and the old file stays what it is.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from provledger.errors import VerificationError
from provledger.export import (
    FOOTER_PREFIX,
    MAX_CONSISTENCY_PROOFS,
    ExportFooter,
    ExportHeader,
    parse_footer,
    parse_header,
)
from provledger.keyset import KeySet
from provledger.receipt import Receipt
from provledger.refresh import check_same, is_masked
from provledger.report import Check, Finding, Status
from provledger_cli import output, placing, scratch
from provledger_cli.connect import Remote, Target, run_async
from provledger_cli.failures import CommandError
from provledger_cli.sources import LineSource
from provledger_cli.transfer.exporting import Exported, prepare, write_export
from provledger_cli.verifying import checking
from provledger_cli.verifying.receipt_files import receipts_of


@dataclass(frozen=True, slots=True)
class _Old:
    """What the file that is held says at its ends."""

    header: ExportHeader
    footer: ExportFooter

    @property
    def checkpoints(self) -> list[bytes]:
        """All that it carries, its own first; the new file proves that it extends them.

        That one has no room for more than others have.
        """
        earlier = [proof.checkpoint for proof in self.footer.consistency]
        own = self.footer.checkpoint
        return (earlier if own is None else [own, *earlier])[:MAX_CONSISTENCY_PROOFS]


def refresh_export(
    where: Target, file: Path, out: Path, keys: KeySet | None, timeout_s: float
) -> dict[str, Any]:
    """Make an export anew in `out`; what was done, as JSON.

    Raises:
        VerificationError: the services have another history, or something of it does not hold.
        CommandError: it could not be told.
    """
    old = _read_ends(file)
    with _not_yet_verified(out) as made:
        done, trusted = run_async(_fetch(where, file, old, made, keys, timeout_s))
        with output.progress("receipts") as bar:
            task = bar.add_task("verifying", total=done.receipts)
            verdict = checking.verify_file(
                made,
                checking.Trusted(keys=trusted),
                head=old.footer.head,
                checkpoint=old.footer.checkpoint,
                on_progress=lambda _, count: bar.update(task, completed=count),
            )
        if verdict.status is not Status.VERIFIED:
            raise CommandError(
                f"the new export of {old.header.ledger} cannot be verified yet; {file} stays as "
                "it is",
                hint="try again in a moment; `provledger export` and `verify` say what is missing",
            )
        with made.open("rb") as source, placing.writing(out, mode=0o644) as place:
            shutil.copyfileobj(source, place)
    return {
        "file": str(out),
        "receipts": done.receipts,
        "tree_size": done.tree_size,
        "origin": old.header.origin,
        "status": verdict.status.value,
    }


def _read_ends(file: Path) -> _Old:
    with LineSource(file, max_line_bytes=checking.MAX_LINE_BYTES) as source:
        lines = source.lines()
        header = parse_header(next(lines, b""))
        for line in lines:
            if line.startswith(FOOTER_PREFIX):
                return _Old(header, parse_footer(line))
    raise CommandError(f"{file} has no footer: it is cut off", hint="export again")


async def _fetch(
    where: Target, file: Path, old: _Old, made: Path, keys: KeySet | None, timeout_s: float
) -> tuple[Exported, KeySet]:
    """Write the new export; what was written, and the keys: those that the registry publishes,
    where none are given."""
    held_receipts = receipts_of(file)

    def compare(receipt: Receipt) -> None:
        held = next(held_receipts, None)
        if held is None:
            return
        if held.seq > receipt.seq:
            # The services are right to have it: to compare by place would blame each that follows.
            raise VerificationError(
                f"the file lacks seq {receipt.seq}",
                check=Check.CHAIN,
                finding=Finding.DELETED,
                receipt=receipt.name,
            )
        check_same(held, receipt)
        if is_masked(held):
            raise CommandError(
                f"{file} holds masked receipts, seq {held.seq} first: made anew, it would show "
                "what was taken out",
                hint="refresh the receipts one by one, each in a file of its own: they stay "
                "masked; or export anew, and mask that",
            )

    async with Remote(where, timeout_s=timeout_s) as remote:
        plan = await prepare(
            remote, old.header.ledger, wait_s=timeout_s, known_checkpoints=old.checkpoints
        )
        with output.progress("receipts") as bar:
            task = bar.add_task("refreshing", total=plan.last_seq + 1)
            done = await write_export(
                remote,
                plan,
                made,
                lambda count, total: bar.update(task, completed=count, total=total),
                check=compare,
                at_end=lambda: _check_all_there(next(held_receipts, None)),
            )
        if keys is None:
            keys = KeySet.parse(await remote.client.jwks())
        return done, keys


def _check_all_there(held: Receipt | None) -> None:
    if held is not None:
        raise VerificationError(
            "the services do not have this receipt any more",
            check=Check.TRUNCATION,
            finding=Finding.DELETED,
            receipt=held.name,
        )


@contextmanager
def _not_yet_verified(out: Path) -> Iterator[Path]:
    """A file to be verified first, compressed as `out` is by its name, which is gone in the end.

    It is beside `out`, where there is room for that; what is no file gets it from elsewhere.
    """
    is_file = not placing.is_stdout(out) and (out.is_file() or not out.exists())
    with ExitStack() as stack:
        if is_file:
            folder = stack.enter_context(scratch.beside(out.resolve()))
        else:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="provledger-")))
        yield folder / f"new-{out.name}"
