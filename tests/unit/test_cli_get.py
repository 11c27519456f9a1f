"""What `get` writes beside receipts."""

from __future__ import annotations

import pytest

from provledger import checkpoint as checkpoints
from provledger import merkle, tlog_proof
from provledger import note as notes
from provledger.rebuild import entry_of
from provledger_cli.failures import CommandError
from provledger_cli.verbs.get import _joined, _tlog_proof
from tests.support.chain import sample_chain, with_changes
from tests.unit.test_verify import masked_receipt


def test_a_tlog_proof_proves_by_sha256() -> None:
    receipt = sample_chain().receipts()[3]
    proof = tlog_proof.parse_tlog_proof(_tlog_proof(receipt))
    signed = checkpoints.parse(notes.parse(proof.checkpoint).text)
    leaf = merkle.leaf_hash(entry_of(receipt))
    merkle.verify_inclusion(proof.index, signed.size, leaf, list(proof.hashes), signed.root)


def test_a_tree_of_another_hash_has_none() -> None:
    """It would be written, and could not hold."""
    with pytest.raises(CommandError, match="SHA-256") as caught:
        _tlog_proof(sample_chain(suite="blake3-all").receipts()[3])
    assert "the receipt itself" in caught.value.hint


def test_a_masked_receipt_stays_so_with_newer_proofs() -> None:
    """Who took a payload out gives the file away: it must not come back with the proofs."""
    chain = sample_chain((20, 30))
    old, new = chain.receipts(21)[7], chain.receipts()[7]
    held = masked_receipt("/entityId", receipt=old)
    assert _joined(held, new, "r.json") == with_changes(held, proofs=new.proofs)
    assert _joined(old, new, "r.json") == new
    with pytest.raises(CommandError, match="another") as caught:
        _joined(held, chain.receipts()[8], "r.json")
    assert caught.value.exit_code == 1
