"""What sinks do wrong never reaches an appender, and nothing of it is lost.

Real services over gRPC: drafts go to a ledger, its entries to an anchor, the checkpoints to a
notary, with something in between that misbehaves. Every append must be answered, and in the end the
notary must have cosigned a checkpoint over all of them.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from anchor_svc.opening import open_sinks
from anchor_svc.sinks.cosigner import CosignerSink
from ledger_svc import convert
from notary_svc.signing import Cosigner
from provledger import note
from provledger.api.anchor.v1 import anchor_pb2 as pb
from provledger.api.ledger.v1 import ledger_pb2
from provledger.errors import DataLossError
from provledger.policy import parse_policy
from tests.integration.test_anchor_quorum import _hurry
from tests.integration.test_anchor_service import ANY, Anchor, anchor_on
from tests.support import peers
from tests.support.anchoring import Ledger, TestKeys, check_log, eventually, running_log, submit
from tests.support.chain import START_NS
from tests.support.ledgering import append, draft, ledger_service
from tests.support.notary import NOTARY
from tests.support.tiled import flip

pytestmark = [pytest.mark.timeout(120), pytest.mark.faults]

HOUR_NS = 3600 * 1_000_000_000
DEADLINE_MS = 400


class Notary:
    """`python -m notary_svc` as a process that can be killed and started again at the same port."""

    def __init__(self, folder: Path, log_vkey: str) -> None:
        self._folder = folder
        folder.mkdir()
        policy = folder / "logs.policy"
        policy.write_text(f"log {log_vkey}\nquorum none\n")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        # As its people do: they show the keys, and start it later.
        command = [sys.executable, "-m", "notary_svc", "--vkeys", "--json"]
        shown = subprocess.run(command, env=self._environment(), capture_output=True, check=True)
        self.vkeys: list[str] = json.loads(shown.stdout)["vkeys"]
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def _environment(self) -> dict[str, str]:
        settings = {
            "NAME": NOTARY,
            "DATA_DIR": str(self._folder / "data"),
            "LOGS": str(self._folder / "logs.policy"),
            "PORT": str(self.port),
            "READY_FILE": str(self._folder / "ready"),
        }
        return os.environ | {f"PROVLEDGER_NOTARY_{key}": each for key, each in settings.items()}

    async def start(self) -> None:
        ready = self._folder / "ready"
        ready.unlink(missing_ok=True)
        self._process = subprocess.Popen(  # noqa: ASYNC220 - a moment, in a test
            [sys.executable, "-m", "notary_svc"],
            env=self._environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        await eventually(ready.exists, timeout_s=60)
        assert json.loads(ready.read_text())["port"] == self.port

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def post(self, path: str, body: bytes) -> peers.Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("POST", path, body)
            answer = connection.getresponse()
            media_type = answer.headers["content-type"] or ""
            return answer.status, {"Content-Type": media_type}, answer.read()
        finally:
            connection.close()


@asynccontextmanager
async def stack(tmp_path: Path) -> AsyncIterator[tuple[Any, Anchor, Notary]]:
    """A ledger service, an anchor that it logs to, and a notary that cosigns the log."""
    async with (
        anchor_on(tmp_path, sinks=(), sink_deadline_ms=DEADLINE_MS) as anchor,
        ledger_service(
            f"sqlite:///{tmp_path}/ledger.db",
            anchor=anchor.stub,  # type: ignore[arg-type]
            relay=True,
        ) as service,
    ):
        notary = Notary(tmp_path / "notary", (await anchor.log()).vkey)
        try:
            await notary.start()
            yield service, anchor, notary
        finally:
            notary.kill()


async def cosigned_by(anchor: Anchor, notary: Notary, url: str) -> None:
    """Have the log anchored by this notary, reached at a URL."""
    text = f"witness n {notary.vkeys[0]} {url}\nquorum n\nwithin 10m\nmode fail-closed\n"
    await anchor.ask("SetPolicy", pb.SetPolicyRequest(log=ANY, text=text))


async def append_and_wait(service: Any, count: int, label: str) -> None:
    """Append, a few at once, and wait until the last receipt is anchored, with a cosignature."""
    answers = []
    for start in range(0, count, 5):
        batch = [draft(f"{label}-{start + place}") for place in range(5)]
        answers += await asyncio.gather(*(append(service, item) for item in batch))
    assert [answer.repeated_request for answer in answers] == [False] * count
    last = max((answer.receipt for answer in answers), key=lambda receipt: receipt.seq)
    wanted = ledger_pb2.GetReceiptRequest(
        name=last.name, view=convert.FULL, wait_for=convert.ANCHORED
    )
    async with asyncio.timeout(60):
        receipt = (await service.servicer.GetReceipt(wanted, None)).receipt
    assert receipt.anchor_state == convert.ANCHORED
    assert [item.kind for item in receipt.proofs[0].evidence] == ["tlog-cosignature"]


Fault = Callable[[Notary, str, bytes, threading.Event], "peers.Reply | None"]


def late(notary: Notary, path: str, body: bytes, end: threading.Event) -> peers.Reply | None:
    """It cosigns at once, and answers long after the deadline."""
    reply = notary.post(path, body)
    end.wait(3 * DEADLINE_MS / 1000)
    return reply


def twice(notary: Notary, path: str, body: bytes, end: threading.Event) -> peers.Reply | None:
    """It gets every request twice, and the second answer is what comes back."""
    notary.post(path, body)
    return notary.post(path, body)


def lost(notary: Notary, path: str, body: bytes, end: threading.Event) -> peers.Reply | None:
    """Failed but persisted: it has cosigned, and we never hear of it."""
    notary.post(path, body)
    return None


def garbage(notary: Notary, path: str, body: bytes, end: threading.Event) -> peers.Reply | None:
    return 200, {}, b"\x00\xff garbage \xe2\x80\x94\n" * 50


def larger(notary: Notary, path: str, body: bytes, end: threading.Event) -> peers.Reply | None:
    """It claims to have cosigned more than there is."""
    return 409, {"Content-Type": "text/x.tlog.size"}, b"1000000\n"


def busy(notary: Notary, path: str, body: bytes, end: threading.Event) -> peers.Reply | None:
    return 429, {"Retry-After": "1"}, b""


@pytest.mark.parametrize("fault", [late, twice, lost, garbage, larger, busy])
async def test_misbehaving_notary_reaches_no_appender(tmp_path: Path, fault: Fault) -> None:
    end = threading.Event()
    left = 3

    def answer(path: str, body: bytes) -> peers.Reply | None:
        nonlocal left
        if left:
            left -= 1
            return fault(notary, path, body, end)
        return notary.post(path, body)

    with peers.scripted(answer) as server:
        try:
            async with stack(tmp_path) as (service, anchor, notary):
                await cosigned_by(anchor, notary, server.url)
                await append_and_wait(service, 20, "draft")
                assert left == 0
                await append_and_wait(service, 5, "after")
        finally:
            end.set()


async def test_notary_killed_in_the_middle_of_a_load(tmp_path: Path) -> None:
    async with stack(tmp_path) as (service, anchor, notary):
        await cosigned_by(anchor, notary, notary.url)
        await append_and_wait(service, 5, "before")
        load = asyncio.create_task(append_and_wait(service, 60, "during"))
        await asyncio.sleep(0)
        notary.kill()
        # Another one waits until the notary is there again; its receipts are answered before.
        for number in range(20):
            await append(service, draft(f"away-{number}"))
        await notary.start()
        await load
        await append_and_wait(service, 5, "after")


async def test_bit_flipped_in_a_tile_reaches_no_appender(database_url: str, tmp_path: Path) -> None:
    """Entries are logged, and proven where it is not needed; what needs it is DATA_LOSS."""
    keys, ledger = TestKeys(), Ledger()
    ledger.grow(900)
    async with running_log(database_url, tmp_path, keys=keys) as log:
        await submit(log, ledger, 0, 300)
        tile = log.store.root / "tile/0/000"
        whole = tile.read_bytes()
        tile.write_bytes(flip(whole, 40))
        for start in range(300, 900, 200):
            assert (await submit(log, ledger, start, start + 200)).tree_size == start + 201
            assert (await log.reader.inclusion(start + 10, 0)).checkpoint.size == start + 201
            with pytest.raises(DataLossError) as caught:
                await log.reader.inclusion(7, 0)
            assert caught.value.metadata["tile"] == "tile/0/000"
        tile.write_bytes(whole)
        assert (await log.reader.inclusion(7, 0)).checkpoint.size == 901
        await check_log(log, [ledger], keys)


@pytest.mark.parametrize("jump_ns", [HOUR_NS, -HOUR_NS])
async def test_clock_an_hour_off_delays_and_loses_nothing(tmp_path: Path, jump_ns: int) -> None:
    """A wrong clock can break a promise for a while, never a log."""
    now_ns = START_NS
    keys, ledger = TestKeys(), Ledger()
    text = f"sink copy file://{tmp_path}/copy\nquorum copy\nwithin 10m\nmode fail-closed\n"
    policy = parse_policy(text.encode())
    options: dict[str, Any] = {
        "keys": keys,
        "policy": policy,
        "clock": lambda: now_ns,
        "background": True,
        "prepare": _hurry,
    }
    url = f"sqlite:///{tmp_path}/log.db"
    for _ in range(2):
        async with running_log(url, tmp_path, sinks=open_sinks([], policy), **options) as log:
            for _ in range(2):
                start = len(ledger.entries)
                ledger.grow(3)
                await submit(log, ledger, start)
                now_ns += jump_ns
                size = log.state.signed_size
                await eventually(lambda log=log, size=size: log.state.anchored_size == size)  # type: ignore[misc]
                await log.overdue.look()
                assert not log.state.promise().overdue
            await check_log(log, [ledger], keys)


async def test_notary_whose_clock_is_off_is_believed_by_its_signature(tmp_path: Path) -> None:
    """Whether a cosignature's time is plausible is for whoever relies on it to say."""
    keys = TestKeys()
    cosigner_dir = tmp_path / "cosigner"
    cosigner_dir.mkdir()
    cosigner = Cosigner.open(NOTARY, cosigner_dir)
    off_s = START_NS // 1_000_000_000 - 3600

    def answer(path: str, body: bytes) -> peers.Reply:
        text = note.parse(body.partition(b"\n\n")[2]).text
        return 200, {}, b"".join(cosigner.cosign(text, off_s))

    with peers.scripted(answer) as server:
        trusted = [note.parse_vkey(vkey) for vkey in cosigner.vkeys]
        sink = CosignerSink("cosigner:test", server.url, trusted)
        options: dict[str, Any] = {"keys": keys, "background": True, "prepare": _hurry}
        ledger = Ledger()
        ledger.grow(3)
        async with running_log(
            f"sqlite:///{tmp_path}/log.db", tmp_path, sinks=[sink], **options
        ) as log:
            await submit(log, ledger)
            await eventually(lambda: log.state.anchored_size == 4)
            (row,) = (await log.reader.inclusion(1, 4)).evidence
            times = [item.timestamp_unix_s for item in note.open(row.evidence, trusted).signatures]
            assert times == [off_s, off_s]
