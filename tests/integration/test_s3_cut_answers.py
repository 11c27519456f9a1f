"""A store's answer that ends in the middle is lost: asked for again, and never taken as it is."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from anchor_svc.bucketfiles import BucketFiles
from anchor_svc.sinks import SinkError
from anchor_svc.sinks.s3 import S3Sink
from provledger.errors import UnavailableError
from provledger.outside import ObjectLock
from provledger.retry import RetryPolicy
from provledger.s3 import Bucket, BucketURI
from provledger_cli.failures import CommandError
from provledger_cli.tlog.logfiles import BucketFiles as ReadFiles
from provledger_cli.verifying.trust import ask_s3
from tests.conformance.sink_suite import LOG, published
from tests.support import peers
from tests.support.anchoring import LOG_UID
from tests.support.strict_store import StrictStore, strict_store

QUICK = RetryPolicy(attempts=4, base_s=0.001, cap_s=0.002, budget_s=1.0)
ONCE = dataclasses.replace(QUICK, attempts=1)
TILE = bytes(range(256)) * 32


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[str, StrictStore]]:
    with strict_store() as found:
        peers.s3_client(found[0]).create_bucket(Bucket="cut", ObjectLockEnabledForBucket=True)
        yield found


@pytest.fixture
def store(running: tuple[str, StrictStore]) -> Iterator[StrictStore]:
    yield running[1]
    running[1].cut.clear()


@pytest.fixture
def client(running: tuple[str, StrictStore]) -> Any:
    return peers.s3_client(running[0])


def bucket(client: Any, retry: RetryPolicy = QUICK) -> Bucket:
    return Bucket(BucketURI("cut", "log"), lambda uri: client, retry=retry)


@pytest.mark.parametrize("max_bytes", [10**7, len(TILE), len(TILE) // 2 + 1])
def test_an_object_that_was_cut_is_asked_for_again(
    client: Any, store: StrictStore, max_bytes: int
) -> None:
    files = bucket(client)
    files.put_new("tile/0/001", TILE)
    store.cut.add("log/tile/0/001")
    found = files.get("tile/0/001", max_bytes=max_bytes)
    assert found is not None
    assert found.data == TILE[:max_bytes]
    store.cut.add("log/tile/0/001")
    piece = files.get_piece("tile/0/001", 96, 1000)
    assert piece is not None
    assert (piece.data, piece.total) == (TILE[96:1096], len(TILE))
    assert store.cut == set()


def test_what_is_cut_every_time_is_away(client: Any, store: StrictStore) -> None:
    files = bucket(client, ONCE)
    files.put_new("tile/0/002", TILE)
    for read in (
        lambda: files.get("tile/0/002", max_bytes=10**7),
        lambda: files.get_piece("tile/0/002", 0, 8192),
        lambda: ReadFiles(files, "s3://cut/log").read("tile/0/002"),
    ):
        store.cut.add("log/tile/0/002")
        with pytest.raises(UnavailableError) as caught:
            read()
        assert caught.value.reason == "STORAGE_UNAVAILABLE"


def test_a_cut_checkpoint_gives_way_to_no_older_one(client: Any, store: StrictStore) -> None:
    """What cannot be read is replaced; half of an answer cannot be read."""
    key = f"logs/{LOG_UID.hex()}/checkpoint"
    with ThreadPoolExecutor(1) as threads:
        files = BucketFiles(bucket(client), LOG_UID, threads)
        files.replace_checkpoint(LOG.checkpoint(9))
        store.cut.add(f"log/{key}")
        with pytest.raises(UnavailableError) as caught:
            BucketFiles(bucket(client), LOG_UID, threads).replace_checkpoint(LOG.checkpoint(7))
        assert caught.value.reason == "CHECKPOINT_OVERTAKEN"
        assert files.read("checkpoint") == LOG.checkpoint(9)


async def test_a_locked_copy_that_was_cut_is_no_other_checkpoint(
    client: Any, store: StrictStore
) -> None:
    sink = S3Sink("s3://cut", "cut", "a", lambda: client)
    evidence = await sink.anchor(published(7))
    store.cut.add("a/log.test%2Fsinks/00000000000000000007.checkpoint")
    with pytest.raises(SinkError) as caught:
        await sink.holds(published(7))
    assert type(caught.value) is SinkError
    assert await sink.holds(published(7))
    assert (await sink.anchor(published(7))).kind == evidence.kind
    await sink.close()


def test_a_cut_copy_is_not_known_and_never_denied(client: Any, store: StrictStore) -> None:
    until = datetime.now(UTC) + timedelta(days=9)
    signed = LOG.checkpoint(7)
    put = client.put_object(
        Bucket="cut",
        Key="copy",
        Body=signed,
        ObjectLockMode="COMPLIANCE",
        ObjectLockRetainUntilDate=until,
    )
    digest = hashlib.sha256(signed).hexdigest()
    until_s = int(until.timestamp())
    lock = ObjectLock(
        "cut", "copy", put["VersionId"], "COMPLIANCE", until_s, False, digest, len(signed)
    )
    store.cut.add("copy")
    with pytest.raises(CommandError, match="cannot be asked"):
        ask_s3(client)(lock, signed)
    ask_s3(client)(lock, signed)
