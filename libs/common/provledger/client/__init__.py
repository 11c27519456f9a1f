"""The Python client of Provledger: record changes, get receipts, wait until they are anchored.

    from provledger.client import Client, Mutation

    with Client("127.0.0.1:7003") as client:
        client.create_ledger("acme")
        receipt = client.append(
            "tenants/acme/ledgers/main",
            Mutation(
                action="UPDATE",
                resource_type="Account",
                resource_id="42",
                actor_id="billing-job",
                previous_state={"plan": "free"},
                new_state={"plan": "pro"},
            ),
        )
        receipt = client.wait_for_anchor(receipt.name)
        print(receipt.encode().decode())

`AsyncClient` has the same methods as coroutines. Every call has a deadline and is retried with
jitter while that lasts; the request id that each draft carries (made here where none is given)
makes a retry return the same receipt. Failures are the exceptions of `provledger.errors`; those of
appends have the `request_ids` under which trying again is safe.

Verifying what comes back needs no client and no service: `provledger.verify`.
"""

from __future__ import annotations

from provledger.client.aio import AsyncClient
from provledger.client.calls import CallPolicy
from provledger.client.drafts import Document, Draft, Mutation
from provledger.client.sync import Client
from provledger.client.values import (
    AnchorState,
    AppendResult,
    Ledger,
    RangeReport,
    ReceiptFilter,
    ReceiptPage,
    ReceiptSummary,
    SignedHead,
)
from provledger.rpc.tls import TLSSettings

__all__ = [
    "AnchorState",
    "AppendResult",
    "AsyncClient",
    "CallPolicy",
    "Client",
    "Document",
    "Draft",
    "Ledger",
    "Mutation",
    "RangeReport",
    "ReceiptFilter",
    "ReceiptPage",
    "ReceiptSummary",
    "SignedHead",
    "TLSSettings",
]
