"""A ledger is in the log that its genesis names: the same chain, begun again in another one, can go
on there as somebody likes, and neither log knows of the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from provledger import disclosure, jcs
from provledger.errors import VerificationError
from provledger.export import verify_export
from provledger.key_ledger import verify_from_pin
from provledger.keyset import CoveredCheckpoint
from provledger.receipt import Receipt
from provledger.report import Check, Finding, Outcome, Status
from provledger.verify import verify_receipt
from tests.support.chain import ORIGIN, Chain, key_set, mutation, sample_chain, with_changes
from tests.support.key_history import PIN, in_one_log, key_chain, replaced

KEYS = key_set()
OTHER_LOG = "provledger.test/other"


def begun_again(chain: Chain, count: int) -> None:
    """Log the first `count` receipts of a chain in another log, signed by the same keys."""
    entries = [entry for _, entry in chain.links[:count]]
    chain.links = chain.links[:count]
    chain.origin = OTHER_LOG
    chain.leaves = [jcs.encode({"log": {"origin": OTHER_LOG, "v": "1"}}), *entries]


def showing(receipt: Receipt, pointers: Sequence[str]) -> Receipt:
    """A receipt that shows these fields of its payload and no others."""
    assert receipt.payload is not None
    value, secret = jcs.parse(receipt.payload), receipt.commitment.secret
    assert secret is not None
    shown = {
        each.pointer: each.text
        for each in disclosure.disclose_all(value, secret)
        if each.pointer in pointers
    }
    commitment = dataclasses.replace(
        receipt.commitment,
        secret=None,
        disclosures=tuple(shown.values()),
        digests=tuple(disclosure.digest_list(value, secret)),
    )
    return with_changes(
        receipt, payload=None, commitment=commitment, fields_mask=tuple(sorted(shown))
    )


def test_chain_that_goes_on_otherwise_in_another_log_does_not_hold():
    chain = sample_chain((3, 2))
    assert verify_export(chain.export(), KEYS).status is Status.VERIFIED
    begun_again(chain, 3)
    chain.append([("evidence.note", {"said": "something else"})])
    with pytest.raises(VerificationError) as caught:
        verify_export(chain.export(), KEYS)
    assert (caught.value.check, caught.value.finding) == (Check.INCLUSION, Finding.PROOF_INVALID)


def test_genesis_alone_is_in_the_log_it_names_as_well():
    chain = sample_chain((3,))
    assert verify_receipt(chain.receipts()[0], KEYS).status is Status.VERIFIED
    begun_again(chain, 2)
    with pytest.raises(VerificationError, match="another log"):
        verify_receipt(chain.receipts()[0], KEYS)


def test_revocation_cannot_be_left_behind_in_another_log():
    """The key ledger's uid and pin are the same there, and the revocation was never logged."""

    def stolen() -> tuple[Chain, Chain, int]:
        chain = sample_chain((3,))
        size = len(chain.leaves)
        covered = CoveredCheckpoint(ORIGIN, size, chain.root_hash())
        chain.append([mutation(9)])
        return chain, key_chain(replaced("witness-1", "witness-2", "witness", covered)), size

    chain, keys, size = stolen()
    in_one_log(chain, keys)
    lines = chain.export(key_ledger=keys.export(), consistency=[chain.consistency(size)])
    with pytest.raises(VerificationError) as caught:
        verify_from_pin(lines, PIN, uid=keys.uid)
    assert caught.value.finding == Finding.CAME_LATER

    chain, keys, _ = stolen()
    begun_again(chain, len(chain.links))
    begun_again(keys, 2)
    in_one_log(chain, keys)
    with pytest.raises(VerificationError, match="another log"):
        verify_from_pin(chain.export(key_ledger=keys.export()), PIN, uid=keys.uid)


