"""The entry that a receipt stands for, rebuilt from the receipt (docs/formats/entry.md).

Nothing is verified here: what is rebuilt is compared with the log by whoever asks
(`provledger.cose_receipt`), or was verified before (`provledger.verify`).
"""

from __future__ import annotations

from provledger.entry import Entry
from provledger.receipt import Receipt
from provledger.witness_batch import signature_digest, statement_leaf_hash


def entry_of(receipt: Receipt) -> bytes:
    """The entry bytes, which are the log's leaf data."""
    signature = receipt.signature
    return Entry(
        ledger_uid=receipt.ledger_uid,
        suite=receipt.suite,
        seq=receipt.seq,
        t_ns=receipt.t_ns,
        prev=receipt.previous_hash,
        statement=statement_leaf_hash(receipt.suite, receipt.statement),
        payload=receipt.payload_hash,
        signature=signature_digest(receipt.suite, signature.body, signature.sig),
    ).encode()
