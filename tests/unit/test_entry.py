"""Entries: the bytes of a chain link, read and written in one spelling only."""

from __future__ import annotations

import dataclasses

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from provledger import jcs
from provledger.entry import Entry, encode_entry, parse_entry, receipt_hash
from provledger.errors import InputError, ReceiptFormatError
from provledger.hashing import SUITES

LINK = Entry(
    ledger_uid=bytes(range(16)),
    suite="blake3",
    seq=7,
    t_ns=1_763_665_200_000_000_000,
    prev=bytes([1] * 32),
    statement=bytes([2] * 32),
    payload=bytes([3] * 32),
    signature=bytes([4] * 32),
)
TEXT = (
    '{"ledger":"000102030405060708090a0b0c0d0e0f",'
    f'"payload":"{"03" * 32}","prev":"{"01" * 32}","seq":"7","signature":"{"04" * 32}",'
    f'"statement":"{"02" * 32}","suite":"blake3","tNs":"1763665200000000000","v":"1"}}'
)
GENESIS = dataclasses.replace(LINK, seq=0, prev=None)

hashes = st.binary(min_size=32, max_size=32)
entries = st.builds(
    Entry,
    ledger_uid=st.binary(min_size=16, max_size=16),
    suite=st.sampled_from(sorted(SUITES)),
    seq=st.integers(1, 10**19 - 1),
    t_ns=st.integers(1, 10**19 - 1),
    prev=hashes,
    statement=hashes,
    payload=hashes,
    signature=hashes,
)


def test_bytes_of_an_entry() -> None:
    assert LINK.encode().decode() == TEXT


def test_bytes_of_a_genesis() -> None:
    text = TEXT.replace(f'"{"01" * 32}"', "null").replace('"seq":"7"', '"seq":"0"')
    assert GENESIS.encode().decode() == text
    assert parse_entry(GENESIS.encode()) == GENESIS


@given(entries)
def test_bytes_are_canonical_and_read_back(entry: Entry) -> None:
    data = entry.encode()
    assert jcs.encode(jcs.parse(data)) == data
    assert parse_entry(data) == entry


def test_fast_encoder_writes_the_same() -> None:
    made = encode_entry(
        LINK.suite,
        LINK.ledger_uid.hex(),
        LINK.seq,
        LINK.t_ns,
        LINK.prev,
        LINK.statement,
        LINK.payload,
        LINK.signature.hex(),
    )
    assert made == LINK.encode()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"v":"1"', '"v":"2"'),
        ('"v":"1"', '"v":1'),
        ('"seq":"7"', '"seq":"07"'),
        ('"seq":"7"', '"seq":"-7"'),
        ('"seq":"7"', '"seq":"+7"'),
        ('"seq":"7"', '"seq":"٧"'),
        ('"seq":"7"', '"seq":"0"'),
        ('"seq":"7"', f'"seq":"{"1" * 20}"'),
        ('"tNs":"1763665200000000000"', '"tNs":"0"'),
        ('"suite":"blake3"', '"suite":"BLAKE3"'),
        ('"suite":"blake3"', '"suite":"none"'),
        (f'"{"01" * 32}"', "null"),
        ("03" * 32, "03" * 31),
        ("03" * 32, "0A" * 32),
        ('"ledger":', '"ledger": '),
        ('"v":"1"}', '"v":"1"}\n'),
        ('"v":"1"}', '"v":"1","w":"1"}'),
        ('{"ledger"', ' {"ledger"'),
    ],
)
def test_any_other_text_is_refused(old: str, new: str) -> None:
    assert old in TEXT
    with pytest.raises(ReceiptFormatError, match="entry"):
        parse_entry(TEXT.replace(old, new).encode())


def test_genesis_with_a_predecessor_is_refused() -> None:
    with pytest.raises(ReceiptFormatError, match="prev"):
        parse_entry(dataclasses.replace(LINK, seq=0).encode())


@pytest.mark.parametrize("position", range(len(TEXT)))
def test_every_changed_byte_is_refused_or_says_something_else(position: int) -> None:
    data = bytearray(TEXT.encode())
    data[position] ^= 1
    try:
        entry = parse_entry(bytes(data))
    except ReceiptFormatError:
        return
    assert entry != LINK


def test_receipt_hash_is_that_of_the_suite() -> None:
    preimage = b"provledger/entry/v1\n" + LINK.encode()
    assert receipt_hash("blake3", LINK.encode()) == blake3(preimage).digest()
    assert receipt_hash("blake3-all", LINK.encode()) == blake3(preimage).digest()
    assert receipt_hash("fips", LINK.encode()) != blake3(preimage).digest()
    with pytest.raises(InputError):
        receipt_hash("none", LINK.encode())
