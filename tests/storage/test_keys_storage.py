"""The key registry's storage: one suite for SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import cache

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keys_svc.registry import KeyBinding, Registry
from keys_svc.storage import MIGRATIONS, SCHEMA, SQLStorage
from provledger.db import migrate, open_engine
from provledger.errors import DataLossError, FailedPreconditionError, StatusError
from provledger.keyset import KeyPurpose, KeyState, jwk_from_public_key, thumbprint
from tests.support.postgres import copy_schema, swap_schemas

WITNESS = KeyPurpose.WITNESS


@cache
def key(number: int, purpose: KeyPurpose = WITNESS) -> KeyBinding:
    private = Ed25519PrivateKey.from_private_bytes(number.to_bytes(32, "big"))
    members = jwk_from_public_key(private.public_key())
    return KeyBinding(f"k{number}", purpose, f"local:k{number}.pem", members, thumbprint(members))


def open_storage(url: str) -> SQLStorage:
    engine = open_engine(url, SCHEMA)
    migrate(engine, MIGRATIONS, SCHEMA)
    return SQLStorage(engine)


@pytest.fixture
async def storage(database_url: str) -> AsyncIterator[SQLStorage]:
    opened = open_storage(database_url)
    yield opened
    await opened.close()


def history(registry: Registry) -> Registry:
    """Every kind of key there is."""
    registry = registry.create(key(1), 10)
    registry = registry.create(key(2, KeyPurpose.HEAD), 11)
    registry = registry.rotate("k3", WITNESS, 20, drain_ns=100, binding=key(3))
    registry = registry.rotate("k4", WITNESS, 30, drain_ns=100, binding=key(4))
    registry = registry.create(key(5), 40)
    return registry.revoke("k1", "stolen — ключ", 50)


async def test_new_database_holds_an_empty_registry(storage: SQLStorage) -> None:
    assert await storage.load() == Registry(revision=0)


async def test_what_was_stored_is_read_back_equal(storage: SQLStorage, database_url: str) -> None:
    stored = await storage.update(history)
    assert stored == history(Registry())
    assert await storage.load() == stored
    again = open_storage(database_url)
    assert await again.load() == stored, "by another process, too"
    await again.close()


async def test_refused_decision_stores_nothing(storage: SQLStorage) -> None:
    before = await storage.update(lambda registry: registry.create(key(1), 10))
    with pytest.raises(FailedPreconditionError):
        await storage.update(lambda r: r.create(key(2), 20).revoke("k1", "active", 20))
    assert await storage.load() == before


async def test_decision_without_change_leaves_the_revision(storage: SQLStorage) -> None:
    first = await storage.update(lambda registry: registry.create(key(1), 10))
    assert await storage.update(lambda registry: registry.create(key(1), 99)) == first
    assert (await storage.load()).revision == first.revision


async def test_unchanged_registry_is_not_read_again(storage: SQLStorage) -> None:
    await storage.update(history)
    assert await storage.load() is await storage.load()


async def test_change_by_another_replica_is_seen(storage: SQLStorage, database_url: str) -> None:
    await storage.load()
    other = open_storage(database_url)
    stored = await other.update(lambda registry: registry.create(key(1), 10))
    assert await storage.load() == stored
    await other.close()


async def test_replicas_that_rotate_at_once_take_turns(database_url: str) -> None:
    """Ten rotations through two replicas: epochs without gap, one active key at the end."""
    replicas = [open_storage(database_url), open_storage(database_url)]
    await replicas[0].update(lambda registry: registry.create(key(1), 10))

    def rotation(number: int, replica: SQLStorage) -> asyncio.Future[Registry]:
        return asyncio.ensure_future(
            replica.update(
                lambda registry: registry.rotate(
                    f"k{number}", WITNESS, number * 100, drain_ns=50, binding=key(number)
                )
            )
        )

    results = await asyncio.gather(
        *(rotation(number, replicas[number % 2]) for number in range(2, 12)),
        return_exceptions=True,
    )
    assert not [result for result in results if not isinstance(result, Registry)]
    registries = [await replica.load() for replica in replicas]
    assert registries[0] == registries[1]
    assert sorted(record.epoch for record in registries[0]) == list(range(1, 12))
    assert sorted(record.number for record in registries[0]) == list(range(1, 12))
    active = [record for record in registries[0] if record.state is KeyState.ACTIVE]
    assert [record.epoch for record in active] == [11]
    for replica in replicas:
        await replica.close()


async def test_replicas_cannot_bind_one_kid_twice(database_url: str) -> None:
    replicas = [open_storage(database_url), open_storage(database_url)]
    bindings = [key(1), KeyBinding("k1", WITNESS, "local:x", key(2).jwk, key(2).thumbprint)]
    results = await asyncio.gather(
        *(
            replica.update(lambda registry, b=binding: registry.create(b, 10))  # type: ignore[misc]
            for replica, binding in zip(replicas, bindings, strict=True)
        ),
        return_exceptions=True,
    )
    refused = [result for result in results if isinstance(result, StatusError)]
    assert [error.reason for error in refused] == ["KEY_ID_REUSED"]
    for replica in replicas:
        await replica.close()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE keys SET jwk = (SELECT jwk FROM keys WHERE kid = 'k3') WHERE kid = 'k1'",
        "UPDATE keys SET thumbprint = jwk WHERE kid = 'k1'",
        "UPDATE keys SET state = 'fresh' WHERE kid = 'k1'",
        "UPDATE keys SET state = 'retired' WHERE kid = 'k1'",
        "UPDATE keys SET purpose = 'everything' WHERE kid = 'k1'",
        "UPDATE keys SET not_before_ns = NULL WHERE kid = 'k1'",
        "DELETE FROM registry",
    ],
)
async def test_damaged_row_is_data_loss(database_url: str, damage: str) -> None:
    storage = open_storage(database_url)
    await storage.update(history)
    await storage.close()
    engine = open_engine(database_url, SCHEMA)
    with engine.begin() as connection:
        connection.execute(sa.text(damage))
    engine.dispose()
    storage = open_storage(database_url)
    with pytest.raises(DataLossError) as caught:
        await storage.load()
    assert caught.value.reason == "REGISTRY_DAMAGED"
    await storage.close()


async def test_database_itself_refuses_two_active_keys(
    storage: SQLStorage, database_url: str
) -> None:
    """The last line behind the domain module."""
    await storage.update(history)
    engine = open_engine(database_url, SCHEMA)
    with pytest.raises(sa.exc.IntegrityError), engine.begin() as connection:
        connection.execute(sa.text("UPDATE keys SET state = 'active' WHERE kid = 'k3'"))
    engine.dispose()


@pytest.mark.postgres
@pytest.mark.parametrize("by_itself", [True, False], ids=["by itself", "by another replica"])
async def test_same_revision_of_another_database_is_read(
    postgres_database_url: str, *, by_itself: bool
) -> None:
    """After a failover to a standby that lacked the last change, its number comes again."""
    storage, other = open_storage(postgres_database_url), open_storage(postgres_database_url)
    await storage.update(
        lambda r: r.create(key(1), 10).rotate("k2", WITNESS, 20, drain_ns=100, binding=key(2))
    )
    copy_schema(postgres_database_url, SCHEMA, "early")
    await storage.update(lambda registry: registry.create(key(3), 30))
    lost = await storage.load()
    swap_schemas(postgres_database_url, SCHEMA, "early")
    changing = storage if by_itself else other
    revoked = await changing.update(lambda registry: registry.revoke("k1", "stolen", 40))
    assert revoked.revision == lost.revision
    assert await storage.load() == revoked
    assert await storage.load() == revoked, "and again"
    await storage.close()
    await other.close()


async def test_own_change_is_read_though_the_revision_was_read_before(
    storage: SQLStorage,
) -> None:
    """No connection was cut when another registry was put in its place."""
    before = await storage.update(lambda registry: registry.create(key(1), 10))
    assert await storage.load() == before
    with storage._engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM keys"))
        connection.execute(sa.text("UPDATE registry SET revision = 0"))
    stored = await storage.update(lambda registry: registry.create(key(2), 10))
    assert stored.revision == before.revision
    assert await storage.load() == stored
