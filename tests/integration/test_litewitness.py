"""A cosigner of other people's making: litewitness cosigns a log of ours.

Built from the Go module proxy into the user's cache with PROVLEDGER_TEST_BUILD_PEERS=1, where Go
is; or given by PROVLEDGER_TEST_LITEWITNESS. Its key lives in an ssh-agent.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from anchor_svc.sinks.cosigner import CosignerSink
from provledger import note
from tests.conformance.sink_suite import LOG, published
from tests.support import peers

PACKAGE = "filippo.io/torchwood/cmd/litewitness@latest"


@pytest.fixture(scope="module")
def program() -> str:
    given = os.environ.get("PROVLEDGER_TEST_LITEWITNESS") or shutil.which("litewitness")
    if given:
        return given
    if os.environ.get("PROVLEDGER_TEST_BUILD_PEERS") != "1" or shutil.which("go") is None:
        pytest.skip("no litewitness: set PROVLEDGER_TEST_BUILD_PEERS=1 where Go is")
    peers.go_install("filippo.io/torchwood/cmd/witnessctl@latest", "witnessctl")
    return peers.go_install(PACKAGE, "litewitness")


@pytest.fixture
def witness(program: str, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Address and verifier key of a litewitness that knows our log."""
    control = shutil.which("witnessctl") or str(Path(program).with_name("witnessctl"))
    for needed in ("ssh-agent", "ssh-add", "ssh-keygen"):
        if shutil.which(needed) is None:
            pytest.skip(f"{needed} is not installed")
    socket = tmp_path / "agent"
    environment = {**os.environ, "SSH_AUTH_SOCK": str(socket)}
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL)
    server = None
    try:
        end_s = time.monotonic() + 10
        while not socket.exists() and time.monotonic() < end_s:
            time.sleep(0.02)
        key = tmp_path / "key"

        def run(*command: str) -> str:
            done = subprocess.run(
                command, check=True, env=environment, capture_output=True, text=True
            )
            return done.stdout

        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
        run("ssh-add", str(key))
        fingerprint = run("ssh-add", "-l").split()[1]
        database = ["-db", str(tmp_path / "witness.db")]
        run(control, "add-log", *database, "-origin", LOG.origin)
        run(control, "add-key", *database, "-origin", LOG.origin, "-key", LOG.vkey)
        log = tmp_path / "log"
        with log.open("w") as output:
            server = subprocess.Popen(
                [
                    *[program, *database, "-name", "lite.test", "-key", fingerprint],
                    *["-ssh-agent", str(socket)],
                    *["-listen", "127.0.0.1:7379"],
                ],
                env=environment,
                stdout=output,
                stderr=output,
            )
        peers._wait_for_port(7379)
        vkey = re.search(r"lite\.test\+[0-9a-f]{8}\+[A-Za-z0-9+/=]+", log.read_text())
        assert vkey is not None, log.read_text()
        yield "http://127.0.0.1:7379", vkey[0]
    finally:
        for process in (server, agent):
            if process is not None:
                process.kill()
                process.wait()


async def test_litewitness_cosigns_our_log(witness: tuple[str, str]) -> None:
    url, vkey = witness
    sink = CosignerSink("cosigner:lite", url, [note.parse_vkey(vkey)])
    for size, known_size in ((3, 0), (9, 3), (9, 0), (40, 3)):
        checkpoint = published(size, known_size)
        evidence = await sink.anchor(checkpoint)
        opened = note.open(evidence.data, [LOG.vkey, vkey])
        assert len(opened.signatures) == 2
        assert opened.text == note.parse(checkpoint.note).text
    await sink.close()
