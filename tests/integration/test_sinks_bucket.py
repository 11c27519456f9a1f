"""Locked buckets that are hard: what is hidden, locked too shortly, or not allowed to us."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from anchor_svc.sinks import (
    Evidence,
    SinkError,
    SinkIntegrityError,
    SinkPermissionError,
    s3_store,
)
from tests.conformance.sink_suite import LOG, OTHER, published
from tests.integration.test_sinks import BucketPlace
from tests.support import peers
from tests.support.strict_store import StrictStore, strict_store

pytestmark = pytest.mark.timeout(60)

DAY_S = 86_400


@pytest.fixture(scope="module")
def strict() -> Iterator[tuple[str, StrictStore]]:
    with strict_store() as found:
        yield found


@pytest.fixture(params=["strict", "minio"], scope="module")
def url(request: pytest.FixtureRequest, strict: Any, tmp_path_factory: Any) -> Iterator[str]:
    if request.param == "strict":
        yield strict[0]
    else:
        with peers.minio_store(tmp_path_factory.mktemp("minio")) as url:
            yield url


@pytest.fixture
def place(url: str) -> BucketPlace:
    return BucketPlace(url)


@pytest.fixture
def store(strict: tuple[str, StrictStore]) -> Iterator[StrictStore]:
    yield strict[1]
    strict[1].be_good()


@pytest.fixture
def hard(strict: tuple[str, StrictStore]) -> BucketPlace:
    """In the store that can be made hard to work with."""
    return BucketPlace(strict[0])


def at(place: BucketPlace, size: int) -> dict[str, str]:
    return {
        "Bucket": place.bucket,
        "Key": f"a/b/log.test%2Fsinks/{size:020}.checkpoint",
    }


def until_s(evidence: Evidence) -> int:
    return int(json.loads(evidence.data)["retainUntilUnixS"])


# --- what is hidden ------------------------------------------------------------------------------


async def test_a_larger_checkpoint_under_a_delete_marker_is_remembered(place: BucketPlace) -> None:
    """No lock keeps a marker off, and a lifecycle rule lays one just so."""
    sink = place.open()
    await sink.anchor(published(7))
    await sink.anchor(published(20))
    place.client.delete_object(**at(place, 20))
    for stale in (published(7), published(10), published(7, log=OTHER)):
        with pytest.raises(SinkIntegrityError, match="larger than ours") as caught:
            await place.open().holds(stale)
        assert caught.value.held_size == 0
        with pytest.raises(SinkIntegrityError, match="rolled back"):
            await place.open().anchor(stale)


async def test_no_second_history_beside_one_under_a_delete_marker(place: BucketPlace) -> None:
    sink = place.open()
    await sink.anchor(published(20))
    marker = place.client.delete_object(**at(place, 20))["VersionId"]
    for ask in (sink.anchor, sink.holds):
        with pytest.raises(SinkIntegrityError, match="another checkpoint"):
            await ask(published(20, log=OTHER))
    with pytest.raises(SinkIntegrityError, match="somebody deleted"):
        await sink.anchor(published(20))
    # It is there all the same, and the newest: no reason to hold the log at its next start.
    assert await sink.holds(published(20))
    found = place.client.list_object_versions(Bucket=place.bucket, Prefix=at(place, 20)["Key"])
    assert len(found["Versions"]) == 1
    # What the runbook says: without the marker, all is as it was.
    place.client.delete_object(**at(place, 20), VersionId=marker)
    await sink.anchor(published(20))
    assert await sink.holds(published(20))


async def test_what_was_deleted_without_a_trace_says_nothing(place: BucketPlace) -> None:
    """Once its lock is over, it can be: no later checkpoint, and none that confirms ours."""
    put = place.client.put_object(**at(place, 7), Body=LOG.checkpoint(7))
    place.client.delete_object(**at(place, 7))
    place.client.delete_object(**at(place, 7), VersionId=put["VersionId"])
    with pytest.raises(SinkError, match="which checkpoint") as caught:
        await place.open().holds(published(7))
    assert type(caught.value) is SinkError
    with pytest.raises(SinkIntegrityError, match="somebody deleted"):
        await place.open().anchor(published(7))


async def test_another_history_under_ours_is_an_alarm(place: BucketPlace) -> None:
    for log in (OTHER, LOG):
        place.client.put_object(**at(place, 7), Body=log.checkpoint(7))
    for ask in (place.open().anchor, place.open().holds):
        with pytest.raises(SinkIntegrityError, match="another checkpoint"):
            await ask(published(7))


async def test_a_smaller_one_that_is_there_confirms_and_a_marker_alone_does_not(
    place: BucketPlace,
) -> None:
    put = place.client.put_object(**at(place, 5), Body=LOG.checkpoint(5))
    assert await place.open().holds(published(9))
    place.client.delete_object(**at(place, 5))
    assert await place.open().holds(published(9))
    place.client.delete_object(**at(place, 5), VersionId=put["VersionId"])
    assert not await place.open().holds(published(9))


@pytest.mark.parametrize(
    "name",
    ["", "README", f"{7:020} (copy).checkpoint", "0.txt", f"{5:020}.txt", f"of/{9:020}.checkpoint"],
)
async def test_objects_of_others_are_no_checkpoints(place: BucketPlace, name: str) -> None:
    """Such as the one that a console makes for a folder, and the marker that deletes one."""
    sink = place.open()
    key = {"Bucket": place.bucket, "Key": f"a/b/log.test%2Fsinks/{name}"}
    place.client.put_object(**key, Body=b"")
    assert not await sink.holds(published(5))
    assert not await sink.holds(published(7, known_size=5))
    await sink.anchor(published(5))
    for _ in range(2):
        assert await sink.holds(published(7, known_size=5))
        assert not await sink.holds(published(7, known_size=6))
        place.client.delete_object(**key)
    await sink.anchor(published(7, known_size=5))


@pytest.mark.parametrize("data", [b"", OTHER.checkpoint(5)])
@pytest.mark.parametrize("known_size", [0, 4, 5])
async def test_nothing_confirms_that_is_no_checkpoint_of_ours(
    place: BucketPlace, data: bytes, known_size: int
) -> None:
    """Also at the size that it once took."""
    await place.open().anchor(published(5))
    assert await place.open().holds(published(7, known_size=known_size))
    place.client.put_object(**at(place, 5), Body=data)
    with pytest.raises(SinkIntegrityError, match=r"cannot be read|no part of ours"):
        await place.open().holds(published(7, known_size=known_size))


@pytest.mark.parametrize("page", [1, 2])
async def test_versions_come_in_pages(hard: BucketPlace, store: StrictStore, page: int) -> None:
    for log in (OTHER, LOG, LOG):
        hard.client.put_object(**at(hard, 7), Body=log.checkpoint(7))
    for size in (1, 2, 3):
        hard.client.put_object(**at(hard, size), Body=LOG.checkpoint(size))
        hard.client.delete_object(**at(hard, size))
    store.page = page
    with pytest.raises(SinkIntegrityError, match="another checkpoint"):
        await hard.open().holds(published(7))
    with pytest.raises(SinkIntegrityError, match="7 that is no part of ours"):
        await hard.open().holds(published(8))
    with pytest.raises(SinkIntegrityError, match="7 that is no part of ours"):
        await hard.open().holds(published(8, known_size=7))
    with pytest.raises(SinkIntegrityError, match="larger than ours"):
        await hard.open().holds(published(3))


@pytest.mark.parametrize("page", [1, 1000])
async def test_the_largest_of_many_is_compared(
    hard: BucketPlace,
    store: StrictStore,
    monkeypatch: pytest.MonkeyPatch,
    page: int,
) -> None:
    """A store lists forwards only."""
    monkeypatch.setattr(s3_store, "_PAGE_SIZES", 4)
    store.page = page
    for size in (*range(1, 12), 20, 21, 29, 31):
        hard.client.put_object(**at(hard, size), Body=LOG.checkpoint(size))
    directory = at(hard, 1)["Key"].rsplit("/", 1)[0]
    for key in ("0", "note", "9" * 20 + ".checkpoint.old"):
        hard.client.put_object(Bucket=hard.bucket, Key=f"{directory}/{key}", Body=b"")
    sizes = s3_store.Sizes(hard.client, hard.bucket, f"{directory}/")
    for above, below, largest in (
        *((0, 10**6, 31), (31, 10**6, None), (30, 10**6, 31), (0, 31, 29), (0, 12, 11)),
        *((11, 20, None), (11, 21, 20), (0, 1, None), (29, 30, None), (0, 2, 1)),
    ):
        assert sizes.largest(above=above, below=below) == largest


async def test_more_versions_than_anybody_makes_are_an_alarm(
    hard: BucketPlace, store: StrictStore
) -> None:
    for _ in range(17):
        hard.client.put_object(**at(hard, 7), Body=LOG.checkpoint(7))
    with pytest.raises(SinkIntegrityError, match="versions"):
        await hard.open().anchor(published(7))
    store.page = 1
    with pytest.raises(SinkError, match="more versions"):
        await hard.open().anchor(published(7))


# --- for how long --------------------------------------------------------------------------------


async def test_a_lock_that_is_shorter_than_asked_is_an_alarm(
    hard: BucketPlace, store: StrictStore
) -> None:
    """Also when it is found there by the next attempt."""
    store.locks_s = 60
    sink = hard.open()
    for _ in range(2):
        with pytest.raises(SinkIntegrityError, match="locked until"):
            await sink.anchor(published(7))
    store.be_good()
    evidence = await sink.anchor(published(7))
    assert abs(until_s(evidence) - time.time() - 365 * DAY_S) < 120


async def test_what_was_locked_too_shortly_is_locked_anew(place: BucketPlace) -> None:
    """As if it was stored now: by an earlier setting, or long ago."""
    earlier = place.open()
    earlier._retention = earlier._retention / 36
    first = await earlier.anchor(published(7))
    later = place.open()
    later._clock = lambda: (until_s(first) + DAY_S) * 1_000_000_000
    second = await later.anchor(published(7))
    assert until_s(second) == until_s(first) + DAY_S + 365 * DAY_S
    assert json.loads(second.data)["versionId"] == json.loads(first.data)["versionId"]
    # A longer one stays, and is said.
    assert until_s(await place.open().anchor(published(7))) == until_s(second)


async def test_a_copy_without_a_lock_is_an_alarm(place: BucketPlace) -> None:
    place.client.put_object(**at(place, 7), Body=LOG.checkpoint(7))
    with pytest.raises(SinkIntegrityError, match="not locked"):
        await place.open().anchor(published(7))


async def test_a_hold_that_was_turned_on_later_is_set(url: str) -> None:
    place = BucketPlace(url)
    assert json.loads((await place.open().anchor(published(7))).data)["legalHold"] is False
    place.uri += "&legal_hold=on"
    for size in (7, 9):
        evidence = json.loads((await place.open().anchor(published(size))).data)
        assert evidence["legalHold"] is True
        held = place.client.get_object_legal_hold(**at(place, size))
        assert held["LegalHold"]["Status"] == "ON"


# --- what is not allowed -------------------------------------------------------------------------

CHECKED = [
    "s3:DeleteObject",
    "s3:DeleteObjectVersion",
    "s3:GetBucketObjectLockConfiguration",
    "s3:GetBucketVersioning",
    "s3:GetObjectVersion",
    "s3:ListBucketVersions",
    "s3:PutObject",
    "s3:PutObjectRetention",
]


@pytest.mark.parametrize("action", CHECKED)
async def test_a_missing_permission_is_named_and_nothing_passes(
    hard: BucketPlace, store: StrictStore, action: str
) -> None:
    sink = hard.open()
    for _ in range(3):
        store.denied = {action}
        for ask in (sink.check, lambda: sink.anchor(published(7))):
            with pytest.raises(SinkPermissionError) as caught:
                await ask()
            if action == "s3:GetObjectVersion":  # asked by HEAD, which says nothing
                assert action in caught.value.permission
            else:
                assert caught.value.permission == action
        store.be_good()
        if action.startswith("s3:Delete"):  # what is locked stays: not one more each minute
            left = hard.client.list_object_versions(Bucket=hard.bucket)
            assert len(left["Versions"]) + len(left.get("DeleteMarkers", [])) <= 2
    await sink.check()
    assert (await sink.anchor(published(7))).kind == "s3-object-lock"


@pytest.mark.parametrize(
    "action",
    [
        "s3:GetObjectRetention",
        "s3:GetObjectLegalHold",
        "s3:GetObjectVersion",
        "s3:ListBucketVersions",
        "s3:PutObjectLegalHold",
    ],
)
async def test_a_permission_that_is_taken_away_later_is_named(
    hard: BucketPlace, store: StrictStore, action: str
) -> None:
    hard.uri += "&legal_hold=on"
    sink = hard.open()
    await sink.check()
    store.denied = {action}
    with pytest.raises(SinkPermissionError) as caught:
        await sink.anchor(published(7))
    assert action in caught.value.permission
    if action == "s3:ListBucketVersions":
        with pytest.raises(SinkPermissionError):
            await sink.holds(published(7))
    store.be_good()
    assert json.loads((await sink.anchor(published(7))).data)["legalHold"] is True


class Refusing:
    """A client whose deletes are refused, by whom is not said."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def delete_object(self, **_: Any) -> Any:
        from botocore.exceptions import ClientError

        raise ClientError({"Error": {"Code": "AccessDenied"}}, "DeleteObject")


async def test_a_refusal_that_is_not_of_the_lock_proves_nothing(hard: BucketPlace) -> None:
    sink = hard.open()
    sink._connect = lambda: Refusing(hard.client)
    with pytest.raises(SinkPermissionError, match="s3:DeleteObjectVersion"):
        await sink.check()


class WithoutVersions:
    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def put_object(self, **given: Any) -> Any:
        answer = self._client.put_object(**given)
        return {name: value for name, value in answer.items() if name != "VersionId"}


async def test_a_bucket_that_stopped_keeping_versions_is_an_alarm(hard: BucketPlace) -> None:
    sink = hard.open()
    await sink.check()
    sink._client = WithoutVersions(hard.client)
    with pytest.raises(SinkIntegrityError, match="keeps no versions"):
        await sink.anchor(published(7))
