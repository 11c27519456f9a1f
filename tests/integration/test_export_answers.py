"""`export` against a ledger service that answers with something else than the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
import typer
from typer.testing import CliRunner

from provledger.api.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from provledger.errors import InternalError
from provledger.export import ExportHeader
from provledger_cli.connect import Remote, Target
from provledger_cli.embedded.datadir import DataDir
from provledger_cli.failures import COULD_NOT_TELL, CommandError
from provledger_cli.transfer import exporting
from provledger_cli.transfer.exporting import Exported, Plan
from provledger_cli.verbs import export as verb
from provledger_cli.verbs.export import _export
from provledger_cli.verifying.receipt_files import receipts_of
from tests.inmem.anchor import InMemoryAnchor
from tests.support.ledgering import LEDGER, append, create_ledger, draft, ledger_service

OTHER = "tenants/evil/ledgers/main"


class Front:
    """A true service, whose questions and answers are changed on the way."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.head_of = ""
        self.listing: Callable[[list[Any]], list[Any]] = lambda receipts: receipts
        self.listed = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def GetLedger(self, request: Any, context: Any) -> Any:
        return await self._real.GetLedger(request, None)

    async def GetHead(self, request: Any, context: Any) -> Any:
        request.name = self.head_of or request.name
        return await self._real.GetHead(request, None)

    async def ListReceipts(self, request: Any, context: Any) -> Any:
        self.listed += 1
        answer = await self._real.ListReceipts(request, None)
        return ledger_pb2.ListReceiptsResponse(
            receipts=self.listing(list(answer.receipts)), tree_size=answer.tree_size
        )


async def _logged(service: Any, ledger: str, seq: int) -> None:
    async with asyncio.timeout(30):
        request = ledger_pb2.GetLedgerRequest(name=ledger)
        while (await service.servicer.GetLedger(request, None)).ledger.logged_seq < seq:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[Front, Target]]:
    url = f"sqlite:///{tmp_path}/ledger.sqlite3"
    async with ledger_service(url, anchor=InMemoryAnchor(), relay=True) as service:
        await create_ledger(service, OTHER)
        for ledger in (LEDGER, OTHER):
            for number in range(4):
                await append(service, draft(f"r{number}"), ledger=ledger)
            await _logged(service, ledger, 4)
        front = Front(service.servicer)
        server = grpc.aio.server()
        ledger_pb2_grpc.add_LedgerServiceServicer_to_server(front, server)  # type: ignore[arg-type]
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            where = {"ledger": f"127.0.0.1:{port}"}
            yield front, Target(DataDir.at(tmp_path / "none"), where, False)
        finally:
            await server.stop(None)


async def export_to(where: Target, out: Path, key_ledger: bool | None = False) -> Exported:
    done, _ = await _export(where, LEDGER, out, 0.0, 30.0, 0, [], key_ledger)
    return done


async def test_what_is_the_ledger_is_exported(served: tuple[Front, Target], tmp_path: Path) -> None:
    assert (await export_to(served[1], tmp_path / "x.ndjson")).receipts == 5


@pytest.mark.parametrize(("key_ledger", "told"), [(None, True), (False, False)])
async def test_a_key_ledger_that_is_left_out_is_told(
    served: tuple[Front, Target],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    key_ledger: bool | None,
    told: bool,
) -> None:
    """The anchor, which would say up to where it goes, is not known here."""
    assert (await export_to(served[1], tmp_path / "x.ndjson", key_ledger)).key_events == 0
    talk = " ".join(capsys.readouterr().err.split())
    assert "no earlier ones are proved" in talk
    assert ("the key ledger is left out: verify needs --keys" in talk) is told


async def test_a_key_ledger_that_was_asked_for_is_not_left_out(
    served: tuple[Front, Target], tmp_path: Path
) -> None:
    with pytest.raises(CommandError, match="the key ledger cannot be put in") as caught:
        await export_to(served[1], tmp_path / "x.ndjson", key_ledger=True)
    assert caught.value.exit_code == COULD_NOT_TELL
    assert "anchor=HOST:PORT" in caught.value.hint
    assert not (tmp_path / "x.ndjson").exists()


