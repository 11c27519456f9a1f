"""One receipt against a head or a checkpoint from elsewhere: holds, does not, or stays open."""

from __future__ import annotations

import pytest

from provledger.errors import InputError, VerificationError
from provledger.export import verify_export
from provledger.held import check_held, check_readable
from provledger.receipt import Receipt
from provledger.report import Check, Finding, Outcome
from provledger.revocation import Trees
from provledger.verify import Verifier
from tests.support.chain import Chain, key_set, mutation, sample_chain, with_changes

KEYS = key_set()
CHAIN = sample_chain()
RECEIPT = CHAIN.receipts()[4]
OLD_SIZE = 6


def fork() -> Chain:
    """The same keys and the same ledger, whose history is another one from seq 4 on."""
    other = sample_chain()
    other.links, other.leaves = other.links[:4], other.leaves[:5]
    other.append([mutation(80 + i) for i in range(5)])
    return other


def held(
    receipt: Receipt = RECEIPT,
    *,
    head: bytes | None = None,
    checkpoint: bytes | None = None,
    trees: Trees | None = None,
) -> tuple[Check, Outcome]:
    (result,) = check_held(receipt, Verifier(KEYS), trees or {}, head=head, checkpoint=checkpoint)
    return result.check, result.outcome


def test_nothing_given_is_nothing_to_say() -> None:
    assert check_held(RECEIPT, Verifier(KEYS), {}, head=None, checkpoint=None) == ()


def test_checkpoint_that_its_proof_leads_to_holds() -> None:
    assert held(checkpoint=CHAIN.checkpoint()) == (Check.CONSISTENCY, Outcome.HOLDS)


def test_checkpoint_of_the_same_size_and_another_tree_does_not_hold() -> None:
    assert len(fork().leaves) == len(CHAIN.leaves)
    with pytest.raises(VerificationError, match="another tree") as caught:
        held(checkpoint=fork().checkpoint())
    assert caught.value.finding == Finding.HEAD_NOT_EXTENDING


def test_checkpoint_of_another_size_stays_open_unless_an_export_joins_them() -> None:
    old = CHAIN.checkpoint(OLD_SIZE)
    assert held(checkpoint=old) == (Check.CONSISTENCY, Outcome.NOT_CHECKED)
    export = CHAIN.export(consistency=[CHAIN.consistency(OLD_SIZE)])
    trees = verify_export(export, KEYS).trees
    assert held(checkpoint=old, trees=trees) == (Check.CONSISTENCY, Outcome.HOLDS)
    with pytest.raises(VerificationError, match="another tree"):
        held(checkpoint=fork().checkpoint(OLD_SIZE), trees=trees)


def test_receipt_without_a_proof_stays_open() -> None:
    bare = with_changes(RECEIPT, proofs=())
    assert held(bare, checkpoint=CHAIN.checkpoint()) == (Check.CONSISTENCY, Outcome.NOT_CHECKED)


def test_checkpoint_of_another_log_does_not_hold() -> None:
    with pytest.raises(VerificationError, match="another log"):
        held(checkpoint=sample_chain(origin="provledger.test/own").checkpoint())


def test_checkpoint_that_a_stranger_signed_does_not_hold() -> None:
    with pytest.raises(VerificationError):
        held(checkpoint=CHAIN.checkpoint(log_key="stranger"))


def test_head_settles_the_receipt_that_it_names_and_no_other() -> None:
    assert held(head=CHAIN.head(4)) == (Check.HEAD, Outcome.HOLDS)
    assert held(head=CHAIN.head(5)) == (Check.HEAD, Outcome.NOT_CHECKED)
    with pytest.raises(VerificationError, match="another receipt"):
        held(fork().receipts()[4], head=CHAIN.head(4))
    with pytest.raises(VerificationError, match="another ledger"):
        held(head=sample_chain(tenant="other").head(4))


def test_head_of_another_tree_does_not_hold_though_it_names_the_receipt() -> None:
    """What differs is what others have in the log."""
    chain, other = sample_chain(), sample_chain()
    chain.leaves.append(b"others")
    other.leaves.append(b"theirs")
    receipt = chain.receipts()[-1]
    assert held(receipt, head=chain.head()) == (Check.HEAD, Outcome.HOLDS)
    with pytest.raises(VerificationError, match="another tree") as caught:
        held(receipt, head=other.head())
    assert caught.value.check == Check.HEAD
    assert (caught.value.finding, caught.value.receipt) == ("head_not_extending", receipt.name)
    # The same of an older receipt, which the head does not name.
    with pytest.raises(VerificationError, match="another tree"):
        held(chain.receipts()[2], head=other.head())


@pytest.mark.parametrize("name", ["head", "checkpoint"])
@pytest.mark.parametrize("data", [b"", b"garbage", b"{}"])
def test_what_is_no_evidence_at_all_is_bad_input(name: str, data: bytes) -> None:
    with pytest.raises(InputError):
        check_readable(**{name: data})
    check_readable(head=CHAIN.head(), checkpoint=CHAIN.checkpoint())
