"""GET of public files, and POST of alarms: bounded in time and size, tried again with jitter.

What comes is not believed: whoever asks checks it against signatures and hashes. So plain http is
taken as well. One connection is kept and used again. Tiles may be somewhere else: one redirect of
theirs is followed, to https only (to loopback also http, if we came from there), so that a log can
send us no deeper into a network than anybody's web page.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import re
import ssl
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import urljoin, urlsplit

from provledger.errors import ProvledgerError
from provledger.http.bounded import Answer, Connection
from provledger.retry import RetryPolicy
from provledger.rpc.listener import is_loopback

RETRY: Final = RetryPolicy(attempts=4, base_s=0.25, cap_s=5.0, budget_s=15.0)
TIMEOUT_S: Final = 10.0
_MAX_WAIT_S: Final = 10.0
_BUSY: Final = frozenset({408, 429, 500, 502, 503, 504})
_PATH: Final = re.compile(r"[!-~]*")
_ELSEWHERE: Final = frozenset({301, 302, 307, 308})


# Of OpenSSL's X509_V_ERR_*: no issuer that is trusted, in the four ways in which that is found out.
_UNKNOWN_CA: Final = frozenset({18, 19, 20, 21})


class FetchError(ProvledgerError):
    """A file could not be had: no answer, a wrong status, too long or too slow."""


class _AgainError(Exception):
    """An attempt failed that may go better next time; `wait_s` is what the server asked for."""

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class Fetcher:
    """Gets files below one URL. timeout_s: for each attempt as a whole. Not for several threads.

    Raises FetchError for a URL that is none.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = TIMEOUT_S,
        retry: RetryPolicy = RETRY,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        # None of these repeats a URL: there may be a secret in it.
        try:
            parts = urlsplit(url)
            port = parts.port
            (parts.hostname or "").encode("idna")
        except ValueError:
            raise FetchError("this is not a URL") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise FetchError("a URL here is http://HOST/PREFIX or https://HOST/PREFIX")
        if parts.username is not None or parts.query or parts.fragment:
            raise FetchError("a URL with credentials, a query or a fragment is not taken")
        if not _PATH.fullmatch(parts.path):
            raise FetchError("the path of a URL is ASCII, and all else is percent-encoded")
        self.url = url.rstrip("/")
        self._host = parts.hostname
        self._prefix = parts.path.rstrip("/")
        self._context = ssl.create_default_context() if parts.scheme == "https" else None
        self._connection = Connection(self._host, port, self._context)
        self._timeout_s = timeout_s
        self._retry = retry
        self._sleep = sleep
        self._rng = random.Random()  # noqa: S311 - jitter, not a secret

    def get(self, path: str, max_bytes: int) -> bytes | None:
        """The file, None if the server says that there is none (404, 410).

        Raises:
            FetchError: it cannot be had, or is longer than `max_bytes`.
        """
        delays = self._retry.delays(self._rng)
        while True:
            try:
                return self._attempt(path, max_bytes)
            except _AgainError as error:
                delay_s = next(delays, None)
                if delay_s is None:
                    raise FetchError(f"{self.url}/{path}: {error}") from error
                self._sleep(max(delay_s, error.wait_s))

    def post(self, body: bytes) -> None:
        """Send JSON to the URL itself; any status of 200 to 299 will do.

        Raises:
            FetchError: it could not be delivered. It names the host alone: the path of such a URL
                is often what lets one in.
        """
        delays = self._retry.delays(self._rng)
        while True:
            try:
                return self._post(body)
            except _AgainError as error:
                delay_s = next(delays, None)
                if delay_s is None:
                    raise FetchError(f"{self._host}: {error}") from error
                self._sleep(max(delay_s, error.wait_s))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _attempt(self, path: str, max_bytes: int) -> bytes | None:
        end_s = time.monotonic() + self._timeout_s
        try:
            answer = _get(self._connection, f"{self._prefix}/{path}", max_bytes, end_s)
            elsewhere = answer.headers.get("location")
            if answer.status in _ELSEWHERE and elsewhere and path.startswith("tile/"):
                answer = self._follow(elsewhere, path, max_bytes, end_s)
        except (OSError, http.client.HTTPException) as error:
            raise _AgainError(_why(error)) from error
        except ValueError as error:
            # A host that is no name, or a path in no ASCII: a redirect may lead anywhere.
            raise FetchError(f"{self.url}/{path}: cannot be asked for: {error}") from error
        if answer.status in (404, 410):
            return None
        if answer.status in _BUSY:
            after = answer.headers.get("retry-after") or ""
            wait_s = float(after) if after.isascii() and after.isdigit() else 0.0
            raise _AgainError(f"status {answer.status}", min(wait_s, _MAX_WAIT_S))
        if answer.status != 200:
            raise FetchError(f"{self.url}/{path}: status {answer.status}")
        if len(answer.body) > max_bytes:
            raise FetchError(f"{self.url}/{path}: longer than {max_bytes} bytes")
        return answer.body

    def _follow(self, location: str, path: str, max_bytes: int, end_s: float) -> Answer:
        """The answer at the place that a tile's redirect names."""
        try:
            parts = urlsplit(urljoin(f"{self.url}/{path}", location))
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise FetchError(f"{self.url}/{path}: redirects to what is no URL") from None
        near = self._context is None and is_loopback(self._host) and is_loopback(host)
        if not host or not (parts.scheme == "https" or (parts.scheme == "http" and near)):
            raise FetchError(f"{self.url}/{path}: redirects to {parts.scheme}://{host}, not https")
        context = ssl.create_default_context() if parts.scheme == "https" else None
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        with contextlib.closing(Connection(host, port, context)) as connection:
            return _get(connection, target, max_bytes, end_s)

    def _post(self, body: bytes) -> None:
        try:
            with contextlib.closing(self._connection):
                status = self._connection.ask(
                    "POST",
                    self._prefix or "/",
                    headers={"User-Agent": "provledger", "Content-Type": "application/json"},
                    body=body,
                    max_bytes=-1,
                    end_s=time.monotonic() + self._timeout_s,
                ).status
        except (OSError, http.client.HTTPException) as error:
            raise _AgainError(_why(error)) from error
        if status in _BUSY:
            raise _AgainError(f"status {status}")
        if not 200 <= status < 300:
            raise FetchError(f"{self._host}: status {status}")


def _why(error: Exception) -> str:
    """What went wrong, and where the certificate is of a CA that is not known here, what to do."""
    text = str(error) or type(error).__name__
    if isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in _UNKNOWN_CA:
        return f"{text}; if its CA is a private one, name the CA's PEM file in SSL_CERT_FILE"
    return text


def _get(connection: Connection, target: str, max_bytes: int, end_s: float) -> Answer:
    headers = {"User-Agent": "provledger", "Accept-Encoding": "identity"}
    return connection.ask("GET", target, headers=headers, max_bytes=max_bytes, end_s=end_s)
