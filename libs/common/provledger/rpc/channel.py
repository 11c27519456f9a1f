"""Client channels, and calls that have a deadline, bounded retries and typed errors.

    async with channel("127.0.0.1:7001", tls) as ledger:
        stub = LedgerServiceStub(ledger)
        receipt = await call(stub.Append, request, timeout_s=5.0)

Retried are UNAVAILABLE and RESOURCE_EXHAUSTED, and only for calls that may be repeated (reads, and
writes under a request id). Whatever the server says in RetryInfo is waited for. The deadline is
one for all attempts together.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import grpc

from provledger import telemetry
from provledger.errors import DeadlineExceededError, StatusError
from provledger.retry import NO_RETRY, RetryPolicy, honour
from provledger.rpc.endpoint import grpc_target, server_name
from provledger.rpc.errors import MESSAGE_TOO_LARGE, from_rpc_error
from provledger.rpc.renewing import RenewingChannel
from provledger.rpc.tls import TLSSettings, channel_credentials, load, renewed

R = TypeVar("R")

MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
DEFAULT_POLICY: Final = RetryPolicy()

_RETRIED: Final = frozenset({"UNAVAILABLE", "RESOURCE_EXHAUSTED"})
_rng: Final = random.Random()  # noqa: S311 - jitter, not a secret

CHANNEL_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Retries are ours alone: DNS must not configure any, and gRPC must not hide its own.
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.enable_retries", 0),
    # A proxy from the environment has no business between services.
    ("grpc.enable_http_proxy", 0),
    # A restarted neighbour is found again quickly. The third is the time a connection attempt
    # may take, in spite of its name.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # A connection that goes dead without a word is given up after this, however long the ping
    # timeout of the library is, a minute: all retries would go on it meanwhile.
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)


def channel(
    endpoint: str,
    tls: TLSSettings | None = None,
    *,
    options: Sequence[tuple[str, Any]] = (),
) -> grpc.aio.Channel:
    """A channel to an endpoint (`provledger.rpc.endpoint`), for use in the running event loop.

    Nothing is connected yet. `options` win over ours. Where the TLS files are replaced, calls go
    over to the new ones (`provledger.rpc.renewing`).

    Raises:
        ConfigError: the TLS files cannot be used, or calls would go in clear beyond loopback
            (`provledger.rpc.endpoint`).
    """
    merged = _merged(endpoint, options)
    target = grpc_target(endpoint, tls=tls is not None)
    if tls is None:
        return grpc.aio.insecure_channel(target, options=merged)
    return RenewingChannel(
        lambda loaded: grpc.aio.secure_channel(target, channel_credentials(loaded), options=merged),
        renewed(tls),
    )


def sync_channel(
    endpoint: str,
    tls: TLSSettings | None = None,
    *,
    options: Sequence[tuple[str, Any]] = (),
) -> grpc.Channel:
    """As `channel`, for blocking callers and a short time: the TLS files are read once."""
    merged = _merged(endpoint, options)
    target = grpc_target(endpoint, tls=tls is not None)
    if tls is None:
        return grpc.insecure_channel(target, options=merged)
    return grpc.secure_channel(target, channel_credentials(load(tls)), options=merged)


def _merged(endpoint: str, options: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """All of them. Of two of one name gRPC takes the first, so each is there once."""
    return list({**dict(CHANNEL_OPTIONS), **dict(_expecting(endpoint)), **dict(options)}.items())


def _expecting(endpoint: str) -> tuple[tuple[str, Any], ...]:
    """The option for the name of the certificate, where it is another than the one dialled.

    gRPC calls it one for tests: it takes any name. Which certificate has that name, and who signed
    it, is checked all the same.
    """
    name = server_name(endpoint)
    return (("grpc.ssl_target_name_override", name),) if name else ()


async def call(
    method: Callable[..., Awaitable[R]],
    request: object,
    *,
    timeout_s: float,
    idempotent: bool = True,
    policy: RetryPolicy = DEFAULT_POLICY,
    rng: random.Random = _rng,
) -> R:
    """Call a unary method of a stub; its response.

    timeout_s: for all attempts together. idempotent: whether repeating it does no harm.

    Raises:
        StatusError: typed as `provledger.rpc.errors.from_rpc_error` says.
    """
    deadline_s = time.monotonic() + timeout_s
    delays = (policy if idempotent else NO_RETRY).delays(rng)
    metadata = telemetry.outgoing_metadata()
    error: StatusError | None = None
    while True:
        remaining_s = deadline_s - time.monotonic()
        if remaining_s <= 0.0:
            # A wait that took longer than planned does not hide what was answered before it.
            raise error or DeadlineExceededError(
                "DEADLINE_EXCEEDED", "no time was left for the call"
            )
        try:
            return await method(request, timeout=remaining_s, metadata=metadata)
        except grpc.RpcError as exc:
            error = from_rpc_error(exc)
        delay_s = next_delay(error, delays, rng)
        # Giving up at once beats waiting for a deadline that will pass during the wait.
        if delay_s is None or time.monotonic() + delay_s >= deadline_s:
            raise error
        await asyncio.sleep(delay_s)


def next_delay(error: StatusError, delays: Any, rng: random.Random) -> float | None:
    """Seconds to wait before the next attempt, or None where there is to be none.

    `delays` is the iterator of a `RetryPolicy`.
    """
    if error.code not in _RETRIED or error.reason == MESSAGE_TOO_LARGE:
        return None
    delay_s: float | None = next(delays, None)
    if delay_s is None or error.retry_delay_s is None:
        return delay_s
    return max(delay_s, honour(error.retry_delay_s, rng))
