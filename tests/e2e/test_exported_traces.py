"""Traces as a collector gets them: through rotations, every span carries the kid it signed with."""

from __future__ import annotations

import asyncio
import base64
from collections import defaultdict
from collections.abc import Iterator

import pytest

from provledger import note, witness_batch
from provledger.api.anchor.v1 import anchor_pb2, anchor_pb2_grpc
from provledger.keyset import KeyPurpose, KeySet
from provledger.rpc.channel import channel
from provledger.telemetry import KID
from tests.e2e.commands import Installation, exported
from tests.e2e.steady import Load, address_of, append_steadily, verify_all
from tests.support.otlp import Collector, ExportedSpan, collecting


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


async def signatures_by_size(own: Installation, sizes: set[int]) -> dict[int, list[str]]:
    """Who signed the checkpoint of each size, by kid, out of the notes themselves."""
    keys = KeySet.parse((own.work / "j.json").read_bytes()).for_purpose(KeyPurpose.CHECKPOINT)
    found = {}
    async with channel(address_of(own, "anchor")) as opened:
        stub = anchor_pb2_grpc.AnchorServiceStub(opened)
        for size in sizes:
            request = anchor_pb2.GetCheckpointRequest(log="logs/-", tree_size=size)
            signed = (await stub.GetCheckpoint(request, timeout=10.0)).checkpoint
            parsed = note.parse(signed)
            origin = parsed.text.partition(b"\n")[0].decode()
            kids = {note.parse_vkey(key.vkey(origin)).note_key_id: key.kid for key in keys}
            found[size] = [kids[line.note_key_id] for line in parsed.signatures]
    return found


@pytest.mark.timeout(240)
async def test_every_exported_span_carries_the_kid_of_its_signature(
    own: Installation, collector: Collector
) -> None:
    """Services of their own, 500 appends a second, three rotations, and a collector over OTLP."""
    own.settings |= {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "OTEL_EXPORTER_OTLP_INSECURE": "true",
        # The spans of the calls are not of interest, and nothing may be dropped.
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "1.0",
        "OTEL_BSP_MAX_QUEUE_SIZE": "200000",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    own.run("up")
    load, stop = Load(), asyncio.Event()
    appending = asyncio.create_task(append_steadily(address_of(own, "ledger"), load, stop))
    for kid, purpose in (("w2", "witness"), ("c2", "checkpoint"), ("w3", "witness")):
        rotate = ("keys", "rotate", "--kid", kid, "--purpose", purpose, "--no-probe")
        await asyncio.to_thread(own.run, *rotate)
    await asyncio.sleep(0.3)  # some more under the last key
    stop.set()
    await appending
    assert load.failed == []
    await asyncio.to_thread(own.run, "status", "--wait", "60")
    # Exports, and verifies every receipt by the key ledger.
    assert await asyncio.to_thread(verify_all, own, "load") == {"witness-1", "w2", "w3"}
    receipts = exported(own.work / "x.ndjson")
    assert len(receipts) == len(load.done_s) + 1  # and the ledger's genesis
    pending = {
        int(str(s.attributes["provledger.tree_size"])) for s in collector.named("checkpoint.sign")
    }
    signed = await signatures_by_size(own, pending)
    await asyncio.to_thread(own.run, "down")  # what is not exported yet, is now

    # Receipts: the batch's root leads from a signature to its span.
    witnessed = {s.attributes["provledger.batch_root"]: s for s in collector.named("witness.sign")}
    for receipt in receipts:
        body = witness_batch.parse_body(base64.b64decode(receipt["signature"]["body"]))
        span = witnessed[body.root.hex()]
        assert span.attributes[KID] == body.kid == receipt["kid"]
        assert not span.failed
    assert {span.attributes[KID] for span in witnessed.values()} == {"witness-1", "w2", "w3"}

    # Checkpoints: in an overlap both keys sign, and each has its span.
    spans: dict[int, list[ExportedSpan]] = defaultdict(list)
    for span in collector.named("checkpoint.sign"):
        spans[int(span.attributes["provledger.tree_size"])].append(span)
    for size, kids in signed.items():
        assert sorted(span.attributes[KID] for span in spans[size] if not span.failed) == sorted(
            kids
        )
    assert {tuple(sorted(kids)) for kids in signed.values()} == {
        ("checkpoint-1",),
        ("c2", "checkpoint-1"),
    }
    # No span that signs is without one.
    signing = [span for span in collector.spans if span.name.endswith((".sign", ".certify"))]
    assert all(span.attributes.get(KID) for span in signing)
    assert {span.service for span in signing} == {"provledger-witness", "provledger-anchor"}
