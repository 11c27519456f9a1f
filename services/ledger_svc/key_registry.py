"""Compares the key registry with the key ledger, before it is trusted to say which keys sign.

A registry put back to an earlier copy, or rebuilt from an export that is not the newest, has
forgotten what the key ledger says: a revoked key would sign again, and the next key event would
stand in the key ledger behind others that the registry does not know, where no verifier takes it.

The event that the registry has sealed at position N is at seq N of the key ledger, behind
`ledger.created`. So the key ledger's last event has to be the registry's at that place. One that
was just appended and is not recorded yet is: it was sealed before. While it is not so, nothing is
appended, no ledger is made, and nothing is brought to the log, whose next checkpoint a revoked key
might sign. Where the keys service does not answer, nothing is concluded from it: what it said last
counts for as long as its lease, as ever. Only what goes to the log waits at a start until they were
compared once: the anchor may hear of the keys before we do.

The other way round, the registry may take an event for recorded that is not in the key ledger:
somebody said so and it was not so, or the database lost it again before the log had it. Nobody else
brings it: `missing` names the next one of these.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final, NamedTuple, Protocol

from ledger_svc.chain import LedgerInfo
from ledger_svc.storage import Storage
from provledger import logs
from provledger.api.keys.v1 import keys_pb2 as pb
from provledger.errors import (
    FailedPreconditionError,
    NotFoundError,
    StatusError,
    UnavailableError,
)
from provledger.key_events import LEDGER, LEDGER_NAME, TENANT
from provledger.keyring import KeyRing
from provledger.rpc.channel import call
from provledger.rpc.errors import copied

log = logs.get(__name__)

KEY_REGISTRY_BEHIND: Final = "KEY_REGISTRY_BEHIND"
_TIMEOUT_S: Final = 10.0
_PAGE: Final = 1000
_RETRY_S: Final = 1.0
_PATIENCE_S: Final = 5.0
"""How long an append waits where the registry was never compared, or went back."""


class Registry(Protocol):
    """What whoever appends asks."""

    async def check(self) -> None:
        """Raise FailedPreconditionError (KEY_REGISTRY_BEHIND) while the registry is behind."""

    async def check_compared(self) -> None:
        """As `check`, for what makes others sign; also raise UnavailableError
        (KEY_REGISTRY_NOT_COMPARED) while it is not known that the registry is not behind."""

    @property
    def stale_reason(self) -> str:
        """`KEY_REGISTRY_BEHIND` while it is; "" otherwise."""


class AnyRegistry:
    """For a service that hears of no keys."""

    stale_reason: Final = ""

    async def check(self) -> None:
        """Nothing to compare."""

    async def check_compared(self) -> None:
        """Nothing to compare."""


class _Journal(NamedTuple):
    """What the registry has sealed, in order: payloads, of which the first `recorded` ones are
    recorded. It seals nothing behind one that is not."""

    payloads: list[bytes]
    recorded: int


class KeyRegistry:
    """Remembers what came of the last comparison; `run` compares whenever there is news."""

    def __init__(self, ring: KeyRing, keys: Any, storage: Storage) -> None:
        self._ring = ring
        self._keys = keys
        self._storage = storage
        self._refusal: StatusError | None = None
        # The revision that was looked at last: it only ever grows, unless the registry went back.
        self._revision = -1
        self._looked = asyncio.Event()
        self._failing = False
        # Whether a comparison ever came to an end: it found something, or nothing to be wrong.
        self._compared = False
        self._missing: bytes | None = None

    @property
    def missing(self) -> bytes | None:
        """The payload of the event to be next in the key ledger, if the registry takes it for
        recorded already. None where there is no key ledger: it may be that of another database."""
        return self._missing

    @property
    def stale_reason(self) -> str:
        """As the protocol says."""
        return self._refusal.reason if self._refusal is not None else ""

    async def check(self) -> None:
        """As the protocol says; what was not compared yet is waited for, for a moment."""
        heard = self._ring.view.revision
        await self._settled(heard >= 0 and (self._revision < 0 or heard < self._revision))

    async def check_compared(self) -> None:
        """As the protocol says. Once compared, an outage of the keys service changes nothing.

        An older copy that was changed since may be of a larger revision: any news is waited for.
        """
        heard = self._ring.view.revision
        await self._settled(heard >= 0 and heard != self._revision)
        if not self._compared:
            raise UnavailableError(
                "KEY_REGISTRY_NOT_COMPARED",
                "the keys service must be asked once, after a start, whether its registry has all "
                "of the key ledger, and it does not answer. Until then nothing is brought to the "
                "log: a key that was revoked may sign its next checkpoint",
                retry_delay_s=_RETRY_S,
            )

    async def _settled(self, news: bool) -> None:
        """Wait for a moment if there is news; raises what the last comparison found."""
        if news:
            with suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE_S):
                    await self._looked.wait()
        if self._refusal is not None:
            raise copied(self._refusal)

    async def run(self) -> None:
        """Compare at the start, at every change of the registry, and while it is behind."""
        while True:
            revision = self._ring.view.revision
            if revision >= 0:
                again = self._failing or self._refusal is not None
                if again or revision != self._revision:
                    await self._look(revision)
            await self._ring.changed(_RETRY_S)

    async def _look(self, revision: int) -> None:
        try:
            await self.compare()
            self._failing = False
        except StatusError as error:
            # That it is behind was logged; of anything else, once for each outage.
            if error.reason != KEY_REGISTRY_BEHIND and not self._failing:
                log.warning("key_registry.not_compared", reason=error.reason, message=error.message)
            self._failing = error.reason != KEY_REGISTRY_BEHIND
        except Exception as error:  # nothing here is a reason to end the service
            log.error("key_registry.not_compared", exc_info=error)
            self._failing = True
        self._revision = revision
        looked, self._looked = self._looked, asyncio.Event()
        looked.set()

    async def compare(self) -> None:
        """Return if the registry has every event of the key ledger, or there is none.

        Raises:
            FailedPreconditionError: KEY_REGISTRY_BEHIND.
            StatusError: the keys service or the database cannot be asked.
        """
        ledger, last_seq = await self._last()
        if ledger is None or last_seq < 1:
            self._refusal = None
            self._compared = True
        if ledger is None:
            self._missing = None
            return
        journal = await self._sealed()
        if last_seq >= 1:
            await self._compare(ledger, last_seq, journal.payloads)
        await self._note_missing(journal)

    async def check_next(self, payload: bytes) -> None:
        """Return if a sealed event is the next one of the key ledger, or there already.

        An event that we heard of before may be of a registry that was put away since. One that
        knows nothing of it would be behind for ever, if it were appended.

        Raises:
            NotFoundError: KEY_EVENT_NOT_FOUND, the registry has another one at that place, or none.
            FailedPreconditionError, StatusError: as `compare`.
        """
        ledger, last_seq = await self._last()
        journal = await self._sealed()
        if ledger is not None and last_seq >= 1:
            await self._compare(ledger, last_seq, journal.payloads)
        if payload not in journal.payloads[: last_seq + 1]:
            if ledger is not None:
                await self._note_missing(journal)
            raise NotFoundError(
                "KEY_EVENT_NOT_FOUND",
                f"the key registry has no such event to be the next one of {LEDGER_NAME}",
            )

    async def _last(self) -> tuple[LedgerInfo | None, int]:
        """The key ledger and the seq of its last receipt; 0 if it has no event."""
        ledger = await self._storage.get_ledger(TENANT, LEDGER)
        if ledger is None:
            return None, 0
        return ledger, max(0, (await self._storage.get_head(ledger.uid)).head.seq)

    async def _sealed(self) -> _Journal:
        """Ask for the events that the registry has sealed. To be asked behind the look at the key
        ledger: what was there by then was sealed before."""
        sealed: list[bytes] = []
        recorded = 0
        token = ""
        while True:
            request = pb.ListKeyEventsRequest(page_size=_PAGE, page_token=token)
            page = await call(self._keys.ListKeyEvents, request, timeout_s=_TIMEOUT_S)
            sealed += [each.payload for each in page.events if each.payload]
            recorded += sum(
                each.state == pb.KEY_EVENT_STATE_RECORDED for each in page.events if each.payload
            )
            token = page.next_page_token
            if not (token and page.events):
                return _Journal(sealed, recorded)

    async def _note_missing(self, journal: _Journal) -> None:
        """Remember what is recorded and not there, by another look at the key ledger: what was
        recorded when the registry was asked was in it before."""
        _, last_seq = await self._last()
        self._missing = journal.payloads[last_seq] if last_seq < journal.recorded else None

    async def _compare(self, ledger: LedgerInfo, last_seq: int, sealed: list[bytes]) -> None:
        rows = await self._storage.get_rows(ledger.uid, [last_seq], full=True)
        self._compared = True
        self._missing = None
        if sealed[last_seq - 1 : last_seq] == [each.row.payload for each in rows]:
            if self._refusal is not None:
                log.info("key_registry.caught_up", ledger=ledger.name, events=len(sealed))
            self._refusal = None
            return
        error = _behind(ledger.name, last_seq, len(sealed))
        if self._refusal is None:
            log.error("key_registry.behind", message=error.message)
        self._refusal = copied(error)
        raise error


def _behind(ledger: str, last_seq: int, sealed: int) -> FailedPreconditionError:
    what = (
        f"has {sealed} key events, and {ledger} has {last_seq}"
        if sealed < last_seq
        else f"has another event {last_seq} than {ledger}"
    )
    return FailedPreconditionError(
        KEY_REGISTRY_BEHIND,
        f"the key registry {what}: it is an older copy, and a key that was revoked may sign "
        "again. Nothing is appended or brought to the log. Restore the newest copy of its "
        "database, or empty it and run keys rebuild with a new export",
        metadata={"ledger": ledger, "ledgerEvents": str(last_seq), "registryEvents": str(sealed)},
    )
