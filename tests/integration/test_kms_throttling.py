"""Keys whose provider limits the rate: what is learned, who waits, who is turned away, and when.

The last part shows that 10,000 statements a second fit into a limit of 100 signatures a second:
the witness's own batching and the real client libraries, against providers capped at that.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from provledger import dsse, witness_batch
from provledger.errors import ResourceExhaustedError
from provledger.jwk import thumbprint_of, verify_signature
from provledger.keyring import ActiveSigner
from provledger.keyset import KeyPurpose
from provledger.kms.errors import (
    KMSConfigError,
    KMSIntegrityError,
    KMSThrottledError,
    KMSUnavailableError,
)
from provledger.kms.remote import Caller, Patience, RemoteSigner
from provledger.kms.throttling import KeyLimiter, LearnedRate, NoTurnError, OutageGate
from provledger.retry import RetryPolicy
from tests.support.chain import START_NS, private_key
from tests.support.token_bucket import TokenBucket
from witness_svc.signing import BatchSigner

URI = "test-kms:witness-1"


# --- the rate, in simulated time ---


class Provider:
    """A token bucket in simulated time."""

    def __init__(self, rate_per_s: float, burst: float) -> None:
        self.rate_per_s, self.burst, self.tokens, self.filled_s = rate_per_s, burst, burst, 0.0

    def serves(self, now_s: float) -> bool:
        self.tokens = min(self.burst, self.tokens + (now_s - self.filled_s) * self.rate_per_s)
        self.filled_s = now_s
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


@dataclass
class Counts:
    served: int = 0
    refused: int = 0


def run(
    rate: LearnedRate, provider: Provider, seconds: float, *, start_s: float = 0.0,
    callers: int = 1, latency_s: float = 0.002,
) -> Counts:  # fmt: skip
    """Let callers who always have something to sign call one after another; what came of it."""
    counts = Counts()
    rng = random.Random(7)
    free_s = [start_s] * callers
    while True:
        caller = min(range(callers), key=free_s.__getitem__)
        now_s = free_s[caller]
        if now_s >= start_s + seconds:
            return counts
        sent_s = now_s + rate.reserve(now_s)
        answered_s = sent_s + latency_s
        free_s[caller] = answered_s
        if provider.serves(sent_s):
            counts.served += 1
            rate.succeeded(answered_s)
        else:
            counts.refused += 1
            rate.throttled(sent_s, answered_s)
            free_s[caller] = answered_s + rng.uniform(0, 0.02)


def test_without_a_refusal_nobody_waits() -> None:
    rate = LearnedRate()
    counts = run(rate, Provider(1e9, 1e9), 5.0)
    assert rate.rate_per_s is None
    assert counts.served in (2500, 2501)


@pytest.mark.parametrize("limit_per_s", [20, 100, 1000])
@pytest.mark.parametrize("callers", [1, 4])
@pytest.mark.parametrize("bursts", [0.1, 1.0])
def test_limit_is_learned_used_and_rarely_overrun(
    limit_per_s: int, callers: int, bursts: float
) -> None:
    rate = LearnedRate()
    provider = Provider(limit_per_s, max(1.0, limit_per_s * bursts))
    learning = run(rate, provider, 5.0, callers=callers, latency_s=0.0005)
    assert learning.served >= 0.75 * limit_per_s * 5
    assert learning.refused <= 20
    counts = run(rate, provider, 100.0, start_s=5.0, callers=callers, latency_s=0.0005)
    assert counts.served >= 0.9 * limit_per_s * 100
    assert counts.refused <= 30, "one probe in some seconds, each retried at once"


def test_rate_follows_a_neighbour_who_takes_and_gives_back() -> None:
    rate = LearnedRate()
    provider = Provider(100, 10)
    run(rate, provider, 20.0)
    provider.rate_per_s = 20
    run(rate, provider, 5.0, start_s=20.0)
    squeezed = run(rate, provider, 20.0, start_s=25.0)
    assert squeezed.served >= 0.8 * 20 * 20
    assert squeezed.refused <= 0.1 * squeezed.served
    provider.rate_per_s = 100
    run(rate, provider, 30.0, start_s=45.0)
    assert run(rate, provider, 20.0, start_s=75.0).served >= 0.8 * 100 * 20


def test_refusals_of_calls_that_were_on_their_way_count_once() -> None:
    rate = LearnedRate()
    for index in range(100):
        rate.succeeded(index / 100)
    for _ in range(8):
        rate.throttled(0.98, 1.0)
    assert rate.rate_per_s is not None
    assert rate.rate_per_s > 80


def test_first_refusal_of_a_quiet_key_does_not_stop_it() -> None:
    """A neighbour may have used up the quota while we signed now and then."""
    rate = LearnedRate()
    rate.succeeded(0.0)
    rate.throttled(0.5, 0.5)
    assert rate.rate_per_s == pytest.approx(9.0)


def test_limit_is_forgotten_after_a_minute_without_a_refusal() -> None:
    rate = LearnedRate()
    rate.throttled(1.0, 1.0)
    assert rate.wait_s(1.0) > 0
    assert rate.reserve(62.0) == 0
    assert rate.rate_per_s is None


# --- turns ---


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@asynccontextmanager
async def busy(limiter: KeyLimiter, waiting: int) -> AsyncIterator[list[asyncio.Task[Any]]]:
    """One caller at work and others waiting, until the block is left."""
    gate = asyncio.Event()
    order: list[int] = []

    async def use(index: int) -> int:
        async with limiter.turn(limiter._clock() + 60):
            order.append(index)
            await gate.wait()
        return index

    tasks = [asyncio.ensure_future(use(index)) for index in range(waiting + 1)]
    await turns()
    try:
        yield tasks
    finally:
        gate.set()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert order == sorted(order), "in order of arrival"


async def test_caller_beyond_the_bound_is_turned_away_at_once() -> None:
    limiter = KeyLimiter(URI, max_in_flight=1, max_waiting=3)
    async with busy(limiter, waiting=3):
        assert limiter.waiting == 3
        with pytest.raises(NoTurnError, match="too many calls wait") as caught:
            async with limiter.turn(limiter._clock() + 60):
                pass
        assert caught.value.retry_delay_s > 0
    assert limiter.waiting == 0


async def test_caller_whose_turn_would_come_too_late_is_turned_away_at_once() -> None:
    limiter = KeyLimiter(URI, max_in_flight=1)
    clock_s = limiter._clock()
    limiter.rate.throttled(clock_s, clock_s)  # 9 calls a second, the next in 0.11 s
    with pytest.raises(NoTurnError, match=r"about 9 calls a second") as caught:
        async with limiter.turn(clock_s + 0.05):
            pass
    assert 0.05 <= caught.value.retry_delay_s < 0.5
    async with limiter.turn(clock_s + 60):
        assert limiter._clock() >= clock_s + 0.1


async def test_deadline_ends_the_wait_for_calls_in_front() -> None:
    limiter = KeyLimiter(URI, max_in_flight=1)
    async with busy(limiter, waiting=0):
        with pytest.raises(NoTurnError, match="took too long"):
            async with limiter.turn(limiter._clock() + 0.02):
                pass


async def test_caller_that_gives_up_leaves_its_turn_to_the_next() -> None:
    limiter = KeyLimiter(URI, max_in_flight=1)
    async with busy(limiter, waiting=3) as tasks:
        tasks[1].cancel()
        await turns()
        assert limiter.waiting == 2
    assert [task.cancelled() for task in tasks] == [False, True, False, False]
    async with limiter.turn(limiter._clock() + 1):
        pass


async def test_caller_that_gives_up_leaves_its_place_in_the_schedule() -> None:
    """Else those who come after it wait for calls that nobody makes."""
    clock = Clock()
    limiter = KeyLimiter(URI, clock=clock)
    limiter.rate.throttled(clock(), clock())  # 9 calls a second

    async def use() -> None:
        async with limiter.turn(clock() + 60):
            pytest.fail("it was given up before")

    free_s = limiter.rate.wait_s(clock())
    tasks = [asyncio.ensure_future(use()) for _ in range(5)]
    await turns()
    assert limiter.rate.wait_s(clock()) == pytest.approx(free_s + 5 / 9)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert limiter.rate.wait_s(clock()) == pytest.approx(free_s)


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_gate_lets_one_probe_through_after_each_pause() -> None:
    clock = Clock()
    gate = OutageGate(URI, clock=clock)
    gate.check()
    gate.failed()
    with pytest.raises(KMSUnavailableError) as caught:
        gate.check()
    assert caught.value.retry_delay_s > 0
    clock.now_s += 1.0
    gate.check()
    with pytest.raises(KMSUnavailableError):
        gate.check()
    gate.answered()
    gate.check()
    gate.check()


# --- attempts ---

QUICK = Patience(
    attempt_s=0.05, total_s=1.0, retry=RetryPolicy(attempts=5, base_s=0.001, cap_s=0.002)
)


@dataclass
class Attempts:
    """Fails as it is told, then signs."""

    failures: list[BaseException | None] = field(default_factory=list)
    made: int = 0

    async def __call__(self, timeout_s: float) -> str:
        self.made += 1
        failure = self.failures.pop(0) if self.failures else None
        if isinstance(failure, asyncio.CancelledError):
            await asyncio.Event().wait()  # never answers
        if failure is not None:
            raise failure
        return "done"


AWAY = KMSUnavailableError("away")
THROTTLED = KMSThrottledError("slow", retry_delay_s=0.0)
DOUBTFUL = KMSIntegrityError("odd")
HANGING = asyncio.CancelledError()


@pytest.mark.parametrize(
    ("failures", "made"),
    [([], 1), ([AWAY] * 4, 5), ([THROTTLED] * 2, 3), ([HANGING, AWAY], 3), ([DOUBTFUL, AWAY], 3)],
)
async def test_passing_failures_are_retried(failures: list[Any], made: int) -> None:
    attempts = Attempts(list(failures))
    assert await Caller(URI, QUICK).call(attempts) == "done"
    assert attempts.made == made


@pytest.mark.parametrize(
    ("failures", "error", "made"),
    [
        ([KMSConfigError("no")], KMSConfigError, 1),
        ([DOUBTFUL, DOUBTFUL], KMSIntegrityError, 2),
        ([AWAY] * 9, KMSUnavailableError, 5),
        ([THROTTLED] * 99, KMSThrottledError, None),
        ([KMSThrottledError("slow", retry_delay_s=30.0)], KMSThrottledError, 1),
    ],
)
async def test_lasting_failures_are_raised(
    failures: list[Any], error: type[Exception], made: int | None
) -> None:
    attempts = Attempts(list(failures))
    with pytest.raises(error):
        await Caller(URI, QUICK).call(attempts)
    assert made is None or attempts.made == made


async def test_last_attempt_with_little_time_left_does_not_hide_the_throttling() -> None:
    patience = Patience(attempt_s=60.0, total_s=0.2)
    with pytest.raises(KMSThrottledError):
        await Caller(URI, patience).call(Attempts([THROTTLED, HANGING]))
    with pytest.raises(KMSUnavailableError):
        await Caller(URI, patience).call(Attempts([HANGING]))


@pytest.mark.parametrize(
    ("failure", "error"),
    [(AWAY, KMSUnavailableError), (HANGING, KMSUnavailableError), (DOUBTFUL, KMSIntegrityError)],
)
async def test_what_must_not_be_done_twice_is_tried_once(
    failure: BaseException, error: type[Exception]
) -> None:
    attempts = Attempts([failure])
    with pytest.raises(error):
        await Caller(URI, QUICK).call(attempts, repeatable=False)
    assert attempts.made == 1
    assert await Caller(URI, QUICK).call(Attempts([THROTTLED]), repeatable=False) == "done"


async def test_cancelled_caller_is_gone_at_once_and_frees_its_turn() -> None:
    caller = Caller(URI, Patience(), limiter=KeyLimiter(URI, max_in_flight=1))
    task = asyncio.ensure_future(caller.call(Attempts([HANGING])))
    await turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await caller.call(Attempts()) == "done"


async def test_caller_without_a_turn_is_not_kept_waiting_elsewhere() -> None:
    caller = Caller(URI, Patience(), limiter=KeyLimiter(URI, max_in_flight=1, max_waiting=1))
    tasks = [asyncio.ensure_future(caller.call(Attempts([HANGING]))) for _ in range(3)]
    await turns()
    assert [task.done() for task in tasks] == [False, False, True]
    assert isinstance(tasks[2].exception(), NoTurnError)
    for task in tasks[:2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_overload_turns_callers_away_in_time_and_serves_the_rest() -> None:
    """The bound of the queue, seen from 200 callers who come at once."""

    async def slow(timeout_s: float) -> str:
        await asyncio.sleep(0.01)
        return "done"

    caller = Caller(URI, Patience())
    outcomes = await asyncio.gather(
        *(caller.call(slow) for _ in range(200)), return_exceptions=True
    )
    refused = [outcome for outcome in outcomes if outcome != "done"]
    assert len(outcomes) - len(refused) >= 64
    assert refused
    for error in refused:
        assert isinstance(error, KMSThrottledError)
        assert 0 < error.retry_delay_s <= 5


# --- the witness in front of a capped provider ---


@pytest.fixture(params=["aws", "gcp"])
def provider(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A fake provider with one key, and how to open it."""
    library = {"aws": "boto3", "gcp": "google.cloud.kms_v1"}[request.param]
    pytest.importorskip(library, reason=f"needs pip install 'provledger[{request.param}]'")
    if request.param == "aws":
        from tests.support.fake_aws_kms import FakeAWSKMS

        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "example")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with FakeAWSKMS() as aws:
            monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", aws.url)
            yield aws, f"aws-kms:{aws.add_key('ECC_NIST_EDWARDS25519')}", "Sign"
    else:
        from tests.support.fake_gcp_kms import FakeGCPKMS

        with FakeGCPKMS() as gcp:
            monkeypatch.setenv("PROVLEDGER_GCP_KMS_ENDPOINT", gcp.endpoint)
            yield gcp, f"gcp-kms:{gcp.add_key('EC_SIGN_ED25519')}", "AsymmetricSign"


