"""Gathers for the checker what there is once the services are whole again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from provledger import checkpoint as checkpoints
from provledger import note, tiles
from provledger.api.anchor.v1 import anchor_pb2, anchor_pb2_grpc
from provledger.client import AsyncClient, Ledger, RangeReport, ReceiptFilter
from provledger.errors import ProvledgerError
from provledger.keyset import KeySet
from provledger.receipt import Receipt
from provledger.rpc.channel import call, channel
from tests.faults import checker, record
from tests.faults.cluster import Cluster
from tests.faults.known import Holdings, Summary
from tests.faults.lists import Lists, Place, conditions

TIMEOUT_S = 90.0
_LOOKS = 25
"""So often what there is is read again because it has become more meanwhile."""
_CHECKPOINT = "checkpoint"
_CHECKPOINTS = f"logs/*/{_CHECKPOINT}"


def check(cluster: Cluster, log: Path) -> Summary:
    """Wait until all is logged and anchored, then hold the record at `log` against it."""
    return checker.check_logs(record.read(log), asyncio.run(gather(cluster)))


def wait_published(cluster: Cluster) -> None:
    """Wait until a published checkpoint, which all sinks have, covers everything."""

    async def wait() -> None:
        async with AsyncClient(cluster.endpoint("ledger")) as client:
            await _until_published(cluster, client)

    asyncio.run(wait())


async def gather(cluster: Cluster) -> list[Holdings]:
    """Everything there is, the shared log first. All services must run, nobody may append."""
    endpoint, keys_endpoint = cluster.endpoint("ledger"), cluster.endpoint("keys")
    async with AsyncClient(endpoint, keys_endpoint=keys_endpoint) as client:
        for _ in range(_LOOKS):
            sizes = await _until_published(cluster, client)
            found = await _look(cluster, client, sizes)
            # A service may have had something to say for the key ledger, or for who gave up.
            if found is not None and sizes == await _until_published(cluster, client):
                return found
            await asyncio.sleep(0.2)
    raise AssertionError("what there is goes on to become more")


async def _look(
    cluster: Cluster, client: AsyncClient, sizes: Mapping[str, int]
) -> list[Holdings] | None:
    """What there is of logs of these sizes; None where not all of it is shown yet."""
    ledgers = [ledger async for ledger in client.list_ledgers()]
    receipts = {
        ledger.name: [each async for each in client.list_receipts(ledger.name, page_size=500)]
        for ledger in ledgers
    }
    logs = _by_log(ledgers)
    if logs.keys() != sizes.keys():
        return None
    shown = {log: (cluster.data.tiles / log / _CHECKPOINT).read_bytes() for log in logs}
    for log, of_log in logs.items():
        listed = 1 + sum(len(receipts[each.name]) for each in of_log)
        # More would come to be there meanwhile; less is denied.
        assert listed >= sizes[log], f"{log} of tree size {sizes[log]}: {listed - 1} are listed"
    # A ledger that has yet to find a restarted anchor lists receipts without proofs.
    if not all(
        _parsed(shown[log]).size == sizes[log]
        and _is_whole([receipts[each.name] for each in of_log], sizes[log])
        for log, of_log in logs.items()
    ):
        return None
    ranges = {name: await _checked(client, name, len(receipts[name])) for name in receipts}
    lists = {name: await _lists(client, name, conditions(receipts[name])) for name in receipts}
    evidence = {log: await _evidence(cluster, log) for log in logs}
    keys = KeySet.parse(await client.jwks())
    _check_no_others(cluster, logs)
    return [
        Holdings(
            {each.name: receipts[each.name] for each in of_log},
            read_leaves(cluster.data.tiles / log, sizes[log]),
            {
                sink: [path.read_bytes() for path in held.glob("*.checkpoint")]
                for sink, held in _sunk(cluster, of_log[0]).items()
            },
            shown[log],
            keys,
            {each.name: ranges[each.name] for each in of_log},
            evidence[log],
            {each.name: lists[each.name] for each in of_log},
        )
        for log, of_log in logs.items()
    ]


async def _lists(client: AsyncClient, ledger: str, by: Sequence[ReceiptFilter]) -> Lists:
    """What a ledger lists by each of these."""

    async def one(where: ReceiptFilter) -> list[Place]:
        shown = client.list_summaries(ledger, where, page_size=500)
        return [(each.seq, each.receipt_hash) async for each in shown]

    return dict(zip(by, await asyncio.gather(*map(one, by)), strict=True))


async def _evidence(cluster: Cluster, log: str) -> dict[str, set[int]]:
    """The tree sizes of a log that the anchor keeps evidence of, by sink."""
    request = anchor_pb2.ListAnchorsRequest(log=log, page_size=1000)
    found: dict[str, set[int]] = {}
    async with channel(cluster.endpoint("anchor")) as opened:
        stub = anchor_pb2_grpc.AnchorServiceStub(opened)
        while True:
            answer = await call(stub.ListAnchors, request, timeout_s=TIMEOUT_S)
            for each in answer.anchors:
                found.setdefault(each.evidence.sink, set()).add(each.tree_size)
            request.page_token = answer.next_page_token
            if not request.page_token:
                return found


def _by_log(ledgers: Sequence[Ledger]) -> dict[str, list[Ledger]]:
    """Ledgers by the name of their log, that of the key ledger first."""
    found: dict[str, list[Ledger]] = {}
    for ledger in sorted(ledgers, key=lambda each: each.name != checker.KEY_LEDGER):
        found.setdefault(ledger.log, []).append(ledger)
    return found


def _is_whole(chains: Sequence[Sequence[Receipt]], size: int) -> bool:
    """Whether that is all of a log, and every receipt shown with a proof in what is published."""
    listed = [receipt for chain in chains for receipt in chain]
    proofs = {proof.checkpoint for receipt in listed for proof in receipt.proofs}
    return (
        size == 1 + len(listed)
        and all(receipt.proofs for receipt in listed)
        and all(_parsed(signed).size <= size for signed in proofs)
    )


def _check_no_others(cluster: Cluster, logs: Collection[str]) -> None:
    """Fails if another log has more than the leaf that names it.

    A request that was meant to be bad makes one, now and then, by being right.
    """
    for path in cluster.data.tiles.glob(_CHECKPOINTS):
        if str(path.parent.relative_to(cluster.data.tiles)) not in logs:
            assert _size(path) == 1, f"{path} is of no ledger"


async def _checked(client: AsyncClient, ledger: str, count: int) -> RangeReport:
    """What the service says of the receipts it has stored, once it could ask the log about them."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        report = await client.verify_range(ledger, end_seq=count - 1)
        if report.places_checked or time.monotonic() > deadline_s:
            return report
        await asyncio.sleep(0.2)


