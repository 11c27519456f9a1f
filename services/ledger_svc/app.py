"""Puts the ledger service together from its settings."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import grpc

from ledger_svc import admission, making_gate, reading_gate
from ledger_svc.census import Census
from ledger_svc.chain import LedgerInfo, Linked
from ledger_svc.config import Settings
from ledger_svc.directory import LedgerDirectory
from ledger_svc.gate import Gate
from ledger_svc.genesis import LedgerMaker
from ledger_svc.guard import Guard
from ledger_svc.key_ledger import KeyLedger
from ledger_svc.key_registry import AnyRegistry, KeyRegistry, Registry
from ledger_svc.lag import Lag
from ledger_svc.making_gate import MakingGate
from ledger_svc.pipelines import Appender
from ledger_svc.progress import Progress, Sinks
from ledger_svc.quotas import parse_quotas
from ledger_svc.reading_gate import ReadingGate
from ledger_svc.reads import Reads
from ledger_svc.relay import Relay, RelayLimits
from ledger_svc.servicer import LedgerServicer, Parts
from ledger_svc.storage import Storage
from ledger_svc.storage.database import Database
from ledger_svc.tools import AnyKey, KeyPolicy, Tools
from ledger_svc.turns import Turns
from ledger_svc.unread import Unread
from ledger_svc.untaken import Untaken
from ledger_svc.witness_keys import RingPolicy
from ledger_svc.witnessing import WitnessClient
from provledger import logs
from provledger.api.anchor.v1 import anchor_pb2_grpc
from provledger.api.keys.v1 import keys_pb2_grpc
from provledger.api.ledger.v1 import ledger_pb2_grpc
from provledger.api.witness.v1 import witness_pb2_grpc
from provledger.errors import StatusError
from provledger.fips import launch
from provledger.keyring import KeyRing
from provledger.kms import Signer
from provledger.rpc.channel import channel
from provledger.rpc.interceptors import Gate as RPCGate
from provledger.rpc.server import App

log = logs.get(__name__)

LEDGER_SERVICE: Final = "provledger.api.ledger.v1.LedgerService"
_LIST_AGAIN_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Service:
    """A ledger service without its server: the servicer, and what runs behind it."""

    servicer: LedgerServicer
    appender: Appender
    relay: Relay
    guard: Guard
    storage: Storage
    maker: LedgerMaker
    directory: LedgerDirectory
    lag: Lag
    gate: Gate
    reading_gate: ReadingGate
    making_gate: MakingGate
    unread: Unread
    untaken: Untaken

    def gates(self) -> dict[str, RPCGate]:
        """What the server asks before it parses a call."""
        gates: dict[str, RPCGate] = {
            f"/{LEDGER_SERVICE}/{name}": self.reading_gate.call for name in reading_gate.RPCS
        }
        for name in ("Append", "AppendBatch"):
            gates[f"/{LEDGER_SERVICE}/{name}"] = self.untaken.around(self.gate.call)
        gates[f"/{LEDGER_SERVICE}/{making_gate.RPC}"] = self.making_gate.call
        return gates

    async def close(self) -> None:
        """Flush what waits, then close the database. The relay is stopped before."""
        await self.appender.close()
        await self.storage.close()


def assemble(
    settings: Settings,
    storage: Storage,
    witness: Any,
    anchor: Any,
    *,
    keys: KeyPolicy | None = None,
    registry: Registry | None = None,
    clock: Callable[[], int] = time.time_ns,
    random: Callable[[int], bytes] = os.urandom,
) -> Service:
    """A service over a database and the stubs of its neighbours, real ones or in memory."""
    timeout_s = settings.anchor_timeout_s
    witness_client = WitnessClient(witness, timeout_s=settings.witness_timeout_s)
    lag = Lag(anchor, timeout_s=timeout_s)
    sinks = Sinks(anchor, timeout_s=timeout_s)
    progress = Progress(storage, sinks)
    census = Census(
        storage, anchor, timeout_s=timeout_s, anchor_is_shared=settings.anchor_is_shared
    )
    guard = Guard(
        storage,
        anchor,
        lag,
        census,
        progress.logged_seq,
        registry or AnyRegistry(),
        timeout_s=timeout_s,
    )
    reads = Reads(storage, anchor, sinks, progress)
    limits = RelayLimits(
        poll_s=settings.relay_poll_s,
        linger_s=settings.relay_linger_ms / 1000,
        lease_s=settings.relay_lease_s,
        memory_bytes=settings.relay_memory_bytes,
        anchor_timeout_s=timeout_s,
    )
    relay = Relay(
        storage,
        anchor,
        progress,
        limits,
        learn=reads.learn,
        doubt=guard.doubt,
        registry=registry,
    )

    def committed(ledger: LedgerInfo, linked: Linked, generation: int) -> None:
        guard.saw(ledger.uid, linked.head.seq)
        reads.remember(linked.batch, generation)
        relay.committed(ledger, linked)

    gate = Gate(
        max_bytes=settings.work_bytes,
        target_s=settings.queue_target_s,
        small_calls=settings.small_calls,
        small_by_time=settings.grpc_server == "direct",
        tenant_streams=settings.tenant_streams,
        quotas=parse_quotas("tenant_quotas", settings.tenant_quotas),
        shared_quotas=parse_quotas("shared_quotas", settings.shared_quotas),
    )
    unread = Unread(settings.work_bytes)
    untaken = Untaken(settings.work_bytes)
    policy = keys or AnyKey()
    appender = Appender(
        Tools(
            storage=storage,
            witness=witness_client,
            check=guard.check,
            seen_seq=guard.seen_seq,
            doubt=guard.doubt,
            look_for=guard.look_for,
            committed=committed,
            keys=policy,
            clock=clock,
            random=random,
            flush_items=settings.flush_items,
            flush_bytes=settings.flush_bytes,
            flush_linger_s=settings.flush_linger_ms / 1000,
            queue_items=settings.queue_items,
            queue_bytes=settings.queue_bytes,
            turns=Turns(bounded=gate.bounds),
            flushed=gate.flushed,
        )
    )
    maker = LedgerMaker(
        storage,
        witness_client,
        anchor,
        guard,
        policy,
        log_name=settings.log_name,
        own_log_tenants=settings.own_log_tenants,
        timeout_s=timeout_s,
        clock=clock,
        random=random,
    )
    directory = LedgerDirectory(storage, guard)
    servicer = LedgerServicer(
        Parts(
            storage=storage,
            directory=directory,
            appender=appender,
            reads=reads,
            progress=progress,
            maker=maker,
            anchor=anchor,
            default_suite=settings.default_suite,
            anchor_timeout_s=timeout_s,
            gate=gate,
            unread=unread,
            guard=guard,
            stream_in_flight=settings.stream_in_flight,
            stream_bytes=settings.stream_bytes,
        )
    )
    return Service(
        servicer,
        appender,
        relay,
        guard,
        storage,
        maker,
        directory,
        lag,
        gate,
        ReadingGate(settings.read_calls, untaken),
        MakingGate(gate, untaken),
        unread,
        untaken,
    )


async def build(settings: Settings) -> App:
    """Open and migrate the database, connect the neighbours, make the app.

    Raises:
        ConfigError, StatusError: the database or the TLS files cannot be used.
    """
    launch.check_suite_setting("PROVLEDGER_LEDGER_DEFAULT_SUITE", settings.default_suite)
    storage = Database.open(settings.database_url, reader_threads=settings.reader_threads)
    await asyncio.to_thread(storage.migrate)
    tls = settings.tls()
    witness_channel = channel(settings.witness_endpoint, tls)
    anchor_channel = channel(settings.anchor_endpoint, tls)
    ring: KeyRing | None = None
    registry: KeyRegistry | None = None
    keys_channel: grpc.aio.Channel | None = None
    if settings.keys_endpoint is not None:
        ring = KeyRing(settings.keys_endpoint, (), _no_signer, tls=tls, watcher="ledger")
        await ring.start()
        keys_channel = channel(settings.keys_endpoint, tls)
        registry = KeyRegistry(ring, keys_pb2_grpc.KeysServiceStub(keys_channel), storage)
    witness = witness_pb2_grpc.WitnessServiceStub(witness_channel)
    anchor = anchor_pb2_grpc.AnchorServiceStub(anchor_channel)
    service = assemble(
        settings,
        storage,
        witness,
        anchor,
        keys=None if ring is None else RingPolicy(ring, registry),
        registry=registry,
    )
    background = [service.relay.run, service.lag.run, lambda: check_all(service)]
    if ring is not None and registry is not None and keys_channel is not None:
        key_ledger = KeyLedger(
            ring,
            keys_pb2_grpc.KeysServiceStub(keys_channel),
            witness,
            anchor,
            service.maker,
            service.directory,
            service.appender,
            storage,
            settings.default_suite,
            registry,
        )
        background += [registry.run, key_ledger.run]

    async def close() -> None:
        await service.close()
        if keys_channel is not None:
            await keys_channel.close()
        if ring is not None:
            await ring.close()
        await witness_channel.close()
        await anchor_channel.close()

    return App(
        services=[(ledger_pb2_grpc.add_LedgerServiceServicer_to_server, service.servicer)],
        background=background,
        on_drain=service.servicer.drain,
        close=close,
        gates=service.gates(),
        limits=admission.LIMITS,
    )


async def check_all(service: Service) -> None:
    """Compare every ledger with its log once, so that trouble is told before the first append.

    While the database cannot be asked it waits, for as long as that takes.
    """
    after = ("", "")
    while True:
        try:
            found = await service.storage.list_ledgers("", after, 100)
        except StatusError as error:
            # Nobody depends on this; raised, it would end the service.
            log.warning("ledger.not_listed", reason=error.reason, message=error.message)
            await asyncio.sleep(_LIST_AGAIN_S)
            continue
        if not found:
            return
        for ledger, _ in found:
            after = (ledger.tenant, ledger.ledger)
            try:
                await service.guard.check(ledger)
            except StatusError as error:
                # The guard has logged what matters, and asks again at the first append.
                log.warning("ledger.not_confirmed", ledger=ledger.name, reason=error.reason)


async def _no_signer(uri: str) -> Signer:
    raise NotImplementedError("the ledger signs nothing")
