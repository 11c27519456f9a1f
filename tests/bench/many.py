"""A thousand ledgers, through the ledger service, on one log of a real anchor.

Each is made and gets one receipt; then the log is anchored as a whole, and receipts of a sample are
verified with the public keys alone. The ledger service runs in this process with a witness in
memory; keys and anchor are asked over gRPC.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ledger_svc import convert
from provledger.api.ledger.v1 import ledger_pb2
from provledger.client.convert import receipt_from_pb
from provledger.keyset import KeyPurpose, KeySet, VerificationKey
from provledger.verify import verify_receipt
from tests.inmem.witness import InMemoryWitness
from tests.integration.test_anchor_service import Anchor, anchor_on
from tests.support.ledgering import append, create_ledger, draft, ledger_service

LEDGERS = 1000
TENANTS = 40
SAMPLE = 20
IN_FLIGHT = 64
TIMEOUT_S = 300.0


async def run(folder: Path, url: str | None, *, ledgers: int = LEDGERS) -> dict[str, Any]:
    """Make them, append, wait, verify; None for SQLite. Raises if anything is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    url = url or f"sqlite:///{folder}/ledger.sqlite3"
    names = [f"tenants/t{number % TENANTS}/ledgers/l{number}" for number in range(ledgers)]
    witness = InMemoryWitness()
    async with (
        anchor_on(folder) as anchor,
        ledger_service(url, witness, anchor.stub, relay=True, create=False) as service,  # type: ignore[arg-type]
    ):
        started_s = time.perf_counter()
        made = await _in_flight(lambda name: create_ledger(service, name), names)
        created_s = time.perf_counter()
        answers = await _in_flight(lambda name: append(service, draft(name), ledger=name), names)
        appended_s = time.perf_counter()
        # The log's own first entry, and of each ledger its genesis and one receipt.
        size = 1 + 2 * ledgers
        await _until_anchored(anchor, size)
        anchored_s = time.perf_counter()
        log = await anchor.log()
        assert log.tree_size == size, log.tree_size
        assert {ledger.log_origin for ledger in made} == {log.origin}
        keys = _key_set(folder, witness)
        places: set[int] = set()
        for answer in answers[:: max(1, ledgers // SAMPLE)]:
            wanted = ledger_pb2.GetReceiptRequest(
                name=answer.receipt.name, view=convert.FULL, wait_for=convert.ANCHORED
            )
            receipt = receipt_from_pb((await service.servicer.GetReceipt(wanted, None)).receipt)
            report = verify_receipt(receipt, keys)
            assert report.status == "verified", report
            places.update(proof.log_index for proof in receipt.proofs if proof.log_index)
        assert len(places) == len(answers[:: max(1, ledgers // SAMPLE)])
    return {
        "ledgers": ledgers,
        "made_per_s": round(ledgers / (created_s - started_s)),
        "appends_per_s": round(ledgers / (appended_s - created_s)),
        "anchored_after_s": round(anchored_s - appended_s, 2),
        "verified": len(places),
    }


async def _in_flight(work: Callable[[str], Awaitable[Any]], names: Iterable[str]) -> list[Any]:
    """Do the work for all, so many at once; results in order."""
    limit = asyncio.Semaphore(IN_FLIGHT)

    async def one(name: str) -> Any:
        async with limit:
            return await work(name)

    return await asyncio.gather(*map(one, names))


async def _until_anchored(anchor: Anchor, size: int) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while (await anchor.log()).anchored_size < size:  # noqa: ASYNC110 - over gRPC
            await asyncio.sleep(0.02)


def _key_set(directory: Path, witness: InMemoryWitness) -> KeySet:
    """The witness's key, and the anchor's from its file."""
    pem = (directory / "checkpoint-1.pem").read_bytes()
    public_key: Any = load_pem_private_key(pem, None).public_key()
    checkpoint = VerificationKey.from_public_key(
        public_key, kid="checkpoint-1", purpose=KeyPurpose.CHECKPOINT
    )
    own = VerificationKey.from_public_key(
        witness.public_key, kid=witness.kid, purpose=KeyPurpose.WITNESS
    )
    return KeySet([own, checkpoint])
