"""A proxy in front of PostgreSQL that breaks connections at statements, on the wire.

It reads the frames of the frontend/backend protocol 3.0 (PostgreSQL documentation, 54.7): type,
length, content. A client's messages up to its Sync (or one simple Query) make one round trip. It
executes statements, which may have been prepared before and are only named then. At a round trip
with a statement of a pattern it can

* `cut`: close both connections before the server sees it,
* `lose`: pass it on, wait for the server's answer, and close instead of handing it over,
* `stall`: pass it on and hand over no answer until `calm`; the connection is cut then,
* `hold`: the same, but do not pass it on.

A client that copies rows in is told to send them (CopyInResponse): the answer is what comes then.

A COMMIT has what its transaction wrote behind it, so that a pattern can say which one it means:

    COMMIT of COPY entries (ledger_uid, seq) FROM STDIN; UPDATE heads SET seq=$

It is COMMIT alone where nothing was written.

It keeps a list of all statements that were made, and can put others words into them (`replace`).
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, Literal

Fault = Literal["cut", "lose", "stall", "hold"]
FAULTS: tuple[Fault, ...] = ("cut", "lose", "stall")
"""Those that a service comes through without being killed, in the time that tests have."""

_WITHIN_ROUND_TRIP: Final = frozenset(b"PBDEC")  # Parse, Bind, Describe, Execute, Close
_PARSE, _BIND, _QUERY, _TERMINATE, _READY, _COPY_IN = b"PBQXZG"

_SPACE: Final = re.compile(rb"\s+")
_PARAMETER: Final = re.compile(rb"\$\d+(::[\w\[\]]+)?")
_LISTS: Final = re.compile(rb"\([$, ]*\)(, ?\([$, ]*\))*")
_WRITES_NOTHING: Final = re.compile(
    r"(SELECT|SET|SHOW|SAVEPOINT|RELEASE|ROLLBACK TO|DEALLOCATE)\b|;?$", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, eq=False)
class _Planned:
    """A fault at the next round trip with a statement of a pattern."""

    pattern: re.Pattern[str]
    fault: Fault


class PostgresProxy:
    """Listens on a port of loopback; `socket_path` is the server's unix socket."""

    def __init__(
        self, port: int, socket_path: str, replace: tuple[bytes, bytes] = (b"", b"")
    ) -> None:
        """`replace`: words to replace in each statement, and what by."""
        self.port = port
        self.replace = replace
        self._socket_path = socket_path
        self._lock = threading.Lock()
        self._faults: list[_Planned] = []
        self._under_way: set[_Planned] = set()
        self.injected: Counter[tuple[str, Fault]] = Counter()
        self.statements: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._run, name="pgproxy", daemon=True)
        self._ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._stalled: set[asyncio.StreamWriter] = set()

    def start(self) -> PostgresProxy:
        """Listen."""
        self._thread.start()
        self._ready.result(30.0)
        return self

    def close(self) -> None:
        """Stop, and cut what is open."""
        loop, stop = self._ready.result(30.0)
        loop.call_soon_threadsafe(stop.set)
        self._thread.join(30.0)

    def inject(self, pattern: str, *faults: Fault) -> None:
        """What the next round trips will meet that execute a statement of that pattern."""
        compiled = re.compile(pattern)
        with self._lock:
            self._faults += [_Planned(compiled, fault) for fault in faults]

    def pending(self) -> int:
        """How many faults have not happened yet."""
        with self._lock:
            return len(self._faults) + len(self._under_way)

    def calm(self) -> None:
        """No more faults; what stalls is cut."""
        with self._lock:
            self._faults.clear()
            self._under_way.clear()
        loop, _ = self._ready.result(30.0)

        def cut() -> None:
            for writer in self._stalled:
                writer.transport.abort()
            self._stalled.clear()

        loop.call_soon_threadsafe(cut)

    # --- in the thread

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        stop = asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", self.port)
        self._ready.set_result((asyncio.get_running_loop(), stop))
        await stop.wait()
        server.close()

    async def _connection(
        self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter
    ) -> None:
        try:
            server_in, server_out = await asyncio.open_unix_connection(self._socket_path)
        except OSError:
            client_out.transport.abort()
            return
        link = _Link(self, client_in, client_out, server_in, server_out)
        tasks = [asyncio.create_task(link.to_server()), asyncio.create_task(link.to_client())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            for writer in (client_out, server_out):
                writer.transport.abort()
        await asyncio.gather(*tasks, return_exceptions=True)
        link.ended()
        self._stalled.discard(client_out)

    def take(self, shapes: list[str]) -> _Planned | None:
        """What a round trip meets that executes these; `happened` or `missed` follows."""
        with self._lock:
            self.statements.update(shapes)
            for place, planned in enumerate(self._faults):
                if any(map(planned.pattern.search, shapes or [""])):
                    del self._faults[place]
                    self._under_way.add(planned)
                    return planned
        return None

    def happened(self, planned: _Planned) -> None:
        """Take note that a client has met its fault."""
        with self._lock:
            self._under_way.discard(planned)
            self.injected[planned.pattern.pattern, planned.fault] += 1

    def missed(self, planned: _Planned) -> None:
        """Take note that the connection ended first, so that another round trip is to meet it."""
        with self._lock:
            if planned in self._under_way:
                self._under_way.discard(planned)
                self._faults.insert(0, planned)

    def stalled(self, writer: asyncio.StreamWriter) -> None:
        """Take note of a connection that waits for `calm`."""
        self._stalled.add(writer)


class _Link:
    """One connection; `_losing` says what happens to the answers from now on, if anything."""

    def __init__(
        self,
        proxy: PostgresProxy,
        client_in: asyncio.StreamReader,
        client_out: asyncio.StreamWriter,
        server_in: asyncio.StreamReader,
        server_out: asyncio.StreamWriter,
    ) -> None:
        self._proxy = proxy
        self._client_in, self._client_out = client_in, client_out
        self._server_in, self._server_out = server_in, server_out
        self._losing: _Planned | None = None
        self._prepared: dict[bytes, bytes] = {}
        self._transaction = Transaction()

    async def to_server(self) -> None:
        """Pass on the startup message, then round trips."""
        try:
            length = await self._client_in.readexactly(4)
            self._server_out.write(
                length + await self._client_in.readexactly(int.from_bytes(length, "big") - 4)
            )
            trip, statements = bytearray(), list[bytes]()
            while True:
                head = await self._client_in.readexactly(5)
                body = await self._client_in.readexactly(int.from_bytes(head[1:], "big") - 4)
                kind = head[0]
                statements += self._executed(kind, body)
                if kind in (_PARSE, _QUERY) and self._proxy.replace[0]:
                    body = body.replace(*self._proxy.replace)
                trip += head[:1] + (len(body) + 4).to_bytes(4, "big") + body
                # The rest, such as the data of a COPY, is passed on as it comes.
                if kind in _WITHIN_ROUND_TRIP:
                    continue
                planned = None
                if kind != _TERMINATE and self._losing is None:
                    planned = self._losing = self._proxy.take(
                        [self._transaction.said(shape(each)) for each in statements]
                    )
                if planned is not None and planned.fault == "cut":
                    self._proxy.happened(planned)
                    return
                if planned is not None and planned.fault == "hold":
                    self._proxy.stalled(self._client_out)
                    self._proxy.happened(planned)
                    # Until it gives up or dies, or `calm` cuts it off.
                    await self._client_in.read()
                    return
                self._server_out.write(bytes(trip))
                await self._server_out.drain()
                if planned is not None and planned.fault == "stall":
                    self._proxy.stalled(self._client_out)
                    self._proxy.happened(planned)
                trip.clear()
                statements.clear()
        except (asyncio.IncompleteReadError, OSError):
            return

    def _executed(self, kind: int, body: bytes) -> list[bytes]:
        """The statements that a message executes."""
        if kind == _QUERY:
            return [body.rstrip(b"\0")]
        if kind == _PARSE:
            name, text = body.split(b"\0", 2)[:2]
            self._prepared[name] = text
        elif kind == _BIND:
            return [self._prepared[body.split(b"\0", 2)[1]]]
        return []

    async def to_client(self) -> None:
        """Pass on answers, unless they are lost."""
        held = bytearray()
        try:
            while True:
                head = await self._server_in.readexactly(5)
                body = await self._server_in.readexactly(int.from_bytes(head[1:], "big") - 4)
                held += head + body
                losing = self._losing
                if losing is None or head[0] == _COPY_IN:
                    self._client_out.write(bytes(held))
                    await self._client_out.drain()
                    held.clear()
                elif losing.fault == "lose" and head[0] == _READY:
                    self._proxy.happened(losing)
                    return
        except (asyncio.IncompleteReadError, OSError):
            return

    def ended(self) -> None:
        """Said when the connection is gone."""
        if self._losing is not None:
            self._proxy.missed(self._losing)


class Transaction:
    """What was written on a connection since the last BEGIN."""

    def __init__(self) -> None:
        # In order, each shape once.
        self._written: dict[str, None] = {}

    def said(self, statement: str) -> str:
        """A statement's shape; a COMMIT's with what it commits."""
        if statement.startswith(("BEGIN", "ROLLBACK")) and not statement.startswith("ROLLBACK TO"):
            self._written.clear()
        elif statement == "COMMIT":
            written = "; ".join(self._written)
            self._written.clear()
            return f"COMMIT of {written}" if written else statement
        elif not _WRITES_NOTHING.match(statement):
            self._written[statement] = None
        return statement


def shape(statement: bytes) -> str:
    """A statement on one line, without what differs from one time to the next."""
    text = _PARAMETER.sub(b"$", _SPACE.sub(b" ", statement).strip())
    return _LISTS.sub(b"($)", text).decode()
