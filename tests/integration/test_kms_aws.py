"""Keys in AWS KMS, with the real boto3 against a server that speaks AWS's wire protocol."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from provledger import kms
from provledger.errors import KMSError
from provledger.jwk import Algorithm, verify_signature
from provledger.kms import _aws_client, _aws_create, signing
from provledger.kms.aws import AWSProvider
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
from provledger.kms.remote import MAX_IN_FLIGHT, RemoteSigner, Wanted
from tests.support.dawdling import header, serving
from tests.support.fake_aws_kms import ACCOUNT, FakeAWSKMS
from tests.support.signing import until_signed
from tests.support.token_bucket import TokenBucket

pytest.importorskip("boto3", reason="needs boto3: pip install 'provledger[aws]'")

MESSAGE = b"DSSEv1 2 hi 2 {}"
SPECS = {
    Algorithm.ED25519: ("ECC_NIST_EDWARDS25519", "ED25519_SHA_512", "RAW"),
    Algorithm.ECDSA_P256: ("ECC_NIST_P256", "ECDSA_SHA_256", "DIGEST"),
    Algorithm.ECDSA_P384: ("ECC_NIST_P384", "ECDSA_SHA_384", "DIGEST"),
    Algorithm.ML_DSA_44: ("ML_DSA_44", "ML_DSA_SHAKE_256", "RAW"),
    Algorithm.ML_DSA_65: ("ML_DSA_65", "ML_DSA_SHAKE_256", "RAW"),
}
ED25519 = "ECC_NIST_EDWARDS25519"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only what a test says: nothing from this machine's AWS settings."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "example")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAWSKMS]:
    with FakeAWSKMS() as fake:
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", fake.url)
        yield fake


async def opened(aws: FakeAWSKMS, spec: str = ED25519) -> RemoteSigner:
    return await AWSProvider().open_signer(f"aws-kms:{aws.add_key(spec)}")


# --- signing ---


@pytest.mark.parametrize("algorithm", SPECS)
async def test_key_signs_what_its_public_half_verifies(
    aws: FakeAWSKMS, algorithm: Algorithm, tmp_path: Path
) -> None:
    spec, signing_algorithm, message_type = SPECS[algorithm]
    arn = aws.add_key(spec)
    signer = await kms.open_signer(f"aws-kms:{arn}", tmp_path)
    assert (signer.uri, signer.algorithm) == (f"aws-kms:{arn}", algorithm)
    await signing.self_test(signer, signer.public_key)
    verify_signature(signer.public_key, await signer.sign(MESSAGE), MESSAGE)
    for request in aws.signed:
        assert request["KeyId"] == arn, "the ARN itself, never an alias or a bare id"
        assert request["SigningAlgorithm"] == signing_algorithm
        assert request["MessageType"] == message_type
    await signer.close()


async def test_ecdsa_is_sent_a_digest_and_answers_in_der(aws: FakeAWSKMS) -> None:
    signer = await opened(aws, "ECC_NIST_P256")
    message = bytes(100_000)  # far above the limit for messages
    signature = await signer.sign(message)
    verify_signature(signer.public_key, signature, message)
    r, s = decode_dss_signature(signature)
    assert r > 0
    assert s > 0
    assert len(aws.signed[0]["Message"]) == 44, "32 bytes in base64"


async def test_ed25519_signs_4096_bytes_and_refuses_more_before_asking(aws: FakeAWSKMS) -> None:
    signer = await opened(aws)
    longest = bytes(4096)
    verify_signature(signer.public_key, await signer.sign(longest), longest)
    with pytest.raises(KMSConfigError, match=r"at most 4096 bytes.*use a P-256 key"):
        await signer.sign(longest + b"!")
    assert aws.calls["Sign"] == 1


async def test_signatures_are_made_at_the_same_time(aws: FakeAWSKMS) -> None:
    signer = await opened(aws)
    messages = [b"message %d" % number for number in range(30)]
    signatures = await asyncio.gather(*map(signer.sign, messages))
    for message, signature in zip(messages, signatures, strict=True):
        verify_signature(signer.public_key, signature, message)


# --- answers that are wrong ---


@pytest.mark.parametrize(
    ("member", "value", "why"),
    [
        ("KeyId", f"arn:aws:kms:eu-central-1:{ACCOUNT}:key/other", "another key"),
        ("KeyId", "", "another key"),
        ("SigningAlgorithm", "ED25519_PH_SHA_512", "another algorithm"),
    ],
)
async def test_answer_for_another_key_or_algorithm_is_an_integrity_error(
    aws: FakeAWSKMS, member: str, value: str, why: str
) -> None:
    signer = await opened(aws)
    aws.tamper = lambda answer: answer.update({member: value})
    with pytest.raises(KMSIntegrityError, match=why):
        await signer.sign(MESSAGE)
    assert aws.calls["Sign"] == 2, "tried once more, in case it was the transmission"


async def test_wrong_signature_goes_nowhere(aws: FakeAWSKMS) -> None:
    signer = await opened(aws)
    aws.tamper = lambda answer: answer.update(Signature="A" * 86 + "==")
    with pytest.raises(KMSIntegrityError, match="does not verify"):
        await signing.sign_checkpoint(signer, "log.example/1", 7, bytes(32))


@pytest.mark.parametrize("same", [(), ("KeyId",), ("KeyId", "SigningAlgorithms")])
async def test_public_key_of_another_key_is_an_integrity_error(
    aws: FakeAWSKMS, monkeypatch: pytest.MonkeyPatch, same: tuple[str, ...]
) -> None:
    first, second = aws.add_key(ED25519), aws.add_key("ECC_NIST_P256")
    real = aws._get_public_key
    right, wrong = real({"KeyId": first}), real({"KeyId": second})
    answer = wrong | {member: right[member] for member in same}
    monkeypatch.setattr(aws, "_get_public_key", lambda request: answer)
    with pytest.raises(KMSIntegrityError, match="public key of another key"):
        await AWSProvider().open_signer(f"aws-kms:{first}")


# --- what is refused before anything is signed ---

KEY = f"aws-kms:arn:aws:kms:eu-central-1:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab"


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("aws-kms:alias/witness", "an alias can be pointed at another key.*describe-key"),
        (KEY.replace("key/", "alias/"), "an alias can be pointed"),
        ("aws-kms:1234abcd-12ab-34cd-56ef-1234567890ab", "by its whole ARN"),
        (KEY[:-1], "by its whole ARN"),
        (KEY + "/", "by its whole ARN"),
        (KEY.upper().replace("AWS-KMS", "aws-kms"), "by its whole ARN"),
        (KEY.replace(":kms:", ":s3:"), "by its whole ARN"),
        (KEY.replace("eu-central-1", ""), "by its whole ARN"),
        (KEY.replace("eu-central-1", "eu-central"), "by its whole ARN"),
        (KEY.replace("111122223333", "11112222333"), "by its whole ARN"),
        (KEY + "?fips", "nothing but"),
        (KEY + "?fips=0", "nothing but"),
        (KEY + "?region=eu-west-1", "nothing but"),
    ],
)
def test_uri_with_a_mistake_is_refused_without_any_call(uri: str, why: str) -> None:
    with pytest.raises(KMSConfigError, match=why):
        kms.check_uri(uri)


@pytest.mark.parametrize(
    "uri",
    [
        KEY,
        KEY + "?fips=1",
        f"aws-kms:arn:aws-us-gov:kms:us-gov-west-1:{ACCOUNT}:key/mrk-" + "0a" * 16,
    ],
)
def test_uri_of_a_key_is_accepted(uri: str) -> None:
    kms.check_uri(uri)


REFUSALS: dict[str, tuple[str, str, str, type[KMSError], str]] = {
    "encryption key": (
        "SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT", "Enabled", KMSConfigError,
        "for ENCRYPT_DECRYPT; needed is one for SIGN_VERIFY",
    ),
    "key agreement": (
        "ECC_NIST_P256", "KEY_AGREEMENT", "Enabled", KMSConfigError, "needed is one for SIGN_VERIFY"
    ),
    "rsa": ("RSA_2048", "SIGN_VERIFY", "Enabled", KMSConfigError, "ECC_NIST_EDWARDS25519 or"),
    "disabled": (ED25519, "SIGN_VERIFY", "Disabled", KMSKeyDisabledError, "aws kms enable-key"),
    "destroyed soon": (
        ED25519, "SIGN_VERIFY", "PendingDeletion", KMSKeyDisabledError, "cancel-key-deletion"
    ),
    "not imported": (
        ED25519, "SIGN_VERIFY", "PendingImport", KMSKeyDisabledError, "PendingImport"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
async def test_unusable_key_is_refused_with_its_name_and_the_remedy(
    aws: FakeAWSKMS, case: str
) -> None:
    spec, usage, state, error, remedy = REFUSALS[case]
    arn = aws.add_key(spec, usage, state)
    with pytest.raises(error, match=remedy) as caught:
        await AWSProvider().open_signer(f"aws-kms:{arn}")
    assert arn in str(caught.value)
    assert aws.calls["Sign"] == 0


async def test_unknown_key_is_not_found(aws: FakeAWSKMS) -> None:
    with pytest.raises(KMSKeyNotFoundError, match=r"does not exist.*list-keys --region eu-cent"):
        await AWSProvider().open_signer(KEY)


@pytest.mark.parametrize("operation", ["DescribeKey", "GetPublicKey"])
async def test_missing_permission_to_open_names_it(aws: FakeAWSKMS, operation: str) -> None:
    aws.denied = {operation}
    with pytest.raises(KMSPermissionError, match=rf"kms:{operation}.*key policy or by IAM"):
        await opened(aws)


async def test_missing_permission_to_sign_names_it_and_is_not_retried(aws: FakeAWSKMS) -> None:
    signer = await opened(aws)
    aws.denied = {"Sign"}
    with pytest.raises(KMSPermissionError, match="allow kms:Sign"):
        await signer.sign(MESSAGE)
    assert aws.calls["Sign"] == 1


async def test_without_credentials_the_error_says_what_to_give(
    aws: FakeAWSKMS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(KMSPermissionError, match=r"no AWS credentials.*give the service a role"):
        await opened(aws)


async def test_clock_an_hour_off_is_named(aws: FakeAWSKMS) -> None:
    aws.clock_ahead_s = 3600
    with pytest.raises(KMSPermissionError, match="this machine's clock"):
        await opened(aws)


async def test_endpoint_of_another_region_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for host in ("kms.eu-west-1.amazonaws.com", "vpce-1-a.kms.eu-west-1.vpce.amazonaws.com"):
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", f"https://{host}")
        with pytest.raises(KMSConfigError, match=rf"{host} is not in the key's region eu-central"):
            await AWSProvider().open_signer(KEY)


async def test_stand_in_for_another_region_is_an_error_that_says_so(aws: FakeAWSKMS) -> None:
    uri = f"aws-kms:{aws.add_key(ED25519)}".replace("eu-central-1", "eu-west-1")
    with pytest.raises(KMSPermissionError, match="region"):
        await AWSProvider().open_signer(uri)
    assert aws.calls["Sign"] == 0


async def test_endpoint_without_encryption_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", "http://kms.internal:8080")
    with pytest.raises(KMSConfigError, match="not encrypted"):
        await AWSProvider().open_signer(KEY)


async def test_region_of_another_partition_is_refused() -> None:
    with pytest.raises(KMSConfigError, match="belongs to the partition aws-cn"):
        await AWSProvider().open_signer(KEY.replace("eu-central-1", "cn-north-1"))


async def test_region_with_a_typo_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", "http://127.0.0.1:1")  # nobody there, as in DNS
    with pytest.raises(KMSConfigError, match="eu-centrl-1 in its ARN is none that boto3 knows"):
        await AWSProvider().open_signer(KEY.replace("eu-central-1", "eu-centrl-1"))


async def test_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(KMSNotInstalledError, match=r"provledger\[aws\]") as caught:
        await AWSProvider().open_signer(KEY)
    assert caught.value.extra == "aws"


async def test_answer_without_end_leaves_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some such answers would hold all of them, and no key could be used until a restart."""
    with serving(header) as (port, left):
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", f"http://127.0.0.1:{port}")
        client = await _aws_client.Client.connect(_aws_client.parse(KEY), 0.3)
        with pytest.raises(KMSUnavailableError):
            await client.call("public key", "get_public_key", KeyId=KEY)
        assert await asyncio.to_thread(left.wait, 30.0)
        await client.close()


