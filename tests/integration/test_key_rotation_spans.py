"""A rotation in the midst of signing: every span that signs carries the kid of its signature."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from provledger import dsse, telemetry, witness_batch
from tests.integration.test_keys_svc import TIMEOUT_S, keys_on
from witness_svc.signing import BatchSigner, SignedBatch


async def test_spans_carry_the_kid_of_the_signature_they_made(tmp_path: Path) -> None:
    exporter = InMemorySpanExporter()
    tracer = TracerProvider(shutdown_on_exit=False)
    tracer.add_span_processor(SimpleSpanProcessor(exporter))
    telemetry.use(tracer, MeterProvider(shutdown_on_exit=False))
    try:
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
    finally:
        telemetry.shutdown()
    spans = [span for span in exporter.get_finished_spans() if span.name == "witness.sign"]
    assert len(spans) == len(batches)
    # One signature at a time, so that spans end in the order of the batches.
    for span, batch in zip(spans, batches, strict=True):
        body = witness_batch.parse_body(batch.body)
        assert (span.attributes or {})[telemetry.KID] == body.kid == batch.kid
        published[body.kid].verify(batch.sig, dsse.pae(witness_batch.PAYLOAD_TYPE, batch.body))
    assert {batch.kid for batch in batches} == {"witness-1", "witness-2", "witness-3"}
