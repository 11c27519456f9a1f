"""Asks a ledger whose database is too old for everything that was acknowledged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from provledger.client import CallPolicy, Client, ReceiptFilter
from provledger.errors import StatusError
from provledger.retry import NO_RETRY
from tests.faults import record
from tests.faults.known import Acknowledged

_OTHERWISE = 4
"""Of so many lost receipts, spread over all, is asked in every way; of the others by name."""


def check_not_denied(
    endpoint: str, record_path: Path, ledger: str, reason: str, *, made_later: Sequence[str] = ()
) -> int:
    """Check that what is there is answered, and what is lost is `reason`; how much that is.

    In every way: by name, in a list, by what one can filter by, by `VerifyRange`, by what the
    ledger says of itself, and by sending it once more. `made_later` are ledgers that the database
    lacks as a whole: they are no more denied, nor made again.
    """
    history = record.read(record_path)
    acknowledged = [item for item in history.acknowledged if item.ledger == ledger]
    lost: list[Acknowledged] = []

    def refuses(ask: Callable[[], object]) -> None:
        with pytest.raises(StatusError) as caught:
            ask()
        assert caught.value.reason == reason, caught.value

    def lists(where: ReceiptFilter) -> None:
        for _ in client.list_summaries(ledger, where, page_size=500):
            pass

    with Client(endpoint, policy=CallPolicy(timeout_s=30.0, retry=NO_RETRY)) as client:
        behind = client.get_ledger(ledger)
        for item in acknowledged:
            if item.seq <= behind.seq:
                assert client.get_summary(item.name).receipt_hash == item.receipt_hash
            else:
                lost.append(item)
                refuses(lambda: client.get_receipt(item.name))  # noqa: B023
        # Each of these asks for all that is lost, or takes the same way whichever is asked for.
        for item in lost[:: max(1, len(lost) // _OTHERWISE)]:
            draft = history.sent[ledger, item.request_id].draft
            refuses(lambda: client.append(ledger, draft))  # noqa: B023
            for where in (
                ReceiptFilter(resource_type=draft.resource_type, resource_id=draft.resource_id),
                ReceiptFilter(actor_id=draft.actor_id, start_t_ns=item.t_ns),
                ReceiptFilter(start_t_ns=item.t_ns, end_t_ns=item.t_ns + 1),
            ):
                refuses(lambda: lists(where))  # noqa: B023
        summaries = client.list_summaries(ledger, page_size=500)
        assert [next(summaries).seq for _ in range(behind.seq + 1)] == [*range(behind.seq + 1)]
        refuses(lambda: next(summaries))
        refuses(lambda: client.verify_range(ledger))
        assert client.get_ledger(ledger).read_only_reason == reason
        for name in made_later:
            refuses(lambda: client.get_ledger(name))  # noqa: B023
            refuses(lambda: next(client.list_summaries(name)))  # noqa: B023
            refuses(lambda: client.create_ledger(name.split("/")[1], name.split("/")[3]))  # noqa: B023
            refuses(lambda: list(client.list_ledgers()))
    assert lost
    return len(lost)
