"""The RPCs of `provledger.api.keys.v1.KeysService`: convert, decide, convert."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from keys_svc import convert
from keys_svc.live import LiveRegistry
from provledger import logs
from provledger.api.keys.v1 import keys_pb2 as pb
from provledger.api.keys.v1 import keys_pb2_grpc

log = logs.get(__name__)

MAX_HEARTBEAT_S: Final = 10.0

Context = Any


class KeysServicer(keys_pb2_grpc.KeysServiceServicer):
    """Answers from `live`. `drain_ns` and `lease_ms` are those of the settings; `clock` gives Unix
    nanoseconds."""

    def __init__(
        self,
        live: LiveRegistry,
        *,
        drain_ns: int,
        lease_ms: int,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._live = live
        self._drain_ns = drain_ns
        self._lease_ms = lease_ms
        self._clock = clock

    async def CreateKey(
        self, request: pb.CreateKeyRequest, context: Context
    ) -> pb.CreateKeyResponse:
        """Register a key; the same call again returns the same key."""
        binding = convert.binding_from_pb(request)
        now_ns = self._clock()
        registry = await self._live.update(lambda known: known.create(binding, now_ns))
        record = registry.get(binding.kid)
        log.info("keys.created", kid=record.kid, purpose=record.purpose, state=record.state)
        return pb.CreateKeyResponse(key=convert.key_to_pb(record, now_ns))

    async def GetKey(self, request: pb.GetKeyRequest, context: Context) -> pb.GetKeyResponse:
        """Return one key."""
        kid = convert.key_name_from_pb(request.name)
        registry = await self._live.load()
        return pb.GetKeyResponse(key=convert.key_to_pb(registry.get(kid), self._clock()))

    async def ListKeys(self, request: pb.ListKeysRequest, context: Context) -> pb.ListKeysResponse:
        """Return a page of keys, newest first."""
        return convert.list_keys(await self._live.load(), request, self._clock())

    async def RotateKey(
        self, request: pb.RotateKeyRequest, context: Context
    ) -> pb.RotateKeyResponse:
        """Make another key the active one of its purpose, or prepare for it."""
        kid, purpose, binding = convert.rotation_from_pb(request)
        now_ns = self._clock()
        registry = await self._live.update(
            lambda known: known.rotate(
                kid,
                purpose,
                now_ns,
                drain_ns=self._drain_ns,
                binding=binding,
                hold_pending=request.hold_pending,
            )
        )
        record = registry.get(kid)
        log.info("keys.rotated", kid=kid, purpose=purpose, state=record.state, epoch=record.epoch)
        response = pb.RotateKeyResponse(key=convert.key_to_pb(record, now_ns))
        previous = registry.predecessor(record)
        if previous is not None:
            response.previous.CopyFrom(convert.key_to_pb(previous, now_ns))
        return response

    async def CommitRotation(
        self, request: pb.CommitRotationRequest, context: Context
    ) -> pb.CommitRotationResponse:
        """End a rotation that was begun with `hold_pending`."""
        kid = convert.kid_from_pb(request.kid)
        now_ns = self._clock()
        registry = await self._live.update(
            lambda known: known.commit(kid, now_ns, drain_ns=self._drain_ns)
        )
        record = registry.get(kid)
        log.info("keys.committed", kid=kid, purpose=record.purpose, epoch=record.epoch)
        response = pb.CommitRotationResponse(key=convert.key_to_pb(record, now_ns))
        previous = registry.predecessor(record)
        if previous is not None:
            response.previous.CopyFrom(convert.key_to_pb(previous, now_ns))
        return response

    async def RevokeKey(
        self, request: pb.RevokeKeyRequest, context: Context
    ) -> pb.RevokeKeyResponse:
        """Take a key out of use for good."""
        kid, reason = convert.revocation_from_pb(request)
        now_ns = self._clock()
        registry = await self._live.update(lambda known: known.revoke(kid, reason, now_ns))
        log.warning("keys.revoked", kid=kid)
        return pb.RevokeKeyResponse(key=convert.key_to_pb(registry.get(kid), now_ns))

    async def GetJwks(self, request: pb.GetJwksRequest, context: Context) -> pb.GetJwksResponse:
        """Return the JWK Set that verifiers need."""
        registry = await self._live.load()
        return pb.GetJwksResponse(jwks=registry.key_set(self._clock()).encode())

    async def WatchKeys(
        self, request: pb.WatchKeysRequest, context: Context
    ) -> AsyncIterator[pb.WatchKeysResponse]:
        """Send all keys at once, at every change, and as a heartbeat well within the lease."""
        watcher = convert.watcher_from_pb(request)
        log.debug("keys.watched", watcher=watcher)
        heartbeat_s = min(self._lease_ms / 3000, MAX_HEARTBEAT_S)
        async for registry in self._live.snapshots(heartbeat_s):
            now_ns = self._clock()
            yield pb.WatchKeysResponse(
                revision=registry.revision,
                keys=[convert.key_to_pb(key, now_ns) for key in registry.signing_keys(now_ns)],
                lease_ms=self._lease_ms,
            )
