"""What clients know, and what there is: the two that `checker` holds against each other."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from provledger.client import Document, Mutation, RangeReport
from provledger.keyset import KeySet
from provledger.receipt import Receipt
from tests.faults.lists import Lists


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that left, and all of what it asked to record; its request id is the draft's."""

    ledger: str
    draft: Mutation | Document


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A receipt that a client was given."""

    ledger: str
    request_id: str
    name: str
    seq: int
    t_ns: int
    receipt_hash: bytes


@dataclass(frozen=True, slots=True)
class Anchored:
    """What a client was told of a receipt: it stands at `log_index` of the log, and `sinks`, or all
    of them, have acknowledged `checkpoint`, a signed note, which covers it."""

    ledger: str
    name: str
    receipt_hash: bytes
    log_index: int
    checkpoint: bytes
    sinks: tuple[str, ...]
    by_all: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """An answer that no fault excuses."""

    ledger: str
    request_id: str
    code: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Headed:
    """A signed head of a ledger that a client was shown, and the signed note that came with it."""

    ledger: str
    head: bytes
    checkpoint: bytes


@dataclass(frozen=True, slots=True)
class Contradicted:
    """What a client was told of a ledger or a log, `name`, against what it knew when it asked."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class History:
    """What the clients know. `sent` by ledger and request id; `checkpoints` are signed notes."""

    sent: Mapping[tuple[str, str], Sent]
    acknowledged: tuple[Acknowledged, ...]
    refused: tuple[Refused, ...] = ()
    checkpoints: tuple[bytes, ...] = ()
    anchored: tuple[Anchored, ...] = ()
    heads: tuple[Headed, ...] = ()
    contradicted: tuple[Contradicted, ...] = ()


@dataclass(frozen=True, slots=True)
class Holdings:
    """What there is of one log: all receipts by ledger in chain order, its leaf data, the signed
    notes that each sink has, the one that readers of the log find, and the keys. `ranges` is what
    the ledger service says of all that it has stored, by ledger; `evidence`, of which tree sizes
    the anchor says of each sink that it holds them; `lists`, what it lists by conditions."""

    receipts: Mapping[str, Sequence[Receipt]]
    leaves: Sequence[bytes]
    sunk: Mapping[str, Sequence[bytes]]
    published: bytes
    keys: KeySet
    ranges: Mapping[str, RangeReport]
    evidence: Mapping[str, Collection[int]]
    lists: Mapping[str, Lists]


@dataclass(frozen=True, slots=True)
class Summary:
    """What was compared, so that a test can see that it was something.

    `checkpoints` counts different ones, wherever they were found; `seen` are those of the clients,
    `anchored` those that sinks were said to have. `heads` are those of ledgers.
    """

    receipts: int
    acknowledged: int
    sent: int
    checkpoints: int
    seen: int
    anchored: int
    heads: int
