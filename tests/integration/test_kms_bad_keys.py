"""Keys that cannot be used, by every provider: refused by name before anything is signed with them.

Each is registered as the active witness key. The service's log must name its kid and the remedy,
its callers must be told the kid and the reason, and its provider must not have been asked to sign.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from provledger import jcs, kms
from provledger.api.keys.v1 import keys_pb2 as pb
from provledger.errors import UnavailableError
from provledger.jwk import Algorithm, jwk_from_public_key, thumbprint_of
from provledger.keyring import KeyRing
from provledger.kms import Signer
from provledger.kms.pkcs11 import PKCS11Provider
from tests.support import softhsm
from tests.support.fake_aws_kms import FakeAWSKMS
from tests.unit.test_keyring import FakeKeysService

KID = "witness-7"
ANY_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32))).public_key()


@dataclass
class Bad:
    """A key that must not be used: where it is, what the log must say, and the reason told."""

    uri: str
    remedy: str
    reason: str
    public_key: Any = field(default_factory=lambda: ANY_KEY)
    signatures: Callable[[], int] = field(default=lambda: 0)
    """How often its provider was asked to sign."""


async def refused(bad: Bad, key_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Make it the active key of a key ring, and check what becomes of it."""
    service = FakeKeysService()
    opened: list[Signer] = []

    async def open_signer(uri: str) -> Signer:
        opened.append(await kms.open_signer(uri, key_dir))
        return opened[-1]

    ring = KeyRing(service, ["witness"], open_signer)
    await ring.start()
    try:
        call = await service.next_call()
        key = pb.Key(
            kid=KID,
            purpose=pb.KEY_PURPOSE_WITNESS,
            state=pb.KEY_STATE_ACTIVE,
            epoch=1,
            uri=bad.uri,
            jwk=jcs.encode(jwk_from_public_key(bad.public_key)),
            thumbprint=thumbprint_of(bad.public_key),
            not_before_ns=1,
        )
        call.messages.put_nowait(pb.WatchKeysResponse(revision=1, keys=[key], lease_ms=60_000))
        async with asyncio.timeout(20):
            while not [r for r in caplog.records if r.getMessage() == "keyring.key_not_usable"]:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        with pytest.raises(UnavailableError) as caught:
            ring.current("witness")
    finally:
        await ring.close()
    assert caught.value.reason == "NO_ACTIVE_KEY"
    assert caught.value.metadata == {"purpose": "witness", "kid": KID, "because": bad.reason}
    assert KID in str(caught.value)
    assert bad.uri not in str(caught.value), "where a key is, is not the callers' business"
    record = next(r for r in caplog.records if r.getMessage() == "keyring.key_not_usable")
    assert record.__dict__["provledger_fields"]["kid"] == KID
    assert record.exc_info is not None
    assert bad.remedy in str(record.exc_info[1])
    assert bad.signatures() == 0


# --- AWS ---


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeAWSKMS]:
    pytest.importorskip("boto3", reason="needs boto3: pip install 'provledger[aws]'")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "example")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with FakeAWSKMS() as fake:
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", fake.url)
        yield fake


ED25519 = "ECC_NIST_EDWARDS25519"
AWS_CASES: dict[str, tuple[tuple[str, ...], str, str]] = {
    "disabled": ((ED25519, "SIGN_VERIFY", "Disabled"), "aws kms enable-key", "KMS_KEY_DISABLED"),
    "destroyed": (
        (ED25519, "SIGN_VERIFY", "PendingDeletion"), "cancel-key-deletion", "KMS_KEY_DISABLED"
    ),
    "wrong type": (("RSA_2048",), "needed is one for SIGN_VERIFY of key spec", "KMS_CONFIG"),
    "wrong usage": (
        ("ECC_NIST_P256", "KEY_AGREEMENT"), "needed is one for SIGN_VERIFY", "KMS_CONFIG"
    ),
    "gone": ((ED25519,), "aws kms list-keys --region", "KMS_KEY_NOT_FOUND"),
    "no permission": ((ED25519,), "allow kms:DescribeKey on it", "KMS_PERMISSION"),
    "clock an hour ahead": ((ED25519,), "this machine's clock", "KMS_PERMISSION"),
    "clock an hour behind": ((ED25519,), "this machine's clock", "KMS_PERMISSION"),
    "wrong region": ((ED25519,), "region", "KMS_PERMISSION"),
    "typo": ((ED25519,), "must name the key by its whole ARN", "KMS_CONFIG"),
    "alias": ((ED25519,), "give the ARN of the key itself", "KMS_CONFIG"),
}  # fmt: skip


