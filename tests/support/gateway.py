"""A gateway on a real socket, and a client that sends what it is told, byte for byte."""

from __future__ import annotations

import asyncio
import http.client
import secrets
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from anchor_svc.bucketfiles import BucketFiles
from anchor_svc.openlog import OpenLog
from anchor_svc.openlogs import DamagedLog
from anchor_svc.publishedlogs import Lost
from anchor_svc.servicer import AnchorServicer
from gateway_svc.app import build
from gateway_svc.config import Settings
from provledger.api.anchor.v1 import anchor_pb2_grpc
from provledger.http.server import serve
from provledger.rpc.server import App
from provledger.rpc.server import serve as serve_rpc
from provledger.rpc.settings import ServerSettings
from provledger.s3 import Bucket, BucketURI
from tests.support import peers
from tests.support.anchoring import LOG_UID, Ledger, TestKeys, running_log, submit


class TheseLogs:
    """What `OpenLogs` is to the servicer, for logs that a test has opened."""

    def __init__(self, *logs: OpenLog) -> None:
        self._logs = logs

    def all(self) -> list[OpenLog]:
        return list(self._logs)

    def damaged(self) -> list[DamagedLog]:
        return []

    def lost(self) -> list[Lost]:
        return []

    def get(self, uid: bytes | None) -> OpenLog | None:
        found = [log for log in self._logs if uid in (None, log.identity.uid)]
        return found[0] if found else None


@asynccontextmanager
async def serving_anchor(*logs: OpenLog) -> AsyncIterator[str]:
    """The anchor's RPCs about these logs over a real socket: `host:port`."""
    servicer = AnchorServicer(TheseLogs(*logs), TestKeys())  # type: ignore[arg-type]
    app = App(services=[(anchor_pb2_grpc.add_AnchorServiceServicer_to_server, servicer)])
    stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
    config = ServerSettings(grace_s=0.2)
    task = asyncio.create_task(serve_rpc(app, config, stop=stop, on_ready=ready.set_result))
    await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
    try:
        yield f"127.0.0.1:{await ready}"
    finally:
        stop.set()
        await task


@contextmanager
def tile_bucket(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A new bucket at a store, and credentials for it in the environment."""
    for name, value in (peers.ROOT | {"aws_region": "us-east-1"}).items():
        monkeypatch.setenv(name.upper(), value)
    name = f"tiles-{secrets.token_hex(4)}"
    peers.s3_client(url).create_bucket(Bucket=name)
    bucket = Bucket(BucketURI(name, "a/b", url))
    try:
        yield bucket
    finally:
        bucket.close()


@asynccontextmanager
async def filled_log(
    tmp_path: Path, size: int, bucket: Bucket | None = None
) -> AsyncIterator[OpenLog]:
    """A log of so many leaves, published at that size and at 101 before."""
    with ThreadPoolExecutor(4) as threads:
        files = None if bucket is None else BucketFiles(bucket, LOG_UID, threads)
        database = f"sqlite:///{tmp_path}/anchor.db"
        async with running_log(database, tmp_path / "data", files=files) as opened:
            ledger = Ledger()
            ledger.grow(size - 1)
            for start, end in ((0, 100), (100, size - 1)):
                await submit(opened, ledger, start, end)
                await opened.publisher.publish(opened.state.signed_view())
            yield opened


@asynccontextmanager
async def gateway_at(
    place: str, log: OpenLog, bucket: Bucket | None, **settings: Any
) -> AsyncIterator[Running]:
    """A gateway that reads a log from a `directory`, a `bucket` or by the RPCs of its `anchor`."""
    async with AsyncExitStack() as stack:
        given: dict[str, Any] = {"data_dir": log.store.root.parents[1]}
        if bucket is not None:
            at = bucket.uri
            given = {"tile_store": f"s3://{at.bucket}/{at.prefix}?endpoint={at.endpoint}"}
        elif place == "anchor":
            given = {"anchor_endpoint": await stack.enter_async_context(serving_anchor(log))}
        if place != "directory":
            given["checkpoint_poll_ms"] = 0
        yield await stack.enter_async_context(running_gateway(**(given | settings)))


@dataclass(frozen=True)
class Answer:
    """Status, headers (names in lower case) and body."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Running:
    """A gateway that serves; `stop` begins its drain, `hurry` ends the wait of it."""

    port: int
    stop: asyncio.Event
    hurry: asyncio.Event

    async def call(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """One request on a connection of its own; `if_none_match` is If-None-Match."""
        return await asyncio.to_thread(fetch, self.port, path, method, headers)


def fetch(
    port: int, path: str, method: str = "GET", headers: dict[str, str] | None = None
) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.putrequest(method, path, skip_host=False)
        for name, value in (headers or {}).items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        response = connection.getresponse()
        body = response.read()
        own = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, own, body)
    finally:
        connection.close()


@asynccontextmanager
async def running_gateway(data_dir: Path | None = None, **settings: Any) -> AsyncIterator[Running]:
    """A gateway over a directory of logs, or whatever else is set."""
    config = Settings(data_dir=data_dir, **settings)
    stop, hurry = asyncio.Event(), asyncio.Event()
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    serving = asyncio.ensure_future(
        serve(await build(config), config, stop=stop, hurry=hurry, on_ready=ready.set_result)
    )
    waiting: set[asyncio.Future[Any]] = {serving, ready}
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
        yield Running(ready.result(), stop, hurry)
    finally:
        stop.set()
        await serving
