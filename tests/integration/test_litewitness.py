"""A cosigner of other people's making: litewitness cosigns a log of ours.

Its key lives in an ssh-agent, and its logs in a table that we fill as its `witnessctl` does: that
program needs a module that the module proxy does not have.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from anchor_svc.sinks.cosigner import CosignerSink
from provledger import _base64, note
from provledger.hashing import sha256
from tests.conformance.sink_suite import LOG, published
from tests.support import go_tools
from tests.support.ports import free_port

pytestmark = pytest.mark.timeout(1000)  # the first time on a machine, it is built


@pytest.fixture(scope="module")
def program() -> str:
    return go_tools.program("litewitness")


@pytest.fixture
def witness(program: str, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Address and verifier key of a litewitness that knows our log."""
    for needed in ("ssh-agent", "ssh-add", "ssh-keygen"):
        if shutil.which(needed) is None:
            pytest.skip(f"{needed} is not installed")
    agent_socket = tmp_path / "agent"
    environment = {**os.environ, "SSH_AUTH_SOCK": str(agent_socket)}
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", agent_socket], stdout=subprocess.DEVNULL)
    server = None
    try:
        _wait(agent_socket.exists)

        def run(*command: str | Path) -> str:
            done = subprocess.run(
                command, check=True, env=environment, capture_output=True, text=True, timeout=20
            )
            return done.stdout

        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key")
        run("ssh-add", tmp_path / "key")
        fingerprint = run("ssh-add", "-l").split()[1]
        database = tmp_path / "witness.db"
        port = free_port()
        log = tmp_path / "log"
        with log.open("w") as output:
            server = subprocess.Popen(
                [
                    *[program, "-db", str(database), "-name", "lite.test", "-key", fingerprint],
                    *["-ssh-agent", str(agent_socket), "-listen", f"127.0.0.1:{port}"],
                ],
                env=environment,
                stdout=output,
                stderr=output,
            )
        _wait(lambda: _listens(port))
        with sqlite3.connect(database) as connection:
            empty = _base64.encode(sha256(b""))
            connection.execute("INSERT INTO log VALUES (?, 0, ?)", (LOG.origin, empty))
            connection.execute("INSERT INTO key VALUES (?, ?)", (LOG.origin, LOG.vkey))
        connection.close()
        vkey = re.search(r"lite\.test\+[0-9a-f]{8}\+[A-Za-z0-9+/=]+", log.read_text())
        assert vkey is not None, log.read_text()
        yield f"http://127.0.0.1:{port}", vkey[0]
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


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _wait(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 20
    while not condition():
        if time.monotonic() > end_s:
            pytest.fail("it does not come up")
        time.sleep(0.02)
