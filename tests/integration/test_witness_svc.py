"""The witness service over real sockets, with the real keys service beside it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import keys_svc.app
import keys_svc.config
import witness_svc.app
from provledger import dsse, jcs, merkle, names, settings, witness_batch
from provledger.api.common.v1 import common_pb2
from provledger.api.keys.v1 import keys_pb2, keys_pb2_grpc
from provledger.api.witness.v1 import witness_pb2 as pb
from provledger.api.witness.v1 import witness_pb2_grpc
from provledger.errors import InvalidArgumentError, StatusError, UnavailableError
from provledger.hashing import SUITES
from provledger.jwk import jwk_from_public_key
from provledger.keyset import KeySet
from provledger.kms import Signer, local, open_signer
from provledger.rpc.channel import call, channel
from provledger.rpc.errors import from_rpc_error, status_from_pb
from provledger.rpc.server import App, ServerSettings, serve
from provledger.settings import ConfigError
from tests.support.ports import free_port
from witness_svc.config import Settings

TIMEOUT_S = 20.0


@asynccontextmanager
async def running(app: App, config: ServerSettings) -> AsyncIterator[int]:
    """A service in this process; its port."""
    stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(app, config, stop=stop, on_ready=ready.set_result))
    await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
    try:
        if not ready.done():
            await task  # failed before it was ready, and says why
        yield await ready
    finally:
        stop.set()
        await task


class Keys:
    """A keys service that can be stopped and started again on its port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.endpoint = f"127.0.0.1:{self.port}"
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        config = keys_svc.config.Settings(
            database_url=f"sqlite:///{self.folder / 'keys.sqlite3'}",
            port=self.port,
            grace_s=0.1,
            lease_ms=1500,
        )
        await self._stack.enter_async_context(running(await keys_svc.app.build(config), config))

    async def stop(self) -> None:
        await self._stack.aclose()
        self._stack = AsyncExitStack()

    async def ask(self, method: str, request: Any) -> Any:
        async with channel(self.endpoint) as opened:
            stub = keys_pb2_grpc.KeysServiceStub(opened)
            return await call(getattr(stub, method), request, timeout_s=TIMEOUT_S)

    def _made(self, kid: str) -> dict[str, Any]:
        public_key = local.create_key(self.folder / f"{kid}.pem")
        jwk = jcs.encode(jwk_from_public_key(public_key))
        return {"kid": kid, "uri": f"local:{kid}.pem", "jwk": jwk}

    async def create(self, kid: str) -> None:
        purpose = keys_pb2.KEY_PURPOSE_WITNESS
        await self.ask("CreateKey", keys_pb2.CreateKeyRequest(purpose=purpose, **self._made(kid)))

    async def rotate(self, kid: str) -> None:
        purpose = keys_pb2.KEY_PURPOSE_WITNESS
        await self.ask("RotateKey", keys_pb2.RotateKeyRequest(purpose=purpose, **self._made(kid)))

    async def key_set(self) -> KeySet:
        return KeySet.parse((await self.ask("GetJwks", keys_pb2.GetJwksRequest())).jwks)


@pytest.fixture
async def keys(tmp_path: Path) -> AsyncIterator[Keys]:
    opened = Keys(tmp_path)
    await opened.start()
    try:
        yield opened
    finally:
        await opened.stop()


def config(keys: Keys, **changes: Any) -> Settings:
    values: dict[str, Any] = {"keys_endpoint": keys.endpoint, "key_dir": keys.folder, "grace_s": 1}
    return Settings(**(values | changes))


@dataclass(frozen=True)
class Witness:
    """A channel to a witness service, and its port."""

    channel: grpc.aio.Channel
    port: int


@asynccontextmanager
async def client_of(app: App, chosen: Settings) -> AsyncIterator[Witness]:
    async with running(app, chosen) as port, channel(f"127.0.0.1:{port}") as opened:
        yield Witness(opened, port)


@asynccontextmanager
async def witness_beside(keys: Keys, **changes: Any) -> AsyncIterator[Witness]:
    chosen = config(keys, **changes)
    app = await witness_svc.app.build(chosen)
    async with client_of(app, chosen) as opened:
        yield opened


@pytest.fixture
async def witness(keys: Keys) -> AsyncIterator[Witness]:
    await keys.create("witness-1")
    async with witness_beside(keys) as opened:
        yield opened


