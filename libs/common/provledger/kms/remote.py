"""Keys at the other end of a network: the retries, deadlines and limits that all of them share.

An adapter makes one attempt at a time and says what went wrong in terms of `provledger.kms.errors`;
`Caller` does the rest, with the SDK's own retries switched off, since those wait far longer than an
append may take::

    adapter raised              then
    KMSThrottledError           the limiter slows down; again after a jittered wait
    KMSUnavailableError         again after a jittered wait; a signature made twice harms nobody
    KMSIntegrityError           again, once: it may have been the transmission; then an alarm
    anything else               raised as it is: trying again would not help

All of it ends within `Patience.total_s`. Signatures are not verified here but in
`provledger.kms.signing`, which every caller goes through.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from provledger import logs, telemetry
from provledger.errors import KMSError
from provledger.jwk import Algorithm, PublicKey
from provledger.kms.errors import (
    KMSIntegrityError,
    KMSNotInstalledError,
    KMSThrottledError,
    KMSUnavailableError,
    bare,
)
from provledger.kms.throttling import KeyLimiter, NoTurnError, OutageGate
from provledger.retry import RetryPolicy

T = TypeVar("T")

log = logs.get(__name__)

DIGESTS: Final[dict[Algorithm, Callable[[bytes], bytes]]] = {
    Algorithm.ECDSA_P256: lambda message: hashlib.sha256(message).digest(),
    Algorithm.ECDSA_P384: lambda message: hashlib.sha384(message).digest(),
}
"""What is sent in place of the message, of algorithms that sign a digest."""

MAX_IN_FLIGHT: Final = 8
"""Calls with one key at once. The witness makes one at a time; this bounds everybody else."""

_calls = telemetry.counter(
    "provledger.kms.calls", unit="{call}", doc="Calls to key providers, by provider and outcome."
)
_duration = telemetry.histogram(
    "provledger.kms.call_duration", unit="s", doc="How long one call to a key provider took."
)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one operation may take, in seconds.

    attempt_s: one call to the provider.
    total_s: everything: waiting for a turn, attempts, and the waits between them.
    retry: the waits between attempts.
    """

    attempt_s: float = 0.7
    total_s: float = 1.5
    retry: RetryPolicy = field(
        default_factory=lambda: RetryPolicy(attempts=12, base_s=0.02, cap_s=0.3, budget_s=1.5)
    )


SIGNING: Final = Patience()
"""For signatures: an append waits for them, and its budget is two seconds."""

OPENING: Final = Patience(
    attempt_s=3.0, total_s=7.0, retry=RetryPolicy(attempts=6, base_s=0.1, cap_s=1.0, budget_s=4.0)
)
"""For opening a key, where credentials and connections are fetched; nobody's append waits."""

CREATING: Final = Patience(
    attempt_s=10.0,
    total_s=30.0,
    retry=RetryPolicy(attempts=20, base_s=0.2, cap_s=2.0, budget_s=20.0),
)
"""For making a key: by hand or in a rotation, which goes on with the old key meanwhile."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The key that a rotation asks for, so that asking again finds what was made.

    `ceremony`, 16 bytes, is the same however often and wherever one rotation is tried; `known` are
    the URIs of keys that are registered already, which it cannot be.
    """

    kid: str
    ceremony: bytes
    known: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """A key that its provider named itself: its exact URI, and its public half.

    `found`: an earlier attempt had made it.
    """

    uri: str
    public_key: PublicKey
    found: bool = False


