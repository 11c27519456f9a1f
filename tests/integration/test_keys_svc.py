"""The keys service over real sockets: its RPCs, its errors, its watches, and key rings on it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
import sqlalchemy as sa

from keys_svc.app import build
from keys_svc.config import Settings
from provledger import jcs, kms, settings
from provledger.api.keys.v1 import keys_pb2 as pb
from provledger.api.keys.v1 import keys_pb2_grpc
from provledger.db import open_engine
from provledger.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    StatusError,
    UnavailableError,
)
from provledger.jwk import Algorithm, jwk_from_public_key, thumbprint_of
from provledger.keyring import KeyRing
from provledger.keyset import MAX_CLOCK_AHEAD_NS, KeySet, KeyState
from provledger.kms import local
from provledger.rpc.channel import call, channel
from provledger.rpc.errors import from_rpc_error
from provledger.rpc.server import serve
from provledger.settings import ConfigError
from tests.support.ports import free_port

WITNESS, HEAD = pb.KEY_PURPOSE_WITNESS, pb.KEY_PURPOSE_HEAD
TIMEOUT_S = 20.0


class Keys:
    """A client of one keys service, and the key files of the signing service next to it."""

    def __init__(self, opened: grpc.aio.Channel, key_dir: Path, port: int) -> None:
        self.stub = keys_pb2_grpc.KeysServiceStub(opened)
        self.key_dir = key_dir
        self.endpoint = f"127.0.0.1:{port}"

    def make(self, kid: str, algorithm: Algorithm = Algorithm.ED25519) -> dict[str, Any]:
        """Make a key file; the fields that register it."""
        public_key = local.create_key(self.key_dir / f"{kid}.pem", algorithm)
        return {
            "kid": kid,
            "uri": f"local:{kid}.pem",
            "jwk": jcs.encode(jwk_from_public_key(public_key)),
        }

    async def ask(self, method: str, request: Any) -> Any:
        return await call(getattr(self.stub, method), request, timeout_s=TIMEOUT_S)

    async def create(self, purpose: pb.KeyPurpose = WITNESS, **fields: Any) -> pb.Key:
        request = pb.CreateKeyRequest(purpose=purpose, **fields)
        return (await self.ask("CreateKey", request)).key  # type: ignore[no-any-return]

    async def rotate(self, purpose: pb.KeyPurpose = WITNESS, **fields: Any) -> Any:
        return await self.ask("RotateKey", pb.RotateKeyRequest(purpose=purpose, **fields))

    async def jwks(self) -> KeySet:
        return KeySet.parse((await self.ask("GetJwks", pb.GetJwksRequest())).jwks)

    def ring(self, **options: Any) -> KeyRing:
        opener = partial(kms.open_signer, key_dir=self.key_dir)
        return KeyRing(self.endpoint, ["witness"], opener, watcher="test", **options)


@asynccontextmanager
async def running(config: Settings, clock: Callable[[], int] = time.time_ns) -> AsyncIterator[int]:
    """A keys service in this process; its port."""
    stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
    app = await build(config, clock=clock)
    task = asyncio.create_task(serve(app, config, stop=stop, on_ready=ready.set_result))
    await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
    try:
        yield await ready
    finally:
        stop.set()
        await task


def config(database_url: str, **changes: Any) -> Settings:
    values: dict[str, Any] = {"grace_s": 0.2, "lease_ms": 1500, "drain_window_s": 60}
    return Settings(database_url=database_url, **(values | changes))


@asynccontextmanager
async def keys_on(
    database_url: str, key_dir: Path, clock: Callable[[], int] = time.time_ns, **changes: Any
) -> AsyncIterator[Keys]:
    async with (
        running(config(database_url, **changes), clock) as port,
        channel(f"127.0.0.1:{port}") as opened,
    ):
        yield Keys(opened, key_dir, port)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'keys.sqlite3'}"


@pytest.fixture
async def keys(sqlite_url: str, tmp_path: Path) -> AsyncIterator[Keys]:
    async with keys_on(sqlite_url, tmp_path) as opened:
        yield opened


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another task or process brings about."""
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():  # noqa: ASYNC110 - polled from outside
            await asyncio.sleep(0.005)


