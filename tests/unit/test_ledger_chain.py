"""Linking, clocks and names of the ledger's domain."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_svc import chain
from ledger_svc.chain import Candidate, Head, HeadState, LedgerInfo, Seal, Stored
from provledger import jcs, names
from provledger.entry import parse_entry, receipt_hash
from provledger.errors import DataLossError, FailedPreconditionError, UnavailableError
from provledger.witness_batch import WitnessBatch, signature_digest

NOW_NS = 1_763_665_200_000_000_000
LEDGER = LedgerInfo(bytes(16), "acme", "main", "blake3", "logs/00", "log.test/1", NOW_NS)


def seal(suite: str = "blake3") -> Seal:
    batch = WitnessBatch(suite, bytes(32), 3, "witness-1", bytes(32), 1, NOW_NS)
    return Seal(suite, batch.encode(), b"sig", 0, bytes(96), b"", "witness-1", 1, bytes(32), NOW_NS)


def candidate(number: int) -> Candidate:
    return Candidate(
        receipt_id=bytes([number]) * 16,
        request_id=f"r{number}",
        receipt_type="mutation",
        resource_type="Version",
        resource_id="x",
        actor_id="bot",
        statement=b"statement",
        payload=b"payload",
        secret=bytes(32),
        payload_hash=bytes([number]) * 32,
        commitment_size=8,
        leaf_hash=bytes([number + 100]) * 32,
        batch_index=number,
    )


@given(
    count=st.integers(1, 20),
    seq=st.integers(0, 2**40),
    behind_ns=st.integers(-(10**12), 10**12),
)
def test_entries_form_a_chain_with_increasing_times(count: int, seq: int, behind_ns: int) -> None:
    head = Head(seq, os.urandom(32), NOW_NS + behind_ns)
    linked = chain.link(LEDGER, head, seal(), [candidate(n) for n in range(count)], NOW_NS)
    previous, t_ns = head.receipt_hash, head.t_ns
    for place, (row, data) in enumerate(zip(linked.rows, linked.entries, strict=True)):
        entry = parse_entry(data)
        assert (entry.seq, row.seq) == (seq + 1 + place,) * 2
        assert entry.prev == previous
        assert entry.t_ns == row.t_ns > t_ns
        assert row.receipt_hash == receipt_hash("blake3", data)
        assert entry.statement == candidate(place).leaf_hash
        assert entry.signature == signature_digest("blake3", seal().body, seal().sig)
        assert row.batch_seq == seq + 1
        stored = Stored(row, previous)
        again = chain.entry_of(LEDGER, stored, entry.statement, entry.signature.hex())
        assert again == (data, row.receipt_hash)
        previous, t_ns = row.receipt_hash, row.t_ns
    assert linked.head == Head(seq + count, previous, t_ns)
    assert linked.rows[0].t_ns == max(NOW_NS, head.t_ns + 1)
    assert linked.batch.batch_seq == seq + 1


def test_genesis_has_no_previous_hash() -> None:
    linked = chain.link(LEDGER, chain.EMPTY_HEAD, seal(), [candidate(1)], NOW_NS)
    assert parse_entry(linked.entries[0]).prev is None
    assert linked.head.seq == 0


def test_genesis_payload_is_canonical() -> None:
    payload = chain.genesis_payload("fips", "log.test/1", bytes(16), b"\1" * 32, b"\2" * 32)
    value = jcs.parse(payload)
    assert jcs.encode(value) == payload
    assert value == {
        "v": "1",
        "suite": "fips",
        "logOrigin": "log.test/1",
        "logUid": "00" * 16,
        "logKey": "01" * 32,
        "witnessKey": "02" * 32,
        "predecessor": None,
    }


@pytest.mark.parametrize(
    ("database_ns", "signed_at_ns", "refused"),
    [
        (0, 0, False),
        (chain.MAX_CLOCK_AHEAD_NS, 0, False),
        (chain.MAX_CLOCK_AHEAD_NS + 1, 0, True),
        (0, chain.MAX_CLOCK_AHEAD_NS + 1, True),
        (0, -chain.MAX_CLOCK_AHEAD_NS, False),
        (0, -chain.MAX_CLOCK_AHEAD_NS - 1, True),
        (-(10**15), -(10**15), False),
        (chain.MAX_CLOCK_AHEAD_NS, -1, True),
    ],
)
def test_clock_far_ahead_is_refused(database_ns: int, signed_at_ns: int, refused: bool) -> None:
    """Given is how far each of the others is behind."""
    if not refused:
        chain.check_clock(NOW_NS, NOW_NS - database_ns, NOW_NS - signed_at_ns)
        return
    with pytest.raises(UnavailableError) as caught:
        chain.check_clock(NOW_NS, NOW_NS - database_ns, NOW_NS - signed_at_ns)
    assert caught.value.reason == "CLOCK_SKEW"


def test_latched_ledger_takes_nothing() -> None:
    chain.check_writable(LEDGER, HeadState(chain.EMPTY_HEAD, -1, ""))
    with pytest.raises(FailedPreconditionError) as caught:
        chain.check_writable(LEDGER, HeadState(chain.EMPTY_HEAD, -1, "LEDGER_FORKED"))
    assert caught.value.reason == "LEDGER_READ_ONLY"
    assert caught.value.metadata["because"] == "LEDGER_FORKED"


def test_database_that_went_back_is_noticed() -> None:
    known = Head(5, b"\1" * 32, NOW_NS)
    chain.check_not_rolled_back(LEDGER, known, known)
    chain.check_not_rolled_back(LEDGER, Head(6, b"\2" * 32, NOW_NS), known)
    chain.check_not_rolled_back(LEDGER, known, chain.EMPTY_HEAD)
    for stored in (Head(4, b"\1" * 32, NOW_NS), Head(5, b"\2" * 32, NOW_NS)):
        with pytest.raises(DataLossError):
            chain.check_not_rolled_back(LEDGER, stored, known)


@given(st.integers(0, 2**48 * 1_000_000 - 1), st.binary(min_size=0, max_size=50))
def test_receipt_ids_are_uuid7(now_ns: int, noise: bytes) -> None:
    random = noise[: len(noise) // 10 * 10]
    ids = chain.receipt_ids(now_ns, random)
    assert len(ids) == len(random) // 10
    for place, receipt_id in enumerate(ids):
        assert receipt_id == names.uuid7(now_ns, random[place * 10 : place * 10 + 10])
        text = names.receipt_id_text(receipt_id)
        assert chain.receipt_name(LEDGER.name, receipt_id) == f"{LEDGER.name}/receipts/{text}"
