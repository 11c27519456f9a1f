"""`get` and `refresh` while the anchor does not answer: a receipt comes without its proof.

What is held is evidence, and no reason to say that a receipt is not in the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
import typer
from typer.testing import CliRunner

from provledger import checkpoint as checkpoints
from provledger import note as notes
from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from provledger.client.convert import receipt_from_pb
from provledger.errors import UnavailableError
from provledger.receipt import Receipt
from provledger_cli.connect import Remote, Target
from provledger_cli.embedded.datadir import DataDir
from provledger_cli.failures import COULD_NOT_TELL, DOES_NOT_HOLD, CommandError
from provledger_cli.verbs.get import get
from provledger_cli.verbs.refresh import _refresh_receipt
from provledger_cli.verifying.receipt_files import receipts_of
from provledger_cli.verifying.receipts import proven_against
from tests.inmem.anchor import InMemoryAnchor
from tests.support.chain import sample_chain
from tests.support.ledgering import LEDGER, append, draft, ledger_service

LOGGED = common_pb2.ANCHOR_STATE_LOGGED


class Before:
    """A service that answers for a named tree without proofs too, as those of before did."""

    def __init__(self, real: Any, anchor: InMemoryAnchor) -> None:
        self._real, self._anchor = real, anchor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def GetReceipt(self, request: Any, context: Any) -> Any:
        return await self._real.GetReceipt(request, None)

    async def GetLedger(self, request: Any, context: Any) -> Any:
        return await self._real.GetLedger(request, None)

    async def ListReceipts(self, request: Any, context: Any) -> Any:
        if self._anchor.faults.before is not None:
            request.tree_size = 0
        return await self._real.ListReceipts(request, None)


@dataclass
class Served:
    anchor: InMemoryAnchor
    where: Target
    # With its proof; the file of it is `r.json`.
    receipt: Receipt
    file: Path

    def take_anchor(self) -> None:
        def away(method: str, request: object) -> None:
            if method == "BatchGetInclusionProofs":
                raise UnavailableError("DOWN", "away")

        self.anchor.faults.before = away

    async def get(self, *options: str) -> Any:
        """What becomes of `provledger get`, which has an event loop of its own."""
        app = typer.Typer()
        app.command()(get)
        given = [*options, "--endpoint", self.where.addresses["ledger"]]
        return await asyncio.to_thread(CliRunner().invoke, app, given)

    async def against(self, signed: bytes, receipt: Receipt | None = None) -> Receipt:
        async with Remote(self.where) as remote:
            return await proven_against(remote, receipt or self.receipt, signed)


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    anchor = InMemoryAnchor()
    url = f"sqlite:///{tmp_path}/ledger.sqlite3"
    async with ledger_service(url, anchor=anchor, relay=True) as service:
        name = (await append(service, draft("r1"))).receipt.name
        request = ledger_pb2.GetReceiptRequest(name=name, wait_for=LOGGED)
        receipt = receipt_from_pb((await service.servicer.GetReceipt(request, None)).receipt)
        file = tmp_path / "r.json"
        file.write_bytes(receipt.encode() + b"\n")
        server = grpc.aio.server()
        front: Any = Before(service.servicer, anchor)
        ledger_pb2_grpc.add_LedgerServiceServicer_to_server(front, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            where = Target(DataDir.at(tmp_path / "none"), {"ledger": f"127.0.0.1:{port}"}, False)
            yield Served(anchor, where, receipt, file)
        finally:
            await server.stop(None)


def size_of(receipt: Receipt) -> int:
    return checkpoints.parse(notes.parse(receipt.proofs[0].checkpoint).text).size


async def test_a_held_proof_is_not_replaced_by_none(served: Served) -> None:
    held = served.file.read_bytes()
    served.take_anchor()
    result = await served.get(str(served.file), "--out", str(served.file))
    assert isinstance(result.exception, CommandError)
    assert result.exception.exit_code == COULD_NOT_TELL
    assert served.file.read_bytes() == held
    served.anchor.faults.before = None
    assert (await served.get(str(served.file), "--out", str(served.file))).exit_code == 0
    (fetched,) = receipts_of(served.file)
    assert size_of(fetched) == size_of(served.receipt)


async def test_a_receipt_that_never_had_a_proof_is_fetched_all_the_same(served: Served) -> None:
    served.file.write_bytes(replace(served.receipt, proofs=()).encode())
    served.take_anchor()
    assert (await served.get(str(served.file), "--out", str(served.file))).exit_code == 0


async def test_what_is_logged_is_not_said_to_be_no_more_than_pending(served: Served) -> None:
    served.take_anchor()
    shown = (await served.get(served.receipt.name)).output
    assert "the anchor gave no proof" in shown
    assert "not yet" not in shown
    with pytest.raises(CommandError, match="though it is logged"):
        await _refresh_receipt(served.where, served.file, served.file, None, 30.0)


async def test_whether_a_checkpoint_covers_a_receipt_is_not_told_without_a_proof(
    served: Served,
) -> None:
    signed = served.receipt.proofs[0].checkpoint
    assert (await served.against(signed)).proofs[0].checkpoint == signed
    served.take_anchor()
    with pytest.raises(CommandError, match="could not be told") as caught:
        await served.against(signed)
    assert caught.value.exit_code == COULD_NOT_TELL
    with pytest.raises(CommandError, match="though it is logged"):
        await served.against(signed, replace(served.receipt, proofs=()))


async def test_a_checkpoint_from_before_the_receipt_does_not_cover_it(served: Served) -> None:
    size = served.receipt.proofs[0].log_index
    with pytest.raises(CommandError, match="it was logged later"):
        await served.against(served.anchor.checkpoint(size))


async def test_a_checkpoint_of_another_history_does_not_hold(served: Served) -> None:
    size = size_of(served.receipt)
    text = checkpoints.format(served.anchor.origin, size, bytes(32))
    line = notes.signature_line(served.anchor.origin, bytes(4), bytes(64))
    with pytest.raises(CommandError, match="not the one in that checkpoint") as caught:
        await served.against(notes.format_note(text, [line]))
    assert caught.value.exit_code == DOES_NOT_HOLD


@pytest.mark.parametrize("proved", [True, False])
async def test_a_checkpoint_of_another_log_is_told(served: Served, proved: bool) -> None:
    receipt = served.receipt if proved else replace(served.receipt, proofs=())
    with pytest.raises(CommandError, match="of another log") as caught:
        await served.against(sample_chain().checkpoint(2), receipt)
    assert caught.value.exit_code == COULD_NOT_TELL
    assert LEDGER in receipt.name