@pytest.mark.parametrize("case", AWS_CASES)
async def test_key_in_aws(
    case: str, aws: FakeAWSKMS, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made, remedy, reason = AWS_CASES[case]
    arn = aws.add_key(*made)
    uri = f"aws-kms:{arn}"
    match case:
        case "gone":
            del aws.keys[arn]
        case "no permission":
            aws.denied = {"DescribeKey"}
        case "clock an hour ahead":
            aws.clock_ahead_s = -3600
        case "clock an hour behind":
            aws.clock_ahead_s = 3600
        case "wrong region":
            uri = uri.replace("eu-central-1", "eu-west-1")
        case "typo":
            uri = uri[:-1]
        case "alias":
            uri = f"{uri.rpartition(':')[0]}:alias/witness"
    bad = Bad(uri, remedy, reason, signatures=lambda: aws.calls["Sign"])
    await refused(bad, tmp_path, caplog)


async def test_key_in_aws_that_is_another_one_than_registered(
    aws: FakeAWSKMS, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A kid stays bound to one key: another one behind its URI is never asked to sign."""
    bad = Bad(
        f"aws-kms:{aws.add_key(ED25519)}",
        "thumbprints differ",
        "KMS_INTEGRITY",
        signatures=lambda: aws.calls["Sign"],
    )
    await refused(bad, tmp_path, caplog)


async def test_key_in_aws_that_may_be_read_but_not_used(
    aws: FakeAWSKMS, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Found out by the trial of each key that is opened, before anything of anybody is signed."""
    arn = aws.add_key(ED25519)
    aws.denied = {"Sign"}
    bad = Bad(f"aws-kms:{arn}", "allow kms:Sign", "KMS_PERMISSION")
    bad.public_key = aws.keys[arn].private.public_key()
    bad.signatures = lambda: len(aws.signed)
    await refused(bad, tmp_path, caplog)


# --- Google Cloud ---

GCP_CASES: dict[str, tuple[tuple[str, ...], str, str]] = {
    "disabled": (("EC_SIGN_ED25519", "DISABLED"), "versions enable", "KMS_KEY_DISABLED"),
    "destroyed soon": (
        ("EC_SIGN_ED25519", "DESTROY_SCHEDULED"), "versions restore", "KMS_KEY_DISABLED"
    ),
    "destroyed": (("EC_SIGN_ED25519", "DESTROYED"), "rotate to another key", "KMS_KEY_DISABLED"),
    "wrong type": (("RSA_SIGN_PSS_2048_SHA256",), "needed is one of algorithm", "KMS_CONFIG"),
    "wrong usage": (("GOOGLE_SYMMETRIC_ENCRYPTION",), "ASYMMETRIC_SIGN", "KMS_CONFIG"),
    "gone": (("EC_SIGN_ED25519",), "compare project, location", "KMS_KEY_NOT_FOUND"),
    "no permission": (("EC_SIGN_ED25519",), "grant roles/cloudkms.signer", "KMS_PERMISSION"),
    "wrong location": (("EC_SIGN_ED25519",), "check the location", "KMS_CONFIG"),
    "typo": (("EC_SIGN_ED25519",), "must look like gcp-kms:projects", "KMS_CONFIG"),
    "no version": (("EC_SIGN_ED25519",), "must end in the exact version", "KMS_CONFIG"),
    "clock an hour off": (("EC_SIGN_ED25519",), "check this machine's clock", "KMS_PERMISSION"),
    "another key": (("EC_SIGN_ED25519",), "thumbprints differ", "KMS_INTEGRITY"),
}  # fmt: skip


@pytest.mark.parametrize("case", GCP_CASES)
async def test_key_in_google_cloud(
    case: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("google.cloud.kms_v1", reason="needs the extra gcp")
    from tests.support.fake_gcp_kms import FakeGCPKMS

    made, remedy, reason = GCP_CASES[case]
    with FakeGCPKMS() as gcp:
        monkeypatch.setenv("PROVLEDGER_GCP_KMS_ENDPOINT", gcp.endpoint)
        uri = f"gcp-kms:{gcp.add_key(*made)}"
        match case:
            case "gone":
                gcp.versions.clear()
            case "no permission":
                gcp.denied = {"GetPublicKey"}
            case "clock an hour off":
                # Tokens of a service account are dated: Google then answers so.
                gcp.unauthenticated = True
            case "wrong location":
                uri = uri.replace("europe-west3", "europe-west33")
            case "typo":
                uri = uri.replace("cryptoKeys", "cryptokeys")
            case "no version":
                uri = uri.rpartition("/cryptoKeyVersions")[0]
        bad = Bad(uri, remedy, reason, signatures=lambda: gcp.calls["AsymmetricSign"])
        await refused(bad, tmp_path, caplog)


# --- files ---


def pem(private_key: Any, passphrase: bytes = b"") -> bytes:
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return bytes(private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))


FILE_CASES: dict[str, tuple[str, str]] = {
    "open to others": ("run: chmod 600", "KMS_PERMISSION"),
    "gone": ("does not exist", "KMS_KEY_NOT_FOUND"),
    "wrong type": ("must hold an Ed25519", "KMS_CONFIG"),
    "no key": ("is not a private key in PKCS#8 PEM", "KMS_CONFIG"),
    "encrypted": ("add ?passphrase-file=<path> to its URI", "KMS_CONFIG"),
    "typo": ("only passphrase-file=<path> is known", "KMS_CONFIG"),
    "outside": ("must name a file, without ..", "KMS_CONFIG"),
    "another key": ("thumbprints differ", "KMS_INTEGRITY"),
}


@pytest.mark.parametrize("case", FILE_CASES)
async def test_key_in_a_file(case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    remedy, reason = FILE_CASES[case]
    path, uri = tmp_path / "w.pem", "local:w.pem"
    data = pem(Ed25519PrivateKey.generate())
    if case == "wrong type":
        data = pem(rsa.generate_private_key(65537, 2048))
    elif case == "no key":
        data = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    elif case == "encrypted":
        data = pem(Ed25519PrivateKey.generate(), b"a passphrase")
    elif case == "typo":
        uri = "local:w.pem?passphrase=hush"
    elif case == "outside":
        uri = "local:../w.pem"
    if case != "gone":
        path.write_bytes(data)
        path.chmod(0o644 if case == "open to others" else 0o600)
    await refused(Bad(uri, remedy, reason), tmp_path, caplog)


# --- PKCS#11 ---

TOKEN_CASES: dict[str, tuple[str, str]] = {
    "gone": ("holds no private key of that name", "KMS_KEY_NOT_FOUND"),
    "wrong type": ("is no elliptic curve key", "KMS_CONFIG"),
    "wrong usage": ("may not sign (CKA_SIGN is false)", "KMS_CONFIG"),
    "no token": ("insert it, or correct the key URI", "KMS_UNAVAILABLE"),
    "wrong pin": ("it is not tried again", "KMS_PERMISSION"),
    "pin open to others": ("chmod 600", "KMS_PERMISSION"),
    "typo": ("key URI", "KMS_CONFIG"),
    "another key": ("thumbprints differ", "KMS_INTEGRITY"),
}


@pytest.mark.skipif(bool(softhsm.missing()), reason=softhsm.missing())
@pytest.mark.parametrize("case", TOKEN_CASES)
async def test_key_in_a_token(case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    remedy, reason = TOKEN_CASES[case]
    hsm = softhsm.plain()
    token = f"bad-{secrets.token_hex(4)}"
    hsm.make_token(token)
    provider = PKCS11Provider(tmp_path)
    helper = hsm.uri(token, "helper")
    await provider.create_key(helper, Algorithm.ED25519)
    uri = hsm.uri(token, "key")
    pin_file = tmp_path / "pin"
    pin_file.write_text(softhsm.PIN if case == "pin open to others" else "wrong pin")
    pin_file.chmod(0o644 if case == "pin open to others" else 0o600)
    match case:
        case "wrong type" | "wrong usage":
            signer = await provider.open_signer(helper)  # logged in meanwhile
            make_in_token(hsm, token, rsa_key=case == "wrong type")
            await signer.close()
        case "no token":
            uri = hsm.uri("elsewhere", "key")
        case "wrong pin" | "pin open to others":
            uri = hsm.uri(token, "helper", pin_file=pin_file)
        case "typo":
            uri = uri.replace("token=", "tokn=")
        case "another key":
            uri = helper
    await refused(Bad(uri, remedy, reason), tmp_path, caplog)


def make_in_token(hsm: softhsm.SoftHSM, token: str, *, rsa_key: bool) -> None:
    """Make a key that no service may use, behind the adapter's back."""
    from pkcs11 import Attribute, KeyType
    from pkcs11.util.ec import encode_named_curve_parameters

    from provledger.kms._pkcs11_module import module

    with module(hsm.module, "pkcs11:").gate.call():
        session = module(hsm.module, "pkcs11:").lib.get_token(token_label=token).open(rw=True)
        try:
            if rsa_key:
                session.generate_keypair(KeyType.RSA, 2048, store=True, label="key")
                return
            params = {Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
            domain = session.create_domain_parameters(KeyType.EC, params, local=True)
            domain.generate_keypair(
                store=True, label="key", id=b"1", private_template={Attribute.SIGN: False}
            )
        finally:
            session.close()
