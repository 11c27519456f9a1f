"""Other people's programs to anchor at: `openssl ts`, S3 stores; and a server that misbehaves.

What is not installed is skipped, with the reason. MinIO: on the PATH, or in PROVLEDGER_TEST_MINIO,
or built by `tests.support.go_tools`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support import go_tools
from tests.support.ports import free_port

Reply = tuple[int, dict[str, str], bytes]
"""Status, headers and body of an answer."""


class Scripted:
    """A server that answers as `answer` says; `requests` are the bodies it was sent."""

    def __init__(self, answer: Callable[[str, bytes], Reply | None]) -> None:
        self.answer = answer
        self.requests: list[bytes] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                outer.requests.append(body)
                reply = outer.answer(self.path, body)
                if reply is None:  # hangs up in the middle of a request
                    self.connection.close()
                    return
                status, headers, data = reply
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if "content-length" not in {name.lower() for name in headers}:
                    self.send_header("content-length", str(len(data)))
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                return None

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def scripted(answer: Callable[[str, bytes], Reply | None]) -> Iterator[Scripted]:
    server = Scripted(answer)
    try:
        yield server
    finally:
        server.close()


# --- a timestamp authority -----------------------------------------------------------------------

_CONFIG = """\
[tsa]
default_tsa = one
[one]
serial = {dir}/serial
signer_cert = {dir}/tsa.pem
signer_key = {dir}/tsa.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256, sha512
accuracy = secs:1
ess_cert_id_alg = sha256
[req]
distinguished_name = dn
[dn]
[ca]
basicConstraints = critical,CA:true
keyUsage = critical,keyCertSign
[stamp]
basicConstraints = critical,CA:false
extendedKeyUsage = critical,timeStamping
[both]
extendedKeyUsage = critical,timeStamping,codeSigning
"""


class OpenSSLAuthority:
    """`openssl ts` with an authority of its own. `tsa.pem` and `ca.pem` are in `directory`."""

    def __init__(self, directory: Path, *, usage: str = "stamp", days: int = 30) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("openssl is not installed")
        self.directory = directory
        directory.mkdir(exist_ok=True)
        (directory / "ts.cnf").write_text(_CONFIG.format(dir=directory))
        (directory / "serial").write_text("01\n")
        ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        ec += ["-days", str(days)]
        config = ["-config", "ts.cnf"]
        self._run(
            *["req", "-x509", *ec, *config, "-extensions", "ca", "-subj", "/CN=Test CA"],
            *["-keyout", "ca.key", "-out", "ca.pem"],
        )
        self._run(
            *["req", "-x509", *ec, *config, "-extensions", usage, "-subj", "/CN=Test TSA"],
            *["-CA", "ca.pem", "-CAkey", "ca.key", "-keyout", "tsa.key", "-out", "tsa.pem"],
        )

    @property
    def cert(self) -> Path:
        return self.directory / "tsa.pem"

    @property
    def chain(self) -> Path:
        return self.directory / "ca.pem"

    def answer(self, path: str, query: bytes) -> Reply:
        (self.directory / "q.tsq").write_bytes(query)
        self._run("ts", "-reply", "-config", "ts.cnf", "-queryfile", "q.tsq", "-out", "r.tsr")
        reply = (self.directory / "r.tsr").read_bytes()
        return 200, {"Content-Type": "application/timestamp-reply"}, reply

    def verify(self, message: bytes, response: bytes) -> None:
        """What openssl itself says of a token."""
        (self.directory / "m").write_bytes(message)
        (self.directory / "v.tsr").write_bytes(response)
        self._run(
            *["ts", "-verify", "-data", "m", "-in", "v.tsr", "-CAfile", "ca.pem"],
            *["-untrusted", "tsa.pem"],
        )

    def _run(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.directory, check=True, capture_output=True)


# --- S3 stores -----------------------------------------------------------------------------------


@contextlib.contextmanager
def moto_store() -> Iterator[str]:
    """moto's address. It refuses to delete what is locked; what else it does not enforce, and what
    does, is in `tests.support.strict_store`."""
    server_module = pytest.importorskip("moto.server", reason="moto is not installed")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@contextlib.contextmanager
def minio_store(directory: Path) -> Iterator[str]:
    """MinIO's address; its users are those of `ROOT`."""
    program = go_tools.program("minio")
    port = free_port()
    environment = {
        **os.environ,
        "MINIO_ROOT_USER": ROOT["aws_access_key_id"],
        "MINIO_ROOT_PASSWORD": ROOT["aws_secret_access_key"],
        "MINIO_BROWSER": "off",
        "HOME": str(directory),
    }
    process = subprocess.Popen(
        [program, "server", str(directory / "data"), "--address", f"127.0.0.1:{port}", "--quiet"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for_port(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


ROOT = {"aws_access_key_id": "provledger", "aws_secret_access_key": "provledger-tests"}


def s3_client(endpoint: str) -> Any:
    boto3 = pytest.importorskip("boto3")
    from botocore.config import Config

    config = Config(retries={"total_max_attempts": 3}, s3={"addressing_style": "path"})
    return boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", config=config, **ROOT)


def _wait_for_port(port: int) -> None:
    end_s = time.monotonic() + 30
    while time.monotonic() < end_s:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    pytest.fail("the store does not listen")
