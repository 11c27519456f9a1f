"""A directory served over HTTP on loopback, with faults on demand."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from provledger.rpc.tls import TLSSettings

Fault = Callable[[str], tuple[int, bytes] | None]
"""Given a path: the status and body to answer with instead, or None to serve the file."""


class WebRoot:
    """`root` is what is served; may be changed at any time. `asked` counts requests by path."""

    def __init__(self, root: Path, tls: TLSSettings | None = None) -> None:
        self.root = root
        self.fault: Fault = lambda path: None
        self.cut = 0
        self.asked: dict[str, int] = {}
        self.posted: list[bytes] = []
        # Where paths are redirected to, and how many connections there were.
        self.locations: dict[str, str] = {}
        self.connections = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                outer.connections += 1
                super().setup()

            def do_GET(self) -> None:
                location = outer.locations.get(self.path.partition("?")[0])
                if location is not None:
                    self.send_response(307)
                    self.send_header("location", location)
                    self.send_header("content-length", "0")
                    self.end_headers()
                    return
                outer.asked[self.path] = outer.asked.get(self.path, 0) + 1
                status, body = outer.fault(self.path) or outer.file(self.path)
                self.answer(status, body, outer.cut)

            def do_POST(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                outer.posted.append(self.rfile.read(length))
                self.answer(204, b"", 0)

            def answer(self, status: int, body: bytes, cut: int) -> None:
                self.send_response(status)
                if status != 204:
                    self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) - cut])
                if cut:
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                return None

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        scheme = "http" if tls is None else "https"
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls.cert, tls.key)
            # The handshake with the first read, in a thread of its own and not in accept.
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
            self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.url = f"{scheme}://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def file(self, path: str) -> tuple[int, bytes]:
        """The file at a path, or 404."""
        found = self.root / path.partition("?")[0].lstrip("/")
        return (200, found.read_bytes()) if found.is_file() else (404, b"no such file")

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def webroot(root: Path, tls: TLSSettings | None = None) -> Iterator[WebRoot]:
    """Serve a directory as long as the block runs; with `tls`, over https."""
    server = WebRoot(root, tls)
    try:
        yield server
    finally:
        server.close()
