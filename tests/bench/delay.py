"""A database that is further away: each round trip to PostgreSQL, or each commit of SQLite, longer.

PostgreSQL is delayed by a proxy, a process of its own, on a unix socket. What a client sends is
passed on later by the delay; answers come at once. A client that sends and waits for the answer
sees a longer round trip, and connections do not wait for each other, as over a network.

SQLite has no network: its commits take longer, one at a time, as with a slower disk.

python -m tests.bench.delay SERVER_SOCKET LISTENING_SOCKET SECONDS
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import threading
import time
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


def _serve(server: str, listening: str, delay_s: float) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(listening)
        listener.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            client, _ = listener.accept()
            upstream = socket.socket(socket.AF_UNIX)
            upstream.connect(server)
            for source, target, wait_s in ((client, upstream, delay_s), (upstream, client, 0.0)):
                threading.Thread(
                    target=_pass_on, args=(source, target, wait_s), daemon=True
                ).start()


def _pass_on(source: socket.socket, target: socket.socket, wait_s: float) -> None:
    try:
        while data := source.recv(1 << 20):
            time.sleep(wait_s)
            target.sendall(data)
    except OSError:
        pass
    for each in (source, target):
        each.close()


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2], float(sys.argv[3]))
