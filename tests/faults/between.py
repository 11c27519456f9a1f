"""What services ask of each other, and what makes them do so: `tests.faults.test_lost_answers`.

An occasion is one thing that a caller does, with its own look at what came of it. Which calls there
are is not read from the code: the proxies on each way see them (`Proxy.calls`), and one that is not
in BETWEEN fails the test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TypeAlias

from provledger.api.common.v1 import common_pb2
from provledger.api.keys.v1 import keys_pb2
from provledger.api.ledger.v1 import ledger_pb2
from provledger_cli.embedded.bootstrap import PURPOSES, local_key
from tests.faults.rpc_calls import LEDGER
from tests.faults.rpcs import CALLS, Call, Caller

Edge: TypeAlias = tuple[str, str]

_PATIENCE_S = 60.0


async def _new_key(caller: Caller, purpose: str) -> None:
    """Register a key; its event comes to be in the key ledger, once."""
    kid = caller.name(purpose)
    uri, jwk = await local_key(caller.cluster.data, kid, purpose)
    request = keys_pb2.CreateKeyRequest(kid=kid, purpose=PURPOSES[purpose], uri=uri, jwk=jwk)
    await caller.see("keys", "CreateKey", request)
    async with asyncio.timeout(_PATIENCE_S):
        while True:
            answer = await caller.see("keys", "ListKeyEvents", keys_pb2.ListKeyEventsRequest())
            (event,) = (each for each in answer.events if each.event.kid == kid)
            if event.state == keys_pb2.KEY_EVENT_STATE_RECORDED:
                break
            await asyncio.sleep(0.05)
    listing = ledger_pb2.ListReceiptsRequest(
        parent="tenants/system/ledgers/keys", resource_type="Key", resource_id=kid
    )
    receipts = (await caller.see("ledger", "ListReceipts", listing)).receipts
    assert [each.name for each in receipts] == [event.receipt]


async def new_witness_key(caller: Caller) -> None:
    """The witness endorses it."""
    await _new_key(caller, "witness")


async def new_head_key(caller: Caller) -> None:
    """The anchor endorses it."""
    await _new_key(caller, "head")


async def read_proofs(caller: Caller) -> None:
    """List receipts with proofs, which come without while the anchor cannot be asked."""
    await CALLS["ledger", "Append"](caller)
    request = ledger_pb2.ListReceiptsRequest(
        parent=LEDGER, page_size=1000, view=common_pb2.RECEIPT_VIEW_FULL
    )
    async with asyncio.timeout(_PATIENCE_S):
        # Nobody tells when there are some.
        while not (  # noqa: ASYNC110
            (await caller.ask("ledger", "ListReceipts", request)).receipts[0].proofs
        ):
            await asyncio.sleep(0.05)


async def new_own_log(caller: Caller) -> None:
    """A ledger of a tenant that has its log for itself."""
    request = ledger_pb2.CreateLedgerRequest(
        parent=f"tenants/{caller.name('own')}", ledger_id="main", own_log=True
    )
    made = (await caller.ask("ledger", "CreateLedger", request)).ledger
    again = (await caller.see("ledger", "CreateLedger", request)).ledger
    assert (again.uid, again.log) == (made.uid, made.log)


async def restart_ledger(caller: Caller) -> None:
    """What it asks before it appends anything."""
    caller.cluster["ledger"].kill()
    caller.cluster.restart("ledger")
    await CALLS["ledger", "Append"](caller)


async def restart_witness(caller: Caller) -> None:
    """It signs nothing before it knows with which key."""
    caller.cluster["witness"].kill()
    caller.cluster.restart("witness")
    await CALLS["ledger", "Append"](caller)


async def restart_anchor(caller: Caller) -> None:
    """The same."""
    caller.cluster["anchor"].kill()
    caller.cluster.restart("anchor")
    await CALLS["ledger", "GetHead"](caller)


async def nothing(caller: Caller) -> None:
    """It comes by itself."""
    await asyncio.sleep(0.1)


_APPEND = CALLS["ledger", "Append"]

BETWEEN: Mapping[Edge, Mapping[str, Call]] = {
    ("ledger", "witness"): {"WitnessBatch": _APPEND, "SignKeyEvent": new_witness_key},
    ("ledger", "anchor"): {
        "SubmitLeaves": _APPEND,
        "GetLedgerState": restart_ledger,
        "GetLog": CALLS["ledger", "CreateLedger"],
        "BatchGetInclusionProofs": read_proofs,
        "GetLedgerHead": CALLS["ledger", "GetHead"],
        "SignKeyEvent": new_head_key,
        "CreateLog": new_own_log,
    },
    ("ledger", "keys"): {
        "WatchKeys": restart_ledger,
        "EndorseKeyEvent": new_witness_key,
        "ListKeyEvents": new_witness_key,
        "RecordKeyEvent": new_witness_key,
    },
    ("witness", "keys"): {"WatchKeys": restart_witness, "ReportSigner": nothing},
    ("anchor", "keys"): {"WatchKeys": restart_anchor, "ReportSigner": nothing},
}
"""For each way between two services, its calls and their occasions."""

AT_LAST = frozenset({new_own_log})
"""Occasions after which there is a log besides the one that the checker reads."""
