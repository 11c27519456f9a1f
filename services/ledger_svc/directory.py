"""Ledgers by their names, as requests give them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from ledger_svc.audit import check_named
from ledger_svc.chain import LedgerInfo
from ledger_svc.guard import Guard
from ledger_svc.storage import Storage
from provledger import names
from provledger.errors import NotFoundError

_MAX_LEDGERS: Final = 10_000


async def find(storage: Storage, tenant: str, ledger: str) -> LedgerInfo | None:
    """A stored ledger by its ids, held against its genesis: whoever may write to the table of names
    could have receipts of one ledger read as those of another, and new ones recorded so.

    Raises:
        DataLossError: CHAIN_BROKEN, its genesis states another name or log, or cannot be read.
    """
    stored = await storage.get_ledger(tenant, ledger)
    if stored is not None:
        genesis = await storage.get_rows(stored.uid, [0], full=True)
        check_named(stored, genesis[0].row if genesis else None)
    return stored


class LedgerDirectory:
    """Ledgers by name. They never change, so that they are looked up once."""

    def __init__(self, storage: Storage, guard: Guard) -> None:
        self._storage = storage
        self._guard = guard
        self._known: OrderedDict[str, LedgerInfo] = OrderedDict()

    async def get(self, name: str, field: str) -> LedgerInfo:
        """The ledger of that name; `field` is where it was given.

        Raises:
            IdentifierError: not a ledger's name.
            NotFoundError: LEDGER_NOT_FOUND; also where there is no such tenant.
            DataLossError: as `find`.
            FailedPreconditionError, UnavailableError: it is not there, in a database that is known
                to be too old, or not known not to be (`Guard.check_absent`).
        """
        found = self._known.get(name)
        if found is not None:
            return found
        tenant, ledger = names.parse_ledger_name(name, field)
        stored = await find(self._storage, tenant, ledger)
        if stored is None:
            await self._guard.check_absent()
            raise NotFoundError(
                "LEDGER_NOT_FOUND", f"there is no ledger {name}", metadata={"ledger": name}
            )
        self.add(stored)
        return stored

    def add(self, ledger: LedgerInfo) -> None:
        """Remember a ledger."""
        self._known[ledger.name] = ledger
        while len(self._known) > _MAX_LEDGERS:
            self._known.popitem(last=False)
