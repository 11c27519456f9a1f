"""A database that is further away: each round trip to PostgreSQL, or each commit of SQLite, longer.

PostgreSQL is delayed by a proxy, a process of its own, on a unix socket. What a client sends is
passed on later by the delay; answers come at once. A client that sends and waits for the answer
sees a longer round trip, and connections do not wait for each other, as over a network.

SQLite has no network: its commits take longer, one at a time, as with a slower disk.

python -m tests.bench.delay SERVER_SOCKET LISTENING_SOCKET SECONDS
"""

from __future__ import annotations

import select
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine, make_url

from provledger.db.engine import WRITE_OPTION

_SOCKET = ".s.PGSQL.5432"


@contextmanager
def further_away(url: str, delay_s: float) -> Iterator[str]:
    """The URL of the same PostgreSQL behind a proxy, for as long as the context lasts."""
    parsed = make_url(url)
    server = Path(str(parsed.query["host"]), _SOCKET)
    with tempfile.TemporaryDirectory() as folder:
        listening = Path(folder, _SOCKET)
        proxy = subprocess.Popen(
            [sys.executable, "-m", __name__, str(server), str(listening), str(delay_s)],
            stdout=subprocess.PIPE,
        )
        try:
            assert proxy.stdout is not None
            proxy.stdout.readline()
            yield parsed.update_query_dict({"host": folder}).render_as_string(hide_password=False)
        finally:
            proxy.kill()
            proxy.wait()


def slower_commits(engine: Engine, delay_s: float) -> None:
    """Have each write transaction of an engine take longer to commit."""

    def wait(connection: Any) -> None:
        if connection.get_execution_options().get(WRITE_OPTION):
            time.sleep(delay_s)

    event.listen(engine, "commit", wait)


class _Way:
    """One direction of a connection: what was read from one end and is not due at the other yet."""

    def __init__(self, source: socket.socket, target: socket.socket, delay_s: float) -> None:
        self.source = source
        self.target = target
        self.delay_s = delay_s
        self.chunks: deque[tuple[float, bytes]] = deque()

    def read(self) -> bool:
        """Take what has come; whether the source goes on."""
        data = self.source.recv(1 << 20)
        self.chunks.append((time.monotonic() + self.delay_s, data))
        return bool(data)

    def pass_on(self, now_s: float) -> bool:
        """Send what is due; whether the source has not ended yet."""
        while self.chunks and self.chunks[0][0] <= now_s:
            data = self.chunks.popleft()[1]
            if not data:
                self.target.shutdown(socket.SHUT_WR)
                return False
            self.target.sendall(data)
        return True


def _serve(server: str, listening: str, delay_s: float) -> None:
    """One thread for all: a thread for each way costs the two cores more than the database does.

    With select, whose timeout is in microseconds; that of epoll is in milliseconds.
    """
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(listening)
        listener.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        ways: dict[socket.socket, _Way] = {}
        reading: set[socket.socket] = {listener}
        while True:
            due_s = min((way.chunks[0][0] for way in ways.values() if way.chunks), default=None)
            wait_s = None if due_s is None else max(0.0, due_s - time.monotonic())
            for source in select.select([*reading], [], [], wait_s)[0]:
                if source is listener:
                    client, _ = listener.accept()
                    upstream = socket.socket(socket.AF_UNIX)
                    upstream.connect(server)
                    ways[client] = _Way(client, upstream, delay_s)
                    ways[upstream] = _Way(upstream, client, 0.0)
                    reading |= {client, upstream}
                elif not ways[source].read():
                    reading.discard(source)
            now_s = time.monotonic()
            for source, way in [*ways.items()]:
                if not way.pass_on(now_s):
                    del ways[source]


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2], float(sys.argv[3]))
