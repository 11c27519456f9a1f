"""Where the registry is kept: SQLite or PostgreSQL, one row for each key.

A change is made by compare-and-set: the row that counts revisions is locked, all keys are read,
the pure decision is made, what differs is written, and the revision moves on. So two replicas on
one PostgreSQL make their changes one after the other, each on top of what the other stored.

Trust: whoever can write here can put a key of his own in front of every verifier that asks us.
Thumbprints are recomputed on reading, which finds accidents and clumsy hands, not a careful forger;
against that, verifiers pin thumbprints.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeAlias

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from keys_svc.registry import KeyBinding, KeyRecord, Registry
from provledger import jcs
from provledger.db import Readers, Writer
from provledger.errors import AbortedError, DataLossError, InvalidJSONError, KeyFormatError
from provledger.jwk import jwk_from_public_key, public_key_from_jwk, thumbprint
from provledger.keyset import KeyPurpose, KeyState

SCHEMA: Final = "keys"
MIGRATIONS: Final = "keys_svc.migrations"

Decision: TypeAlias = Callable[[Registry], Registry]
"""A transition: pure, may run more than once, and may raise to change nothing."""

_metadata = sa.MetaData()
_REGISTRY: Final = sa.Table(
    "registry",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("revision", sa.BigInteger),
)
_KEYS: Final = sa.Table(
    "keys",
    _metadata,
    sa.Column("kid", sa.Text, primary_key=True),
    sa.Column("number", sa.BigInteger),
    sa.Column("purpose", sa.Text),
    sa.Column("state", sa.Text),
    sa.Column("uri", sa.Text),
    sa.Column("jwk", sa.LargeBinary),
    sa.Column("thumbprint", sa.LargeBinary),
    sa.Column("created_at_ns", sa.BigInteger),
    sa.Column("epoch", sa.BigInteger),
    sa.Column("not_before_ns", sa.BigInteger),
    sa.Column("not_after_ns", sa.BigInteger),
    sa.Column("revocation_reason", sa.Text),
)


class Storage(Protocol):
    """The port of the registry. Errors of the database are `provledger.db`'s StatusErrors."""

    async def load(self) -> Registry:
        """Return what is stored now, by whichever replica; DataLossError if it is damaged."""
        ...

    async def update(self, decide: Decision) -> Registry:
        """Store what `decide` makes of the registry, all or nothing; return it once durable."""
        ...

    async def close(self) -> None:
        """Finish what was begun and release the database."""
        ...


class SQLStorage:
    """The registry in SQLite or PostgreSQL. `engine` is migrated, and is ours to dispose of."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writer = Writer(engine, name="keys-writer")
        self._readers = Readers(engine, threads=1, name="keys-reader")
        # Replaced as a whole, never changed; an older one only costs reading the table again.
        self._cached = Registry(revision=-1)

    async def load(self) -> Registry:
        """See `Storage`; reads the keys only when the revision has moved."""
        self._cached = await self._readers.run(_load_if_changed, self._cached)
        return self._cached

    async def update(self, decide: Decision) -> Registry:
        """See `Storage`."""
        # A decision repeated on top of its own outcome changes nothing: see `registry`.
        return await self._writer.run(_update, decide, idempotent=True)

    async def close(self) -> None:
        """See `Storage`."""
        await self._writer.close()
        await self._readers.close()
        self._engine.dispose()


def _update(connection: Connection, decide: Decision) -> Registry:
    revision = _read_revision(connection, lock=True)
    # In READ COMMITTED only a statement after the lock sees what the last holder stored.
    before = Registry(revision, _read_keys(connection))
    after = decide(before)
    if after is before:
        return before
    changed = [key for kid, key in after.keys.items() if before.keys.get(kid) != key]
    # The old key leaves its place before the new one takes it: one active key for each purpose.
    for record in sorted(changed, key=lambda key: key.state is KeyState.ACTIVE):
        row = _row(record)
        if record.kid in before.keys:
            connection.execute(sa.update(_KEYS).where(_KEYS.c.kid == record.kid).values(row))
        else:
            connection.execute(sa.insert(_KEYS).values(row))
    moved = connection.execute(
        sa.update(_REGISTRY)
        .where(_REGISTRY.c.id == 1, _REGISTRY.c.revision == before.revision)
        .values(revision=after.revision)
    )
    if moved.rowcount != 1:
        raise AbortedError("REGISTRY_CHANGED", "another replica changed the registry; try again")
    return after


def _load_if_changed(connection: Connection, cached: Registry) -> Registry:
    revision = _read_revision(connection, lock=False)
    return cached if revision == cached.revision else Registry(revision, _read_keys(connection))


def _read_revision(connection: Connection, *, lock: bool) -> int:
    query = sa.select(_REGISTRY.c.revision).where(_REGISTRY.c.id == 1)
    # SQLite has no row locks and leaves the clause out: there, the transaction began IMMEDIATE.
    revision: int | None = connection.execute(query.with_for_update() if lock else query).scalar()
    if revision is None:
        raise DataLossError(
            "REGISTRY_DAMAGED", "the row that counts the registry's revisions is gone"
        )
    return revision


def _read_keys(connection: Connection) -> MappingProxyType[str, KeyRecord]:
    rows = connection.execute(sa.select(_KEYS).order_by(_KEYS.c.number)).all()
    return MappingProxyType({row.kid: _record(row) for row in rows})


def _row(record: KeyRecord) -> dict[str, Any]:
    return {
        "kid": record.kid,
        "number": record.number,
        "purpose": record.purpose.value,
        "state": record.state.value,
        "uri": record.binding.uri,
        "jwk": jcs.encode(dict(record.binding.jwk)),
        "thumbprint": record.binding.thumbprint,
        "created_at_ns": record.created_at_ns,
        "epoch": record.epoch,
        "not_before_ns": record.not_before_ns,
        "not_after_ns": record.not_after_ns,
        "revocation_reason": record.revocation_reason,
    }


def _record(row: sa.Row[Any]) -> KeyRecord:
    try:
        jwk = jcs.parse(bytes(row.jwk))
        state = KeyState(row.state)
        binding = KeyBinding(row.kid, KeyPurpose(row.purpose), row.uri, jwk, bytes(row.thumbprint))
        intact = (
            thumbprint(jwk) == binding.thumbprint
            and jwk == jwk_from_public_key(public_key_from_jwk(jwk))
            and (row.epoch > 0) == (row.not_before_ns is not None)
            and state is not KeyState.RETIRED
        )
    except (InvalidJSONError, KeyFormatError, ValueError, AttributeError):
        intact = False
    if not intact:
        raise DataLossError(
            "REGISTRY_DAMAGED",
            f"the stored row of key {row.kid!r} contradicts itself; restore it from a backup",
            metadata={"kid": row.kid},
        )
    return KeyRecord(
        binding=binding,
        number=row.number,
        state=state,
        created_at_ns=row.created_at_ns,
        epoch=row.epoch,
        not_before_ns=row.not_before_ns,
        not_after_ns=row.not_after_ns,
        revocation_reason=row.revocation_reason,
    )