class TestLifeOfAKey:
    @pytest.mark.parametrize("algorithm", Algorithm)
    async def test_first_key_is_active_and_verifiable(
        self, keys: Keys, algorithm: Algorithm
    ) -> None:
        made = keys.make("witness-1", algorithm)
        key = await keys.create(**made)
        assert (key.name, key.state, key.epoch) == ("keys/witness-1", pb.KEY_STATE_ACTIVE, 1)
        assert key.not_before_ns == key.created_at_ns > 0
        assert (key.uri, key.jwk) == (made["uri"], made["jwk"])
        (published,) = await keys.jwks()
        assert (published.kid, published.thumbprint) == ("witness-1", key.thumbprint)
        signer = await kms.open_signer(key.uri, keys.key_dir)
        published.verify(await signer.sign(b"x"), b"x")

    async def test_same_creation_again_returns_the_same_key(self, keys: Keys) -> None:
        made = keys.make("witness-1")
        first = await keys.create(**made)
        spelled = json.dumps(json.loads(made["jwk"]) | {"kid": "witness-1", "use": "sig"}, indent=1)
        assert await keys.create(**made | {"jwk": spelled.encode()}) == first

    @pytest.mark.parametrize("algorithm", [Algorithm.ECDSA_P384, Algorithm.ML_DSA_44])
    async def test_key_that_cannot_sign_checkpoints_is_refused_for_them(
        self, keys: Keys, algorithm: Algorithm
    ) -> None:
        made = keys.make("checkpoint-1", algorithm) | {"purpose": pb.KEY_PURPOSE_CHECKPOINT}
        with pytest.raises(InvalidArgumentError) as caught:
            await keys.create(**made)
        assert [violation.field for violation in caught.value.violations] == ["jwk"]
        assert "must be Ed25519 or P-256" in caught.value.violations[0].description

    async def test_kid_for_another_key_is_refused(self, keys: Keys) -> None:
        await keys.create(**keys.make("witness-1"))
        other = keys.make("witness-2")
        with pytest.raises(AlreadyExistsError) as caught:
            await keys.create(**other | {"kid": "witness-1"})
        assert caught.value.reason == "KEY_ID_REUSED"

    async def test_rotation_drains_the_old_key(self, keys: Keys) -> None:
        await keys.create(**keys.make("witness-1"))
        response = await keys.rotate(**keys.make("witness-2"))
        assert (response.key.kid, response.key.epoch) == ("witness-2", 2)
        assert response.previous.state == pb.KEY_STATE_DRAINING
        window_ns = response.previous.not_after_ns - response.key.not_before_ns
        assert window_ns == 60 * 10**9 + MAX_CLOCK_AHEAD_NS
        again = await keys.rotate(kid="witness-2")
        assert (again.key, again.previous) == (response.key, response.previous)

    async def test_held_rotation_waits_for_its_commit(self, keys: Keys) -> None:
        await keys.create(**keys.make("witness-1"))
        held = await keys.rotate(**keys.make("witness-2"), hold_pending=True)
        assert held.key.state == pb.KEY_STATE_PENDING
        assert held.previous.kid == "witness-1"
        assert [key.kid for key in await keys.jwks()] == ["witness-1"]
        done = await keys.ask("CommitRotation", pb.CommitRotationRequest(kid="witness-2"))
        assert done.key.state == pb.KEY_STATE_ACTIVE
        assert done.previous.state == pb.KEY_STATE_DRAINING

    async def test_revoked_key_stays_in_the_jwks_with_its_reason(self, keys: Keys) -> None:
        await keys.create(**keys.make("witness-1"))
        with pytest.raises(FailedPreconditionError) as caught:
            await keys.ask("RevokeKey", pb.RevokeKeyRequest(kid="witness-1", reason="stolen"))
        assert caught.value.reason == "KEY_ACTIVE"
        await keys.rotate(**keys.make("witness-2"))
        await keys.ask("RevokeKey", pb.RevokeKeyRequest(kid="witness-1", reason="stolen"))
        revoked = (await keys.jwks()).find(purpose="witness", kid="witness-1")
        assert (revoked.state, revoked.revocation_reason) == (KeyState.REVOKED, "stolen")

    async def test_drained_key_is_shown_as_retired(self, sqlite_url: str, tmp_path: Path) -> None:
        now_ns = [10**18]
        async with keys_on(sqlite_url, tmp_path, clock=lambda: now_ns[0]) as keys:
            await keys.create(**keys.make("witness-1"))
            now_ns[0] += 10**9
            await keys.rotate(**keys.make("witness-2"))
            request = pb.GetKeyRequest(name="keys/witness-1")
            now_ns[0] += 60 * 10**9 + MAX_CLOCK_AHEAD_NS
            assert (await keys.ask("GetKey", request)).key.state == pb.KEY_STATE_DRAINING
            now_ns[0] += 1
            assert (await keys.ask("GetKey", request)).key.state == pb.KEY_STATE_RETIRED
            watch = keys.stub.WatchKeys(pb.WatchKeysRequest())
            assert [key.kid for key in (await heard(watch)).keys] == ["witness-2"]
            watch.cancel()
            retired = (await keys.jwks()).find(purpose="witness", kid="witness-1")
            assert retired.state is KeyState.RETIRED

    async def test_restart_keeps_everything(self, sqlite_url: str, tmp_path: Path) -> None:
        async with keys_on(sqlite_url, tmp_path) as keys:
            await keys.create(**keys.make("witness-1"))
            await keys.rotate(**keys.make("witness-2"))
            before = (await keys.ask("GetJwks", pb.GetJwksRequest())).jwks
        async with keys_on(sqlite_url, tmp_path) as keys:
            assert (await keys.ask("GetJwks", pb.GetJwksRequest())).jwks == before


