"""A notary's keys start with the database that is their memory, and with no other."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from notary_svc import opening, signing
from notary_svc.config import Settings
from notary_svc.memory import Memory, check_memory
from notary_svc.signing import Cosigner
from notary_svc.storage.sql import MIGRATIONS, SCHEMA
from provledger.db import migrate, open_engine
from provledger.settings import ConfigError
from tests.support.notary import NOTARY, TinyLog, call, running_notary

pytestmark = pytest.mark.timeout(60)

LOG = TinyLog()
FORK = TinyLog(fork_at=2)


async def cosigns(folder: Path, old: int, new: int, log: TinyLog = LOG, **given: Any) -> int:
    """The status of a notary in this folder, started for one request."""
    async with running_notary(folder, [LOG], **given) as address:
        return (await call(address, "POST", "/add-checkpoint", log.request(old, new)))[0]


def lose(folder: Path) -> None:
    for file in (folder / "data").glob("notary.db*"):
        file.unlink()


async def test_keys_without_their_database_cosign_nothing(tmp_path: Path) -> None:
    assert await cosigns(tmp_path, 0, 5) == 200
    lose(tmp_path)
    # That it was tried before, which makes an empty database, changes nothing.
    for _ in range(2):
        with pytest.raises(ConfigError, match="second history"):
            await cosigns(tmp_path, 0, 5, FORK)


async def test_on_somebodys_word_keys_begin_anew_once(tmp_path: Path) -> None:
    before = await opening.vkeys(Settings(name=NOTARY, data_dir=tmp_path / "data", logs=tmp_path))
    lose(tmp_path)
    assert await cosigns(tmp_path, 0, 5, accept_empty_database=True) == 200
    assert Cosigner.open(NOTARY, tmp_path / "data").vkeys == before
    assert await cosigns(tmp_path, 5, 7) == 200


async def test_without_its_keys_a_database_gets_new_ones(tmp_path: Path) -> None:
    """As when they were taken away since the database is lost: nobody trusts the new ones yet."""
    assert await cosigns(tmp_path, 0, 5) == 200
    for file in (tmp_path / "data").glob("*.pem"):
        file.unlink()
    lose(tmp_path)
    assert await cosigns(tmp_path, 0, 7) == 200
    assert await cosigns(tmp_path, 7, 9) == 200


@pytest.mark.parametrize("accept", [False, True])
async def test_another_notarys_database_is_refused(tmp_path: Path, accept: bool) -> None:
    for name in ("one", "two"):
        assert await cosigns(tmp_path / name, 0, 5) == 200
    lose(tmp_path / "one")
    shutil.copytree(tmp_path / "two" / "data", tmp_path / "other")
    url = f"sqlite:///{tmp_path}/other/notary.db"
    with pytest.raises(ConfigError, match="other keys"):
        await cosigns(tmp_path / "one", 5, 7, database_url=url, accept_empty_database=accept)


async def test_a_database_from_before_keys_were_remembered_goes_on(tmp_path: Path) -> None:
    assert await cosigns(tmp_path, 0, 5) == 200
    engine = open_engine(f"sqlite:///{tmp_path}/data/notary.db", SCHEMA)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE own_keys")
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
    engine.dispose()
    assert await cosigns(tmp_path, 5, 7) == 200
    lose(tmp_path)
    engine = open_engine(f"sqlite:///{tmp_path}/data/notary.db", SCHEMA)
    await asyncio.to_thread(migrate, engine, MIGRATIONS, SCHEMA, revision="0001")
    engine.dispose()
    with pytest.raises(ConfigError, match="second history"):
        await cosigns(tmp_path, 0, 7, FORK)


async def test_killed_before_keys_are_written_makes_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(made: signing.MadeKey) -> None:
        raise ConfigError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(signing, "write_key", killed)
        with pytest.raises(ConfigError, match="killed"):
            await cosigns(tmp_path, 0, 5)
    assert await cosigns(tmp_path, 0, 5) == 200


def test_the_command_shows_keys_before_the_first_start_and_takes_the_word(tmp_path: Path) -> None:
    (tmp_path / "logs.policy").write_text(f"log {LOG.vkey}\nquorum none\n")
    places = ["--data-dir", str(tmp_path / "data"), "--logs", str(tmp_path / "logs.policy")]
    command = [sys.executable, "-m", "provledger_cli", "notary", "--name", NOTARY, *places]
    command += ["--port", "0"]
    shown = subprocess.run([*command, "--vkeys", "--json"], capture_output=True, check=True)
    assert json.loads(shown.stdout)["vkeys"] == Cosigner.open(NOTARY, tmp_path / "data").vkeys
    lose(tmp_path)
    refused = subprocess.run(command, capture_output=True, check=False, timeout=50)
    assert refused.returncode == 2
    assert b"second history" in refused.stderr
    again = subprocess.run([*command, "--vkeys", "--json"], capture_output=True, check=True)
    assert again.stdout == shown.stdout


async def test_a_start_after_the_keys_were_shown(tmp_path: Path) -> None:
    settings = Settings(name=NOTARY, data_dir=tmp_path / "data", logs=tmp_path)
    vkeys = await opening.vkeys(settings)
    assert await cosigns(tmp_path, 0, 5) == 200
    async with running_notary(tmp_path, [LOG]):
        assert await opening.vkeys(settings) == vkeys


@pytest.mark.parametrize(
    ("known", "cosigned", "ours", "accept", "why"),
    [
        ("", False, "", False, ""),
        ("", True, "", False, ""),
        ("b", True, "", False, ""),
        ("a", False, "a", False, ""),
        ("ab", True, "ac", False, ""),
        ("", True, "a", False, ""),
        ("", False, "a", True, ""),
        ("", False, "a", False, "second history"),
        ("b", True, "a", False, "other keys"),
        ("b", False, "a", True, "other keys"),
    ],
)
def test_whose_memory_it_is(known: str, cosigned: bool, ours: str, accept: bool, why: str) -> None:
    """ours: keys that were there before this start."""
    memory = Memory(frozenset(known), cosigned)
    if not why:
        check_memory(memory, list(ours), accept_empty=accept)
        return
    with pytest.raises(ConfigError, match=why):
        check_memory(memory, list(ours), accept_empty=accept)
