"""Receipts: shown to people, and fetched anew against a checkpoint that others hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provledger import checkpoint as checkpoints
from provledger import note
from provledger.client.values import ReceiptFilter
from provledger.errors import InputError, ReceiptFormatError
from provledger.receipt import Receipt
from provledger.statement import parse_statement
from provledger_cli import output
from provledger_cli.failures import DOES_NOT_HOLD, CommandError

if TYPE_CHECKING:
    from provledger_cli.connect import Remote


async def proven_against(remote: Remote, receipt: Receipt, signed: bytes) -> Receipt:
    """The receipt with a proof that leads to the very checkpoint in a signed note.

    Raises:
        CommandError: the checkpoint does not cover it, or is not one of this log's history.
        StatusError: what the services say.
    """
    try:
        kept = checkpoints.parse(note.parse(signed).text)
    except InputError as error:
        raise CommandError(
            f"--checkpoint: {error}", hint="give the file of a signed note"
        ) from None
    page = await remote.client.list_page(
        receipt.ledger,
        ReceiptFilter(start_t_ns=receipt.t_ns, end_t_ns=receipt.t_ns + 1),
        page_size=1,
        tree_size=kept.size,
    )
    found = next((each for each in page.receipts if each.name == receipt.name), receipt)
    proofs = [each for each in found.proofs if each.origin == kept.origin]
    sizes = [checkpoints.parse(note.parse(each.checkpoint).text) for each in proofs]
    if not proofs or sizes[0].size != kept.size:
        raise CommandError(
            f"the checkpoint of size {kept.size} does not cover the receipt: it was logged later",
            hint="name a later checkpoint, or leave --checkpoint out",
        )
    if sizes[0].root != kept.root:
        raise CommandError(
            f"the log's tree of size {kept.size} is not the one in that checkpoint",
            hint="two histories were shown: keep both files, and see docs/runbooks",
            exit_code=DOES_NOT_HOLD,
        )
    return found


def show_receipt(receipt: Receipt) -> None:
    """Print a receipt's essentials as a table on stdout."""
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
    if not receipt.proofs:
        rows.append(("in log", "not yet; see `provledger get --wait-anchored`"))
    output.show(output.card("", rows))
