"""A new key file is like the one that it follows: of its algorithm, and encrypted if it is."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from provledger.api.keys.v1 import keys_pb2 as pb
from provledger.jwk import Algorithm, jwk_from_public_key, thumbprint_of
from provledger.kms import local, open_signer
from provledger_cli.ceremonies.new_key import new_key
from provledger_cli.connect import Target
from provledger_cli.embedded import config
from provledger_cli.embedded.datadir import DataDir
from provledger_cli.failures import CommandError

ENCRYPTED = "?passphrase-file=witness.pass"


class Registered:
    """An installation whose witness key is in a file."""

    def __init__(self, path: Path, algorithm: Algorithm, query: str) -> None:
        directory = DataDir.at(path)
        directory.make()
        passphrase = directory.keys / "witness.pass"
        passphrase.touch(0o600)
        passphrase.write_text("correct horse\n")
        public_key = local.create_key(
            directory.keys / "witness-1.pem",
            algorithm,
            passphrase=b"correct horse" if query else None,
        )
        self.passphrase = passphrase
        self.target = Target(directory, {}, True)
        self.key_dir = directory.keys
        self.keys = SimpleNamespace(ListKeys=None)
        self.listed = pb.Key(
            kid="witness-1",
            purpose=pb.KEY_PURPOSE_WITNESS,
            state=pb.KEY_STATE_ACTIVE,
            uri=f"local:witness-1.pem{query}",
            jwk=json.dumps(jwk_from_public_key(public_key)).encode(),
            thumbprint=thumbprint_of(public_key),
        )

    async def call(self, rpc: Any, request: Any) -> pb.ListKeysResponse:
        return pb.ListKeysResponse(keys=[self.listed])


@pytest.mark.parametrize("query", ["", ENCRYPTED])
@pytest.mark.parametrize(
    "algorithm", [Algorithm.ED25519, Algorithm.ECDSA_P256, Algorithm.ECDSA_P384]
)
async def test_new_key_file_is_like_the_one_before(
    tmp_path: Path, algorithm: Algorithm, query: str
) -> None:
    remote: Any = Registered(tmp_path / "data", algorithm, query)
    uri, jwk = await new_key(remote, "witness-2", "witness")
    assert uri == f"local:witness-2.pem{query}"
    kind = b"ENCRYPTED PRIVATE KEY" if query else b"BEGIN PRIVATE KEY"
    assert kind in (remote.key_dir / "witness-2.pem").read_bytes().splitlines()[0]
    signer = await open_signer(uri, remote.key_dir)
    assert signer.algorithm is algorithm
    assert json.loads(jwk) == jwk_from_public_key(signer.public_key)
    # Killed, and run again.
    assert await new_key(remote, "witness-2", "witness") == (uri, jwk)


async def test_no_key_is_made_where_the_passphrase_file_is_gone(tmp_path: Path) -> None:
    remote: Any = Registered(tmp_path / "data", Algorithm.ECDSA_P384, ENCRYPTED)
    remote.passphrase.unlink()
    with pytest.raises(CommandError, match=r"witness.pass does not exist"):
        await new_key(remote, "witness-2", "witness")
    assert not (remote.key_dir / "witness-2.pem").exists()


@pytest.mark.parametrize(
    "given",
    [{}, {"uri": "local:witness-2.pem", "create": True}],
    ids=["where the old one is", "--uri --create"],
)
async def test_a_key_of_a_fips_installation_is_not_made_outside_the_module(
    tmp_path: Path, given: dict[str, Any]
) -> None:
    """Nothing could tell it afterwards from one that was made in it."""
    data_dir = DataDir.at(tmp_path / "data")
    data_dir.make()
    config.settle(data_dir, "", [], fips=True)
    remote: Any = Registered(data_dir.path, Algorithm.ECDSA_P256, "")
    with pytest.raises(CommandError, match="is in FIPS mode, and this command is not") as caught:
        await new_key(remote, "witness-2", "witness", **given)
    assert "PROVLEDGER_FIPS=1" in caught.value.hint
    assert not (remote.key_dir / "witness-2.pem").exists()


async def test_a_key_that_is_there_is_taken_by_a_fips_installation(tmp_path: Path) -> None:
    """`--create` run again, or where another machine made it: nothing is made here."""
    data_dir = DataDir.at(tmp_path / "data")
    data_dir.make()
    config.settle(data_dir, "", [], fips=True)
    remote: Any = Registered(data_dir.path, Algorithm.ECDSA_P256, "")
    made = local.create_key(remote.key_dir / "witness-2.pem", Algorithm.ECDSA_P256)
    uri, jwk = await new_key(remote, "witness-2", "witness", uri="local:witness-2.pem", create=True)
    assert (uri, json.loads(jwk)) == ("local:witness-2.pem", jwk_from_public_key(made))
