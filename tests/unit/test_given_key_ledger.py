"""`verify --key-ledger`: who is asked of the key ledger's checkpoint, and how new it must be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from notary_svc.signing import Cosigner
from provledger import note
from provledger.errors import UnknownKeyError, VerificationError
from provledger.key_ledger import verify_key_ledger
from provledger.keyset import CoveredCheckpoint, KeySet
from provledger.outside import COSIGNATURE, Outside
from provledger.policy import parse_policy
from provledger.receipt import Evidence, Receipt
from provledger.report import Check, CheckResult, Finding, Outcome, Status
from provledger_cli.verifying import checking, verdicts
from tests.support.chain import ORIGIN, START_NS, Chain, mutation, sample_chain, with_changes
from tests.support.key_history import PIN, in_one_log, key_chain, record, replaced

OWN = "provledger.test/own"
LATER_NS = START_NS + 60_000_000_000
MISSING = "what was asked for is not there"


class Work:
    """A directory with exports, and a cosigner."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._cosigner = Cosigner.open("cosigner.test/one", folder)
        policy = f"witness a {self._cosigner.vkeys[0]}\nquorum a\n"
        self.asking = Outside(parse_policy(policy.encode()))

    def cosigned(self, chain: Chain, size: int | None = None) -> list[Receipt]:
        """The receipts, with a cosignature of the checkpoint that they lead to."""
        signed = chain.checkpoint(size)
        lines = self._cosigner.cosign(note.parse(signed).text, START_NS // 10**9)
        evidence = Evidence("cosigner", COSIGNATURE, START_NS, signed + b"".join(lines))
        return [
            with_changes(
                each, proofs=tuple(replace(proof, evidence=(evidence,)) for proof in each.proofs)
            )
            for each in chain.receipts(size)
        ]

    def file(self, name: str, lines: Iterable[bytes]) -> Path:
        """Write a file of these lines."""
        path = self._folder / name
        path.write_bytes(b"".join(lines))
        return path

    def verify(
        self,
        lines: Iterable[bytes],
        key_ledger: Iterable[bytes],
        outside: Outside | None = None,
        history: Iterable[bytes] = (),
    ) -> Status:
        """Verify a file with the keys of a key ledger in a file of its own."""
        return self.verdict(lines, key_ledger, outside, history).status

    def verdict(
        self,
        lines: Iterable[bytes],
        key_ledger: Iterable[bytes],
        outside: Outside | None = None,
        history: Iterable[bytes] = (),
        keys: KeySet | None = None,
    ) -> checking.Verdict:
        """The same, and what it says. Without a key ledger, with the pin alone."""
        trusted = checking.Trusted(keys, PIN, outside=outside or self.asking, jobs=1)
        if key_ledger:
            trusted = checking.replayed(trusted, self.file("keys.ndjson", key_ledger))
        if history:
            trusted = checking.with_history(trusted, self.file("history.ndjson", history))
        return checking.verify_file(self.file("file", lines), trusted)


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path)


def one_log() -> tuple[Chain, Chain]:
    chain, keys = sample_chain((3, 1)), key_chain()
    in_one_log(chain, keys)
    return chain, keys


def refused(verify: Callable[[], Status], why: str) -> None:
    with pytest.raises(VerificationError, match=why) as caught:
        verify()
    assert caught.value.check == Check.KEY_LEDGER


def test_a_key_ledger_in_another_log_must_meet_the_policy_itself(work: Work) -> None:
    chain, keys = sample_chain((3,), origin=OWN), key_chain()
    lines = chain.export(work.cosigned(chain))
    bare = keys.export(head=keys.head(signed_at_ns=LATER_NS))
    good = keys.export(work.cosigned(keys), head=keys.head(signed_at_ns=LATER_NS))
    assert work.verify(lines, bare, Outside()) is Status.VERIFIED
    refused(lambda: work.verify(lines, bare), MISSING)
    assert work.verify(lines, good) is Status.VERIFIED
    # Of one receipt as of an export.
    one = [work.cosigned(chain)[-1].encode()]
    refused(lambda: work.verify(one, bare), MISSING)
    assert work.verify(one, good) is Status.VERIFIED


def test_a_store_is_asked_for_the_key_ledgers_checkpoint_too(work: Work) -> None:
    chain, keys = sample_chain((3,), origin=OWN), key_chain()
    asking = Outside(ask_store=lambda lock, signed: None)
    refused(lambda: work.verify(chain.export(), keys.export(), asking), MISSING)


