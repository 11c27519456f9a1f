"""Makes ledgers: seq 0 is `ledger.created`, witnessed like any other receipt.

The genesis names the ledger's suite, its log with the thumbprint of the log's key, and the
thumbprint of the witness's key. The last is known for certain only once the witness has signed, so
the one that signed last is assumed, and if another one did sign, the genesis is stated again: its
payload and its own signature always name the same key. It is stated again, too, where the key that
signed is on its way out: as with appends, what it signed is not stored.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final, Protocol

from ledger_svc import chain, directory
from ledger_svc.append import MAX_WITNESS_ROUNDS
from ledger_svc.chain import Candidate, LedgerInfo, Linked, Seal
from ledger_svc.convert import SUITES_FROM_PB
from ledger_svc.guard import Guard
from ledger_svc.storage import Storage
from ledger_svc.tools import KeyPolicy, StaleSignatureError
from ledger_svc.witnessing import SUITES_TO_PB, Pending, WitnessClient
from provledger import logs, names
from provledger.api.anchor.v1 import anchor_pb2
from provledger.api.common.v1 import common_pb2
from provledger.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InternalError,
    StatusError,
    UnavailableError,
)
from provledger.hashing import HASH_BYTES
from provledger.hashing import suite as get_suite
from provledger.rpc.channel import call
from provledger.rpc.errors import naming

log = logs.get(__name__)

_NO_KEY: Final = bytes(HASH_BYTES)
_MAX_KEPT: Final = 1000
"""Tenants that a CreateLog names; no anchor has more logs of tenants."""


class LogStub(Protocol):
    """What we call of the generated `AnchorServiceStub`."""

    GetLog: Callable[..., Awaitable[anchor_pb2.GetLogResponse]]
    CreateLog: Callable[..., Awaitable[anchor_pb2.CreateLogResponse]]


class LedgerMaker:
    """Makes ledgers; the same call again finds the one that is there.

    own_log_tenants: whose ledgers go to a log of their own in any case; `*` for everybody's. Who is
    not named there takes no place of those who are: logs are kept for ever, and any caller may ask
    for one, for whatever tenant.
    """

    def __init__(
        self,
        storage: Storage,
        witness: WitnessClient,
        anchor: Any,
        guard: Guard,
        keys: KeyPolicy,
        *,
        log_name: str,
        own_log_tenants: Collection[str] = (),
        timeout_s: float,
        clock: Callable[[], int],
        random: Callable[[int], bytes],
    ) -> None:
        self._storage = storage
        self._witness = witness
        self._anchor: LogStub = anchor
        self._guard = guard
        self._keys = keys
        self._log_name = log_name
        self._own_log_tenants = frozenset(own_log_tenants)
        named = sorted(self._own_log_tenants - {"*"})[:_MAX_KEPT]
        self._kept_for = [names.tenant_name(tenant) for tenant in named]
        self._timeout_s = timeout_s
        self._clock = clock
        self._random = random
        self._witness_key = _NO_KEY

    async def create(
        self,
        tenant: str,
        ledger: str,
        suite: str | None,
        default_suite: str,
        principal: str,
        *,
        own_log: bool = False,
    ) -> tuple[LedgerInfo, bool]:
        """Make a ledger; (the ledger, whether this call made it). Safe to repeat and to race.

        own_log: its entries go to a log of the tenant's own.

        Raises:
            AlreadyExistsError: it is there with another suite than was asked for, or in the shared
                log.
            DataLossError: as `directory.find`.
            FailedPreconditionError: its suite does not fit the log; TOO_MANY_LOGS; the database is
                known to be too old (`Guard.check_absent`), so that it may have lost the ledger.
            UnavailableError: the anchor, the witness or the database is away; SIGNATURE_STALE.
        """
        existing = await directory.find(self._storage, tenant, ledger)
        if existing is None:
            await self._guard.check_absent()
            of_log = await self._log(tenant, suite or default_suite, own_log=own_log)
            made = await self._make(tenant, ledger, suite or default_suite, of_log, principal)
            existing, linked, seal, witnessed_at_s = made
            check = functools.partial(self._check, linked, seal, witnessed_at_s)
            stored = await self._storage.insert_ledger(existing, linked, check)
            if stored.uid == existing.uid:
                self._guard.trust(existing)
                log.info("ledger.created", ledger=existing.name, suite=existing.suite)
                return existing, True
            existing = stored
        if suite is not None and suite != existing.suite:
            raise AlreadyExistsError(
                "LEDGER_EXISTS",
                f"{existing.name} is there already, with suite {existing.suite}",
                metadata={"ledger": existing.name, "suite": existing.suite},
            )
        if own_log:
            shared = await self._log(tenant, existing.suite, own_log=False, shared=True)
            if shared.name == existing.log_name:
                raise AlreadyExistsError(
                    "LEDGER_EXISTS",
                    f"{existing.name} is there already, in the log that ledgers share",
                    metadata={"ledger": existing.name, "log": existing.log_name},
                )
        return existing, False

    async def _log(
        self, tenant: str, suite: str, *, own_log: bool, shared: bool = False
    ) -> anchor_pb2.Log:
        """The log for a ledger: the shared one, or that of the tenant."""
        ids = self._own_log_tenants
        try:
            if own_log or (not shared and (tenant in ids or "*" in ids)):
                request = anchor_pb2.CreateLogRequest(
                    tenant=names.tenant_name(tenant),
                    suite=SUITES_TO_PB[suite],
                    kept_for=() if tenant in ids else self._kept_for,
                )
                made = await call(self._anchor.CreateLog, request, timeout_s=self._timeout_s)
                return made.log
            asked = anchor_pb2.GetLogRequest(name=self._log_name)
            return (await call(self._anchor.GetLog, asked, timeout_s=self._timeout_s)).log
        except StatusError as error:
            raise naming(error, "ANCHOR_UNAVAILABLE", "the anchor service") from error

    async def _make(
        self, tenant: str, ledger: str, suite: str, of_log: anchor_pb2.Log, principal: str
    ) -> tuple[LedgerInfo, Linked, Seal, float]:
        _check_log(of_log, suite)
        info = LedgerInfo(
            uid=self._random(names.UID_BYTES),
            tenant=tenant,
            ledger=ledger,
            suite=suite,
            log_name=of_log.name,
            log_origin=of_log.origin,
            created_at_ns=0,
        )
        # Before anything is signed: a log that is held may have had a ledger of this name.
        await self._guard.check_new(info)
        candidate, seal, witnessed_at_s = await self._state(info, of_log, principal)
        now_ns = self._clock()
        linked = chain.link(info, chain.EMPTY_HEAD, seal, [candidate], now_ns)
        return (
            LedgerInfo(
                uid=info.uid,
                tenant=tenant,
                ledger=ledger,
                suite=suite,
                log_name=info.log_name,
                log_origin=info.log_origin,
                created_at_ns=linked.head.t_ns,
            ),
            linked,
            seal,
            witnessed_at_s,
        )

    async def _state(
        self, info: LedgerInfo, of_log: anchor_pb2.Log, principal: str
    ) -> tuple[Candidate, Seal, float]:
        """Have the genesis witnessed under the key that it names, one that may still sign.

        When that was is the last of the three, by `time.monotonic`.
        """
        taken = True
        for _ in range(MAX_WITNESS_ROUNDS):
            payload = chain.genesis_payload(
                info.suite, of_log.origin, of_log.uid, of_log.key_thumbprint, self._witness_key
            )
            item = Pending(_draft(info, payload), principal, len(payload))
            (item.receipt_id,) = chain.receipt_ids(self._clock(), self._random(10))
            witnessed = await self._witness.witness(info, [item], system=True)
            witnessed_at_s = time.monotonic()
            (result,) = witnessed.results
            if not isinstance(result, Candidate) or witnessed.seal is None:
                log.error("ledger.genesis_refused", ledger=info.name, why=str(result))
                raise InternalError("INTERNAL", "the witness refused the genesis of a ledger")
            seal = witnessed.seal
            named, self._witness_key = self._witness_key, seal.thumbprint
            taken = await self._is_taken(seal)
            if taken and named == seal.thumbprint:
                return result, seal, witnessed_at_s
        if not taken:
            raise _stale(seal.kid)
        raise UnavailableError(
            "WITNESS_KEY_CHANGING", "the witness's key keeps changing", retry_delay_s=1.0
        )

    async def _is_taken(self, seal: Seal) -> bool:
        """Whether the key may still sign, and did; raises InternalError (WITNESS_ANSWER)."""
        if not await self._keys.wait_accepts(seal.kid, seal.epoch):
            return False
        try:
            self._keys.check_signature(seal)
        except StaleSignatureError:
            return False
        return True

    def _check(self, linked: Linked, seal: Seal, witnessed_at_s: float, database_ns: int) -> None:
        """In the writing thread: refuse a genesis that waited too long, whose key must not sign, or
        that is of a clock far ahead.

        As with appends that are witnessed again, age is how long we had it: clocks may differ.

        Raises:
            UnavailableError: SIGNATURE_STALE, CLOCK_SKEW.
        """
        chain.check_clock(linked.head.t_ns, database_ns, seal.signed_at_ns)
        if not self._keys.accepts(seal.kid, seal.epoch):
            raise _stale(seal.kid)
        age_ns = int((time.monotonic() - witnessed_at_s) * 1e9)
        if age_ns > chain.MAX_SIGNATURE_AGE_NS:
            raise _refused(f"the genesis was signed {age_ns // 1_000_000_000} s ago")


def _stale(kid: str) -> UnavailableError:
    return _refused(f"the witness signs with key {kid}, which is neither active nor draining")


def _refused(why: str) -> UnavailableError:
    return UnavailableError("SIGNATURE_STALE", why, retry_delay_s=1.0)


def _check_log(of_log: anchor_pb2.Log, suite: str) -> None:
    """Check that entries of this suite can go to the log.

    Raises:
        FailedPreconditionError: SUITE_MISMATCH, for a log with another tree hash.
    """
    log_suite = SUITES_FROM_PB.get(of_log.suite, "")
    if log_suite and get_suite(suite).tree is get_suite(log_suite).tree:
        return
    raise FailedPreconditionError(
        "SUITE_MISMATCH",
        f"a ledger of suite {suite} cannot go to {of_log.name}, whose suite is {log_suite}",
        metadata={"suite": suite, "logSuite": log_suite},
    )


def _draft(info: LedgerInfo, payload: bytes) -> common_pb2.Draft:
    return common_pb2.Draft(
        request_id=chain.GENESIS_REQUEST_ID,
        actor=common_pb2.Actor(id=chain.GENESIS_ACTOR_ID, type=chain.GENESIS_ACTOR_TYPE),
        document=common_pb2.Document(
            receipt_type=chain.GENESIS_TYPE,
            media_type="application/json",
            payload=payload,
            resource_type=chain.GENESIS_RESOURCE_TYPE,
            resource_id=info.ledger,
        ),
    )
