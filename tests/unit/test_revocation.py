"""What of a revoked key's work stands: covered, came later, never logged, or not to be told."""

from __future__ import annotations

from typing import Any

import pytest

from provledger.errors import VerificationError
from provledger.export import verify_export
from provledger.keyset import (
    CoveredCheckpoint,
    KeyPurpose,
    KeySet,
    KeyState,
    SizeRange,
    VerificationKey,
)
from provledger.report import Check, Finding, Outcome, Status
from provledger.revocation import for_trees_alone
from provledger.verify import Verifier
from tests.support.chain import ORIGIN, Chain, mutation, private_key, sample_chain, with_changes

NAMED = 6


PURPOSES = {
    "witness-1": KeyPurpose.WITNESS,
    "checkpoint-1": KeyPurpose.CHECKPOINT,
    "checkpoint-2": KeyPurpose.CHECKPOINT,
    "head-1": KeyPurpose.HEAD,
}


def key_set(ended: str, **facts: Any) -> KeySet:
    """The keys, all of them active but one, of which this is known."""
    return KeySet(
        VerificationKey.from_public_key(
            private_key(kid).public_key(),
            kid=kid,
            purpose=purpose,
            epoch=int(kid[-1]),
            not_before_ns=0,
            **(facts if kid == ended else {"state": KeyState.ACTIVE}),
        )
        for kid, purpose in PURPOSES.items()
    )


def keys(chain: Chain, revoked: str, *, covered: bool = True) -> KeySet:
    """The keys, one of them revoked after the checkpoint of size 6, another in its place."""
    named = CoveredCheckpoint(ORIGIN, NAMED, chain.root_hash(NAMED))
    return key_set(
        revoked,
        state=KeyState.REVOKED,
        revocation_reason="stolen",
        covered=(named,) if covered else (),
    )


@pytest.fixture(scope="module")
def chain() -> Chain:
    """Leaves: the log's own, the genesis, eight mutations: 10."""
    return sample_chain((3, 1, 4))


def export(chain: Chain, *proven: tuple[int, str], receipts=None, log_key: str = "checkpoint-2"):
    """An export whose checkpoint `log_key` signs, with earlier ones as (size, key)."""
    return chain.export(
        chain.receipts(log_key=log_key) if receipts is None else receipts,
        signed=chain.checkpoint(log_key=log_key),
        consistency=[chain.consistency(size, log_key=key) for size, key in proven],
    )


def broken(lines, trusted) -> VerificationError:
    with pytest.raises(VerificationError) as caught:
        verify_export(lines, trusted)
    return caught.value


def test_of_a_revoked_witness_key_what_the_checkpoint_covers_stands() -> None:
    chain = sample_chain((4,))
    chain.append([mutation(5)], kid="witness-1")
    early = Chain()
    early.append([mutation(1 + n) for n in range(4)])
    trusted = keys(chain, "witness-1")
    assert len(early.leaves) == NAMED
    # The very checkpoint, in a receipt and in an export.
    for receipt in early.receipts():
        assert Verifier(trusted).verify(receipt).status is Status.VERIFIED
    # Another one, which the export shows to extend it.
    covered = chain.receipts(log_key="checkpoint-2")[:5]
    shown = export(chain, (NAMED, "checkpoint-1"), receipts=covered)
    trees = verify_export(early.export(), trusted).trees
    assert trees == {(ORIGIN, NAMED): chain.root_hash(NAMED)}
    assert "the export ends at" in str(broken(shown, trusted))


def test_a_receipt_tells_how_it_stands(chain: Chain) -> None:
    trusted = keys(chain, "witness-1")
    receipts = chain.receipts()
    cases = {
        "came_later": receipts[5],
        "never_logged": with_changes(receipts[2], proofs=()),
        "not_placed": receipts[2],
    }
    for finding, receipt in cases.items():
        with pytest.raises(VerificationError) as caught:
            Verifier(trusted).verify(receipt)
        assert (caught.value.finding, caught.value.receipt) == (finding, receipt.name)
    named = chain.receipts(NAMED)[2]
    report = Verifier(trusted).verify(named)
    assert report.status is Status.VERIFIED
    validity = next(each for each in report.results if each.check is Check.KEY_VALIDITY)
    assert "covered by the checkpoint of 6" in validity.detail
    nothing = keys(chain, "witness-1", covered=False)
    with pytest.raises(VerificationError) as caught:
        Verifier(nothing).verify(named)
    assert caught.value.finding == "key_not_valid"


