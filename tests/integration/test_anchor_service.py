"""The anchor service over real sockets, with a real keys service beside it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from anchor_svc.app import build
from anchor_svc.config import Settings
from keys_svc.app import build as build_keys
from keys_svc.config import Settings as KeysSettings
from provledger import checkpoint as checkpoints
from provledger import dsse, jcs, merkle
from provledger.api.anchor.v1 import anchor_pb2 as pb
from provledger.api.anchor.v1 import anchor_pb2_grpc
from provledger.api.common.v1 import common_pb2
from provledger.api.keys.v1 import keys_pb2, keys_pb2_grpc
from provledger.errors import (
    DataLossError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    OutOfRangeError,
)
from provledger.head import parse_head
from provledger.jwk import Algorithm, jwk_from_public_key
from provledger.kms import local
from provledger.rpc.channel import call, channel
from provledger.rpc.errors import from_rpc_error
from provledger.rpc.server import App, serve
from provledger.rpc.settings import ServerSettings
from provledger.settings import ConfigError, describe
from tests.support.anchoring import Ledger

REPO = Path(__file__).resolve().parents[2]
TIMEOUT_S = 20.0
ANY = "logs/-"
BLAKE3 = common_pb2.SUITE_BLAKE3


@asynccontextmanager
async def serving(app: App, config: ServerSettings) -> AsyncIterator[int]:
    """An app served in this process; its port."""
    stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(app, config, stop=stop, on_ready=ready.set_result))
    await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
    try:
        yield await ready
    finally:
        stop.set()
        await task


@asynccontextmanager
async def keys_service(directory: Path) -> AsyncIterator[str]:
    """A keys service with a checkpoint and a head key, whose files are in `directory`."""
    config = KeysSettings(
        database_url=f"sqlite:///{directory / 'keys.sqlite3'}", grace_s=0.2, lease_ms=5000
    )
    async with serving(await build_keys(config), config) as port:
        endpoint = f"127.0.0.1:{port}"
        async with channel(endpoint) as opened:
            stub = keys_pb2_grpc.KeysServiceStub(opened)
            for name, purpose in [
                ("checkpoint-1", keys_pb2.KEY_PURPOSE_CHECKPOINT),
                ("head-1", keys_pb2.KEY_PURPOSE_HEAD),
            ]:
                public_key = local.create_key(directory / f"{name}.pem", Algorithm.ED25519)
                request = keys_pb2.CreateKeyRequest(
                    purpose=purpose,
                    kid=name,
                    uri=f"local:{name}.pem",
                    jwk=jcs.encode(jwk_from_public_key(public_key)),
                )
                await call(stub.CreateKey, request, timeout_s=TIMEOUT_S)
        yield endpoint


class Anchor:
    """A client of one anchor service."""

    def __init__(self, opened: grpc.aio.Channel) -> None:
        self.channel = opened
        self.stub = anchor_pb2_grpc.AnchorServiceStub(opened)

    async def ask(self, method: str, request: Any) -> Any:
        return await call(getattr(self.stub, method), request, timeout_s=TIMEOUT_S)

    async def log(self) -> pb.Log:
        return (await self.ask("GetLog", pb.GetLogRequest(name=ANY))).log  # type: ignore[no-any-return]

    async def submit(
        self, ledger: Ledger, start: int = 0, end: int | None = None, **changes: Any
    ) -> pb.SubmitLeavesResponse:
        values: dict[str, Any] = {
            "log": ANY,
            "ledger_uid": ledger.uid,
            "suite": BLAKE3,
            "start_seq": start,
            "entries": ledger.entries[start:end],
        }
        return await self.ask("SubmitLeaves", pb.SubmitLeavesRequest(**(values | changes)))  # type: ignore[no-any-return]


def settings(directory: Path, keys: str, **changes: Any) -> Settings:
    values: dict[str, Any] = {
        "database_url": f"sqlite:///{directory / 'anchor.sqlite3'}",
        "data_dir": directory / "anchor",
        "keys_endpoint": keys,
        "key_dir": directory,
        "sinks": (f"file://{directory}/sink",),
        "publish_interval_ms": 20,
        "grace_s": 0.2,
    }
    return Settings(**(values | changes))


@asynccontextmanager
async def anchor_on(directory: Path, **changes: Any) -> AsyncIterator[Anchor]:
    async with AsyncExitStack() as stack:
        keys = await stack.enter_async_context(keys_service(directory))
        config = settings(directory, keys, **changes)
        port = await stack.enter_async_context(serving(await build(config), config))
        yield Anchor(await stack.enter_async_context(channel(f"127.0.0.1:{port}")))


@pytest.fixture
async def anchor(tmp_path: Path) -> AsyncIterator[Anchor]:
    async with anchor_on(tmp_path) as running:
        yield running


async def _anchored(anchor: Anchor, size: int) -> pb.Log:
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            log = await anchor.log()
            if log.anchored_size >= size:
                return log
            await asyncio.sleep(0.01)


async def test_from_submission_to_anchored_proof(anchor: Anchor) -> None:
    ledger = Ledger()
    ledger.grow(1200)
    for start in (0, 500, 1000):
        answer = await anchor.submit(ledger, start, start + 500)
        assert [(r.start_seq, r.start_index) for r in answer.runs] == [(start, start + 1)]
    log = await _anchored(anchor, 1201)
    assert (log.tree_size, log.published_size) == (1201, 1201)
    assert log.name == f"logs/{log.uid.hex()}"
    assert log.origin == f"provledger.local/{log.uid.hex()}"
    seqs = list(range(200, 1200))
    request = pb.BatchGetInclusionProofsRequest(log=log.name, ledger_uid=ledger.uid, seqs=seqs)
    batch = await anchor.ask("BatchGetInclusionProofs", request)
    head, _ = checkpoints.open_checkpoint(batch.checkpoint, [log.vkey], log.origin, exact=True)
    assert (batch.tree_size, batch.origin, batch.anchored) == (head.size, log.origin, True)
    (evidence,) = batch.evidence
    assert evidence.kind == "file"
    assert evidence.acknowledged_at_ns > 0
    assert [proof.seq for proof in batch.proofs] == seqs
    for proof in batch.proofs:
        path = [proof.hashes[at : at + 32] for at in range(0, len(proof.hashes), 32)]
        leaf = merkle.leaf_hash(ledger.entries[proof.seq])
        merkle.verify_inclusion(proof.log_index, head.size, leaf, path, head.root)
    single = await anchor.ask(
        "GetInclusionProof", pb.GetInclusionProofRequest(log=ANY, log_index=7)
    )
    merkle.verify_inclusion(
        7, head.size, merkle.leaf_hash(ledger.entries[6]), list(single.proof.hashes), head.root
    )
    assert single.proof.checkpoint == batch.checkpoint


async def test_proofs_come_with_the_answer_if_they_are_wanted(anchor: Anchor) -> None:
    ledger, log = Ledger(), await anchor.log()
    ledger.grow(700)
    assert not (await anchor.submit(ledger, 0, 300)).HasField("proofs")
    # Over the edge of a tile, and once more, half of it known.
    for start, end in ((300, 600), (500, 700)):
        answer = await anchor.submit(ledger, start, end, with_proofs=True)
        proofs = answer.proofs
        opened, _ = checkpoints.open_checkpoint(
            proofs.checkpoint, [log.vkey], log.origin, exact=True
        )
        assert opened.size == proofs.tree_size >= answer.tree_size
        assert [proof.seq for proof in proofs.proofs] == list(range(start, end))
        for proof in proofs.proofs:
            leaf = merkle.leaf_hash(ledger.entries[proof.seq])
            path = [proof.hashes[at : at + 32] for at in range(0, len(proof.hashes), 32)]
            merkle.verify_inclusion(proof.log_index, opened.size, leaf, path, opened.root)
        # No sink has it yet, whatever the policy says.
        assert not proofs.anchored
        assert not proofs.evidence


async def test_what_somebody_waits_for_waits_for_no_full_batch(tmp_path: Path) -> None:
    settings = {"batch_budget_ms": 60_000.0, "batch_leaves": 100}
    async with anchor_on(tmp_path, **settings) as anchor, asyncio.timeout(TIMEOUT_S):
        one, other = Ledger(), Ledger("other")
        one.grow(3)
        other.grow(2)
        patient = asyncio.ensure_future(anchor.submit(one, 0, 3))
        await asyncio.sleep(0.05)
        assert not patient.done()
        answer = await anchor.submit(other, 0, 2, with_proofs=True)
        assert len(answer.proofs.proofs) == 2
        # It is in the same batch.
        assert (await patient).tree_size == answer.tree_size


async def test_heads_consistency_and_checkpoints(anchor: Anchor) -> None:
    ledger = Ledger()
    ledger.grow(300)
    await anchor.submit(ledger, 0, 100)
    await anchor.submit(ledger, 100)
    log = await anchor.log()
    sizes = {}
    for size in (101, 301):
        got = await anchor.ask("GetCheckpoint", pb.GetCheckpointRequest(log=ANY, tree_size=size))
        sizes[size] = checkpoints.open_checkpoint(got.checkpoint, [log.vkey])[0]
    proof = await anchor.ask(
        "GetConsistencyProof", pb.GetConsistencyProofRequest(log=ANY, old_size=101)
    )
    assert proof.new_size == 301
    merkle.verify_consistency(101, 301, list(proof.hashes), sizes[101].root, sizes[301].root)
    head_answer = await anchor.ask(
        "GetLedgerHead", pb.GetLedgerHeadRequest(log=ANY, ledger_uid=ledger.uid, tree_size=101)
    )
    head = parse_head(dsse.decode(head_answer.head).payload)
    assert (head.seq, head.receipt_hash, head.size) == (99, ledger.hash_of(99), 101)
    state = await anchor.ask(
        "GetLedgerState", pb.GetLedgerStateRequest(log=ANY, ledger_uid=ledger.uid)
    )
    assert (state.seq, state.receipt_hash, state.log_index) == (299, ledger.last, 300)
    unknown = await anchor.ask(
        "GetLedgerState", pb.GetLedgerStateRequest(log=ANY, ledger_uid=bytes(16))
    )
    assert (unknown.seq, unknown.receipt_hash, unknown.log_index) == (-1, b"", -1)


async def test_watch_sends_the_newest_and_then_each_change(anchor: Anchor) -> None:
    ledger = Ledger()
    ledger.grow(3)
    stream: Any = anchor.stub.WatchCheckpoints(pb.WatchCheckpointsRequest(log=ANY))
    first = await stream.read()
    assert first.tree_size == 1
    await anchor.submit(ledger)
    seen = first
    async with asyncio.timeout(TIMEOUT_S):
        while (seen.tree_size, seen.anchored_size) != (4, 4):
            seen = await stream.read()
    stream.cancel()


async def test_anchors_are_listed_in_pages(anchor: Anchor) -> None:
    ledger = Ledger()
    for number in range(1, 4):
        ledger.grow(1)
        await anchor.submit(ledger, number - 1)
        await _anchored(anchor, number + 1)
    sizes: list[int] = []
    request = pb.ListAnchorsRequest(log=ANY, page_size=3)
    while True:
        page = await anchor.ask("ListAnchors", request)
        sizes += [item.tree_size for item in page.anchors]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert sizes[:3] == [4, 3, 2]
    assert sizes == sorted(set(sizes), reverse=True)
    assert len(sizes) >= 3
    request.page_token = (
        page.next_page_token
        or (
            await anchor.ask("ListAnchors", pb.ListAnchorsRequest(log=ANY, page_size=1))
        ).next_page_token
    )
    request.sink = "file:///elsewhere"
    with pytest.raises(InvalidArgumentError, match="other parameters"):
        await anchor.ask("ListAnchors", request)


UID = Ledger().uid


@pytest.mark.parametrize(
    ("method", "request_", "error", "says"),
    [
        ("GetLog", pb.GetLogRequest(), InvalidArgumentError, "name"),
        ("GetLog", pb.GetLogRequest(name="logs/" + "0" * 32), NotFoundError, "LOG_NOT_FOUND"),
        ("GetLog", pb.GetLogRequest(name="logs/XYZ"), InvalidArgumentError, "name"),
        ("SubmitLeaves", pb.SubmitLeavesRequest(log=ANY), InvalidArgumentError, "ledger_uid"),
        (
            "SubmitLeaves",
            pb.SubmitLeavesRequest(log=ANY, ledger_uid=UID, entries=[b"x"]),
            InvalidArgumentError,
            "suite",
        ),
        (
            "SubmitLeaves",
            pb.SubmitLeavesRequest(log=ANY, ledger_uid=UID, suite=BLAKE3),
            InvalidArgumentError,
            "entries",
        ),
        (
            "SubmitLeaves",
            pb.SubmitLeavesRequest(log=ANY, ledger_uid=UID, suite=BLAKE3, entries=[b"x"] * 1001),
            InvalidArgumentError,
            "entries",
        ),
        (
            "SubmitLeaves",
            pb.SubmitLeavesRequest(log=ANY, ledger_uid=UID, suite=BLAKE3, entries=[b"{}"]),
            InvalidArgumentError,
            "entries[0]",
        ),
        (
            "GetInclusionProof",
            pb.GetInclusionProofRequest(log=ANY, log_index=-1),
            InvalidArgumentError,
            "log_index",
        ),
        (
            "GetInclusionProof",
            pb.GetInclusionProofRequest(log=ANY, log_index=1),
            OutOfRangeError,
            "LOG_INDEX_OUT_OF_RANGE",
        ),
        (
            "GetInclusionProof",
            pb.GetInclusionProofRequest(log=ANY, tree_size=2**62),
            OutOfRangeError,
            "TREE_SIZE_OUT_OF_RANGE",
        ),
        (
            "BatchGetInclusionProofs",
            pb.BatchGetInclusionProofsRequest(log=ANY, ledger_uid=UID),
            InvalidArgumentError,
            "seqs",
        ),
        (
            "BatchGetInclusionProofs",
            pb.BatchGetInclusionProofsRequest(log=ANY, ledger_uid=UID, seqs=[1, 1]),
            InvalidArgumentError,
            "seqs",
        ),
        (
            "BatchGetInclusionProofs",
            pb.BatchGetInclusionProofsRequest(log=ANY, ledger_uid=UID, seqs=range(1001)),
            InvalidArgumentError,
            "seqs",
        ),
        (
            "GetConsistencyProof",
            pb.GetConsistencyProofRequest(log=ANY),
            InvalidArgumentError,
            "old_size",
        ),
        (
            "GetCheckpoint",
            pb.GetCheckpointRequest(log=ANY, tree_size=-5),
            InvalidArgumentError,
            "tree_size",
        ),
        (
            "GetLedgerHead",
            pb.GetLedgerHeadRequest(log=ANY, ledger_uid=UID),
            NotFoundError,
            "LEDGER_NOT_FOUND",
        ),
        (
            "GetLedgerState",
            pb.GetLedgerStateRequest(log=ANY, ledger_uid=b"short"),
            InvalidArgumentError,
            "ledger_uid",
        ),
        (
            "ListAnchors",
            pb.ListAnchorsRequest(log=ANY, page_size=-1),
            InvalidArgumentError,
            "page_size",
        ),
        (
            "ListAnchors",
            pb.ListAnchorsRequest(log=ANY, page_token="x"),
            InvalidArgumentError,
            "page_token",
        ),
    ],
)
async def test_bad_requests_get_typed_errors(
    anchor: Anchor, method: str, request_: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error) as caught:
        await anchor.ask(method, request_)
    answered: Any = caught.value
    assert says in (answered.reason, *(violation.field for violation in answered.violations))


async def test_gap_fork_and_damage_are_told_apart(anchor: Anchor, tmp_path: Path) -> None:
    ledger, other = Ledger(), Ledger()
    ledger.grow(600)
    other.grow(3, salt="x")
    await anchor.submit(ledger, 0, 500)
    with pytest.raises(FailedPreconditionError) as gap:
        await anchor.submit(ledger, 501)
    assert gap.value.reason == "SEQ_GAP"
    assert gap.value.metadata["expectedSeq"] == "500"
    log = await anchor.log()
    tile = tmp_path / "anchor" / log.name / "tile" / "0" / "000"
    data = bytearray(tile.read_bytes())
    data[40] ^= 1
    tile.write_bytes(bytes(data))
    request = pb.GetInclusionProofRequest(log=ANY, log_index=3)
    with pytest.raises(DataLossError, match="tile/0/000"):
        await anchor.ask("GetInclusionProof", request)
    # Damage of ours is never taken for a fork of theirs.
    with pytest.raises(DataLossError):
        await anchor.submit(other)
    data[40] ^= 1
    tile.write_bytes(bytes(data))
    await anchor.ask("GetInclusionProof", request)
    with pytest.raises(FailedPreconditionError) as fork:
        await anchor.submit(other)
    assert fork.value.reason == "LEDGER_FORKED"
    with pytest.raises(FailedPreconditionError):
        await anchor.submit(ledger, 500)


async def test_watch_ends_when_the_service_drains(tmp_path: Path) -> None:
    async with keys_service(tmp_path) as keys, AsyncExitStack() as client:
        config = settings(tmp_path, keys)
        async with serving(await build(config), config) as port:
            opened = await client.enter_async_context(channel(f"127.0.0.1:{port}"))
            stream: Any = anchor_pb2_grpc.AnchorServiceStub(opened).WatchCheckpoints(
                pb.WatchCheckpointsRequest(log=ANY)
            )
            await stream.read()
            reading = asyncio.ensure_future(_until_end(stream))
        assert (await reading).reason == "SERVER_DRAINING"


async def _until_end(stream: Any) -> Any:
    async def read_all() -> None:
        while await stream.read() is not grpc.aio.EOF:
            pass

    with pytest.raises(grpc.RpcError) as caught:
        await read_all()
    return from_rpc_error(caught.value)


async def test_embedded_database_takes_one_process_only(tmp_path: Path) -> None:
    async with keys_service(tmp_path) as keys:
        config = settings(tmp_path, keys)
        app = await build(config)
        with pytest.raises(ConfigError, match="in use"):
            await build(config)
        assert app.close is not None
        await app.close()
        again = await build(config)
        assert again.close is not None
        await again.close()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"origin_prefix": "https://x"}, "origin_prefix"),
        ({"sinks": ("s3://bucket",)}, "sinks"),
        ({"database_url": "mysql://x"}, "database"),
        ({"wait_for_sinks": True, "sinks": ()}, "wait_for_sinks"),
    ],
)
async def test_unusable_settings_are_refused(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        await build(settings(tmp_path, "127.0.0.1:1", **changes))


def test_sinks_are_parted_by_comma_or_space(tmp_path: Path) -> None:
    config = settings(tmp_path, "127.0.0.1:7001", sinks=("file:///a file:///b", "file:///a"))
    assert config.sink_uris() == ("file:///a", "file:///b")


def test_every_setting_is_described() -> None:
    assert {row.field for row in describe(Settings, "anchor")} >= {"data_dir", "sinks"}


@contextmanager
def process(directory: Path, keys: str, **changes: str) -> Iterator[subprocess.Popen[str]]:
    """`python -m anchor_svc`; killed at the end if it still runs."""
    values = {
        "DATABASE_URL": f"sqlite:///{directory / 'anchor.sqlite3'}",
        "DATA_DIR": str(directory / "anchor"),
        "KEYS_ENDPOINT": keys,
        "KEY_DIR": str(directory),
        "READY_FILE": str(directory / "ready.json"),
        "GRACE_S": "2",
        "LOG_FORMAT": "json",
    }
    env = {f"PROVLEDGER_ANCHOR_{key}": value for key, value in (values | changes).items()}
    child = subprocess.Popen(
        [sys.executable, "-m", "anchor_svc"],
        env={**os.environ, **env},
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPO,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


async def _ready(child: subprocess.Popen[str], file: Path) -> str:
    deadline_s = time.monotonic() + 60
    while not file.exists():
        assert child.poll() is None, child.stderr.read() if child.stderr else ""
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.02)
    return f"127.0.0.1:{json.loads(file.read_text())['port']}"


async def test_process_serves_drains_and_goes_on(tmp_path: Path) -> None:
    ledger = Ledger()
    ledger.grow(20)
    async with keys_service(tmp_path) as keys:
        for round_number in (0, 1):
            with process(tmp_path, keys) as child:
                endpoint = await _ready(child, tmp_path / "ready.json")
                async with channel(endpoint) as opened:
                    anchor = Anchor(opened)
                    await anchor.submit(ledger, 10 * round_number, 10 * round_number + 10)
                    assert (await anchor.log()).tree_size == 10 * round_number + 11
                child.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(child.wait, 30) == 0
                assert not (tmp_path / "ready.json").exists()


@pytest.mark.postgres
async def test_fenced_process_ends_by_itself(postgres_database_url: str, tmp_path: Path) -> None:
    changes = {"DATABASE_URL": postgres_database_url}
    ledger = Ledger()
    ledger.grow(20)
    async with AsyncExitStack() as stack:
        keys = await stack.enter_async_context(keys_service(tmp_path))
        first = stack.enter_context(process(tmp_path, keys, **changes))
        first_endpoint = await _ready(first, tmp_path / "ready.json")
        second_ready = tmp_path / "ready2.json"
        second = stack.enter_context(
            process(tmp_path, keys, **changes, READY_FILE=str(second_ready))
        )
        second_endpoint = await _ready(second, second_ready)
        opened = await stack.enter_async_context(channel(second_endpoint))
        await Anchor(opened).submit(ledger, 0, 10)
        old = await stack.enter_async_context(channel(first_endpoint))
        request = pb.SubmitLeavesRequest(
            log=ANY, ledger_uid=ledger.uid, suite=BLAKE3, start_seq=0, entries=ledger.entries[:5]
        )
        with pytest.raises(grpc.RpcError) as caught:
            await anchor_pb2_grpc.AnchorServiceStub(old).SubmitLeaves(request, timeout=10)
        assert from_rpc_error(caught.value).code == "UNAVAILABLE"
        assert await asyncio.to_thread(first.wait, 30) == 1
        await Anchor(opened).submit(ledger, 10)
        assert (await Anchor(opened).log()).tree_size == 21
