"""A prefix of an S3 bucket as a place for files: read, written once, or replaced if unchanged.

    s3://bucket/prefix[?endpoint=https://host][&region=NAME]

Blocking, and safe for use by many threads. Credentials come from where boto3 finds them, never from
the URI; `endpoint` and `region` are for stores other than AWS. Every request has a deadline, and
its answer a size (`boto_bounds`). It is tried a few times, with jitter; requests that write are
conditional, so that one whose answer was lost is recognised when it is repeated. Needs the extra
`aws`, and s3:GetObject, s3:PutObject, s3:ListBucket and, where files are removed, s3:DeleteObject.

Trust: the store is asked for what it has and is not believed; whoever reads checks what it reads.

Left to others: locked objects (`anchor_svc.sinks.s3`), which files there are (`tilefiles`).
"""

from __future__ import annotations

import base64
import hashlib
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs, urlencode, urlsplit

from provledger.boto_bounds import Bounds, bind, room_for
from provledger.errors import UnavailableError
from provledger.retry import RetryPolicy
from provledger.rpc.listener import is_loopback
from provledger.settings import ConfigError

T = TypeVar("T")

MAX_CONNECTIONS: Final = 32
CONNECT_TIMEOUT_S: Final = 2
READ_TIMEOUT_S: Final = 5
BOUNDS: Final = Bounds(deadline_s=10.0)
MAX_PAGES: Final = 100
"""Of one listing; a page has 1000 keys with most stores."""
RETRY: Final = RetryPolicy(attempts=4, base_s=0.05, cap_s=1.0, budget_s=2.0)

