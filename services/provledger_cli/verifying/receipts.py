"""Receipts: shown to people, and fetched anew against a checkpoint that others hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provledger import checkpoint as checkpoints
from provledger import note
from provledger.client.values import AnchorState, ReceiptFilter
from provledger.errors import InputError, ReceiptFormatError
from provledger.receipt import Receipt
from provledger.statement import parse_statement
from provledger_cli import output
from provledger_cli.failures import DOES_NOT_HOLD, CommandError

if TYPE_CHECKING:
    from provledger_cli.connect import Remote


def kept_checkpoint(signed: bytes) -> checkpoints.Checkpoint:
    """What a signed note held elsewhere says. Its signatures are not looked at.

    Raises:
        CommandError: it is no checkpoint.
    """
    try:
        return checkpoints.parse(note.parse(signed).text)
    except InputError as error:
        raise CommandError(
            f"--checkpoint: {error}", hint="give the file of a signed note"
        ) from None


async def proven_against(remote: Remote, receipt: Receipt, signed: bytes) -> Receipt:
    """The receipt with a proof that leads to the very checkpoint in a signed note.

    Raises:
        CommandError: the checkpoint does not cover it, is not one of this log's history, or of
            another log; or that could not be told.
        StatusError: what the services say.
    """
    kept = kept_checkpoint(signed)
    await _check_log(remote, receipt, kept)
    page = await remote.client.list_page(
        receipt.ledger,
        ReceiptFilter(start_t_ns=receipt.t_ns, end_t_ns=receipt.t_ns + 1),
        page_size=1,
        tree_size=kept.size,
    )
    found = next((each for each in page.receipts if each.name == receipt.name), receipt)
    proofs = [each for each in found.proofs if each.origin == kept.origin]
    stated = checkpoints.parse(note.parse(proofs[0].checkpoint).text) if proofs else None
    if stated is None or stated.size != kept.size:
        raise await _not_proven(remote, receipt, kept)
    if stated.root != kept.root:
        raise CommandError(
            f"the log's tree of size {kept.size} is not the one in that checkpoint",
            hint="two histories were shown: keep both files, and see docs/runbooks",
            exit_code=DOES_NOT_HOLD,
        )
    return found


async def unproved(remote: Remote, name: str) -> CommandError:
    """Why a receipt came without a proof: it is not logged yet, or the anchor did not answer."""
    summary = await remote.client.get_summary(name)
    if summary.anchor_state is AnchorState.PENDING:
        return CommandError(f"{name} is not logged yet", hint="wait, and run it again")
    return CommandError(
        f"{name} came without a proof, though it is logged: the anchor did not answer",
        hint="see `provledger status`, and run it again",
    )


async def _check_log(remote: Remote, receipt: Receipt, kept: checkpoints.Checkpoint) -> None:
    """Check that a checkpoint is of the log that a receipt's ledger is in."""
    origins = [proof.origin for proof in receipt.proofs]
    if not origins:
        origins = [(await remote.client.get_ledger(receipt.ledger)).log_origin]
    if kept.origin not in origins:
        raise CommandError(
            f"the checkpoint of size {kept.size} is of another log: {kept.origin}, not "
            f"{', '.join(origins)}",
            hint="name one of this ledger's log, or leave --checkpoint out",
        )


async def _not_proven(
    remote: Remote, receipt: Receipt, kept: checkpoints.Checkpoint
) -> CommandError:
    """Why no proof to a checkpoint came, by what is known of the receipt's place."""
    if not receipt.proofs:
        return await unproved(remote, receipt.name)
    places = [proof.log_index for proof in receipt.proofs if proof.origin == kept.origin]
    if places and min(places) >= kept.size:
        return CommandError(
            f"the checkpoint of size {kept.size} does not cover the receipt: it was logged later",
            hint="name a later checkpoint, or leave --checkpoint out",
        )
    return CommandError(
        f"whether the checkpoint of size {kept.size} covers the receipt could not be told: the "
        "anchor did not answer",
        hint="see `provledger status`, and run it again",
    )


def show_receipt(receipt: Receipt, state: AnchorState = AnchorState.PENDING) -> None:
    """Print a receipt's essentials as a table on stdout; `state` is of one without proofs."""
    rows = [
        ("name", receipt.name),
        ("type", receipt.receipt_type),
        ("ledger", f"{receipt.ledger}, seq {receipt.seq}"),
        ("time", receipt.timestamp_iso),
    ]
    try:
        statement = parse_statement(receipt.statement)
        rows += [
            ("resource", f"{statement.resource_type}/{statement.resource_id}"),
            ("action", statement.action),
            ("actor", statement.actor_id),
            ("request id", statement.request_id),
        ]
    except ReceiptFormatError as error:
        rows.append(("statement", f"cannot be read: {error}"))
    rows += [("receipt hash", receipt.receipt_hash.hex()), ("signed by", receipt.kid)]
    for proof in receipt.proofs:
        size = proof.checkpoint.split(b"\n", 2)[1].decode("ascii", "replace")
        rows.append(("in log", f"{proof.origin}, index {proof.log_index} of {size}"))
        rows += [("held by", item.sink) for item in proof.evidence]
    if not receipt.proofs and state is AnchorState.PENDING:
        rows.append(("in log", "not yet; see `provledger get --wait-anchored`"))
    elif not receipt.proofs:
        rows.append(("in log", f"{state}, but the anchor gave no proof; get it once more"))
    output.show(output.card("", rows))
