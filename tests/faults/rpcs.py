"""Every RPC of the contracts, each with one right call and what has to be so after it.

A call is made by a caller who goes through proxies, asks again until it is answered, as our clients
do, and then looks, past the proxies, at what there is: what was asked for, once. Which RPCs there
are is read from the descriptors, so that a new one is missed by name (`missing`).
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import grpc

from provledger.api.anchor.v1 import anchor_pb2, anchor_pb2_grpc
from provledger.api.keys.v1 import keys_pb2, keys_pb2_grpc
from provledger.api.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from provledger.api.witness.v1 import witness_pb2, witness_pb2_grpc
from provledger.client.calls import CallPolicy, unary
from provledger.errors import StatusError
from provledger.rpc.channel import channel
from provledger.rpc.errors import from_rpc_error
from tests.faults.cluster import Cluster
from tests.faults.proxy import Proxy

DESCRIPTORS: Mapping[str, Any] = {
    "ledger": ledger_pb2.DESCRIPTOR.services_by_name["LedgerService"],
    "anchor": anchor_pb2.DESCRIPTOR.services_by_name["AnchorService"],
    "keys": keys_pb2.DESCRIPTOR.services_by_name["KeysService"],
    "witness": witness_pb2.DESCRIPTOR.services_by_name["WitnessService"],
}
_STUBS: Mapping[str, Any] = {
    "ledger": ledger_pb2_grpc.LedgerServiceStub,
    "anchor": anchor_pb2_grpc.AnchorServiceStub,
    "keys": keys_pb2_grpc.KeysServiceStub,
    "witness": witness_pb2_grpc.WitnessServiceStub,
}

Rpc: TypeAlias = tuple[str, str]
"""Service and method."""

ATTEMPT_S = 1.0
"""After that an answer counts as lost."""
_PATIENT = CallPolicy(timeout_s=30.0, attempt_timeout_s=ATTEMPT_S)

EXCUSED: Mapping[Rpc, str] = {}
"""RPCs that nobody attacks, and why. There are none."""


class Caller:
    """Calls services through the proxies given and, to look at what is there, directly.

    Use within an event loop, as a context manager. `names` makes new names, the same in each run
    with the same seed.
    """

    def __init__(self, cluster: Cluster, proxies: Mapping[str, Proxy], tag: str) -> None:
        self.cluster = cluster
        self.proxies = proxies
        self._tag = tag
        self._numbers = itertools.count()
        self._channels: list[grpc.aio.Channel] = []
        self._stubs: dict[tuple[str, bool], Any] = {}

    async def __aenter__(self) -> Caller:
        """Open channels; they connect when they are used."""
        for service, proxy in self.proxies.items():
            for direct, address in (
                (False, f"127.0.0.1:{proxy.port}"),
                (True, self.cluster.endpoint(service)),
            ):
                opened = channel(address)
                self._channels.append(opened)
                self._stubs[service, direct] = _STUBS[service](opened)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close them."""
        for each in self._channels:
            await each.close()

    def name(self, what: str) -> str:
        """A name that was not used before."""
        return f"{what}-{self._tag}-{next(self._numbers)}"

    async def ask(self, service: str, method: str, request: Any) -> Any:
        """Call through the proxy, again and again until there is an answer.

        Returns when what was sent has come to its end everywhere, late attempts included.
        """
        answer = await unary(getattr(self._stubs[service, False], method), request, _PATIENT)
        await self.settled(service)
        return answer

    async def ask_in_parts(self, service: str, method: str, parts: Sequence[Any]) -> Any:
        """As `ask`, for an RPC that reads a stream and answers once."""
        start = getattr(self._stubs[service, False], method)
        answer = await unary(lambda _, **options: start(iter(parts), **options), parts, _PATIENT)
        await self.settled(service)
        return answer

    async def settled(self, service: str) -> None:
        """Wait until no late attempt is on its way."""
        # The proxy has a loop of its own.
        while self.proxies[service].on_the_way:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    async def see(self, service: str, method: str, request: Any) -> Any:
        """Call past the proxy."""
        return await unary(getattr(self._stubs[service, True], method), request, _PATIENT)

    async def same(self, service: str, method: str, request: Any) -> Any:
        """Call through the proxy, then past it: both say the same. The answer."""
        answer = await self.ask(service, method, request)
        assert answer == await self.see(service, method, request), method
        return answer

    async def first(self, service: str, method: str, request: Any) -> Any:
        """The first message of a stream without end, opened again until there is one."""
        while True:
            watch = getattr(self._stubs[service, False], method)(request, timeout=ATTEMPT_S)
            try:
                async for message in watch:
                    return message
            except grpc.RpcError as exc:
                error: StatusError = from_rpc_error(exc)
                assert error.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED"), error
            finally:
                watch.cancel()


Call: TypeAlias = Callable[[Caller], Awaitable[None]]
CALLS: dict[Rpc, Call] = {}


def rpc(service: str, method: str) -> Callable[[Call], Call]:
    """Enters a function as the call of an RPC."""

    def enter(function: Call) -> Call:
        assert (service, method) not in CALLS
        CALLS[service, method] = function
        return function

    return enter


def all_rpcs() -> Iterator[Rpc]:
    """What the descriptors say there is."""
    for service, descriptor in DESCRIPTORS.items():
        for method in descriptor.methods:
            yield service, method.name