@dataclass
class Keys:
    """Stands in for the key ring."""

    signer: Any

    def current(self, purpose: str) -> ActiveSigner:
        return ActiveSigner(
            kid="witness-1",
            purpose=KeyPurpose.WITNESS,
            epoch=1,
            thumbprint=thumbprint_of(self.signer.public_key),
            public_key=self.signer.public_key,
            algorithm=self.signer.algorithm,
            signer=self.signer,
            not_before_ns=0,
            not_after_ns=None,
        )


async def test_ten_thousand_statements_need_a_hundred_signatures(
    provider: Any, tmp_path: Any
) -> None:
    """A hundred callers, each with one statement at a time, against 100 signatures a second.

    While one signature is made, or waited for, all callers come together for the next: so 10,000
    statements take about 100 calls, whatever this machine's speed, and none fails.
    """
    from provledger import kms

    fake, uri, method = provider
    fake.limit = TokenBucket(rate_per_s=100, burst=10)
    signer = await kms.open_signer(uri, tmp_path)
    witness = BatchSigner(
        Keys(signer), clock=lambda: START_NS, max_statements=1000, max_queued_statements=20_000
    )
    sizes: list[int] = []

    async def caller(number: int) -> None:
        for index in range(100):
            leaf = witness_batch.statement_leaf_hash("blake3", b"%d/%d" % (number, index))
            batch, at = await witness.sign("blake3", [leaf])
            assert batch.leaf_hashes[at * 32 : at * 32 + 32] == leaf
            if at == 0:
                sizes.append(len(batch.leaf_hashes) // 32)
                message = dsse.pae(witness_batch.PAYLOAD_TYPE, batch.body)
                verify_signature(signer.public_key, batch.sig, message)

    await asyncio.gather(*map(caller, range(100)))
    await witness.close()
    await signer.close()
    assert sum(sizes) == 10_000
    assert len(sizes) <= 101
    assert fake.outcomes["ok"] == len(sizes)
    assert fake.calls[method] <= 110, f"throttled: {fake.calls[method] - len(sizes)}"


async def test_witness_passes_the_bound_on_with_the_delay(provider: Any, tmp_path: Any) -> None:
    """What a ledger is told when the provider refuses everything."""
    from provledger import kms

    fake, uri, _ = provider
    signer = await kms.open_signer(uri, tmp_path)
    fake.limit = TokenBucket(rate_per_s=0, burst=0)
    witness = BatchSigner(
        Keys(signer), clock=lambda: START_NS, max_statements=1000, max_queued_statements=20_000
    )
    leaf = witness_batch.statement_leaf_hash("blake3", b"statement")
    with pytest.raises(ResourceExhaustedError) as caught:
        await witness.sign("blake3", [leaf])
    assert caught.value.reason == "KMS_THROTTLED"
    assert caught.value.retry_delay_s
    assert uri not in str(caught.value), "where the key is, is the operator's business alone"
    await witness.close()
    await signer.close()


async def test_remote_signer_is_one_of_many_kinds() -> None:
    """What an adapter must bring: one attempt, and how to let go."""
    key = private_key("remote")
    released: list[bool] = []

    async def sign_once(message: bytes, timeout_s: float) -> bytes:
        return key.sign(message)

    async def release() -> None:
        released.append(True)

    from provledger.jwk import Algorithm

    signer = RemoteSigner(
        URI, Algorithm.ED25519, key.public_key(), sign_once, release=release, protection="HSM"
    )
    verify_signature(signer.public_key, await signer.sign(b"message"), b"message")
    await signer.close()
    await signer.close()
    assert released == [True]
