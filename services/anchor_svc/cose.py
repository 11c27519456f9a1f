"""COSE receipts (RFC 9942) of entries in one log, signed by the key of purpose `receipt`.

One signature covers a whole checkpoint, whatever the entry, so that asking for many receipts of one
tree size costs one signature. It is made only for roots that a checkpoint of ours was signed for.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final

from anchor_svc.keys import SIGN_TIMEOUT_S, Keys, signing_failed
from anchor_svc.reader import Reader
from anchor_svc.state import LogIdentity, SignedCheckpoint
from provledger.cose_receipt import encode_cose_receipt
from provledger.errors import FailedPreconditionError, KMSError
from provledger.hashing import HASH_BYTES, sha256
from provledger.keyset import KeyPurpose
from provledger.kms.signing import sign_cose_receipt

MAX_KEPT: Final = 256
"""Signatures in memory, the oldest going first."""


class CoseReceipts:
    """Receipts of one log. Belongs to one event loop."""

    def __init__(self, identity: LogIdentity, reader: Reader, keys: Keys) -> None:
        self._log = identity
        self._reader = reader
        self._keys = keys
        # By kid and tree size: protected header and signature.
        self._kept: OrderedDict[tuple[str, int], tuple[bytes, bytes]] = OrderedDict()

    async def get(self, log_index: int, size: int) -> tuple[bytes, int]:
        """The receipt of an entry, and its tree size; size 0 as `Reader.inclusion` has it.

        Raises:
            OutOfRangeError, NotFoundError: as `Reader.inclusion`.
            FailedPreconditionError: the tree is not SHA-256 or has one leaf, which RFC 9942 does
                not know.
            UnavailableError: there is no key to sign with for now.
            StatusError: why the log is held.
        """
        if self._log.hasher is not sha256:
            raise FailedPreconditionError(
                "TREE_NOT_SHA256", "COSE receipts are for logs whose tree is SHA-256"
            )
        proven = await self._reader.inclusion(log_index, size)
        target, path = proven.checkpoint, proven.proofs[0].hashes
        if target.size < 2:
            raise FailedPreconditionError(
                "TREE_TOO_SMALL", "there is no COSE receipt for a tree of one leaf"
            )
        protected, signature = await self._signature(target)
        hashes = tuple(path[at : at + HASH_BYTES] for at in range(0, len(path), HASH_BYTES))
        receipt = encode_cose_receipt(protected, signature, target.size, log_index, hashes)
        return receipt, target.size

    async def _signature(self, target: SignedCheckpoint) -> tuple[bytes, bytes]:
        key = self._keys.current(KeyPurpose.RECEIPT)
        place = (key.kid, target.size)
        kept = self._kept.get(place)
        if kept is None:
            try:
                async with asyncio.timeout(SIGN_TIMEOUT_S):
                    kept = await sign_cose_receipt(
                        key.signer, key.kid, self._log.origin, target.size, target.root
                    )
            except (KMSError, TimeoutError) as error:
                raise signing_failed("the receipt", error) from error
            self._kept[place] = kept
            while len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        return kept