class Caller:
    """Makes calls about one key, one attempt after another; for one event loop."""

    def __init__(
        self,
        uri: str,
        patience: Patience,
        *,
        limiter: KeyLimiter | None = None,
        gate: OutageGate | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.limiter = limiter or KeyLimiter(uri, max_in_flight=MAX_IN_FLIGHT, clock=clock)
        self._uri = uri
        self._scheme = uri.partition(":")[0]
        self._patience = patience
        self._gate = gate or OutageGate(uri, clock=clock)
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret

    async def call(self, attempt: Callable[[float], Awaitable[T]], *, repeatable: bool = True) -> T:
        """Return what `attempt` gives, called with its own deadline in seconds until it succeeds.

        With `repeatable` False an attempt whose outcome is unknown is not made again. Raises what
        the last attempt raised, or KMSThrottledError where there was no turn for one.
        """
        self._gate.check()
        deadline_s = self._clock() + self._patience.total_s
        delays = self._patience.retry.delays(self._rng)
        doubted = False
        before: KMSError | None = None
        while True:
            failure: KMSError
            try:
                return await self._attempt(attempt, deadline_s)
            except NoTurnError:
                raise  # waiting longer outside the queue would make its bound worthless
            except KMSThrottledError as error:
                failure = error
            except KMSUnavailableError as error:
                failure = error
                if not repeatable:
                    raise
                if isinstance(before, KMSThrottledError) and self._clock() >= deadline_s:
                    # What was left of the time was too short to be refused once more.
                    failure = before
            except KMSIntegrityError as error:
                log.error("kms.integrity", exc_info=error, uri=self._uri)
                if doubted or not repeatable:
                    raise
                failure, doubted = error, True
            before = failure
            delay_s = next(delays, None)
            if isinstance(failure, KMSThrottledError) and delay_s is not None:
                delay_s = max(delay_s, failure.retry_delay_s)
            if delay_s is None or self._clock() + delay_s >= deadline_s:
                if isinstance(failure, KMSThrottledError):
                    raise self.limiter.too_busy(
                        "over the provider's rate limit", failure.retry_delay_s
                    ) from None
                if isinstance(failure, KMSUnavailableError):
                    self._gate.failed()
                raise failure
            await asyncio.sleep(delay_s)

    async def _attempt(self, attempt: Callable[[float], Awaitable[T]], deadline_s: float) -> T:
        """Wait for a turn, make one attempt, and tell the limiter what came of it."""
        rate = self.limiter.rate
        async with self.limiter.turn(deadline_s):
            started_s = self._clock()
            timeout_s = min(self._patience.attempt_s, max(0.001, deadline_s - started_s))
            outcome = "ok"
            try:
                async with asyncio.timeout(timeout_s):
                    result = await attempt(timeout_s)
            except TimeoutError:
                outcome = "timeout"
                raise KMSUnavailableError(
                    f"key {self._uri}: no answer within {timeout_s:.1f} s"
                ) from None
            except KMSThrottledError:
                outcome = "throttled"
                rate.throttled(started_s, self._clock())
                self._gate.answered()
                raise
            except KMSError as error:
                outcome = str(getattr(error, "reason", "error")).lower()
                if not isinstance(error, KMSUnavailableError):
                    self._gate.answered()
                raise
            except BaseException:
                outcome = "cancelled"
                raise
            else:
                rate.succeeded(self._clock())
                self._gate.answered()
                return result
            finally:
                attributes = {"provledger.kms.provider": self._scheme, "outcome": outcome}
                _calls.add(1, attributes)
                _duration.record(self._clock() - started_s, attributes)


class RemoteSigner:
    """A `Signer` whose key is elsewhere. `sign_once` makes one attempt within so many seconds.

    protection: where the provider keeps the key, in its own word (`HSM`, `SOFTWARE`, ...).
    release: closes connections and threads; called once.
    """

    def __init__(
        self,
        uri: str,
        algorithm: Algorithm,
        public_key: PublicKey,
        sign_once: Callable[[bytes, float], Awaitable[bytes]],
        *,
        release: Callable[[], Awaitable[None]],
        protection: str = "",
        patience: Patience = SIGNING,
        caller: Caller | None = None,
    ) -> None:
        self._uri = uri
        self._algorithm = algorithm
        self._public_key = public_key
        self._sign_once = sign_once
        self._release: Callable[[], Awaitable[None]] | None = release
        self._caller = caller or Caller(uri, patience)
        self.protection = protection

    @property
    def uri(self) -> str:
        """Where the key is."""
        return self._uri

    @property
    def algorithm(self) -> Algorithm:
        """How it signs."""
        return self._algorithm

    @property
    def public_key(self) -> PublicKey:
        """Its public half."""
        return self._public_key

    @property
    def limiter(self) -> KeyLimiter:
        """Who waits, and the rate learned so far; for metrics and tests."""
        return self._caller.limiter

    async def sign(self, message: bytes) -> bytes:
        """Return the signature over `message`; raises a subclass of KMSError within `total_s`."""
        if self._release is None:
            raise KMSUnavailableError(f"key {self._uri}: has been closed")

        async def attempt(timeout_s: float) -> bytes:
            return await self._sign_once(message, timeout_s)

        return await self._caller.call(attempt)

    async def close(self) -> None:
        """Release what the adapter holds; what is in flight may fail."""
        release, self._release = self._release, None
        if release is not None:
            await release()


def load_library(name: str, uri: str, extra: str) -> Any:
    """Import a provider's library; raises KMSNotInstalledError naming the extra that brings it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise not_installed(uri, extra) from None


def not_installed(uri: str, extra: str) -> KMSNotInstalledError:
    """Return the error for a key whose provider's library is missing."""
    return KMSNotInstalledError(
        f"key URI {bare(uri)!r}: its adapter needs a library that is not installed; "
        f"run: pip install 'provledger[{extra}]'",
        extra=extra,
    )


def shown(text: object) -> str:
    """Return a provider's words fit for our message: one printable line, cut short."""
    line = "".join(c if c.isprintable() else " " for c in str(text)[:300])
    return " ".join(line.split())
