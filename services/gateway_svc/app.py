"""Puts the gateway together from its settings."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Final

from gateway_svc.anchor import AnchorPlace
from gateway_svc.bucket import BucketPlace
from gateway_svc.config import Settings
from gateway_svc.directory import DirectorySource
from gateway_svc.jwks import Jwks
from gateway_svc.remote import Place, RemoteSource
from gateway_svc.source import Source
from gateway_svc.web import Gateway
from provledger.api.keys.v1 import keys_pb2, keys_pb2_grpc
from provledger.http.server import WebApp
from provledger.rpc.channel import call, channel
from provledger.rpc.tls import TLSSettings
from provledger.s3 import Bucket, BucketURI, check_endpoint
from provledger.settings import ConfigError

MIB: Final = 1024 * 1024


async def build(settings: Settings) -> WebApp:
    """Make the application. Nothing is called yet: other services may come up later.

    Raises:
        ConfigError: settings that cannot be used.
    """
    tls = settings.rpc_tls()
    async with AsyncExitStack() as undo:
        source = await _source(settings, tls, undo)
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
            gzip_cache_bytes=settings.gzip_cache_mib * MIB,
        )
        asgi = gateway.app(
            request_timeout_s=settings.request_timeout_s, tls=settings.tls_cert is not None
        )
        undo.callback(gateway.close)
        close = undo.pop_all().aclose

    def drain() -> None:
        gateway.draining = True

    return WebApp(asgi, on_drain=drain, close=close)


async def _source(settings: Settings, tls: TLSSettings | None, undo: AsyncExitStack) -> Source:
    """Where the logs come from. Raises ConfigError."""
    given = [settings.data_dir, settings.tile_store, settings.anchor_endpoint]
    if sum(bool(each) for each in given) != 1:
        raise ConfigError("exactly one of data_dir, tile_store and anchor_endpoint is needed")
    if (settings.redirect_s or settings.redirect_endpoint) and not settings.tile_store:
        raise ConfigError("redirect_s and redirect_endpoint go with tile_store")
    if settings.data_dir is not None:
        return DirectorySource(settings.data_dir)
    place: Place
    if settings.anchor_endpoint is not None:
        anchor = await undo.enter_async_context(channel(settings.anchor_endpoint, tls))
        place = AnchorPlace(anchor, deadline_s=settings.rpc_deadline_s)
    else:
        place = _bucket(settings)
    return RemoteSource(
        place,
        max_age_s=settings.checkpoint_poll_ms / 1000,
        cache_bytes=settings.cache_mib * MIB,
    )


def _bucket(settings: Settings) -> BucketPlace:
    uri = BucketURI.parse(settings.tile_store, "tile_store")
    signer = None
    if settings.redirect_endpoint:
        check_endpoint(settings.redirect_endpoint, "redirect_endpoint")
        signer = Bucket(replace(uri, endpoint=settings.redirect_endpoint))
    return BucketPlace(Bucket(uri), signer=signer, redirect_s=settings.redirect_s)
