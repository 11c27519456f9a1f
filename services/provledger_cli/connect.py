"""From options to the services: whose addresses, over which channels.

Only verbs that talk to services import this module: it brings gRPC with it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeVar

import grpc

from provledger.api.anchor.v1 import anchor_pb2_grpc
from provledger.api.common.v1 import common_pb2
from provledger.api.keys.v1 import keys_pb2_grpc
from provledger.api.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from provledger.client import AsyncClient, CallPolicy
from provledger.client.calls import unary
from provledger.errors import ProvledgerError
from provledger.retry import NO_RETRY
from provledger.rpc.channel import channel
from provledger.rpc.endpoint import check_no_url, check_port, grpc_target
from provledger.rpc.tls import TLSSettings
from provledger_cli.embedded import endpoints
from provledger_cli.embedded.datadir import GATEWAY, SERVICES, DataDir, is_locked
from provledger_cli.failures import CommandError

R = TypeVar("R")

_STARTING_S: Final = 10.0
_POLL_S: Final = 0.03


@dataclass(frozen=True, slots=True)
class Target:
    """Which services a command talks to.

    `addresses` maps services to `host:port`; `embedded` says that they are those of `data_dir`, and
    `stopped` that none of them runs yet or any more: whoever answers there is somebody else.
    """

    data_dir: DataDir
    addresses: dict[str, str]
    embedded: bool
    tls: TLSSettings | None = None
    stopped: bool = False


def target(
    data_dir: Path | None,
    endpoint: Sequence[str] | None = None,
    *,
    first: str = "ledger",
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    tls_ca: Path | None = None,
    must_run: bool = True,
) -> Target:
    """Work out which services are meant; an endpoint without a name is the service `first`.

    Raises:
        CommandError: nothing runs in the data directory, though it `must_run`, or where that is is
            not known yet; or an option cannot be read.
    """
    directory = DataDir.at(data_dir)
    try:
        tls = TLSSettings.from_paths(tls_cert, tls_key, tls_ca)
    except ProvledgerError as error:
        raise CommandError(str(error), hint="give --tls-cert, --tls-key and --tls-ca") from None
    if endpoint:
        # From the environment several come in one text.
        given = [part for text in endpoint for part in text.replace(",", " ").split()]
        named = dict(_named(text, first) for text in given)
        _check_secure(named, tls)
        return Target(directory, named, False, tls)
    known, theirs = _known(directory, _STARTING_S if must_run else 0.0)
    if not theirs and must_run:
        raise CommandError(
            f"nothing runs in {directory.path}",
            hint="start it with `provledger up`, or name others with --data-dir or --endpoint",
        )
    addresses = {name: service.endpoint for name, service in known.services.items()}
    return Target(directory, addresses, True, tls, stopped=not theirs)


def _known(directory: DataDir, wait_s: float) -> tuple[endpoints.Endpoints, bool]:
    """What `endpoints.json` says, and whether it is of what runs in the directory.

    If nothing runs, the ports may be anybody's: those of the directory that this one is a copy of,
    for instance. A supervisor that has just begun writes them anew as soon as it can.

    wait_s: how long it is waited for, in seconds; 0 for not at all.

    Raises:
        CommandError: there is no such file, or the supervisor has not written it by then.
    """
    deadline_s = time.monotonic() + wait_s
    while True:
        known = endpoints.read(directory.endpoints)
        if known is None:
            raise CommandError(
                f"no services have been started in {directory.path}",
                hint="start them with `provledger up`, or name others with --data-dir or "
                "--endpoint",
            )
        try:
            # In this order: a supervisor takes its own lock first. Services outlive one that is
            # killed, by a little, at the addresses that it wrote.
            served = is_locked(directory.services_lock)
            pid = directory.supervisor_pid()
        except OSError:  # It can be read and not locked: mounted read-only, or another user's.
            return known, True
        if pid in (None, known.supervisor_pid):
            return known, served or pid is not None
        if not wait_s:
            return known, False
        if time.monotonic() > deadline_s:
            raise CommandError(
                f"the services of {directory.path} are only being started",
                hint="`provledger status` shows how far they are",
            )
        time.sleep(_POLL_S)


def _named(text: str, first: str) -> tuple[str, str]:
    name, equals, address = text.partition("=")
    if not equals:
        name, address = first, text
    try:
        check_no_url(address)
        check_port(address)
    except ProvledgerError as error:
        raise CommandError(
            f"--endpoint: {error}", hint="for example 127.0.0.1:7001 or keys=127.0.0.1:7001"
        ) from None
    host, colon, port = address.rpartition(":")
    # The gateway is asked over HTTP, by the name that is dialled.
    named = name == GATEWAY and "@" in host
    if name not in (*SERVICES, GATEWAY) or not host or not colon or not port.isdecimal() or named:
        raise CommandError(
            f"--endpoint {text!r} is not [SERVICE=]HOST:PORT",
            hint=f"for example 127.0.0.1:7001 or keys=127.0.0.1:7001; services: "
            f"{', '.join((*SERVICES, GATEWAY))}",
        )
    return name, address


def _check_secure(addresses: Mapping[str, str], tls: TLSSettings | None) -> None:
    """Refuse to go beyond loopback in clear; the gateway's answers are public."""
    for name, address in addresses.items():
        try:
            if name != GATEWAY:
                grpc_target(address, tls=tls is not None)
        except ProvledgerError as error:
            raise CommandError(
                str(error), hint="--tls-cert, --tls-key and --tls-ca are the options for TLS"
            ) from None