@pytest.mark.parametrize(
    ("pointers", "status"),
    [
        (("/logOrigin", "/suite"), Status.VERIFIED),
        (("/logOrigin",), Status.UNVERIFIED),
        ((), Status.UNVERIFIED),
    ],
)
def test_genesis_that_does_not_show_its_log_is_unverified(pointers: Sequence[str], status: Status):
    chain = sample_chain((3,))
    genesis, *others = chain.receipts()
    report = verify_export(chain.export([showing(genesis, pointers), *others]), KEYS)
    assert report.status is status
    outcomes = {result.check: result.outcome for result in report.results}
    assert (outcomes[Check.INCLUSION] is Outcome.HOLDS) is (status is Status.VERIFIED)

    begun_again(chain, 2)
    genesis, *others = chain.receipts()
    lines = chain.export([showing(genesis, pointers), *others])
    if "/logOrigin" in pointers:
        with pytest.raises(VerificationError, match="another log"):
            verify_export(lines, KEYS)
    else:
        assert verify_export(lines, KEYS).status is Status.UNVERIFIED


@pytest.mark.parametrize(
    ("pointers", "missing"),
    [
        (("/logOrigin",), "its suite"),
        (("/suite",), "which log it is of"),
        ((), "which log it is of and its suite"),
    ],
)
def test_masked_genesis_is_told_what_it_does_not_show(pointers: Sequence[str], missing: str):
    genesis = sample_chain((3,)).receipts()[0]
    report = verify_receipt(showing(genesis, pointers), KEYS)
    (found,) = [each for each in report.results if each.check is Check.INCLUSION]
    assert found.detail == f"the genesis does not show {missing}"


WRONG: dict[str, tuple[dict[str, Any], tuple[str, ...], Check]] = {
    "of another suite": ({"suite": "fips"}, ("/suite",), Check.CHAIN),
    "of another log": (
        {"logOrigin": OTHER_LOG, "logUid": "other"},
        ("/logOrigin",),
        Check.INCLUSION,
    ),
    "with another uid of its log": ({"logUid": "other"}, ("/logOrigin", "/logUid"), Check.FORMAT),
    "of a later version": ({"v": "2"}, ("/v",), Check.FORMAT),
    "with a predecessor": ({"predecessor": {"seq": "1"}}, ("/predecessor/seq",), Check.FORMAT),
    "with a predecessor that is a text": ({"predecessor": ""}, ("/predecessor",), Check.FORMAT),
    "with a member more": ({"more": "1"}, ("/more",), Check.FORMAT),
    "with a thumbprint that is none": ({"logKey": "A" * 64}, ("/logKey",), Check.FORMAT),
    "with a number for a thumbprint": ({"witnessKey": 1}, ("/witnessKey",), Check.FORMAT),
}


@pytest.mark.parametrize("name", WRONG)
def test_genesis_that_says_something_else_does_not_hold(name: str):
    """Shown in full, or shown where it is wrong; where that is hidden, it is as any other."""
    changes, pointers, check = WRONG[name]
    chain = Chain(genesis=Chain().genesis_payload() | changes)
    genesis = chain.receipts()[0]
    for shown in (genesis, showing(genesis, pointers)):
        with pytest.raises(VerificationError) as caught:
            verify_receipt(shown, KEYS)
        assert caught.value.check == check
    with pytest.raises(VerificationError):
        verify_export(chain.export(), KEYS)
    assert verify_receipt(showing(genesis, ()), KEYS).status is Status.UNVERIFIED


@pytest.mark.parametrize("member", sorted(Chain().genesis_payload()))
def test_genesis_that_lacks_a_member_does_not_hold(member: str):
    said = Chain().genesis_payload()
    del said[member]
    with pytest.raises(VerificationError, match="members of a genesis") as caught:
        verify_receipt(Chain(genesis=said).receipts()[0], KEYS)
    assert (caught.value.check, caught.value.finding) == (Check.FORMAT, Finding.FORMAT)


@pytest.mark.parametrize(
    "said", [[], ("application/json", jcs.encode(Chain().genesis_payload()))], ids=["list", "bytes"]
)
def test_genesis_of_another_kind_does_not_hold(said: object):
    with pytest.raises(VerificationError) as caught:
        verify_receipt(Chain(genesis=said).receipts()[0], KEYS)
    assert caught.value.check == Check.FORMAT
