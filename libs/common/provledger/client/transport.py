"""The connections of a client, and how it calls over them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard

import grpc

from provledger.api.ledger.v1 import ledger_pb2_grpc
from provledger.client import forks
from provledger.client.calls import CallPolicy, unary
from provledger.errors import FailedPreconditionError
from provledger.rpc.channel import channel
from provledger.rpc.endpoint import check_endpoint, grpc_target
from provledger.rpc.tls import TLSSettings
from provledger.throttle import Throttles


class Transport:
    """Channels, opened when they are first used, and calls with the client's policy.

    Raises FailedPreconditionError (CLIENT_FORKED) where calls would hang, see `forks`.
    """

    def __init__(
        self, endpoint: str, keys_endpoint: str, tls: TLSSettings | None, policy: CallPolicy
    ) -> None:
        forks.check()
        for each in filter(None, (endpoint, keys_endpoint)):
            check_endpoint(each)
            grpc_target(each, tls=tls is not None)
        self._endpoint = endpoint
        self._keys_endpoint = keys_endpoint
        self._tls = tls
        self._policy = policy
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._closed = False
        self._ledger_stub: Any = None
        self._throttles = Throttles(policy.max_in_flight)

    async def _close_channels(self) -> None:
        """Calls in flight are cancelled, and none is begun. May be called twice."""
        self._closed = True
        channels, self._channels, self._ledger_stub = self._channels, {}, None
        for opened in channels.values():
            await opened.close()
        forks.closed(self)

    def _channel(self, endpoint: str) -> grpc.aio.Channel:
        if self._closed:
            # Nobody would close one that is opened now.
            raise closed_error()
        if endpoint not in self._channels:
            forks.opened(self)
            self._channels[endpoint] = channel(endpoint, self._tls)
        return self._channels[endpoint]

    @contextmanager
    def _telling_of_its_end(self) -> Iterator[None]:
        """What gRPC and asyncio say when the client is closed under a call, as an error of ours.

        Raises:
            FailedPreconditionError: CLIENT_CLOSED; CLIENT_FORKED, where it would never be answered.
        """
        forks.check()
        try:
            yield
        except (grpc.aio.UsageError, asyncio.CancelledError):
            task = asyncio.current_task()
            if not self._closed or (task is not None and task.cancelling()):
                raise
            raise closed_error() from None

    def _stub(self) -> Any:
        forks.check()
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
        with self._telling_of_its_end():
            return await unary(
                getattr(self._stub(), method),
                request,
                self._policy,
                timeout_s=timeout_s,
                attempt_timeout_s=attempt_timeout_s,
                throttle=self._throttles.of_request(request),
            )


def closed_error() -> FailedPreconditionError:
    """What a call of a closed client is told."""
    return FailedPreconditionError("CLIENT_CLOSED", "the client was closed")


def is_closed_error(error: BaseException) -> TypeGuard[FailedPreconditionError]:
    """Whether it says that the client was closed."""
    return isinstance(error, FailedPreconditionError) and error.reason == "CLIENT_CLOSED"
