"""Ledgers and receipts as the database sees them, made up: no signature in them holds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ledger_svc import chain
from ledger_svc.chain import Candidate, HeadState, LedgerInfo, Linked, Seal
from ledger_svc.storage import Known, Storage
from provledger.witness_batch import WitnessBatch

NOW_NS = 1_763_665_200_000_000_000


@dataclass(frozen=True)
class Decided:
    linked: Linked | None
    known: Mapping[str, Known]
    state: HeadState


def info(ledger: str = "main", tenant: str = "acme") -> LedgerInfo:
    return LedgerInfo(os.urandom(16), tenant, ledger, "blake3", "logs/00", "log.test/1", NOW_NS)


def seal(size: int = 8) -> Seal:
    leaves = b"".join(bytes([n]) * 32 for n in range(size))
    body = WitnessBatch("blake3", bytes(32), size, "witness-1", bytes(32), 1, NOW_NS).encode()
    return Seal("blake3", body, b"sig", 0, leaves, b"", "witness-1", 1, bytes(32), NOW_NS)


def candidate(request_id: str, **fields: Any) -> Candidate:
    given: dict[str, Any] = {
        "receipt_id": os.urandom(16),
        "request_id": request_id,
        "receipt_type": "mutation",
        "resource_type": "Version",
        "resource_id": "x",
        "actor_id": "bot",
        "statement": b"statement of " + request_id.encode(),
        "payload": b"\x00payload\xff",
        "secret": os.urandom(32),
        "payload_hash": os.urandom(32),
        "commitment_size": 8,
        "leaf_hash": bytes(32),
        "batch_index": 0,
    }
    return Candidate(**{**given, **fields})


async def make(storage: Storage, ledger: LedgerInfo | None = None) -> LedgerInfo:
    ledger = ledger or info()
    linked = chain.link(ledger, chain.EMPTY_HEAD, seal(), [candidate("genesis")], NOW_NS)
    return await storage.insert_ledger(ledger, linked)


async def append(
    storage: Storage,
    ledger: LedgerInfo,
    *candidates: Candidate,
    known_seq: int = -1,
    last: chain.Head | None = None,
    clock: Callable[[], int] = time.time_ns,
) -> Decided:
    def decide(state: HeadState, known: Mapping[str, Known], database_ns: int) -> Decided:
        assert min(abs(database_ns - now()) for now in (time.time_ns, clock)) < 60_000_000_000
        fresh = [item for item in candidates if item.request_id not in known]
        linked = chain.link(ledger, state.head, seal(), fresh, NOW_NS) if fresh else None
        return Decided(linked, known, state)

    ids = [item.request_id for item in candidates]
    return await storage.append(ledger.uid, ids, known_seq, decide, last=last, clock=clock)