def test_of_one_tree_the_policy_is_asked_once(work: Work) -> None:
    """As of a key ledger that the file carries: the receipts bring the evidence for both."""
    chain, keys = one_log()
    receipts = work.cosigned(chain)
    assert work.verify(chain.export(receipts), keys.export()) is Status.VERIFIED
    assert work.verify([receipts[-1].encode()], keys.export()) is Status.VERIFIED
    # What the receipts do not bring makes them unverified, whatever the key ledger has.
    assert work.verify(chain.export(), keys.export(work.cosigned(keys))) is Status.UNVERIFIED
    assert work.verify(chain.export(), keys.export()) is Status.UNVERIFIED


def test_an_older_tree_of_the_same_log_is_asked_of_by_itself(work: Work) -> None:
    chain, keys = one_log()
    old = keys.export(), keys.export(work.cosigned(keys))
    chain.append([mutation(9)])
    one = [work.cosigned(chain)[1].encode()]
    refused(lambda: work.verify(one, old[0]), MISSING)
    assert work.verify(one, old[1]) is Status.VERIFIED


def test_a_history_that_meets_the_policy_speaks_for_its_tree(work: Work) -> None:
    chain, keys = one_log()
    one = [work.cosigned(chain, len(chain.leaves) - 1)[1].encode()]
    refused(lambda: work.verify(one, keys.export()), MISSING)
    good, bare = chain.export(work.cosigned(chain)), chain.export()
    assert work.verify(one, keys.export(), history=good) is Status.VERIFIED
    refused(lambda: work.verify(one, keys.export(), history=bare), MISSING)


def test_a_receipt_with_two_proofs_does_not_speak_for_the_one_nobody_cosigned(work: Work) -> None:
    """A policy is met by one of them: it may be that in the other log."""
    chain, keys = one_log()
    moved = sample_chain((3, 1), origin=OWN)
    receipt, other = chain.links[1][0], moved.links[1][0]
    entry = chain.links[1][1]
    # The same entry in a second log.
    moved.leaves[2] = entry
    moved.links[1] = (with_changes(other, proofs=()), entry)
    here = chain.receipts()[1].proofs
    there = work.cosigned(moved)[1].proofs
    both = with_changes(receipt, proofs=(*here, *there))
    assert {proof.origin for proof in both.proofs} == {ORIGIN, OWN}
    refused(lambda: work.verify([both.encode()], keys.export()), MISSING)
    assert work.verify([both.encode()], keys.export(work.cosigned(keys))) is Status.VERIFIED


@pytest.mark.parametrize("asking", [True, False])
def test_a_second_tree_of_one_size_is_found_whoever_is_asked(work: Work, asking: bool) -> None:
    """A log that shows the key ledger in one tree, and the receipts in another."""
    chain, keys = one_log()
    chain.leaves[-1] = b"another last leaf"
    outside = work.asking if asking else Outside()
    key_ledger = keys.export(work.cosigned(keys))
    receipts = work.cosigned(chain)
    for lines in (chain.export(receipts), [receipts[1].encode()]):
        with pytest.raises(VerificationError, match="in another tree of size") as caught:
            work.verify(lines, key_ledger, outside)
        assert caught.value.finding == Finding.HEAD_NOT_EXTENDING


# --- how new it is: a thief likes the one from before a key of his was revoked


def stolen() -> tuple[Chain, Chain, Chain]:
    """A ledger whose last receipt is by a key that was revoked before; the key ledger of before
    and that of now. All in one log."""
    chain, before = one_log()
    named = CoveredCheckpoint(ORIGIN, len(chain.leaves), chain.root_hash())
    now = key_chain(replaced("witness-1", "witness-2", "witness", named))
    now.leaves = [*chain.leaves, *now.leaves[3:]]
    chain.leaves = list(now.leaves)
    chain.append([mutation(9)])
    now.leaves = list(chain.leaves)
    return chain, before, now


def not_placed(
    verify: Callable[[], object], then: str = "export the key ledger anew, after"
) -> None:
    with pytest.raises(VerificationError, match=then) as caught:
        verify()
    assert (caught.value.check, caught.value.finding) == (Check.KEY_LEDGER, Finding.NOT_PLACED)
    assert verdicts.failure_code(caught.value) == 2


def came_later(verify: Callable[[], object]) -> None:
    with pytest.raises(VerificationError) as caught:
        verify()
    assert caught.value.finding == Finding.CAME_LATER


def told(verdict: checking.Verdict) -> CheckResult:
    """What is said of the key ledger."""
    (found,) = [each for each in verdict.results if each.check is Check.KEY_LEDGER]
    return found