class TestListing:
    async def test_pages_newest_first_and_nothing_twice(self, keys: Keys) -> None:
        for number in range(1, 6):
            await keys.create(**keys.make(f"k{number}"))
        await keys.create(HEAD, **keys.make("h1"))
        seen, token = [], ""
        while True:
            request = pb.ListKeysRequest(page_size=2, page_token=token, purpose=WITNESS)
            page = await keys.ask("ListKeys", request)
            seen.append([key.kid for key in page.keys])
            token = page.next_page_token
            if not token:
                break
            if len(seen) == 1:
                await keys.create(**keys.make("k6"))  # shifts nothing
        assert seen == [["k5", "k4"], ["k3", "k2"], ["k1"]]
        everything = await keys.ask("ListKeys", pb.ListKeysRequest(page_size=100_000))
        assert len(everything.keys) == 7
        assert everything.next_page_token == ""

    async def test_token_of_another_query_is_refused(self, keys: Keys) -> None:
        for number in range(3):
            await keys.create(**keys.make(f"k{number}"))
        page = await keys.ask("ListKeys", pb.ListKeysRequest(page_size=1))
        for token in (page.next_page_token, "no token"):
            with pytest.raises(InvalidArgumentError) as caught:
                await keys.ask("ListKeys", pb.ListKeysRequest(page_token=token, purpose=HEAD))
            assert caught.value.reason == "INVALID_PAGE_TOKEN"
            assert [v.field for v in caught.value.violations] == ["page_token"]


GOOD_JWK = b'{"crv":"Ed25519","kty":"OKP","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}'
GOOD: dict[str, Any] = {"kid": "k1", "purpose": WITNESS, "uri": "local:k1.pem", "jwk": GOOD_JWK}


