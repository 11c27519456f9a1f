"""Keys in Cloud KMS, with the real google-cloud-kms against a gRPC server of its own messages."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

pytest.importorskip(
    "google.cloud.kms_v1", reason="needs google-cloud-kms: pip install 'provledger[gcp]'"
)

from provledger import kms
from provledger.errors import KMSError
from provledger.jwk import Algorithm, verify_signature
from provledger.kms import signing
from provledger.kms.errors import (
    KMSConfigError,
    KMSIntegrityError,
    KMSKeyDisabledError,
    KMSKeyNotFoundError,
    KMSNotInstalledError,
    KMSPermissionError,
    KMSThrottledError,
    KMSUnavailableError,
)
from provledger.kms.gcp import GCPProvider
from provledger.kms.remote import RemoteSigner, Wanted
from tests.support.fake_gcp_kms import PARENT, FakeGCPKMS, kms_v1
from tests.support.signing import until_signed
from tests.support.token_bucket import TokenBucket

MESSAGE = b"DSSEv1 2 hi 2 {}"
ED25519 = "EC_SIGN_ED25519"
P256 = "EC_SIGN_P256_SHA256"
KINDS = {
    Algorithm.ED25519: ED25519,
    Algorithm.ECDSA_P256: P256,
    Algorithm.ECDSA_P384: "EC_SIGN_P384_SHA384",
    Algorithm.ML_DSA_44: "PQ_SIGN_ML_DSA_44",
    Algorithm.ML_DSA_65: "PQ_SIGN_ML_DSA_65",
}
KEY = f"gcp-kms:{PARENT}/cryptoKeys/witness/cryptoKeyVersions/1"

Open = Callable[..., Any]


@pytest.fixture
def gcp(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGCPKMS]:
    for name in list(os.environ):
        if name.startswith(("GOOGLE_", "CLOUDSDK_")):
            monkeypatch.delenv(name)
    with FakeGCPKMS() as fake:
        monkeypatch.setenv("PROVLEDGER_GCP_KMS_ENDPOINT", fake.endpoint)
        yield fake


@pytest.fixture
async def opened(gcp: FakeGCPKMS) -> AsyncIterator[Open]:
    """Opens a new key of the algorithm that it is given; closes it after the test."""
    signers: list[RemoteSigner] = []

    async def open_new(algorithm: str = ED25519) -> RemoteSigner:
        signers.append(await GCPProvider().open_signer(f"gcp-kms:{gcp.add_key(algorithm)}"))
        return signers[-1]

    yield open_new
    for signer in signers:
        await signer.close()


# --- signing ---


@pytest.mark.parametrize("algorithm", KINDS)
async def test_key_signs_what_its_public_half_verifies(
    gcp: FakeGCPKMS, algorithm: Algorithm, tmp_path: Path
) -> None:
    name = gcp.add_key(KINDS[algorithm])
    signer = await kms.open_signer(f"gcp-kms:{name}", tmp_path)
    assert (signer.uri, signer.algorithm) == (f"gcp-kms:{name}", algorithm)
    await signing.self_test(signer, signer.public_key)
    verify_signature(signer.public_key, await signer.sign(MESSAGE), MESSAGE)
    assert all(request.name == name for request in gcp.signed), "the exact version"
    await signer.close()


async def test_ed25519_is_sent_the_message_with_its_checksum(gcp: FakeGCPKMS, opened: Open) -> None:
    signer = await opened(ED25519)
    await signer.sign(MESSAGE)
    (request,) = gcp.signed
    assert request.data == MESSAGE
    assert request.data_crc32c is not None
    assert not request.digest.sha256


async def test_ecdsa_is_sent_a_digest_with_its_checksum_and_answers_in_der(
    gcp: FakeGCPKMS, opened: Open
) -> None:
    signer = await opened(P256)
    decode_dss_signature(await signer.sign(MESSAGE))
    (request,) = gcp.signed
    assert len(request.digest.sha256) == 32
    assert request.digest_crc32c is not None
    assert not request.data


@pytest.mark.parametrize("level", ["HSM", "SOFTWARE", "EXTERNAL"])
async def test_protection_level_is_shown(gcp: FakeGCPKMS, level: str) -> None:
    name = gcp.add_key(ED25519)
    gcp.versions[name].protection = level
    signer = await GCPProvider().open_signer(f"gcp-kms:{name}")
    assert signer.protection == level
    await signer.close()


@pytest.mark.filterwarnings("ignore:Unrecognized ProtectionLevel")
async def test_protection_level_newer_than_the_client_is_shown_as_its_number(
    gcp: FakeGCPKMS, opened: Open
) -> None:
    def newer(answer: Any) -> None:
        answer.protection_level = 99

    gcp.tamper_public_key = newer
    assert (await opened()).protection == "99"


# --- answers that are wrong ---


def other_name(answer: Any) -> None:
    answer.name = answer.name[:-1] + "7"


def wrong_crc(answer: Any) -> None:
    answer.signature_crc32c ^= 1


def no_crc(answer: Any) -> None:
    answer.signature_crc32c = None


def damaged(answer: Any) -> None:
    answer.signature = answer.signature[:-1] + bytes([answer.signature[-1] ^ 1])


def not_verified(answer: Any) -> None:
    answer.verified_data_crc32c = answer.verified_digest_crc32c = False


@pytest.mark.parametrize("algorithm", [ED25519, P256])
@pytest.mark.parametrize(
    ("tamper", "why"),
    [
        (other_name, "another key version answered"),
        (wrong_crc, "CRC32C"),
        (no_crc, "CRC32C"),
        (damaged, "CRC32C"),
        (not_verified, "did not verify the checksum"),
    ],
)
async def test_damaged_or_foreign_answer_is_tried_once_more_and_then_an_alarm(
    gcp: FakeGCPKMS, opened: Open, algorithm: str, tamper: Callable[[Any], None], why: str
) -> None:
    signer = await opened(algorithm)
    gcp.tamper = tamper
    with pytest.raises(KMSIntegrityError, match=why):
        await signer.sign(MESSAGE)
    assert gcp.calls["AsymmetricSign"] == 2


def damaged_pem(answer: Any) -> None:
    answer.pem = answer.pem.replace("M", "N")


def no_pem_crc(answer: Any) -> None:
    answer.pem_crc32c = None


def other_kind(answer: Any) -> None:
    answer.algorithm = kms_v1.CryptoKeyVersion.CryptoKeyVersionAlgorithm.EC_SIGN_P256_SHA256


@pytest.mark.parametrize(
    ("tamper", "why"),
    [
        (other_name, "another key version answered"),
        (damaged_pem, "CRC32C"),
        (no_pem_crc, "CRC32C"),
        (other_kind, "public key of another kind"),
    ],
)
async def test_public_key_that_was_damaged_or_is_another_one_is_an_alarm(
    gcp: FakeGCPKMS, opened: Open, tamper: Callable[[Any], None], why: str
) -> None:
    gcp.tamper_public_key = tamper
    with pytest.raises(KMSIntegrityError, match=why):
        await opened(ED25519)


async def test_answer_damaged_once_is_only_the_transmission(gcp: FakeGCPKMS, opened: Open) -> None:
    signer = await opened()

    def damage_once(answer: Any) -> None:
        gcp.tamper = None
        damaged(answer)

    gcp.tamper = damage_once
    verify_signature(signer.public_key, await signer.sign(MESSAGE), MESSAGE)


async def test_request_damaged_on_its_way_is_not_signed(gcp: FakeGCPKMS, opened: Open) -> None:
    signer = await opened()

    def damage(request: Any) -> None:
        request.data += b"!"

    gcp.tamper_request = damage
    with pytest.raises(KMSIntegrityError, match="our request arrived damaged"):
        await signer.sign(MESSAGE)
    assert gcp.calls["AsymmetricSign"] == 2
    assert not gcp.signed


async def test_checksum_that_was_lost_on_its_way_is_noticed(gcp: FakeGCPKMS, opened: Open) -> None:
    signer = await opened()

    def strip(request: Any) -> None:
        request.data_crc32c = None

    gcp.tamper_request = strip
    with pytest.raises(KMSIntegrityError, match="did not verify the checksum"):
        await signer.sign(MESSAGE)


async def test_wrong_signature_goes_nowhere(gcp: FakeGCPKMS, opened: Open) -> None:
    signer = await opened()
    (version,) = gcp.versions.values()
    gcp.add_key(ED25519)
    version.private = list(gcp.versions.values())[1].private
    with pytest.raises(KMSIntegrityError, match="does not verify"):
        await signing.sign_checkpoint(signer, "log.example/1", 7, bytes(32))


# --- what is refused before anything is signed ---


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        (KEY.rpartition("/cryptoKeyVersions")[0], "must end in the exact version.*versions list"),
        (KEY + "/", "must look like"),
        (KEY[:-1], "must look like"),
        (KEY[:-1] + "0", "must look like"),
        (KEY[:-1] + "latest", "must look like"),
        (KEY.replace("cryptoKeys", "cryptokeys"), "must look like"),
        (KEY.replace("/keyRings/provledger", ""), "must look like"),
        (KEY.replace("europe-west3", "Europe West"), "must look like"),
        (KEY + "?endpoint=127.0.0.1:1", "must look like"),
        ("gcp-kms:https://cloudkms.googleapis.com/v1/" + KEY[8:], "must look like"),
    ],
)
def test_uri_with_a_mistake_is_refused_without_any_call(uri: str, why: str) -> None:
    with pytest.raises(KMSConfigError, match=why):
        kms.check_uri(uri)


def test_uri_of_a_key_version_is_accepted() -> None:
    kms.check_uri(KEY)
    kms.check_uri(KEY.replace("projects/acme", "projects/example.com:acme"))


REFUSALS: dict[str, tuple[str, str, type[KMSError], str]] = {
    "encryption key": (
        "GOOGLE_SYMMETRIC_ENCRYPTION", "ENABLED", KMSConfigError, "purpose is ASYMMETRIC_SIGN"
    ),
    "rsa": ("RSA_SIGN_PSS_2048_SHA256", "ENABLED", KMSConfigError, "EC_SIGN_ED25519 or EC_SIGN_P2"),
    "slh-dsa": (
        "PQ_SIGN_SLH_DSA_SHA2_128S", "ENABLED", KMSConfigError, "purpose is ASYMMETRIC_SIGN"
    ),
    "disabled": (ED25519, "DISABLED", KMSKeyDisabledError, "gcloud kms keys versions enable"),
    "destroyed soon": (ED25519, "DESTROY_SCHEDULED", KMSKeyDisabledError, "versions restore"),
    "destroyed": (ED25519, "DESTROYED", KMSKeyDisabledError, "gone for good"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
async def test_unusable_key_is_refused_with_its_name_and_the_remedy(
    gcp: FakeGCPKMS, case: str
) -> None:
    algorithm, state, error, remedy = REFUSALS[case]
    name = gcp.add_key(algorithm, state)
    with pytest.raises(error, match=remedy) as caught:
        await GCPProvider().open_signer(f"gcp-kms:{name}")
    assert name in str(caught.value)
    assert gcp.calls["AsymmetricSign"] == 0


async def test_unknown_key_is_not_found(gcp: FakeGCPKMS) -> None:
    with pytest.raises(KMSKeyNotFoundError, match=r"compare project, location"):
        await GCPProvider().open_signer(KEY)


async def test_wrong_location_is_named(gcp: FakeGCPKMS) -> None:
    gcp.add_key(ED25519)
    with pytest.raises(KMSConfigError, match=r"location 'europe-west33'.*check the location"):
        await GCPProvider().open_signer(KEY.replace("europe-west3", "europe-west33"))
    with pytest.raises(KMSKeyNotFoundError):
        await GCPProvider().open_signer(KEY.replace("europe-west3", "global"))


async def test_missing_permission_names_the_role(gcp: FakeGCPKMS, opened: Open) -> None:
    gcp.denied = {"GetPublicKey"}
    with pytest.raises(KMSPermissionError, match=r"GetPublicKey.*roles/cloudkms\.publicKeyViewer"):
        await opened()
    gcp.denied = {"AsymmetricSign"}
    signer = await opened()
    with pytest.raises(KMSPermissionError, match=r"AsymmetricSign.*roles/cloudkms\.signer"):
        await signer.sign(MESSAGE)
    assert gcp.calls["AsymmetricSign"] == 1


async def test_without_credentials_the_error_says_what_to_give(
    gcp: FakeGCPKMS, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("PROVLEDGER_GCP_KMS_ENDPOINT")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(KMSPermissionError, match=r"no Google credentials.*service account"):
        await GCPProvider().open_signer(KEY)


async def test_stand_in_must_be_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    for endpoint in ("kms.example:443", "10.0.0.1:443", "443", "0.0.0.0:443"):
        monkeypatch.setenv("PROVLEDGER_GCP_KMS_ENDPOINT", endpoint)
        with pytest.raises(KMSConfigError, match="on loopback"):
            await GCPProvider().open_signer(KEY)


async def test_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.cloud.kms_v1", None)
    with pytest.raises(KMSNotInstalledError, match=r"provledger\[gcp\]") as caught:
        await GCPProvider().open_signer(KEY)
    assert caught.value.extra == "gcp"


# --- throttling, outages, lost answers, keys disabled in use ---


@pytest.mark.parametrize(
    "fault", ["lost", "UNAVAILABLE", "INTERNAL", "ABORTED", "UNKNOWN", "RESOURCE_EXHAUSTED"]
)
async def test_passing_fault_is_retried_and_nobody_notices(
    gcp: FakeGCPKMS, opened: Open, fault: str
) -> None:
    signer = await opened()
    gcp.fail_next(fault, 1)
    verify_signature(signer.public_key, await signer.sign(MESSAGE), MESSAGE)


async def test_lost_answer_was_a_signature_and_signing_again_harms_nobody(
    gcp: FakeGCPKMS, opened: Open
) -> None:
    signer = await opened()
    gcp.fail_next("lost")
    verify_signature(signer.public_key, await signer.sign(MESSAGE), MESSAGE)
    assert gcp.outcomes == {"ok": 2}


async def test_dead_server_is_given_up_in_time(gcp: FakeGCPKMS, opened: Open) -> None:
    """The client's own retry would go on for most of a minute."""
    signer = await opened()
    gcp.fail_next("hang", 100)
    started_s = time.monotonic()
    with pytest.raises(KMSUnavailableError) as caught:
        await signer.sign(MESSAGE)
    assert caught.value.retry_delay_s > 0
    assert time.monotonic() - started_s < 10
    assert gcp.calls["AsymmetricSign"] <= 4
    gcp.clear_faults()
    await until_signed(signer, MESSAGE)


