"""Whether services answer: the gRPC health protocol (grpc.health.v1), asked once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from provledger.rpc.channel import channel
from provledger.rpc.tls import TLSSettings

SERVING = "serving"
NOT_SERVING = "not serving"
UNREACHABLE = "unreachable"


async def check(address: str, tls: TLSSettings | None = None, *, timeout_s: float = 2.0) -> str:
    """One of the three words above."""
    if not address:
        return UNREACHABLE
    async with channel(address, tls) as opened:
        stub: Any = health_pb2_grpc.HealthStub(opened)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=""), timeout=timeout_s)
        except grpc.RpcError:
            return UNREACHABLE
    serving = answer.status == health_pb2.HealthCheckResponse.SERVING
    return SERVING if serving else NOT_SERVING


async def check_all(
    addresses: Mapping[str, str], tls: TLSSettings | None = None, *, timeout_s: float = 2.0
) -> dict[str, str]:
    """Ask all at once; the word for each."""
    names = list(addresses)
    words = await asyncio.gather(
        *[check(addresses[name], tls, timeout_s=timeout_s) for name in names]
    )
    return dict(zip(names, words, strict=True))
