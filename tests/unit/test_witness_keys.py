"""Whose signatures the ledger service takes, by keys and batches that are real."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from ledger_svc.chain import Seal
from ledger_svc.tools import StaleSignatureError
from ledger_svc.witness_keys import RingPolicy
from provledger import dsse
from provledger.errors import InternalError
from provledger.keyset import KeySet
from provledger.signing_token import Token
from provledger.witness_batch import PAYLOAD_TYPE, WitnessBatch
from tests.support.chain import START_NS, key_set, make_token, private_key


@dataclass
class Ring:
    """What a key ring has heard last."""

    keys: KeySet = field(default_factory=key_set)

    def key_set(self) -> KeySet:
        return self.keys


def policy(keys: KeySet | None = None) -> RingPolicy:
    return RingPolicy(Ring(keys or key_set()))  # type: ignore[arg-type]


def seal(*, signer: str = "witness-1", **changes: Any) -> Seal:
    """The seal of a batch that `signer` signed; `changes` of what its body says."""
    (key,) = key_set().for_purpose("witness")
    batch = WitnessBatch(
        suite="blake3",
        root=bytes(32),
        size=1,
        kid="witness-1",
        thumbprint=key.thumbprint,
        epoch=1,
        signed_at_ns=START_NS,
    )
    batch = replace(batch, **changes)
    body = batch.encode()
    return Seal(
        suite=batch.suite,
        body=body,
        sig=private_key(signer).sign(dsse.pae(PAYLOAD_TYPE, body)),
        first_index=0,
        leaf_hashes=bytes(32),
        siblings=b"",
        kid=batch.kid,
        epoch=batch.epoch,
        thumbprint=batch.thumbprint,
        signed_at_ns=batch.signed_at_ns,
    )


def test_what_the_key_signed_is_taken() -> None:
    policy().check_signature(seal())


def test_so_is_what_a_token_signed() -> None:
    policy().check_signature(seal(signer="token", token=make_token()))


@pytest.mark.parametrize("place", [0, 31, 32, 63])
def test_each_bit_of_the_signature_counts(place: int) -> None:
    good = seal()
    sig = bytearray(good.sig)
    sig[place] ^= 1
    with pytest.raises(InternalError, match="does not verify under key 'witness-1'") as caught:
        policy().check_signature(replace(good, sig=bytes(sig)))
    assert caught.value.reason == "WITNESS_ANSWER"


def test_another_batch_is_not_what_was_signed() -> None:
    with pytest.raises(InternalError, match="does not verify"):
        policy().check_signature(replace(seal(), body=seal(size=2).body))


def test_another_key_under_the_same_kid_is_refused() -> None:
    """By its own word for who it is, and by the word of the one that is known."""
    (other,) = key_set(witness="another").for_purpose("witness")
    with pytest.raises(InternalError, match="another key than 'witness-1' by thumbprint"):
        policy().check_signature(seal(signer="another", thumbprint=other.thumbprint))
    with pytest.raises(InternalError, match="does not verify"):
        policy().check_signature(seal(signer="another"))


@pytest.mark.parametrize(
    ("token", "why"),
    [
        (make_token(signer="another"), "not certified by key 'witness-1'"),
        (make_token(use=101), "has 100 uses, this is 101"),
        (make_token(not_after_ns=START_NS - 1), "was not valid"),
        (make_token(key="another"), "does not verify"),
    ],
)
def test_token_that_breaks_a_rule_is_refused(token: Token, why: str) -> None:
    with pytest.raises(InternalError, match=why):
        policy().check_signature(seal(signer="token", token=token))


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        (key_set(not_before_ns=START_NS + 1), "was not valid yet"),
        (key_set(not_after_ns=START_NS - 1), "was no longer valid"),
        (key_set(witness="witness-2"), "not in the given key set"),
    ],
)
def test_batch_of_another_time_is_to_be_witnessed_again(keys: KeySet, why: str) -> None:
    with pytest.raises(StaleSignatureError, match=why):
        policy(keys).check_signature(seal())


def test_so_is_one_by_a_token_from_before_its_key() -> None:
    keys = key_set(not_before_ns=START_NS - 1)
    with pytest.raises(StaleSignatureError, match="was not valid yet"):
        policy(keys).check_signature(seal(signer="token", token=make_token()))


def test_so_is_one_of_another_epoch() -> None:
    with pytest.raises(StaleSignatureError, match="epoch"):
        policy().check_signature(seal(epoch=2))