def test_what_an_export_has_shown_places_an_older_receipt(chain: Chain) -> None:
    """Receipts that were fetched at other times lead to other checkpoints of the same history."""
    trusted = keys(chain, "checkpoint-1")
    shown = export(chain, (4, "checkpoint-1"), (NAMED, "checkpoint-1"), (8, "checkpoint-2"))
    report = verify_export(shown, trusted)
    assert {size for _, size in report.trees} == {4, NAMED, 8, 10}
    placed = Verifier(trusted, trees=report.trees)
    old = chain.receipts(4)[1]
    assert placed.verify(old).status is Status.VERIFIED
    with pytest.raises(VerificationError) as caught:
        Verifier(trusted).verify(old)
    assert caught.value.finding == "not_placed"
    # Another tree of that size, signed by the thief.
    fork = Chain(seed="fork")
    fork.append([mutation(1), mutation(2)])
    with pytest.raises(VerificationError) as caught:
        placed.verify(fork.receipts(4)[1])
    assert caught.value.finding == "not_placed"


def test_an_export_after_a_revocation_stands_on_the_new_log_key(chain: Chain) -> None:
    """Checkpoints that the revoked key signed earlier count, later ones are passed over."""
    trusted = keys(chain, "checkpoint-1")
    lines = export(chain, (3, "checkpoint-1"), (NAMED, "checkpoint-1"), (8, "checkpoint-1"))
    report = verify_export(lines, trusted)
    assert report.status is Status.VERIFIED
    results = {each.check: each for each in report.results}
    assert results[Check.CONSISTENCY].detail == "2 earlier checkpoints"
    # Without the one that is named, nothing shows where the older one stands.
    error = broken(export(chain, (3, "checkpoint-1")), trusted)
    assert error.finding == "not_placed"
    # The export's own checkpoint, signed by the revoked key alone, came later.
    own = export(chain, (NAMED, "checkpoint-1"), log_key="checkpoint-1")
    assert broken(own, trusted).finding == "came_later"


def test_an_older_export_stands_with_a_newer_one_of_the_same_log(chain: Chain) -> None:
    trusted = keys(chain, "checkpoint-1")
    old = sample_chain((3,))
    assert old.leaves == chain.leaves[: len(old.leaves)]
    older = old.export()
    assert broken(older, trusted).finding == "not_placed"
    newer = export(chain, (5, "checkpoint-1"), (NAMED, "checkpoint-1"))
    trees = verify_export(newer, trusted).trees
    report = verify_export(older, trusted, trees=trees)
    assert report.status is Status.VERIFIED
    assert {each.check: each.outcome for each in report.results}[Check.HEAD] is Outcome.HOLDS


def test_a_forged_tree_of_the_named_size_does_not_count(chain: Chain) -> None:
    trusted = keys(chain, "checkpoint-1")
    forged = [*chain.leaves[:3], b"something else", *chain.leaves[4:]]
    note = chain.checkpoint(NAMED, leaves=forged)
    with pytest.raises(VerificationError) as caught:
        Verifier(trusted).open_checkpoint(note, ORIGIN)
    assert caught.value.finding == "came_later"
    Verifier(trusted).open_checkpoint(chain.checkpoint(NAMED), ORIGIN)


def retired(*sizes: SizeRange) -> KeySet:
    """The keys, `checkpoint-1` retired with these sizes."""
    return key_set("checkpoint-1", state=KeyState.RETIRED, sizes=sizes)


def test_a_retired_log_key_signs_in_the_logs_its_end_names(chain: Chain) -> None:
    old = export(chain, log_key="checkpoint-1")
    assert verify_export(old, retired(SizeRange(ORIGIN, 0, 10))).status is Status.VERIFIED
    assert broken(old, retired(SizeRange(ORIGIN, 0, 9))).finding == Finding.SIGNATURE_CHANGED
    # A key that ended before sizes were written down.
    assert verify_export(old, retired()).status is Status.VERIFIED