def test_a_key_ledger_of_before_a_revocation_tells_nothing_of_what_came_after(work: Work) -> None:
    chain, before, now = stolen()
    nobody = Outside()
    lines, one = chain.export(), [chain.receipts()[-1].encode()]
    for file in (lines, one):
        not_placed(lambda file=file: work.verify(file, before.export(), nobody))  # type: ignore[misc]
        came_later(lambda file=file: work.verify(file, now.export(), nobody))  # type: ignore[misc]
    # Nor does a history of then: what places the receipts may be by a stolen key of the log.
    older = [chain.receipts(len(before.leaves))[1].encode()]
    not_placed(lambda: work.verify(older, before.export(), nobody, history=lines))


def test_what_an_unknown_key_signed_does_not_hold_however_late_it_says_it_is(work: Work) -> None:
    """The tree size and time beside it are by whoever holds that key."""
    chain, keys = one_log()
    key_ledger = keys.export()
    chain.append([mutation(9)], kid="witness-2")
    late = replace(chain.header(), tree_size=2**40)
    for file in (chain.export(), chain.export(header=late), [chain.receipts()[-1].encode()]):
        with pytest.raises(UnknownKeyError, match="'witness-2' is not in") as caught:
            work.verify(file, key_ledger, Outside())
        assert verdicts.failure_code(caught.value) == 1
        assert "export it anew" in verdicts.advice(caught.value, pinned=True, given=True)


def test_a_receipt_of_before_the_end_of_a_key_ledger_is_judged_as_of_then(work: Work) -> None:
    """Whatever tree it is proven in: the same entry is in that of the key ledger."""
    chain, before, _ = stolen()
    receipt = chain.receipts()[1]
    verdict = work.verdict([receipt.encode()], before.export(), Outside())
    assert (verdict.status, told(verdict).outcome) == (Status.VERIFIED, Outcome.HOLDS)
    assert f"as of tree size {len(before.leaves)} of {ORIGIN}, 2025-" in told(verdict).detail
    assert verdict.details["key_ledger_uid"] == before.uid.hex()


def test_of_two_key_ledgers_the_one_that_goes_on_counts(work: Work) -> None:
    chain, before, now = stolen()
    nobody = Outside()
    # What the file carries knows of the revocation, and what is given does not.
    carrying = chain.export(key_ledger=now.export())
    came_later(lambda: work.verify(carrying, before.export(), nobody))
    # The other way round, with a file of before the revocation.
    chain.leaves, chain.links = before.leaves, chain.links[:-1]
    early = chain.export(key_ledger=before.export())
    verdict = work.verdict(early, now.export(), nobody)
    assert verdict.status is Status.VERIFIED
    assert told(verdict).detail.startswith("4 events")
    assert f"as of tree size {len(now.leaves)} of {ORIGIN}" in told(verdict).detail
    # And the same twice, of which the file's counts, as of its own tree.
    verdict = work.verdict(early, before.export(), nobody)
    assert (verdict.status, told(verdict).detail[:8]) == (Status.VERIFIED, "1 events")
    assert verdict.details["key_ledger_uid"] == before.uid.hex()


def logged_before(origin: str = ORIGIN) -> tuple[Chain, list[bytes], list[bytes]]:
    """A ledger whose last receipt is by a key that is revoked later, and not covered by that; the
    key ledger of before the revocation, as new as the receipt, and that of now. `origin`: of the
    log of the first."""
    chain, keys = sample_chain((3,), origin=origin), key_chain()
    named = CoveredCheckpoint(origin, len(chain.leaves), chain.root_hash())
    chain.append([mutation(9)])
    share(chain, keys)
    old = keys.export(head=keys.head(signed_at_ns=LATER_NS))
    for signed in replaced("witness-1", "witness-2", "witness", named):
        record(keys, signed)
    share(chain, keys)
    return chain, old, keys.export(head=keys.head(signed_at_ns=LATER_NS + 2))


def share(chain: Chain, keys: Chain) -> None:
    if chain.origin == keys.origin:
        in_one_log(chain, keys)


def before_the_theft(key_ledger: Sequence[bytes] = ()) -> list[bytes]:
    """An export of before its last receipt, in a log of its own."""
    chain = sample_chain((3,), origin=OWN)
    return chain.export(head=chain.head(signed_at_ns=LATER_NS), key_ledger=key_ledger)


@pytest.mark.parametrize("origin", [ORIGIN, OWN])
def test_a_revocation_that_the_history_knows_of_counts(work: Work, origin: str) -> None:
    chain, old, now = logged_before(origin)
    one, nobody = [chain.receipts()[-1].encode()], Outside()
    came_later(lambda: work.verify(one, now, nobody))
    histories = [now] if origin == ORIGIN else [now, before_the_theft(now)]
    for history in histories:
        came_later(lambda history=history: work.verify(one, old, nobody, history=history))  # type: ignore[misc]
        # With the pin alone, it is the one given.
        came_later(lambda history=history: work.verify(one, (), nobody, history=history))  # type: ignore[misc]


