"""The gRPC server object: what is bound, registered and reported healthy.

`provledger.rpc.server` runs one for the life of a process; tests may use it directly.

gRPC has one queue of calls that it has not shown us yet for each RPC of a server, and shows them
one at a time: a call waits behind all that came before it, on whatever connection. So there may be
several gRPC servers on the port, in this one event loop, and Linux gives each connection to one of
them (SO_REUSEPORT, socket(7)): a flood then stands before few other callers.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2_grpc

from provledger import logs, telemetry
from provledger.errors import ResourceExhaustedError
from provledger.rpc import auth
from provledger.rpc.bounds import Limits
from provledger.rpc.health import HealthServicer
from provledger.rpc.interceptors import Gate, ServiceInterceptor
from provledger.rpc.places import Places
from provledger.rpc.refusals import Refusal, refusal
from provledger.rpc.settings import ServerSettings
from provledger.rpc.tls import renewed, server_credentials
from provledger.rpc.watch_room import most_watches
from provledger.settings import ConfigError

log = logs.get(__name__)

Options = list[tuple[str, Any]]

_AGAIN_S: Final = 1.0
_FULL_CONNECTIONS: Final = 4
"""So many connections with all the calls they may have find room at any one listener."""

_HEALTH_PART: Final = 8
"""Watches of health take at most the eighth part of the calls at once."""


class Server:
    """A gRPC server with health, interceptor and TLS, from `ServerSettings`.

    Not yet bound; `start` binds, `drain` stops. One object serves once. `gates` decide by RPC,
    before a request is parsed, whether it is worked on; `limits` are of what a request holds.
    """

    def __init__(
        self,
        config: ServerSettings,
        *,
        gates: Mapping[str, Gate] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._config = config
        self._methods: set[str] = set()
        tls = config.tls()
        allow = auth.AllowList(config.allowed_callers) if config.allowed_callers else None
        self._allow = allow
        check_bind(config.host, tls=tls is not None)
        if allow is not None and tls is None:
            raise ConfigError("allowed_callers needs TLS: without it every caller is anonymous")
        self._interceptor = ServiceInterceptor(
            authenticate=_authenticate if tls is not None else None,
            ends_s=_ends_s if tls is not None else None,
            allow=allow,
            deadline_s=config.deadline_s,
            trace=telemetry.rpc_tracer(),
            gates=gates,
            limits=limits,
            health_watches=max(1, config.max_concurrent_rpcs // _HEALTH_PART),
            watches=most_watches(config.max_concurrent_rpcs),
        )
        count = config.listeners if sys.platform == "linux" else 1
        most = calls_of_listener(config, count)
        options = server_options(config, shared=count > 1)
        make = _direct if config.grpc_server == "direct" else _aio
        self._servers = [make(self._interceptor, options, most) for _ in range(count)]
        self._health = HealthServicer()
        self._files = None if tls is None else renewed(tls)
        self.port = 0

    def add(self, add_to_server: Callable[[Any, Any], None], servicer: object) -> None:
        """Register a servicer with its generated `add_XServicer_to_server`."""
        for server in self._servers:
            add_to_server(servicer, _Registrar(server, self._methods))

    @property
    def service_names(self) -> list[str]:
        """Full names of the services added so far."""
        return sorted({method.split("/")[1] for method in self._methods})

    async def start(self) -> int:
        """Bind and serve; the port, which is the system's choice where 0 was configured.

        Raises:
            ConfigError: the address is taken or not ours, or an allow-list rule is unknown.
        """
        if self._allow is not None:
            self._allow.check_known(self._methods)
        for server in self._servers:
            health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        host, port = self._config.host, self._config.port
        try:
            # The system itself never chooses a port that somebody has.
            with claimed(host, port) if len(self._servers) > 1 and port else nullcontext():
                for server in self._servers:
                    port = self.port = self._bind(server, join_host_port(host, port))
        except (RuntimeError, OSError) as error:
            raise ConfigError(
                f"cannot listen on {join_host_port(host, port)}: taken, or no address of ours"
            ) from error
        self.serving(True)
        for server in self._servers:
            await server.start()
        return self.port

    def _bind(self, server: Any, address: str) -> int:
        bound: int
        if self._files is None:
            bound = server.add_insecure_port(address)
        else:
            bound = server.add_secure_port(address, server_credentials(self._files))
        return bound

    async def drain(self, grace_s: float) -> None:
        """Health NOT_SERVING, end watches, wait for calls in flight, then cancel the rest.

        Whoever watches health is told before his watch is ended; who does not take it is a call
        in flight.
        """
        self.not_serving()
        self._health.end()
        self._interceptor.end_watches()
        await asyncio.gather(*(server.stop(grace_s) for server in self._servers))

    def not_serving(self) -> None:
        """Say NOT_SERVING for every service while calls are still answered."""
        self.serving(False)

    def serving(self, able: bool) -> None:
        """Say for every service whether it can do its work."""
        self._health.set(["", auth.HEALTH_SERVICE, *self.service_names], able=able)


def _direct(interceptor: ServiceInterceptor, options: Options, most: int) -> Any:
    try:
        from provledger.rpc.direct.server import DirectServer
    except (ImportError, AttributeError) as error:
        log.warning("server.not_direct", message=str(error))
        return _aio(interceptor, options, most)
    places = Places(most, call_of=lambda call: call)
    choose = interceptor.at(places).choose
    return DirectServer(options=options, choose=choose, gone=places.gone, most=most, full=_full())


def _aio(interceptor: ServiceInterceptor, options: Options, most: int) -> Any:
    return grpc.aio.server(
        interceptors=[interceptor.at(Places(most))],
        options=options,
        maximum_concurrent_rpcs=most,
    )


def _full() -> Refusal:
    return refusal(
        "",
        ResourceExhaustedError(
            "TOO_MANY_CALLS",
            "as many calls are open as may be; try again later",
            retry_delay_s=_AGAIN_S,
        ),
    )


class _Registrar:
    """Stands in for the server while a servicer is added, and notes the methods' names."""

    def __init__(self, server: Any, methods: set[str]) -> None:
        self._server = server
        self._methods = methods

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        self._server.add_generic_rpc_handlers(tuple(handlers))

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        self._methods.update(f"/{service}/{name}" for name in handlers)
        # gRPC keeps the waiting calls of each registered method apart, and takes one of each at a
        # time: a flood of one RPC does not stand before the others.
        self._server.add_registered_method_handlers(service, handlers)