def test_a_log_that_a_retirement_does_not_name_cannot_be_placed(chain: Chain) -> None:
    """A log made later, that the old key was brought to, or one that was out of service then."""
    elsewhere = retired(SizeRange("provledger.test/elsewhere", 0, 50))
    error = broken(export(chain, log_key="checkpoint-1"), elsewhere)
    assert (error.check, error.finding) == (Check.CHECKPOINT_SIGNATURE, Finding.NOT_PLACED)
    assert "does not name" in error.message
    assert verify_export(export(chain), elsewhere).status is Status.VERIFIED
    # Of a stranger's signature it is no matter of places.
    error = broken(export(chain, log_key="stranger"), elsewhere)
    assert error.finding == Finding.KEY_NOT_VALID


def test_for_its_trees_alone_no_receipt_is_too_late_and_every_checkpoint_is(chain: Chain) -> None:
    """What a revoked witness key signed is passed over there; what a log's key signed is not."""
    lines = export(chain, (NAMED, "checkpoint-1"))
    nothing = keys(chain, "witness-1", covered=False)
    over = key_set("witness-1", state=KeyState.REVOKED, not_after_ns=1)
    for trusted in (keys(chain, "witness-1"), nothing, over):
        broken(lines, trusted)
        report = verify_export(lines, for_trees_alone(trusted))
        assert set(report.trees) == {(ORIGIN, NAMED), (ORIGIN, len(chain.leaves))}
    for kid in ("checkpoint-1", "checkpoint-2", "head-1"):
        trusted = keys(chain, kid)
        assert for_trees_alone(trusted) == trusted


def test_an_exports_own_head_counts_as_none_once_its_key_is_revoked(chain: Chain) -> None:
    """Its thief can make one for an earlier receipt of a true tree, behind which the rest is cut
    off; so an untouched export is not refused for it, nor is it whole by it."""
    for covered in (True, False):
        trusted = keys(chain, "head-1", covered=covered)
        lines = export(chain, (NAMED, "checkpoint-1"))
        bare = chain.export(
            chain.receipts(log_key="checkpoint-2"),
            head=None,
            signed=chain.checkpoint(log_key="checkpoint-2"),
        )
        report = verify_export(lines, trusted, checkpoint=chain.checkpoint(NAMED))
        results = {each.check: each for each in report.results}
        assert results[Check.HEAD].outcome is Outcome.NOT_CHECKED
        assert "is revoked" in results[Check.HEAD].detail
        assert results[Check.TRUNCATION].outcome is Outcome.NOT_CHECKED
        assert report.head is None
        assert report.status is verify_export(bare, trusted).status
        forged = [*lines[:-1], lines[-1].replace(b'"head":"', b'"head":"A')]
        assert broken(forged, trusted).check != Check.TRUNCATION


def test_a_kept_head_counts_for_what_its_keys_revocation_covers(chain: Chain) -> None:
    trusted = keys(chain, "head-1")
    proven = export(chain, (4, "checkpoint-2"), (NAMED, "checkpoint-1"))

    def reached(lines, head: bytes, trusted: KeySet = trusted) -> Outcome:
        report = verify_export(lines, trusted, head=head)
        return {each.check: each.outcome for each in report.results}[Check.TRUNCATION]

    # Heads of trees of 4, 6 and 10 leaves; leaf 0 is the log's own.
    assert reached(proven, chain.head(2)) is Outcome.HOLDS
    assert reached(proven, chain.head(NAMED - 2)) is Outcome.HOLDS
    for head, finding, lines, key_set in (
        (chain.head(2), Finding.NOT_PLACED, export(chain), trusted),
        (chain.head(8), Finding.CAME_LATER, proven, trusted),
        (chain.head(2), Finding.KEY_NOT_VALID, proven, keys(chain, "head-1", covered=False)),
    ):
        with pytest.raises(VerificationError) as caught:
            verify_export(lines, key_set, head=head)
        assert caught.value.finding == finding
    fork = Chain(seed="fork")
    fork.append([mutation(1), mutation(2)])
    with pytest.raises(VerificationError):
        verify_export(proven, trusted, head=fork.head(2))
    # It still shows that something is missing.
    cut = chain.export(
        chain.receipts(log_key="checkpoint-2")[:3],
        head=None,
        signed=chain.checkpoint(log_key="checkpoint-2"),
        consistency=[chain.consistency(NAMED)],
    )
    with pytest.raises(VerificationError) as caught:
        verify_export(cut, trusted, head=chain.head(NAMED - 2))
    assert caught.value.finding == Finding.TRUNCATED
