"""Puts the gateway together from its settings."""

from __future__ import annotations

from contextlib import AsyncExitStack

from gateway_svc.config import Settings
from gateway_svc.directory import DirectorySource
from gateway_svc.jwks import Jwks
from gateway_svc.web import Gateway
from provledger.api.keys.v1 import keys_pb2, keys_pb2_grpc
from provledger.http.server import WebApp
from provledger.rpc.channel import call, channel


async def build(settings: Settings) -> WebApp:
    """Make the application. Nothing is called yet: other services may come up later.

    Raises:
        ConfigError: settings that cannot be used.
    """
    tls = settings.rpc_tls()
    async with AsyncExitStack() as undo:
        source = DirectorySource(settings.data_dir)
        undo.push_async_callback(source.close)
        fetch = None
        if settings.keys_endpoint is not None:
            keys = await undo.enter_async_context(channel(settings.keys_endpoint, tls))
            stub = keys_pb2_grpc.KeysServiceStub(keys)

            async def fetch() -> bytes:
                request = keys_pb2.GetJwksRequest()
                answer = await call(stub.GetJwks, request, timeout_s=settings.rpc_deadline_s)
                return answer.jwks

        gateway = Gateway(
            source,
            Jwks(fetch, max_age_s=settings.jwks_max_age_s),
            checkpoint_max_age_s=settings.checkpoint_max_age_s,
            jwks_max_age_s=settings.jwks_max_age_s,
        )
        asgi = gateway.app(
            request_timeout_s=settings.request_timeout_s, tls=settings.tls_cert is not None
        )
        close = undo.pop_all().aclose

    def drain() -> None:
        gateway.draining = True

    return WebApp(asgi, on_drain=drain, close=close)
