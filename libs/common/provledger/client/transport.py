"""The connections of a client, and how it calls over them."""

from __future__ import annotations

from typing import Any

import grpc

from provledger.api.ledger.v1 import ledger_pb2_grpc
from provledger.client.calls import CallPolicy, unary
from provledger.rpc.channel import channel
from provledger.rpc.endpoint import grpc_target
from provledger.rpc.tls import TLSSettings
from provledger.throttle import Throttles


class Transport:
    """Channels, opened when they are first used, and calls with the client's policy."""

    def __init__(
        self, endpoint: str, keys_endpoint: str, tls: TLSSettings | None, policy: CallPolicy
    ) -> None:
        for each in filter(None, (endpoint, keys_endpoint)):
            grpc_target(each, tls=tls is not None)
        self._endpoint = endpoint
        self._keys_endpoint = keys_endpoint
        self._tls = tls
        self._policy = policy
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._ledger_stub: Any = None
        self._throttles = Throttles(policy.max_in_flight)

    async def _close_channels(self) -> None:
        """Calls in flight are cancelled. May be called twice."""
        channels, self._channels, self._ledger_stub = self._channels, {}, None
        for opened in channels.values():
            await opened.close()

    def _channel(self, endpoint: str) -> grpc.aio.Channel:
        if endpoint not in self._channels:
            self._channels[endpoint] = channel(endpoint, self._tls)
        return self._channels[endpoint]

    def _stub(self) -> Any:
        if self._ledger_stub is None:
            self._ledger_stub = ledger_pb2_grpc.LedgerServiceStub(self._channel(self._endpoint))
        return self._ledger_stub

    async def _call(
        self,
        method: str,
        request: Any,
        timeout_s: float | None,
        attempt_timeout_s: float | None = None,
    ) -> Any:
        return await unary(
            getattr(self._stub(), method),
            request,
            self._policy,
            timeout_s=timeout_s,
            attempt_timeout_s=attempt_timeout_s,
            throttle=self._throttles.of_request(request),
        )