class Remote:
    """Clients of the services a command needs; opens channels when they are first used."""

    def __init__(self, target: Target, *, timeout_s: float = 60.0) -> None:
        self.target = target
        self.policy = CallPolicy(timeout_s=timeout_s)
        attempt_s = self.policy.attempt_timeout_s
        self._one_attempt = CallPolicy(timeout_s=attempt_s, retry=NO_RETRY)
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._client: AsyncClient | None = None
        self._ledger_stub: Any = None

    async def __aenter__(self) -> Remote:
        """Return itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close what was opened."""
        if self._client is not None:
            await self._client.close()
        for opened in self._channels.values():
            await opened.close()

    def has(self, service: str) -> bool:
        """Whether the address of a service is known."""
        return service in self.target.addresses

    @property
    def client(self) -> AsyncClient:
        """The client of the ledger service."""
        if self._client is None:
            self._client = AsyncClient(
                self._address("ledger"),
                keys_endpoint=self.target.addresses.get("keys", ""),
                tls=self.target.tls,
                policy=self.policy,
            )
        return self._client

    @property
    def keys(self) -> Any:
        """The stub of the keys service; call it through `call`."""
        return keys_pb2_grpc.KeysServiceStub(self.channel("keys"))

    @property
    def ledger(self) -> Any:
        """The stub of the ledger service; call it through `call`."""
        return self._ledger()

    @property
    def anchor(self) -> Any:
        """The stub of the anchor service; call it through `call`."""
        return anchor_pb2_grpc.AnchorServiceStub(self.channel("anchor"))

    async def call(
        self,
        method: Callable[..., Awaitable[R]],
        request: Any,
        *,
        timeout_s: float | None = None,
    ) -> R:
        """Call a stub's method with our deadlines and retries."""
        return await unary(method, request, self.policy, timeout_s=timeout_s)

    async def append_batch(
        self, request: ledger_pb2.AppendBatchRequest
    ) -> ledger_pb2.AppendBatchResponse:
        """Append drafts as they are, in one attempt: `import` keeps their order over several."""
        response: ledger_pb2.AppendBatchResponse = await unary(
            self._ledger().AppendBatch, request, self._one_attempt
        )
        return response

    async def append(self, ledger: str, draft: common_pb2.Draft) -> ledger_pb2.AppendResponse:
        """Append one draft as it is; the answer, with the receipt in the FULL view."""
        request = ledger_pb2.AppendRequest(
            ledger=ledger, draft=draft, view=common_pb2.RECEIPT_VIEW_FULL
        )
        response: ledger_pb2.AppendResponse = await self.call(self._ledger().Append, request)
        return response

    def _ledger(self) -> Any:
        if self._ledger_stub is None:
            self._ledger_stub = ledger_pb2_grpc.LedgerServiceStub(self.channel("ledger"))
        return self._ledger_stub

    def channel(self, service: str) -> grpc.aio.Channel:
        """The channel to a service."""
        if service not in self._channels:
            self._channels[service] = channel(self._address(service), self.target.tls)
        return self._channels[service]

    def _address(self, service: str) -> str:
        address = self.target.addresses.get(service)
        if address is None:
            raise CommandError(
                f"the address of the {service} service is not known",
                hint=f"add --endpoint {service}=HOST:PORT",
            )
        if not address:
            raise CommandError(
                f"the {service} service has not started yet, or could not",
                hint=f"see `provledger status`, and what logs/{service}.log of the data directory "
                "says",
            )
        return address


def run_async(work: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine to its end, on the faster event loop where there is one."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if sys.platform != "win32":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work)
