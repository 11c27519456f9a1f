"""Exports that carry the key ledger: a pin is all that a verifier brings."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from provledger.errors import VerificationError
from provledger.export import KEY_LEDGER_PREFIX, verify_export
from provledger.key_ledger import lines_of, verify_from_pin, verify_key_ledger, wrap
from provledger.keyset import CoveredCheckpoint, KeySet
from provledger.report import Check, Outcome, Status
from tests.support.chain import ORIGIN, Chain, key_set, mutation, sample_chain, with_changes
from tests.support.key_history import PIN, in_one_log, key_chain, replaced, thumbprint


@pytest.fixture(scope="module")
def both() -> tuple[Chain, Chain]:
    chain = sample_chain((3, 1))
    # A key that is pending changes nothing.
    pending = replaced("witness-1", "witness-2", "witness", CoveredCheckpoint(ORIGIN, 1, bytes(32)))
    keys = key_chain(pending[:1])
    in_one_log(chain, keys)
    return chain, keys


def outcome(report, check):
    return {result.check: result.outcome for result in report.results}[check]


def test_an_export_verifies_from_a_pinned_genesis_alone(both) -> None:
    chain, keys = both
    lines = chain.export(key_ledger=keys.export())
    report = verify_from_pin(lines, PIN)
    assert (report.status, report.count) == (Status.VERIFIED, 5)
    assert outcome(report, Check.KEY_LEDGER) is Outcome.HOLDS
    # Any key of the genesis may be pinned, and the key ledger's own export is one as well.
    assert verify_from_pin(lines, thumbprint("head-1")).status is Status.VERIFIED
    assert verify_from_pin(keys.export(), PIN).status is Status.VERIFIED
    assert lines_of(lines) == keys.export() == lines_of(keys.export())
    assert wrap(keys.export()) == [line for line in lines if line.startswith(KEY_LEDGER_PREFIX)]


def test_with_a_key_set_alone_the_key_ledger_is_not_checked(both) -> None:
    chain, keys = both
    report = verify_export(chain.export(key_ledger=keys.export()), key_set())
    assert report.status is Status.VERIFIED
    assert outcome(report, Check.KEY_LEDGER) is Outcome.NOT_CHECKED


def test_a_broken_receipt_behind_a_key_ledger_is_named_by_its_line(both) -> None:
    chain, keys = both
    receipts = chain.receipts()
    receipts[2] = with_changes(receipts[2], t_ns=receipts[2].t_ns + 1)
    lines = chain.export(receipts, key_ledger=keys.export())
    with pytest.raises(VerificationError) as caught:
        verify_from_pin(lines, PIN)
    assert caught.value.receipt == receipts[2].name
    assert caught.value.line is not None
    assert receipts[2].name.encode() in lines[caught.value.line - 1]


BROKEN: dict[str, tuple[Callable[[Chain, Chain], list[bytes]], str]] = {
    "no key ledger": (lambda c, k: c.export(), "carries no key ledger"),
    "an event left out": (
        lambda c, k: c.export(key_ledger=k.export(k.receipts()[:-1])),
        "the export ends at",
    ),
    "the genesis left out": (
        lambda c, k: c.export(key_ledger=k.export(k.receipts()[:1], head=None)),
        "no genesis",
    ),
    "without a head": (
        lambda c, k: c.export(key_ledger=k.export(head=None)),
        "no signed head",
    ),
    "not in the log": (
        lambda c, k: c.export(
            key_ledger=k.export([with_changes(each, proofs=()) for each in k.receipts()])
        ),
        "not all of it is in the log",
    ),
    "as of an older checkpoint": (
        lambda c, k: c.export(key_ledger=key_chain().export()),
        "another checkpoint",
    ),
    "another ledger": (lambda c, k: c.export(key_ledger=c.export()), "no genesis"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_key_ledger_that_does_not_hold_is_refused(both, name: str) -> None:
    make, why = BROKEN[name]
    with pytest.raises(VerificationError, match=why):
        verify_from_pin(make(*both), PIN)


def test_another_pin_is_refused(both) -> None:
    chain, keys = both
    with pytest.raises(VerificationError, match="pinned thumbprint"):
        verify_from_pin(chain.export(key_ledger=keys.export()), bytes(32))


def test_a_key_set_that_disagrees_is_refused(both) -> None:
    chain, keys = both
    lines = chain.export(key_ledger=keys.export())
    verify_from_pin(lines, PIN, verify_key_ledger(keys.export(), PIN).key_set())
    with pytest.raises(VerificationError, match="leaves out"):
        verify_from_pin(lines, PIN, KeySet(list(key_set())[:2]))


def test_a_revocation_in_the_key_ledger_decides() -> None:
    """What the stolen key signed later is found with the pin, though a key set still takes it."""
    chain = sample_chain((3,))
    size = len(chain.leaves)
    checkpoint = CoveredCheckpoint(ORIGIN, size, chain.root_hash())
    chain.append([mutation(9)])
    keys = key_chain(replaced("witness-1", "witness-2", "witness", checkpoint))
    in_one_log(chain, keys)
    lines = chain.export(key_ledger=keys.export(), consistency=[chain.consistency(size)])
    assert verify_export(lines, key_set()).status is Status.VERIFIED
    with pytest.raises(VerificationError) as caught:
        verify_from_pin(lines, PIN)
    assert (caught.value.finding, caught.value.receipt) == ("came_later", chain.links[4][0].name)
