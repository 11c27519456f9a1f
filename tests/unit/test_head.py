"""Heads: the signed last entry of a ledger, in one spelling only."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provledger import jcs
from provledger.errors import ReceiptFormatError
from provledger.head import Head, parse_head

HEAD = Head(
    ledger_uid=bytes(range(16)),
    seq=500,
    receipt_hash=bytes([1] * 32),
    log_index=501,
    origin="log.example/1",
    size=502,
    root=bytes([2] * 32),
    kid="head-1",
    epoch=3,
    signed_at_ns=1_763_665_200_000_000_000,
)
TEXT = (
    '{"epoch":"3","kid":"head-1","ledger":"000102030405060708090a0b0c0d0e0f",'
    f'"logIndex":"501","origin":"log.example/1","receiptHash":"{"01" * 32}","root":"{"02" * 32}",'
    '"seq":"500","signedAtNs":"1763665200000000000","size":"502","v":"1"}'
)

positive = st.integers(1, 2**63 - 1)
heads = st.builds(
    Head,
    ledger_uid=st.binary(min_size=16, max_size=16),
    seq=st.integers(0, 2**63 - 1),
    receipt_hash=st.binary(min_size=32, max_size=32),
    log_index=st.integers(0, 2**32),
    origin=st.from_regex(r"[a-z.]{1,20}/[a-z0-9]{1,20}", fullmatch=True),
    size=st.integers(2**32 + 1, 2**63 - 1),
    root=st.binary(min_size=32, max_size=32),
    kid=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True),
    epoch=positive,
    signed_at_ns=positive,
)


def test_bytes_of_a_head() -> None:
    assert HEAD.encode().decode() == TEXT


@given(heads)
def test_bytes_are_canonical_and_read_back(head: Head) -> None:
    data = head.encode()
    assert jcs.encode(jcs.parse(data)) == data
    assert parse_head(data) == head


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"v":"1"', '"v":"2"'),
        ('"v":"1"', '"v":1'),
        ('"seq":"500"', '"seq":500'),
        ('"seq":"500"', '"seq":"0500"'),
        ('"seq":"500"', '"seq":"-1"'),
        ('"seq":"500"', '"seq":" 500"'),
        ('"seq":"500"', '"seq":"5_0"'),
        ('"seq":"500"', '"seq":"٥"'),
        ('"logIndex":"501"', '"logIndex":"502"'),
        ('"logIndex":"501"', '"logIndex":"-1"'),
        ("000102030405060708090a0b0c0d0e0f", "000102030405060708090A0B0C0D0E0F"),
        ("000102030405060708090a0b0c0d0e0f", "00"),
        ("000102030405060708090a0b0c0d0e0f", "xy" * 16),
        ("01" * 32, "01" * 31),
        ("02" * 32, "02" * 33),
        ('"v":"1"}', '"v":"1","w":"1"}'),
        ('"epoch":"3",', ""),
        ('"v":"1"}', '"v":"1"}\n'),
        ('"kid":"head-1"', '"kid": "head-1"'),
        (TEXT, "[]"),
        (TEXT, "not JSON"),
        (TEXT, '{"v":"1","v":"1"}'),
    ],
)
def test_any_other_text_is_refused(old: str, new: str) -> None:
    assert old in TEXT
    with pytest.raises(ReceiptFormatError, match="head"):
        parse_head(TEXT.replace(old, new).encode())


@pytest.mark.parametrize(
    "changes",
    [
        {"origin": ""},
        {"origin": "two\nlines"},
        {"kid": ""},
        {"kid": "a b"},
        {"epoch": 0},
        {"signed_at_ns": 0},
        {"signed_at_ns": -1},
        {"seq": 2**63},
        {"size": 10**30},
    ],
    ids=str,
)
def test_a_value_that_no_head_has_is_refused(changes) -> None:
    with pytest.raises(ReceiptFormatError):
        parse_head(dataclasses.replace(HEAD, **changes).encode())