# --- FIPS ---


async def endpoint_of(uri: str) -> str:
    client = await _aws_client.Client.connect(_aws_client.parse(uri), 1.0)
    await client.close()
    url: str = client._boto.client.meta.endpoint_url
    return url


async def test_fips_endpoint_is_used_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await endpoint_of(KEY) == "https://kms.eu-central-1.amazonaws.com"
    fips = "https://kms-fips.eu-central-1.amazonaws.com"
    assert await endpoint_of(KEY + "?fips=1") == fips
    monkeypatch.setenv("AWS_USE_FIPS_ENDPOINT", "true")
    assert await endpoint_of(KEY) == fips


async def test_endpoint_that_is_not_fips_is_refused_where_fips_was_asked(
    aws: FakeAWSKMS, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK would use the configured endpoint, and say nothing."""
    with pytest.raises(KMSConfigError, match="is no FIPS endpoint"):
        await endpoint_of(KEY + "?fips=1")
    monkeypatch.setenv("AWS_USE_FIPS_ENDPOINT", "true")
    with pytest.raises(KMSConfigError, match="is no FIPS endpoint"):
        await endpoint_of(KEY)
    private = "https://vpce-1-a.kms-fips.eu-central-1.vpce.amazonaws.com"
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", private)
    assert await endpoint_of(KEY) == private


# --- throttling, outages, lost answers ---


async def test_sdk_makes_one_request_for_a_call(
    aws: FakeAWSKMS, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own retries would take the whole budget of an append, whatever the environment says."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "5")
    monkeypatch.setenv("AWS_RETRY_MODE", "adaptive")
    arn = aws.add_key(ED25519)
    client = await _aws_client.Client.connect(_aws_client.parse(f"aws-kms:{arn}"), 1.0)
    request = {"KeyId": arn, "Message": b"m", "SigningAlgorithm": "ED25519_SHA_512"}
    for code, status, error in [
        ("ThrottlingException", 400, KMSThrottledError),
        ("KMSInternalException", 500, KMSUnavailableError),
        ("InternalFailure", 503, KMSUnavailableError),
    ]:
        aws.calls.clear()
        aws.fail_next("error", 5, code, status)
        with pytest.raises(error):
            await client.call("Sign", "sign", **request)
        assert aws.calls["Sign"] == 1
        aws.clear_faults()
    await client.close()


@pytest.mark.parametrize(
    ("kind", "code", "status"),
    [
        ("lost", "", 0),
        ("refused", "", 0),
        ("garbage", "", 0),
        ("error", "ThrottlingException", 400),
        ("error", "TooManyRequestsException", 429),
        ("error", "KMSInternalException", 500),
        ("error", "DependencyTimeoutException", 503),
        ("error", "KeyUnavailableException", 500),
        ("error", "", 502),
    ],
)
async def test_passing_fault_is_retried_and_nobody_notices(
    aws: FakeAWSKMS, kind: str, code: str, status: int
) -> None:
    signer = await opened(aws)
    aws.fail_next(kind, 2, code, status)
    verify_signature(signer.public_key, await signer.sign(MESSAGE), MESSAGE)


async def test_lost_answer_was_a_signature_and_signing_again_harms_nobody(
    aws: FakeAWSKMS,
) -> None:
    signer = await opened(aws)
    aws.fail_next("lost")
    verify_signature(signer.public_key, await signer.sign(MESSAGE), MESSAGE)
    assert aws.outcomes == {"ok": 2}


async def test_key_that_hangs_is_given_up_in_time_and_then_at_once(aws: FakeAWSKMS) -> None:
    signer = await opened(aws)
    aws.fail_next("hang", 100)
    started_s = time.monotonic()
    # As many as there are threads, so that all of them are stuck.
    outcomes = await asyncio.gather(
        *(signer.sign(MESSAGE) for _ in range(MAX_IN_FLIGHT)), return_exceptions=True
    )
    for outcome in outcomes:
        assert isinstance(outcome, KMSUnavailableError)
        assert outcome.retry_delay_s > 0
    assert time.monotonic() - started_s < 10, "the SDK alone would take minutes"
    with pytest.raises(KMSUnavailableError, match="a moment ago"):
        await signer.sign(MESSAGE)
    aws.clear_faults()
    await until_signed(signer, MESSAGE)


async def test_key_comes_back_after_its_provider_was_away(aws: FakeAWSKMS) -> None:
    signer = await opened(aws)
    aws.fail_next("refused", 10_000)
    with pytest.raises(KMSUnavailableError):
        await signer.sign(MESSAGE)
    aws.clear_faults()
    await until_signed(signer, MESSAGE)


async def test_provider_that_throttles_all_gives_a_delay(aws: FakeAWSKMS) -> None:
    signer = await opened(aws)
    aws.limit = TokenBucket(rate_per_s=0.0, burst=0)
    with pytest.raises(KMSThrottledError, match="higher quota") as caught:
        await signer.sign(MESSAGE)
    assert 0 < caught.value.retry_delay_s <= 5
    assert aws.outcomes["ok"] == 0


async def test_key_disabled_while_in_use_stops_at_once(aws: FakeAWSKMS) -> None:
    signer = await opened(aws)
    (key,) = aws.keys.values()
    for state, why in [("Disabled", "enable-key"), ("PendingDeletion", "pending deletion")]:
        key.state = state
        aws.calls.clear()
        with pytest.raises(KMSKeyDisabledError, match=why):
            await signer.sign(MESSAGE)
        assert aws.calls["Sign"] == 1


async def test_closed_key_does_not_sign(aws: FakeAWSKMS) -> None:
    signer = await opened(aws)
    await signer.close()
    await signer.close()
    with pytest.raises(KMSUnavailableError, match="closed"):
        await signer.sign(MESSAGE)


# --- new keys ---


WANTED = Wanted("witness-2", bytes(range(16)))


@pytest.mark.parametrize("algorithm", SPECS)
async def test_new_key_beside_another_is_ready_to_sign(
    aws: FakeAWSKMS, algorithm: Algorithm
) -> None:
    """A new key is unknown to some servers at first, and takes a moment to be enabled."""
    uri = f"aws-kms:{aws.add_key(ED25519)}"
    created = await AWSProvider().create_beside(uri, algorithm, WANTED)
    assert created.uri != uri
    assert not created.found
    made = aws.keys[created.uri.removeprefix("aws-kms:")]
    assert made.description == "provledger witness-2"
    assert made.tags == {
        "provledger-kid": "witness-2",
        "provledger-ceremony": "000102030405060708090a0b0c0d0e0f",
    }
    signer = await AWSProvider().open_signer(created.uri)
    assert (signer.algorithm, signer.public_key) == (algorithm, created.public_key)
    assert signer.protection == "AWS_KMS"
    await signing.self_test(signer, created.public_key)


async def test_a_ceremony_that_is_tried_again_finds_its_key(aws: FakeAWSKMS) -> None:
    """Among more keys than a page holds, some of them closed to us, one on its way out."""
    uri = f"aws-kms:{aws.add_key(ED25519)}"
    aws.page_size = 3
    aws.private_arns = {aws.add_key(ED25519) for _ in range(5)}
    first = await AWSProvider().create_beside(uri, Algorithm.ED25519, WANTED)
    again = await AWSProvider().create_beside(uri, Algorithm.ED25519, WANTED)
    assert (again.uri, again.found, aws.calls["CreateKey"]) == (first.uri, True, 1)
    other = await AWSProvider().create_beside(
        uri, Algorithm.ED25519, Wanted("witness-2", bytes(16))
    )
    assert other.uri != first.uri
    aws.keys[first.uri.removeprefix("aws-kms:")].state = "PendingDeletion"
    third = await AWSProvider().create_beside(uri, Algorithm.ED25519, WANTED)
    assert third.uri not in (first.uri, other.uri)


async def test_a_lost_answer_to_a_new_key_makes_no_second_one(aws: FakeAWSKMS) -> None:
    """The key that was made is not listed at once either."""
    uri = f"aws-kms:{aws.add_key(ED25519)}"
    aws.unlisted_answers = 2
    aws.fail_next("lost")
    created = await AWSProvider().create_beside(uri, Algorithm.ED25519, WANTED)
    assert created.found
    assert (len(aws.keys), aws.calls["CreateKey"]) == (2, 1)
    signer = await AWSProvider().open_signer(created.uri)
    await signing.self_test(signer, created.public_key)


async def test_what_was_made_is_found_later_if_it_cannot_be_found_at_once(
    aws: FakeAWSKMS, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"aws-kms:{aws.add_key(ED25519)}"
    monkeypatch.setattr(_aws_create, "_LOOK_AGAIN_S", (0.0,))
    aws.unlisted_answers = 1
    aws.fail_next("lost")
    with pytest.raises(KMSUnavailableError, match=r"run it again, which looks for .*=0001020"):
        await AWSProvider().create_beside(uri, Algorithm.ED25519, WANTED)
    assert len(aws.keys) == 2
    assert (await AWSProvider().create_beside(uri, Algorithm.ED25519, WANTED)).found
    assert len(aws.keys) == 2


async def test_two_keys_of_one_ceremony_are_not_chosen_from(aws: FakeAWSKMS) -> None:
    uri = f"aws-kms:{aws.add_key(ED25519)}"
    for _ in range(2):
        aws.keys[aws.add_key(ED25519)].tags = {"provledger-ceremony": WANTED.ceremony.hex()}
    with pytest.raises(KMSConfigError, match="schedule all but one for deletion"):
        await AWSProvider().create_beside(uri, Algorithm.ED25519, WANTED)


@pytest.mark.parametrize("operation", ["ListKeys", "ListResourceTags", "CreateKey"])
async def test_without_the_right_to_look_nothing_is_made(aws: FakeAWSKMS, operation: str) -> None:
    uri = f"aws-kms:{aws.add_key(ED25519)}"
    aws.denied = {operation}
    with pytest.raises(KMSPermissionError, match=f"kms:{operation}"):
        await AWSProvider().create_beside(uri, Algorithm.ED25519, WANTED)
    assert len(aws.keys) == 1


async def test_key_under_a_name_of_our_choice_cannot_be_made(aws: FakeAWSKMS) -> None:
    with pytest.raises(KMSConfigError, match="names new keys itself"):
        await AWSProvider().create_key(KEY, Algorithm.ED25519)
