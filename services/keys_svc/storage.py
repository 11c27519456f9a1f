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
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeAlias

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from keys_svc.registry import EventRecord, EventState, KeyBinding, KeyRecord, Registry
from provledger import jcs
from provledger.db import Continuity, Readers, Writer
from provledger.errors import (
    AbortedError,
    DataLossError,
    InternalError,
    InvalidJSONError,
    KeyFormatError,
)
from provledger.jwk import jwk_from_public_key, public_key_from_jwk, thumbprint
from provledger.key_events import SignedEvent, parse_signed
from provledger.keyset import CoveredCheckpoint, KeyPurpose, KeyState, SizeRange

SCHEMA: Final = "keys"
MIGRATIONS: Final = "keys_svc.migrations"

Decision: TypeAlias = Callable[[Registry], Registry]
"""A transition: pure, may run more than once, and may raise to change nothing."""

_NOTHING_READ: Final = Registry(revision=-1)

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
    sa.Column("bounds", sa.LargeBinary),
)
_EVENTS: Final = sa.Table(
    "key_events",
    _metadata,
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column("digest", sa.LargeBinary),
    sa.Column("signed", sa.LargeBinary),
    sa.Column("state", sa.Text),
    sa.Column("position", sa.BigInteger),
    sa.Column("receipt", sa.Text),
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
        self._continuity = known = Continuity()
        self._writer = Writer(engine, name="keys-writer", continuity=known)
        self._readers = Readers(engine, threads=1, name="keys-reader", continuity=known)
        # Replaced as a whole, never changed; an older one only costs reading the table again.
        self._cached = _NOTHING_READ
        self._cached_in = 0

    async def load(self) -> Registry:
        """See `Storage`; reads the keys only when the revision has moved, or the database may have
        become another one, in which a revision of the same number says something else."""
        # Taken before: what is read while it moves on is not relied on again.
        generation = self._continuity.generation
        read = await self._readers.run(self._load, self._cached, self._cached_in)
        self._cached, self._cached_in = read, generation
        return read

    async def update(self, decide: Decision) -> Registry:
        """See `Storage`."""
        try:
            # A decision repeated on top of its own outcome changes nothing: see `registry`.
            return await self._writer.run(_update, decide, idempotent=True)
        finally:
            # What was read before may be of another database than this was stored in.
            self._cached = _NOTHING_READ

    def _load(self, connection: Connection, cached: Registry, cached_in: int) -> Registry:
        if cached_in != self._continuity.generation:
            cached = _NOTHING_READ
        return _load_if_changed(connection, cached)

    async def close(self) -> None:
        """See `Storage`."""
        await self._writer.close()
        await self._readers.close()
        self._engine.dispose()


def _update(connection: Connection, decide: Decision) -> Registry:
    revision = _read_revision(connection, lock=True)
    # In READ COMMITTED only a statement after the lock sees what the last holder stored.
    before = Registry(revision, _read_keys(connection), _read_events(connection))
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
    _write_events(connection, before, after)
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
    if revision == cached.revision:
        return cached
    return Registry(revision, _read_keys(connection), _read_events(connection))


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


def _write_events(connection: Connection, before: Registry, after: Registry) -> None:
    known = {each.number: each for each in before.events}
    for each in after.events:
        stored = known.pop(each.number, None)
        if stored == each:
            continue
        row = {
            "number": each.number,
            "digest": each.signed.event.digest(),
            "signed": each.signed.encode(),
            "state": each.state.value,
            "position": each.position,
            "receipt": each.receipt,
        }
        if stored is None:
            connection.execute(sa.insert(_EVENTS).values(row))
        else:
            connection.execute(
                sa.update(_EVENTS).where(_EVENTS.c.number == each.number).values(row)
            )
    for number in known:
        connection.execute(sa.delete(_EVENTS).where(_EVENTS.c.number == number))


def _read_events(connection: Connection) -> tuple[EventRecord, ...]:
    rows = connection.execute(sa.select(_EVENTS).order_by(_EVENTS.c.number)).all()
    return tuple(_event(row) for row in rows)


def _event(row: sa.Row[Any]) -> EventRecord:
    try:
        signed = _signed(bytes(row.signed))
        state = EventState(row.state)
        intact = signed.event.digest() == bytes(row.digest) and (row.position > 0) == (
            state is not EventState.PROPOSED
        )
    except (KeyFormatError, ValueError):
        intact = False
    if not intact:
        raise DataLossError(
            "REGISTRY_DAMAGED",
            f"the stored row of key event {row.number} contradicts itself; restore it from a "
            "backup, or rebuild the registry from the key ledger",
            metadata={"number": str(row.number)},
        )
    return EventRecord(row.number, signed, state, row.position, row.receipt)


@lru_cache(maxsize=4096)
def _signed(data: bytes) -> SignedEvent:
    # Read at every change of the registry, and never changed once they are sealed.
    return parse_signed(data)


def _bounds(record: KeyRecord) -> bytes | None:
    """What a key's signatures are bounded by, as the members of its JWK; None if by nothing."""
    if not record.covered and not record.sizes:
        return None
    ours = {
        "after": [[each.origin, str(each.size), each.root.hex()] for each in record.covered],
        "sizes": [
            [each.origin, str(each.start), None if each.end is None else str(each.end)]
            for each in record.sizes
        ],
    }
    return jcs.encode(ours)


def _read_bounds(
    data: bytes | None,
) -> tuple[tuple[CoveredCheckpoint, ...], tuple[SizeRange, ...]]:
    if data is None:
        return (), ()
    ours = jcs.parse(bytes(data))
    return (
        tuple(
            CoveredCheckpoint(o, int(size), bytes.fromhex(root)) for o, size, root in ours["after"]
        ),
        tuple(
            SizeRange(o, int(start), None if end is None else int(end))
            for o, start, end in ours["sizes"]
        ),
    )


def _row(record: KeyRecord) -> dict[str, Any]:
    if not _is_whole(record.epoch, record.not_before_ns, record.state):
        # A registry that cannot be read again is worse than any decision that is not made.
        raise InternalError("INTERNAL", f"key {record.kid!r} would contradict itself")
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
        "bounds": _bounds(record),
    }


def _is_whole(epoch: int, not_before_ns: int | None, state: KeyState) -> bool:
    """Whether a key may be stored so: retired is draining whose time has passed."""
    return (epoch > 0) == (not_before_ns is not None) and state is not KeyState.RETIRED


def _record(row: sa.Row[Any]) -> KeyRecord:
    try:
        jwk = jcs.parse(bytes(row.jwk))
        covered, sizes = _read_bounds(row.bounds)
        state = KeyState(row.state)
        binding = KeyBinding(row.kid, KeyPurpose(row.purpose), row.uri, jwk, bytes(row.thumbprint))
        intact = (
            thumbprint(jwk) == binding.thumbprint
            and jwk == jwk_from_public_key(public_key_from_jwk(jwk))
            and _is_whole(row.epoch, row.not_before_ns, state)
        )
    except (InvalidJSONError, KeyFormatError, KeyError, ValueError, TypeError, AttributeError):
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
        covered=covered,
        sizes=sizes,
    )