def request(*states: bytes, **changes: Any) -> pb.WitnessBatchRequest:
    """A call that creates entities with these states."""
    values: dict[str, Any] = {
        "ledger": "tenants/acme/ledgers/main",
        "ledger_uid": bytes(16),
        "suite": common_pb2.SUITE_BLAKE3,
    }
    made = pb.WitnessBatchRequest(**(values | changes))
    for index, state in enumerate(states):
        item = made.items.add(
            receipt_id=names.uuid7(time.time_ns(), os.urandom(10)), principal="anonymous"
        )
        item.draft.request_id = f"r-{index}"
        item.draft.actor.id = "bot"
        item.draft.mutation.action = common_pb2.ACTION_CREATE
        item.draft.mutation.resource_type = "Version"
        item.draft.mutation.resource_id = f"redis/{index}"
        item.draft.mutation.new_state = state
    return made


async def ask(opened: Witness, asked: pb.WitnessBatchRequest) -> pb.WitnessBatchResponse:
    stub = witness_pb2_grpc.WitnessServiceStub(opened.channel)
    return await stub.WitnessBatch(asked, timeout=TIMEOUT_S)


async def health(opened: Witness, service: str = "") -> int:
    stub: Any = health_pb2_grpc.HealthStub(opened.channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT_S)
    return answer.status  # type: ignore[no-any-return]


async def until_health(opened: Witness, status: int) -> None:
    """Wait until health says so, for the witness as for the whole process."""
    async with asyncio.timeout(TIMEOUT_S):
        for service in ("", "provledger.api.witness.v1.WitnessService"):
            while await health(opened, service) != status:  # noqa: ASYNC110 - elsewhere
                await asyncio.sleep(0.02)


def verify(response: pb.WitnessBatchResponse, key_set: KeySet) -> None:
    """Check an answer against the published keys, as any outsider would."""
    body = witness_batch.parse_body(response.body)
    key = key_set.find(purpose="witness", kid=body.kid, thumbprint=body.thumbprint)
    key.verify(response.sig, dsse.pae(witness_batch.PAYLOAD_TYPE, response.body))
    key.check_valid_at(body.signed_at_ns)
    data = response.leaf_hashes
    leaves = [data[start : start + 32] for start in range(0, len(data), 32)]
    for result in response.results:
        if result.HasField("witnessed"):
            made = result.witnessed
            leaf = witness_batch.statement_leaf_hash(body.suite, made.statement)
            hasher = SUITES[body.suite].H
            path = merkle.inclusion_proof(leaves, made.batch_index, hasher=hasher)
            witness_batch.verify_batch_path(body.suite, body, made.batch_index, leaf, path)


