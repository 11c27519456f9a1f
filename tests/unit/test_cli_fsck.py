"""Rows of running services, as `log fsck` reads them while they go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from provledger import logdirs
from provledger.errors import FailedPreconditionError, LogDamagedError, UnavailableError
from provledger_cli import fsck
from provledger_cli.connect import Remote
from provledger_cli.fsck import ServiceRows

ORIGIN = "log.example/one"


class Ledgers:
    """Ledgers of a service, by name: their receipt hashes."""

    def __init__(self) -> None:
        self.there: dict[str, list[bytes]] = {}
        self.end: Exception | None = None

    async def list_ledgers(self, **_: Any) -> AsyncIterator[Any]:
        for name, hashes in self.there.items():
            yield SimpleNamespace(
                name=name, uid=name.encode(), log_origin=ORIGIN, logged_seq=len(hashes) - 1
            )
        if self.end is not None:
            raise self.end

    async def list_summaries(self, name: str, **_: Any) -> AsyncIterator[Any]:
        for receipt_hash in self.there[name]:
            yield SimpleNamespace(receipt_hash=receipt_hash)


def test_a_ledger_that_is_made_meanwhile_has_its_rows() -> None:
    client = Ledgers()
    client.there["a"] = [b"a0", b"a1"]
    with asyncio.Runner() as runner:
        rows = ServiceRows(runner, cast(Remote, SimpleNamespace(client=client)))
        assert rows.ends(ORIGIN) == [(b"a", 1)]
        client.there["b"] = [b"b0"]
        assert rows.hashes(b"b", 0, 1) == [b"b0"]
        assert rows.hashes(b"a", 0, 1) == [b"a0"]
        assert rows.hashes(b"c", 0, 1) == [], "nobody knows it"


def test_ledgers_that_an_older_copy_lacks_have_no_rows() -> None:
    client = Ledgers()
    client.there["a"] = [b"a0"]
    with asyncio.Runner() as runner:
        rows = ServiceRows(runner, cast(Remote, SimpleNamespace(client=client)))
        client.end = FailedPreconditionError("LEDGER_BEHIND_ANCHOR", "one is missing")
        assert rows.ends(ORIGIN) == [(b"a", 0)]
        assert rows.hashes(b"b", 0, 1) == []
        client.end = UnavailableError("ANCHOR_NOT_ASKED", "nobody knows")
        with pytest.raises(UnavailableError):
            rows.ends(ORIGIN)


@pytest.mark.parametrize("sign", ["checkpoint", "tiles-elsewhere"])
def test_a_log_that_was_published_and_that_the_database_lacks_is_damage(
    tmp_path: Path, sign: str
) -> None:
    known, lost, begun = (bytes([number]) * 16 for number in range(3))
    for uid in (known, lost, begun):
        (tmp_path / uid.hex() / "scratch").mkdir(parents=True)
    for name in (known.hex(), lost.hex(), "lost+found"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / sign).touch()
    uids = logdirs.listed(tmp_path)
    assert uids == [known, lost, begun]
    with pytest.raises(LogDamagedError, match="older than the files") as caught:
        fsck.check_known(tmp_path, uids, [known])
    assert caught.value.log == f"logs/{lost.hex()}"
    (tmp_path / begun.hex() / sign).touch()
    with pytest.raises(LogDamagedError, match=f"{lost.hex()}, logs/{begun.hex()}"):
        fsck.check_known(tmp_path, uids, [known])
    (tmp_path / begun.hex() / sign).unlink()
    fsck.check_known(tmp_path, uids, [known, lost])
    (tmp_path / lost.hex() / logdirs.GIVEN_UP).touch()
    fsck.check_known(tmp_path, uids, [known])
    assert logdirs.listed(tmp_path / "none") == []
