"""`verify --key-ledger`: whom a verifier believes is asked of the key ledger's checkpoint too."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from notary_svc.signing import Cosigner
from provledger import note
from provledger.errors import VerificationError
from provledger.outside import COSIGNATURE, Outside
from provledger.policy import parse_policy
from provledger.receipt import Evidence, Receipt
from provledger.report import Check, Status
from provledger_cli import checking
from tests.support.chain import ORIGIN, START_NS, Chain, mutation, sample_chain, with_changes
from tests.support.key_history import PIN, in_one_log, key_chain

OWN = "provledger.test/own"
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
        trusted = checking.Trusted(pin=PIN, outside=outside or self.asking, jobs=1)
        trusted = checking.replayed(trusted, self.file("keys.ndjson", key_ledger))
        if history:
            trusted = checking.with_history(trusted, self.file("history.ndjson", history))
        return checking.verify_file(self.file("file", lines), trusted).status


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
    assert work.verify(lines, keys.export(), Outside()) is Status.VERIFIED
    refused(lambda: work.verify(lines, keys.export()), MISSING)
    assert work.verify(lines, keys.export(work.cosigned(keys))) is Status.VERIFIED
    # Of one receipt as of an export.
    one = [work.cosigned(chain)[-1].encode()]
    refused(lambda: work.verify(one, keys.export()), MISSING)
    assert work.verify(one, keys.export(work.cosigned(keys))) is Status.VERIFIED


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
    receipts = work.cosigned(chain)
    for lines in (chain.export(receipts), [receipts[-1].encode()]):
        refused(lambda lines=lines: work.verify(lines, old[0]), MISSING)  # type: ignore[misc]
        assert work.verify(lines, old[1]) is Status.VERIFIED


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
        refused(
            lambda lines=lines: work.verify(lines, key_ledger, outside),  # type: ignore[misc]
            "in another tree of size",
        )