@pytest.mark.parametrize(
    ("method", "request_", "fields"),
    [
        ("CreateKey", pb.CreateKeyRequest(), ["kid", "purpose", "uri", "jwk"]),
        ("CreateKey", pb.CreateKeyRequest(**GOOD | {"kid": "-k"}), ["kid"]),
        ("CreateKey", pb.CreateKeyRequest(**GOOD | {"kid": "k" * 64}), ["kid"]),
        ("CreateKey", pb.CreateKeyRequest(**GOOD | {"kid": "k1\n"}), ["kid"]),
        ("CreateKey", pb.CreateKeyRequest(**GOOD | {"purpose": 99}), ["purpose"]),
        ("CreateKey", pb.CreateKeyRequest(**GOOD | {"uri": "lokal:k1.pem"}), ["uri"]),
        ("CreateKey", pb.CreateKeyRequest(**GOOD | {"uri": "local:" + "k" * 1100}), ["uri"]),
        ("CreateKey", pb.CreateKeyRequest(**GOOD | {"jwk": b"{"}), ["jwk"]),
        ("CreateKey", pb.CreateKeyRequest(**GOOD | {"jwk": b"[]"}), ["jwk"]),
        ("CreateKey", pb.CreateKeyRequest(**GOOD | {"jwk": b" " * 5000}), ["jwk"]),
        (
            "CreateKey",
            pb.CreateKeyRequest(**GOOD | {"jwk": GOOD_JWK[:-1] + b',"kid":"other"}'}),
            ["jwk"],
        ),
        (
            "CreateKey",
            pb.CreateKeyRequest(**GOOD | {"jwk": GOOD_JWK[:-1] + b',"d":"AAAA"}'}),
            ["jwk"],
        ),
        (
            "CreateKey",
            pb.CreateKeyRequest(**GOOD | {"jwk": b'{"kty":"RSA","n":"AQAB","e":"AQAB"}'}),
            ["jwk"],
        ),
        ("RotateKey", pb.RotateKeyRequest(), ["kid", "purpose"]),
        ("RotateKey", pb.RotateKeyRequest(kid="k1", purpose=WITNESS, uri="local:k"), ["jwk"]),
        ("RotateKey", pb.RotateKeyRequest(kid="k1", purpose=WITNESS, jwk=GOOD_JWK), ["uri"]),
        ("CommitRotation", pb.CommitRotationRequest(), ["kid"]),
        ("RevokeKey", pb.RevokeKeyRequest(), ["kid", "reason"]),
        ("RevokeKey", pb.RevokeKeyRequest(kid="k", reason="x" * 1025), ["reason"]),
        ("RevokeKey", pb.RevokeKeyRequest(kid="k", reason="a\nb"), ["reason"]),
        ("GetKey", pb.GetKeyRequest(name="k1"), ["name"]),
        ("GetKey", pb.GetKeyRequest(name="keys/../x"), ["name"]),
        ("ListKeys", pb.ListKeysRequest(page_size=-1), ["page_size"]),
        ("ListKeys", pb.ListKeysRequest(purpose=99), ["purpose"]),  # type: ignore[arg-type]
    ],
)
async def test_bad_request_names_its_fields(
    keys: Keys, method: str, request_: Any, fields: list[str]
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        await keys.ask(method, request_)
    assert [violation.field for violation in caught.value.violations] == fields
    assert all(violation.description for violation in caught.value.violations)
    assert not (await keys.ask("ListKeys", pb.ListKeysRequest())).keys


async def test_bad_watcher_name_is_refused_on_the_stream(keys: Keys) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await keys.stub.WatchKeys(pb.WatchKeysRequest(watcher="w" * 65)).read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("GetKey", pb.GetKeyRequest(name="keys/k9")),
        ("RotateKey", pb.RotateKeyRequest(kid="k9", purpose=WITNESS)),
        ("CommitRotation", pb.CommitRotationRequest(kid="k9")),
        ("RevokeKey", pb.RevokeKeyRequest(kid="k9", reason="lost")),
    ],
)
async def test_unknown_key_is_not_found(keys: Keys, method: str, request_: Any) -> None:
    with pytest.raises(NotFoundError) as caught:
        await keys.ask(method, request_)
    assert (caught.value.reason, caught.value.metadata) == ("KEY_NOT_FOUND", {"kid": "k9"})


async def heard(watch: Any) -> pb.WatchKeysResponse:
    """The next message of a watch."""
    async with asyncio.timeout(TIMEOUT_S):
        message = await watch.read()
    assert isinstance(message, pb.WatchKeysResponse)
    return message


async def to_the_end(watch: Any) -> None:
    while await watch.read() is not grpc.aio.EOF:
        pass


class TestWatch:
    async def test_says_all_at_once_then_each_change_then_heartbeats(self, keys: Keys) -> None:
        watch = keys.stub.WatchKeys(pb.WatchKeysRequest(watcher="test"))
        empty = await heard(watch)
        assert (list(empty.keys), empty.lease_ms) == ([], 1500)
        await keys.create(**keys.make("witness-1"))
        while (first := await heard(watch)).revision == empty.revision:
            pass  # a heartbeat may come in between
        assert [key.kid for key in first.keys] == ["witness-1"]
        await keys.rotate(**keys.make("witness-2"))
        while (second := await heard(watch)).revision == first.revision:
            pass
        assert {key.kid: key.state for key in second.keys} == {
            "witness-1": pb.KEY_STATE_DRAINING,
            "witness-2": pb.KEY_STATE_ACTIVE,
        }
        assert empty.revision < first.revision < second.revision
        assert await heard(watch) == second, "a heartbeat says it all again"
        watch.cancel()

    async def test_every_watcher_hears_of_a_change(self, keys: Keys) -> None:
        watches = [keys.stub.WatchKeys(pb.WatchKeysRequest()) for _ in range(5)]
        for watch in watches:
            await heard(watch)
        await keys.create(**keys.make("witness-1"))
        for watch in watches:
            while not (await heard(watch)).keys:
                pass
        for watch in watches:
            watch.cancel()

    async def test_drain_ends_watches_with_unavailable(
        self, sqlite_url: str, tmp_path: Path
    ) -> None:
        service = AsyncExitStack()
        port = await service.enter_async_context(running(config(sqlite_url, grace_s=TIMEOUT_S)))
        async with channel(f"127.0.0.1:{port}") as opened:
            watch = Keys(opened, tmp_path, port).stub.WatchKeys(pb.WatchKeysRequest())
            await heard(watch)
            async with asyncio.timeout(TIMEOUT_S):
                await service.aclose()
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await to_the_end(watch)
        assert from_rpc_error(caught.value).reason == "SERVER_DRAINING"


