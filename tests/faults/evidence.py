"""Whether what an RPC answered verifies: by the keys, and by the leaves that the files hold.

Two answers of one service may be wrong alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from provledger import merkle
from provledger.api.common.v1 import common_pb2
from provledger.api.ledger.v1 import ledger_pb2
from provledger.client import AsyncClient
from provledger.client.convert import receipt_from_pb, suite_from_pb
from provledger.cose_receipt import verify_cose_receipt
from provledger.hashing import suite
from provledger.keyset import KeySet
from provledger.report import Check, Outcome
from provledger.verify import Verifier
from tests.faults import observe
from tests.faults.heads import Heads
from tests.faults.rpcs import Caller

_TIMEOUT_S: Final = observe.TIMEOUT_S


@dataclass(frozen=True, slots=True)
class Evidence:
    """What answers about one ledger are held against. `leaves`: its log's, from its files."""

    keys: KeySet
    origin: str
    suite: str
    ledger_uid: bytes
    leaves: list[bytes]

    def check_receipt(self, message: common_pb2.Receipt) -> None:
        """Raise unless a receipt in the FULL view verifies, with a proof."""
        report = Verifier(self.keys).verify(receipt_from_pb(message))
        shown = {each.check for each in report.results if each.outcome is Outcome.HOLDS}
        assert {Check.COMMITMENT, Check.WITNESS_SIGNATURE, Check.INCLUSION} <= shown, report

    def check_head(self, envelope: bytes, checkpoint: bytes) -> None:
        """Raise unless a head is signed, and says what the log holds."""
        heads = Heads(self.leaves, Verifier(self.keys), self.origin)
        wrong = heads.problem(self.ledger_uid, envelope, checkpoint)
        assert not wrong, wrong

    def check_inclusion(self, index: int, hashes: Sequence[bytes], checkpoint: bytes) -> None:
        """Raise unless a path leads from that leaf to a checkpoint that is signed."""
        tree = Verifier(self.keys).open_checkpoint(checkpoint, self.origin)
        hasher = suite(self.suite).tree
        leaf = merkle.leaf_hash(self.leaves[index], hasher)
        merkle.verify_inclusion(index, tree.size, leaf, list(hashes), tree.root, hasher)

    def check_consistency(self, old_size: int, new_size: int, hashes: Sequence[bytes]) -> None:
        """Raise unless a proof is that of the tree of these leaves."""
        hasher = suite(self.suite).tree
        old, new = (merkle.root(self.leaves[:size], hasher=hasher) for size in (old_size, new_size))
        merkle.verify_consistency(old_size, new_size, list(hashes), old, new, hasher)

    def check_cose(self, receipt: bytes, index: int) -> None:
        """Raise unless a COSE receipt is of that leaf."""
        found = verify_cose_receipt(receipt, self.leaves[index], self.keys, origin=self.origin)
        assert found.log_index == index


async def gather(caller: Caller, ledger: ledger_pb2.Ledger, size: int) -> Evidence:
    """What to hold answers against, with at least so many leaves; they may yet be published."""
    cluster = caller.cluster
    async with asyncio.timeout(_TIMEOUT_S):
        # Files do not tell when they change.
        while observe.published_size(cluster) < size:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    endpoint, keys_endpoint = cluster.endpoint("ledger"), cluster.endpoint("keys")
    async with AsyncClient(endpoint, keys_endpoint=keys_endpoint) as client:
        keys = KeySet.parse(await client.jwks())
    leaves = observe.published_leaves(cluster.data.tiles / ledger.log)
    return Evidence(keys, ledger.log_origin, suite_from_pb(ledger.suite), ledger.uid, leaves)