async def until_kid(opened: Witness, kid: str) -> pb.WitnessBatchResponse:
    """Ask until the witness signs with `kid`; every answer on the way must be a good one."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            response = await ask(opened, request(b"{}"))
            if response.kid == kid:
                return response
            await asyncio.sleep(0.005)


async def test_statements_verify_against_the_published_keys(keys: Keys, witness: Witness) -> None:
    response = await ask(witness, request(b'{"a":1}', b'{"a":1,"a":2}', b"[true]"))
    key_set = await keys.key_set()
    verify(response, key_set)
    error = status_from_pb(response.results[1].rejection)
    assert isinstance(error, InvalidArgumentError)
    assert (error.reason, error.violations[0].field) == ("INVALID_JSON", "mutation.new_state")
    assert error.metadata["pointer"] == "/a"
    damaged = pb.WitnessBatchResponse.FromString(response.SerializeToString())
    damaged.sig = bytes([damaged.sig[0] ^ 1]) + damaged.sig[1:]
    with pytest.raises(Exception, match="does not verify"):
        verify(damaged, key_set)


async def test_a_thousand_drafts_pass_while_health_is_answered(
    keys: Keys, witness: Witness
) -> None:
    states = [json.dumps({"n": index, "s": "x" * 300}).encode() for index in range(1000)]
    asked = asyncio.ensure_future(ask(witness, request(*states)))
    answered = 0
    while not asked.done():
        assert await health(witness) == health_pb2.HealthCheckResponse.SERVING
        answered += 1
    response = await asked
    assert len(response.results) == 1000
    assert answered >= 2
    verify(response, await keys.key_set())


async def test_many_calls_at_once_all_verify(keys: Keys, witness: Witness) -> None:
    calls = [ask(witness, request(*[b'{"n":%d}' % index] * 3)) for index in range(50)]
    responses = await asyncio.gather(*calls)
    key_set = await keys.key_set()
    for response in responses:
        verify(response, key_set)


async def test_a_slow_key_signs_once_for_all_who_wait(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, started = asyncio.Event(), asyncio.Event()

    class Slow:
        """A real key behind a service that takes its time, once it is in use."""

        def __init__(self, inner: Signer) -> None:
            self._inner = inner
            self.uri, self.algorithm = inner.uri, inner.algorithm
            self.public_key, self.close = inner.public_key, inner.close

        async def sign(self, message: bytes) -> bytes:
            if message.startswith(b"DSSE"):
                started.set()
                await gate.wait()
            return await self._inner.sign(message)

    async def open_slowly(uri: str, key_dir: Path) -> Signer:
        return Slow(await open_signer(uri, key_dir))

    monkeypatch.setattr(witness_svc.app, "open_signer", open_slowly)
    await keys.create("witness-1")
    chosen = config(keys)
    app = await witness_svc.app.build(chosen)
    service: Any = app.services[0][1]
    async with client_of(app, chosen) as opened:
        calls = [asyncio.ensure_future(ask(opened, request(b"{}")))]
        await started.wait()
        calls += [
            asyncio.ensure_future(ask(opened, request(*[b'{"n":%d}' % n] * 3))) for n in range(20)
        ]
        async with asyncio.timeout(TIMEOUT_S):
            while service._witness._in_work < 61:  # noqa: ASYNC110 - work done elsewhere
                await asyncio.sleep(0.005)
        gate.set()
        responses = await asyncio.gather(*calls)
        key_set = await keys.key_set()
        for response in responses:
            verify(response, key_set)
        assert len({response.sig for response in responses}) == 2


async def test_a_fault_of_the_call_is_a_typed_status(witness: Witness) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        await ask(witness, request(b"{}", ledger="acme"))
    error = from_rpc_error(caught.value)
    assert isinstance(error, InvalidArgumentError)
    assert error.violations[0].field == "ledger"


async def test_a_message_over_the_limit_costs_its_sender_only(keys: Keys, witness: Witness) -> None:
    endless = request(b'"' + b"x" * (20 << 20) + b'"')
    # The sender's own limit is lifted, so that it is the server that refuses.
    options = [("grpc.max_send_message_length", -1)]
    async with channel(f"127.0.0.1:{witness.port}", options=options) as opened:
        with pytest.raises(grpc.RpcError) as caught:
            await ask(Witness(opened, witness.port), endless)
    assert from_rpc_error(caught.value).reason == "MESSAGE_TOO_LARGE"
    verify(await ask(witness, request(b"{}")), await keys.key_set())


async def test_the_largest_payloads_fit_an_answer(keys: Keys, witness: Witness) -> None:
    state = b'"' + b"x" * (500 * 1024) + b'"'
    response = await ask(witness, request(*[state] * 12))
    verify(response, await keys.key_set())
    assert all(len(result.witnessed.payload) > 1_000_000 for result in response.results)
    with pytest.raises(grpc.RpcError) as caught:
        await ask(witness, request(*[state] * 20))
    assert from_rpc_error(caught.value).reason == "BATCH_TOO_LARGE"


async def test_rotation_fails_no_call(keys: Keys, witness: Witness) -> None:
    first = await ask(witness, request(b"{}"))
    assert (first.kid, first.epoch) == ("witness-1", 1)
    await keys.rotate("witness-2")
    second = await until_kid(witness, "witness-2")
    assert second.epoch == 2
    key_set = await keys.key_set()
    verify(first, key_set)
    verify(second, key_set)


async def test_keys_service_away_is_survived_until_the_lease_ends(
    keys: Keys, witness: Witness
) -> None:
    await keys.stop()
    response = await ask(witness, request(b"{}"))
    assert response.kid == "witness-1"

    async with asyncio.timeout(TIMEOUT_S):
        while True:
            try:
                await ask(witness, request(b"{}"))
            except grpc.RpcError as raised:
                error = from_rpc_error(raised)
                break
            await asyncio.sleep(0.02)
    assert isinstance(error, UnavailableError)
    assert error.reason == "KEY_LEASE_EXPIRED"
    assert error.retry_delay_s
    # Who asks for health must not be sent here meanwhile.
    await until_health(witness, health_pb2.HealthCheckResponse.NOT_SERVING)

    await keys.start()
    await until_health(witness, health_pb2.HealthCheckResponse.SERVING)
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            try:
                response = await ask(witness, request(b"{}"))
                break
            except grpc.RpcError:
                await asyncio.sleep(0.02)
    verify(response, await keys.key_set())


async def test_witness_waits_for_its_first_key(keys: Keys) -> None:
    chosen = config(keys)
    building = asyncio.ensure_future(witness_svc.app.build(chosen))
    await asyncio.wait({building}, timeout=0.2)
    assert not building.done()
    await keys.create("witness-1")
    app = await asyncio.wait_for(building, TIMEOUT_S)
    async with client_of(app, chosen) as opened:
        for service in ("", "provledger.api.witness.v1.WitnessService"):
            assert await health(opened, service) == health_pb2.HealthCheckResponse.SERVING
        verify(await ask(opened, request(b"{}")), await keys.key_set())


async def test_a_witness_told_to_stop_while_it_waits_leaves_nothing_behind(keys: Keys) -> None:
    building = asyncio.ensure_future(witness_svc.app.build(config(keys)))
    await asyncio.wait({building}, timeout=0.1)
    building.cancel()
    with pytest.raises(asyncio.CancelledError):
        await building
    others = {task.get_name() for task in asyncio.all_tasks()}
    assert not {name for name in others if name.startswith("keyring")}


async def test_messages_too_small_for_an_answer_are_a_fault_of_the_settings(keys: Keys) -> None:
    with pytest.raises(ConfigError, match="MAX_MESSAGE_BYTES"):
        await witness_svc.app.build(config(keys, max_message_bytes=1 << 20))


def test_settings_come_from_the_environment(tmp_path: Path) -> None:
    loaded = settings.load(
        Settings,
        "witness",
        env={
            "PROVLEDGER_WITNESS_KEYS_ENDPOINT": "127.0.0.1:1",
            "PROVLEDGER_WITNESS_KEY_DIR": str(tmp_path),
            "PROVLEDGER_WITNESS_SIGNATURES_IN_FLIGHT": "4",
        },
    )
    assert (loaded.keys_endpoint, loaded.key_dir) == ("127.0.0.1:1", tmp_path)
    assert loaded.signatures_in_flight == 4
    assert settings.describe(Settings, "witness")


async def test_the_process_says_when_it_is_ready_and_drains_on_sigterm(
    keys: Keys, tmp_path: Path
) -> None:
    await keys.create("witness-1")
    ready_file = tmp_path / "witness.json"
    environment = {
        **os.environ,
        "PROVLEDGER_WITNESS_KEYS_ENDPOINT": keys.endpoint,
        "PROVLEDGER_WITNESS_KEY_DIR": str(tmp_path),
        "PROVLEDGER_WITNESS_READY_FILE": str(ready_file),
        "PROVLEDGER_WITNESS_LOG_FORMAT": "json",
    }
    with subprocess.Popen(  # noqa: ASYNC220 - it starts at once
        [sys.executable, "-m", "witness_svc"], env=environment, stderr=subprocess.PIPE
    ) as process:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                while not ready_file.exists():
                    assert process.poll() is None
                    await asyncio.sleep(0.02)
            port = json.loads(ready_file.read_text())["port"]
            async with channel(f"127.0.0.1:{port}") as opened:
                response = await ask(Witness(opened, port), request(b"{}", b"{"))
                verify(response, await keys.key_set())
            process.send_signal(signal.SIGTERM)
            _, log = await asyncio.to_thread(process.communicate, timeout=TIMEOUT_S)
        finally:
            process.kill()
    assert process.returncode == 0
    assert not ready_file.exists()
    assert all(json.loads(line)["service"] == "witness" for line in log.splitlines())


async def test_no_value_and_no_secret_reaches_the_log(
    keys: Keys, witness: Witness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    response = await ask(
        witness, request(b'{"a":"hush-4711"}', b'{"a":"hush-4711","a":1}', b'"hush-4711')
    )
    with pytest.raises(grpc.RpcError):
        await ask(witness, request(b'"hush-4711"', suite=0))
    secret = response.results[0].witnessed.secret
    for record in caplog.records:
        text = f"{record.getMessage()} {record.__dict__}"
        assert "hush-4711" not in text
        assert secret.hex() not in text
    for result in response.results:
        if result.HasField("rejection"):
            error: StatusError = status_from_pb(result.rejection)
            assert "hush" not in f"{error} {error.metadata} {error.violations}"