@pytest.mark.postgres
class TestTwoReplicas:
    @pytest.fixture
    async def replicas(
        self, postgres_database_url: str, tmp_path: Path
    ) -> AsyncIterator[tuple[Keys, Keys]]:
        async with (
            keys_on(postgres_database_url, tmp_path, lease_ms=60_000, drain_window_s=120) as one,
            keys_on(postgres_database_url, tmp_path, lease_ms=60_000, drain_window_s=120) as two,
        ):
            yield one, two

    async def test_change_through_one_is_read_and_watched_through_the_other(
        self, replicas: tuple[Keys, Keys]
    ) -> None:
        """Heartbeats come every ten seconds here: only the poll can be this quick."""
        one, two = replicas
        watch = two.stub.WatchKeys(pb.WatchKeysRequest())
        await watch.read()
        created = await one.create(**one.make("witness-1"))
        assert (await two.ask("GetKey", pb.GetKeyRequest(name=created.name))).key == created
        async with asyncio.timeout(5):
            assert list((await heard(watch)).keys) == [created]
        rotated = await one.rotate(**one.make("witness-2"))
        async with asyncio.timeout(5):
            assert list((await heard(watch)).keys) == [rotated.previous, rotated.key]
        watch.cancel()

    async def test_rotations_at_once_take_turns(self, replicas: tuple[Keys, Keys]) -> None:
        one, two = replicas
        await one.create(**one.make("k0"))
        made = [one.make(f"k{number}") for number in range(1, 9)]
        responses = await asyncio.gather(
            *(replicas[index % 2].rotate(**fields) for index, fields in enumerate(made))
        )
        assert sorted(response.key.epoch for response in responses) == list(range(2, 10))
        listed = (await two.ask("ListKeys", pb.ListKeysRequest())).keys
        active = [key for key in listed if key.state == pb.KEY_STATE_ACTIVE]
        assert [key.epoch for key in active] == [9]

    async def test_one_key_is_bound_once(self, replicas: tuple[Keys, Keys]) -> None:
        one, two = replicas
        made = one.make("k1")
        outcomes = await asyncio.gather(
            one.create(**made), two.create(**made | {"kid": "k2"}), return_exceptions=True
        )
        refused = [outcome for outcome in outcomes if isinstance(outcome, StatusError)]
        assert [error.reason for error in refused] == ["KEY_REUSED"]


@dataclass
class Process:
    """The keys service as `python -m keys_svc`."""

    popen: subprocess.Popen[bytes]
    port: int


@contextmanager
def process(database_url: str, tmp_path: Path, port: int) -> Iterator[Process]:
    ready = tmp_path / "ready.json"
    ready.unlink(missing_ok=True)
    environment = os.environ | {
        "PROVLEDGER_KEYS_DATABASE_URL": database_url,
        "PROVLEDGER_KEYS_PORT": str(port),
        "PROVLEDGER_KEYS_READY_FILE": str(ready),
        "PROVLEDGER_KEYS_GRACE_S": "0.2",
    }
    popen = subprocess.Popen([sys.executable, "-m", "keys_svc"], env=environment)
    try:
        yield Process(popen, port)
    finally:
        popen.kill()
        popen.wait()


