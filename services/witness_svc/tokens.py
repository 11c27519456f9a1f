"""Signing tokens of the witness, where the operator turned them on (design §6).

The active key certifies a fresh key in this process's memory, which then signs in its name: for
minutes at most, so many batches, and only while that key is the active one. A token is renewed in
the background long before it ends, so that a key service may be away for most of its lifetime::

    made ──── renewed after a fifth, or half of its uses ────────────────────── ends
              └── not possible: tried again and again, the old one goes on ──┘

Without a usable token (at the start, right after a rotation, or when an outage outlasts it) the
active key itself is asked, as ever. The key in memory is passed the same tests as any key that is
opened, is never written anywhere, and is dropped as soon as another key is active.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

from provledger import logs, telemetry
from provledger.keyring import ActiveSigner
from provledger.kms import Signer
from provledger.kms.errors import KMSConfigError
from provledger.kms.local import key_in_memory
from provledger.kms.signing import self_test, sign_certificate
from provledger.retry import RetryPolicy
from provledger.signing_token import ALGORITHMS, Certificate, Token

log = logs.get(__name__)

PURPOSE: Final = "witness"

_URI: Final = "memory:signing-token"
_ISSUE_TIMEOUT_S: Final = 10.0
_RETRY: Final = RetryPolicy(attempts=1_000_000, base_s=0.5, cap_s=5.0, budget_s=float("inf"))
# Renewed after this part of its lifetime, so that an outage may last for the rest of it.
_RENEW_AFTER: Final = 0.2

_renewals = telemetry.counter(
    "provledger.witness.token_renewals",
    unit="{token}",
    doc="Signing tokens asked for, by outcome.",
)
_ends_at = telemetry.gauge(
    "provledger.witness.token_ends_at",
    unit="s",
    doc="When the signing token in use ends, Unix seconds; 0 where it was used up or dropped.",
)


class Keys(Protocol):
    """Where the active key comes from: `provledger.keyring.KeyRing`."""

    def current(self, purpose: str) -> ActiveSigner:
        """Return the active key, as one snapshot; raises UnavailableError without one."""
        ...


@dataclass(slots=True)
class _Held:
    """A token in use; `uses` is how many batches it has signed."""

    certificate: Certificate
    sig: bytes
    signer: Signer = field(repr=False)
    uses: int = 0

    def serves(self, active: ActiveSigner, now_ns: int) -> bool:
        cert = self.certificate
        return (
            (cert.kid, cert.epoch, cert.thumbprint) == (active.kid, active.epoch, active.thumbprint)
            and cert.not_before_ns <= now_ns <= cert.not_after_ns
            and self.uses < cert.max_uses
        )


class SigningTokens:
    """Holds the token in use and renews it; for one event loop.

    keys: says which key is active.
    clock: Unix nanoseconds.
    lifetime_s: how long a token lasts, seconds; at most 300.
    max_uses: batches that one token may sign.
    make_key: makes a key in memory, given a name and an algorithm; called in a thread.
    """

    def __init__(
        self,
        keys: Keys,
        *,
        clock: Callable[[], int],
        lifetime_s: float,
        max_uses: int,
        make_key: Callable[..., Signer] = key_in_memory,
    ) -> None:
        self._keys = keys
        self._clock = clock
        self._lifetime_ns = int(lifetime_s * 1_000_000_000)
        self._max_uses = max_uses
        self._make_key = make_key
        self._held: _Held | None = None
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._rng = random.Random()  # noqa: S311 - jitter, not a secret

    def start(self) -> None:
        """Begin to hold tokens."""
        self._task = asyncio.create_task(self._keep(), name="witness-tokens")

    async def close(self) -> None:
        """Stop, and drop the key."""
        self._hold(None)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def take(self, active: ActiveSigner, now_ns: int) -> tuple[Token, Signer] | None:
        """Take the next use of a token of `active`, the key in use, for a batch signed at `now_ns`.

        None where there is no token that could be used; one is asked for then.
        """
        held = self._held
        if held is None or not held.serves(active, now_ns):
            if held is not None and held.certificate.thumbprint != active.thumbprint:
                # It ends with its issuer: rotated away, or revoked.
                self._hold(None)
            self._wanted.set()
            return None
        held.uses += 1
        if held.uses * 2 > held.certificate.max_uses:
            self._wanted.set()
        if held.uses == held.certificate.max_uses:
            _ends_at.set(0)
        return Token(held.certificate, held.sig, held.uses), held.signer

    def drop(self) -> None:
        """Drop the token in use: its key signed what does not verify."""
        self._hold(None)
        self._wanted.set()

    async def renew(self) -> None:
        """Have the active key certify a new key in memory, and use it from then on.

        Raises:
            UnavailableError: there is no active key.
            KMSError: the active key does not sign, or the new one does not pass its test.
        """
        active = self._keys.current(PURPOSE)
        if active.algorithm not in ALGORITHMS:
            raise KMSConfigError(f"kid {active.kid}: a {active.algorithm} key certifies no tokens")
        signer = await asyncio.to_thread(self._make_key, _URI, active.algorithm)
        await self_test(signer, signer.public_key)
        starts_ns = active.signing_time_ns(self._clock())
        ends_ns = starts_ns + self._lifetime_ns
        if active.not_after_ns is not None:
            ends_ns = min(ends_ns, active.not_after_ns)
        certificate = Certificate.of(
            signer.public_key,
            kid=active.kid,
            thumbprint=active.thumbprint,
            epoch=active.epoch,
            not_before_ns=starts_ns,
            not_after_ns=ends_ns,
            max_uses=self._max_uses,
        )
        with telemetry.span("witness.certify", {telemetry.KID: active.kid}):
            async with asyncio.timeout(_ISSUE_TIMEOUT_S):
                sig = await sign_certificate(active.signer, certificate)
        self._hold(_Held(certificate, sig, signer))
        log.info("witness.token_made", kid=active.kid, epoch=active.epoch, uses=self._max_uses)

    def _hold(self, held: _Held | None) -> None:
        self._held = held
        _ends_at.set(0 if held is None else held.certificate.not_after_ns / 1_000_000_000)

    async def _keep(self) -> None:
        """Renew whenever it is time to, for ever."""
        delays, failing = _RETRY.delays(self._rng), False
        while True:
            try:
                await self.renew()
            except Exception as error:  # adapters differ in what else they let through
                _renewals.add(1, {"outcome": "failed"})
                # Once for each outage, not for each attempt.
                if not failing:
                    log.warning("witness.token_not_renewed", exc_info=error)
                failing = True
                await asyncio.sleep(next(delays, 5.0))
                continue
            _renewals.add(1, {"outcome": "ok"})
            delays, failing = _RETRY.delays(self._rng), False
            # What was asked for meanwhile is there now; who still misses it asks again.
            self._wanted.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._lifetime_ns * _RENEW_AFTER / 1_000_000_000):
                    await self._wanted.wait()
