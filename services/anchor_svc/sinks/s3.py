"""`s3://bucket/prefix?mode=COMPLIANCE`: checkpoints that nobody can delete for a time.

::

    <prefix>/<origin, percent-encoded>/00000000000000000501.checkpoint

Each object is written once, with its SHA-256, and locked until AUDIT_RETENTION_DAYS from then (365
if not said); `legal_hold=on` holds it beyond that. One that is there already is locked as long as a
new one would be. `s3:///prefix?...` takes the bucket from AUDIT_BUCKET. `endpoint=` and `region=`
are for stores other than AWS; credentials come from where boto3 finds them, never from the URI.

Needs on the bucket s3:GetBucketVersioning, GetBucketObjectLockConfiguration and ListBucketVersions;
on the prefix s3:PutObject, PutObjectRetention, GetObjectVersion, GetObjectRetention, and with a
legal hold PutObjectLegalHold and GetObjectLegalHold; on `<prefix>/lock-probe` alone s3:DeleteObject
and DeleteObjectVersion. It is best *not* given BypassGovernance. What is missing is named by a
SinkPermissionError.

Evidence of kind `s3-object-lock` is JCS `{bucket, key, legalHold, mode, retainUntilUnixS, sha256,
size, v, versionId}`, as the store says it holds it. What it proves is what the store's operator
says, until somebody asks the store again.

Before the first checkpoint the bucket is made to prove that it locks: an object is locked for a
few minutes and deleted, which must be refused. A bucket that lets it go is refused. What is held is
looked for by versions, since a delete marker hides it and takes nothing away; that one is over a
checkpoint is an alarm.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import parse_qs, quote, unquote, urlsplit

from anchor_svc.sinks import Evidence, PublishedCheckpoint, SinkError, SinkIntegrityError
from anchor_svc.sinks import s3_store as store
from anchor_svc.sinks.history import check_earlier, read_held
from anchor_svc.sinks.http import check_url
from anchor_svc.sinks.thread import SinkThread
from provledger import checkpoint as checkpoints
from provledger import jcs, note, s3
from provledger.boto_bounds import Bounds, bind
from provledger.checkpoint import MAX_TREE_SIZE
from provledger.settings import ConfigError

KIND: Final = "s3-object-lock"
PROBE: Final = "lock-probe"
DEFAULT_RETENTION_DAYS: Final = 365
_PROBE: Final = timedelta(minutes=5)
TIMEOUT_S: Final = 8
_BOUNDS: Final = Bounds(TIMEOUT_S)
_MAX_VERSIONS: Final = 16


class S3Sink:
    """Locked objects below `prefix` of a bucket. `client` is boto3's, used in one thread."""

    def __init__(
        self,
        uri: str,
        bucket: str,
        prefix: str,
        connect: Callable[[], Any],
        *,
        retention_days: int = DEFAULT_RETENTION_DAYS,
        legal_hold: bool = False,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.uri = uri
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._connect = connect
        self._client: Any = None
        self._retention = timedelta(days=retention_days)
        self._legal_hold = legal_hold
        self._clock = clock
        self._proven = False
        self._thread = SinkThread("s3-sink")

    @classmethod
    def from_uri(cls, uri: str) -> S3Sink:
        """The sink of a URI and the environment; raises ConfigError."""
        try:
            parts = urlsplit(uri)
            query = parse_qs(parts.query, strict_parsing=True, max_num_fields=10)
        except ValueError as error:
            raise ConfigError(
                "sinks: s3://bucket/prefix?mode=COMPLIANCE is what it looks like"
            ) from error
        given = {name: values[0] for name, values in query.items() if len(values) == 1}
        if len(given) != len(query) or given.keys() - {"mode", "endpoint", "region", "legal_hold"}:
            raise ConfigError(
                "sinks: s3: known are mode, endpoint, region and legal_hold, each once"
            )
        if given.get("mode") != store.MODE:
            # What GOVERNANCE locks, an administrator can unlock: the one we do not trust.
            raise ConfigError("sinks: s3: mode must be COMPLIANCE")
        if given.get("legal_hold", "off") not in ("on", "off"):
            raise ConfigError("sinks: s3: legal_hold is on or off")
        bucket = parts.netloc or os.environ.get("AUDIT_BUCKET", "")
        if not bucket or "@" in bucket or parts.fragment:
            raise ConfigError("sinks: s3: no bucket in the URI, and AUDIT_BUCKET is not set")
        if "endpoint" in given:
            check_url(given["endpoint"])
        return cls(
            uri,
            bucket,
            parts.path.strip("/"),
            lambda: _boto3_client(given.get("endpoint"), given.get("region")),
            retention_days=_retention_days(),
            legal_hold=given.get("legal_hold") == "on",
        )

    async def check(self) -> None:
        """Prove that the bucket locks what it is given; see `Provable`."""
        if not self._proven:
            await self._run(self._prove)
            self._proven = True

    async def anchor(self, checkpoint: PublishedCheckpoint) -> Evidence:
        """Store and lock the checkpoint, unless it is there; see `AnchorSink`."""
        try:
            await self.check()
        except ConfigError as error:
            raise SinkIntegrityError(str(error)) from error
        await self._check_earlier(checkpoint, least=checkpoint.known_size + 1)
        evidence: Evidence = await self._run(lambda client: self._store(client, checkpoint))
        return evidence

    async def holds(self, checkpoint: PublishedCheckpoint) -> bool:
        """Look at what is there of the log; see `Remembering`."""
        # What it acknowledged it may have lost since, or somebody put something else there.
        await self._check_earlier(checkpoint, least=max(1, checkpoint.known_size))
        held: bool = await self._run(lambda client: self._holds(client, checkpoint))
        return held

    async def origins(self, prefix: str) -> Collection[str]:
        """Look at how the keys of versions begin, hidden ones too; see `Listing`."""
        begins = f"{self._prefix}{quote(prefix, safe='')}"
        found = await self._run(
            lambda client: list(store.directories(client, self._bucket, begins))
        )
        return [unquote(each.removeprefix(self._prefix).rstrip("/")) for each in found]

    async def checkpoint_of(self, origin: str) -> bytes | None:
        """Read the largest one that there is, hidden or not; see `Listing`."""
        directory = f"{self._prefix}{quote(origin, safe='')}/"
        found: bytes | None = await self._run(lambda client: self._largest(client, directory))
        return found

    async def close(self) -> None:
        """See `AnchorSink`."""
        self._thread.close()

    async def _run(self, work: Callable[[Any], Any]) -> Any:
        def in_thread() -> Any:
            from botocore.exceptions import ClientError

            lost = s3.lost_errors()
            try:
                if self._client is None:
                    self._client = self._connect()
                return work(self._client)
            except ClientError as error:
                raise store.refusal(error) from error
            except lost as error:
                # Its text may quote the proxy with a password; this one is shown to readers, too.
                raise SinkError(f"s3: {type(error).__name__}") from error

        return await self._thread.run(in_thread)

    def _prove(self, client: Any) -> None:
        store.prove_locks(client, self._bucket, f"{self._prefix}{PROBE}", self._now() + _PROBE)

    # --- one checkpoint

    def _largest(self, client: Any, directory: str) -> bytes | None:
        sizes = store.Sizes(client, self._bucket, directory)
        size = sizes.largest(above=0, below=MAX_TREE_SIZE + 1)
        if size is None:
            return None
        for version in self._versions_of(client, sizes.key(size))[0]:
            place = {"Bucket": self._bucket, "Key": sizes.key(size), "VersionId": version}
            return s3.read_body(client.get_object(**place), note.MAX_NOTE_BYTES + 1)
        return None

    def _place(self, checkpoint: PublishedCheckpoint) -> tuple[str, str]:
        """Where the log's checkpoints are, and the key of this one."""
        directory = f"{self._prefix}{quote(checkpoint.origin, safe='')}/"
        return directory, store.key_of(directory, checkpoint.size)

    async def _check_earlier(self, checkpoint: PublishedCheckpoint, *, least: int) -> None:
        found = await self._run(lambda client: self._newest(client, checkpoint, least))
        for held in found:
            await check_earlier(checkpoint, held)

    def _newest(
        self, client: Any, checkpoint: PublishedCheckpoint, least: int
    ) -> list[checkpoints.Checkpoint]:
        """All versions of the largest checkpoint that is smaller than ours, and of that size at
        least."""
        directory, _ = self._place(checkpoint)
        sizes = store.Sizes(client, self._bucket, directory)
        size = sizes.largest(above=least - 1, below=checkpoint.size)
        if size is None:
            return []
        key = sizes.key(size)
        held = []
        for version in self._versions_of(client, key)[0]:
            copy = client.get_object(Bucket=self._bucket, Key=key, VersionId=version)
            data = s3.read_body(copy, note.MAX_NOTE_BYTES + 1)
            held.append(read_held(data, key, checkpoint.origin))
            if held[-1].size != size:
                raise SinkIntegrityError(f"the checkpoint in {key} is of another tree size")
        return held

    def _refuse_later(self, client: Any, checkpoint: PublishedCheckpoint) -> None:
        directory, _ = self._place(checkpoint)
        sizes = store.Sizes(client, self._bucket, directory)
        found = next(sizes.versions(above=checkpoint.size), None)
        if found is not None:
            size, later = found
            raise SinkIntegrityError(
                f"there is a checkpoint larger than ours of {checkpoint.size} ({later.key}"
                f"{', which somebody deleted' if later.deleted else ''}): our log was rolled "
                "back, or somebody else writes there",
                held_size=0 if later.deleted else size,
            )

    def _holds(self, client: Any, checkpoint: PublishedCheckpoint) -> bool:
        self._refuse_later(client, checkpoint)
        directory, key = self._place(checkpoint)
        version, deleted = self._find(client, key, checkpoint)
        if version is not None:
            # Under a delete marker, too: that is no later checkpoint, and an alarm once it is ours
            # to anchor. A log is not held for it.
            return True
        if deleted:
            raise SinkError(f"s3: {key} was deleted, and nothing says which checkpoint it was")
        least = max(1, checkpoint.known_size)
        found = store.Sizes(client, self._bucket, directory).versions(above=least - 1)
        return any(not each.deleted for _, each in found)

    def _store(self, client: Any, checkpoint: PublishedCheckpoint) -> Evidence:
        from botocore.exceptions import ClientError

        _, key = self._place(checkpoint)
        until = self._now() + self._retention
        self._refuse_later(client, checkpoint)
        version = self._find_unmarked(client, key, checkpoint)
        if version is None:
            hold = {"ObjectLockLegalHoldStatus": "ON"} if self._legal_hold else {}
            try:
                version = client.put_object(
                    Bucket=self._bucket,
                    Key=key,
                    Body=checkpoint.note,
                    ContentType="text/plain; charset=utf-8",
                    ChecksumAlgorithm="SHA256",
                    ChecksumSHA256=store.checksum(checkpoint.note),
                    ObjectLockMode=store.MODE,
                    ObjectLockRetainUntilDate=until,
                    IfNoneMatch="*",
                    **hold,
                ).get("VersionId")
            except ClientError as error:
                if store.code_of(error) not in ("PreconditionFailed", "412"):
                    raise
                version = self._find_unmarked(client, key, checkpoint)
        if version in (None, "", "null"):
            raise SinkIntegrityError(f"the bucket keeps no versions any more: {key} has none")
        return self._evidence(client, key, str(version), checkpoint, until)

    def _find_unmarked(self, client: Any, key: str, checkpoint: PublishedCheckpoint) -> str | None:
        version, deleted = self._find(client, key, checkpoint)
        if deleted:
            raise SinkIntegrityError(
                f"somebody deleted {key}: under the delete marker is what there was"
            )
        return version

    def _find(
        self, client: Any, key: str, checkpoint: PublishedCheckpoint
    ) -> tuple[str | None, bool]:
        """The version that is there, if any, and whether a delete marker is over it.

        Raises:
            SinkIntegrityError: one of its versions is another checkpoint.
        """
        found, deleted = self._versions_of(client, key)
        for version in found:
            copy = client.get_object(Bucket=self._bucket, Key=key, VersionId=version)
            # One byte more than ours is enough to tell them apart.
            if s3.read_body(copy, len(checkpoint.note) + 1) != checkpoint.note:
                raise SinkIntegrityError(
                    f"another checkpoint of tree size {checkpoint.size} is there"
                )
        return (found[0] if found else None), deleted

    def _versions_of(self, client: Any, key: str) -> tuple[list[str], bool]:
        """The versions of a key, and whether a delete marker is over them."""
        found: list[str] = []
        deleted = False
        for each in store.versions(client, self._bucket, key):
            if each.key != key:
                break
            if each.deleted:
                deleted = True
                continue
            if len(found) == _MAX_VERSIONS:
                raise SinkIntegrityError(f"there are more than {_MAX_VERSIONS} versions of {key}")
            found.append(each.version_id)
        return found, deleted

    def _evidence(
        self,
        client: Any,
        key: str,
        version: str,
        checkpoint: PublishedCheckpoint,
        until: datetime,
    ) -> Evidence:
        """What the store says it holds, asked for anew."""
        place = {"Bucket": self._bucket, "Key": key, "VersionId": version}
        lock = self._lock(client, place)
        # One of an earlier attempt, or from before the sink was to hold longer: more is possible.
        short = lock.until is not None and lock.until < until
        if lock.mode == store.MODE and short:
            kept = {"Mode": store.MODE, "RetainUntilDate": until}
            client.put_object_retention(**place, Retention=kept)
        if self._legal_hold and not lock.legal_hold:
            client.put_object_legal_hold(**place, LegalHold={"Status": "ON"})
        if short or lock.legal_hold < self._legal_hold:
            lock = self._lock(client, place)
        if lock.mode != store.MODE or lock.until is None or lock.legal_hold < self._legal_hold:
            raise SinkIntegrityError(f"the object {key} is there, but not locked as it should be")
        if lock.until < until:
            raise SinkIntegrityError(
                f"the object {key} is locked until {lock.until:%Y-%m-%dT%H:%M:%SZ} only, and was "
                f"to be until {until:%Y-%m-%dT%H:%M:%SZ}"
            )
        return Evidence(
            KIND,
            jcs.encode(
                {
                    "v": "1",
                    "bucket": self._bucket,
                    "key": key,
                    "versionId": version,
                    "mode": store.MODE,
                    "retainUntilUnixS": str(int(lock.until.timestamp())),
                    "legalHold": lock.legal_hold,
                    "sha256": hashlib.sha256(checkpoint.note).hexdigest(),
                    "size": str(checkpoint.size),
                }
            ),
        )

    def _lock(self, client: Any, place: dict[str, str]) -> s3.Lock:
        found = client.head_object(**place)
        return s3.object_lock(client, place, found, legal_hold=self._legal_hold)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock() // 1_000_000_000, tz=UTC)


def _retention_days() -> int:
    text = os.environ.get("AUDIT_RETENTION_DAYS") or str(DEFAULT_RETENTION_DAYS)
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 36_500:
        raise ConfigError("AUDIT_RETENTION_DAYS: must be a number of days from 1 to 36500")
    return int(text)


def _boto3_client(endpoint: str | None, region: str | None, bounds: Bounds = _BOUNDS) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise ConfigError("sinks: s3 needs the extra: install provledger[aws]") from error
    config = Config(
        connect_timeout=TIMEOUT_S,
        read_timeout=TIMEOUT_S,
        # The relay tries again, and knows when.
        retries={"total_max_attempts": 1},
        s3={"addressing_style": "path"} if endpoint else {},
    )
    client = boto3.client("s3", endpoint_url=endpoint, region_name=region, config=config)
    return bind(client, bounds)
