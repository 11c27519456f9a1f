"""WITNESS_PRIVATE_KEY: what it may hold, and that a key in use is never replaced by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from provledger.jwk import jwk_from_public_key
from provledger.kms import open_signer
from provledger.kms.errors import KMSKeyExistsError
from provledger_cli.embedded import given_key, launching
from provledger_cli.embedded.config import Config
from provledger_cli.embedded.datadir import SERVICES, DataDir
from provledger_cli.embedded.launching import WITNESS_PRIVATE_KEY as VARIABLE
from provledger_cli.failures import CommandError

ED25519 = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
P256 = ec.derive_private_key(7, ec.SECP256R1())


def pem(key: Any, passphrase: bytes = b"", form: PrivateFormat = PrivateFormat.PKCS8) -> str:
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    return bytes(key.private_bytes(Encoding.PEM, form, encryption)).decode()


@pytest.fixture
def directory(tmp_path: Path) -> DataDir:
    made = DataDir.at(tmp_path / "data")
    made.make()
    return made


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (pem(ED25519), ED25519),
        (pem(P256), P256),
        (pem(P256, form=PrivateFormat.TraditionalOpenSSL), P256),
        (pem(ED25519).replace("\n", "\\n"), ED25519),
        ("\n " + pem(ED25519).strip(), ED25519),
    ],
    ids=["ed25519", "p256", "sec1", "one line", "white space"],
)
async def test_pem_becomes_the_key_file(directory: DataDir, text: str, key: Any) -> None:
    assert given_key.pop({VARIABLE: text}) == text
    uri, jwk = await given_key.take(directory, "witness-1", text)
    assert uri == "local:witness-1.pem"
    assert json.loads(jwk) == jwk_from_public_key(key.public_key())
    assert (directory.keys / "witness-1.pem").stat().st_mode & 0o777 == 0o600
    signer = await open_signer(uri, directory.keys)
    assert signer.public_key == key.public_key()
    # Killed in between and begun again, it comes to the same.
    assert await given_key.take(directory, "witness-1", text) == (uri, jwk)


async def test_a_key_that_is_there_is_not_replaced(directory: DataDir) -> None:
    await given_key.take(directory, "witness-1", pem(ED25519))
    before = (directory.keys / "witness-1.pem").read_bytes()
    with pytest.raises(KMSKeyExistsError):
        await given_key.take(directory, "witness-1", pem(P256))
    assert (directory.keys / "witness-1.pem").read_bytes() == before


async def test_a_path_is_used_where_it_is(
    directory: DataDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.pem"
    path.write_text(pem(P256))
    path.chmod(0o600)
    uri, jwk = await given_key.take(directory, "witness-1", str(path))
    assert uri == f"local:{path}"
    assert json.loads(jwk) == jwk_from_public_key(P256.public_key())
    assert not list(directory.keys.iterdir())


def test_a_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Services work in the data directory, not where the command was given."""
    (tmp_path / "mine.pem").write_text(pem(P256))
    (tmp_path / "mine.pem").chmod(0o600)
    monkeypatch.chdir(tmp_path)
    assert given_key.pop({VARIABLE: "mine.pem"}) == str(tmp_path / "mine.pem")


def test_it_is_taken_out_of_the_environment_whatever_it_is() -> None:
    """What is started from then on does not inherit it."""
    environment = {VARIABLE: pem(ED25519), "HOME": "/root"}
    given_key.pop(environment)
    assert environment == {"HOME": "/root"}
    environment = {VARIABLE: "hush4711"}
    with pytest.raises(CommandError):
        given_key.pop(environment)
    assert not environment


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (pem(ED25519, b"a passphrase"), "is encrypted"),
        (pem(rsa.generate_private_key(65537, 2048)), "must hold an Ed25519"),
        (
            "-----BEGIN PRIVATE KEY-----\nhush4711\n-----END PRIVATE KEY-----",
            "is not a private key",
        ),
        ("/nowhere/key.pem", "does not exist"),
        ("hush4711", "does not exist"),
        ("/which?one/key.pem", "question mark"),
    ],
    ids=["encrypted", "rsa", "garbage", "no file", "no pem", "question mark"],
)
def test_what_cannot_be_used_stops_the_start(text: str, why: str) -> None:
    with pytest.raises(CommandError, match=why) as caught:
        given_key.pop({VARIABLE: text})
    assert VARIABLE in str(caught.value)
    assert caught.value.hint


def test_a_file_open_to_others_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "mine.pem"
    path.write_text(pem(P256))
    path.chmod(0o644)
    with pytest.raises(CommandError, match="chmod 600"):
        given_key.pop({VARIABLE: str(path)})


def test_fips_mode_takes_ecdsa_only() -> None:
    given_key.pop({VARIABLE: pem(ec.derive_private_key(7, ec.SECP384R1()))}, fips=True)
    given_key.pop({VARIABLE: pem(P256)}, fips=True)
    with pytest.raises(CommandError, match="P-256"):
        given_key.pop({VARIABLE: pem(ED25519)}, fips=True)


def test_nothing_given_is_nothing_done() -> None:
    assert given_key.pop({}) == ""
    assert given_key.pop({VARIABLE: ""}) == ""


def test_services_do_not_get_the_key(directory: DataDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, pem(ED25519))
    config = Config("", ("file:///srv/anchors",))
    for service in SERVICES:
        made = launching.environment(service, directory, config, dict.fromkeys(SERVICES, 0))
        assert VARIABLE not in made
