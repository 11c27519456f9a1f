"""The checker of tests/faults finds what it is there to find."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from provledger.statement import parse_statement
from tests.faults.checker import (
    Acknowledged,
    BrokenInvariantError,
    History,
    Holdings,
    Refused,
    Sent,
    Summary,
    check,
)
from tests.support.chain import Chain, key_set, sample_chain

LEDGER = "tenants/acme/ledgers/main"


def world(chain: Chain | None = None) -> tuple[History, Holdings]:
    """A ledger of which every receipt was sent and acknowledged, and every checkpoint seen."""
    chain = chain or sample_chain()
    receipts = chain.receipts()
    import json

    sent, acknowledged = {}, []
    for receipt in receipts[1:]:
        request_id = parse_statement(receipt.statement).request_id
        value = json.loads(receipt.payload or b"").get("newState")
        sent[LEDGER, request_id] = Sent(LEDGER, request_id, value)
        acknowledged.append(
            Acknowledged(
                LEDGER, request_id, receipt.name, receipt.seq, receipt.t_ns, receipt.receipt_hash
            )
        )
    notes = [chain.checkpoint(size) for size in range(1, len(chain.leaves) + 1)]
    history = History(sent, tuple(acknowledged), (), tuple(notes[1:]))
    return history, Holdings({LEDGER: receipts}, chain.leaves, notes[:2], key_set())


def test_what_is_whole_holds() -> None:
    history, holdings = world()
    count = len(holdings.receipts[LEDGER])
    assert check(history, holdings) == Summary(count, count - 1, count - 1, count + 1)


def _without_last(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    receipts = list(holdings.receipts[LEDGER])[:-1]
    return history, dataclasses.replace(
        holdings, receipts={LEDGER: receipts}, leaves=list(holdings.leaves)[:-1]
    )


def _without_middle(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    receipts = [each for each in holdings.receipts[LEDGER] if each.seq != 3]
    return history, dataclasses.replace(holdings, receipts={LEDGER: receipts})


def _doubled(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    receipts = list(holdings.receipts[LEDGER])
    return history, dataclasses.replace(holdings, receipts={LEDGER: [*receipts, receipts[-1]]})


def _acknowledged_elsewhere(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    first, *rest = history.acknowledged
    moved = dataclasses.replace(first, seq=first.seq + 1)
    return dataclasses.replace(history, acknowledged=(moved, *rest)), holdings


def _acknowledged_and_gone(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    lost = dataclasses.replace(history.acknowledged[0], request_id="lost")
    return dataclasses.replace(history, acknowledged=(*history.acknowledged, lost)), holdings


def _other_content(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    key, sent = next(iter(history.sent.items()))
    changed = {**history.sent, key: dataclasses.replace(sent, value="another")}
    return dataclasses.replace(history, sent=changed), holdings


def _never_sent(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    sent = dict(list(history.sent.items())[1:])
    return dataclasses.replace(history, sent=sent), holdings


def _refused(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    item = Refused(LEDGER, "r", "INTERNAL", "", "")
    return dataclasses.replace(history, refused=(item,)), holdings


def _forked(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    chain = sample_chain()
    fork = chain.checkpoint(5, leaves=[*chain.leaves[:4], b"another entry"])
    return dataclasses.replace(history, checkpoints=(*history.checkpoints, fork)), holdings


def _rolled_back(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    chain = sample_chain()
    later = chain.checkpoint(len(chain.leaves) + 1, leaves=[*chain.leaves, b"one more"])
    return dataclasses.replace(history, checkpoints=(*history.checkpoints, later)), holdings


def _forged_checkpoint(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    note = bytearray(history.checkpoints[-1])
    note[-4] ^= 1
    return dataclasses.replace(history, checkpoints=(bytes(note),)), holdings


def _log_out_of_order(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    leaves = list(holdings.leaves)
    leaves[2], leaves[3] = leaves[3], leaves[2]
    return history, dataclasses.replace(holdings, leaves=leaves)


def _damaged_receipt(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    receipts = list(holdings.receipts[LEDGER])
    receipts[2] = dataclasses.replace(receipts[2], kid="another")
    return history, dataclasses.replace(holdings, receipts={LEDGER: receipts})


def _no_proof(history: History, holdings: Holdings) -> tuple[History, Holdings]:
    receipts = list(holdings.receipts[LEDGER])
    receipts[2] = dataclasses.replace(receipts[2], proofs=())
    return history, dataclasses.replace(holdings, receipts={LEDGER: receipts})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (_without_last, "was acknowledged as seq"),
        (_without_last, "ROLLED BACK"),
        (_without_middle, "stands where seq 3 should be"),
        (_doubled, "is there 2 times"),
        (_acknowledged_elsewhere, "was acknowledged as"),
        (_acknowledged_and_gone, "lost: was acknowledged as seq 1 and is not there"),
        (_other_content, "what is recorded is not what was sent"),
        (_never_sent, "nobody sent it"),
        (_refused, "refused"),
        (_forked, "FORK: a checkpoint of tree size 5"),
        (_rolled_back, "ROLLED BACK"),
        (_forged_checkpoint, "a checkpoint does not verify"),
        (_log_out_of_order, "log index 2: is"),
        (_damaged_receipt, "seq 2: does not verify"),
        (_no_proof, "seq 2: no signed checkpoint covers it"),
    ],
)
def test_what_is_broken_is_named(change: Callable[[Any, Any], Any], text: str) -> None:
    with pytest.raises(BrokenInvariantError, match=text):
        check(*change(*world()))


def test_a_denied_leaf_of_the_log_is_named() -> None:
    """The ledger was put back and goes on from there; the log remembers."""
    history, holdings = world()
    receipts = list(holdings.receipts[LEDGER])[:-1]
    history = dataclasses.replace(history, acknowledged=history.acknowledged[:-1])
    with pytest.raises(BrokenInvariantError, match=f"{LEDGER} denies its seq {len(receipts)}"):
        check(history, dataclasses.replace(holdings, receipts={LEDGER: receipts}))
