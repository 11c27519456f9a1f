"""One signature for the statements of many calls: coalescing, rotation, and keys that fail."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from unittest.mock import ANY

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from provledger import dsse, telemetry, witness_batch
from provledger.errors import ResourceExhaustedError, StatusError, UnavailableError
from provledger.jwk import Algorithm, thumbprint_of, verify_signature
from provledger.keyring import ActiveSigner
from provledger.keyset import KeyPurpose
from provledger.kms.errors import (
    KMSConfigError,
    KMSIntegrityError,
    KMSKeyDisabledError,
    KMSThrottledError,
    KMSUnavailableError,
)
from tests.support.chain import START_NS, private_key
from witness_svc import signing
from witness_svc.signing import BatchSigner, SignedBatch


@dataclass
class FakeKMS:
    """A signer with a real key that can be held back, or made to fail or lie."""

    label: str = "witness-1"
    calls: int = 0
    failure: BaseException | None = None
    forge: bool = False
    started: asyncio.Event = field(default_factory=asyncio.Event)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    uri: str = "fake:/secret/place"
    algorithm: Algorithm = Algorithm.ED25519

    def __post_init__(self) -> None:
        self.gate.set()

    @property
    def key(self) -> Ed25519PrivateKey:
        return private_key(self.label)

    @property
    def public_key(self) -> Any:
        return self.key.public_key()

    async def sign(self, message: bytes) -> bytes:
        self.calls += 1
        self.started.set()
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return bytes(64) if self.forge else self.key.sign(message)

    async def close(self) -> None:
        pass


def active(kms: FakeKMS, *, epoch: int = 1, not_before_ns: int = 0) -> ActiveSigner:
    return ActiveSigner(
        kid=kms.label,
        purpose=KeyPurpose.WITNESS,
        epoch=epoch,
        thumbprint=thumbprint_of(kms.public_key),
        public_key=kms.public_key,
        algorithm=kms.algorithm,
        signer=kms,
        not_before_ns=not_before_ns,
        not_after_ns=None,
    )


@dataclass
class FakeKeys:
    """Stands in for the key ring: hands out what `now` is."""

    now: ActiveSigner | None
    asked: int = 0

    def current(self, purpose: str) -> ActiveSigner:
        assert purpose == "witness"
        self.asked += 1
        if self.now is None:
            raise UnavailableError("NO_ACTIVE_KEY", "no key", retry_delay_s=1.0)
        return self.now


def batch_signer(keys: FakeKeys, **changes: Any) -> BatchSigner:
    values = {"max_statements": 100, "max_queued_statements": 1000}
    return BatchSigner(keys, clock=lambda: START_NS, **(values | changes))


def hashes(label: str, count: int, suite: str = "blake3") -> list[bytes]:
    return [
        witness_batch.statement_leaf_hash(suite, f"{label}/{index}".encode())
        for index in range(count)
    ]


def verify(batch: SignedBatch, first: int, leaves: list[bytes], kms: FakeKMS) -> None:
    """Check what a caller was told as a ledger would."""
    body = witness_batch.parse_body(batch.body)
    every = [batch.leaf_hashes[at : at + 32] for at in range(0, len(batch.leaf_hashes), 32)]
    assert every[first : first + len(leaves)] == leaves
    assert body.root == witness_batch.batch_root(body.suite, every)
    assert body.size == len(every)
    assert body.thumbprint == thumbprint_of(kms.public_key)
    assert (batch.kid, batch.epoch, batch.signed_at_ns) == (
        body.kid,
        body.epoch,
        body.signed_at_ns,
    )
    verify_signature(kms.public_key, batch.sig, dsse.pae(witness_batch.PAYLOAD_TYPE, batch.body))


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def together(kms: FakeKMS, calls: list[Callable[[], Awaitable[Any]]]) -> list[Any]:
    """Hold the first signature back until all calls are waiting; their outcomes."""
    kms.gate.clear()
    tasks = [asyncio.ensure_future(calls[0]())]
    async with asyncio.timeout(10):
        await kms.started.wait()
    tasks += [asyncio.ensure_future(call()) for call in calls[1:]]
    await turns()
    kms.gate.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("suite", ["blake3", "blake3-all", "fips"])
async def test_one_statement_is_a_batch_of_one(suite: str) -> None:
    kms = FakeKMS()
    leaves = hashes("a", 1, suite)
    batch, first = await batch_signer(FakeKeys(active(kms))).sign(suite, leaves)
    verify(batch, first, leaves, kms)
    assert batch.leaf_hashes == leaves[0]
    assert witness_batch.parse_body(batch.body).suite == suite
    assert batch.signed_at_ns == START_NS


async def test_calls_that_arrive_during_a_signature_share_the_next() -> None:
    kms = FakeKMS()
    signer = batch_signer(FakeKeys(active(kms)))
    groups = [hashes("a", 3), hashes("b", 1), hashes("c", 5)]
    outcomes = await together(kms, [partial(signer.sign, "blake3", group) for group in groups])
    assert kms.calls == 2
    for (batch, first), leaves in zip(outcomes, groups, strict=True):
        verify(batch, first, leaves, kms)
    assert outcomes[1][0] is outcomes[2][0]
    assert [first for _, first in outcomes] == [0, 0, 1]


async def test_suites_are_signed_apart() -> None:
    kms = FakeKMS()
    signer = batch_signer(FakeKeys(active(kms)))
    groups = {suite: hashes("a", 2, suite) for suite in ("blake3", "fips", "blake3-all")}
    outcomes = await asyncio.gather(*[signer.sign(suite, g) for suite, g in groups.items()])
    assert kms.calls == 3
    for (batch, first), leaves in zip(outcomes, groups.values(), strict=True):
        verify(batch, first, leaves, kms)


async def test_a_signature_covers_no_more_than_its_limit_and_splits_no_call() -> None:
    kms = FakeKMS()
    signer = batch_signer(FakeKeys(active(kms)), max_statements=4)
    groups = [hashes("a", 1), hashes("b", 3), hashes("c", 2), hashes("d", 9)]
    outcomes = await together(kms, [partial(signer.sign, "blake3", group) for group in groups])
    for (batch, first), leaves in zip(outcomes, groups, strict=True):
        verify(batch, first, leaves, kms)
    assert [len(batch.leaf_hashes) // 32 for batch, _ in outcomes] == [1, 3, 2, 9]


async def test_rotation_changes_kid_epoch_and_key_together() -> None:
    old, new = FakeKMS("witness-1"), FakeKMS("witness-2")
    keys = FakeKeys(active(old, epoch=1))
    signer = batch_signer(keys)

    old.gate.clear()
    first = asyncio.ensure_future(signer.sign("blake3", hashes("a", 1)))
    await old.started.wait()
    keys.now = active(new, epoch=2)
    second = asyncio.ensure_future(signer.sign("blake3", hashes("b", 1)))
    await turns()
    old.gate.set()

    batch, index = await first
    verify(batch, index, hashes("a", 1), old)
    assert (batch.kid, batch.epoch) == ("witness-1", 1)
    batch, index = await second
    verify(batch, index, hashes("b", 1), new)
    assert (batch.kid, batch.epoch) == ("witness-2", 2)
    assert keys.asked == 2


async def test_signing_time_is_not_before_the_key_is_valid() -> None:
    """A keys service whose clock is a little ahead must not make signatures that never count."""
    kms = FakeKMS()
    keys = FakeKeys(active(kms, not_before_ns=START_NS + 10**9))
    batch, _ = await batch_signer(keys).sign("blake3", hashes("a", 1))
    assert batch.signed_at_ns == START_NS + 10**9
    keys.now = active(kms, not_before_ns=START_NS + 3600 * 10**9)
    with pytest.raises(UnavailableError) as caught:
        await batch_signer(keys).sign("blake3", hashes("a", 1))
    assert caught.value.reason == "CLOCK_SKEW"


async def test_without_a_key_nothing_is_signed() -> None:
    signer = batch_signer(FakeKeys(None))
    with pytest.raises(UnavailableError, match="no key"):
        signer.check_ready()
    with pytest.raises(UnavailableError, match="no key"):
        await signer.sign("blake3", hashes("a", 1))


FAILURES: list[tuple[BaseException, type[StatusError], str, float]] = [
    (KMSThrottledError("at /secret/place", retry_delay_s=2.5), ResourceExhaustedError,
     "KMS_THROTTLED", 2.5),
    (KMSUnavailableError("at /secret/place"), UnavailableError, "KMS_UNAVAILABLE", 1.0),
    (KMSKeyDisabledError("at /secret/place"), UnavailableError, "KMS_KEY_DISABLED", 1.0),
    (KMSConfigError("at /secret/place"), UnavailableError, "KMS_CONFIG", 1.0),
    (KMSIntegrityError("at /secret/place"), UnavailableError, "KMS_INTEGRITY", 1.0),
]  # fmt: skip


@pytest.mark.parametrize("case", FAILURES, ids=lambda case: type(case[0]).__name__)
async def test_a_failure_is_told_to_every_call_that_waits(case: Any) -> None:
    failure, kind, reason, delay_s = case
    kms = FakeKMS(failure=failure)
    signer = batch_signer(FakeKeys(active(kms)))
    outcomes = await together(
        kms, [partial(signer.sign, "blake3", hashes("a", 2)) for _ in range(3)]
    )
    assert kms.calls == 2
    for error in outcomes:
        assert type(error) is kind
        assert (error.reason, error.retry_delay_s) == (reason, delay_s)
        assert error.metadata == {"kid": "witness-1"}
        # Where the key is, is nobody's business but the operator's.
        assert "/secret/place" not in str(error)

    kms.failure = None
    batch, first = await signer.sign("blake3", hashes("b", 2))
    verify(batch, first, hashes("b", 2), kms)


async def test_a_signature_that_does_not_verify_goes_nowhere() -> None:
    kms = FakeKMS(forge=True)
    with pytest.raises(UnavailableError) as caught:
        await batch_signer(FakeKeys(active(kms))).sign("blake3", hashes("a", 1))
    assert caught.value.reason == "KMS_INTEGRITY"


async def test_a_key_of_another_kid_is_not_used() -> None:
    kms, other = FakeKMS("witness-1"), FakeKMS("witness-2")
    wrong = replace(active(kms), signer=other)
    with pytest.raises(UnavailableError) as caught:
        await batch_signer(FakeKeys(wrong)).sign("blake3", hashes("a", 1))
    assert caught.value.reason == "KMS_CONFIG"
    assert other.calls == 0


async def test_a_key_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing, "SIGN_TIMEOUT_S", 0.01)
    kms = FakeKMS()
    kms.gate.clear()
    with pytest.raises(UnavailableError) as caught:
        await batch_signer(FakeKeys(active(kms))).sign("blake3", hashes("a", 1))
    assert caught.value.reason == "KMS_UNAVAILABLE"


async def test_a_full_queue_turns_callers_away() -> None:
    kms = FakeKMS()
    signer = batch_signer(FakeKeys(active(kms)), max_queued_statements=3)
    outcomes = await together(
        kms, [partial(signer.sign, "blake3", hashes("a", count)) for count in (1, 2, 2)]
    )
    assert isinstance(outcomes[2], ResourceExhaustedError)
    assert outcomes[2].retry_delay_s
    assert isinstance(outcomes[1], tuple)


async def test_a_caller_that_gives_up_leaves_the_others_alone() -> None:
    kms = FakeKMS()
    signer = batch_signer(FakeKeys(active(kms)))
    kms.gate.clear()
    tasks = [asyncio.ensure_future(signer.sign("blake3", hashes(label, 2))) for label in ("a", "b")]
    await kms.started.wait()
    tasks[0].cancel()
    await turns()
    kms.gate.set()
    batch, first = await tasks[1]
    verify(batch, first, hashes("b", 2), kms)
    assert tasks[0].cancelled()


async def test_closing_signs_what_waits_and_refuses_what_comes_later() -> None:
    kms = FakeKMS()
    signer = batch_signer(FakeKeys(active(kms)))
    kms.gate.clear()
    waiting = asyncio.ensure_future(signer.sign("blake3", hashes("a", 1)))
    await kms.started.wait()
    closing = asyncio.ensure_future(signer.close())
    await turns()
    kms.gate.set()
    await closing
    batch, first = await waiting
    verify(batch, first, hashes("a", 1), kms)
    with pytest.raises(UnavailableError):
        await signer.sign("blake3", hashes("b", 1))


async def test_a_signature_has_one_span_that_names_its_key_and_links_its_calls() -> None:
    exporter = InMemorySpanExporter()
    tracer = TracerProvider(shutdown_on_exit=False)
    tracer.add_span_processor(SimpleSpanProcessor(exporter))
    telemetry.use(tracer, MeterProvider(shutdown_on_exit=False))
    try:
        kms = FakeKMS()
        signer = batch_signer(FakeKeys(active(kms)))

        async def ask(label: str) -> None:
            with telemetry.span(label):
                await signer.sign("blake3", hashes(label, 2))

        await together(kms, [partial(ask, label) for label in ("a", "b", "c")])
    finally:
        telemetry.shutdown()
    spans = exporter.get_finished_spans()
    calls = {span.name: span.context.span_id for span in spans if span.name in "abc"}
    one, other = [span for span in spans if span.name == "witness.sign"]
    for span, count, links in ((one, 2, {"a"}), (other, 4, {"b", "c"})):
        assert span.attributes is not None
        assert dict(span.attributes) == {
            "provledger.kid": "witness-1",
            "provledger.statements": count,
            "provledger.batch_root": ANY,
        }
        assert len(str(span.attributes["provledger.batch_root"])) == 64
        assert {link.context.span_id for link in span.links} == {calls[name] for name in links}