async def test_client_makes_one_call_for_an_attempt(
    gcp: FakeGCPKMS, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    signer = await opened()
    gcp.fail_next("UNAVAILABLE", 100)
    monkeypatch.setattr(
        "provledger.retry.RetryPolicy.delays", lambda self, rng: iter(())
    )  # no attempt after the first
    with pytest.raises(KMSUnavailableError):
        await signer.sign(MESSAGE)
    assert gcp.calls["AsymmetricSign"] == 1


async def test_throttled_call_gives_the_delay_that_the_server_advised(
    gcp: FakeGCPKMS, opened: Open
) -> None:
    signer = await opened()
    gcp.limit, gcp.advice_s = TokenBucket(rate_per_s=0.0, burst=0), 3.5
    with pytest.raises(KMSThrottledError) as caught:
        await signer.sign(MESSAGE)
    assert 3.5 <= caught.value.retry_delay_s <= 5
    assert gcp.calls["AsymmetricSign"] == 1, "the advice is longer than an append may wait"


@pytest.mark.parametrize("algorithm", [ED25519, P256])
async def test_disabled_version_signs_on_for_a_while_and_then_stops_at_once(
    gcp: FakeGCPKMS, opened: Open, algorithm: str
) -> None:
    """Whoever revokes a key must not count on its provider to act within a minute."""
    signer = await opened(algorithm)
    (version,) = gcp.versions.values()
    version.state, version.signs_on = "DISABLED", 3
    for _ in range(3):
        verify_signature(signer.public_key, await signer.sign(MESSAGE), MESSAGE)
    gcp.calls.clear()
    with pytest.raises(KMSKeyDisabledError, match="current state is: DISABLED"):
        await signer.sign(MESSAGE)
    assert gcp.calls["AsymmetricSign"] == 1


async def test_closed_key_does_not_sign(opened: Open) -> None:
    signer = await opened()
    await signer.close()
    with pytest.raises(KMSUnavailableError, match="closed"):
        await signer.sign(MESSAGE)


# --- new keys ---


WANTED = Wanted("witness-2", bytes(range(16)))


@pytest.mark.parametrize("algorithm", KINDS)
async def test_new_version_beside_another_is_ready_to_sign(
    gcp: FakeGCPKMS, algorithm: Algorithm
) -> None:
    uri = f"gcp-kms:{gcp.add_key(KINDS[algorithm])}"
    created = await GCPProvider().create_beside(uri, algorithm, WANTED)
    assert created.uri == uri[:-1] + "2"
    signer = await GCPProvider().open_signer(created.uri)
    await signing.self_test(signer, created.public_key)
    await signer.close()


async def test_new_version_of_another_algorithm_is_refused_before_it_is_made(
    gcp: FakeGCPKMS,
) -> None:
    uri = f"gcp-kms:{gcp.add_key(ED25519)}"
    with pytest.raises(KMSConfigError, match="new versions of its key are of algorithm EC_SIGN_ED"):
        await GCPProvider().create_beside(uri, Algorithm.ECDSA_P256, WANTED)
    assert len(gcp.versions) == 1


async def test_lost_answer_to_a_new_version_makes_no_second_one(gcp: FakeGCPKMS) -> None:
    uri = f"gcp-kms:{gcp.add_key(ED25519)}"
    gcp.page_size = 1
    gcp.fail_next("lost")
    created = await GCPProvider().create_beside(uri, Algorithm.ED25519, WANTED)
    assert (created.uri, created.found, len(gcp.versions)) == (uri[:-1] + "2", True, 2)
    again = await GCPProvider().create_beside(uri, Algorithm.ED25519, WANTED)
    assert (again.uri, len(gcp.versions)) == (created.uri, 2)
    # Once it is registered, the next ceremony makes another one.
    known = Wanted("witness-3", bytes(16), frozenset({uri, created.uri}))
    third = await GCPProvider().create_beside(uri, Algorithm.ED25519, known)
    assert (third.uri, third.found) == (uri[:-1] + "3", False)


async def test_version_that_was_there_before_the_ceremony_is_never_taken(gcp: FakeGCPKMS) -> None:
    """Newer than the active one and registered nowhere, but made by somebody else."""
    uri = f"gcp-kms:{gcp.add_key(ED25519)}"
    gcp.add_key(ED25519, "DESTROYED")
    gcp.add_key(ED25519)
    created = await GCPProvider().create_beside(uri, Algorithm.ED25519, WANTED)
    assert (created.uri, created.found) == (uri[:-1] + "4", False)
    # Another ceremony, of a key that is not registered yet, does not take that one either.
    other = await GCPProvider().create_beside(uri, Algorithm.ED25519, Wanted("w3", bytes(16)))
    assert (other.uri, other.found) == (uri[:-1] + "5", False)


@pytest.mark.parametrize("killed_after", ["labels", "version"])
async def test_ceremony_that_was_killed_goes_on_with_what_it_made(
    gcp: FakeGCPKMS, killed_after: str
) -> None:
    uri = f"gcp-kms:{gcp.add_key(ED25519)}"
    gcp.labels[uri.removeprefix("gcp-kms:").rpartition("/cryptoKeyVersions")[0]] = {"team": "a"}
    if killed_after == "labels":
        gcp.denied = {"CreateCryptoKeyVersion"}
        with pytest.raises(KMSPermissionError):
            await GCPProvider().create_beside(uri, Algorithm.ED25519, WANTED)
        gcp.denied = set()
    else:
        await GCPProvider().create_beside(uri, Algorithm.ED25519, WANTED)
    again = await GCPProvider().create_beside(uri, Algorithm.ED25519, WANTED)
    assert (again.uri, len(gcp.versions)) == (uri[:-1] + "2", 2)
    assert again.found == (killed_after == "version")
    (labels,) = gcp.labels.values()
    assert labels == {
        "team": "a",
        "provledger-ceremony": WANTED.ceremony.hex(),
        "provledger-after": "1",
    }


async def test_of_several_versions_made_meanwhile_none_is_chosen(gcp: FakeGCPKMS) -> None:
    uri = f"gcp-kms:{gcp.add_key(ED25519)}"
    await GCPProvider().create_beside(uri, Algorithm.ED25519, WANTED)
    gcp.add_key(ED25519)
    with pytest.raises(KMSConfigError, match="several versions of its key were made since"):
        await GCPProvider().create_beside(uri, Algorithm.ED25519, WANTED)
    assert len(gcp.versions) == 3


async def test_nothing_is_made_where_the_ceremony_cannot_be_written_down(gcp: FakeGCPKMS) -> None:
    uri = f"gcp-kms:{gcp.add_key(ED25519)}"
    gcp.denied = {"UpdateCryptoKey"}
    with pytest.raises(KMSPermissionError, match=r"UpdateCryptoKey.*roles/cloudkms\.admin"):
        await GCPProvider().create_beside(uri, Algorithm.ED25519, WANTED)
    assert len(gcp.versions) == 1


async def test_version_of_our_own_number_cannot_be_made(gcp: FakeGCPKMS) -> None:
    with pytest.raises(KMSConfigError, match="numbers new versions itself"):
        await GCPProvider().create_key(KEY, Algorithm.ED25519)