def test_what_a_history_has_of_after_a_theft_is_no_fault_of_an_old_receipt(work: Work) -> None:
    """Its last receipt is by the stolen key, as in any export of a ledger that went on."""
    chain, _, now = logged_before()
    receipts = chain.receipts()
    named = receipts[-1].proofs[0].log_index
    old = [chain.receipts(named + 1)[1].encode()]
    nobody = Outside()
    with pytest.raises(VerificationError) as caught:
        work.verify(old, now, nobody)
    assert caught.value.finding == Finding.NOT_PLACED
    shown = [chain.consistency(size) for size in (named, named + 1)]
    unlogged = [*receipts[:-1], with_changes(receipts[-1], proofs=())]
    for each in (receipts, unlogged):
        plain = chain.export(each, consistency=shown)
        came_later_or_never = (Finding.CAME_LATER, Finding.NEVER_LOGGED)
        with pytest.raises(VerificationError) as caught:
            work.verify(plain, now, nobody)
        assert caught.value.finding in came_later_or_never
        assert work.verify(old, now, nobody, history=plain) is Status.VERIFIED
        carrying = chain.export(each, consistency=shown, key_ledger=now)
        assert work.verify(old, (), nobody, history=carrying) is Status.VERIFIED
        # What came later does not hold for being in a history as well.
        last = [each[-1].encode()]
        with pytest.raises(VerificationError) as caught:
            work.verify(last, now, nobody, history=plain)
        assert caught.value.finding in came_later_or_never
    # Nor does it show what it has no proof of.
    with pytest.raises(VerificationError) as caught:
        work.verify(old, now, nobody, history=chain.export(consistency=shown[:1]))
    assert caught.value.finding == Finding.NOT_PLACED
    # Trees are shown by keys of the log that stand, however little is asked of the receipts.
    forged = chain.export(consistency=shown, signed=chain.checkpoint(log_key="witness-1"))
    with pytest.raises(checking.HistoryError) as found:
        work.verify(old, now, nobody, history=forged)
    assert verdicts.failure_code(found.value) == 2


def test_a_file_is_held_against_the_key_ledger_of_the_history(work: Work) -> None:
    chain, old, now = logged_before(OWN)
    nobody, head = Outside(), chain.head(signed_at_ns=LATER_NS)
    # What the file carries was as new as it, and is not as new as the history.
    lines = chain.export(head=head, key_ledger=old)
    assert work.verify(lines, (), nobody) is Status.VERIFIED
    came_later(lambda: work.verify(lines, (), nobody, history=now))
    second = key_chain(seed="second").export()
    refused(lambda: work.verify(lines, (), nobody, history=second), "different events")
    # A key set beside the pin was compared with the history.
    keys = verify_key_ledger(now, PIN).key_set()
    verdict = work.verdict(before_the_theft(), (), nobody, now, keys)
    assert (verdict.status, told(verdict).detail[:8]) == (Status.VERIFIED, "4 events")


def test_an_earlier_export_of_the_key_ledger_holds_by_a_later_one(work: Work) -> None:
    """Its last events may be witnessed by the key that they revoke, as with the pin alone."""
    chain, keys = sample_chain((3,), origin=OWN), key_chain()
    covered = CoveredCheckpoint(ORIGIN, len(keys.leaves), keys.root_hash())
    exports = []
    for signed in replaced("witness-1", "witness-2", "witness", covered):
        record(keys, signed)
        exports.append(keys.export())
    last, nobody = exports[-1], Outside()
    for earlier in exports:
        assert work.verify(earlier, (), nobody) is Status.VERIFIED
        assert work.verify(earlier, last, nobody) is Status.VERIFIED
        assert work.verify(last, last, nobody, history=earlier) is Status.VERIFIED
    # Not so what another ledger has by that key.
    with pytest.raises(VerificationError, match="'witness-1' is revoked"):
        work.verify([chain.receipts()[0].encode()], last, nobody, history=exports[0])
    with pytest.raises(VerificationError, match="'witness-1' is revoked"):
        work.verify(chain.export(), last, nobody, history=exports[0])


