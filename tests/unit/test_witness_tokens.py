"""The witness under signing tokens: outages it survives, and keys it lets go of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from provledger import dsse, telemetry, witness_batch
from provledger.errors import UnavailableError
from provledger.jwk import Algorithm, thumbprint_of, verify_signature
from provledger.keyset import KeyPurpose, VerificationKey
from provledger.kms.errors import KMSConfigError, KMSIntegrityError, KMSUnavailableError
from provledger.kms.local import LocalSigner, key_in_memory
from provledger.signing_token import verify_token
from tests.support.chain import START_NS
from tests.support.metered import metered
from tests.unit.test_witness_signing import FakeKeys, FakeKMS, active, hashes, verify
from witness_svc import tokens as tokens_module
from witness_svc.signing import BatchSigner, SignedBatch
from witness_svc.tokens import SigningTokens

SECOND_NS = 1_000_000_000


@dataclass
class Clock:
    now_ns: int = START_NS

    def __call__(self) -> int:
        return self.now_ns


@dataclass
class Setup:
    clock: Clock
    kms: FakeKMS
    keys: FakeKeys
    tokens: SigningTokens
    signer: BatchSigner


def setup(max_uses: int = 1000, make_key: Callable[..., Any] = key_in_memory) -> Setup:
    clock, kms = Clock(), FakeKMS()
    keys = FakeKeys(active(kms))
    tokens = SigningTokens(keys, clock=clock, lifetime_s=300, max_uses=max_uses, make_key=make_key)
    signer = BatchSigner(
        keys, clock=clock, max_statements=100, max_queued_statements=1000, tokens=tokens
    )
    return Setup(clock, kms, keys, tokens, signer)


async def sign(made: Setup, label: str = "a") -> SignedBatch:
    batch, _ = await made.signer.sign("blake3", hashes(label, 2))
    return batch


def use_of(batch: SignedBatch, kms: FakeKMS) -> int:
    """Check a batch as a verifier does; which use of a token it is, 0 without one."""
    body = witness_batch.parse_body(batch.body)
    if body.token is None:
        verify(batch, 0, hashes("a", 2), kms)
        return 0
    issuer = VerificationKey.from_public_key(
        kms.public_key, kid=kms.label, purpose=KeyPurpose.WITNESS, epoch=body.epoch
    )
    in_memory = verify_token(body.token, issuer, body.signed_at_ns)
    verify_signature(in_memory, batch.sig, dsse.pae(witness_batch.PAYLOAD_TYPE, batch.body))
    assert thumbprint_of(in_memory) != issuer.thumbprint
    assert (batch.kid, body.kid) == (kms.label, kms.label)
    return body.token.use


async def test_one_signature_of_the_key_serves_many_batches() -> None:
    made = setup()
    await made.tokens.renew()
    uses = [use_of(await sign(made), made.kms) for _ in range(5)]
    assert uses == [1, 2, 3, 4, 5]
    assert made.kms.calls == 1


async def test_without_a_token_the_key_itself_is_asked() -> None:
    made = setup()
    assert use_of(await sign(made), made.kms) == 0
    assert made.kms.calls == 1


async def test_appends_go_on_through_an_outage_until_the_token_ends() -> None:
    made = setup()
    await made.tokens.renew()
    made.kms.failure = KMSUnavailableError("at /secret/place")
    with pytest.raises(KMSUnavailableError):
        await made.tokens.renew()
    made.clock.now_ns += 300 * SECOND_NS
    assert use_of(await sign(made), made.kms) == 1
    made.clock.now_ns += 1
    with pytest.raises(UnavailableError) as caught:
        await sign(made)
    assert (caught.value.reason, caught.value.retry_delay_s) == ("KMS_UNAVAILABLE", 1.0)
    assert caught.value.metadata == {"kid": "witness-1"}
    made.kms.failure = None
    assert use_of(await sign(made), made.kms) == 0


async def test_a_token_is_used_so_often_and_no_more() -> None:
    made = setup(max_uses=3)
    await made.tokens.renew()
    assert [use_of(await sign(made), made.kms) for _ in range(5)] == [1, 2, 3, 0, 0]


@pytest.mark.parametrize("how", ["used up", "dropped", "rotated away", "closed"])
async def test_the_metric_of_its_end_does_not_outlive_a_token(how: str) -> None:
    """In an outage it says for how long appends go on."""
    made, name = setup(max_uses=2), "provledger.witness.token_ends_at"
    with metered() as metrics:
        await made.tokens.renew()
        await sign(made)
        assert metrics.value(name) == START_NS / SECOND_NS + 300
        if how == "used up":
            await sign(made)
        elif how == "dropped":
            made.tokens.drop()
        elif how == "rotated away":
            made.keys.now = active(FakeKMS())
            await sign(made)
        else:
            await made.tokens.close()
        assert metrics.value(name) == 0
        made.keys.now = active(made.kms)
        await made.tokens.renew()
        assert metrics.value(name) == START_NS / SECOND_NS + 300


async def test_a_token_ends_with_its_key() -> None:
    """Rotated away: nothing more is signed in its name, and its key in memory is let go."""
    made = setup()
    await made.tokens.renew()
    other = FakeKMS("witness-2")
    made.keys.now = active(other, epoch=2)
    assert use_of(await sign(made), other) == 0
    # Nor does it come back with its issuer.
    made.keys.now = active(made.kms)
    assert use_of(await sign(made), made.kms) == 0
    made.keys.now = active(other, epoch=2)
    await made.tokens.renew()
    batch = await sign(made)
    assert use_of(batch, other) == 1
    assert (batch.kid, batch.epoch) == ("witness-2", 2)


async def test_without_an_active_key_a_token_signs_nothing() -> None:
    made = setup()
    await made.tokens.renew()
    made.keys.now = None
    with pytest.raises(UnavailableError) as caught:
        await sign(made)
    assert caught.value.reason == "NO_ACTIVE_KEY"


async def test_a_token_never_outlasts_the_validity_of_a_draining_key() -> None:
    made = setup()
    ends_ns = START_NS + 10 * SECOND_NS
    made.keys.now = replace(active(made.kms), not_after_ns=ends_ns)
    await made.tokens.renew()
    token = witness_batch.parse_body((await sign(made)).body).token
    assert token is not None
    assert token.certificate.not_after_ns == ends_ns


async def test_a_token_starts_when_its_key_does() -> None:
    """Our clock may lag a little behind that of the keys service."""
    made = setup()
    made.keys.now = active(made.kms, not_before_ns=START_NS + SECOND_NS)
    await made.tokens.renew()
    batch = await sign(made)
    assert use_of(batch, made.kms) == 1
    assert batch.signed_at_ns == START_NS + SECOND_NS


async def test_a_clock_that_steps_back_asks_the_key_itself() -> None:
    made = setup()
    await made.tokens.renew()
    made.clock.now_ns -= SECOND_NS
    assert use_of(await sign(made), made.kms) == 0


async def test_a_key_in_memory_that_fails_its_test_is_not_certified() -> None:
    class Liar(LocalSigner):
        async def sign(self, message: bytes) -> bytes:
            return bytes(64)

    def make(uri: str, algorithm: Algorithm) -> Any:
        good = key_in_memory(uri, algorithm)
        return Liar(uri, algorithm, good.public_key, good._private_key)

    made = setup(make_key=make)
    with pytest.raises(KMSIntegrityError):
        await made.tokens.renew()
    assert made.kms.calls == 0


async def test_a_key_in_memory_that_goes_wrong_is_dropped() -> None:
    @dataclass(frozen=True, slots=True)
    class Failing(LocalSigner):
        async def sign(self, message: bytes) -> bytes:
            return bytes(64) if b"witness-batch" in message else self._private_key.sign(message)  # type: ignore[call-arg]

    def make(uri: str, algorithm: Algorithm) -> Any:
        good = key_in_memory(uri, algorithm)
        return Failing(uri, algorithm, good.public_key, good._private_key)

    made = setup(make_key=make)
    await made.tokens.renew()
    with pytest.raises(UnavailableError) as caught:
        await sign(made)
    assert caught.value.reason == "KMS_INTEGRITY"
    assert use_of(await sign(made), made.kms) == 0


async def test_a_key_that_lies_certifies_nothing() -> None:
    made = setup()
    made.kms.forge = True
    with pytest.raises(KMSIntegrityError):
        await made.tokens.renew()


async def test_an_algorithm_without_tokens_is_said_to_have_none() -> None:
    made = setup()
    made.keys.now = replace(active(made.kms), algorithm="ml-dsa-44")  # type: ignore[arg-type]
    with pytest.raises(KMSConfigError, match="certifies no tokens"):
        await made.tokens.renew()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - polled from outside
            await asyncio.sleep(0.001)


async def test_tokens_are_renewed_in_the_background_and_after_an_outage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Renewal does not wait for the end, and appends do not wait for renewal."""
    monkeypatch.setattr(
        tokens_module, "_RETRY", replace(tokens_module._RETRY, base_s=0.001, cap_s=0.001)
    )
    made = setup(max_uses=100)
    made.kms.failure = KMSUnavailableError("away")
    made.tokens.start()
    try:
        await until(lambda: made.kms.calls > 3)
        made.kms.failure = None
        await until(lambda: made.tokens._held is not None)
        first = made.tokens._held
        # Held back: the renewal that half of the uses bring about must stop nobody.
        made.kms.gate.clear()
        uses = [use_of(await sign(made), made.kms) for _ in range(60)]
        assert uses == list(range(1, 61))
        assert made.tokens._held is first
        made.kms.gate.set()
        await until(lambda: made.tokens._held is not first)
        assert use_of(await sign(made), made.kms) == 1
    finally:
        await made.tokens.close()
    assert made.tokens._held is None