async def _until_published(cluster: Cluster, client: AsyncClient) -> dict[str, int]:
    """Wait until of each log a published checkpoint, which all sinks have, covers everything;
    their tree sizes."""
    deadline_s = time.monotonic() + TIMEOUT_S
    state: object = None
    while time.monotonic() < deadline_s:
        try:
            logs = _by_log([ledger async for ledger in client.list_ledgers()])
        except ProvledgerError as error:
            state = error
            continue
        # Leaf 0 says whose log it is. A ledger that lost the answer hears of it when its relay
        # asks again.
        wanted = {log: 1 + sum(each.seq + 1 for each in all_) for log, all_ in logs.items()}
        told = {log: 1 + sum(each.logged_seq + 1 for each in all_) for log, all_ in logs.items()}
        published = {log: _size_of(cluster.data.tiles / log / _CHECKPOINT) for log in logs}
        anchored = {
            log: min(_size_of(held / "latest") for held in _sunk(cluster, all_[0]).values())
            for log, all_ in logs.items()
        }
        state = {"wanted": wanted, "published": published, "anchored": anchored, "told": told}
        if published == anchored == told == wanted:
            return wanted
        await asyncio.sleep(0.05)
    raise AssertionError(f"not everything is logged and anchored within {TIMEOUT_S} s: {state}")


def _sunk(cluster: Cluster, ledger: Ledger) -> dict[str, Path]:
    """Where each sink has what it holds of a ledger's log."""
    origin = quote(ledger.log_origin, safe="")
    return {uri: path / origin for uri, path in cluster.sinks.items()}


def published_size(cluster: Cluster) -> int:
    """Size of the checkpoint that readers of the shared log find, which is the largest."""
    return max(map(_size, cluster.data.tiles.glob(_CHECKPOINTS)), default=0)


def published_leaves(root: Path) -> list[bytes]:
    """The entries of the log in `root` up to the published checkpoint, of a log that goes on."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return read_leaves(root, _size(root / _CHECKPOINT))
        except FileNotFoundError:
            # A partial bundle goes soon after there is a larger one, and a larger checkpoint.
            assert time.monotonic() < deadline_s, f"{root} lacks what is published"


def anchored_size(cluster: Cluster) -> int:
    """Size of the newest checkpoint that the first sink has of the shared log."""
    return max(map(_size, cluster.data.anchors.glob("*/latest")), default=0)


def shared_log(cluster: Cluster) -> Path:
    """The directory of the log that is no tenant's own: the one with the largest checkpoint."""
    return max(cluster.data.tiles.glob(_CHECKPOINTS), key=_size).parent


def _size_of(path: Path) -> int:
    """0 if there is none."""
    return _size(path) if path.exists() else 0


def _size(path: Path) -> int:
    return _opened(path).size


def _opened(path: Path) -> checkpoints.Checkpoint:
    return _parsed(path.read_bytes())


def _parsed(signed: bytes) -> checkpoints.Checkpoint:
    return checkpoints.parse(note.parse(signed).text)


def read_leaves(root: Path, size: int) -> list[bytes]:
    """The entries of a log, from its files alone, as a reader of c2sp.org/tlog-tiles has them."""
    leaves: list[bytes] = []
    while len(leaves) < size:
        index = len(leaves) // tiles.TILE_WIDTH
        width = min(tiles.TILE_WIDTH, size - len(leaves))
        bundle = root / tiles.entries_path(index, width)
        leaves += tiles.decode_bundle(bundle.read_bytes())
    return leaves