async def test_a_receipt_listed_twice_for_another_is_not_an_export(
    served: tuple[Front, Target], tmp_path: Path
) -> None:
    front, where = served
    front.listing = lambda receipts: receipts[:1] + receipts[:-1]
    with pytest.raises(InternalError, match="seq 0 is listed where 1 should be"):
        await export_to(where, tmp_path / "x.ndjson")
    assert not (tmp_path / "x.ndjson").exists()


async def test_the_head_of_another_ledger_is_not_exported(
    served: tuple[Front, Target], tmp_path: Path
) -> None:
    front, where = served
    front.head_of = OTHER
    with pytest.raises(InternalError, match=f"the head is not that of {LEDGER}"):
        await export_to(where, tmp_path / "x.ndjson")
    assert not (tmp_path / "x.ndjson").exists()


def unproved(receipts: list[Any]) -> list[Any]:
    """As a service of before shows them while the anchor does not answer."""
    receipts[2].ClearField("proofs")
    return receipts


def proved_elsewhere(receipts: list[Any]) -> list[Any]:
    """As they were against another tree."""
    proof = receipts[2].proofs[0]
    origin, size, rest = proof.checkpoint.split(b"\n", 2)
    proof.checkpoint = b"%b\n%d\n%b" % (origin, int(size) + 1, rest)
    return receipts


@pytest.mark.parametrize("spoil", [unproved, proved_elsewhere])
async def test_receipts_that_are_not_proved_are_not_an_export(
    served: tuple[Front, Target],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[list[Any]], list[Any]],
) -> None:
    monkeypatch.setattr(exporting, "_PROOF_WAITS_S", (0.0, 0.0))
    front, where = served
    front.listing = spoil
    with pytest.raises(CommandError, match="without a proof to the checkpoint of size") as caught:
        await export_to(where, tmp_path / "x.ndjson")
    assert caught.value.exit_code == COULD_NOT_TELL
    assert front.listed == 3
    assert not (tmp_path / "x.ndjson").exists()


async def test_a_page_that_is_not_proved_is_asked_for_again(
    served: tuple[Front, Target], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_PROOF_WAITS_S", (0.0, 0.0))
    front, where = served
    front.listing = lambda receipts: unproved(receipts) if front.listed == 1 else receipts
    assert (await export_to(where, tmp_path / "x.ndjson")).receipts == 5
    assert front.listed == 2
    assert all(receipt.proofs for receipt in receipts_of(tmp_path / "x.ndjson"))


async def test_an_archive_has_what_the_log_lost(
    served: tuple[Front, Target], tmp_path: Path
) -> None:
    """Of a copy that is older than the log nothing is kept back."""
    front, where = served
    async with Remote(where) as remote:
        plan = await exporting.prepare(remote, LEDGER, wait_s=0.0, key_ledger=False)
        front.listing = unproved
        archive = replace(plan, head=None)
        done = await exporting.write_export(remote, archive, tmp_path / "x.ndjson")
    assert (done.receipts, front.listed) == (5, 1)


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_head_that_was_asked_for_and_is_not_signed_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, more: tuple[str, ...]
) -> None:
    """Whoever keeps heads elsewhere would take the one of before for that of this export."""

    async def archive(*_: Any) -> tuple[Exported, Plan]:
        header = ExportHeader(LEDGER, bytes(16), "blake3", "log.test/0", 5, 1)
        return Exported(LEDGER, 5, 5, 0, 0, 4, 100, 0.1), Plan(header, 4, None, b"note", ())

    monkeypatch.setattr(verb, "_export", archive)
    app = typer.Typer()
    app.command()(verb.export)
    head, note = tmp_path / "head.json", tmp_path / "x.checkpoint"
    head.write_bytes(b"before")
    given = ["--tenant", "acme", "--out", f"{tmp_path}/x", "--checkpoint-out", str(note), *more]
    given += ["--endpoint", "127.0.0.1:1"]
    result = CliRunner().invoke(app, [*given, "--head-out", str(head)])
    assert isinstance(result.exception, CommandError)
    assert result.exception.exit_code == COULD_NOT_TELL
    assert f"{head} was not written" in result.exception.message
    assert (head.read_bytes(), note.read_bytes()) == (b"before", b"note")
    assert CliRunner().invoke(app, given).exit_code == 0