async def test_renewal_survives_whatever_goes_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        tokens_module, "_RETRY", replace(tokens_module._RETRY, base_s=0.001, cap_s=0.001)
    )
    broken = [RuntimeError("a bug"), ValueError("another")]

    def make(uri: str, algorithm: Algorithm) -> Any:
        if broken:
            raise broken.pop()
        return key_in_memory(uri, algorithm)

    made = setup(make_key=make)
    made.tokens.start()
    try:
        await until(lambda: made.tokens._held is not None)
    finally:
        await made.tokens.close()
    assert not broken


async def test_rotation_brings_a_token_of_the_new_key(monkeypatch: pytest.MonkeyPatch) -> None:
    made = setup()
    made.tokens.start()
    try:
        await until(lambda: made.tokens._held is not None)
        other = FakeKMS("witness-2")
        made.keys.now = active(other, epoch=2)
        assert use_of(await sign(made), other) == 0
        await until(lambda: made.tokens._held is not None)
        assert use_of(await sign(made), other) == 1
    finally:
        await made.tokens.close()


async def test_spans_carry_the_kid_of_the_key_that_certified() -> None:
    exporter = InMemorySpanExporter()
    tracer = TracerProvider(shutdown_on_exit=False)
    tracer.add_span_processor(SimpleSpanProcessor(exporter))
    telemetry.use(tracer, MeterProvider(shutdown_on_exit=False))
    try:
        made = setup()
        await made.tokens.renew()
        await sign(made)
    finally:
        telemetry.shutdown()
    spans = {span.name: dict(span.attributes or {}) for span in exporter.get_finished_spans()}
    assert spans["witness.certify"] == {"provledger.kid": "witness-1"}
    assert spans["witness.sign"] == {
        "provledger.kid": "witness-1",
        "provledger.statements": 2,
        "provledger.token_use": 1,
        "provledger.batch_root": spans["witness.sign"]["provledger.batch_root"],
    }
