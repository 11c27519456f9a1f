"""Puts the anchor service together from its settings."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

from anchor_svc.bucketfiles import BucketFiles
from anchor_svc.checkpointing import make_origin
from anchor_svc.config import Settings
from anchor_svc.convert import LIMITS
from anchor_svc.logsizes import LogSizes
from anchor_svc.lostlogs import LostLogs
from anchor_svc.opening import check_remembered, check_usable, open_sinks, prove, read_policy
from anchor_svc.openlog import OpenLog
from anchor_svc.openlogs import OpenLogs
from anchor_svc.quorum import Quorum
from anchor_svc.recovery import LOG_UID_BYTES, create_log
from anchor_svc.servicer import AnchorServicer
from anchor_svc.storage import DEFAULT_ALIAS, LogRow, Storage
from anchor_svc.storage.sql import SQLStorage
from anchor_svc.storage.tables import MIGRATIONS, SCHEMA
from anchor_svc.tilefiles import TileFiles
from provledger import logs
from provledger.api.anchor.v1 import anchor_pb2_grpc
from provledger.daemon_threads import DaemonThreads
from provledger.db import check_durable, is_sqlite, lock_data_dir, migrate, open_engine
from provledger.errors import UnavailableError
from provledger.fips import launch
from provledger.keyring import ActiveSigner, KeyRing
from provledger.keyset import KeyPurpose
from provledger.kms import open_signer
from provledger.policy import Policy
from provledger.rpc.server import App
from provledger.s3 import Bucket, BucketURI

log = logs.get(__name__)

_PATIENCE_S: Final = 5.0
_BUCKET_THREADS: Final = 16


async def build(settings: Settings, *, clock: Callable[[], int] = time.time_ns) -> App:
    """Open or create the log and make the app.

    A new log waits for a checkpoint key, which its first leaf names. An existing one is served
    without: only signing needs keys.

    Raises:
        ConfigError: settings that cannot be used, or an embedded database that is in use.
        DataLossError: what is stored of the shared log does not fit together; the message says
            where. Another log is kept closed then. DATABASE_BEHIND: it is to be made, where others
            were published.
        FailedPreconditionError: RESTORED_BEHIND, likewise, and a sink holds others.
        StatusError: the database cannot be reached.
    """
    launch.check_suite_setting("PROVLEDGER_ANCHOR_SUITE", settings.suite)
    make_origin(settings.origin_prefix, bytes(LOG_UID_BYTES))
    policy = None if settings.policy is None else read_policy(settings.policy)
    sinks = open_sinks(settings.sink_uris(), policy)
    if settings.wait_for_sinks:
        check_remembered(sinks, policy)
    async with AsyncExitStack() as undo:
        engine = open_engine(settings.database_url, SCHEMA)
        undo.callback(engine.dispose)
        if is_sqlite(engine):
            # Without this, a second process on the same file would fence the first by mistake.
            undo.enter_context(lock_data_dir(settings.data_dir, "anchor"))
        await asyncio.to_thread(check_durable, engine)
        await asyncio.to_thread(migrate, engine, MIGRATIONS, SCHEMA)
        storage = SQLStorage(engine)
        undo.push_async_callback(storage.close)
        ring = KeyRing(
            settings.keys_endpoint,
            [KeyPurpose.CHECKPOINT, KeyPurpose.HEAD, KeyPurpose.RECEIPT],
            partial(open_signer, key_dir=settings.key_dir),
            clock=clock,
            tls=settings.tls(),
            watcher="anchor",
            overlap=[KeyPurpose.CHECKPOINT],
        )
        undo.push_async_callback(ring.close)
        await ring.start()

        bucket = _bucket(settings, undo)
        files = _tile_files(bucket, undo)
        # Before a log is opened, which takes away its own marker of a restore.
        lost = _lost_logs(settings, storage, ring, bucket, policy)
        undo.push_async_callback(lost.close)
        await lost.find()

        def make(row: LogRow) -> OpenLog:
            own = sinks if row.alias == DEFAULT_ALIAS else open_sinks(settings.sink_uris(), policy)
            check_usable(own, policy, row.suite)
            return OpenLog(
                row,
                storage,
                settings.data_dir,
                ring,
                own,
                publish_interval_s=settings.publish_interval_ms / 1000,
                sink_deadline_s=settings.sink_deadline_ms / 1000,
                max_batch_leaves=settings.max_batch_leaves,
                max_queued_leaves=settings.max_queued_leaves,
                batch_budget_s=settings.batch_budget_ms / 1000,
                batch_leaves=settings.batch_leaves,
                wait_for_sinks=settings.wait_for_sinks,
                clock=clock,
                policy=policy,
                files=files(row.log_uid),
            )

        async def create_row(tenant: str, suite_name: str) -> LogRow:
            key = ring.current(KeyPurpose.CHECKPOINT)
            return await _new_log(settings, storage, key, clock(), suite_name, tenant)

        rows = await storage.logs()
        if all(row.alias != DEFAULT_ALIAS for row in rows):
            lost.check()
            key = await _wait_for_key(ring)
            await lost.settle()
            made = await _new_log(settings, storage, key, clock(), settings.suite, DEFAULT_ALIAS)
            rows = [made, *rows]
        await prove(sinks, settings.sink_deadline_ms / 1000)

        async def signed_size(uid: bytes) -> int:
            newest = await storage.newest_signed(uid)
            return 0 if newest is None else newest.size

        opened = OpenLogs(
            make,
            create_row,
            storage.logs,
            storage.ledger_count,
            signed_size,
            max_logs=settings.max_own_logs,
            check_lost=lost.check,
            lost=lost.found,
        )
        undo.push_async_callback(opened.close)
        looking = asyncio.ensure_future(lost.look())
        undo.callback(looking.cancel)
        await opened.open_all(rows)
        await looking
        ring.log_sizes = LogSizes(opened, lambda: ring.view.keys)
        servicer = AnchorServicer(opened, ring, ring)
        undo.callback(servicer.close)
        close = undo.pop_all().aclose
    return App(
        services=[(anchor_pb2_grpc.add_AnchorServiceServicer_to_server, servicer)],
        background=(opened.run, lost.run),
        close=close,
        limits=LIMITS,
    )


def _bucket(settings: Settings, undo: AsyncExitStack) -> Bucket | None:
    """Where tiles are; None for `data_dir`."""
    if not settings.tile_store:
        return None
    bucket = Bucket(BucketURI.parse(settings.tile_store, "tile_store"))
    undo.callback(bucket.close)
    return bucket


def _tile_files(bucket: Bucket | None, undo: AsyncExitStack) -> Callable[[bytes], TileFiles | None]:
    """Where the files of a log are, by its uid; None for `data_dir`."""
    if bucket is None:
        return lambda uid: None
    threads = DaemonThreads(_BUCKET_THREADS, "anchor-bucket")
    undo.callback(threads.shutdown, wait=False, cancel_futures=True)
    return lambda uid: BucketFiles(bucket, uid, threads)


def _lost_logs(
    settings: Settings,
    storage: Storage,
    ring: KeyRing,
    bucket: Bucket | None,
    policy: Policy | None,
) -> LostLogs:
    sinks = open_sinks(settings.sink_uris(), policy)
    quorum = Quorum(policy, [sink.uri for sink in sinks])
    return LostLogs(
        storage,
        settings.data_dir,
        settings.origin_prefix,
        ring,
        sinks,
        bucket=bucket,
        could_miss=lambda uris: quorum.could_miss(uris, ()),
        deadline_s=settings.sink_deadline_ms / 1000,
        wait=settings.wait_for_sinks,
    )


async def _new_log(
    settings: Settings,
    storage: Storage,
    key: ActiveSigner,
    now_ns: int,
    suite_name: str,
    alias: str,
) -> LogRow:
    return await create_log(
        storage,
        origin_prefix=settings.origin_prefix,
        suite_name=suite_name,
        keys=[(key.kid, key.thumbprint)],
        now_ns=now_ns,
        alias=alias,
    )


async def _wait_for_key(ring: KeyRing) -> ActiveSigner:
    while True:
        try:
            return await ring.wait_for(KeyPurpose.CHECKPOINT, _PATIENCE_S)
        except UnavailableError as error:
            log.warning("anchor.waiting_for_key", reason=error.reason)
