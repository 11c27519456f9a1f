"""One signature over the statements of many calls (design §4, "Witness signature").

Calls that arrive while a signature is being made wait and share the next one, for each suite apart:
so a key management service that allows a hundred signatures a second is enough for thousands of
statements. A call's statements stay together in the batch tree. When signing fails, every call that
waits for that signature is told so, and nothing is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from provledger import logs, telemetry, witness_batch
from provledger.batching import Flush, GroupCommit
from provledger.errors import KMSError, ResourceExhaustedError, StatusError, UnavailableError
from provledger.hashing import SUITES
from provledger.kms.signing import sign_witness_batch
from provledger.rpc.errors import as_status_error
from witness_svc.tokens import PURPOSE, Keys, SigningTokens

log = logs.get(__name__)

SIGN_TIMEOUT_S: Final = 10.0
"""A key service that takes longer counts as away."""

_RETRY_DELAY_S: Final = 1.0

_batch_size = telemetry.histogram(
    "provledger.witness.batch_size", unit="{statement}", doc="Statements under one signature."
)
_failures = telemetry.counter(
    "provledger.witness.sign_failures", unit="{failure}", doc="Signatures that were not made."
)


@dataclass(frozen=True, slots=True)
class SignedBatch:
    """A signed batch tree. `leaf_hashes` is all of them, 32 bytes each, in order."""

    body: bytes
    sig: bytes
    leaf_hashes: bytes
    kid: str
    epoch: int
    signed_at_ns: int


_Leaf = tuple[bytes, object | None]
"""A leaf hash, and the span that its call was in."""
_Signed = tuple[SignedBatch, int]
"""The batch that a leaf hash was signed in, and its index there."""


class BatchSigner:
    """Signs leaf hashes; for one event loop. `clock` gives Unix nanoseconds."""

    def __init__(
        self,
        keys: Keys,
        *,
        clock: Callable[[], int],
        max_statements: int,
        max_queued_statements: int,
        signatures_in_flight: int = 1,
        tokens: SigningTokens | None = None,
    ) -> None:
        self._keys = keys
        self._tokens = tokens
        self._clock = clock
        self._batchers: dict[str, GroupCommit[_Leaf, _Signed]] = {
            suite: GroupCommit(
                self._flush_of(suite),
                max_items=max_statements,
                max_queued_items=max_queued_statements,
                max_in_flight=signatures_in_flight,
                name=f"witness-{suite}",
            )
            for suite in SUITES
        }

    def check_ready(self) -> None:
        """Raise UnavailableError where there is no key to sign with, before any work is done."""
        self._keys.current(PURPOSE)

    async def sign(self, suite: str, leaf_hashes: Sequence[bytes]) -> tuple[SignedBatch, int]:
        """Have leaf hashes of a suite, one or more, signed together with those of other calls.

        Returns the batch, and the index in it of the first of them; the others follow.

        Raises:
            UnavailableError: there is no active key, or it did not sign.
            ResourceExhaustedError: too much waits already, or the key is used too often.
        """
        ref = telemetry.current_ref()
        results = await self._batchers[suite].submit_many(
            [(leaf_hash, ref) for leaf_hash in leaf_hashes]
        )
        first = results[0]
        if isinstance(first, Exception):
            raise first
        return first

    async def close(self) -> None:
        """Sign what waits, and refuse what comes later."""
        for batcher in self._batchers.values():
            await batcher.close()

    def _flush_of(self, suite: str) -> Flush[_Leaf, _Signed]:
        async def flush(leaves: list[_Leaf]) -> Sequence[_Signed | Exception]:
            batch = await self._sign(suite, leaves)
            return [(batch, index) for index in range(len(leaves))]

        return flush

    async def _sign(self, suite: str, leaves: list[_Leaf]) -> SignedBatch:
        # One snapshot: the kid on the span, in the body and of the signature is the same object's.
        active = self._keys.current(PURPOSE)
        leaf_hashes = [leaf_hash for leaf_hash, _ in leaves]
        # All leaves of a call bring the same object; such objects cannot be hashed.
        links = {id(ref): ref for _, ref in leaves}.values() if telemetry.enabled() else ()
        attributes: dict[str, telemetry.Attribute] = {
            telemetry.KID: active.kid,
            "provledger.statements": len(leaves),
        }
        signed_at_ns = active.signing_time_ns(self._clock())
        token, signer = None, active.signer
        if self._tokens is not None and (taken := self._tokens.take(active, signed_at_ns)):
            token, signer = taken
            attributes["provledger.token_use"] = token.use
        with telemetry.span("witness.sign", attributes, links=links) as span:
            body = witness_batch.WitnessBatch(
                suite=suite,
                root=witness_batch.batch_root(suite, leaf_hashes),
                size=len(leaf_hashes),
                kid=active.kid,
                thumbprint=active.thumbprint,
                epoch=active.epoch,
                signed_at_ns=signed_at_ns,
                token=token,
            )
            encoded = body.encode()
            # The body holds it too, so that a receipt leads to the span that signed it.
            span.set("provledger.batch_root", body.root.hex())
            try:
                async with asyncio.timeout(SIGN_TIMEOUT_S):
                    sig = await sign_witness_batch(signer, encoded)
            except (KMSError, TimeoutError) as error:
                _failures.add(1)
                if token is not None and self._tokens is not None:
                    self._tokens.drop()
                log.error(
                    "witness.sign_failed", exc_info=error, kid=active.kid, statements=len(leaves)
                )
                raise _not_signed(error, active.kid) from None
        _batch_size.record(len(leaves))
        return SignedBatch(
            encoded, sig, b"".join(leaf_hashes), body.kid, body.epoch, body.signed_at_ns
        )


def _not_signed(error: KMSError | TimeoutError, kid: str) -> StatusError:
    """Return what the waiting callers are told: to come back, whatever it was.

    What the provider said, with the key's address in it, stands in our own log only.
    """
    known = as_status_error(error)
    kind = ResourceExhaustedError if known.code == "RESOURCE_EXHAUSTED" else UnavailableError
    return kind(
        "KMS_UNAVAILABLE" if isinstance(error, TimeoutError) else known.reason,
        f"nothing was signed: key {kid!r} cannot be used at present",
        metadata={"kid": kid},
        retry_delay_s=known.retry_delay_s or _RETRY_DELAY_S,
    )
