"""Whether services answer: the gRPC health protocol (grpc.health.v1), or /readyz; asked once."""

from __future__ import annotations

import asyncio
import http.client
import ssl
from collections.abc import Mapping
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from provledger.rpc.channel import channel
from provledger.rpc.tls import TLSSettings
from provledger_cli.embedded.datadir import GATEWAY

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
        *[
            (check_http if name == GATEWAY else check)(addresses[name], tls, timeout_s=timeout_s)
            for name in names
        ]
    )
    return dict(zip(names, words, strict=True))


async def check_http(
    address: str, tls: TLSSettings | None = None, *, timeout_s: float = 2.0
) -> str:
    """As `check`, over HTTP; over TLS where the other services speak it, by the same CA."""
    if not address:
        return UNREACHABLE
    return await asyncio.to_thread(_ask_http, address, tls, timeout_s)


def _ask_http(address: str, tls: TLSSettings | None, timeout_s: float) -> str:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        connection: http.client.HTTPConnection
        if tls is None:
            connection = http.client.HTTPConnection(host, int(port), timeout=timeout_s)
        else:
            context = ssl.create_default_context(cafile=str(tls.ca))
            connection = http.client.HTTPSConnection(
                host, int(port), timeout=timeout_s, context=context
            )
        try:
            connection.request("GET", "/readyz")
            return SERVING if connection.getresponse().status == 200 else NOT_SERVING
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, ValueError):
        return UNREACHABLE
