"""An S3 store that keeps its word: moto behind what moto does not enforce of Object Lock.

moto refuses to delete a locked version. It lets a COMPLIANCE retention be shortened or weakened, a
locking bucket stop keeping versions, and an object in whose checksum is not that of its bytes. This
stands in front of it, on the wire, and refuses those too, with the answers that AWS documents. What
it does not do: users and permissions, signatures of requests, time (a retention does end).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest

_MODE = re.compile(r"<Mode>([A-Z]+)</Mode>")
_UNTIL = re.compile(r"<RetainUntilDate>([^<]+)</RetainUntilDate>")
_VERSION = re.compile(r"versionId=[^&]+")


class StrictStore:
    """The WSGI application; `refused` are the codes it answered with, by itself.

    cut: keys whose next answer ends in the middle, as when a connection breaks.
    """

    def __init__(self, inner: Callable[..., Iterable[bytes]]) -> None:
        from werkzeug.test import Client

        self._inner = inner
        self._ask = Client(inner)
        self.refused: list[str] = []
        self.cut: set[str] = set()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "PUT":
            length = int(environ.get("CONTENT_LENGTH") or 0)
            body = environ["wsgi.input"].read(length)
            environ["wsgi.input"] = io.BytesIO(body)
            refusal = self._refuse(environ, body)
            if refusal is not None:
                status, code = refusal
                self.refused.append(code)
                text = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
                headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(text)))]
                start_response(status, headers)
                return [text]
        if environ["REQUEST_METHOD"] == "GET":
            key = environ["PATH_INFO"].lstrip("/").partition("/")[2]
            if key in self.cut:
                self.cut.discard(key)
                return self._half(environ, start_response)
        return self._inner(environ, start_response)

    def _half(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        from werkzeug.test import run_wsgi_app

        body, status, headers = run_wsgi_app(self._inner, environ)
        whole = b"".join(body)
        start_response(status, list(headers))
        return [whole[: len(whole) // 2]]

    def _refuse(self, environ: dict[str, Any], body: bytes) -> tuple[str, str] | None:
        query = environ["QUERY_STRING"].split("&")
        path = quote(environ["PATH_INFO"])
        # moto asks for credentials, and does not look at them.
        auth = {"Authorization": environ.get("HTTP_AUTHORIZATION", "")}
        if "retention" in query and self._weaker(path, environ["QUERY_STRING"], body, auth):
            return "403 Forbidden", "AccessDenied"
        if "versioning" in query and b"Suspended" in body and self._locks(path, auth):
            return "409 Conflict", "InvalidBucketState"
        promised = environ.get("HTTP_X_AMZ_CHECKSUM_SHA256")
        if promised and promised != base64.b64encode(hashlib.sha256(body).digest()).decode():
            return "400 Bad Request", "BadDigest"
        return None

    def _weaker(self, path: str, query: str, body: bytes, auth: dict[str, str]) -> bool:
        """Whether a retention would be shorter, or of another mode, than the one there is."""
        version = _VERSION.search(query)
        held = self._ask.head(f"{path}?{version[0] if version else ''}", headers=auth).headers
        if held.get("x-amz-object-lock-mode") != "COMPLIANCE":
            return False
        mode, until = _MODE.search(body.decode()), _UNTIL.search(body.decode())
        if mode is None or until is None or mode[1] != "COMPLIANCE":
            return True
        return _when(until[1]) < _when(held["x-amz-object-lock-retain-until-date"])

    def _locks(self, bucket: str, auth: dict[str, str]) -> bool:
        answer = self._ask.get(f"{bucket}?object-lock", headers=auth)
        return b"<ObjectLockEnabled>Enabled" in answer.data


def _when(text: str) -> datetime:
    parsed = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


@contextlib.contextmanager
def strict_store() -> Iterator[tuple[str, StrictStore]]:
    """Its address, and itself."""
    server_module = pytest.importorskip("moto.server", reason="moto is not installed")
    from werkzeug.serving import make_server

    moto = server_module.DomainDispatcherApplication(server_module.create_backend_app)
    store = StrictStore(moto)
    server = make_server("127.0.0.1", 0, store, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", store
    finally:
        server.shutdown()
        thread.join()
