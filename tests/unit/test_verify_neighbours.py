"""What lies next to what holds: true in all but one thing, which one check alone refuses."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from provledger import checkpoint as checkpoints
from provledger import disclosure, dsse, jcs, merkle, note
from provledger.errors import ReceiptFormatError, VerificationError
from provledger.export import verify_export
from provledger.hashing import SUITES
from provledger.head import PAYLOAD_TYPE as HEAD_TYPE
from provledger.head import parse_head
from provledger.held import check_held
from provledger.keyset import SizeRange
from provledger.known_trees import KnownTrees
from provledger.outside import Outside, cosigned_checkpoint
from provledger.receipt import Evidence, Opening, Proof, Receipt, parse_receipt
from provledger.report import Check, Finding, Outcome, Status
from provledger.verify import Verifier, verify_receipt
from tests.support.chain import (
    ORIGIN,
    Chain,
    key_set,
    private_key,
    sample_chain,
    with_changes,
)

KEYS = key_set()
OTHER = "provledger.test/other"


def outcome(report, check):
    return {result.check: result.outcome for result in report.results}[check]


def test_a_checkpoint_that_is_held_says_nothing_of_the_end_without_the_exports_head() -> None:
    """The checkpoint is the one of the file, all of it is true, and the last receipts are gone:
    only a head says where a ledger ends."""
    chain = sample_chain()
    for left in (chain.receipts(), chain.receipts()[:-3]):
        lines = chain.export(left, head=None)
        report = verify_export(lines, KEYS, checkpoint=chain.checkpoint())
        assert outcome(report, Check.TRUNCATION) is Outcome.NOT_CHECKED


def signed_head(chain: Chain, seq: int | None = None, **changes) -> bytes:
    body = replace(parse_head(dsse.decode(chain.head(seq)).payload), **changes).encode()
    sig = private_key("head-1").sign(dsse.pae(HEAD_TYPE, body))
    return dsse.encode(dsse.Envelope(HEAD_TYPE, body, (dsse.Signature("head-1", sig),)))


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"receipt_hash": bytes(32)}, Finding.HEAD_NOT_EXTENDING),
        ({"origin": OTHER}, Finding.FOREIGN_LEDGER),
        ({"ledger_uid": bytes(16)}, Finding.FOREIGN_LEDGER),
        ({"root": bytes(32)}, Finding.HEAD_NOT_EXTENDING),
        ({"log_index": 3}, Finding.HEAD_NOT_EXTENDING),
    ],
    ids=str,
)
def test_an_own_head_that_says_something_else_is_refused(changes, finding) -> None:
    """Signed by the head key, and at odds with the receipts or the checkpoint."""
    chain = sample_chain()
    verify_export(chain.export(head=signed_head(chain)), KEYS)
    with pytest.raises(VerificationError) as caught:
        verify_export(chain.export(head=signed_head(chain, **changes)), KEYS)
    assert (caught.value.check, caught.value.finding) == (Check.HEAD, finding)


@pytest.mark.parametrize("seq", [4, None], ids=["of before", "of the end"])
@pytest.mark.parametrize(
    ("changes", "finding", "why"),
    [
        ({"log_index": 3}, Finding.HEAD_NOT_EXTENDING, "log index"),
        ({"origin": OTHER}, Finding.FOREIGN_LEDGER, "another log"),
    ],
    ids=str,
)
def test_a_head_that_is_held_says_where_in_which_log_its_receipt_is(
    changes, finding, why, seq
) -> None:
    chain = sample_chain()
    lines = chain.export()
    report = verify_export(lines, KEYS, head=signed_head(chain, seq))
    assert outcome(report, Check.TRUNCATION) is Outcome.HOLDS
    with pytest.raises(VerificationError, match=why) as caught:
        verify_export(lines, KEYS, head=signed_head(chain, seq, **changes))
    assert (caught.value.check, caught.value.finding) == (Check.TRUNCATION, finding)


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"log_index": 3}, "another log index"), ({"origin": OTHER}, "another log")],
)
def test_a_receipt_is_where_in_the_log_the_head_that_is_held_says(changes, why) -> None:
    chain = sample_chain()
    receipt = chain.receipts()[-1]

    def against(head: bytes, of: Receipt) -> Outcome:
        (result,) = check_held(of, Verifier(KEYS), {}, head=head, checkpoint=None)
        return result.outcome

    assert against(signed_head(chain), receipt) is Outcome.HOLDS
    with pytest.raises(VerificationError, match=why) as caught:
        against(signed_head(chain, **changes), receipt)
    assert (caught.value.check, caught.value.receipt) == (Check.HEAD, receipt.name)
    # Without a proof there is nothing to compare it with.
    unproven = with_changes(receipt, proofs=())
    assert against(signed_head(chain, **changes), unproven) is Outcome.HOLDS


def test_a_header_of_another_uid_is_refused_without_a_head_too() -> None:
    chain = sample_chain()
    header = replace(chain.header(), ledger_uid=bytes(16))
    with pytest.raises(VerificationError) as caught:
        verify_export(chain.export(header=header, head=None), KEYS)
    assert caught.value.finding == Finding.FOREIGN_LEDGER


def in_other_log(chain: Chain) -> bytes:
    """The log key signs the same tree under another name."""
    hasher = SUITES[chain.suite].tree
    text = checkpoints.format(OTHER, len(chain.leaves), merkle.root(chain.leaves, hasher=hasher))
    key = private_key("checkpoint-1")
    key_id = note.note_key_id(OTHER, 1, key.public_key().public_bytes_raw())
    return note.format_note(text, [note.signature_line(OTHER, key_id, key.sign(text))])


def elsewhere(chain: Chain, receipt: Receipt) -> Proof:
    return replace(receipt.proofs[0], origin=OTHER, checkpoint=in_other_log(chain), evidence=())


def test_a_proof_of_another_log_is_not_of_this_export() -> None:
    chain = sample_chain()
    receipts = [
        each if each.seq == 0 else with_changes(each, proofs=(elsewhere(chain, each),))
        for each in chain.receipts()
    ]
    with pytest.raises(VerificationError, match="another log") as caught:
        verify_export(chain.export(receipts), KEYS)
    assert caught.value.finding == Finding.PROOF_INVALID


def test_a_genesis_with_a_proof_of_another_log_beside_its_own_does_not_hold() -> None:
    chain = sample_chain()
    genesis = chain.receipts()[0]
    assert verify_receipt(genesis, KEYS).status is Status.VERIFIED
    both = with_changes(genesis, proofs=(*genesis.proofs, elsewhere(chain, genesis)))
    with pytest.raises(VerificationError, match="another log than the genesis names"):
        verify_receipt(both, KEYS)


@pytest.mark.parametrize("pointers", [("/logOrigin",), ("/suite",), ()])
def test_a_masked_genesis_that_shows_half_is_open_and_not_broken(pointers) -> None:
    genesis = sample_chain().receipts()[0]
    value, secret = jcs.parse(genesis.payload or b""), genesis.commitment.secret or b""
    shown = [d.text for d in disclosure.disclose_all(value, secret) if d.pointer in pointers]
    digests = tuple(disclosure.digest_list(value, secret))
    masked = with_changes(
        genesis,
        payload=None,
        fields_mask=pointers,
        commitment=Opening("fields-v1", len(digests), None, tuple(shown), digests),
    )
    report = verify_receipt(masked, KEYS)
    assert outcome(report, Check.INCLUSION) is Outcome.NOT_CHECKED
    assert report.status is Status.UNVERIFIED


def proof_in(leaves: list[bytes], index: int) -> Proof:
    """The proof of a leaf in another tree that the log signed."""
    fork = sample_chain()
    fork.leaves = leaves
    hashes = merkle.leaf_hashes(leaves, hasher=SUITES[fork.suite].tree)
    path = merkle.inclusion_proof(hashes, index, hasher=SUITES[fork.suite].tree)
    return Proof(ORIGIN, index, tuple(path), fork.checkpoint(), ())


def test_each_of_several_proofs_is_held_against_the_checkpoint_and_the_others() -> None:
    """A log that shows a fork in the second of two proofs is found as in the first."""
    chain = sample_chain()
    receipt = chain.receipts()[4]
    (first,) = receipt.proofs
    leaves = [*chain.leaves[:6], *(b"other %d" % n for n in range(len(chain.leaves) - 6))]
    for forked, held in (
        (proof_in(leaves, first.log_index), None),
        # Of another size: nothing says by itself that they are not of one history.
        (proof_in(leaves[:-1], first.log_index), chain.checkpoint(len(leaves) - 1)),
    ):
        for proofs in ((first, forked), (forked, first)):
            both = with_changes(receipt, proofs=proofs)
            verifier = Verifier(KEYS)
            check: Callable[[], object] = partial(verifier.verify, both)
            if held is not None:
                assert verifier.verify(both).status is Status.VERIFIED
                check = partial(check_held, both, verifier, {}, head=None, checkpoint=held)
            with pytest.raises(VerificationError, match="another tree") as caught:
                check()
            assert caught.value.finding == Finding.HEAD_NOT_EXTENDING
            assert caught.value.receipt == receipt.name


def test_an_entry_is_at_one_place_of_a_log() -> None:
    chain = sample_chain()
    receipt = chain.receipts()[4]
    (first,) = receipt.proofs
    leaves = [*chain.leaves, chain.leaves[first.log_index]]
    again = proof_in(leaves, len(leaves) - 1)
    assert verify_receipt(with_changes(receipt, proofs=(again,)), KEYS).status is Status.VERIFIED
    with pytest.raises(VerificationError, match="as well") as caught:
        verify_receipt(with_changes(receipt, proofs=(first, again)), KEYS)
    assert (caught.value.check, caught.value.finding) == (Check.INCLUSION, Finding.PROOF_INVALID)


def test_what_is_verified_together_is_of_one_tree_of_each_size() -> None:
    """By one verifier, or by several that share what they have met."""
    chain, fork = sample_chain(), sample_chain()
    chain.leaves.append(b"others")
    fork.leaves.append(b"theirs")
    known = KnownTrees()
    Verifier(KEYS, known=known).verify(chain.receipts()[3])
    Verifier(KEYS).verify(fork.receipts()[3])
    with pytest.raises(VerificationError, match="another tree"):
        Verifier(KEYS, known=known).verify(fork.receipts()[3])
    with pytest.raises(VerificationError, match="another tree"):
        Verifier(KEYS, known=known, trees={(ORIGIN, len(fork.leaves)): fork.root_hash()})


def test_a_verifier_that_lives_long_forgets_the_oldest_trees(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("provledger.known_trees._MAX_TREES", 3)
    known = KnownTrees()
    for size in range(1, 6):
        known.note(ORIGIN, size, bytes(32))
    assert known.snapshot().keys() == {(ORIGIN, size) for size in (3, 4, 5)}


def lock(signed: bytes, size: int, key: str) -> Evidence:
    said = {
        "v": "1",
        "bucket": "b",
        "key": key,
        "versionId": "v",
        "mode": "COMPLIANCE",
        "retainUntilUnixS": "1800000000",
        "legalHold": False,
        "sha256": hashlib.sha256(signed).hexdigest(),
        "size": str(size),
    }
    return Evidence("s3:one", "s3-object-lock", 1, jcs.encode(said))


def test_the_store_is_asked_for_each_copy_that_is_named() -> None:
    chain = sample_chain()
    receipt = chain.receipts()[5]
    proof = receipt.proofs[0]
    items = tuple(lock(proof.checkpoint, len(chain.leaves), key) for key in ("one", "two"))
    receipt = with_changes(receipt, proofs=(replace(proof, evidence=items),))
    asked: list[str] = []
    verify_receipt(receipt, KEYS, Outside(ask_store=lambda found, _: asked.append(found.key)))
    assert asked == ["one", "two"]

    def gone(found, _signed) -> None:
        if found.key == "two":
            raise VerificationError("it is not there", check=Check.OBJECT_LOCK)

    with pytest.raises(VerificationError, match="not there"):
        verify_receipt(receipt, KEYS, Outside(ask_store=gone))


def test_cosigners_of_another_checkpoint_are_not_put_under_this_one() -> None:
    chain = sample_chain()
    proof = chain.receipts()[5].proofs[0]
    older = chain.checkpoint(4)
    line = note.signature_line("cosigner.test/one", b"abcd", bytes(72))
    items = (Evidence("c", "tlog-cosignature", 1, older + line),)
    assert cosigned_checkpoint(replace(proof, evidence=items)) == proof.checkpoint


def test_a_range_of_sizes_holds_both_of_its_ends() -> None:
    assert [SizeRange("o", 5, 7).holds(size) for size in range(4, 9)] == [
        False,
        True,
        True,
        True,
        False,
    ]
    assert [SizeRange("o", 5).holds(size) for size in (4, 5, 10**9)] == [False, True, True]


def test_more_evidence_than_a_proof_holds_is_refused_by_both_readers() -> None:
    receipt = sample_chain().receipts()[1]
    (proof,) = receipt.proofs
    (item,) = proof.evidence
    for count, good in ((64, True), (65, False)):
        changed = with_changes(receipt, proofs=(replace(proof, evidence=(item,) * count),))
        if good:
            assert parse_receipt(changed.encode()) == changed
            continue
        for text in (changed.encode(), b" " + changed.encode()):
            with pytest.raises(ReceiptFormatError, match="at most 64"):
                parse_receipt(text)


def test_a_blob_cannot_be_masked() -> None:
    receipt = sample_chain().receipts()[1]
    value = with_changes(
        receipt,
        payload=None,
        fields_mask=(),
        commitment=Opening("blob-v1", 8, None, (), (bytes(32),) * 8),
    ).encode()
    for text in (value, b" " + value):
        with pytest.raises(ReceiptFormatError, match=r"commitment\.secret"):
            parse_receipt(text)