def test_a_key_set_is_held_against_the_key_ledger_that_it_came_with(work: Work) -> None:
    """And not against a longer one in the file: it is as old as the one that was given."""
    chain, old, now = logged_before(OWN)
    before, nobody = before_the_theft(now), Outside()
    as_old, as_new = (verify_key_ledger(each, PIN).key_set() for each in (old, now))
    assert work.verdict(before, old, nobody, keys=as_old).status is Status.VERIFIED
    assert work.verdict(before, now, nobody, keys=as_new).status is Status.VERIFIED
    # The revocation counts all the same, in an export as in a history.
    lines = chain.export(head=chain.head(signed_at_ns=LATER_NS), key_ledger=now)
    came_later(lambda: work.verdict(lines, old, nobody, keys=as_old))
    one = [chain.receipts()[-1].encode()]
    came_later(lambda: work.verdict(one, old, nobody, before, as_old))
    # With the pin alone, it came with the file.
    with pytest.raises(VerificationError, match="disagree about"):
        work.verdict(before, (), nobody, keys=as_old)


def test_keys_of_a_history_that_nobody_cosigned_do_not_count(work: Work) -> None:
    """Else whoever has the keys of the log adds some, and the cosigners are moot."""
    chain, _, now = logged_before(OWN)
    one = [work.cosigned(chain, len(chain.leaves) - 1)[0].encode()]
    assert work.verify(one, (), Outside(), history=now) is Status.VERIFIED
    refused(lambda: work.verify(one, (), history=now), MISSING)


def test_key_ledgers_that_go_on_differently_do_not_hold(work: Work) -> None:
    chain, _, now = stolen()
    named = CoveredCheckpoint(ORIGIN, 1, chain.root_hash(1))
    other = key_chain(replaced("witness-1", "witness-3", "witness", named))
    lines = chain.export(key_ledger=now.export())
    refused(lambda: work.verify(lines, other.export(), Outside()), "different events")
    second = key_chain(seed="second")
    refused(lambda: work.verify(lines, second.export(), Outside()), "different events")


def test_in_another_log_the_key_ledgers_head_must_not_be_older(work: Work) -> None:
    chain, keys = sample_chain((3,), origin=OWN), key_chain()
    last = chain.links[-1][0]
    lines = chain.export(head=chain.head(signed_at_ns=LATER_NS))
    old, new = (keys.export(head=keys.head(signed_at_ns=LATER_NS + n)) for n in (-1, 0))
    nobody = Outside()
    verdict = work.verdict(lines, new, nobody)
    assert (verdict.status, told(verdict).outcome) == (Status.VERIFIED, Outcome.HOLDS)
    not_placed(lambda: work.verify(lines, old, nobody))
    # A receipt has no head. It is no newer by its own word, which says little.
    one = [chain.receipts()[-1].encode()]
    verdict = work.verdict(one, old, nobody)
    assert (verdict.status, told(verdict).outcome) == (Status.VERIFIED, Outcome.NOT_CHECKED)
    assert f"as of tree size {len(keys.leaves)} of {ORIGIN}" in told(verdict).detail
    assert "nothing shows whether the receipt, in another log, came" in told(verdict).detail
    before = keys.export(head=keys.head(signed_at_ns=last.t_ns - 1))
    not_placed(lambda: work.verify(one, before, nobody))


def test_of_an_archive_the_key_ledger_is_not_asked_for_anew(work: Work) -> None:
    """A copy of a log that signs no more heads gives no later export of the key ledger."""
    chain, keys = sample_chain((3,), origin=OWN), key_chain()
    late = keys.export(head=keys.head(signed_at_ns=LATER_NS))
    archive, with_keys = chain.export(head=None), "head; verify an archive, whose log signs no more"
    not_placed(lambda: work.verify(archive, late, Outside()), "nothing says as of when the export")
    not_placed(lambda: work.verify(archive, late, Outside()), with_keys)
    one = [chain.receipts()[-1].encode()]
    not_placed(lambda: work.verify(one, late, Outside(), history=archive), with_keys)
    # In one log its tree says as of when it is.
    chain, keys = one_log()
    now = keys.export()
    assert work.verify(chain.export(head=None), now, Outside()) is Status.VERIFIED
    chain.append([mutation(9)])
    not_placed(
        lambda: work.verify(chain.export(head=None), now, Outside()), r"anew.*; verify an arch"
    )


def test_of_a_receipt_without_a_proof_no_log_is_claimed(work: Work) -> None:
    chain, keys = one_log()
    bare = with_changes(chain.receipts()[-1], proofs=())
    head = keys.head(signed_at_ns=LATER_NS)
    verdict = work.verdict([bare.encode()], keys.export(head=head), Outside())
    assert (verdict.status, told(verdict).outcome) == (Status.UNVERIFIED, Outcome.NOT_CHECKED)
    assert "the receipt, which is in no log by what is here, came before" in told(verdict).detail
