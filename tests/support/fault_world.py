"""A ledger and its log that are whole, as the checker of tests/faults is given them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any, TypeAlias

from provledger.client import Mutation, RangeReport, ReceiptFilter
from provledger.receipt import Receipt
from provledger.statement import Statement, parse_statement
from tests.faults.known import (
    Acknowledged,
    Anchored,
    Headed,
    History,
    Holdings,
    Sent,
)
from tests.faults.lists import Lists, conditions
from tests.support.chain import Chain, key_set, sample_chain

LEDGER = "tenants/acme/ledgers/main"
SINKS = ("file:///srv/anchors", "file:///srv/other")
Change: TypeAlias = Callable[[History, Holdings], tuple[History, Holdings]]


def world(
    chain: Chain | None = None, drafts: Callable[[Statement, Receipt], Any] | None = None
) -> tuple[History, Holdings]:
    """A ledger of which every receipt was sent and acknowledged, and every checkpoint seen."""
    chain = chain or sample_chain()
    receipts = chain.receipts()
    sent, acknowledged = {}, []
    for receipt in receipts[1:]:
        statement = parse_statement(receipt.statement)
        request_id = statement.request_id
        sent[LEDGER, request_id] = Sent(LEDGER, (drafts or draft_of)(statement, receipt))
        acknowledged.append(
            Acknowledged(
                LEDGER, request_id, receipt.name, receipt.seq, receipt.t_ns, receipt.receipt_hash
            )
        )
    notes = [chain.checkpoint(size) for size in range(1, len(chain.leaves) + 1)]
    first = receipts[1]
    index = first.proofs[0].log_index
    told = Anchored(LEDGER, first.name, first.receipt_hash, index, notes[-1], SINKS, True)
    heads = (
        Headed(LEDGER, chain.head(1), chain.checkpoint(index + 1)),
        Headed(LEDGER, chain.head(), notes[-1]),
    )
    history = History(sent, tuple(acknowledged), (), tuple(notes[1:]), (told,), heads)
    return history, holdings_of(chain, receipts, [notes[0], notes[-1]])


def draft_of(statement: Statement, receipt: Receipt) -> Mutation:
    """What a client sent who was given this receipt."""
    payload = json.loads(receipt.payload or "")
    values: Any = {
        name: getattr(statement, name)
        for name in Mutation.__dataclass_fields__
        if hasattr(statement, name)
    }
    states = {"previous_state": payload["previousState"], "new_state": payload["newState"]}
    return Mutation(**values, **states)


def holdings_of(chain: Chain, receipts: list[Receipt], notes: list[bytes]) -> Holdings:
    last = receipts[-1]
    whole = RangeReport(0, last.seq, len(receipts), last.seq, last.receipt_hash, True)
    published = chain.checkpoint()
    sunk = dict.fromkeys(SINKS, notes)
    kept = {sink: {len(chain.leaves)} for sink in SINKS}
    return Holdings(
        {LEDGER: receipts},
        chain.leaves,
        sunk,
        published,
        key_set(),
        {LEDGER: whole},
        kept,
        {LEDGER: _lists(receipts)},
    )


def _lists(receipts: list[Receipt]) -> Lists:
    """A ledger by each of the conditions."""

    def fits(receipt: Receipt, where: ReceiptFilter) -> bool:
        said = parse_statement(receipt.statement)
        words = ("resource_type", "resource_id", "actor_id", "receipt_type")
        return (
            all(getattr(where, word) in ("", getattr(said, word)) for word in words)
            and where.start_t_ns <= receipt.t_ns
            and (receipt.t_ns < where.end_t_ns or not where.end_t_ns)
        )

    return {
        where: [(each.seq, each.receipt_hash) for each in receipts if fits(each, where)]
        for where in conditions(receipts)
    }


def receipt_changed(place: int, **changes: Any) -> Change:
    """One receipt is listed with something else in it."""

    def change(history: History, holdings: Holdings) -> tuple[History, Holdings]:
        receipts = list(holdings.receipts[LEDGER])
        receipts[place] = dataclasses.replace(receipts[place], **changes)
        return history, dataclasses.replace(holdings, receipts={LEDGER: receipts})

    return change
