"""What the witness did not sign is not stored, whatever it answers: on both databases."""

from __future__ import annotations

import time
from typing import Any

import pytest

from ledger_svc.storage import quick
from ledger_svc.tools import AnyKey
from ledger_svc.witness_keys import RingPolicy
from provledger.errors import InternalError, UnavailableError
from provledger.keyset import KeyPurpose, KeySet, VerificationKey
from tests.inmem.witness import InMemoryWitness
from tests.support.ledgering import (
    append,
    append_batch,
    create_ledger,
    draft,
    ledger_service,
    verify_all,
)


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


class Keys(AnyKey):
    """Takes any key until one was `revoked`."""

    revoked = False

    def accepts(self, kid: str, epoch: int) -> bool:
        return not self.revoked

    async def wait_accepts(self, kid: str, epoch: int) -> bool:
        return not self.revoked


@pytest.mark.postgres
async def test_halted_in_a_small_flush_it_is_decided_anew(
    postgres_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For ten minutes, which the clock of the server has gone on by; the key is revoked then."""
    keys, halts = Keys(), [False]
    parameters = quick._parameters

    def halted(*args: Any) -> tuple[Any, ...]:
        if halts.pop():
            keys.revoked = True
            args = (*args[:-1], args[-1] - 600 * 10**9)
        return parameters(*args)

    monkeypatch.setattr(quick, "_parameters", halted)
    async with ledger_service(postgres_database_url, keys=keys) as service:
        # The first one of a ledger takes the way of the lock.
        await append(service, draft("r1"))
        await append(service, draft("r2"))
        assert not halts, "the way of one statement"
        halts.append(True)
        with pytest.raises(UnavailableError) as caught:
            await append(service, draft("r3"))
        assert caught.value.reason == "SIGNATURE_STALE"
        keys.revoked = False
        halts.append(False)
        assert (await append(service, draft("r3"))).receipt.seq == 3


def lying(witness: InMemoryWitness, lie: Any) -> Any:
    """Have the witness sign what `lie` makes of each statement; how to end it."""
    honest = witness._witness

    def state(*args: Any) -> Any:
        witnessed = honest(*args)
        lie(witnessed)
        return witnessed

    setattr(witness, "_witness", state)  # noqa: B010 - as a method, it could not be
    return lambda: setattr(witness, "_witness", honest)


def of_another_actor(witnessed: Any) -> None:
    witnessed.statement = witnessed.statement.replace(b'"bot"', b'"ceo"')


async def test_statement_of_another_draft_is_not_stored(database_url: str) -> None:
    """Nor anything else of its flush, all of which may come again."""
    witness = InMemoryWitness()
    async with ledger_service(database_url, witness) as service:
        honest = lying(witness, of_another_actor)
        with pytest.raises(InternalError, match="the witness's answer") as caught:
            await append_batch(service, [draft("r1"), draft("r2", actor_id="other")])
        assert caught.value.reason == "WITNESS_ANSWER"
        honest()
        results = await append_batch(service, [draft("r1"), draft("r2", actor_id="other")])
        assert [each.receipt.seq for each in results] == [1, 2]
        assert (await verify_all(service)).checked_count == 3


@pytest.mark.parametrize(
    "lie",
    [lambda w: setattr(w, "secret", bytes(32)), lambda w: setattr(w, "payload", b"{}")],
    ids=["secret", "payload"],
)
async def test_genesis_that_opens_nothing_is_not_stored(database_url: str, lie: Any) -> None:
    """It would be the first of all that comes behind it, for ever."""
    witness = InMemoryWitness()
    async with ledger_service(database_url, witness, create=False) as service:
        honest = lying(witness, lie)
        with pytest.raises(InternalError) as caught:
            await create_ledger(service)
        assert caught.value.reason == "WITNESS_ANSWER"
        honest()
        await create_ledger(service)
        await append(service, draft("r1"))
        assert (await verify_all(service)).checked_count == 2
