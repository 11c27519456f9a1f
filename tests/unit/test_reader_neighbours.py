"""Statements, evidence and logs that are right in all but one thing."""

from __future__ import annotations

import dataclasses
import json

import orjson
import pytest

from provledger import _statement_canonical, merkle
from provledger.entry import parse_entry
from provledger.errors import LogDamagedError, ReceiptFormatError, VerificationError
from provledger.fsck import Bundle, LedgerBinder
from provledger.monitoring import check_present, entry_of
from provledger.split_view import parse_split_view
from provledger.statement import parse_statement, read_bound
from provledger.tiletree import TileTree
from tests.support.anchoring import Ledger
from tests.support.chain import ORIGIN, sample_chain, with_changes
from tests.support.tiled import MemoryFiles, tile_files
from tests.unit.test_fsck import FIRST
from tests.unit.test_monitoring import evidence
from tests.unit.test_statement import FULL


@pytest.mark.parametrize(("uid", "salt"), [(15, 17), (17, 15), (0, 32), (32, 0)])
def test_lengths_that_only_add_up_are_refused(uid: int, salt: int) -> None:
    value = json.loads(FULL.encode())
    value["predicate"]["ledgerUid"] = "ab" * uid
    value["predicate"]["salt"] = "cd" * salt
    data = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    assert _statement_canonical.read(data) is None
    for reader in (parse_statement, read_bound):
        with pytest.raises(ReceiptFormatError):
            reader(data)


def test_an_entry_is_not_taken_for_a_receipt_with_another_hash() -> None:
    """The log holds the entry, and the receipt names another hash: what it claims is not there."""
    chain = sample_chain(suite="fips")
    receipt = chain.receipts()[3]
    entries = chain.leaves
    tree = TileTree(MemoryFiles(tile_files(entries)), len(entries), merkle.root(entries))
    assert check_present(receipt, ORIGIN, tree)
    changed = with_changes(receipt, receipt_hash=bytes(32))
    with pytest.raises(VerificationError, match="receiptHash"):
        entry_of(changed)
    with pytest.raises(VerificationError, match="receiptHash"):
        check_present(changed, ORIGIN, tree)


def test_evidence_has_one_spelling() -> None:
    data = evidence(200, 300).encode()
    assert parse_split_view(data).encode() == data
    for loose in (
        data.replace(b'{"splitView":', b'{"splitView": ', 1),
        json.dumps(dict(reversed(json.loads(data)["splitView"].items())))
        .join(('{"splitView":', "}"))
        .encode(),
    ):
        with pytest.raises(ReceiptFormatError, match="canonical"):
            parse_split_view(loose)


def test_an_entry_with_another_past_does_not_follow() -> None:
    """The seqs are in order, the chain is not: another history was put behind the first entries."""
    one = Ledger()
    one.grow(4)
    entries = [FIRST, *one.entries[:2]]
    entry = parse_entry(one.entries[2])
    entries.append(dataclasses.replace(entry, prev=bytes(32)).encode())
    with pytest.raises(LogDamagedError, match="does not follow") as caught:
        LedgerBinder(ORIGIN).read(Bundle(0, entries))
    assert caught.value.log_index == 3