class TestKeyRing:
    async def test_sees_a_rotation(self, keys: Keys) -> None:
        await keys.create(**keys.make("witness-1"))
        ring = keys.ring()
        await ring.start()
        try:
            first = await ring.wait_for("witness", TIMEOUT_S)
            assert (first.kid, first.epoch) == ("witness-1", 1)
            rotated = await keys.rotate(**keys.make("witness-2", Algorithm.ECDSA_P256))
            await until(lambda: ring.current("witness").kid == "witness-2")
            second = ring.current("witness")
            assert second.not_before_ns == rotated.key.not_before_ns
            assert ring.accepts("witness", "witness-1", 1)
            # What either signs is verified by what the JWKS says of its kid.
            published = await keys.jwks()
            for key in (first, second):
                signature = await key.signer.sign(b"x")
                found = published.find(
                    purpose="witness", kid=key.kid, thumbprint=key.thumbprint, epoch=key.epoch
                )
                found.verify(signature, b"x")
        finally:
            await ring.close()

    async def test_killed_keys_service_is_outlived_for_a_lease(
        self, sqlite_url: str, tmp_path: Path
    ) -> None:
        """SIGKILL: signing goes on, ends with the lease, and is back with the service."""
        port, lease_ns = free_port(), [0]
        with process(sqlite_url, tmp_path, port) as service:
            async with channel(f"127.0.0.1:{port}") as opened:
                keys = Keys(opened, tmp_path, port)
                await opened.channel_ready()
                await keys.create(**keys.make("witness-1"))
            ring = keys.ring(lease_clock=lambda: lease_ns[0])
            await ring.start()
            try:
                await ring.wait_for("witness", TIMEOUT_S)
                service.popen.send_signal(signal.SIGKILL)
                service.popen.wait()
                assert ring.current("witness").kid == "witness-1"
                lease_ns[0] = 30_000 * 1_000_000  # the default lease, to its last moment
                assert ring.current("witness").kid == "witness-1"
                lease_ns[0] += 1
                with pytest.raises(UnavailableError) as caught:
                    ring.current("witness")
                assert caught.value.reason == "KEY_LEASE_EXPIRED"
                with process(sqlite_url, tmp_path, port):
                    assert (await ring.wait_for("witness", TIMEOUT_S)).kid == "witness-1"
            finally:
                await ring.close()

    async def test_replica_cut_off_from_its_database_prolongs_no_lease(
        self, sqlite_url: str, tmp_path: Path
    ) -> None:
        lease_ns = [0]
        async with keys_on(sqlite_url, tmp_path) as keys:
            await keys.create(**keys.make("witness-1"))
            ring = keys.ring(lease_clock=lambda: lease_ns[0])
            await ring.start()
            try:
                await ring.wait_for("witness", TIMEOUT_S)
                engine = open_engine(sqlite_url, "keys")
                with engine.begin() as connection:
                    connection.execute(sa.text("ALTER TABLE registry RENAME TO gone"))
                lease_ns[0] = 1500 * 1_000_000 + 1
                # A few heartbeats are due in this time; none may come.
                with pytest.raises(UnavailableError):
                    await ring.wait_for("witness", timeout_s=1.2)
                with engine.begin() as connection:
                    connection.execute(sa.text("ALTER TABLE gone RENAME TO registry"))
                engine.dispose()
                await ring.wait_for("witness", TIMEOUT_S)
            finally:
                await ring.close()


class TestSettings:
    def test_are_read_from_the_environment(self) -> None:
        env = {"PROVLEDGER_KEYS_DATABASE_URL": "sqlite:///x", "PROVLEDGER_KEYS_LEASE_MS": "5000"}
        read = settings.load(Settings, "keys", env=env)
        assert (read.database_url, read.lease_ms, read.drain_window_s) == ("sqlite:///x", 5000, 120)

    @pytest.mark.parametrize(
        "env",
        [
            {},
            {"PROVLEDGER_KEYS_DATABASE_URL": "sqlite:///x", "PROVLEDGER_KEYS_LEASE_MS": "10"},
            {"PROVLEDGER_KEYS_DATABASE_URL": "sqlite:///x", "PROVLEDGER_KEYS_LEASE": "10"},
        ],
    )
    def test_that_cannot_work_are_refused(self, env: dict[str, str]) -> None:
        with pytest.raises(ConfigError):
            settings.load(Settings, "keys", env=env)

    async def test_drain_window_shorter_than_two_leases_is_refused(self, sqlite_url: str) -> None:
        with pytest.raises(ConfigError, match="DRAIN_WINDOW"):
            await build(config(sqlite_url, lease_ms=30_000, drain_window_s=59))


async def test_thumbprint_in_the_registry_is_that_of_the_file(keys: Keys) -> None:
    key = await keys.create(**keys.make("witness-1"))
    signer = await kms.open_signer(key.uri, keys.key_dir)
    assert key.thumbprint == thumbprint_of(signer.public_key)
