"""A rotation in the midst of signing: every span that signs carries the kid of its signature."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from anchor_svc import committer
from provledger import dsse, note, telemetry, witness_batch
from provledger.keyring import ActiveSigner
from provledger.keyset import KeyPurpose
from tests.integration.test_keys_svc import TIMEOUT_S, keys_on
from tests.support.anchoring import Ledger, MemorySigner, TestKeys, running_log, submit
from witness_svc.signing import BatchSigner, SignedBatch


@contextmanager
def exported_spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    tracer = TracerProvider(shutdown_on_exit=False)
    tracer.add_span_processor(SimpleSpanProcessor(exporter))
    telemetry.use(tracer, MeterProvider(shutdown_on_exit=False))
    try:
        yield exporter
    finally:
        telemetry.shutdown()


async def test_spans_carry_the_kid_of_the_signature_they_made(tmp_path: Path) -> None:
    with exported_spans() as exporter:
        async with keys_on(f"sqlite:///{tmp_path / 'keys.sqlite3'}", tmp_path) as keys:
            await keys.create(**keys.make("witness-1"))
            ring = keys.ring()
            await ring.start()
            await ring.wait_for("witness", TIMEOUT_S)
            signer = BatchSigner(
                ring, clock=time.time_ns, max_statements=100, max_queued_statements=1000
            )
            batches: list[SignedBatch] = []

            async def sign_until(kid: str) -> None:
                async with asyncio.timeout(TIMEOUT_S):
                    while not batches or batches[-1].kid != kid:
                        batch, _ = await signer.sign("blake3", [bytes([len(batches) % 256]) * 32])
                        batches.append(batch)

            await sign_until("witness-1")
            for kid in ("witness-2", "witness-3"):
                signing = asyncio.create_task(sign_until(kid))
                await keys.rotate(**keys.make(kid))
                await signing
            published = {key.kid: key for key in await keys.jwks()}
            await signer.close()
            await ring.close()
    spans = [span for span in exporter.get_finished_spans() if span.name == "witness.sign"]
    assert len(spans) == len(batches)
    # One signature at a time, so that spans end in the order of the batches.
    for span, batch in zip(spans, batches, strict=True):
        body = witness_batch.parse_body(batch.body)
        assert (span.attributes or {})[telemetry.KID] == body.kid == batch.kid
        published[body.kid].verify(batch.sig, dsse.pae(witness_batch.PAYLOAD_TYPE, batch.body))
    assert {batch.kid for batch in batches} == {"witness-1", "witness-2", "witness-3"}


class OverlappingKeys(TestKeys):
    """The checkpoint key, and one that it replaced, which may take for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.old = MemorySigner("checkpoint-0")

    def all_current(self, purpose: KeyPurpose) -> tuple[ActiveSigner, ...]:
        current = self.current(purpose)
        old = replace(current, kid="checkpoint-0", signer=self.old, public_key=self.old.public_key)
        return current, old


class HangingSigner(MemorySigner):
    async def sign(self, message: bytes) -> bytes:
        await asyncio.Event().wait()
        return b""


async def test_in_an_overlap_each_signature_has_its_span(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replaced key that hangs holds no flush up for long, and takes nothing along."""
    monkeypatch.setattr(committer, "OVERLAP_TIMEOUT_S", 0.1)
    keys, ledger = OverlappingKeys(), Ledger()
    with exported_spans() as exporter:
        url = f"sqlite:///{tmp_path / 'anchor.sqlite3'}"
        async with running_log(url, tmp_path, keys=keys) as log:
            ledger.grow(3)
            size = (await submit(log, ledger)).tree_size
            signed = (await log.reader.checkpoint(size)).note
            await log.reader.ledger_head(ledger.uid, 0)
            keys.old = HangingSigner("checkpoint-0")
            ledger.grow(3)
            later = (await submit(log, ledger, 3)).tree_size
            alone = (await log.reader.checkpoint(later)).note
    lines = [note.parse(each).signatures for each in (signed, alone)]
    assert [len(each) for each in lines] == [2, 1]
    spans = [(s.name, (s.attributes or {})[telemetry.KID]) for s in exporter.get_finished_spans()
             if s.name.endswith(".sign")]  # fmt: skip
    assert set(spans) == {
        ("checkpoint.sign", "checkpoint-1"),
        ("checkpoint.sign", "checkpoint-0"),
        ("head.sign", "head-1"),
    }
    for signer, line in zip(
        (keys.signers[KeyPurpose.CHECKPOINT], MemorySigner("checkpoint-0")), lines[0], strict=True
    ):
        raw = signer.public_key.public_bytes_raw()
        assert line.note_key_id == note.note_key_id(log.identity.origin, 1, raw)
