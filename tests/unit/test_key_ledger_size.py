"""A key ledger that is more than is read of one: of that nothing is told, which is no failure."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from keys_svc.registry import MAX_KEYS
from provledger.errors import KeyLedgerTooLargeError
from provledger.key_ledger import verify_from_pin
from provledger.key_ledger_lines import MAX_KEY_LEDGER_BYTES, lines_of, take
from provledger.keyset import CoveredCheckpoint
from provledger.receipt import Receipt, parse_receipt
from provledger_cli.failures import COULD_NOT_TELL, report
from provledger_cli.verifying.verdicts import advice, failure_code, failure_document
from tests.support.chain import ORIGIN, Chain, sample_chain
from tests.support.key_history import PIN, in_one_log, key_chain, replaced


@pytest.fixture(scope="module")
def both() -> tuple[Chain, Chain]:
    chain = sample_chain((3, 1))
    pending = replaced("witness-1", "witness-2", "witness", CoveredCheckpoint(ORIGIN, 1, bytes(32)))
    keys = key_chain(pending[:1])
    in_one_log(chain, keys)
    return chain, keys


READERS: dict[str, Callable[[list[bytes]], object]] = {
    "verify --pin": lambda lines: verify_from_pin(lines, PIN),
    "the key ledger given": take,
    "keys rebuild": lines_of,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("is_carried", [True, False])
def test_of_a_key_ledger_that_is_more_than_we_read_nothing_is_told(
    both: tuple[Chain, Chain], monkeypatch: pytest.MonkeyPatch, reader: str, is_carried: bool
) -> None:
    chain, keys = both
    alone = keys.export()
    lines = chain.export(key_ledger=alone) if is_carried else alone
    READERS[reader](lines)
    limit = sum(map(len, alone)) - 1
    monkeypatch.setattr("provledger.key_ledger_lines.MAX_KEY_LEDGER_BYTES", limit)
    with pytest.raises(KeyLedgerTooLargeError, match=f"longer than {limit} bytes") as caught:
        READERS[reader](lines)
    # Nothing in it is wrong, for all that is known.
    assert failure_code(caught.value) == report(caught.value) == COULD_NOT_TELL
    assert failure_document(caught.value)["holds"] is None
    assert "--keys FILE" in advice(caught.value, pinned=True)


def test_all_keys_that_a_registry_takes_have_room_in_a_key_ledger(
    both: tuple[Chain, Chain],
) -> None:
    created = both[1].export()[-2]
    receipt = parse_receipt(created)
    assert isinstance(receipt, Receipt)
    assert receipt.receipt_type == "key.created"
    # A proof is as long as the log is deep: 15 hashes more, in base64.
    assert 3 * MAX_KEYS * (len(created) + 15 * 44) < MAX_KEY_LEDGER_BYTES
