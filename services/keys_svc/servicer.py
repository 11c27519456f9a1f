"""The RPCs of `provledger.api.keys.v1.KeysService`: convert, decide, convert."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, Final

from keys_svc import convert, journal, parts, rebuilding
from keys_svc.live import LiveRegistry
from keys_svc.registry import Registry
from keys_svc.revoking import revoke
from keys_svc.room import check_rotation, encode_key_set
from keys_svc.signers import Signers, check_report
from keys_svc.turns import InThread, Turns
from provledger import logs, names
from provledger.api.keys.v1 import keys_pb2 as pb
from provledger.api.keys.v1 import keys_pb2_grpc
from provledger.errors import FailedPreconditionError, UnavailableError
from provledger.key_events import LogSize
from provledger.keyring import MAX_CLOCK_LAG_NS
from provledger.keyset import MAX_CLOCK_AHEAD_NS, KeyPurpose, KeyState
from provledger.rpc.auth import current_principal
from provledger.rpc.key_events import PURPOSES_PB, endorsement_from_pb
from provledger.seldom import Seldom

log = logs.get(__name__)

MAX_HEARTBEAT_S: Final = 10.0
_MAX_ENDORSEMENTS: Final = 16
# How long a signature may take that was begun before a key ended, and then is in a log's size.
_SETTLE_NS: Final = 10_000_000_000
# The ledger's clock may be ahead of the witness's by once that, and that one of ours.
_MAX_RECEIPT_AHEAD_NS: Final = 2 * MAX_CLOCK_AHEAD_NS

Context = Any


class KeysServicer(keys_pb2_grpc.KeysServiceServicer):
    """Answers from `live`. `drain_ns` and `lease_ms` are those of the settings; `clock` gives Unix
    nanoseconds."""

    def __init__(
        self,
        live: LiveRegistry,
        *,
        drain_ns: int,
        lease_ms: int,
        signers: Signers | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._live = live
        self._signers = signers or Signers(lease_ms * 1_000_000)
        # A signing service that hears of a rotation at the end of its lease may date what it signs
        # until then by a clock that is ahead of ours: that is to count as well.
        self._drain_ns = drain_ns + MAX_CLOCK_AHEAD_NS
        self._lease_ms = lease_ms
        self._clock = clock
        self._one_stream = Turns()
        self._seldom = Seldom()

    async def CreateKey(
        self, request: pb.CreateKeyRequest, context: Context
    ) -> pb.CreateKeyResponse:
        """Register a key; the same call again returns the same key."""
        binding = convert.binding_from_pb(request)
        now_ns = self._clock()
        registry = await self._live.update(lambda known: journal.create(known, binding, now_ns))
        record = registry.get(binding.kid)
        log.info("keys.created", kid=record.kid, purpose=record.purpose, state=record.state)
        return pb.CreateKeyResponse(key=convert.key_to_pb(record, now_ns))

    async def GetKey(self, request: pb.GetKeyRequest, context: Context) -> pb.GetKeyResponse:
        """Return one key."""
        kid = convert.key_name_from_pb(request.name)
        registry = await self._live.load()
        return pb.GetKeyResponse(key=convert.key_to_pb(registry.get(kid), self._clock()))

    async def ListKeys(self, request: pb.ListKeysRequest, context: Context) -> pb.ListKeysResponse:
        """Return a page of keys, newest first."""
        return convert.list_keys(await self._live.load(), request, self._clock())

    async def RotateKey(
        self, request: pb.RotateKeyRequest, context: Context
    ) -> pb.RotateKeyResponse:
        """Make another key the active one of its purpose, or prepare for it."""
        kid, purpose, binding = convert.rotation_from_pb(request)
        now_ns = self._clock()
        self._check_clock(now_ns)

        def rotate(known: Registry) -> Registry:
            changed = journal.rotate(
                known,
                kid,
                purpose,
                now_ns,
                drain_ns=self._drain_ns,
                binding=binding,
                hold_pending=request.hold_pending,
                sizes=self._log_sizes(known, now_ns),
            )
            if not request.hold_pending:
                check_rotation(known, changed, now_ns)
            self._check_end(known, changed, purpose, now_ns)
            return changed

        registry = await self._live.update(rotate)
        record = registry.get(kid)
        log.info("keys.rotated", kid=kid, purpose=purpose, state=record.state, epoch=record.epoch)
        response = pb.RotateKeyResponse(key=convert.key_to_pb(record, now_ns))
        previous = registry.predecessor(record)
        if previous is not None:
            response.previous.CopyFrom(convert.key_to_pb(previous, now_ns))
        return response

    async def CommitRotation(
        self, request: pb.CommitRotationRequest, context: Context
    ) -> pb.CommitRotationResponse:
        """End a rotation that was begun with `hold_pending`."""
        kid = convert.kid_from_pb(request.kid)
        now_ns = self._clock()
        self._check_clock(now_ns)

        def commit(known: Registry) -> Registry:
            changed = _commit(known, kid, now_ns, self._drain_ns)
            check_rotation(known, changed, now_ns)
            self._check_end(known, changed, changed.get(kid).purpose, now_ns)
            return changed

        registry = await self._live.update(commit)
        record = registry.get(kid)
        log.info("keys.committed", kid=kid, purpose=record.purpose, epoch=record.epoch)
        response = pb.CommitRotationResponse(key=convert.key_to_pb(record, now_ns))
        previous = registry.predecessor(record)
        if previous is not None:
            response.previous.CopyFrom(convert.key_to_pb(previous, now_ns))
        return response

    async def RevokeKey(
        self, request: pb.RevokeKeyRequest, context: Context
    ) -> pb.RevokeKeyResponse:
        """Take a key out of use for good."""
        kid, reason, after = convert.revocation_from_pb(request)
        now_ns = self._clock()
        if request.replacement_kid:
            self._check_clock(now_ns)

        def revoked(known: Registry) -> Registry:
            purpose = PURPOSES_PB[known.get(kid).purpose]
            return revoke(
                known,
                kid,
                reason,
                now_ns,
                after=after,
                replacement_kid=request.replacement_kid,
                sizes=self._log_sizes(known, now_ns),
                behind_ns=self._signers.behind_ns(now_ns, purpose, kid),
            )

        registry = await self._live.update(revoked)
        log.warning("keys.revoked", kid=kid)
        return pb.RevokeKeyResponse(key=convert.key_to_pb(registry.get(kid), now_ns))

    async def GetJwks(self, request: pb.GetJwksRequest, context: Context) -> pb.GetJwksResponse:
        """Return the JWK Set that verifiers need."""
        registry = await self._live.load()
        return pb.GetJwksResponse(jwks=encode_key_set(registry, self._clock()))

    async def WatchKeys(
        self, request: pb.WatchKeysRequest, context: Context
    ) -> AsyncIterator[pb.WatchKeysResponse]:
        """Send all keys at once, at every change, and as a heartbeat well within the lease."""
        watcher = convert.watcher_from_pb(request)
        log.debug("keys.watched", watcher=watcher)
        heartbeat_s = min(self._lease_ms / 3000, MAX_HEARTBEAT_S)
        async for registry in self._live.snapshots(heartbeat_s):
            now_ns = self._clock()
            yield pb.WatchKeysResponse(
                revision=registry.revision,
                keys=[convert.key_to_pb(key, now_ns) for key in registry.signing_keys(now_ns)],
                lease_ms=self._lease_ms,
                open_events=[
                    convert.event_record_to_pb(registry, each)
                    for each in journal.open_events(registry)
                ],
            )

    # --- the key ledger

    async def ProposeGenesis(
        self, request: pb.ProposeGenesisRequest, context: Context
    ) -> pb.ProposeGenesisResponse:
        """Prepare the first entry of the key ledger."""
        recovery = convert.recovery_from_pb(request)
        now_ns = self._clock()
        registry = await self._live.update(
            lambda known: journal.propose_genesis(known, recovery, now_ns)
        )
        return pb.ProposeGenesisResponse(
            event=convert.event_record_to_pb(registry, registry.events[0])
        )

    async def EndorseKeyEvent(
        self, request: pb.EndorseKeyEventRequest, context: Context
    ) -> pb.EndorseKeyEventResponse:
        """Add endorsements to an event; seal it once it has those it needs."""
        more = [endorsement_from_pb(each) for each in request.endorsements[:_MAX_ENDORSEMENTS]]
        registry = await self._live.update(
            lambda known: journal.endorse(known, request.digest, more)
        )
        record = journal.find(registry, request.digest)
        return pb.EndorseKeyEventResponse(event=convert.event_record_to_pb(registry, record))

    async def RecordKeyEvent(
        self, request: pb.RecordKeyEventRequest, context: Context
    ) -> pb.RecordKeyEventResponse:
        """Take an event as recorded; it takes effect."""
        # A key that is replaced signed until it was recorded, however far our clock is behind.
        receipt_ns = names.receipt_time_ns(request.receipt, "receipt")
        self._check_receipt_time(receipt_ns)
        now_ns = max(self._clock(), receipt_ns)
        registry = await self._live.update(
            lambda known: journal.record(
                known, request.digest, request.receipt, now_ns, self._drain_ns
            )
        )
        record = journal.find(registry, request.digest)
        event = record.signed.event
        log.info("keys.event_recorded", kid=event.kid, what=event.event, receipt=record.receipt)
        return pb.RecordKeyEventResponse(event=convert.event_record_to_pb(registry, record))

    async def CancelRotation(
        self, request: pb.CancelRotationRequest, context: Context
    ) -> pb.CancelRotationResponse:
        """Take back a rotation that is not sealed."""
        kid = convert.kid_from_pb(request.kid)
        registry = await self._live.update(lambda known: journal.cancel(known, kid))
        log.info("keys.rotation_cancelled", kid=kid)
        return pb.CancelRotationResponse(key=convert.key_to_pb(registry.get(kid), self._clock()))

    async def ListKeyEvents(
        self, request: pb.ListKeyEventsRequest, context: Context
    ) -> pb.ListKeyEventsResponse:
        """Return a page of events in order, or all of them."""
        return convert.list_key_events(await self._live.load(), request)

    async def RebuildRegistry(
        self, request: pb.RebuildRegistryRequest, context: Context
    ) -> pb.RebuildRegistryResponse:
        """Build an empty registry anew."""
        return pb.RebuildRegistryResponse(
            key_count=await self._rebuild(request, convert.MAX_EVENTS, asyncio.to_thread)
        )

    async def RebuildRegistryStream(
        self, request_iterator: AsyncIterator[pb.RebuildRegistryStreamRequest], context: Context
    ) -> pb.RebuildRegistryStreamResponse:
        """The same from parts, which are held one stream at a time."""
        async with self._one_stream.take() as in_thread:
            request = await parts.put_together(request_iterator)
            return pb.RebuildRegistryStreamResponse(
                key_count=await self._rebuild(request, parts.MAX_EVENTS, in_thread)
            )

    async def _rebuild(
        self, request: pb.RebuildRegistryRequest, most: int, in_thread: InThread
    ) -> int:
        # Tens of thousands take seconds to read, and their signatures a minute to verify.
        events = await in_thread(convert.rebuild_from_pb, request, most=most)
        # As RecordKeyEvent: no key that drains ends before the last event let it.
        last = names.receipt_time_ns(request.receipts[-1], f"receipts[{len(events) - 1}]")
        now_ns = max(self._clock(), last + self._drain_ns)
        rebuilding.check_empty(await self._live.load(), events)
        # Before the database is asked to wait: it gives up a transaction that idles for long.
        history = await in_thread(rebuilding.verified, events, request.pin)
        registry = await self._live.update(
            lambda known: rebuilding.rebuild(known, events, request.pin, now_ns, history)
        )
        log.warning("keys.rebuilt", keys=len(registry.keys), events=len(registry.events))
        return len(registry.keys)

    # --- who signs with what

    async def ReportSigner(
        self, request: pb.ReportSignerRequest, context: Context
    ) -> pb.ReportSignerResponse:
        """Take note of what a service signs with."""
        signer = request.signer
        check_report(signer)
        dropped = self._signers.report(
            signer, self._clock(), caller=current_principal(), leaving=request.leaving
        )
        if dropped is not None and (times := self._seldom.times("dropped")):
            caller, watcher, instance = dropped
            log.warning(
                "keys.report_dropped",
                caller=caller,
                watcher=watcher,
                instance=instance,
                times=times,
            )
        return pb.ReportSignerResponse()

    async def ListSigners(
        self, request: pb.ListSignersRequest, context: Context
    ) -> pb.ListSignersResponse:
        """Return who reported lately."""
        return pb.ListSignersResponse(signers=self._signers.list(self._clock()))

    async def retire_drained(self, poll_interval_s: float) -> None:
        """Propose the retirement of keys that have drained, for ever."""
        failing = False
        while True:
            await asyncio.sleep(poll_interval_s)
            now_ns = self._clock()
            try:
                known = await self._live.load()
                retire = partial(
                    journal.retire,
                    now_ns=now_ns,
                    ready=self._settled(known, now_ns),
                    sizes=self._sizes_by_origin(known, now_ns),
                    settle_ns=self._settle_ns(now_ns),
                )
                if retire(known) is not known:
                    await self._live.update(retire)
            except Exception as error:  # nothing here is a reason to end the service
                if not failing:
                    log.warning("keys.not_retired", exc_info=error)
                failing = True
            else:
                failing = False

    def _check_clock(self, now_ns: int) -> None:
        """Return unless a key that begins now could not sign for long: nobody's clock is there.

        Raises:
            UnavailableError: CLOCK_SKEW. Nothing is changed.
        """
        ahead_ns = self._signers.ahead_ns(now_ns)
        if ahead_ns > MAX_CLOCK_LAG_NS:
            seconds = ahead_ns // 1_000_000_000
            raise UnavailableError(
                "CLOCK_SKEW",
                f"the clock of the keys service is {seconds} s ahead of those of all services that "
                "sign, which could not sign with a key that begins now; set it",
                metadata={"aheadSeconds": str(seconds)},
                retry_delay_s=5.0,
            )

    def _check_receipt_time(self, receipt_ns: int) -> None:
        """Return if some clock shows that it may be the time of a receipt: ours may be behind.

        Until then a replaced key would count.

        Raises:
            UnavailableError: CLOCK_SKEW. Nothing is changed.
        """
        ahead_ns = receipt_ns - self._signers.latest_ns(self._clock())
        if ahead_ns > _MAX_RECEIPT_AHEAD_NS:
            seconds = ahead_ns // 1_000_000_000
            raise UnavailableError(
                "CLOCK_SKEW",
                f"the receipt is of a time {seconds} s ahead of the clocks of the keys service and "
                "of one that reports to it; set those that are wrong",
                metadata={"aheadSeconds": str(seconds)},
                retry_delay_s=5.0,
            )

    def _settle_ns(self, now_ns: int) -> int:
        """How long ago a key must have ended, so that what it signed last was reported.

        A service whose clock is behind signs with it for as long as it goes by what it last heard,
        and a report may be lost, so that the one before it is what we have.
        """
        return _SETTLE_NS + self._lease_ms * 1_000_000 + self._signers.age_ns(now_ns)

    def _check_end(
        self, before: Registry, after: Registry, purpose: KeyPurpose, now_ns: int
    ) -> None:
        """Return unless a key that ends by our clock would end before what it has signed.

        It signs on until whoever has it hears of the other one, for which half of the time that
        it drains is left. With a key ledger its end is counted from the entry there.

        Raises:
            UnavailableError: CLOCK_SKEW. Nothing is changed.
        """
        old, new = before.active(purpose), after.active(purpose)
        if old is None or new is None or old.kid == new.kid:
            return
        behind_ns = self._signers.behind_ns(now_ns, PURPOSES_PB[purpose], old.kid)
        if behind_ns > self._drain_ns // 2:
            seconds = behind_ns // 1_000_000_000
            raise UnavailableError(
                "CLOCK_SKEW",
                f"the clock of the keys service is {seconds} s behind those of all services that "
                f"sign with key {old.kid!r}, which would end before what they signed; set it",
                metadata={"behindSeconds": str(seconds), "kid": old.kid},
                retry_delay_s=5.0,
            )

    def _settled(self, registry: Registry, now_ns: int) -> list[str]:
        """Purposes for which every signing service uses the active key."""
        return [
            purpose
            for purpose, number in PURPOSES_PB.items()
            if (active := registry.active(purpose)) is not None
            and self._signers.all_use(number, active.kid, now_ns)
        ]

    def _sizes_by_origin(self, registry: Registry, now_ns: int) -> dict[str, int]:
        kids = {
            each.kid
            for each in registry
            if each.purpose is KeyPurpose.CHECKPOINT
            and each.state in (KeyState.ACTIVE, KeyState.DRAINING)
        }
        return self._signers.log_sizes(now_ns, kids)

    def _log_sizes(self, registry: Registry, now_ns: int) -> list[LogSize]:
        sizes = self._sizes_by_origin(registry, now_ns)
        return [LogSize(origin, size) for origin, size in sorted(sizes.items())]


def _commit(known: Registry, kid: str, now_ns: int, drain_ns: int) -> Registry:
    if journal.is_kept(known) and known.get(kid).state is KeyState.PENDING:
        raise FailedPreconditionError(
            "KEY_LEDGER_KEPT",
            "where there is a key ledger, a rotation ends when its event is recorded there; "
            f"see how far it is: keys rotate --kid {kid}",
            metadata={"kid": kid},
        )
    return known.commit(kid, now_ns, drain_ns=drain_ns)
