"""A receipt gets a newer proof: verified, joined with the old one, and otherwise the same bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from provledger import merkle
from provledger.errors import VerificationError
from provledger.receipt import Receipt
from provledger.refresh import check_same, refreshed
from provledger.report import Status
from provledger.verify import Verifier
from tests.support.chain import Chain, key_set, sample_chain, with_changes
from tests.unit.test_verify import masked_receipt

SIZES = (20, 30)


@pytest.fixture(scope="module")
def chain() -> Chain:
    return sample_chain(SIZES)


def proof_between(chain: Chain, old: int, new: int) -> list[bytes]:
    return merkle.consistency_proof(merkle.leaf_hashes(chain.leaves[:new]), old)


def refresh(old: Receipt, new: Receipt, consistency: Sequence[bytes]) -> Receipt:
    found, report = refreshed(old, new.proofs[0], consistency, Verifier(key_set()))
    assert report.status is Status.VERIFIED
    return found


def test_the_proof_is_newer_and_every_other_byte_the_same(chain: Chain) -> None:
    size = len(chain.leaves)
    for old, new in zip(chain.receipts(21), chain.receipts(), strict=False):
        found = refresh(old, new, proof_between(chain, 21, size))
        assert found.proofs == new.proofs
        assert with_changes(found, proofs=old.proofs).encode() == old.encode()
        assert refresh(found, new, []) == found


def test_a_receipt_without_a_proof_gets_its_first(chain: Chain) -> None:
    new = chain.receipts()[7]
    assert refresh(with_changes(new, proofs=()), new, []) == new


def test_proofs_in_other_logs_stay(chain: Chain) -> None:
    """A ledger that was moved has proofs in two logs; the other one is not touched."""
    old, new = chain.receipts(21)[7], chain.receipts()[7]
    other = dataclasses.replace(old.proofs[0], origin="another.test/log")
    held = with_changes(old, proofs=(other, *old.proofs))
    with pytest.raises(VerificationError, match=r"another\.test/log"):
        # Kept, and verified like everything else: this one was made up.
        refresh(held, new, proof_between(chain, 21, len(chain.leaves)))


def test_another_history_is_refused(chain: Chain) -> None:
    size = len(chain.leaves)
    good = proof_between(chain, 21, size)
    old, new = chain.receipts(21)[7], chain.receipts()[7]
    for consistency in ([], good[:-1], [*good, bytes(32)], [bytes(32), *good[1:]]):
        with pytest.raises(VerificationError, match="does not extend"):
            refresh(old, new, consistency)


def test_an_older_checkpoint_is_refused(chain: Chain) -> None:
    with pytest.raises(VerificationError, match="is older"):
        refresh(chain.receipts()[7], chain.receipts(21)[7], [])


def test_the_proof_of_another_receipt_is_refused(chain: Chain) -> None:
    size = len(chain.leaves)
    old, other = chain.receipts(21)[7], chain.receipts()[8]
    with pytest.raises(VerificationError, match="log index"):
        refresh(old, other, proof_between(chain, 21, size))
    moved = dataclasses.replace(other.proofs[0], log_index=old.proofs[0].log_index)
    with pytest.raises(VerificationError):
        refresh(old, with_changes(other, proofs=(moved,)), proof_between(chain, 21, size))
    with pytest.raises(VerificationError):
        # The first proof is believed no more than a newer one.
        refresh(with_changes(old, proofs=()), other, [])


def test_what_is_fetched_must_be_what_is_held(chain: Chain) -> None:
    old, new = chain.receipts(21)[7], chain.receipts()[7]
    check_same(old, new)
    for other in (chain.receipts()[8], with_changes(new, t_ns=new.t_ns + 1)):
        with pytest.raises(VerificationError) as caught:
            check_same(old, other)
        assert caught.value.receipt == old.name


@pytest.mark.parametrize("pointers", [("/entityId",), ()])
def test_a_masked_receipt_is_the_one_it_was_made_of(
    chain: Chain, pointers: tuple[str, ...]
) -> None:
    """The services have it whole; the payload hash, which both have, binds what it shows."""
    old, new = chain.receipts(21)[7], chain.receipts()[7]
    held = masked_receipt(*pointers, receipt=old)
    check_same(held, new)
    found = refresh(held, new, proof_between(chain, 21, len(chain.leaves)))
    assert found == with_changes(held, proofs=new.proofs)


def test_a_masked_receipt_of_something_else_is_another(chain: Chain) -> None:
    old, new = chain.receipts(21)[7], chain.receipts()[7]
    held = masked_receipt("/entityId", receipt=old)
    opening = held.commitment
    none = dataclasses.replace(opening, disclosures=(opening.disclosures[0][:-4],))
    other = masked_receipt("/entityId", receipt=chain.receipts()[8])
    for wrong in (
        with_changes(held, t_ns=held.t_ns + 1),
        with_changes(held, payload_hash=bytes(32)),
        with_changes(held, fields_mask=()),
        with_changes(held, commitment=none),
        with_changes(held, commitment=other.commitment),
        # Only what is masked lacks its payload.
        with_changes(old, payload=None),
        with_changes(old, payload=b"{}"),
    ):
        with pytest.raises(VerificationError) as caught:
            check_same(wrong, new)
        assert caught.value.receipt == old.name
