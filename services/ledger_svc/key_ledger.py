"""Writes the key ledger (design §6): each key event, once, when all who must have endorsed it.

    watch keys ─> ask witness or anchor to endorse ─> keys seals ─> append ─> keys records

The keys service keeps the journal and calls nobody; this service, which watches it anyway, carries
the events. Safe to be killed anywhere: what is proposed is endorsed again, what is sealed has
fixed bytes and a request id made from the event, so that an append that was answered to nobody is
recognised. Several replicas may do it at once. What keys takes for recorded and is not there is
appended in the same way.

Nobody else writes to the tenant `system`, except probes to a ledger of their own
(`provledger.rpc.probe`): `refuse_system` or `check_writable` is asked for every call that would.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from ledger_svc.chain import LedgerInfo
from ledger_svc.directory import LedgerDirectory
from ledger_svc.genesis import LedgerMaker
from ledger_svc.key_registry import KeyRegistry
from ledger_svc.outcomes import Recorded
from ledger_svc.pipelines import Appender
from ledger_svc.storage import Storage
from ledger_svc.witnessing import Pending
from provledger import logs, names
from provledger.api.anchor.v1 import anchor_pb2
from provledger.api.common.v1 import common_pb2
from provledger.api.keys.v1 import keys_pb2 as pb
from provledger.api.witness.v1 import witness_pb2
from provledger.errors import (
    AlreadyExistsError,
    KeyFormatError,
    PermissionDeniedError,
    StatusError,
)
from provledger.key_events import LEDGER, LEDGER_NAME, TENANT, EventType, parse_signed, request_id
from provledger.keyring import KeyRing
from provledger.rpc.channel import call
from provledger.rpc.key_events import event_from_pb, event_to_pb
from provledger.rpc.probe import PROBE_LEDGER, PROBE_LEDGER_NAME, is_probe

log = logs.get(__name__)

ACTOR_ID: Final = "keys_svc"
RESOURCE_TYPE: Final = "Key"
_TIMEOUT_S: Final = 10.0
_RETRY_S: Final = 1.0
_GENESIS_SEQ: Final = 1
"""Seq 0 is `ledger.created`."""


def refuse_system(tenant: str) -> None:
    """Refuse to let a caller write to the tenant `system`; raises PermissionDeniedError."""
    if tenant == TENANT:
        raise PermissionDeniedError(
            "SYSTEM_TENANT",
            f"ledgers of tenants/{TENANT} are written by the services themselves",
            metadata={"tenant": TENANT},
        )


def check_creatable(tenant: str, ledger_id: str) -> None:
    """As `refuse_system`, but for the ledger of the probes."""
    if ledger_id != PROBE_LEDGER:
        refuse_system(tenant)


def check_writable(ledger: LedgerInfo, draft: common_pb2.Draft) -> None:
    """As `refuse_system`, but for a probe into the ledger of the probes."""
    if ledger.tenant == TENANT and not (ledger.name == PROBE_LEDGER_NAME and is_probe(draft)):
        refuse_system(ledger.tenant)


class KeyLedger:
    """Carries key events from the keys service into the key ledger; `run` does it for ever."""

    def __init__(
        self,
        ring: KeyRing,
        keys: Any,
        witness: Any,
        anchor: Any,
        maker: LedgerMaker,
        directory: LedgerDirectory,
        appender: Appender,
        storage: Storage,
        default_suite: str,
        registry: KeyRegistry,
    ) -> None:
        self._ring = ring
        self._keys = keys
        self._maker = maker
        self._directory = directory
        self._appender = appender
        self._storage = storage
        self._default_suite = default_suite
        self._registry = registry
        self._sign: dict[int, tuple[Callable[..., Any], type[Any]]] = {
            pb.KEY_PURPOSE_WITNESS: (witness.SignKeyEvent, witness_pb2.SignKeyEventRequest),
            pb.KEY_PURPOSE_CHECKPOINT: (anchor.SignKeyEvent, anchor_pb2.SignKeyEventRequest),
            pb.KEY_PURPOSE_HEAD: (anchor.SignKeyEvent, anchor_pb2.SignKeyEventRequest),
            pb.KEY_PURPOSE_RECEIPT: (anchor.SignKeyEvent, anchor_pb2.SignKeyEventRequest),
        }
        self._told: set[bytes] = set()

    async def run(self) -> None:
        """Carry events as they appear, for ever; what cannot be done now is tried again."""
        while True:
            done = 0
            seen = self._ring.view.revision
            done += await self._append_missing()
            for event in self._ring.view.open_events:
                try:
                    done += await self._carry(event)
                except StatusError as error:
                    self._tell(event, error)
                except Exception as error:  # one event's trouble is not that of the others
                    log.error("key_ledger.failed", exc_info=error, kid=event.event.kid)
            if done or self._ring.view.revision != seen:
                # What was recorded is news of its own, and comes by the watch.
                await self._ring.changed(0.02)
            else:
                await self._ring.changed(_RETRY_S)

    async def _append_missing(self) -> bool:
        """Append what the keys service takes for recorded and is not in the key ledger; whether
        there was such an event.

        Somebody told it so, and nothing was appended, or the database lost it. Until it is there,
        nothing behind it can be, and no verifier takes the keys. It was sealed before: it has all
        its endorsements, and the same bytes and request id as ever.
        """
        payload = self._registry.missing
        if payload is None:
            return False
        try:
            signed = parse_signed(payload)
            event = pb.JournaledKeyEvent(
                event=event_to_pb(signed.event), digest=signed.event.digest(), payload=payload
            )
        except KeyFormatError as error:
            log.error("key_ledger.failed", exc_info=error)
            return False
        try:
            receipt = await self._append(event)
            request = pb.RecordKeyEventRequest(digest=event.digest, receipt=receipt)
            await call(self._keys.RecordKeyEvent, request, timeout_s=_TIMEOUT_S)
            await self._registry.compare()
        except StatusError as error:
            self._tell(event, error)
            return False
        except Exception as error:  # the other events are carried all the same
            log.error("key_ledger.failed", exc_info=error, kid=event.event.kid)
            return False
        log.warning("key_ledger.was_missing", kid=event.event.kid, receipt=receipt)
        self._told.discard(event.digest)
        return True

    async def _carry(self, event: pb.JournaledKeyEvent) -> bool:
        """Bring one event as far as it goes now; whether it is recorded."""
        if event.state == pb.KEY_EVENT_STATE_PROPOSED:
            event = await self._endorse(event)
        if event.state == pb.KEY_EVENT_STATE_PROPOSED:
            return False
        if event.state == pb.KEY_EVENT_STATE_SEALED:
            receipt = await self._append(event)
            request = pb.RecordKeyEventRequest(digest=event.digest, receipt=receipt)
            await call(self._keys.RecordKeyEvent, request, timeout_s=_TIMEOUT_S)
            log.info("key_ledger.recorded", kid=event.event.kid, receipt=receipt)
            self._told.discard(event.digest)
        return True

    async def _endorse(self, event: pb.JournaledKeyEvent) -> pb.JournaledKeyEvent:
        """Collect the endorsements that can be had; the event as the keys service has it then."""
        about = event.event
        have = {each.kid for each in event.endorsements}
        collected: list[pb.KeyEndorsement] = []
        trouble: StatusError | None = None
        genesis = about.type == pb.KEY_EVENT_TYPE_GENESIS
        if genesis:
            wanted = [(each.kid, each.purpose) for each in about.first_keys]
        elif about.type in (pb.KEY_EVENT_TYPE_CREATED, pb.KEY_EVENT_TYPE_ROTATED):
            wanted = [(about.kid, about.purpose)]
        else:
            wanted = []
        for kid, purpose in wanted:
            if kid not in have:
                try:
                    collected.append(await self._ask(about, kid, purpose))
                except StatusError as error:
                    trouble = error
        # One of the keys that were valid before is enough; a recovery key may have done it, too.
        if not genesis and have <= {about.kid}:
            for kid in event.endorser_kids:
                try:
                    endorsement = await self._ask_while_needed(event, kid)
                    if endorsement is None:
                        break
                    collected.append(endorsement)
                    trouble = None if len(collected) > len(wanted) - len(have) - 1 else trouble
                    break
                except StatusError as error:
                    trouble = error
        request = pb.EndorseKeyEventRequest(digest=event.digest, endorsements=collected)
        answer = await call(self._keys.EndorseKeyEvent, request, timeout_s=_TIMEOUT_S)
        if answer.event.state == pb.KEY_EVENT_STATE_PROPOSED and trouble is not None:
            raise trouble
        found: pb.JournaledKeyEvent = answer.event
        return found

    async def _ask_while_needed(
        self, event: pb.JournaledKeyEvent, kid: str
    ) -> pb.KeyEndorsement | None:
        """Ask for an old key's endorsement, which may take its time: it is why it is replaced.

        None as soon as somebody else has endorsed the event: the recovery key.
        """
        asking = asyncio.ensure_future(self._ask(event.event, kid, event.event.purpose))
        try:
            while not asking.done():
                change = asyncio.ensure_future(self._ring.changed(_TIMEOUT_S))
                await asyncio.wait((asking, change), return_when=asyncio.FIRST_COMPLETED)
                change.cancel()
                now = [e for e in self._ring.view.open_events if e.digest == event.digest]
                endorsed = {each.kid for e in now for each in e.endorsements}
                if not asking.done() and (not now or endorsed - {event.event.kid}):
                    return None
            return await asking
        finally:
            asking.cancel()

    async def _ask(self, event: pb.KeyEvent, kid: str, purpose: int) -> pb.KeyEndorsement:
        method, request = self._sign[purpose]
        answer = await call(method, request(event=event, kid=kid), timeout_s=_TIMEOUT_S)
        endorsement: pb.KeyEndorsement = answer.endorsement
        return endorsement

    async def _append(self, event: pb.JournaledKeyEvent) -> str:
        """Append a sealed event, or find it there; its receipt's name.

        Raises:
            FailedPreconditionError: KEY_REGISTRY_BEHIND, another one is in its place.
            NotFoundError: KEY_EVENT_NOT_FOUND, the registry does not have it any more.
        """
        ledger = await self._ledger()
        await self._check_belongs(ledger, event)
        await self._registry.check_next(event.payload)
        kind = event_from_pb(event.event).event.value
        draft = common_pb2.Draft(
            request_id=request_id(event.digest),
            actor=common_pb2.Actor(id=ACTOR_ID, type="service"),
            document=common_pb2.Document(
                receipt_type=kind,
                media_type="application/json",
                payload=event.payload,
                resource_type=RESOURCE_TYPE,
                resource_id=event.event.kid,
            ),
        )
        (outcome,) = await self._appender.append(
            ledger, [Pending(draft, ACTOR_ID, len(event.payload))]
        )
        if not isinstance(outcome, Recorded):
            raise outcome
        return names.receipt_name(ledger.name, names.receipt_id_text(outcome.stored.row.receipt_id))

    async def _check_belongs(self, ledger: LedgerInfo, event: pb.JournaledKeyEvent) -> None:
        """Return if the event belongs to the genesis that the key ledger began with, or begins it.

        A registry that was lost and begun anew has another genesis. One entry of it, and no
        verifier takes the key ledger ever again.

        Raises:
            AlreadyExistsError: KEY_LEDGER_EXISTS.
        """
        first = await self._storage.get_rows(ledger.uid, [_GENESIS_SEQ], full=True)
        if not first:
            return
        begun = parse_signed(first[0].row.payload).event
        about = event_from_pb(event.event)
        named = about.digest() if about.event is EventType.GENESIS else about.genesis
        if named != begun.digest():
            raise AlreadyExistsError(
                "KEY_LEDGER_EXISTS",
                f"{ledger.name} began with another genesis, of recovery key {begun.kid!r}: the key "
                "registry is not the one it was kept for. Restore its database, or run keys "
                "rebuild on an empty one",
                metadata={"kid": begun.kid},
            )

    async def _ledger(self) -> LedgerInfo:
        ledger, _ = await self._maker.create(TENANT, LEDGER, None, self._default_suite, ACTOR_ID)
        self._directory.add(ledger)
        return ledger

    def _tell(self, event: pb.JournaledKeyEvent, error: StatusError) -> None:
        """Say once for each event that it waits."""
        tell = log.debug if event.digest in self._told else log.warning
        self._told.add(event.digest)
        tell(
            "key_ledger.waits",
            kid=event.event.kid,
            reason=error.reason,
            message=error.message,
            ledger=LEDGER_NAME,
        )
