"""The witness service with signing tokens over a key in AWS KMS, which goes away."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

import witness_svc.app
from provledger import dsse, jcs, witness_batch
from provledger.api.keys.v1 import keys_pb2
from provledger.api.witness.v1 import witness_pb2 as pb
from provledger.errors import UnavailableError
from provledger.jwk import jwk_from_public_key, verify_signature
from provledger.keyset import KeySet
from provledger.rpc.errors import from_rpc_error
from provledger.signing_token import verify_token
from tests.integration.test_witness_svc import (
    TIMEOUT_S,
    Keys,
    Witness,
    ask,
    client_of,
    config,
    request,
)
from tests.support.fake_aws_kms import FakeAWSKMS
from tests.support.token_bucket import TokenBucket

pytest.importorskip("boto3", reason="needs boto3: pip install 'provledger[aws]'")

SPECS = ("ECC_NIST_EDWARDS25519", "ECC_NIST_P256")


@dataclass
class Clock:
    """The real time, and what a test adds to it."""

    ahead_ns: int = 0

    def __call__(self) -> int:
        return time.time_ns() + self.ahead_ns


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeAWSKMS]:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "example")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with FakeAWSKMS() as fake:
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", fake.url)
        yield fake


@pytest.fixture
async def keys(tmp_path: Path) -> AsyncIterator[Keys]:
    opened = Keys(tmp_path)
    await opened.start()
    try:
        yield opened
    finally:
        await opened.stop()


async def make_key(keys: Keys, aws: FakeAWSKMS, spec: str) -> None:
    arn = aws.add_key(spec)
    jwk = jcs.encode(jwk_from_public_key(aws.keys[arn].private.public_key()))
    purpose = keys_pb2.KEY_PURPOSE_WITNESS
    await keys.ask(
        "CreateKey",
        keys_pb2.CreateKeyRequest(kid="witness-1", purpose=purpose, uri=f"aws-kms:{arn}", jwk=jwk),
    )


@asynccontextmanager
async def witness_with(
    keys: Keys, clock: Callable[[], int], **changes: Any
) -> AsyncIterator[Witness]:
    chosen = config(keys, **changes)
    app = await witness_svc.app.build(chosen, clock=clock)
    async with client_of(app, chosen) as opened:
        yield opened


def use_of(response: pb.WitnessBatchResponse, keys: KeySet) -> int:
    """Check an answer as a verifier does; which use of a token it is, 0 without one."""
    body = witness_batch.parse_body(response.body)
    key = keys.find(purpose="witness", kid=response.kid, thumbprint=body.thumbprint)
    public_key = key.public_key
    if body.token is not None:
        public_key = verify_token(body.token, key, body.signed_at_ns)
    pae = dsse.pae(witness_batch.PAYLOAD_TYPE, response.body)
    verify_signature(public_key, response.sig, pae)
    return 0 if body.token is None else body.token.use


async def until_token(opened: Witness, keys: KeySet) -> int:
    """Ask until an answer is under a token; which use that is."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            with suppress(grpc.RpcError):
                if use := use_of(await ask(opened, request(b"{}")), keys):
                    return use
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("spec", SPECS)
async def test_appends_outlast_an_outage_as_long_as_the_token_lasts(
    keys: Keys, aws: FakeAWSKMS, spec: str
) -> None:
    await make_key(keys, aws, spec)
    clock = Clock()
    async with witness_with(keys, clock, signing_token_s=300) as opened:
        key_set = await keys.key_set()
        use = await until_token(opened, key_set)
        signed = aws.outcomes["ok"]

        aws.fail_next("refused", times=10_000)
        for n in range(20):
            assert use_of(await ask(opened, request(b'{"n":%d}' % n)), key_set) == use + n + 1
        clock.ahead_ns += 290 * 10**9
        assert use_of(await ask(opened, request(b"{}")), key_set) == use + 21
        assert aws.outcomes["ok"] == signed

        clock.ahead_ns += 11 * 10**9
        with pytest.raises(grpc.RpcError) as caught:
            await ask(opened, request(b"{}"))
        error = from_rpc_error(caught.value)
        assert isinstance(error, UnavailableError)
        assert error.reason == "KMS_UNAVAILABLE"
        assert error.retry_delay_s

        aws.clear_faults()
        assert await until_token(opened, key_set) > 0


async def test_without_the_setting_there_is_no_token(keys: Keys, aws: FakeAWSKMS) -> None:
    await make_key(keys, aws, SPECS[0])
    async with witness_with(keys, Clock()) as opened:
        before = aws.outcomes["ok"]
        key_set = await keys.key_set()
        assert [use_of(await ask(opened, request(b"{}")), key_set) for _ in range(3)] == [0, 0, 0]
        assert aws.outcomes["ok"] == before + 3


async def test_a_throttled_key_is_asked_once_for_many_batches(keys: Keys, aws: FakeAWSKMS) -> None:
    """Two signatures a second are enough, one after another, for as many batches as there are."""
    await make_key(keys, aws, SPECS[0])
    async with witness_with(keys, Clock(), signing_token_s=60) as opened:
        key_set = await keys.key_set()
        await until_token(opened, key_set)
        aws.limit = TokenBucket(2.0, 1.0)
        before = aws.calls["Sign"]
        uses = [use_of(await ask(opened, request(b"{}")), key_set) for _ in range(50)]
        assert all(uses)
        assert aws.calls["Sign"] - before <= 1
