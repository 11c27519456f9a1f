"""The key ring, fed message by message: what it signs with and what it accepts at each moment.

Against the real keys service: tests/integration/test_keys_svc.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from provledger import jcs, kms
from provledger.api.keys.v1 import keys_pb2 as pb
from provledger.errors import UnavailableError
from provledger.jwk import jwk_from_public_key, thumbprint_of, verify_signature
from provledger.key_events import EventType, KeyEvent
from provledger.keyring import ActiveSigner, KeyRing
from provledger.kms import Signer, local
from provledger.kms.errors import KMSUnavailableError

NOW_NS = 1_763_665_200_000_000_000
LEASE_MS = 30_000
ACTIVE, DRAINING, PENDING, REVOKED = (
    pb.KEY_STATE_ACTIVE,
    pb.KEY_STATE_DRAINING,
    pb.KEY_STATE_PENDING,
    pb.KEY_STATE_REVOKED,
)


@dataclass
class FakeCall:
    """One WatchKeys call, answered from a queue; None ends it, an exception breaks it."""

    messages: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)

    async def read(self) -> Any:
        message = await self.messages.get()
        if isinstance(message, BaseException):
            raise message
        return grpc.aio.EOF if message is None else message

    def cancel(self) -> None:
        pass


@dataclass
class FakeKeysService:
    """The stub of a keys service that says what the test wants."""

    calls: list[FakeCall] = field(default_factory=list)
    called: asyncio.Event = field(default_factory=asyncio.Event)
    revision: int = 0

    def WatchKeys(self, request: pb.WatchKeysRequest) -> FakeCall:
        self.calls.append(FakeCall())
        self.called.set()
        return self.calls[-1]

    async def next_call(self) -> FakeCall:
        self.called.clear()
        await asyncio.wait_for(self.called.wait(), 10)
        return self.calls[-1]


class Opener:
    """Opens local keys, and can be told to fail or to wait."""

    def __init__(self, key_dir: Path) -> None:
        self.key_dir = key_dir
        self.opened: list[str] = []
        self.failing: set[str] = set()
        self.tried = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, uri: str) -> Signer:
        self.tried.set()
        await self.gate.wait()
        if uri in self.failing:
            raise KMSUnavailableError(f"{uri} is away")
        self.opened.append(uri)
        return await kms.open_signer(uri, self.key_dir)


class Bench:
    """A key ring on a bench: keys on disk, a fake keys service, clocks that stand still."""

    def __init__(
        self, key_dir: Path, purposes: Iterable[str], opener: Opener | None = None
    ) -> None:
        self.key_dir = key_dir
        self.service = FakeKeysService()
        self.opener = opener or Opener(key_dir)
        self.now_ns = NOW_NS
        self.lease_ns = 0
        self.ring = KeyRing(
            self.service,
            purposes,
            self.opener,
            clock=lambda: self.now_ns,
            lease_clock=lambda: self.lease_ns,
        )

    def key(
        self,
        kid: str,
        state: pb.KeyState = ACTIVE,
        *,
        epoch: int = 1,
        purpose: pb.KeyPurpose = pb.KEY_PURPOSE_WITNESS,
        not_after_ns: int = 0,
    ) -> pb.Key:
        path = self.key_dir / f"{kid}.pem"
        if not path.exists():
            local.create_key(path)
        public_key = local._open(kid, path, None).public_key
        return pb.Key(
            name=f"keys/{kid}",
            kid=kid,
            purpose=purpose,
            state=state,
            epoch=epoch,
            uri=f"local:{kid}.pem",
            jwk=jcs.encode(jwk_from_public_key(public_key)),
            thumbprint=thumbprint_of(public_key),
            not_before_ns=NOW_NS - 1000,
            not_after_ns=not_after_ns,
        )

    async def say(
        self, *keys: pb.Key, changed: bool = True, events: Iterable[KeyEvent] = ()
    ) -> None:
        """Let the service say these keys, and wait until the ring has taken it in."""
        if not self.service.calls:
            await self.service.next_call()
        self.service.revision += changed
        view = self.ring._snapshot.view
        self.service.calls[-1].messages.put_nowait(
            pb.WatchKeysResponse(
                revision=self.service.revision,
                keys=keys,
                lease_ms=LEASE_MS,
                open_events=[pb.JournaledKeyEvent(digest=each.digest()) for each in events],
            )
        )
        await self.until(lambda: self.ring._snapshot.view is not view)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - polled from outside
                await asyncio.sleep(0.001)

    async def signing_with(self, kid: str) -> ActiveSigner:
        await self.until(lambda: kid == self.current_kid())
        return self.ring.current("witness")

    def current_kid(self) -> str:
        """The kid in use, or the reason why there is none."""
        try:
            return self.ring.current("witness").kid
        except UnavailableError as error:
            return error.reason


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path, ["witness"])
    await bench.ring.start()
    yield bench
    await bench.ring.close()


async def test_nothing_heard_yet_is_unavailable(bench: Bench) -> None:
    with pytest.raises(UnavailableError, match="not been heard yet") as caught:
        bench.ring.current("witness")
    assert caught.value.reason == "KEY_LEASE_EXPIRED"
    assert caught.value.retry_delay_s is not None


async def test_active_key_is_opened_and_signs(bench: Bench) -> None:
    await bench.say(bench.key("w1"))
    current = await bench.signing_with("w1")
    assert (current.epoch, current.purpose, current.not_after_ns) == (1, "witness", None)
    assert current.thumbprint == thumbprint_of(current.signer.public_key)
    verify_signature(current.public_key, await current.signer.sign(b"x"), b"x")


@pytest.mark.parametrize("development", ["", "1"])
async def test_key_in_a_file_is_warned_of_outside_development(
    bench: Bench,
    development: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("PROVLEDGER_DEVELOPMENT", development)
    await bench.say(bench.key("witness-1"))
    await bench.signing_with("witness-1")
    warned = [r for r in caplog.records if r.getMessage() == "keyring.local_key"]
    assert len(warned) == (0 if development else 1)
    assert all(r.levelname == "WARNING" for r in warned)


async def test_keys_of_other_purposes_are_accepted_but_not_opened(bench: Bench) -> None:
    head = bench.key("h1", purpose=pb.KEY_PURPOSE_HEAD)
    await bench.say(bench.key("w1"), head)
    await bench.signing_with("w1")
    assert bench.opener.opened == ["local:w1.pem"]
    assert bench.ring.accepts("head", "h1", 1)
    with pytest.raises(UnavailableError) as caught:
        bench.ring.current("head")
    assert caught.value.reason == "NO_ACTIVE_KEY"


async def test_rotation_swaps_when_the_new_key_is_ready(bench: Bench) -> None:
    await bench.say(bench.key("w1"))
    old = await bench.signing_with("w1")
    bench.opener.gate.clear()
    await bench.say(bench.key("w1", DRAINING, not_after_ns=NOW_NS + 5), bench.key("w2", epoch=2))
    assert bench.current_kid() == "w1", "the old key goes on while the new one is opened"
    assert bench.ring.accepts("witness", "w2", 2)
    bench.opener.gate.set()
    new = await bench.signing_with("w2")
    assert (new.kid, new.epoch, new.thumbprint) == (
        "w2",
        2,
        thumbprint_of(new.signer.public_key),
    )
    assert old.kid == "w1", "what was handed out before is still one whole"
    verify_signature(old.public_key, await old.signer.sign(b"x"), b"x")
    assert bench.ring.accepts("witness", "w1", 1)


async def test_rotation_while_the_key_before_is_still_being_opened_is_not_missed(
    bench: Bench,
) -> None:
    bench.opener.gate.clear()
    await bench.say(bench.key("w1"))
    await asyncio.wait_for(bench.opener.tried.wait(), 10)
    await bench.say(bench.key("w1", DRAINING, not_after_ns=NOW_NS + 5), bench.key("w2", epoch=2))
    bench.opener.gate.set()
    await bench.signing_with("w2")


async def test_key_that_cannot_be_opened_leaves_the_draining_one(bench: Bench) -> None:
    bench.opener.failing.add("local:w2.pem")
    await bench.say(bench.key("w1"))
    await bench.signing_with("w1")
    await bench.say(bench.key("w1", DRAINING, not_after_ns=NOW_NS + 5), bench.key("w2", epoch=2))
    await bench.until(bench.opener.tried.is_set)
    assert bench.current_kid() == "w1"
    assert bench.ring.current("witness").not_after_ns == NOW_NS + 5
    bench.now_ns = NOW_NS + 6
    assert bench.current_kid() == "NO_ACTIVE_KEY", "but not past its drain window"
    bench.opener.failing.clear()
    await bench.signing_with("w2")


async def test_after_a_restart_the_draining_key_serves_if_the_active_one_cannot(
    bench: Bench,
) -> None:
    bench.opener.failing.add("local:w2.pem")
    await bench.say(bench.key("w1", DRAINING, not_after_ns=NOW_NS + 5), bench.key("w2", epoch=2))
    await bench.signing_with("w1")


async def test_key_that_is_not_the_registered_one_is_not_used(bench: Bench) -> None:
    """Somebody put another key into the file."""
    registered = bench.key("w1")
    (bench.key_dir / "w1.pem").unlink()
    local.create_key(bench.key_dir / "w1.pem")
    await bench.say(registered)
    await bench.until(lambda: bool(bench.opener.opened))
    await bench.say(registered, changed=False)
    assert bench.current_kid() == "NO_ACTIVE_KEY"


async def test_key_that_cannot_endorse_is_named_with_the_reason(bench: Bench) -> None:
    """What a rotation to a key that is disabled, say, is told; where it is stays in our log."""
    old, new = bench.key("witness-1"), bench.key("witness-2", PENDING)
    bench.opener.failing.add(new.uri)
    event = KeyEvent(
        event=EventType.CREATED,
        at_ns=NOW_NS,
        kid="witness-2",
        thumbprint=new.thumbprint,
        purpose="witness",
        genesis=bytes(32),
        uri=new.uri,
        jwk=jcs.parse(new.jwk),
    )
    await bench.say(old, new, events=[event])
    await bench.signing_with("witness-1")
    with pytest.raises(UnavailableError) as caught:
        await bench.ring.endorse(event, "witness-2")
    assert caught.value.reason == "KEY_NOT_USABLE"
    assert caught.value.metadata == {"kid": "witness-2", "because": "KMS_UNAVAILABLE"}
    assert new.uri not in str(caught.value)
    endorsed = await bench.ring.endorse(event, "witness-1")
    assert endorsed.kid == "witness-1"


async def test_revoked_key_is_dropped_at_once(bench: Bench) -> None:
    await bench.say(bench.key("w1"))
    await bench.signing_with("w1")
    await bench.say(bench.key("w1", REVOKED))
    assert bench.current_kid() == "NO_ACTIVE_KEY"
    assert not bench.ring.accepts("witness", "w1", 1)


async def test_pending_key_is_neither_used_nor_accepted(bench: Bench) -> None:
    await bench.say(bench.key("w1", PENDING, epoch=0))
    assert bench.current_kid() == "NO_ACTIVE_KEY"
    assert not bench.ring.accepts("witness", "w1", 0)
    assert bench.opener.opened == []


async def test_accepts_wants_purpose_kid_and_epoch_to_agree(bench: Bench) -> None:
    await bench.say(bench.key("w1", epoch=3))
    assert bench.ring.accepts("witness", "w1", 3)
    for purpose, kid, epoch in [("head", "w1", 3), ("witness", "w2", 3), ("witness", "w1", 2)]:
        assert not bench.ring.accepts(purpose, kid, epoch)


async def test_draining_key_is_accepted_until_its_last_moment(bench: Bench) -> None:
    await bench.say(bench.key("w1", DRAINING, not_after_ns=NOW_NS + 5))
    bench.now_ns = NOW_NS + 5
    assert bench.ring.accepts("witness", "w1", 1)
    bench.now_ns = NOW_NS + 6
    assert not bench.ring.accepts("witness", "w1", 1)


async def test_waiting_for_a_key_to_be_accepted_bridges_a_rotation(bench: Bench) -> None:
    await bench.say(bench.key("w1"))
    waiting = asyncio.create_task(bench.ring.wait_accepts("witness", "w2", 2, timeout_s=10))
    await asyncio.sleep(0)
    await bench.say(bench.key("w1", DRAINING, not_after_ns=NOW_NS + 5), bench.key("w2", epoch=2))
    assert await waiting
    assert not await bench.ring.wait_accepts("witness", "w3", 3, timeout_s=0.01)


async def test_lease_that_ends_makes_everything_unavailable_until_heard_again(
    bench: Bench,
) -> None:
    await bench.say(bench.key("w1"))
    await bench.signing_with("w1")
    bench.lease_ns = LEASE_MS * 1_000_000
    assert bench.current_kid() == "w1", "the last moment of the lease"
    bench.lease_ns += 1
    for ask in (
        lambda: bench.ring.current("witness"),
        lambda: bench.ring.accepts("witness", "w1", 1),
        bench.ring.key_set,
    ):
        with pytest.raises(UnavailableError, match="longer than its lease") as caught:
            ask()
        assert caught.value.reason == "KEY_LEASE_EXPIRED"
    await bench.say(bench.key("w1"), changed=False)
    assert bench.current_kid() == "w1"
    assert bench.opener.opened == ["local:w1.pem"], "a heartbeat opens nothing anew"


@pytest.mark.parametrize(
    "breakage",
    [
        None,
        grpc.aio.AioRpcError(
            grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "away"
        ),
        RuntimeError("something nobody thought of"),
        asyncio.CancelledError(),
    ],
    ids=["ends", "breaks", "bug", "channel-closed"],
)
async def test_watch_that_stops_is_begun_again(
    bench: Bench, breakage: BaseException | None
) -> None:
    await bench.say(bench.key("w1"))
    await bench.signing_with("w1")
    bench.service.calls[-1].messages.put_nowait(breakage)
    await bench.service.next_call()
    await bench.say(bench.key("w1", DRAINING, not_after_ns=NOW_NS + 5), bench.key("w2", epoch=2))
    await bench.signing_with("w2")


async def test_only_a_watch_that_cannot_be_begun_again_is_warned_of(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """Each ends once an hour, with its connection."""
    caplog.set_level("INFO")
    await bench.service.calls[0].messages.put(None)
    await bench.service.next_call()
    assert [record.levelname for record in caplog.records] == ["INFO"]
    for _ in range(3):
        await bench.service.calls[-1].messages.put(None)
        await bench.service.next_call()
    warned = [record for record in caplog.records if record.levelname == "WARNING"]
    assert [record.getMessage() for record in warned] == ["keyring.cannot_watch"]


async def test_one_damaged_key_does_not_take_the_others_along(bench: Bench) -> None:
    damaged = bench.key("w0", DRAINING)
    damaged.thumbprint = bytes(32)
    unreadable = bench.key("w9", DRAINING)
    unreadable.jwk = b"{"
    unknown = bench.key("x1", purpose=99)  # type: ignore[arg-type]
    await bench.say(damaged, unreadable, unknown, bench.key("w1"))
    await bench.signing_with("w1")
    assert [key.kid for key in bench.ring.key_set()] == ["w1"]


async def test_message_with_a_kid_twice_is_not_believed(bench: Bench) -> None:
    await bench.say(bench.key("w1"))
    await bench.signing_with("w1")
    twice = [bench.key("w1"), bench.key("w1", DRAINING)]
    bench.service.calls[-1].messages.put_nowait(
        pb.WatchKeysResponse(revision=9, keys=twice, lease_ms=LEASE_MS)
    )
    await bench.service.next_call()
    assert bench.current_kid() == "w1"


async def test_wait_for_returns_the_key_or_says_why_there_is_none(bench: Bench) -> None:
    waiting = asyncio.create_task(bench.ring.wait_for("witness", timeout_s=10))
    await bench.say(bench.key("w1"))
    assert (await waiting).kid == "w1"
    with pytest.raises(UnavailableError):
        await bench.ring.wait_for("head", timeout_s=0.01)


async def test_closed_ring_has_no_keys(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ["witness"])
    await bench.ring.start()
    await bench.say(bench.key("w1"))
    await bench.signing_with("w1")
    bench.lease_ns = 1
    await bench.ring.close()
    assert bench.current_kid() == "KEY_LEASE_EXPIRED"


class TestSigningTime:
    @pytest.fixture
    async def current(self, bench: Bench) -> ActiveSigner:
        await bench.say(bench.key("w1", DRAINING, not_after_ns=NOW_NS + 1000))
        return await bench.signing_with("w1")

    async def test_is_now(self, current: ActiveSigner) -> None:
        assert current.signing_time_ns(NOW_NS) == NOW_NS

    async def test_is_never_before_the_key_was_valid(self, current: ActiveSigner) -> None:
        assert current.signing_time_ns(NOW_NS - 10**9) == current.not_before_ns

    async def test_refuses_a_clock_an_hour_behind(self, current: ActiveSigner) -> None:
        with pytest.raises(UnavailableError, match=r"3599 s behind.*'w1'.*was ahead") as caught:
            current.signing_time_ns(NOW_NS - 3600 * 10**9)
        assert caught.value.reason == "CLOCK_SKEW"

    async def test_refuses_a_key_whose_time_is_over(self, current: ActiveSigner) -> None:
        with pytest.raises(UnavailableError) as caught:
            current.signing_time_ns(NOW_NS + 1001)
        assert caught.value.reason == "NO_ACTIVE_KEY"


async def test_reports_go_on_without_a_size_that_no_log_has(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor does anything else that goes wrong with one report end them."""
    reports: asyncio.Queue[pb.Signer] = asyncio.Queue()
    sizes: list[tuple[str, int]] = [("a", 2**63), ("b", 2**63 - 1), ("c", -1)]
    failures = [ValueError("not now")]

    async def report(request: pb.ReportSignerRequest, **_: float) -> None:
        if failures:
            raise failures.pop()
        reports.put_nowait(request.signer)

    bench = Bench(tmp_path, ["witness"])
    bench.service.ReportSigner = report  # type: ignore[attr-defined]
    bench.ring.log_sizes = lambda: sizes
    await bench.ring.start()
    try:
        await bench.say(bench.key("w1"))
        async with asyncio.timeout(20):
            told = await reports.get()
            assert [(each.origin, each.size) for each in told.log_sizes] == [("b", 2**63 - 1)]
            sizes.append(("d", 4))
            while len(told.log_sizes) < 2:
                told = await reports.get()
    finally:
        await bench.ring.close()
    assert not failures
    assert caplog.text.count("keyring.log_size_unusable") == 2
    assert caplog.text.count("keyring.not_reported") == 1
