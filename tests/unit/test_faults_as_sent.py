"""The checker of tests/faults names what is recorded otherwise than it was sent."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from provledger import jcs
from provledger.client import Document, Mutation
from provledger.receipt import Receipt
from provledger.statement import Statement
from tests.faults import record
from tests.faults.checker import BrokenInvariantError, check
from tests.faults.known import (
    History,
    Holdings,
    Sent,
)
from tests.support.chain import sample_chain
from tests.support.fault_world import (
    LEDGER,
    draft_of,
    receipt_changed,
    world,
)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"action": "CREATE"}, "action, mutationType"),
        ({"resource_type": "another"}, "resource_type, entityType"),
        ({"resource_id": "another"}, "resource_id, entityId"),
        ({"actor_id": "another"}, "actor_id"),
        ({"actor_type": ""}, "actor_type"),
        ({"occurred_at": ""}, "occurred_at"),
        ({"origin_service": "another"}, "origin_service"),
        ({"trace_id": ""}, "trace_id"),
        ({"upstream_events": ("git:1",)}, "upstream_events"),
        ({"op_id": "another"}, "op_id"),
        ({"op_parent_id": ""}, "op_parent_id"),
        ({"previous_state": {"name": "another"}}, "diff, previousState"),
        ({"new_state": {"name": "another"}}, "diff, newState"),
        ({"diff": []}, "diff"),
    ],
)
def test_what_is_recorded_otherwise_than_it_was_sent_is_named(
    changes: dict[str, Any], named: str
) -> None:
    history, holdings = world()
    key, sent = next(iter(history.sent.items()))
    changed = Sent(sent.ledger, dataclasses.replace(sent.draft, **changes))
    history = dataclasses.replace(history, sent={**history.sent, key: changed})
    with pytest.raises(BrokenInvariantError) as caught:
        check(history, holdings)
    assert str(caught.value).endswith(f"what is recorded is not what was sent: {named}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "payload", [b"", b"no JSON", b"[]", b'{"newState":{"date":"2024-01-02","name":"v1"}}']
)
def test_a_payload_that_is_no_mutation_is_named(payload: bytes) -> None:
    with pytest.raises(BrokenInvariantError, match="request-1: what is recorded is not what was"):
        check(*receipt_changed(1, payload=payload)(*world()))


def test_a_payload_without_its_patch_is_named() -> None:
    history, holdings = world()
    payload = json.loads(holdings.receipts[LEDGER][1].payload or "")
    del payload["diff"]
    with pytest.raises(BrokenInvariantError, match="is not what was sent: diff"):
        check(*receipt_changed(1, payload=jcs.encode(payload))(history, holdings))


DOCUMENTS: dict[str, tuple[str, Any]] = {
    "bytes": ("application/octet-stream", b"\x00\xff"),
    "nothing": ("text/plain", b""),
    "JSON": ("application/json", b'{"z": 1, "a": [null]}'),
}


def _world_of_documents() -> tuple[History, Holdings]:
    chain = sample_chain((2,))
    chain.append([("report", {"a": [None], "z": 1})])
    chain.append([("report", DOCUMENTS[name]) for name in ("bytes", "nothing")])
    history, holdings = world(chain, drafts=_any_draft)
    return history, holdings


def _any_draft(statement: Statement, receipt: Receipt) -> Mutation | Document:
    if statement.is_mutation:
        return draft_of(statement, receipt)
    names = Document.__dataclass_fields__
    values: Any = {name: getattr(statement, name) for name in names if hasattr(statement, name)}
    (sent,) = (
        payload for media_type, payload in DOCUMENTS.values() if media_type == statement.media_type
    )
    return Document(**values, payload=sent)


def test_documents_are_there_as_they_were_sent(tmp_path: Path) -> None:
    history, holdings = _world_of_documents()
    assert sum(isinstance(item.draft, Document) for item in history.sent.values()) == 3
    check(history, holdings)
    kept = record.Record(tmp_path / "record")
    kept.sent(history.sent.values())
    kept.close()
    assert record.read(kept.path).sent == history.sent


@pytest.mark.parametrize("what", sorted(DOCUMENTS))
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"payload": b"another"}, "payload"),
        ({"receipt_type": "another"}, "kind"),
        ({"media_type": "image/png"}, "kind"),
        ({"resource_id": "another"}, "resource_id"),
        ({"actor_id": "another"}, "actor_id"),
    ],
)
def test_a_document_that_is_recorded_otherwise_is_named(
    what: str, changes: dict[str, Any], named: str
) -> None:
    history, holdings = _world_of_documents()
    media_type, _ = DOCUMENTS[what]
    (key,) = (
        key
        for key, sent in history.sent.items()
        if isinstance(sent.draft, Document) and sent.draft.media_type == media_type
    )
    if what == "JSON" and "payload" in changes:
        changes = {"payload": b"[]"}
    changed = Sent(LEDGER, dataclasses.replace(history.sent[key].draft, **changes))
    history = dataclasses.replace(history, sent={**history.sent, key: changed})
    with pytest.raises(BrokenInvariantError, match=f"is not what was sent: {named}"):
        check(history, holdings)
