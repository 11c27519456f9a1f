"""Every sink against the suite, and against what goes wrong with it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from anchor_svc.opening import open_sinks
from anchor_svc.sinks import (
    AnchorSink,
    PublishedCheckpoint,
    SinkError,
    SinkIntegrityError,
    open_sink,
)
from anchor_svc.sinks.s3 import S3Sink
from notary_svc.signing import Cosigner
from provledger import jcs, note, timestamp
from provledger.errors import VerificationError
from provledger.policy import parse_policy
from provledger.settings import ConfigError
from tests.conformance.sink_suite import LOG, SinkSuite, published
from tests.support import peers
from tests.support.notary import NOTARY, TinyLog, running_notary
from tests.support.strict_store import strict_store

pytestmark = pytest.mark.timeout(60)


class TestFile(SinkSuite):
    class Place:
        def __init__(self, directory: Path) -> None:
            self.directory = directory

        def open(self) -> AnchorSink:
            return open_sink(f"file://{self.directory}")

        def verify(self, checkpoint: PublishedCheckpoint, kind: str, evidence: bytes) -> None:
            value: Any = jcs.parse(evidence)
            assert (self.directory / value["name"]).read_bytes() == (checkpoint.note)

    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        return self.Place(tmp_path / "anchors")


# --- cosigners -----------------------------------------------------------------------------------


class CosignerPlace:
    def __init__(self, url: str, vkeys: list[str]) -> None:
        self.url = url
        self.vkeys = vkeys

    def open(self) -> AnchorSink:
        keys = "".join(f"&vkey={quote(vkey, safe='')}" for vkey in self.vkeys)
        return open_sink(f"{self.url}?protocol=tlog-witness{keys}")

    def verify(self, checkpoint: PublishedCheckpoint, kind: str, evidence: bytes) -> None:
        assert kind == "tlog-cosignature"
        opened = note.open(evidence, [LOG.vkey, *self.vkeys])
        assert len(opened.signatures) == 1 + len(self.vkeys)
        assert opened.unverified == ()
        assert opened.text == note.parse(checkpoint.note).text


class TestCosigner(SinkSuite):
    @pytest.fixture
    async def place(self, tmp_path: Path) -> AsyncIterator[CosignerPlace]:
        async with running_notary(tmp_path, [LOG]) as address:
            yield CosignerPlace(f"http://{address}", Cosigner.open(NOTARY, tmp_path / "data").vkeys)

    async def test_larger_size_than_ours_is_an_alarm(self, place: CosignerPlace) -> None:
        await place.open().anchor(published(9))
        with pytest.raises(SinkIntegrityError, match="rolled back"):
            await place.open().anchor(published(7))

    async def test_another_history_is_an_alarm(self, place: CosignerPlace) -> None:
        await place.open().anchor(published(7))
        fork = TinyLog(LOG.origin, fork_at=3)
        for size in (7, 9):
            with pytest.raises(SinkIntegrityError):
                await place.open().anchor(published(size, log=fork))


@pytest.fixture
def cosigner(tmp_path: Path) -> Cosigner:
    return Cosigner.open(NOTARY, tmp_path)


def _cosign(cosigner: Cosigner, size: int = 7) -> bytes:
    return b"".join(cosigner.cosign(note.parse(LOG.checkpoint(size)).text, 1))


@pytest.mark.parametrize(
    ("reply", "error", "retry_after_s"),
    [
        ((429, {"Retry-After": "7"}, b""), SinkError, 7.0),
        ((503, {"Retry-After": "soon"}, b""), SinkError, None),
        ((500, {}, b"oops"), SinkError, None),
        ((200, {}, b"garbage"), SinkError, None),
        ((200, {}, b""), SinkError, None),
        ((200, {}, b"\xff" * 100), SinkError, None),
        ((200, {}, b"x" * 100_000), SinkError, None),
        ((200, {"Content-Length": "500"}, b"killed in the middle"), SinkError, None),
        ((302, {"Location": "http://127.0.0.1:1/"}, b""), SinkError, None),
        ((404, {}, b"who?"), SinkError, None),
        ((403, {}, b"no"), SinkError, None),
        ((409, {}, b"9\n"), SinkIntegrityError, None),
        ((409, {}, b"0\n"), SinkError, None),
        ((409, {}, b"nine\n"), SinkError, None),
        ((409, {}, b""), SinkError, None),
        ((422, {}, b""), SinkIntegrityError, None),
        (None, SinkError, None),
    ],
)
async def test_cosigner_that_answers_otherwise(
    cosigner: Cosigner, reply: peers.Reply | None, error: type, retry_after_s: float | None
) -> None:
    with peers.scripted(lambda path, body: reply) as server:
        with pytest.raises(SinkError) as caught:
            await CosignerPlace(server.url, cosigner.vkeys).open().anchor(published(7))
        assert type(caught.value) is error
        assert caught.value.retry_after_s == retry_after_s
        assert len(server.requests) <= 2


async def test_409_without_a_size_at_our_own_size_is_an_alarm(cosigner: Cosigner) -> None:
    """As deployed cosigners answer for another root of the same size."""
    with peers.scripted(lambda path, body: (409, {}, b"")) as server:
        with pytest.raises(SinkIntegrityError):
            await CosignerPlace(server.url, cosigner.vkeys).open().anchor(published(7, 7))


async def test_409_with_a_smaller_size_is_answered_with_a_proof_from_there(
    cosigner: Cosigner,
) -> None:
    def answer(path: str, body: bytes) -> peers.Reply:
        if body.startswith(b"old 4\n"):
            return 200, {}, _cosign(cosigner)
        return 409, {"Content-Type": "text/x.tlog.size"}, b"4\n"

    with peers.scripted(answer) as server:
        place = CosignerPlace(server.url + "/a/prefix/", cosigner.vkeys)
        evidence = await place.open().anchor(published(7, known_size=6))
    place.verify(published(7), evidence.kind, evidence.data)
    assert [body[:6] for body in server.requests] == [b"old 6\n", b"old 4\n"]


async def test_size_that_was_never_ours_is_an_alarm(cosigner: Cosigner) -> None:
    from provledger.errors import NotFoundError

    async def prove(old_size: int) -> list[bytes]:
        raise NotFoundError("CHECKPOINT_NOT_FOUND", "never signed")

    checkpoint = PublishedCheckpoint(LOG.origin, 7, LOG.root(7), LOG.checkpoint(7), 0, prove)
    with peers.scripted(lambda path, body: (409, {}, b"4\n")) as server:
        with pytest.raises(SinkIntegrityError, match="never signed"):
            await CosignerPlace(server.url, cosigner.vkeys).open().anchor(checkpoint)


async def test_lines_of_others_are_not_sent_and_not_kept(
    cosigner: Cosigner, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = Cosigner.open("other.test", tmp_path / "other")
    own = _cosign(cosigner)
    lines = own + _cosign(other)
    crowded = PublishedCheckpoint(LOG.origin, 7, LOG.root(7), LOG.checkpoint(7) + _cosign(other))
    with peers.scripted(lambda path, body: (200, {}, lines)) as server:
        place = CosignerPlace(server.url, cosigner.vkeys)
        evidence = await place.open().anchor(crowded)
        assert b"other.test" not in server.requests[0]
        assert evidence.data == LOG.checkpoint(7) + own


@pytest.mark.parametrize("which", ["other checkpoint", "more text", "wrong", "only others"])
async def test_cosignatures_that_do_not_verify_are_refused(
    cosigner: Cosigner, tmp_path: Path, which: str
) -> None:
    (tmp_path / "other").mkdir()
    lines = {
        "other checkpoint": _cosign(cosigner, 8),
        "more text": b"\nmore\n\n" + _cosign(cosigner),
        "wrong": note.signature_line(NOTARY, sorted(cosigner.names)[0][1], bytes(72)),
        "only others": _cosign(Cosigner.open("other.test", tmp_path / "other")),
    }[which]
    with peers.scripted(lambda path, body: (200, {}, lines)) as server:
        with pytest.raises(SinkError):
            await CosignerPlace(server.url, cosigner.vkeys).open().anchor(published(7))


async def test_cosigner_that_is_late_counts_once_it_answers(cosigner: Cosigner) -> None:
    """The attempt is given up on; what it did there shows when the next one comes."""
    import threading

    go_on = threading.Event()

    def answer(path: str, body: bytes) -> peers.Reply:
        if len(server.requests) == 1:
            go_on.wait(10)
        return 200, {}, _cosign(cosigner)

    with peers.scripted(answer) as server:
        sink = CosignerPlace(server.url, cosigner.vkeys).open()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await sink.anchor(published(7))
        go_on.set()
        assert (await sink.anchor(published(7))).kind == "tlog-cosignature"
        await sink.close()


def test_cosigners_of_a_policy_become_sinks(cosigner: Cosigner) -> None:
    ed, ml = cosigner.vkeys
    text = f"witness a {ed} https://a.test/x\nwitness b {ml} https://a.test/x/\n"
    (sink,) = open_sinks([], parse_policy(f"{text}group both all a b\nquorum both\n".encode()))
    assert sink.uri == "https://a.test/x?protocol=tlog-witness"
    with pytest.raises(ConfigError, match="never be met"):
        open_sinks([], parse_policy(f"witness a {ed}\nquorum a\n".encode()))


@pytest.mark.parametrize(
    "uri",
    [
        "http://example.com?protocol=tlog-witness",
        "https://example.com",
        "https://example.com?protocol=tlog-witness",
        "https://example.com?protocol=tlog-witness&vkey=hello",
        f"https://example.com?protocol=tlog-witness&vkey={quote(LOG.vkey)}",
        "https://example.com?protocol=smtp",
        "https://user:secret@example.com?protocol=tlog-witness",
        "https://example.com?protocol=rfc3161",
        "https://example.com?protocol=rfc3161&cert=/missing&chain=/missing",
        "https://[::1?protocol=rfc3161",
        "s3://bucket/prefix",
        "s3://bucket/prefix?mode=GOVERNANCE",
        "s3://bucket/prefix?mode=COMPLIANCE&more=x",
        "s3://bucket/prefix?mode=COMPLIANCE&mode=COMPLIANCE",
        "s3://bucket?mode=COMPLIANCE&endpoint=http://example.com",
        "s3:///prefix?mode=COMPLIANCE",
    ],
)
def test_bad_uris_are_refused(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AUDIT_BUCKET", raising=False)
    with pytest.raises(ConfigError, match="sinks"):
        open_sink(uri)


# --- timestamp authorities -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> peers.OpenSSLAuthority:
    return peers.OpenSSLAuthority(tmp_path_factory.mktemp("tsa"))


class AuthorityPlace:
    def __init__(self, url: str, authority: peers.OpenSSLAuthority) -> None:
        self.url = url
        self.authority = authority

    def open(self) -> AnchorSink:
        files = f"cert={self.authority.cert}&chain={self.authority.chain}"
        return open_sink(f"{self.url}/tsr?protocol=rfc3161&{files}")

    def verify(self, checkpoint: PublishedCheckpoint, kind: str, evidence: bytes) -> None:
        """OpenSSL itself verifies the token we keep."""
        assert kind == "rfc3161"
        token = timestamp.parse_evidence(evidence)
        message = timestamp.imprint_message(checkpoint.note, checkpoint.origin)
        self.authority.verify(message, token.response)


class TestAuthority(SinkSuite):
    @pytest.fixture
    def place(self, authority: peers.OpenSSLAuthority) -> Iterator[AuthorityPlace]:
        with peers.scripted(authority.answer) as server:
            yield AuthorityPlace(server.url, authority)


@pytest.mark.parametrize(
    "reply",
    [
        (200, {}, b""),
        (200, {}, b"garbage"),
        (200, {}, b"\x30\x80" + bytes(100)),
        (500, {}, b""),
        (429, {}, b""),
        None,
    ],
)
async def test_authority_that_answers_otherwise(
    authority: peers.OpenSSLAuthority, reply: peers.Reply | None
) -> None:
    with peers.scripted(lambda path, body: reply) as server:
        with pytest.raises(SinkError):
            await AuthorityPlace(server.url, authority).open().anchor(published(7))


def _always(reply: peers.Reply) -> Any:
    return lambda path, body: reply


async def test_token_for_another_request_is_refused(authority: peers.OpenSSLAuthority) -> None:
    """A replayed answer has another nonce, or another imprint."""
    message = timestamp.imprint_message(LOG.checkpoint(7), LOG.origin)
    for stamped in (message, b"something else"):
        _, headers, reply = authority.answer("", timestamp.build_request(stamped).der)
        with peers.scripted(_always((200, headers, reply))) as server:
            with pytest.raises(SinkError):
                await AuthorityPlace(server.url, authority).open().anchor(published(7))


async def test_another_authority_is_refused(
    authority: peers.OpenSSLAuthority, tmp_path: Path
) -> None:
    other = peers.OpenSSLAuthority(tmp_path / "other")
    with peers.scripted(other.answer) as server:
        with pytest.raises(SinkError):
            await AuthorityPlace(server.url, authority).open().anchor(published(7))


async def test_certificate_for_more_than_timestamps_is_refused(tmp_path: Path) -> None:
    loose = peers.OpenSSLAuthority(tmp_path / "loose", usage="both")
    with peers.scripted(lambda path, body: _try(loose, path, body)) as server:
        with pytest.raises(SinkError):
            await AuthorityPlace(server.url, loose).open().anchor(published(7))


def _try(authority: peers.OpenSSLAuthority, path: str, body: bytes) -> peers.Reply:
    try:
        return authority.answer(path, body)
    except Exception:
        return 500, {}, b"openssl itself refuses that certificate"


def test_cosignatures_do_not_change_the_imprint(cosigner: Cosigner) -> None:
    plain = timestamp.imprint_message(LOG.checkpoint(7), LOG.origin)
    assert plain == LOG.checkpoint(7)
    cosigned = LOG.checkpoint(7) + _cosign(cosigner)
    assert timestamp.imprint_message(cosigned, LOG.origin) == plain


async def test_evidence_holds_offline_for_its_checkpoint_only(
    authority: peers.OpenSSLAuthority,
) -> None:
    with peers.scripted(authority.answer) as server:
        evidence = await AuthorityPlace(server.url, authority).open().anchor(published(7))
    trusted = [
        timestamp.Authority.from_pem(authority.cert.read_bytes(), authority.chain.read_bytes())
    ]
    signed = LOG.checkpoint(7)
    assert timestamp.check_evidence(evidence.data, signed, LOG.origin, trusted) is not None
    assert timestamp.check_evidence(evidence.data, signed, LOG.origin, []) is None
    with pytest.raises(VerificationError, match="another checkpoint"):
        timestamp.check_evidence(evidence.data, LOG.checkpoint(8), LOG.origin, trusted)
    for damaged in (evidence.data[:-1], b"{}", evidence.data.replace(b'"v":"1"', b'"v":"2"')):
        with pytest.raises(VerificationError):
            timestamp.check_evidence(damaged, signed, LOG.origin, trusted)


# --- object lock ---------------------------------------------------------------------------------


@pytest.fixture(params=["strict", "minio"], scope="module")
def store(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[str]:
    """Stores that enforce Object Lock: what a test finds refused, they refused."""
    if request.param == "strict":
        with strict_store() as (url, _):
            yield url
    else:
        with peers.minio_store(tmp_path_factory.mktemp("minio")) as url:
            yield url


class BucketPlace:
    count = 0

    def __init__(self, endpoint: str, *, lock: bool = True, query: str = "") -> None:
        BucketPlace.count += 1
        self.bucket = f"audit-{BucketPlace.count}"
        self.client = peers.s3_client(endpoint)
        self.client.create_bucket(Bucket=self.bucket, ObjectLockEnabledForBucket=lock)
        self.uri = f"s3://{self.bucket}/a/b?mode=COMPLIANCE&endpoint={endpoint}{query}"

    def open(self) -> S3Sink:
        sink = S3Sink.from_uri(self.uri)
        sink._connect = lambda: self.client
        return sink

    def verify(self, checkpoint: PublishedCheckpoint, kind: str, evidence: bytes) -> None:
        assert kind == "s3-object-lock"
        value = json.loads(evidence)
        place = {"Bucket": value["bucket"], "Key": value["key"], "VersionId": value["versionId"]}
        assert self.client.get_object(**place)["Body"].read() == checkpoint.note
        with pytest.raises(self.client.exceptions.ClientError):
            self.client.delete_object(**place)
        assert self.client.get_object(**place)["Body"].read() == checkpoint.note


class TestBucket(SinkSuite):
    @pytest.fixture
    def place(self, store: str) -> BucketPlace:
        return BucketPlace(store)

    async def test_one_version_of_each_checkpoint(self, place: BucketPlace) -> None:
        for _ in range(3):
            await place.open().anchor(published(7))
        found = place.client.list_object_versions(Bucket=place.bucket, Prefix="a/b/log.test")
        assert len(found["Versions"]) == 1
        assert found["Versions"][0]["Key"] == "a/b/log.test%2Fsinks/00000000000000000007.checkpoint"

    async def test_retention_is_what_was_asked_for(
        self, place: BucketPlace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AUDIT_RETENTION_DAYS", "10")
        evidence = await place.open().anchor(published(7))
        until_s = int(json.loads(evidence.data)["retainUntilUnixS"])
        assert abs(until_s - time.time() - 10 * 86400) < 120

    async def test_other_checkpoint_of_the_same_size_is_an_alarm(self, place: BucketPlace) -> None:
        await place.open().anchor(published(7))
        fork = TinyLog(LOG.origin, fork_at=3)
        with pytest.raises(SinkIntegrityError):
            await place.open().anchor(published(7, log=fork))

    async def test_larger_checkpoint_than_ours_is_an_alarm(self, place: BucketPlace) -> None:
        await place.open().anchor(published(9))
        with pytest.raises(SinkIntegrityError, match="rolled back"):
            await place.open().anchor(published(7))


async def test_legal_hold_is_set_and_evidence(store: str) -> None:
    place = BucketPlace(store, query="&legal_hold=on")
    evidence = await place.open().anchor(published(7))
    assert json.loads(evidence.data)["legalHold"] is True


@pytest.mark.parametrize("versioned", [False, True])
async def test_bucket_that_does_not_lock_is_refused(store: str, versioned: bool) -> None:
    place = BucketPlace(store, lock=False)
    if versioned:
        place.client.put_bucket_versioning(
            Bucket=place.bucket, VersioningConfiguration={"Status": "Enabled"}
        )
    sink = place.open()
    with pytest.raises(ConfigError, match="lock"):
        await sink.check()
    with pytest.raises(SinkIntegrityError):
        await sink.anchor(published(7))


async def test_store_that_lets_go_of_a_locked_object_is_refused(store: str) -> None:
    place = BucketPlace(store)
    sink = place.open()

    class Loose:
        def __getattr__(self, name: str) -> Any:
            if name == "delete_object":
                return lambda **_: {"DeleteMarker": True, "VersionId": "v"}
            return getattr(place.client, name)

    sink._connect = Loose
    with pytest.raises(ConfigError, match="proves nothing"):
        await sink.check()


async def test_what_is_locked_stays_whatever_an_administrator_tries(store: str) -> None:
    place = BucketPlace(store)
    evidence = await place.open().anchor(published(7))
    value = json.loads(evidence.data)
    where = {"Bucket": value["bucket"], "Key": value["key"], "VersionId": value["versionId"]}
    until = datetime.fromtimestamp(int(value["retainUntilUnixS"]), UTC)
    client = place.client
    tries: list[Callable[[], Any]] = [
        lambda: client.delete_object(**where),
        lambda: client.delete_object(**where, BypassGovernanceRetention=True),
        lambda: client.put_object_retention(
            **where, Retention={"Mode": "COMPLIANCE", "RetainUntilDate": until - timedelta(days=1)}
        ),
        lambda: client.put_object_retention(
            **where,
            Retention={"Mode": "GOVERNANCE", "RetainUntilDate": until},
            BypassGovernanceRetention=True,
        ),
        lambda: client.put_bucket_versioning(
            Bucket=value["bucket"], VersioningConfiguration={"Status": "Suspended"}
        ),
        lambda: client.delete_bucket(Bucket=value["bucket"]),
    ]
    for attempt in tries:
        with pytest.raises(client.exceptions.ClientError):
            attempt()
    # Hiding it behind a delete marker takes nothing away: it is there by its version.
    client.delete_object(Bucket=value["bucket"], Key=value["key"])
    assert client.get_object(**where)["Body"].read() == LOG.checkpoint(7)
    # Longer is always possible.
    longer = {"Mode": "COMPLIANCE", "RetainUntilDate": until + timedelta(days=1)}
    client.put_object_retention(**where, Retention=longer)


async def test_upload_that_was_damaged_on_the_way_is_refused_and_tried_again(store: str) -> None:
    place = BucketPlace(store)
    sink = place.open()
    await sink.check()

    class Damaging:
        def __getattr__(self, name: str) -> Any:
            return getattr(place.client, name)

        def put_object(self, **arguments: Any) -> Any:
            return place.client.put_object(**(arguments | {"Body": b"damaged"}))

    sink._client = Damaging()
    with pytest.raises(SinkError, match=r"Digest|Checksum"):
        await sink.anchor(published(7))
    sink._client = place.client
    evidence = await sink.anchor(published(7))
    place.verify(published(7), evidence.kind, evidence.data)


async def test_bucket_and_retention_come_from_the_environment(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = BucketPlace(store)
    monkeypatch.setenv("AUDIT_BUCKET", place.bucket)
    place.uri = f"s3:///own?mode=COMPLIANCE&endpoint={store}"
    evidence = json.loads((await place.open().anchor(published(7))).data)
    assert (evidence["bucket"], evidence["key"].split("/")[0]) == (place.bucket, "own")
    assert abs(int(evidence["retainUntilUnixS"]) - time.time() - 365 * 86400) < 120
    for bad in ("0", "ten", "36501"):
        monkeypatch.setenv("AUDIT_RETENTION_DAYS", bad)
        with pytest.raises(ConfigError, match="AUDIT_RETENTION_DAYS"):
            place.open()


async def test_checkpoints_in_the_bucket_are_remembered(store: str) -> None:
    place = BucketPlace(store)
    await place.open().anchor(published(9))
    assert await place.open().holds(published(9))
    with pytest.raises(SinkIntegrityError, match="larger than ours") as caught:
        await place.open().holds(published(7))
    # Whether that is ours, the next one tells: another sink of ours may use the place.
    assert caught.value.held_size == 9


async def test_store_that_is_away_is_an_error_to_retry(store: str) -> None:
    place = BucketPlace(store)
    sink = place.open()
    sink._connect = lambda: peers.s3_client("http://127.0.0.1:1")
    with pytest.raises(SinkError):
        await sink.anchor(published(7))


# --- a sink of somebody's own --------------------------------------------------------------------


class TestOwnSink(SinkSuite):
    """From an entry point of a package that happens to be installed."""

    class Place:
        def open(self) -> AnchorSink:
            return open_sink("board://example")

        def verify(self, checkpoint: PublishedCheckpoint, kind: str, evidence: bytes) -> None:
            assert evidence == checkpoint.note

    @pytest.fixture
    def place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
        (tmp_path / "noticeboard.py").write_text(_BOARD)
        info = tmp_path / "noticeboard-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: noticeboard\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[provledger.sinks]\nboard = noticeboard:Board\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        return self.Place()


_BOARD = """
from anchor_svc.sinks import Evidence

class Board:
    def __init__(self, uri):
        self.uri = uri
    async def anchor(self, checkpoint):
        return Evidence("board", checkpoint.note)
    async def close(self):
        pass
"""
