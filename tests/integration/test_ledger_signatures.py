"""What the witness did not sign is not stored, whatever it answers: on both databases."""

from __future__ import annotations

import time

import pytest

from ledger_svc.witness_keys import RingPolicy
from provledger.errors import InternalError, UnavailableError
from provledger.keyset import KeyPurpose, KeySet, VerificationKey
from tests.inmem.witness import InMemoryWitness
from tests.support.ledgering import append, create_ledger, draft, ledger_service, verify_all


class RingOf:
    """The keys of a witness as a key ring has them."""

    def __init__(self, witness: InMemoryWitness) -> None:
        self._keys = KeySet(
            [
                VerificationKey.from_public_key(
                    witness.public_key, kid=witness.kid, purpose=KeyPurpose.WITNESS
                )
            ]
        )

    def accepts(self, purpose: KeyPurpose, kid: str, epoch: int) -> bool:
        return kid in self._keys

    def key_set(self) -> KeySet:
        return self._keys


async def test_batch_that_the_witness_did_not_sign_is_not_stored(database_url: str) -> None:
    """It signs with a key of its own under the name of the registered one; then it does not."""
    honest, other = InMemoryWitness(), InMemoryWitness()
    keys = RingPolicy(RingOf(honest))  # type: ignore[arg-type]
    other.thumbprint = honest.thumbprint
    async with ledger_service(database_url, honest, keys=keys, create=False) as service:
        sign, honest.answer = honest.answer, other.answer  # type: ignore[method-assign]
        with pytest.raises(InternalError) as caught:
            await create_ledger(service)
        assert caught.value.reason == "WITNESS_ANSWER"
        honest.answer = sign  # type: ignore[method-assign]
        await create_ledger(service)
        await append(service, draft("r1"))
        honest.answer = other.answer  # type: ignore[method-assign]
        with pytest.raises(InternalError) as caught:
            await append(service, draft("r2"))
        assert caught.value.reason == "WITNESS_ANSWER"
        honest.answer = sign  # type: ignore[method-assign]
        assert (await append(service, draft("r2"))).receipt.seq == 2
        assert (await verify_all(service)).checked_count == 3


async def test_witness_far_ahead_of_the_database_is_refused_though_we_are_ahead_too(
    database_url: str,
) -> None:
    """Its key would end before what it dates: keys end by a clock that is nearer the database's."""
    ahead_ns = [0, 0]
    witness = InMemoryWitness(clock=lambda: time.time_ns() + sum(ahead_ns))
    clock = lambda: time.time_ns() + ahead_ns[0]  # noqa: E731 - as the service takes it
    async with ledger_service(database_url, witness, clock=clock, create=False) as service:
        ahead_ns[:] = [240 * 10**9] * 2
        with pytest.raises(UnavailableError, match="witness is") as caught:
            await create_ledger(service)
        assert caught.value.reason == "CLOCK_SKEW"
        ahead_ns[:] = [0, 0]
        await create_ledger(service)
        await append(service, draft("r1"))
        # On PostgreSQL, this one would be a single statement, which knows our clock only.
        ahead_ns[:] = [240 * 10**9] * 2
        with pytest.raises(UnavailableError, match="witness is") as caught:
            await append(service, draft("r2"))
        assert caught.value.reason == "CLOCK_SKEW"
        ahead_ns[:] = [0, 240 * 10**9]
        assert (await append(service, draft("r2"))).receipt.seq == 2
