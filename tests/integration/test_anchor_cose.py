"""COSE receipts of a real log: one signature for a tree, and refused where there can be none."""

from __future__ import annotations

from pathlib import Path

import pytest

from provledger.cose_receipt import verify_cose_receipt
from provledger.errors import FailedPreconditionError, OutOfRangeError, UnavailableError
from provledger.keyset import KeyPurpose, KeySet, VerificationKey
from tests.support.anchoring import Ledger, TestKeys, read_entries, running_log, submit


def key_set(keys: TestKeys) -> KeySet:
    signer = keys.signers[KeyPurpose.RECEIPT]
    return KeySet(
        [
            VerificationKey.from_public_key(
                signer.public_key, kid="receipt-1", purpose=KeyPurpose.RECEIPT
            )
        ]
    )


async def test_every_entry_has_a_receipt_and_a_tree_one_signature(tmp_path: Path) -> None:
    keys = TestKeys()
    async with running_log(f"sqlite:///{tmp_path}/a.db", tmp_path / "data", keys=keys) as log:
        with pytest.raises(FailedPreconditionError, match="one leaf"):
            await log.receipts.get(0, 0)
        ledger = Ledger()
        ledger.grow(400)
        await submit(log, ledger, 0, 150)
        await submit(log, ledger, 150)
        for size in (151, 401):
            for index, entry in list(enumerate(read_entries(log)))[:size:37]:
                data, tree_size = await log.receipts.get(index, size)
                origin = log.identity.origin
                receipt = verify_cose_receipt(data, entry, key_set(keys), origin=origin)
                assert (receipt.log_index, receipt.tree_size, tree_size) == (index, size, size)
        assert len(keys.signers[KeyPurpose.RECEIPT].signed) == 2
        with pytest.raises(OutOfRangeError):
            await log.receipts.get(401, 0)
        # Only roots that a checkpoint was signed for.
        with pytest.raises(Exception, match="no signed checkpoint of tree size 200"):
            await log.receipts.get(5, 200)


async def test_a_key_that_is_away_is_said_to_be(tmp_path: Path) -> None:
    keys = TestKeys()
    async with running_log(f"sqlite:///{tmp_path}/a.db", tmp_path / "data", keys=keys) as log:
        ledger = Ledger()
        ledger.grow(3)
        await submit(log, ledger)
        keys.signers[KeyPurpose.RECEIPT].fail = True
        with pytest.raises(UnavailableError, match="the receipt could not be signed"):
            await log.receipts.get(1, 0)
        keys.signers[KeyPurpose.RECEIPT].fail = False
        assert (await log.receipts.get(1, 0))[1] == 4


async def test_a_tree_that_is_not_sha256_has_none(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    async with running_log(url, tmp_path / "data", suite_name="blake3-all") as log:
        ledger = Ledger(suite_name="blake3-all")
        ledger.grow(3)
        await submit(log, ledger)
        with pytest.raises(FailedPreconditionError) as caught:
            await log.receipts.get(1, 0)
        assert caught.value.reason == "TREE_NOT_SHA256"
