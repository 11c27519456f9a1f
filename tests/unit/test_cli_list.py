"""What `list` shows of receipts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from provledger.client import AnchorState, ReceiptSummary
from provledger_cli.verbs.list_ import _cells
from tests.support.chain import sample_chain

CHAIN = sample_chain()
SUMMARY = ReceiptSummary(
    name="tenants/acme/ledgers/main/receipts/r",
    receipt_type="mutation",
    ledger_uid=bytes(16),
    suite="blake3",
    seq=1,
    t_ns=1,
    previous_hash=bytes(32),
    payload_hash=bytes(32),
    receipt_hash=bytes(32),
    kid="witness-1",
    anchor_state=AnchorState.LOGGED,
)


@pytest.mark.parametrize(
    ("kind", "resource_id", "shown"),
    [
        ("File", "/etc/x", "File//etc/x"),
        ("File", "/etc/x/", "File//etc/x/"),
        ("File", "", "File"),
        ("", "/x/", "/x/"),
        ("", "", ""),
    ],
)
def test_resources_are_shown_as_they_are(kind: str, resource_id: str, shown: str) -> None:
    """Two that differ must not look the same."""
    statement = replace(CHAIN.statements[1], resource_type=kind, resource_id=resource_id)
    assert _cells(SUMMARY, statement)[5] == shown
