"""What a cosigner is believed of what it holds: its cosignature, and not that something answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anchor_svc.sinks import PublishedCheckpoint, SinkError, SinkIntegrityError
from anchor_svc.sinks.cosigner import CosignerSink
from notary_svc.signing import Cosigner
from provledger import note
from tests.conformance.sink_suite import LOG, published
from tests.integration.test_anchor_restored import grown, mark, sink
from tests.support import peers
from tests.support.anchoring import (
    Ledger,
    TestKeys,
    eventually,
    log_vkey,
    running_log,
    submit,
)
from tests.support.notary import NOTARY, running_notary

pytestmark = pytest.mark.timeout(60)

PAGE = b"<html>Welcome to nginx!</html>"
TOLD = {"Content-Type": "text/x.tlog.size"}


@pytest.fixture
def cosigner(tmp_path: Path) -> Cosigner:
    (tmp_path / "cosigner").mkdir()
    return Cosigner.open(NOTARY, tmp_path / "cosigner")


def cosign(cosigner: Cosigner, size: int = 7, at_unix_s: int = 1) -> bytes:
    return b"".join(cosigner.cosign(note.parse(LOG.checkpoint(size)).text, at_unix_s))


async def holds(
    cosigner: Cosigner, answer: Callable[[bytes], peers.Reply], checkpoint: PublishedCheckpoint
) -> tuple[bool, list[bytes]]:
    """What a cosigner says that answers so, and what it was sent."""
    with peers.scripted(lambda path, body: answer(body)) as server:
        keys = [note.parse_vkey(vkey) for vkey in cosigner.vkeys]
        asked = CosignerSink("cosigner:test", server.url, keys)
        try:
            return await asked.holds(checkpoint), list(server.requests)
        finally:
            await asked.close()


@pytest.mark.parametrize("told", [None, b"4\n"])
@pytest.mark.parametrize("what", ["page", "nothing", "wrong", "other", "larger", "no time"])
async def test_an_answer_without_a_cosignature_says_nothing(
    tmp_path: Path, cosigner: Cosigner, what: str, told: bytes | None
) -> None:
    """At once, or after it has said that it cosigned a smaller one."""
    (tmp_path / "other").mkdir()
    body = {
        "page": PAGE,
        "nothing": b"",
        "wrong": note.signature_line(NOTARY, sorted(cosigner.names)[0][1], bytes(72)),
        "other": cosign(Cosigner.open("other.test", tmp_path / "other")),
        "larger": cosign(cosigner, 8),
        "no time": cosign(cosigner, at_unix_s=0),
    }[what]

    def answer(request: bytes) -> peers.Reply:
        if told is not None and request.startswith(b"old 7\n"):
            return 409, TOLD, told
        return 200, {}, body

    with pytest.raises(SinkError) as caught:
        await holds(cosigner, answer, published(7))
    assert type(caught.value) is SinkError


async def test_a_cosigner_that_is_behind_proves_it_with_a_cosignature(cosigner: Cosigner) -> None:
    def answer(request: bytes) -> peers.Reply:
        if request.startswith(b"old 4\n"):
            return 200, {}, cosign(cosigner)
        return 409, TOLD, b"4\n"

    held, requests = await holds(cosigner, answer, published(7))
    assert held
    assert requests[1].count(b"\n") > requests[0].count(b"\n"), "no proof"


async def test_what_keeps_saying_a_size_says_nothing(cosigner: Cosigner) -> None:
    with pytest.raises(SinkError) as caught:
        await holds(cosigner, lambda request: (409, TOLD, b"4\n"), published(7))
    assert type(caught.value) is SinkError
    assert await holds(cosigner, lambda request: (409, TOLD, b"0\n"), published(7)) == (
        False,
        [LOG.request(7, 7)],
    )


async def test_another_history_at_the_size_that_it_says_is_an_alarm(cosigner: Cosigner) -> None:
    def answer(request: bytes) -> peers.Reply:
        return (422, {}, b"") if request.startswith(b"old 4\n") else (409, TOLD, b"4\n")

    with pytest.raises(SinkIntegrityError, match="size 4"):
        await holds(cosigner, answer, published(7))


async def test_a_restored_log_is_not_let_go_by_a_web_server(
    tmp_path: Path, cosigner: Cosigner
) -> None:
    """A proxy that was put in front, or the default page of a machine that took the address."""
    ledger, url = Ledger(), f"sqlite:///{tmp_path}/log.db"
    await grown(url, tmp_path, ledger, tmp_path / "sink")
    marker = mark(tmp_path)
    with peers.scripted(lambda path, body: (200, {}, PAGE)) as server:
        keys = [note.parse_vkey(vkey) for vkey in cosigner.vkeys]
        places = [CosignerSink("cosigner:test", server.url, keys)]
        async with running_log(url, tmp_path, sinks=places, background=True) as log:
            await eventually(lambda: "no cosignature" in str(log.state.held))
            assert getattr(log.state.held, "reason", "") == "RESTORE_NOT_CONFIRMED"
    assert marker.exists()


async def test_a_restored_log_is_let_go_by_a_cosigner_that_is_behind(tmp_path: Path) -> None:
    """The last checkpoint was published, and had not come to the cosigner, when it was copied."""
    ledger, keys, url = Ledger(), TestKeys(), f"sqlite:///{tmp_path}/log.db"
    await grown(url, tmp_path, ledger, tmp_path / "sink")
    async with running_log(url, tmp_path, keys=keys) as log:
        known: Any = [type("Known", (), {"vkey": log_vkey(log, keys)})]
    async with running_notary(tmp_path / "notary", known) as address:
        vkeys = Cosigner.open(NOTARY, tmp_path / "notary" / "data").vkeys

        def places() -> list[Any]:
            trusted = [note.parse_vkey(vkey) for vkey in vkeys]
            return [CosignerSink("cosigner:test", f"http://{address}", trusted)]

        async with running_log(url, tmp_path, sinks=places(), background=True) as log:
            await eventually(lambda: log.state.anchored_size == 21)
        async with running_log(url, tmp_path, sinks=[sink(tmp_path / "sink")]) as log:
            ledger.grow(5)
            await submit(log, ledger, 20)
            await log.publisher.publish(log.state.signed_view())
        marker = mark(tmp_path)
        async with running_log(url, tmp_path, sinks=places(), background=True) as log:
            assert log.state.held is not None
            await eventually(lambda: log.state.held is None and not marker.exists())
            await eventually(lambda: log.state.anchored_size == 26)