def _authenticate(context: Any) -> str:
    return auth.principal_from_auth_context(context.auth_context())


def _ends_s(context: Any) -> float:
    return auth.certificate_ends_s(context.auth_context())


def calls_of_listener(config: ServerSettings, count: int) -> int:
    """Most calls at once of one of so many: an equal part, but room for a few full connections.

    What is beyond it gRPC refuses without details, and chance may bring several to one socket.
    """
    whole = config.max_concurrent_rpcs
    return max(-(-whole // count), min(whole, _FULL_CONNECTIONS * config.max_concurrent_streams))


@contextmanager
def claimed(host: str, port: int) -> Iterator[None]:
    """Make sure that we share a port with nobody, while our sockets are bound to it.

    With SO_REUSEPORT, whoever else sets it gets a part of the connections, in silence. That nobody
    listens yet, binding without it shows; a name in Linux's abstract namespace (unix(7)), which
    goes with its process, keeps out another of us that starts at the same moment.

    Raises:
        OSError: it is taken, or no address of ours.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as name:
        name.bind(f"\0provledger/listener/{port}")
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
        yield


def server_options(config: ServerSettings, *, shared: bool = False) -> list[tuple[str, Any]]:
    """gRPC options that bound what a caller can make the server hold; `shared` is the port."""
    return [
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", config.max_message_bytes),
        ("grpc.max_concurrent_streams", config.max_concurrent_streams),
        # More calls than that wait at their caller, who is slowed down alone. gRPC would otherwise
        # refuse some from well below the limit on, without details.
        ("grpc.http.overload_protection", 0),
        ("grpc.server.max_pending_requests", config.max_concurrent_rpcs),
        ("grpc.server.max_pending_requests_hard_limit", config.max_concurrent_rpcs),
        # Otherwise two services share a port in silence, and calls go to either.
        ("grpc.so_reuseport", int(shared)),
        # A certificate counts no longer than that, nor do calls that only take up a place; and
        # replicas that are added get their part of the connections.
        ("grpc.max_connection_age_ms", round(config.connection_age_s * 1000)),
        ("grpc.max_connection_age_grace_ms", round(config.deadline_s * 1000)),
        # Find dead peers within a minute, also those whose machine says nothing any more: the third
        # is how long an answer to a ping is waited for, by default a minute whatever the second
        # says. It is for gRPC's own pings as well, whose answers stand behind what a client on a
        # slow line is sending. Let clients ping every 10 s, idle ones included.
        ("grpc.keepalive_time_ms", 25_000),
        ("grpc.keepalive_timeout_ms", 30_000),
        ("grpc.http2.ping_timeout_ms", 30_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
    ]


def join_host_port(host: str, port: int) -> str:
    """`host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether every address of `host` is a loopback address; a name is looked up."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    addresses = {str(entry[4][0]).partition("%")[0] for entry in found}
    return all(ipaddress.ip_address(address).is_loopback for address in addresses)


def check_bind(host: str, *, tls: bool) -> None:
    """Refuse to listen on a reachable address without TLS.

    Raises:
        ConfigError: saying what to set.
    """
    if not tls and not is_loopback(host):
        raise ConfigError(
            f"refusing to listen on {host!r} without TLS: set tls_cert, tls_key and tls_ca, "
            "or bind to loopback (host = 127.0.0.1)"
        )
