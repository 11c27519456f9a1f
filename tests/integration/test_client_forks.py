"""A process that is forked under a client is told so; its calls would hang, deadline or not.

The process that forks is one of its own: it has the threads of a client, and none of the tests'.
"""

from __future__ import annotations

import subprocess
import sys

from tests.integration.client_simulator import InThread

_SCRIPT = """
import asyncio, os, signal, sys
from provledger.client import AsyncClient, Client
from provledger.errors import FailedPreconditionError
from tests.integration.client_simulator import LEDGER, create

endpoint = sys.argv[1]

def tell(name, work):
    try:
        told = work()
    except FailedPreconditionError as error:
        told = error.reason
    print(name, told, flush=True)

def in_child(work):
    pid = os.fork()
    if not pid:
        signal.alarm(20)  # It may hang for ever.
        try:
            work()
        finally:
            os._exit(0)
    print("child", os.waitpid(pid, 0)[1], flush=True)

async def append(client):
    return (await client.append(LEDGER, create(7), timeout_s=5.0)).seq

async def append_new():
    async with AsyncClient(endpoint) as client:
        return await append(client)
"""

_OPEN = """
async def leave_open():
    client = AsyncClient(endpoint)
    await append(client)
    return client

client, mine = Client(endpoint), asyncio.run(leave_open())
listing = client.append_stream(LEDGER, (create(n) for n in range(3)), window=1)
next(listing)

def child():
    tell("append", lambda: client.append(LEDGER, create(1), timeout_s=2.0))
    tell("stream", lambda: next(listing))
    tell("close", client.close)
    tell("blocking", lambda: Client(endpoint).get_ledger(LEDGER, timeout_s=2.0))
    tell("async", lambda: asyncio.run(append_new()))
    tell("old async", lambda: asyncio.run(append(mine)))
    tell("close async", lambda: asyncio.run(mine.close()))

in_child(child)
print("parent", len(list(listing)), client.get_ledger(LEDGER).seq)
client.close()
"""

_CLOSED = """
with Client(endpoint) as client:
    client.append(LEDGER, create(1))

def child():
    tell("closed", lambda: client.get_ledger(LEDGER))
    # Calls work as a rule; that is gRPC's business.
    tell("new", lambda: Client(endpoint).close())

in_child(child)
"""

_UNUSED = """
client, mine = Client(endpoint), AsyncClient(endpoint)

def child():
    tell("blocking", lambda: client.get_ledger(LEDGER))
    tell("async", lambda: asyncio.run(append(mine)))
    with Client(endpoint) as new:
        tell("new", lambda: new.get_ledger(LEDGER, timeout_s=10.0).seq)

in_child(child)
client.close()
"""


def _run(script: str) -> list[str]:
    with InThread() as (_, endpoint):
        done = subprocess.run(
            [sys.executable, "-c", _SCRIPT + script, endpoint],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert not done.returncode, done.stderr
    return done.stdout.splitlines()


def test_where_a_client_was_open_every_client_of_the_child_says_so() -> None:
    assert _run(_OPEN) == [
        "append CLIENT_FORKED",
        "stream CLIENT_FORKED",
        "close None",
        "blocking CLIENT_FORKED",
        "async CLIENT_FORKED",
        "old async CLIENT_FORKED",
        "close async None",
        "child 0",
        "parent 2 4",
    ]


def test_where_all_were_closed_before_the_fork_nothing_is_refused() -> None:
    assert _run(_CLOSED) == ["closed CLIENT_CLOSED", "new None", "child 0"]


def test_where_no_client_was_used_before_the_fork_those_of_the_child_work() -> None:
    """As in servers that load what they need before they fork."""
    assert _run(_UNUSED) == ["blocking CLIENT_FORKED", "async 1", "new 1", "child 0"]
