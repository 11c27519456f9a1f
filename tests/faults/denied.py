"""Asks a ledger whose database is too old for everything that was acknowledged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from provledger.client import CallPolicy, Client
from provledger.errors import StatusError
from provledger.retry import NO_RETRY
from tests.faults import record


def check_not_denied(endpoint: str, record_path: Path, ledger: str, reason: str) -> int:
    """Check that what is there is answered, and what is lost is `reason`; how much that is.

    In every way: by name, in a list, by `VerifyRange`, and by what the ledger says of itself.
    """
    acknowledged = [item for item in record.read(record_path).acknowledged if item.ledger == ledger]
    lost = 0

    def refuses(ask: Callable[[], object]) -> None:
        with pytest.raises(StatusError) as caught:
            ask()
        assert caught.value.reason == reason

    with Client(endpoint, policy=CallPolicy(timeout_s=30.0, retry=NO_RETRY)) as client:
        behind = client.get_ledger(ledger)
        for item in acknowledged:
            if item.seq <= behind.seq:
                assert client.get_summary(item.name).receipt_hash == item.receipt_hash
                continue
            lost += 1
            refuses(lambda: client.get_receipt(item.name))  # noqa: B023
        summaries = client.list_summaries(ledger, page_size=500)
        assert [next(summaries).seq for _ in range(behind.seq + 1)] == [*range(behind.seq + 1)]
        refuses(lambda: next(summaries))
        refuses(lambda: client.verify_range(ledger))
        assert client.get_ledger(ledger).read_only_reason == reason
    assert lost
    return lost
