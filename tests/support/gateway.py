"""A gateway on a real socket, and a client that sends what it is told, byte for byte."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway_svc.app import build
from gateway_svc.config import Settings
from provledger.http.server import serve


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
async def running_gateway(data_dir: Path, **settings: Any) -> AsyncIterator[Running]:
    """A gateway over a directory of logs."""
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
