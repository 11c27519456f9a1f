"""An S3 store that keeps its word: moto behind what moto does not enforce of Object Lock.

moto refuses to delete a locked version. It lets a COMPLIANCE retention be shortened or weakened, a
locking bucket stop keeping versions, and an object in whose checksum is not that of its bytes; and
in its lists of versions, a key marker leaves out one version, not a key. This stands in front of
it, on the wire, and refuses those too, with the answers that AWS documents, and lists as AWS does.

It can also be made a store that is hard to work with: that locks for a short time only, lists few
versions at once, refuses actions to our user, and whose answers end in the middle.

What it does not do: signatures of requests, time (a retention does end).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, quote, unquote
from xml.etree import ElementTree

import pytest

_MODE = re.compile(r"<Mode>([A-Z]+)</Mode>")
_UNTIL = re.compile(r"<RetainUntilDate>([^<]+)</RetainUntilDate>")
_VERSION = re.compile(r"versionId=[^&]+")
_XMLNS = "{http://s3.amazonaws.com/doc/2006-03-01/}"
# What AWS calls these, by method and what is asked for; objects have "" and "versionId".
_BUCKET_ACTIONS = {
    ("GET", "versions"): "s3:ListBucketVersions",
    ("GET", "versioning"): "s3:GetBucketVersioning",
    ("GET", "object-lock"): "s3:GetBucketObjectLockConfiguration",
    ("GET", "list-type"): "s3:ListBucket",
}
_OBJECT_ACTIONS = {
    ("GET", "retention"): "s3:GetObjectRetention",
    ("PUT", "retention"): "s3:PutObjectRetention",
    ("GET", "legal-hold"): "s3:GetObjectLegalHold",
    ("PUT", "legal-hold"): "s3:PutObjectLegalHold",
    ("GET", "versionId"): "s3:GetObjectVersion",
    ("HEAD", "versionId"): "s3:GetObjectVersion",
    ("DELETE", "versionId"): "s3:DeleteObjectVersion",
    ("GET", ""): "s3:GetObject",
    ("HEAD", ""): "s3:GetObject",
    ("DELETE", ""): "s3:DeleteObject",
    ("PUT", ""): "s3:PutObject",
}
_SHOWN_BY = {
    "x-amz-object-lock-mode": "s3:GetObjectRetention",
    "x-amz-object-lock-retain-until-date": "s3:GetObjectRetention",
    "x-amz-object-lock-legal-hold": "s3:GetObjectLegalHold",
}


class StrictStore:
    """The WSGI application; `refused` are the codes it answered with, by itself.

    cut: keys whose next answer ends in the middle, as when a connection breaks. denied: actions
    (`s3:ListBucketVersions`) that our user may not do. locks_s: what a lock is cut down to, as by a
    gateway in between. page: versions in one answer.
    """

    def __init__(self, inner: Callable[..., Iterable[bytes]]) -> None:
        from werkzeug.test import Client

        self._inner = inner
        self._ask = Client(inner)
        self.refused: list[str] = []
        self.cut: set[str] = set()
        self.denied: set[str] = set()
        self.locks_s: float | None = None
        self.page = 1000

    def be_good(self) -> None:
        """Be no longer hard to work with."""
        self.cut, self.denied, self.locks_s, self.page = set(), set(), None, 1000

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length)
        if self.locks_s is not None and environ["REQUEST_METHOD"] == "PUT":
            body = self._shorten(environ, body)
        environ["wsgi.input"] = io.BytesIO(body)
        refusal = self._deny(environ) or self._refuse(environ, body)
        if refusal is not None:
            status, code, message = refusal
            self.refused.append(code)
            text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
            headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(text)))]
            start_response(status, headers)
            # AWS has no body for HEAD: the code is that of HTTP, and nothing says why.
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [text]
        whole, status, headers = self._answer(environ)
        start_response(status, headers)
        key = environ["PATH_INFO"].lstrip("/").partition("/")[2]
        if environ["REQUEST_METHOD"] == "GET" and key in self.cut:
            self.cut.discard(key)
            return [whole[: len(whole) // 2]]
        return [whole]

    def _answer(self, environ: dict[str, Any]) -> tuple[bytes, str, list[tuple[str, str]]]:
        from werkzeug.test import run_wsgi_app

        query = parse_qs(environ["QUERY_STRING"], keep_blank_values=True)
        lists = environ["REQUEST_METHOD"] == "GET" and "versions" in query
        if lists:
            kept = [
                word
                for word in environ["QUERY_STRING"].split("&")
                if word.partition("=")[0] not in ("key-marker", "version-id-marker", "max-keys")
            ]
            environ["QUERY_STRING"] = "&".join(kept)
        body, status, found = run_wsgi_app(self._inner, environ)
        whole = b"".join(body)
        if lists and status.startswith("200"):
            whole = self._listed(whole, query)
            found["Content-Length"] = str(len(whole))
        for name, action in _SHOWN_BY.items():
            if action in self.denied:
                found.pop(name, None)
        return whole, status, list(found)

    def _listed(self, document: bytes, query: dict[str, list[str]]) -> bytes:
        """One page of a list of versions: after the key marker, or the version in it."""
        root = ElementTree.fromstring(document)
        names = (f"{_XMLNS}Version", f"{_XMLNS}DeleteMarker")
        items = [each for each in root if each.tag in names]
        for each in root.findall("*"):
            if each in items or each.tag.removeprefix(_XMLNS) in ("IsTruncated", "MaxKeys"):
                root.remove(each)

        def of(item: ElementTree.Element, name: str) -> str:
            return item.findtext(f"{_XMLNS}{name}") or ""

        def key_of(item: ElementTree.Element) -> str:
            text = of(item, "Key")
            return unquote(text) if root.findtext(f"{_XMLNS}EncodingType") == "url" else text

        # Of one key the newest first, with the delete markers among them.
        items.sort(key=lambda each: of(each, "LastModified"), reverse=True)
        items.sort(key=lambda each: (key_of(each), of(each, "IsLatest") != "true"))
        key, version = (query.get(each, [""])[0] for each in ("key-marker", "version-id-marker"))
        if version:
            places = [(key_of(each), of(each, "VersionId")) for each in items]
            items = items[places.index((key, version)) + 1 :]
        elif key:
            items = [each for each in items if key_of(each) > key]
        most = min(self.page, int(query.get("max-keys", ["1000"])[0]))
        page, rest = items[:most], items[most:]
        said = {"IsTruncated": "true" if rest else "false", "MaxKeys": str(most)}
        if rest:
            said["NextKeyMarker"] = of(page[-1], "Key")
            said["NextVersionIdMarker"] = of(page[-1], "VersionId")
        for name, text in said.items():
            ElementTree.SubElement(root, f"{_XMLNS}{name}").text = text
        root.extend(page)
        return ElementTree.tostring(root)

    def _deny(self, environ: dict[str, Any]) -> tuple[str, str, str] | None:
        """A refusal by IAM, which comes before any other, in its words."""
        bucket, _, key = environ["PATH_INFO"].lstrip("/").partition("/")
        actions = _actions(environ["REQUEST_METHOD"], environ["QUERY_STRING"], key)
        if actions == {"s3:PutObject"} and "HTTP_X_AMZ_OBJECT_LOCK_MODE" in environ:
            actions.add("s3:PutObjectRetention")
        if actions >= {"s3:PutObject"} and "HTTP_X_AMZ_OBJECT_LOCK_LEGAL_HOLD" in environ:
            actions.add("s3:PutObjectLegalHold")
        for action in sorted(actions & self.denied):
            message = (
                "User: arn:aws:iam::111122223333:user/anchor is not authorized to perform: "
                f"{action} on resource: &quot;arn:aws:s3:::{bucket}/{key}&quot; because no "
                f"identity-based policy allows the {action} action"
            )
            return "403 Forbidden", "AccessDenied", message
        return None

    def _shorten(self, environ: dict[str, Any], body: bytes) -> bytes:
        until = datetime.now(UTC) + timedelta(seconds=self.locks_s or 0)
        text = f"{until:%Y-%m-%dT%H:%M:%SZ}"
        if "HTTP_X_AMZ_OBJECT_LOCK_RETAIN_UNTIL_DATE" in environ:
            environ["HTTP_X_AMZ_OBJECT_LOCK_RETAIN_UNTIL_DATE"] = text
        if "retention" in environ["QUERY_STRING"].split("&"):
            body = _UNTIL.sub(f"<RetainUntilDate>{text}</RetainUntilDate>", body.decode()).encode()
            environ["CONTENT_LENGTH"] = str(len(body))
        return body

    def _refuse(self, environ: dict[str, Any], body: bytes) -> tuple[str, str, str] | None:
        query = environ["QUERY_STRING"].split("&")
        path = quote(environ["PATH_INFO"])
        # moto asks for credentials, and does not look at them.
        auth = {"Authorization": environ.get("HTTP_AUTHORIZATION", "")}
        asks = environ["REQUEST_METHOD"] == "GET" and "retention" in query
        # moto fails at it.
        if asks and not self._held(path, environ["QUERY_STRING"], auth).get(
            "x-amz-object-lock-mode"
        ):
            return "404 Not Found", "NoSuchObjectLockConfiguration", "no"
        if environ["REQUEST_METHOD"] != "PUT":
            return None
        if "retention" in query and self._weaker(path, environ["QUERY_STRING"], body, auth):
            return "403 Forbidden", "AccessDenied", "Access Denied"
        if "versioning" in query and b"Suspended" in body and self._locks(path, auth):
            return "409 Conflict", "InvalidBucketState", "no"
        promised = environ.get("HTTP_X_AMZ_CHECKSUM_SHA256")
        if promised and promised != base64.b64encode(hashlib.sha256(body).digest()).decode():
            return "400 Bad Request", "BadDigest", "no"
        return None

    def _weaker(self, path: str, query: str, body: bytes, auth: dict[str, str]) -> bool:
        """Whether a retention would be shorter, or of another mode, than the one there is."""
        held = self._held(path, query, auth)
        if held.get("x-amz-object-lock-mode") != "COMPLIANCE":
            return False
        mode, until = _MODE.search(body.decode()), _UNTIL.search(body.decode())
        if mode is None or until is None or mode[1] != "COMPLIANCE":
            return True
        return _when(until[1]) < _when(held["x-amz-object-lock-retain-until-date"])

    def _held(self, path: str, query: str, auth: dict[str, str]) -> Any:
        """The headers of a version."""
        version = _VERSION.search(query)
        return self._ask.head(f"{path}?{version[0] if version else ''}", headers=auth).headers

    def _locks(self, bucket: str, auth: dict[str, str]) -> bool:
        answer = self._ask.get(f"{bucket}?object-lock", headers=auth)
        return b"<ObjectLockEnabled>Enabled" in answer.data


def _actions(method: str, query: str, key: str) -> set[str]:
    """What IAM is asked about: of a version is not of the object, of its lock is of neither."""
    known = _OBJECT_ACTIONS if key else _BUCKET_ACTIONS
    words = {word.partition("=")[0] for word in query.split("&")} | {""}
    named = [action for (verb, word), action in known.items() if verb == method and word in words]
    return set(named[:1])


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
