"""The anchor's tiles in a bucket: what is durable before what, and answers that were lost."""

from __future__ import annotations

import itertools
import secrets
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from anchor_svc.bucketfiles import BucketFiles
from anchor_svc.lostlogs import LostLogs
from anchor_svc.openlog import OpenLog
from anchor_svc.sinks.file import FileSink
from anchor_svc.tilefiles import DirectoryFiles
from anchor_svc.tilestore import TileStore
from provledger.errors import DataLossError, FailedPreconditionError, UnavailableError
from provledger.logdirs import GIVEN_UP
from provledger.retry import RetryPolicy
from provledger.s3 import Bucket, BucketURI
from provledger.settings import ConfigError
from provledger_cli.tlog.logfiles import elsewhere
from tests.support import peers
from tests.support.anchoring import (
    LOG_UID,
    Ledger,
    eventually,
    open_storage,
    running_log,
    submit,
)
from tests.support.strict_store import strict_store
from tests.support.tiled import signed_checkpoint

SIZE = 601
QUICK = RetryPolicy(attempts=4, base_s=0.001, cap_s=0.002, budget_s=1.0)


@pytest.fixture(params=["strict", "minio"], scope="module")
def store(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[str]:
    if request.param == "strict":
        with strict_store() as (url, _):
            yield url
    else:
        with peers.minio_store(tmp_path_factory.mktemp("minio")) as url:
            yield url


class Client:
    """boto3's, and what happens to its calls: `fault(operation, count)` may raise.

    after: the fault comes after the store has done what it was told.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self.fault: Callable[[str, int], None] = lambda operation, count: None
        self.after = False
        self.calls: list[tuple[str, str]] = []
        self._count = itertools.count(1)

    def __getattr__(self, operation: str) -> Any:
        call = getattr(self._client, operation)
        if operation in ("close", "generate_presigned_url", "exceptions"):
            return call

        def wrapped(**arguments: Any) -> Any:
            self.calls.append((operation, str(arguments.get("Key", ""))))
            count = next(self._count)
            if not self.after:
                self.fault(operation, count)
            answer = call(**arguments)
            if self.after:
                self.fault(operation, count)
            return answer

        return wrapped


@pytest.fixture
def client(store: str) -> Client:
    return Client(peers.s3_client(store))


@pytest.fixture
def bucket(client: Client, store: str) -> Bucket:
    name = f"tiles-{secrets.token_hex(4)}"
    client.create_bucket(Bucket=name)
    return Bucket(BucketURI(name, "a/b", store), lambda uri: client, retry=QUICK)


@pytest.fixture
def files(bucket: Bucket) -> Iterator[BucketFiles]:
    with ThreadPoolExecutor(4) as threads:
        yield BucketFiles(bucket, LOG_UID, threads)


def away(operation: str, count: int) -> None:
    from botocore.exceptions import EndpointConnectionError

    raise EndpointConnectionError(endpoint_url="http://store")


def logging(
    tmp_path: Path, files: BucketFiles | None, name: str = "a", **given: Any
) -> AbstractAsyncContextManager[OpenLog]:
    database = f"sqlite:///{tmp_path}/{name}.db"
    return running_log(database, tmp_path / name, files=files, **given)


async def fill(log: OpenLog) -> None:
    ledger = Ledger()
    ledger.grow(SIZE - 1)
    for start, end in ((0, 100), (100, SIZE - 1)):
        await submit(log, ledger, start, end)
        await log.publisher.publish(log.state.signed_view())


async def test_a_bucket_holds_what_a_directory_would(
    tmp_path: Path, files: BucketFiles, bucket: Bucket
) -> None:
    async with logging(tmp_path, files) as in_bucket, logging(tmp_path, None, "b") as on_disk:
        await fill(in_bucket)
        await fill(on_disk)
        root = on_disk.store.root
        there = {
            str(path.relative_to(root)): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file() and "scratch" not in path.parts
        }
        # Level 0: two full tiles and a partial one; one above; bundles likewise; a checkpoint.
        assert len(there) == 8
        prefix = f"logs/{LOG_UID.hex()}/"
        found = {key.removeprefix(prefix) for key in bucket.keys(prefix)}
        assert found == there.keys()
        assert {path: files.read(path) for path in found} == there


async def test_a_log_goes_on_from_its_bucket(tmp_path: Path, files: BucketFiles) -> None:
    async with logging(tmp_path, files) as log:
        await fill(log)
    async with logging(tmp_path, files) as log:
        assert log.state.published_size == SIZE
        more = Ledger("more")
        more.grow(300)
        await submit(log, more)
        await log.publisher.publish(log.state.signed_view())
        assert log.state.published_size == SIZE + 300


async def test_a_database_older_than_its_bucket_is_noticed_and_read_beside_a_copy(
    tmp_path: Path, files: BucketFiles, bucket: Bucket, client: Client
) -> None:
    """What docs/runbooks/stale-restore.md says of tiles in a bucket."""
    ledger = Ledger()
    ledger.grow(400)

    def sink() -> FileSink:
        return FileSink.from_uri((tmp_path / "sink").as_uri())

    async with logging(tmp_path, files) as log:
        await submit(log, ledger, 0, 300)
        await log.publisher.publish(log.state.signed_view())
    shutil.copy2(tmp_path / "a.db", tmp_path / "old.db")
    of_then = files.read("checkpoint")
    assert of_then is not None
    async with logging(tmp_path, files, sinks=[sink()], background=True) as log:
        await submit(log, ledger, 300)
        await eventually(lambda: log.state.anchored_size == 401)

    before = {key: files.read(key) for key in ("checkpoint", "tile/0/000")}
    keys = sorted(bucket.keys(""))
    with pytest.raises(DataLossError) as caught:
        async with logging(tmp_path, files, "old"):
            pass
    assert caught.value.reason == "DATABASE_BEHIND"
    assert caught.value.metadata == {"publishedSize": "401", "storedSize": "301"}
    assert sorted(bucket.keys("")) == keys
    assert {key: files.read(key) for key in before} == before

    # A copy of the prefix, with the checkpoint's version of then, serves the old database.
    archive = Bucket(bucket.uri.join("archive"), lambda uri: client, retry=QUICK)
    for key in keys:
        data = files.read(key.removeprefix(f"logs/{LOG_UID.hex()}/"))
        archive.put_new(key, of_then if key.endswith("/checkpoint") else data or b"")
    with ThreadPoolExecutor(4) as threads:
        copied = BucketFiles(archive, LOG_UID, threads)
        async with logging(tmp_path, copied, "old", sinks=[sink()], background=True) as log:
            assert (await log.reader.inclusion(280, 0)).checkpoint.size == 301
            assert getattr(log.state.held, "reason", "") == "RESTORED_BEHIND"
            with pytest.raises(FailedPreconditionError):
                await submit(log, ledger, 300)
    assert copied.read("checkpoint") == of_then


async def test_a_log_without_a_row_is_found_in_its_bucket(
    tmp_path: Path, files: BucketFiles, bucket: Bucket, client: Client
) -> None:
    """But none that is another installation's, was never published, or was given up."""
    from botocore.exceptions import ClientError

    storage = open_storage(f"sqlite:///{tmp_path}/a.db")
    async with logging(tmp_path, files) as log:
        await fill(log)
    (prefix, _, _) = log.identity.origin.rpartition("/")
    uids = {name: name.encode() * 16 for name in "defg"}
    for name, path in (("d", "checkpoint"), ("e", "tile/0/000"), ("f", "checkpoint")):
        origin = f"{prefix if name == 'd' else 'elsewhere.test'}/{uids[name].hex()}"
        data = signed_checkpoint(origin, [b"one", b"two"])
        bucket.put_new(f"logs/{uids[name].hex()}/{path}", data)

    async def check() -> None:
        found = LostLogs(
            storage,
            tmp_path / "a",
            "provledger.other",
            SimpleNamespace(),
            [],
            bucket=bucket,
            could_miss=lambda uris: False,
            deadline_s=10.0,
            wait=False,
        )
        await found.find()
        found.check()

    with pytest.raises(DataLossError) as caught:
        await check()
    assert caught.value.reason == "DATABASE_BEHIND"
    directory = tmp_path / "a" / "logs" / uids["d"].hex()
    directory.mkdir()
    (directory / GIVEN_UP).touch()
    await check()
    bucket.put_new(f"logs/{uids['g'].hex()}/checkpoint", b"that nobody can read")
    with pytest.raises(DataLossError):
        await check()

    def refuse(operation: str, _count: int) -> None:
        if operation == "get_object" and uids["g"].hex() in client.calls[-1][1]:
            raise ClientError({"Error": {"Code": "AccessDenied"}}, "GetObject")

    client.fault = refuse
    await check()
    await storage.close()


async def test_an_answer_that_was_lost_is_recognised(
    tmp_path: Path, files: BucketFiles, client: Client
) -> None:
    """Failed but persisted, at every single write: tiles, partial ones and checkpoints."""
    from botocore.exceptions import ConnectionClosedError

    lost: list[str] = []

    def lose(operation: str, count: int) -> None:
        if operation == "put_object":
            lost.append(client.calls[-1][1])
            raise ConnectionClosedError(endpoint_url="http://store")

    client.after, client.fault = True, lose
    async with logging(tmp_path, files) as log:
        await fill(log)
        assert log.state.published_size == SIZE
    # Each was stored by the one request whose answer was lost.
    assert len(lost) == 11
    client.fault = lambda operation, count: None
    async with logging(tmp_path, files) as log:
        assert log.state.published_size == SIZE


async def test_a_store_that_is_away_stops_what_needs_it_and_is_waited_for(
    tmp_path: Path, files: BucketFiles, client: Client
) -> None:
    async with logging(tmp_path, files, background=True) as log:
        ledger = Ledger()
        ledger.grow(600)
        await submit(log, ledger, 0, 100)
        client.fault = away
        with pytest.raises(UnavailableError) as caught:
            await submit(log, ledger, 100, 600)
        assert caught.value.reason == "STORAGE_UNAVAILABLE"
        # Nothing that its tiles do not stand behind was signed, or seen.
        assert log.state.signed_size == 101
        client.fault = lambda operation, count: None
        await eventually(lambda: log.state.published_size == 601)
        assert (await submit(log, ledger, 100, 600)).tree_size == 601


async def test_no_checkpoint_is_published_before_its_tiles(
    tmp_path: Path, files: BucketFiles, client: Client
) -> None:
    async with logging(tmp_path, files) as log:
        await fill(log)
    puts = [key.rpartition(f"{LOG_UID.hex()}/")[2] for name, key in client.calls if "put" in name]
    first, second = (at for at, key in enumerate(puts) if key == "checkpoint")
    assert set(puts[:first]) == {"tile/0/000.p/101", "tile/entries/000.p/101"}
    assert {"tile/0/000", "tile/0/001", "tile/0/002.p/89", "tile/1/000.p/2"} <= set(puts[:second])


async def test_a_tile_of_other_content_is_never_replaced(
    tmp_path: Path, files: BucketFiles
) -> None:
    """It is of another history: an older database was put back, or somebody else writes there."""
    files.write([("tile/0/000", b"\1" * 8192)])
    async with logging(tmp_path, files) as log:
        ledger = Ledger()
        ledger.grow(300)
        with pytest.raises(DataLossError) as caught:
            await submit(log, ledger)
        assert caught.value.metadata == {"tile": "tile/0/000"}
        assert log.state.signed_size == 1
    assert files.read("tile/0/000") == b"\1" * 8192
    files.write([("tile/0/000", b"\1" * 8192)])


def test_an_older_checkpoint_never_replaces_a_newer_one(files: BucketFiles, bucket: Bucket) -> None:
    """A request of a process that was fenced may be under way for long."""
    entries = [b"%d" % number for number in range(3)]
    one, two, three = (signed_checkpoint("log.test", entries[:size]) for size in (1, 2, 3))
    with ThreadPoolExecutor(1) as threads:
        successor = BucketFiles(bucket, LOG_UID, threads)
        files.replace_checkpoint(one)
        successor.replace_checkpoint(one)
        successor.replace_checkpoint(two)
        with pytest.raises(UnavailableError) as caught:
            files.replace_checkpoint(one)
        assert caught.value.reason == "CHECKPOINT_OVERTAKEN"
        assert files.read("checkpoint") == two
        # Somebody wrote an older one back: the newer one is put there again.
        files.replace_checkpoint(three)
        assert successor.read("checkpoint") == three


def test_a_damaged_upload_is_refused(bucket: Bucket, client: Client) -> None:
    inner = client._client

    class Damaging:
        def __getattr__(self, name: str) -> Any:
            return getattr(inner, name)

        def put_object(self, **arguments: Any) -> Any:
            return inner.put_object(**(arguments | {"Body": b"damaged"}))

    damaging = Bucket(bucket.uri, lambda uri: Damaging(), retry=QUICK)
    with pytest.raises(UnavailableError):
        damaging.put_new("x", b"whole")
    assert bucket.get("x", max_bytes=10) is None


def test_both_places_keep_the_contract(files: BucketFiles, tmp_path: Path) -> None:
    for place in (files, DirectoryFiles(tmp_path)):
        place.open()
        assert place.read("tile/0/000") is None
        assert place.read("checkpoint") is None
        place.write([("tile/0/000.p/2", b"a" * 64), ("tile/0/000.p/3", b"b" * 96)])
        place.write([("tile/0/000.p/2", b"a" * 64), ("tile/0/000", b"c" * 8192)])
        assert place.read("tile/0/000.p/3") == b"b" * 96
        place.drop_partials("tile/0/000")
        place.drop_partials("tile/0/001")
        assert place.read("tile/0/000.p/2") is None
        assert place.read("tile/0/000") == b"c" * 8192


@pytest.mark.parametrize(
    "uri",
    [
        "s3://",
        "https://bucket/x",
        "s3://user@bucket/x",
        "s3://bucket/x?mode=COMPLIANCE",
        "s3://bucket/x?region=a&region=b",
        "s3://bucket/x?endpoint=http://store.example",
        "s3://bucket/x?endpoint=https://u:p@store.example",
        "s3://bucket/x#y",
    ],
)
def test_what_is_no_place_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match="tile_store: "):
        BucketURI.parse(uri, "tile_store")


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket",
        "s3://bucket/a/b",
        "s3://bucket/a?endpoint=http://127.0.0.1:9000",
        "s3://bucket/a?endpoint=https://store.example&region=eu-west-1",
    ],
)
def test_a_place_is_written_as_it_is_read(uri: str) -> None:
    place = BucketURI.parse(uri, "tile_store")
    assert place.text == uri
    assert BucketURI.parse(place.join("logs/1").text, "x") == place.join("logs/1")


def test_the_directory_says_where_the_files_are(tmp_path: Path, files: BucketFiles) -> None:
    store = TileStore(tmp_path, LOG_UID, files)
    store.open()
    assert elsewhere(store.root) == files.elsewhere
    assert files.elsewhere.partition("?")[0].endswith(f"/a/b/logs/{LOG_UID.hex()}")
    TileStore(tmp_path, LOG_UID).open()
    assert elsewhere(store.root) == ""
