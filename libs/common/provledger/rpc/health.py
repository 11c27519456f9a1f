"""What a server says of its health (gRPC health checking protocol, grpc.health.v1).

The package's own servicer holds a lock while it writes to a watcher, and a change of health waits
for that lock: a watcher that takes nothing would keep a service from saying that it is unable, and
from ending. Here a change waits for no watcher, and the end for none longer than for other calls
(`grace_s`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from provledger.rpc.watches import draining

_Response = health_pb2.HealthCheckResponse


class HealthServicer(health_pb2_grpc.HealthServicer):
    """Tells callers, and watchers whenever it changes; for one event loop."""

    def __init__(self) -> None:
        self._status: dict[str, Any] = {}
        self._changed = asyncio.Event()
        self._over = False

    def set(self, services: Iterable[str], *, able: bool) -> None:
        """Say of services, by their full names, whether they serve. Waits for nobody."""
        status = _Response.SERVING if able else _Response.NOT_SERVING
        self._status.update(dict.fromkeys(services, status))
        self._wake()

    def end(self) -> None:
        """End each watch with UNAVAILABLE once it has told the newest status. Waits for nobody."""
        self._over = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(self, request: Any, context: Any) -> Any:
        """The status of one service; NOT_FOUND if there is none of that name."""
        status = self._status.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "this server has no such service")
        return _Response(status=status)

    async def List(self, request: Any, context: Any) -> Any:
        """Not served: it is asked for by name."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "ask for a service by its name (Check)")

    async def Watch(self, request: Any, context: Any) -> None:
        """The status of one service, and each later one unless a newer one came meanwhile.

        Raises:
            UnavailableError: SERVER_DRAINING, after the last one.
        """
        told = None
        while True:
            changed = self._changed
            status = self._status.get(request.service, _Response.SERVICE_UNKNOWN)
            if status != told:
                await context.write(_Response(status=status))
                told = status
            elif self._over:
                raise draining()
            else:
                await changed.wait()
