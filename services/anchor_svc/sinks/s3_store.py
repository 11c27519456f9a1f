"""What the S3 sink asks a bucket: whether it locks, what versions it holds, what it refuses.

Blocking, for the sink's thread; `client` is boto3's. What boto3 raises goes on to the sink, which
names the permission that is missing (`refusal`).

A DELETE without a version takes nothing away, and hides what is there behind a delete marker; so
do lifecycle rules. So what a bucket holds is asked of its versions, never of its keys.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from anchor_svc.sinks import SinkError, SinkPermissionError
from provledger.settings import ConfigError

MODE: Final = "COMPLIANCE"
_SUFFIX: Final = ".checkpoint"
_CHECKPOINT: Final = re.compile(r"([0-9]{20})\.checkpoint")
_MAX_NAMED: Final = 10**20 - 1
_PAGE_SIZES: Final = 1000
_MAX_PAGES: Final = 10
_REFUSALS: Final = frozenset(
    {"AccessDenied", "InvalidRequest", "ObjectLocked", "MethodNotAllowed", "AccessForbidden"}
)
_FORBIDDEN: Final = frozenset({"AccessDenied", "AccessForbidden", "403", "Forbidden"})
_NO_LOCK: Final = frozenset(
    {"ObjectLockConfigurationNotFoundError", "NoSuchObjectLockConfiguration"}
)
_ACTION: Final = re.compile(r"not authorized to perform: (s3:[A-Za-z]{1,64})")
_NEEDS: Final = {
    "DeleteObject": "s3:DeleteObject and s3:DeleteObjectVersion on the probe",
    "GetBucketVersioning": "s3:GetBucketVersioning",
    "GetObject": "s3:GetObjectVersion",
    "GetObjectLegalHold": "s3:GetObjectLegalHold",
    "GetObjectLockConfiguration": "s3:GetBucketObjectLockConfiguration",
    "GetObjectRetention": "s3:GetObjectRetention",
    "HeadObject": "s3:GetObjectVersion",
    "ListObjectVersions": "s3:ListBucketVersions",
    "PutObject": "s3:PutObject, s3:PutObjectRetention (and for a legal hold s3:PutObjectLegalHold)",
    "PutObjectLegalHold": "s3:PutObjectLegalHold",
    "PutObjectRetention": "s3:PutObjectRetention",
}


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a key; `deleted` if it is a delete marker."""

    key: str
    version_id: str
    deleted: bool


def versions(client: Any, bucket: str, prefix: str, *, after: str = "") -> Iterator[Version]:
    """Versions and markers of the keys that begin so and come after a key, in the keys' order.

    Raises:
        SinkError: there are more than `_MAX_PAGES` pages.
    """
    asked = {"Bucket": bucket, "Prefix": prefix} | ({"KeyMarker": after} if after else {})
    for page in _pages(client, asked):
        found = [
            Version(str(item["Key"]), str(item["VersionId"]), name == "DeleteMarkers")
            for name in ("Versions", "DeleteMarkers")
            for item in page.get(name, ())
        ]
        # Markers come first: they are the later ones, and what they hide is there all the same.
        for version in sorted(found, key=lambda each: (each.key, not each.deleted)):
            if version.key > after:
                yield version


def directories(client: Any, bucket: str, prefix: str) -> Iterator[str]:
    """Beginnings of keys up to and with the first slash, of those that begin so.

    Raises:
        SinkError: there are more than `_MAX_PAGES` pages.
    """
    for page in _pages(client, {"Bucket": bucket, "Prefix": prefix, "Delimiter": "/"}):
        for item in page.get("CommonPrefixes", ()):
            yield str(item["Prefix"])


def _pages(client: Any, asked: dict[str, str]) -> Iterator[Any]:
    for _ in range(_MAX_PAGES):
        page = client.list_object_versions(**asked)
        yield page
        if not page.get("IsTruncated"):
            return
        asked["KeyMarker"] = page["NextKeyMarker"]
        # With a delimiter it may end at a prefix, which has no version.
        asked.pop("VersionIdMarker", None)
        if marker := page.get("NextVersionIdMarker"):
            asked["VersionIdMarker"] = marker
    raise SinkError(f"s3: more versions below {asked['Prefix']} than are looked through")


def key_of(directory: str, size: int) -> str:
    """The key of the checkpoint of a tree size: in the order of keys, sizes are in theirs."""
    return f"{directory}{size:020}{_SUFFIX}"


