"""Which adapter a URI means, and what happens where its library is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provledger import kms
from provledger.jwk import Algorithm, PublicKey
from provledger.kms import registry
from provledger.kms.base import Capabilities, Signer
from provledger.kms.errors import KMSConfigError, KMSNotInstalledError
from provledger.kms.gcp import crc32c
from provledger.kms.remote import CreatedKey, Wanted, not_installed
from tests.support.chain import private_key

AWS = "aws-kms:arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
GCP = "gcp-kms:projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1"
PKCS11 = "pkcs11:token=witness;object=key-1"

REMOTE = [
    (AWS, "aws", "boto3"),
    (GCP, "gcp", "google.cloud.kms_v1"),
    (PKCS11, "pkcs11", "provledger.kms.pkcs11"),
]


@pytest.mark.parametrize(("uri", "extra", "library"), REMOTE)
async def test_missing_library_names_the_extra_and_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uri: str, extra: str, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    for attempt in (
        kms.open_signer(uri, tmp_path),
        registry.create_beside(uri, Algorithm.ED25519, tmp_path, Wanted("k", bytes(16))),
    ):
        with pytest.raises(
            KMSNotInstalledError, match=rf"pip install 'provledger\[{extra}\]'"
        ) as e:
            await attempt
        assert e.value.extra == extra
        assert uri.partition(";")[0] in str(e.value)


@pytest.mark.parametrize(("uri", "extra", "library"), REMOTE)
def test_uri_is_checked_without_the_library(
    monkeypatch: pytest.MonkeyPatch, uri: str, extra: str, library: str
) -> None:
    """The keys service keeps references to keys that only other services can open."""
    monkeypatch.setitem(sys.modules, library, None)
    kms.check_uri(uri)


@pytest.mark.parametrize("uri", [AWS[:-1], GCP[:-1], "aws-kms:alias/witness"])
def test_uri_with_a_typo_is_refused_without_the_library(
    monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    for library in ("boto3", "google.cloud.kms_v1"):
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(KMSConfigError):
        kms.check_uri(uri)


def test_adapters_and_their_libraries_are_imported_when_used() -> None:
    program = (
        "import sys, provledger.kms as kms\n"
        f"kms.check_uri('local:key.pem'); kms.check_uri({AWS!r}); kms.check_uri({GCP!r})\n"
        "print(*(name for name in ('boto3', 'botocore', 'google.cloud', 'google.auth')\n"
        "        if name in sys.modules))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    assert ran.stdout.split() == []


@pytest.mark.parametrize("uri", ["awskms:x", "AWS-KMS:x", "azure:x", "locl:key.pem", "-:x"])
def test_unknown_scheme_is_told_the_known_ones(uri: str) -> None:
    with pytest.raises(KMSConfigError, match="known are aws-kms:, gcp-kms:, local:, pkcs11:"):
        kms.check_uri(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "pksc11:token=t;object=o;pin-valu=13579",
        "pkcs11;token=t?pin=13579",
        f"{AWS}?secret=13579",
        f"{GCP}?secret=13579",
        "aws-kms:alias/x?secret=13579",
    ],
)
def test_uri_that_is_refused_is_shown_without_its_attributes(uri: str) -> None:
    with pytest.raises(KMSConfigError, match=r"^key URI '") as raised:
        kms.check_uri(uri)
    assert "13579" not in str(raised.value)


def test_uri_whose_adapter_is_missing_is_shown_without_its_attributes() -> None:
    """It was not read: a PIN may stand in it under any name."""
    error = not_installed("pkcs11:token=t;object=o?pin-valu=13579", "pkcs11")
    assert "13579" not in str(error)


@given(st.text(max_size=1100) | st.sampled_from([AWS, GCP]).flatmap(
    lambda uri: st.builds(
        lambda at, to: uri[:at] + to + uri[at + 1 :], st.integers(8, len(uri)), st.text(max_size=2)
    )
))  # fmt: skip
def test_any_text_is_a_uri_or_our_error(text: str) -> None:
    try:
        kms.check_uri(text)
    except KMSConfigError:
        return


class Namer:
    """A provider that names new keys itself."""

    capabilities = Capabilities(algorithms=frozenset(Algorithm), can_create_keys=True)

    def __init__(self, key_dir: Path) -> None:
        self.key_dir = key_dir

    def check_uri(self, uri: str) -> None:
        pass

    async def open_signer(self, uri: str) -> Signer:
        raise NotImplementedError

    async def create_key(self, uri: str, algorithm: Algorithm) -> PublicKey:
        raise NotImplementedError

    async def create_beside(self, uri: str, algorithm: Algorithm, wanted: Wanted) -> CreatedKey:
        return CreatedKey(f"{uri}/{wanted.kid}", private_key(wanted.kid).public_key())


class Opener(Namer):
    """A provider that makes no keys."""

    create_beside = None  # type: ignore[assignment]


async def test_new_key_beside_another_is_made_by_the_same_provider(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = Namer.__module__
    monkeypatch.setitem(sys.modules, here, sys.modules.get(here) or __import__(here))
    adapters = {
        "test": registry._Adapter(here, "Namer"),
        "fixed": registry._Adapter(here, "Opener"),
    }
    monkeypatch.setattr(registry, "_ADAPTERS", adapters)
    wanted = Wanted("b", bytes(16))
    created = await registry.create_beside("test:a", Algorithm.ED25519, tmp_path, wanted)
    assert created == CreatedKey("test:a/b", private_key("b").public_key())
    with pytest.raises(KMSConfigError, match="give the new key's URI"):
        await registry.create_beside("fixed:a", Algorithm.ED25519, tmp_path, wanted)


@pytest.mark.parametrize(
    ("data", "checksum"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        # RFC 3720 §B.4
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_crc32c_is_the_one_of_the_rfc(data: bytes, checksum: int) -> None:
    assert crc32c(data) == checksum
