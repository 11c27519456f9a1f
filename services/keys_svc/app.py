"""Puts the keys service together from its settings."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial

from keys_svc.config import Settings
from keys_svc.live import LiveRegistry
from keys_svc.servicer import KeysServicer
from keys_svc.storage import MIGRATIONS, SCHEMA, SQLStorage
from provledger.api.keys.v1 import keys_pb2_grpc
from provledger.db import check_durable, migrate, open_engine
from provledger.rpc.server import App
from provledger.settings import ConfigError


async def build(settings: Settings, *, clock: Callable[[], int] = time.time_ns) -> App:
    """Open and migrate the database and make the app; raises ConfigError, StatusError."""
    if settings.drain_window_s * 1000 < 2 * settings.lease_ms:
        raise ConfigError(
            "PROVLEDGER_KEYS_DRAIN_WINDOW_S: must be at least twice the lease, or a signing "
            "service could still use a key whose signatures no longer count"
        )
    engine = open_engine(settings.database_url, SCHEMA, pool_size=2)
    await asyncio.to_thread(check_durable, engine)
    await asyncio.to_thread(migrate, engine, MIGRATIONS, SCHEMA)
    storage = SQLStorage(engine)
    live = LiveRegistry(storage, poll_interval_s=settings.poll_interval_s)
    await live.load()  # a damaged registry is found now, not at the first call
    servicer = KeysServicer(
        live,
        drain_ns=int(settings.drain_window_s * 1_000_000_000),
        lease_ms=settings.lease_ms,
        clock=clock,
    )
    return App(
        services=[(keys_pb2_grpc.add_KeysServiceServicer_to_server, servicer)],
        background=[live.poll, partial(servicer.retire_drained, settings.poll_interval_s)],
        close=storage.close,
    )