_MISSING: Final = frozenset({"404", "NoSuchKey", "NotFound"})
_UNMET: Final = frozenset({"412", "PreconditionFailed"})
_BEYOND: Final = frozenset({"416", "InvalidRange"})
_REFUSED: Final = frozenset({"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403"})
_UNLOCKED: Final = frozenset(
    {"NoSuchObjectLockConfiguration", "ObjectLockConfigurationNotFoundError", "InvalidRequest"}
)
_RANGE = re.compile(r"bytes [0-9]+-[0-9]+/([0-9]+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class BucketURI:
    """What an `s3://` URI says. prefix: empty, or without slashes at its ends."""

    bucket: str
    prefix: str
    endpoint: str | None = None
    region: str | None = None

    @classmethod
    def parse(cls, uri: str, setting: str) -> BucketURI:
        """Read a URI; `setting` is named by the ConfigError for one that is none."""
        try:
            parts = urlsplit(uri)
            _ = parts.port
            query = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
        except ValueError as error:
            raise ConfigError(f"{setting}: s3://bucket/prefix is what it looks like") from error
        given = {name: values[0] for name, values in query.items() if len(values) == 1}
        if len(given) != len(query) or given.keys() - {"endpoint", "region"}:
            raise ConfigError(f"{setting}: known are endpoint and region, each once")
        if parts.scheme != "s3" or not parts.netloc or "@" in parts.netloc or parts.fragment:
            raise ConfigError(f"{setting}: s3://bucket/prefix is what it looks like")
        if "endpoint" in given:
            check_endpoint(given["endpoint"], setting)
        prefix = parts.path.strip("/")
        return cls(parts.netloc, prefix, given.get("endpoint"), given.get("region"))

    @property
    def text(self) -> str:
        """The URI again."""
        given = {"endpoint": self.endpoint, "region": self.region}
        query = urlencode({name: value for name, value in given.items() if value}, safe=":/")
        path = f"/{self.prefix}" if self.prefix else ""
        return f"s3://{self.bucket}{path}" + (f"?{query}" if query else "")

    def join(self, path: str) -> BucketURI:
        """A place below this one."""
        return replace(self, prefix=f"{self.prefix}/{path}".strip("/"))


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of an object from an offset on; `total` is its length, `etag` names its content."""

    data: bytes
    total: int
    etag: str


class Bucket:
    """The objects below the prefix of a URI; keys are relative to it.

    connect: makes boto3's client, when it is first used.
    patience_s: what has failed is tried again for so long, in seconds since it was tried first.
    """

    def __init__(
        self,
        uri: BucketURI,
        connect: Callable[[BucketURI], Any] | None = None,
        *,
        retry: RetryPolicy = RETRY,
        patience_s: float = BOUNDS.deadline_s,
    ) -> None:
        self.uri = uri
        self._prefix = f"{uri.prefix}/" if uri.prefix else ""
        # Made now: that boto3 is missing should be said at start.
        self._client = (connect or boto3_client)(uri)
        self._retry = retry
        self._patience_s = patience_s
        self._rng = random.Random()  # noqa: S311 - jitter, not a secret

    def get(self, key: str, *, max_bytes: int) -> Piece | None:
        """An object, up to `max_bytes`; None if there is none."""

        def ask() -> Piece:
            with room_for(max_bytes):
                found = self._client.get_object(**self._place(key))
            data = read_body(found, max_bytes)
            return Piece(data, int(found["ContentLength"]), str(found["ETag"]))

        return self._ask(ask, none_for=_MISSING)

    def get_piece(
        self, key: str, offset: int, length: int, *, etag: str | None = None
    ) -> Piece | None:
        """Part of an object, of the content that `etag` names; None if there is no such object."""
        condition = {} if etag is None else {"IfMatch": etag}

        def ask() -> Piece:
            span = f"bytes={offset}-{offset + length - 1}"
            with room_for(length):
                found = self._client.get_object(**self._place(key), Range=span, **condition)
            data = read_body(found, length)
            stated = _RANGE.fullmatch(str(found.get("ContentRange", "")))
            total = int(stated[1]) if stated else int(found["ContentLength"])
            return Piece(data, total, str(found["ETag"]))

        # An empty object has no range; nothing that we store is empty.
        return self._ask(ask, none_for=_MISSING | _BEYOND)

    def put_new(self, key: str, data: bytes, **headers: str) -> bool:
        """Store an object durably unless there is one of that key: False, whatever is in it.

        Of a repeated call whose first answer was lost, False says nothing about the content.
        headers: ContentType, CacheControl.
        """
        return self._put(key, data, {"IfNoneMatch": "*"}, headers) is not None

    def replace(self, key: str, data: bytes, etag: str | None, **headers: str) -> str | None:
        """Store an object durably in place of that with `etag`, or of none: the new ETag.

        None if another one is there: nothing was changed then, at least not by this call.
        """
        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
        return self._put(key, data, condition, headers)

    def keys(self, prefix: str) -> Iterator[str]:
        """Keys that begin so, in order; raises UnavailableError, too, if they have no end."""
        for page in self._pages(prefix):
            for item in page.get("Contents", ()):
                yield str(item["Key"]).removeprefix(self._prefix)

    def directories(self, prefix: str) -> Iterator[str]:
        """Names between `prefix`, which ends with a slash, and the next slash, in order.

        Raises:
            UnavailableError: as any request, or they have no end.
        """
        for page in self._pages(prefix, Delimiter="/"):
            for item in page.get("CommonPrefixes", ()):
                yield str(item["Prefix"]).removeprefix(self._prefix + prefix).rstrip("/")

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; those that are not there are no error."""
        for key in keys:
            self._ask(partial(self._client.delete_object, **self._place(key)))

    def presigned(self, key: str, expires_s: int) -> str:
        """A URL with which anybody reads the object for a time. Nothing is asked."""
        return str(
            self._client.generate_presigned_url(
                "get_object", Params=self._place(key), ExpiresIn=expires_s
            )
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _place(self, key: str) -> dict[str, str]:
        return {"Bucket": self.uri.bucket, "Key": self._prefix + key}

    def _put(
        self, key: str, data: bytes, condition: dict[str, str], headers: dict[str, str]
    ) -> str | None:
        checksum = base64.b64encode(hashlib.sha256(data).digest()).decode("ascii")

        def ask() -> str:
            done = self._client.put_object(
                **self._place(key),
                Body=data,
                ChecksumAlgorithm="SHA256",
                ChecksumSHA256=checksum,
                **condition,
                **headers,
            )
            return str(done["ETag"])

        return self._ask(ask, none_for=_UNMET | _MISSING)

    def _pages(self, prefix: str, **options: str) -> Iterator[Any]:
        asked: dict[str, Any] = {"Bucket": self.uri.bucket, "Prefix": self._prefix + prefix}
        for _ in range(MAX_PAGES):
            page: Any = self._ask(partial(self._client.list_objects_v2, **asked, **options))
            yield page
            if not page.get("IsTruncated"):
                return
            token = page.get("NextContinuationToken")
            if not token or token == asked.get("ContinuationToken"):
                break
            asked["ContinuationToken"] = token
        raise self._unavailable(f"its listing of {asked['Prefix']!r} has no end")

    def _ask(self, request: Callable[[], T], *, none_for: frozenset[str] = frozenset()) -> T | None:
        """Ask the store, a few times if need be; None for these answers of it.

        Raises:
            UnavailableError: it cannot be reached or is overloaded (STORAGE_UNAVAILABLE), or
                refuses our credentials (STORAGE_REFUSED).
        """
        from botocore.exceptions import ClientError

        lost = lost_errors()
        delays = self._retry.delays(self._rng)
        # A store that lets us wait until the end does so again.
        end_s = time.monotonic() + self._patience_s
        while True:
            try:
                return request()
            except ClientError as error:
                code = str(error.response.get("Error", {}).get("Code", ""))
                if code in none_for:
                    return None
                failure, again = self._failure(error, code)
            except lost as error:
                failure, again = self._unavailable(type(error).__name__), True
            delay_s = next(delays, None) if again else None
            if delay_s is None or time.monotonic() >= end_s:
                raise failure
            time.sleep(delay_s)

    def _failure(self, error: Any, code: str) -> tuple[UnavailableError, bool]:
        """The error for an answer, and whether asking again may help."""
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in _REFUSED:
            refused = UnavailableError(
                "STORAGE_REFUSED",
                f"bucket {self.uri.bucket} says {code} to {error.operation_name}",
            )
            return refused, False
        again = status >= 500 or status in (409, 429) or code in ("SlowDown", "RequestTimeout")
        return self._unavailable(f"{code} from {error.operation_name}"), again

    def _unavailable(self, what: str) -> UnavailableError:
        return UnavailableError(
            "STORAGE_UNAVAILABLE",
            f"bucket {self.uri.bucket} cannot be used for now: {what}",
            retry_delay_s=1.0,
        )


def read_body(found: Any, max_bytes: int) -> bytes:
    """What boto3's answer to GetObject holds, up to `max_bytes`.

    Raises:
        One of `lost_errors`: it ended before that, and before the length that it stated. Asked for
        so many bytes, the body gives what came until then and says nothing.
    """
    data: bytes = found["Body"].read(max_bytes)
    stated = found.get("ContentLength")
    if stated is not None and len(data) < min(int(stated), max_bytes):
        from botocore.exceptions import IncompleteReadError

        raise IncompleteReadError(actual_bytes=len(data), expected_bytes=stated)
    return data


@dataclass(frozen=True, slots=True)
class Lock:
    """How a version is locked, as the store says it. mode and until: None if there is no lock."""

    mode: str | None
    until: datetime | None
    legal_hold: bool


def object_lock(client: Any, place: Mapping[str, str], found: Any, *, legal_hold: bool) -> Lock:
    """The lock of a version, given what came with it; `legal_hold`: whether that is of interest.

    A store that may not show us a lock leaves it out, as it does where there is none: then it is
    asked for the lock by itself, which tells the two apart. Raises boto3's errors.
    """
    mode, until = found.get("ObjectLockMode"), found.get("ObjectLockRetainUntilDate")
    if mode is None:
        said = _none_if_unlocked(lambda: client.get_object_retention(**place)).get("Retention", {})
        mode, until = said.get("Mode"), said.get("RetainUntilDate")
    held = found.get("ObjectLockLegalHoldStatus")
    if held is None and legal_hold:
        said = _none_if_unlocked(lambda: client.get_object_legal_hold(**place))
        held = said.get("LegalHold", {}).get("Status")
    return Lock(mode, until, held == "ON")


def _none_if_unlocked(call: Callable[[], Any]) -> Any:
    """The answer, empty where the store says that there is nothing."""
    from botocore.exceptions import ClientError

    try:
        return call()
    except ClientError as error:
        if str(error.response.get("Error", {}).get("Code", "")) in _UNLOCKED:
            return {}
        raise


def lost_errors() -> tuple[type[Exception], ...]:
    """What boto3 raises where no answer came, or not all of it; ImportError without boto3."""
    from botocore.exceptions import BotoCoreError
    from urllib3.exceptions import HTTPError

    return BotoCoreError, OSError, HTTPError


def check_endpoint(url: str, setting: str) -> None:
    """Refuse what is no address of a store; http is for loopback only. Raises ConfigError."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ConfigError(f"{setting}: the endpoint is not a URL") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ConfigError(f"{setting}: the endpoint is https://host[:port]")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ConfigError(f"{setting}: http:// is for loopback only; use https://")


def boto3_client(uri: BucketURI, bounds: Bounds = BOUNDS) -> Any:
    """boto3's client for the store of a URI; raises ConfigError where boto3 is missing."""
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise ConfigError("s3:// needs the extra: install provledger[aws]") from error
    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        max_pool_connections=MAX_CONNECTIONS,
        # Ours, with a bound that we know.
        retries={"total_max_attempts": 1},
        signature_version="s3v4",
        s3={"addressing_style": "path"} if uri.endpoint else {},
    )
    try:
        client = boto3.client(
            "s3", endpoint_url=uri.endpoint, region_name=uri.region, config=config
        )
    except (BotoCoreError, ValueError) as error:
        raise ConfigError(f"s3://{uri.bucket} cannot be used: {error}") from error
    return bind(client, bounds)
