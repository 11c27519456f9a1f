"""That the `diff` of a mutation is an array: an object may have the very same fields."""

from __future__ import annotations

from typing import Any

import pytest

from provledger import jcs
from provledger.errors import VerificationError
from provledger.report import Check, Finding, Status
from provledger.verify import verify_receipt
from tests.support.chain import Chain, key_set, mutation, with_changes

KEYS = key_set()


@pytest.mark.parametrize("operations", [["x"], [["add", "/x", 1], {}], [None] * 12])
def test_two_payloads_of_one_commitment_do_not_both_hold(operations: list[Any]) -> None:
    """All signatures and hashes are good: ledger and witness cheat together."""
    kind, payload = mutation(1, diff=operations)
    chain = Chain()
    chain.append([(kind, payload)])
    receipt = chain.receipts()[1]
    assert verify_receipt(receipt.encode(), KEYS).status is Status.VERIFIED
    named = {str(place): operation for place, operation in enumerate(operations)}
    twin = with_changes(receipt, payload=jcs.encode(payload | {"diff": named}))
    for source in (twin, twin.encode()):
        with pytest.raises(VerificationError, match="diff of a mutation is an array") as caught:
            verify_receipt(source, KEYS)
        found = (caught.value.check, caught.value.finding)
        assert found == (Check.COMMITMENT, Finding.PAYLOAD_CHANGED)


def test_a_mutation_without_a_diff_does_not_hold() -> None:
    kind, payload = mutation(1)
    del payload["diff"]
    chain = Chain()
    chain.append([(kind, payload)])
    with pytest.raises(VerificationError, match="diff of a mutation is an array"):
        verify_receipt(chain.receipts()[1].encode(), KEYS)
