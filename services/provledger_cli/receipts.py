"""Receipts for people: the few members that answer the usual questions."""

from __future__ import annotations

from provledger.errors import ReceiptFormatError
from provledger.receipt import Receipt
from provledger.statement import parse_statement
from provledger_cli import output


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
