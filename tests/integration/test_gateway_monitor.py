"""`provledger monitor` and `log fsck`'s files against our own gateway, honest and otherwise."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anchor_svc.openlog import OpenLog
from provledger.fsck import TreeWalk
from provledger_cli.tlog.logfiles import open_files
from tests.support import peers
from tests.support.anchoring import LOG_UID, Ledger, log_vkey, submit
from tests.support.gateway import Running, filled_log, gateway_at, tile_bucket

UID = LOG_UID.hex()
SIZE = 601
PROVLEDGER = [sys.executable, "-m", "provledger_cli"]


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    with peers.moto_store() as url:
        yield url


def url_of(gateway: Running) -> str:
    return f"http://127.0.0.1:{gateway.port}/{UID}"


async def monitor(log: OpenLog, place: str, state: Path, *more: str) -> tuple[int, dict[str, Any]]:
    """Look once: exit code and document."""
    command = [*PROVLEDGER, "monitor", place, "--vkey", log_vkey(log)]
    options = ["--state", str(state), "--once", "--json", *more]
    done = await asyncio.to_thread(
        subprocess.run, [*command, *options], capture_output=True, check=False, timeout=120
    )
    return done.returncode, json.loads(done.stdout)


async def grow(log: OpenLog, label: str, count: int) -> None:
    ledger = Ledger(label)
    ledger.grow(count)
    await submit(log, ledger)
    await log.publisher.publish(log.state.signed_view())


async def test_a_log_that_grows_is_followed_and_a_split_view_proven(tmp_path: Path) -> None:
    state = tmp_path / "monitor" / "state.json"
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    # Two processes that sign with one key, and each shows another history.
    async with (
        filled_log(tmp_path / "one", SIZE) as log,
        filled_log(tmp_path / "two", SIZE) as fork,
        gateway_at("anchor", log, None) as gateway,
        gateway_at("directory", fork, None) as other,
    ):
        code, first = await monitor(log, url_of(gateway), state)
        assert (code, first["holds"], first["tree_size"]) == (0, True, SIZE)
        await grow(log, "more", 400)
        await grow(fork, "other", 500)
        code, second = await monitor(log, url_of(gateway), state)
        assert (code, second["holds"], second["tree_size"]) == (0, True, SIZE + 400)
        code, third = await monitor(log, url_of(other), state)
        assert (code, third["holds"]) == (1, False)
        assert "split_view" in json.dumps(third)
        proof = next(state.parent.rglob("*split*"))
        done = await asyncio.to_thread(
            subprocess.run,
            [*PROVLEDGER, "log", "split-view", str(proof), "--vkey", log_vkey(log)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "a split view is proven" in done.stdout + done.stderr


async def test_a_checkpoint_from_elsewhere_must_be_of_the_same_history(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    async with (
        filled_log(tmp_path / "one", SIZE) as log,
        filled_log(tmp_path / "two", SIZE) as fork,
        gateway_at("directory", log, None) as gateway,
        gateway_at("directory", fork, None) as other,
    ):
        await grow(fork, "other", 500)
        await grow(log, "more", 600)
        elsewhere = f"{url_of(other)}/checkpoint"
        code, seen = await monitor(
            log, url_of(gateway), tmp_path / "state.json", "--checkpoint", elsewhere
        )
        assert (code, seen["holds"]) == (1, False)


async def test_files_are_read_from_every_place(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the gateway, which sends readers of full tiles to the bucket, and of the bucket itself."""
    with tile_bucket(store, monkeypatch) as bucket:
        at = bucket.uri
        uri = f"s3://{at.bucket}/{at.prefix}/logs/{UID}?endpoint={at.endpoint}"
        async with (
            filled_log(tmp_path, SIZE, bucket) as log,
            gateway_at("bucket", log, bucket, redirect_s=60) as gateway,
        ):
            view = log.state.signed_view()
            for place in (url_of(gateway), uri):

                def walk(place: str = place) -> tuple[int, int]:
                    files = open_files(place)
                    assert files.read("checkpoint") == view.note
                    assert files.read("tile/0/009") is None
                    tree = TreeWalk(files, log.identity.hasher, view.size, view.root, iter(()))
                    count = sum(len(bundle.entries) for bundle in tree.bundles())
                    tree.finish()
                    return count, tree.tiles_checked

                count, tiles = await asyncio.to_thread(walk)
                assert (count, tiles >= 3) == (SIZE, True)
            code, seen = await monitor(log, url_of(gateway), tmp_path / "state.json")
            assert (code, seen["holds"]) == (0, True)
