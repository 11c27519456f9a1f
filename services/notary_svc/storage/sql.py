"""On SQLite or PostgreSQL: an update holds the write lock, or the origin's row, until it ends."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from notary_svc.cosigning import Cosigned, origin_id
from notary_svc.memory import Memory
from notary_svc.storage import Decide
from provledger.db import Readers, Writer, check_durable, migrate, open_engine
from provledger.db.continuity import replaced

SCHEMA: Final = "notary"
MIGRATIONS: Final = "notary_svc.migrations"

_METADATA: Final = sa.MetaData()
OWN_KEYS: Final = sa.Table("own_keys", _METADATA, sa.Column("vkey", sa.Text, primary_key=True))
COSIGNED: Final = sa.Table(
    "cosigned",
    _METADATA,
    sa.Column("origin_id", sa.Text, primary_key=True),
    sa.Column("origin", sa.Text),
    sa.Column("size", sa.BigInteger),
    sa.Column("root", sa.LargeBinary),
    sa.Column("note", sa.LargeBinary),
)


class SQLStorage:
    """Everything of the notary in one database. For one event loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writer = Writer(engine, name="notary-writer")
        self._readers = Readers(engine, threads=1, name="notary-reader")

    @classmethod
    def open(cls, url: str) -> SQLStorage:
        """Open and migrate a database; ConfigError or StatusError if it cannot be used."""
        engine = open_engine(url, SCHEMA)
        check_durable(engine)
        migrate(engine, MIGRATIONS, SCHEMA)
        return cls(engine)

    async def update(self, origin: str, decide: Decide) -> Cosigned:
        """See `Storage.update`."""
        return await self._writer.run(_update, origin, decide)

    async def latest(self, origin_id: str) -> Cosigned | None:
        """See `Storage.latest`."""
        return await self._readers.run(_read, origin_id)

    async def memory(self) -> Memory:
        """See `Storage.memory`."""
        return await self._readers.run(_memory)

    async def remember(self, vkeys: Collection[str]) -> None:
        """See `Storage.remember`."""
        await self._writer.run(_remember, frozenset(vkeys))

    async def close(self) -> None:
        """See `Storage.close`."""
        await self._writer.close()
        await self._readers.close()
        self._engine.dispose()


def _read(connection: Connection, key: str, *, lock: bool = False) -> Cosigned | None:
    query = sa.select(COSIGNED.c.size, COSIGNED.c.root, COSIGNED.c.note).where(
        COSIGNED.c.origin_id == key
    )
    row = connection.execute(query.with_for_update() if lock else query).first()
    return None if row is None else Cosigned(int(row.size), bytes(row.root), bytes(row.note))


def _memory(connection: Connection) -> Memory:
    vkeys = frozenset(connection.execute(sa.select(OWN_KEYS.c.vkey)).scalars())
    one = connection.execute(sa.select(COSIGNED.c.origin_id).limit(1)).first()
    return Memory(vkeys, one is not None)


def _remember(connection: Connection, vkeys: frozenset[str]) -> None:
    known = frozenset(connection.execute(sa.select(OWN_KEYS.c.vkey)).scalars())
    rows = [{"vkey": vkey} for vkey in sorted(vkeys - known)]
    if rows:
        connection.execute(sa.insert(OWN_KEYS), rows)


def _update(connection: Connection, origin: str, decide: Decide) -> Cosigned:
    key = origin_id(origin)
    last = _read(connection, key, lock=True)
    new = decide(last)
    values = {"size": new.size, "root": new.root, "note": new.note}
    if last is None:
        # Of two first ones at once, PostgreSQL refuses the second by the primary key.
        connection.execute(sa.insert(COSIGNED).values(origin_id=key, origin=origin, **values))
    else:
        moved = connection.execute(
            sa.update(COSIGNED)
            .where(COSIGNED.c.origin_id == key, COSIGNED.c.size == last.size)
            .values(**values)
        )
        if moved.rowcount != 1:
            # It is locked: that is another table than the one that was read.
            raise replaced()
    return new
