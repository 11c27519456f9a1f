"""The allow-list of FIPS mode: inactive it lets all pass, active it knows what it allows."""

from __future__ import annotations

import asyncio

import pytest

from provledger import hashing
from provledger.errors import UnavailableError
from provledger.fips import pairwise, policy, watch
from provledger.fips.errors import FIPSAssertionError, FIPSSelfTestError
from provledger.fips.policy import FIPSRefusedError
from provledger.jwk import Algorithm
from provledger.keyset import KeyPurpose
from provledger.kms.errors import KMSIntegrityError

ED25519, P256 = Algorithm.ED25519, Algorithm.ECDSA_P256


@pytest.fixture(autouse=True)
def inactive(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mode of its own for each test: the real one cannot be left again."""
    monkeypatch.setattr(policy, "_mode", policy._Mode())


def test_outside_of_fips_mode_everything_passes() -> None:
    assert not policy.active()
    for name in hashing.SUITES:
        policy.check_suite(name)
    policy.check_primitive("BLAKE3")
    for algorithm in Algorithm:
        for purpose in KeyPurpose:
            policy.check_signing_key(algorithm, purpose)
    policy.latch("nothing")
    policy.check_operational()
    assert policy.algorithm_for("witness") == ED25519


def test_only_the_suite_fips_is_allowed() -> None:
    policy.activate(ed25519_approved=True)
    assert hashing.suite("fips").H(b"") == hashing.sha256(b"")
    for name in ("blake3", "blake3-all"):
        with pytest.raises(FIPSRefusedError, match="use the suite fips"):
            hashing.suite(name)


def test_blake3_is_refused_however_it_is_come_by() -> None:
    policy.activate(ed25519_approved=True)
    hashing._blake3_constructor.cache_clear()
    with pytest.raises(FIPSRefusedError, match="BLAKE3"):
        hashing.SUITES["blake3"].H(b"")
    with pytest.raises(FIPSRefusedError, match="BLAKE3"):
        hashing.constructor_of(hashing.blake3)


@pytest.mark.parametrize("purpose", list(KeyPurpose))
def test_ecdsa_may_sign_for_every_purpose(purpose: KeyPurpose) -> None:
    policy.activate(ed25519_approved=False)
    policy.check_signing_key(P256, purpose)
    policy.check_signing_key(Algorithm.ECDSA_P384, purpose)


def test_ed25519_may_sign_checkpoints_where_the_provider_offers_it() -> None:
    policy.activate(ed25519_approved=True)
    policy.check_signing_key(ED25519, KeyPurpose.CHECKPOINT)
    for purpose in (KeyPurpose.WITNESS, KeyPurpose.HEAD):
        with pytest.raises(FIPSRefusedError, match="use P-256"):
            policy.check_signing_key(ED25519, purpose)
    assert policy.algorithm_for("checkpoint") == ED25519
    assert policy.algorithm_for("witness") == policy.algorithm_for("head") == P256


def test_without_ed25519_in_the_provider_checkpoints_need_p256() -> None:
    policy.activate(ed25519_approved=False)
    with pytest.raises(FIPSRefusedError, match="does not offer Ed25519"):
        policy.check_signing_key(ED25519, KeyPurpose.CHECKPOINT)
    assert policy.algorithm_for("checkpoint") == P256


def test_other_algorithms_are_refused() -> None:
    policy.activate(ed25519_approved=True)
    with pytest.raises(FIPSRefusedError):
        policy.check_signing_key("ml-dsa-44", KeyPurpose.WITNESS)


def test_error_state_is_latched_with_its_first_reason() -> None:
    policy.activate(ed25519_approved=True)
    policy.latch("sha256")
    policy.latch("another")
    assert policy.error() == "sha256"
    with pytest.raises(UnavailableError, match="sha256"):
        policy.check_operational()


def test_failed_pairwise_test_enters_the_error_state() -> None:
    policy.activate(ed25519_approved=True)
    with pytest.raises(KMSIntegrityError), pairwise.pairwise_test("local:k.pem"):
        raise KMSIntegrityError("does not verify")
    assert policy.error() == "pairwise test of the key at local:k.pem"


def test_pairwise_test_that_holds_changes_nothing() -> None:
    policy.activate(ed25519_approved=True)
    with pairwise.pairwise_test("local:k.pem"):
        pass
    assert not policy.error()


def test_pairwise_test_can_be_made_to_fail() -> None:
    policy.activate(ed25519_approved=True, falsify_pairwise=True)
    with pytest.raises(KMSIntegrityError, match="made to fail"), pairwise.pairwise_test("local:k"):
        pass
    assert policy.error()


def test_failed_pairwise_test_outside_of_fips_mode_is_only_an_error() -> None:
    with pytest.raises(KMSIntegrityError), pairwise.pairwise_test("local:k.pem"):
        raise KMSIntegrityError("does not verify")
    assert not policy.error()


async def test_watch_waits_for_ever_outside_of_fips_mode() -> None:
    policy.latch("nothing")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(watch.until_failed(), 0.05)


async def test_watch_ends_with_the_error_that_another_thread_found() -> None:
    policy.activate(ed25519_approved=True)
    watching = asyncio.ensure_future(watch.until_failed())
    await asyncio.sleep(0)
    await asyncio.to_thread(policy.latch, "ecdsa-p256-sign")
    with pytest.raises(FIPSSelfTestError, match="ecdsa-p256-sign"):
        await asyncio.wait_for(watching, 5)


async def test_watch_ends_at_once_if_the_error_came_first() -> None:
    policy.activate(ed25519_approved=True)
    policy.latch("sha256")
    with pytest.raises(FIPSSelfTestError):
        await asyncio.wait_for(watch.until_failed(), 5)


def test_active_without_boot_is_not_believed() -> None:
    policy.activate(ed25519_approved=True)
    with pytest.raises(FIPSAssertionError, match="not booted"):
        watch.announce()
