"""Our log over HTTP, read and checked by programs that we did not write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from anchor_svc.openlog import OpenLog
from tests.support import go_tools
from tests.support.anchoring import Ledger, log_vkey, running_log, submit
from tests.support.gateway import Running, running_gateway

pytestmark = pytest.mark.timeout(1000)  # the first time on a machine, programs are built

SIZES = (301, 1501)


@dataclass(frozen=True)
class Served:
    """A log of 1,501 leaves with its gateway; `old` holds its checkpoint of 301."""

    log: OpenLog
    gateway: Running
    old: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.gateway.port}/{self.log.identity.uid.hex()}/"


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with running_log(f"sqlite:///{tmp_path}/anchor.db", tmp_path / "data") as log:
        ledger = Ledger()
        start = 0
        for size in SIZES:
            ledger.grow(size - 1 - start)
            for at in range(start, size - 1, 500):
                await submit(log, ledger, at, min(at + 500, size - 1))
            start = size - 1
            await log.publisher.publish(log.state.signed_view())
            if size == SIZES[0]:
                note = log.store.read_checkpoint()
                assert note is not None
                (tmp_path / "old").write_bytes(note)
        (tmp_path / "entry").write_bytes(ledger.entries[699])  # behind the log's own leaf 0
        async with running_gateway(tmp_path / "data") as gateway:
            yield Served(log, gateway, tmp_path / "old")


async def run(*command: str | Path) -> tuple[int, str]:
    """Exit status, and all that was said."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(60):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, said.decode()


async def test_go_s_own_tlog_package_verifies_our_proofs(served: Served, tmp_path: Path) -> None:
    client = await asyncio.to_thread(go_tools.program, "tlogclient")
    log = (client, "-url", served.url, "-vkey", log_vkey(served.log))
    for index in (0, 1, 255, 256, 1279, 1280, 1500):
        code, said = await run(*log, "-index", str(index), "-old", served.old)
        assert code == 0, said
        assert said.splitlines() == [
            f"checkpoint of tree size 1501 is signed by {served.log.identity.origin}",
            f"entry {index} is in the tree",
            "the tree extends that of size 301",
        ]
    code, said = await run(*log, "-index", "700", "-entry", tmp_path / "entry")
    assert code == 0, said

    # What does not hold is said not to hold.
    assert (await run(*log, "-index", "701", "-entry", tmp_path / "entry"))[0] == 1
    assert (await run(*log, "-index", "1501"))[0] == 1
    other = log_vkey(served.log).replace("provledger.test", "provledger.tesu")
    assert (await run(*log[:-1], other))[0] == 1
    forged = served.old.read_bytes().replace(b"\n301\n", b"\n300\n")
    (tmp_path / "forged").write_bytes(forged)
    assert (await run(*log, "-old", tmp_path / "forged"))[0] == 1
    tile = served.log.store.root / "tile/0/002"
    tile.write_bytes(bytes([tile.read_bytes()[0] ^ 1]) + tile.read_bytes()[1:])
    code, said = await run(*log, "-index", "700")
    assert (code, "does not hold" in said) == (1, True)


async def test_tessera_s_fsck_passes_on_our_tiles(served: Served, tmp_path: Path) -> None:
    fsck = await asyncio.to_thread(go_tools.program, "fsck")
    key = tmp_path / "vkey"
    key.write_text(log_vkey(served.log))
    command = (fsck, "-storage_url", served.url, "-public_key", key, "-ui=false", "-N", "2")
    code, said = await run(*command, "-logtostderr")
    # It exits with 0 whatever it finds; what counts is what it says.
    assert code == 0
    assert "Successfully fsck'd log with size 1501" in said, said

    bundle = served.log.store.root / "tile/entries/003"
    data = bytearray(bundle.read_bytes())
    data[40] ^= 1
    bundle.write_bytes(bytes(data))
    code, said = await run(*command, "-logtostderr")
    assert "fsck failed" in said, said
    assert "Successfully" not in said


async def test_a_proof_is_checked_again_after_the_log_has_grown(served: Served) -> None:
    """The old checkpoint's partial tiles are gone by now: readers fall back to the full ones."""
    client = await asyncio.to_thread(go_tools.program, "tlogclient")
    ledger = Ledger("more")
    ledger.grow(600)
    await submit(served.log, ledger)
    await served.log.publisher.publish(served.log.state.signed_view())
    log = (client, "-url", served.url, "-vkey", log_vkey(served.log))
    code, said = await run(*log, "-index", "2100", "-old", served.old)
    assert (code, "tree size 2101" in said) == (0, True), said