class Sizes:
    """The tree sizes of the checkpoints below a `directory` that are there, hidden or not."""

    def __init__(self, client: Any, bucket: str, directory: str) -> None:
        self._client = client
        self._bucket = bucket
        self._directory = directory

    def key(self, size: int) -> str:
        """The key of one of them."""
        return key_of(self._directory, size)

    def versions(self, *, above: int) -> Iterator[tuple[int, Version]]:
        """Versions and markers of those larger than a size, in order of size, each with its size.

        Whatever else somebody keeps there is passed over.

        Raises:
            SinkError: there are more than `_MAX_PAGES` pages.
        """
        last = self.key(_MAX_NAMED)
        for version in versions(self._client, self._bucket, self._directory, after=self.key(above)):
            if version.key > last:
                return
            if found := _CHECKPOINT.fullmatch(version.key, len(self._directory)):
                yield int(found[1]), version

    def largest(self, *, above: int, below: int) -> int | None:
        """The largest one between two sizes, neither of them included; None if there is none.

        Mostly there is none, and one page says so. A store lists forwards only, so that of more
        than a page the largest is found by halving: some forty pages at the most.
        """
        newest = None
        low, high = above, below
        while True:
            page = self._first(_PAGE_SIZES, low, high)
            if page:
                newest = low = page[-1]
            if len(page) < _PAGE_SIZES:
                return newest
            middle = (low + high) // 2
            if beyond := self._first(1, middle, high):
                newest = low = beyond[0]
            else:
                high = middle + 1

    def _first(self, count: int, above: int, below: int) -> list[int]:
        """Up to so many of the sizes between two, the smallest ones."""
        sizes: list[int] = []
        for size, version in self.versions(above=above):
            if size >= below:
                break
            if version.deleted or sizes[-1:] == [size]:
                continue
            sizes.append(size)
            if len(sizes) == count:
                break
        return sizes


def prove_locks(client: Any, bucket: str, key: str, until: datetime) -> None:
    """Have a bucket prove, at a key that is there for this, that it keeps what it locked.

    An object is locked until then and deleted, which must be refused. Whoever may not delete at all
    is refused as well, which says nothing of the lock: so a delete marker, which no lock keeps, is
    laid there and taken away before.

    Raises:
        ConfigError: it does not lock. SinkPermissionError: we may not delete there.
    """
    from botocore.exceptions import ClientError

    where = f"sinks: s3: bucket {bucket}"
    if client.get_bucket_versioning(Bucket=bucket).get("Status") != "Enabled":
        raise ConfigError(f"{where} keeps no versions; enable versioning and object lock")
    try:
        lock = client.get_object_lock_configuration(Bucket=bucket)
    except ClientError as error:
        if code_of(error) in _NO_LOCK:
            raise ConfigError(f"{where} has no object lock") from error
        raise
    if lock["ObjectLockConfiguration"].get("ObjectLockEnabled") != "Enabled":
        raise ConfigError(f"{where} has no object lock")
    # What an earlier start left is taken first: no attempt leaves more there for as long as we may
    # not delete. A marker is laid over what is there only.
    there = next((each for each in versions(client, bucket, key) if each.key == key), None)
    version = _lock_probe(client, bucket, key, until) if there is None else ""
    laid = there is not None and there.deleted
    marker = there.version_id if there and laid else _lay_marker(client, bucket, key)
    client.delete_object(Bucket=bucket, Key=key, VersionId=marker)
    version = version or _lock_probe(client, bucket, key, until)
    probe = {"Bucket": bucket, "Key": key, "VersionId": version}
    if client.head_object(**probe).get("ObjectLockMode") != MODE:
        raise ConfigError(f"{where} does not say that it locked what was to be locked")
    try:
        client.delete_object(**probe)
    except ClientError as error:
        if code_of(error) in _REFUSALS and not _ACTION.search(str(error)):
            return
        raise
    raise ConfigError(f"{where} deleted an object that was locked: it proves nothing")


def _lock_probe(client: Any, bucket: str, key: str, until: datetime) -> str:
    body = b"may this be deleted?\n"
    put = client.put_object(
        Bucket=bucket,
        Key=key,
        Body=body,
        ChecksumAlgorithm="SHA256",
        ChecksumSHA256=checksum(body),
        ObjectLockMode=MODE,
        ObjectLockRetainUntilDate=until,
    )
    return str(put.get("VersionId", ""))


def _lay_marker(client: Any, bucket: str, key: str) -> str:
    made = client.delete_object(Bucket=bucket, Key=key)
    if not made.get("DeleteMarker") or not made.get("VersionId"):
        raise ConfigError(f"sinks: s3: bucket {bucket} lays no marker over what is deleted")
    return str(made["VersionId"])


def refusal(error: Any) -> SinkError:
    """The sink's error for boto3's ClientError, naming the permission if one is missing."""
    code, operation = code_of(error), str(error.operation_name)
    message = f"s3: {code} from {operation}"
    if code not in _FORBIDDEN:
        return SinkError(message)
    told = _ACTION.search(str(error))
    permission = told[1] if told else _NEEDS.get(operation, f"to call {operation}")
    return SinkPermissionError(message, permission=permission)


def code_of(error: Any) -> str:
    """The code of boto3's ClientError."""
    return str(error.response.get("Error", {}).get("Code", ""))


def checksum(data: bytes) -> str:
    """SHA-256 as S3 takes it."""
    return base64.b64encode(hashlib.sha256(data).digest()).decode("ascii")
