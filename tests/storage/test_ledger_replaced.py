"""Tables that are put back in place under connections that stay."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import pytest
import sqlalchemy as sa

from ledger_svc import chain
from ledger_svc.chain import Candidate, Head, HeadState, LedgerInfo
from ledger_svc.storage import Known
from ledger_svc.storage.database import Database
from tests.support.ledger_rows import NOW_NS, Decided, append, candidate, make, seal

pytestmark = pytest.mark.postgres

TABLES = ("ledgers", "heads", "entries", "batches", "log_runs")


@dataclass
class Replaced:
    """A ledger of which an earlier copy stands where its tables were; `last` is its head then."""

    storage: Database
    ledger: LedgerInfo
    last: Head


@pytest.fixture
async def replaced(postgres_database_url: str) -> AsyncIterator[Replaced]:
    storage = Database.open(postgres_database_url)
    storage.migrate()
    ledger = await make(storage)
    first = await append(storage, ledger, candidate("r1"))
    assert first.linked is not None
    engine = sa.create_engine(storage._engine.url)
    try:
        with engine.begin() as connection:
            connection.execute(sa.text("CREATE SCHEMA old"))
            for table in TABLES:
                for statement in (
                    f"CREATE TABLE old.{table} (LIKE ledger.{table} INCLUDING ALL)",
                    f"INSERT INTO old.{table} SELECT * FROM ledger.{table}",
                ):
                    connection.execute(sa.text(statement))
        # So that the connection for small flushes is there as well.
        second = await append(storage, ledger, candidate("r2"), last=first.linked.head)
        assert second.linked is not None
        with engine.begin() as connection:
            connection.execute(sa.text("DROP SCHEMA ledger CASCADE"))
            connection.execute(sa.text("ALTER SCHEMA old RENAME TO ledger"))
    finally:
        engine.dispose()
    yield Replaced(storage, ledger, first.linked.head)
    await storage.close()


@pytest.mark.parametrize("known", [True, False], ids=["one statement", "under the lock"])
async def test_a_connection_that_stays_notices_other_tables(
    replaced: Replaced, known: bool
) -> None:
    """Whoever decides in the end sees that what was found out before is to be found out again."""
    storage, ledger = replaced.storage, replaced.ledger
    generation = storage.generation
    decided: list[int] = []

    def decide(state: HeadState, _: Mapping[str, Known], database_ns: int) -> Decided:
        decided.append(storage.generation)
        new: list[Candidate] = [candidate("r3")]
        return Decided(chain.link(ledger, state.head, seal(), new, NOW_NS), {}, state)

    # A replica that has recorded nothing since: its last head is that of the copy.
    last = replaced.last if known else None
    await storage.append(ledger.uid, ["r3"], -1, decide, last=last)
    assert decided[-1] > generation
    assert (await storage.get_head(ledger.uid)).head.seq == 2
