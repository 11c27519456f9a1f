"""What a service writes to stderr is its log, whatever comes to its port."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.certs import CertificateAuthority

TIMEOUT_S = 30.0

# Says what gRPC finds set at the moment when it is imported.
LOOK = """
import os, runpy, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "grpc":
            print("found", os.environ.get("GRPC_VERBOSITY"))
sys.meta_path.insert(0, Finder())
sys.argv = ["service", "--help"]
runpy.run_module(f"{sys.argv_service}_svc", run_name="__main__")
"""


def environment(**values: str) -> dict[str, str]:
    return {name: text for name, text in os.environ.items() if name != "GRPC_VERBOSITY"} | values


@pytest.mark.parametrize("service", ["keys", "witness", "ledger", "anchor", "gateway"])
def test_grpc_is_told_before_it_is_imported(service: str) -> None:
    code = LOOK.replace("sys.argv_service", repr(service))
    for given, found in (({}, "NONE"), ({"GRPC_VERBOSITY": "INFO"}, "INFO")):
        said = subprocess.run(
            [sys.executable, "-c", code],
            env=environment(**given),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert f"found {found}\n" in said


def test_failed_handshakes_do_not_write_into_the_log(tmp_path: Path) -> None:
    tls = CertificateAuthority(tmp_path / "ca").issue("keys", dns=("localhost",))
    ready_file = tmp_path / "keys.json"
    values = {
        "DATABASE_URL": f"sqlite:///{tmp_path / 'keys.sqlite3'}",
        "TLS_CERT": str(tls.cert),
        "TLS_KEY": str(tls.key),
        "TLS_CA": str(tls.ca),
        "READY_FILE": str(ready_file),
        "LOG_FORMAT": "json",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "keys_svc"],
        env=environment(**{f"PROVLEDGER_KEYS_{name}": text for name, text in values.items()}),
        stderr=subprocess.PIPE,
    ) as process:
        try:
            deadline_s = time.monotonic() + TIMEOUT_S
            while not ready_file.exists():
                assert process.poll() is None
                assert time.monotonic() < deadline_s
                time.sleep(0.02)
            port = json.loads(ready_file.read_text())["port"]
            for junk in (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01\x00\x05hello"):
                with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as peer:
                    peer.sendall(junk)
                    # It closes once the handshake has failed, and has told of it by then.
                    while peer.recv(1024):
                        pass
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=TIMEOUT_S)
        finally:
            process.kill()
    assert process.returncode == 0
    assert all(json.loads(line)["service"] == "keys" for line in log.splitlines())
