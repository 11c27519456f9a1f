"""The first keys and the pin of their key ledger, on a real keys service: killed, begun again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from provledger.api.keys.v1 import keys_pb2 as pb
from provledger.client.calls import CallPolicy
from provledger.jwk import thumbprint_of
from provledger.kms import open_signer
from provledger_cli.embedded import bootstrap
from provledger_cli.embedded.config import KEYS, RECOVERY_KID
from provledger_cli.embedded.datadir import PIN_FILE, DataDir
from tests.integration.test_keys_svc import Keys, keys_on


@pytest.fixture
def directory(tmp_path: Path) -> DataDir:
    made = DataDir.at(tmp_path / "data")
    made.make()
    return made


@pytest.fixture
async def keys(directory: DataDir) -> AsyncIterator[Keys]:
    async with keys_on(f"sqlite:///{directory.databases / 'keys.sqlite3'}", directory.keys) as made:
        yield made


async def killed_before_the_pin(
    directory: DataDir, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The genesis is endorsed, also by those whom the ledger service asks, and there is no pin."""

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bootstrap, "write_atomically", killed)
    with pytest.raises(KeyboardInterrupt):
        await bootstrap.register_first_keys(directory, keys.endpoint)
    monkeypatch.undo()
    (genesis,) = (await keys.ask("ListKeyEvents", pb.ListKeyEventsRequest())).events
    for kid in KEYS.values():
        genesis = await bootstrap.endorse(
            keys.stub, CallPolicy(timeout_s=30.0), genesis, kid, f"local:{kid}.pem", directory.keys
        )
    assert genesis.state == pb.KEY_EVENT_STATE_SEALED
    assert not (directory.path / PIN_FILE).exists()


async def recovery_thumbprint(directory: DataDir) -> str:
    signer = await open_signer(f"local:{RECOVERY_KID}.pem", directory.keys)
    await signer.close()
    return thumbprint_of(signer.public_key).hex()


async def test_the_pin_comes_with_the_first_keys(
    directory: DataDir, keys: Keys, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await bootstrap.register_first_keys(directory, keys.endpoint) == list(KEYS.values())
    pin = await recovery_thumbprint(directory)
    assert (directory.path / PIN_FILE).read_text() == f"{pin}\n"
    assert "is the recovery key" in capsys.readouterr().err


async def test_a_pin_that_was_never_written_is_written_by_the_next_start(
    directory: DataDir,
    keys: Keys,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    await killed_before_the_pin(directory, keys, monkeypatch)
    assert await bootstrap.register_first_keys(directory, keys.endpoint) == []
    pin = await recovery_thumbprint(directory)
    assert (directory.path / PIN_FILE).read_text() == f"{pin}\n"
    assert "is the recovery key" in capsys.readouterr().err
    # Told once, it is told.
    assert await bootstrap.register_first_keys(directory, keys.endpoint) == []
    assert capsys.readouterr().err == ""


async def test_a_registry_lost_after_that_is_told_not_made_anew(
    directory: DataDir,
    keys: Keys,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    await killed_before_the_pin(directory, keys, monkeypatch)
    await bootstrap.register_first_keys(directory, keys.endpoint)
    async with keys_on(f"sqlite:///{directory.databases / 'lost.sqlite3'}", directory.keys) as lost:
        assert await bootstrap.register_first_keys(directory, lost.endpoint) == []
        assert not await lost.jwks()
    assert "the key registry is empty" in capsys.readouterr().err


@pytest.mark.parametrize("found", ["gone", "another", "broken"])
async def test_no_pin_is_made_of_what_the_registry_says(
    directory: DataDir,
    keys: Keys,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    found: str,
) -> None:
    """The recovery key was moved to its safe place, or what lies there is another one."""
    await killed_before_the_pin(directory, keys, monkeypatch)
    path = directory.keys / f"{RECOVERY_KID}.pem"
    path.unlink()
    if found == "another":
        await bootstrap.local_key(directory, RECOVERY_KID, "recovery")
    elif found == "broken":
        path.write_bytes(b"no key")
    assert await bootstrap.register_first_keys(directory, keys.endpoint) == []
    assert not (directory.path / PIN_FILE).exists()
    assert "key-ledger.pin is missing" in capsys.readouterr().err
