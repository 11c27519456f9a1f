"""Gathers for the checker what there is once the services are whole again."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from provledger import checkpoint as checkpoints
from provledger import note, tiles
from provledger.client import AsyncClient, RangeReport
from provledger.errors import ProvledgerError
from provledger.keyset import KeySet
from provledger.receipt import Receipt
from tests.faults import checker, record
from tests.faults.cluster import Cluster

TIMEOUT_S = 90.0
_LOOKS = 25
"""So often what there is is read again because it has become more meanwhile."""
_CHECKPOINTS = "logs/*/checkpoint"


def check(cluster: Cluster, log: Path) -> checker.Summary:
    """Wait until all is logged and anchored, then hold the record at `log` against it."""
    return checker.check(record.read(log), asyncio.run(gather(cluster)))


def wait_published(cluster: Cluster) -> None:
    """Wait until a published checkpoint, which the sink has, covers everything."""

    async def wait() -> None:
        async with AsyncClient(cluster.endpoint("ledger")) as client:
            await _until_published(cluster, client)

    asyncio.run(wait())


async def gather(cluster: Cluster) -> checker.Holdings:
    """Everything there is. All services must run, and nobody may append meanwhile."""
    endpoint, keys_endpoint = cluster.endpoint("ledger"), cluster.endpoint("keys")
    async with AsyncClient(endpoint, keys_endpoint=keys_endpoint) as client:
        receipts: dict[str, list[Receipt]] = {}
        for _ in range(_LOOKS):
            size = await _until_published(cluster, client)
            names = [ledger.name async for ledger in client.list_ledgers()]
            receipts = {
                name: [each async for each in client.list_receipts(name, page_size=500)]
                for name in names
            }
            shown = {each: each.read_bytes() for each in cluster.data.tiles.glob(_CHECKPOINTS)}
            ours = [path for path, signed in shown.items() if _parsed(signed).size == size]
            # A service may have had something to say for the key ledger, or for who gave up.
            # And a ledger that has yet to find a restarted anchor lists receipts without proofs.
            listed = [receipt for each in receipts.values() for receipt in each]
            proofs = {proof.checkpoint for receipt in listed for proof in receipt.proofs}
            whole = ours and size == 1 + len(listed) and all(receipt.proofs for receipt in listed)
            if whole and all(_parsed(signed).size <= size for signed in proofs):
                break
            await asyncio.sleep(0.2)
        ranges = {name: await _checked(client, name, len(receipts[name])) for name in receipts}
        keys = KeySet.parse(await client.jwks())
    (readable,) = ours
    root, origin = readable.parent, _parsed(shown[readable]).origin
    sunk = [
        path.read_bytes()
        for path in cluster.data.anchors.rglob("*.checkpoint")
        if not _is_unused(_opened(path), origin)
    ]
    leaves = read_leaves(root, size)
    return checker.Holdings(receipts, leaves, sunk, shown[readable], keys, ranges)


async def _checked(client: AsyncClient, ledger: str, count: int) -> RangeReport:
    """What the service says of the receipts it has stored, once it could ask the log about them."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        report = await client.verify_range(ledger, end_seq=count - 1)
        if report.places_checked or time.monotonic() > deadline_s:
            return report
        await asyncio.sleep(0.2)


def _is_unused(checkpoint: checkpoints.Checkpoint, ours: str) -> bool:
    """Whether it is of a log beside ours that holds nothing but the leaf that names it.

    A request that was meant to be bad makes one, now and then, by being right.
    """
    return checkpoint.origin != ours and checkpoint.size == 1


async def _until_published(cluster: Cluster, client: AsyncClient) -> int:
    """Wait until a published checkpoint, which the sink has, covers everything; its tree size."""
    deadline_s = time.monotonic() + TIMEOUT_S
    state: object = None
    while time.monotonic() < deadline_s:
        try:
            ledgers = [ledger async for ledger in client.list_ledgers()]
        except ProvledgerError as error:
            state = error
            continue
        # Leaf 0 says whose log it is.
        wanted = 1 + sum(ledger.seq + 1 for ledger in ledgers)
        published, anchored = published_size(cluster), anchored_size(cluster)
        # A ledger that lost the answer hears of it when its relay asks again.
        told = 1 + sum(ledger.logged_seq + 1 for ledger in ledgers)
        state = {"wanted": wanted, "published": published, "anchored": anchored, "told": told}
        if published == anchored == told == wanted:
            return wanted
        await asyncio.sleep(0.05)
    raise AssertionError(f"not everything is logged and anchored within {TIMEOUT_S} s: {state}")


def published_size(cluster: Cluster) -> int:
    """Size of the checkpoint that readers of the log find."""
    return max(map(_size, cluster.data.tiles.glob(_CHECKPOINTS)), default=0)


def published_leaves(cluster: Cluster, root: Path) -> list[bytes]:
    """The entries of the log in `root` up to the published checkpoint, of a log that goes on."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return read_leaves(root, published_size(cluster))
        except FileNotFoundError:
            # A partial bundle goes soon after there is a larger one, and a larger checkpoint.
            assert time.monotonic() < deadline_s, f"{root} lacks what is published"


def anchored_size(cluster: Cluster) -> int:
    """Size of the newest checkpoint that the sink has."""
    return max(map(_size, cluster.data.anchors.glob("*/latest")), default=0)


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
