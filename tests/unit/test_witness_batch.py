"""Witness batches: the signed body, the tree of statements, the digest that entries hold."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from provledger import dsse, jcs, merkle, witness_batch
from provledger.errors import InvalidProofError, ReceiptFormatError
from provledger.hashing import SUITES
from provledger.witness_batch import WitnessBatch, parse_body

BATCH = WitnessBatch(
    suite="blake3",
    root=bytes([1] * 32),
    size=500,
    kid="witness-1",
    thumbprint=bytes([2] * 32),
    epoch=3,
    signed_at_ns=1_763_665_200_000_000_000,
)
TEXT = (
    f'{{"epoch":"3","jkt":"{"02" * 32}","kid":"witness-1","root":"{"01" * 32}",'
    '"signedAtNs":"1763665200000000000","size":"500","suite":"blake3","v":"1"}'
)

batches = st.builds(
    WitnessBatch,
    suite=st.sampled_from(sorted(SUITES)),
    root=st.binary(min_size=32, max_size=32),
    size=st.integers(1, 10**10 - 1),
    kid=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True),
    thumbprint=st.binary(min_size=32, max_size=32),
    epoch=st.integers(1, 10**19 - 1),
    signed_at_ns=st.integers(1, 10**19 - 1),
)


def test_bytes_of_a_body() -> None:
    assert BATCH.encode().decode() == TEXT


@given(batches)
def test_bytes_are_canonical_and_read_back(batch: WitnessBatch) -> None:
    data = batch.encode()
    assert jcs.encode(jcs.parse(data)) == data
    assert parse_body(data) == batch


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"v":"1"', '"v":"2"'),
        ('"epoch":"3"', '"epoch":"0"'),
        ('"epoch":"3"', '"epoch":"03"'),
        ('"epoch":"3"', '"epoch":3'),
        ('"size":"500"', '"size":"0"'),
        ('"size":"500"', '"size":"-500"'),
        ("witness-1", "-witness"),
        ("witness-1", "w" * 64),
        ("witness-1", "wit ness"),
        ("witness-1", 'w","v":"1'),
        ("01" * 32, "01" * 31),
        ("01" * 32, "0A" * 32),
        ('"suite":"blake3"', '"suite":"sha3"'),
        ('"v":"1"}', '"v":"1","x":"1"}'),
        ('"v":"1"}', '"v":"1"}\n'),
        ('"epoch":', '"epoch": '),
    ],
)
def test_any_other_text_is_refused(old: str, new: str) -> None:
    assert old in TEXT
    with pytest.raises(ReceiptFormatError, match=r"signature\.body"):
        parse_body(TEXT.replace(old, new).encode())


@pytest.mark.parametrize(("suite", "new"), [("blake3", blake3), ("fips", hashlib.sha256)])
def test_leaf_hash_keeps_statements_apart_from_everything_else(suite: str, new) -> None:
    expected = new(b"\x00provledger/statement/v1\nhello").digest()
    assert witness_batch.statement_leaf_hash(suite, b"hello") == expected


@pytest.mark.parametrize("suite", sorted(SUITES))
@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9])
def test_every_statement_has_a_path_to_the_root(suite: str, size: int) -> None:
    hasher = SUITES[suite].H
    leaves = [witness_batch.statement_leaf_hash(suite, bytes([n])) for n in range(size)]
    batch = dataclasses.replace(
        BATCH, suite=suite, root=witness_batch.batch_root(suite, leaves), size=size
    )
    for index, leaf in enumerate(leaves):
        path = merkle.inclusion_proof(leaves, index, hasher=hasher)
        witness_batch.verify_batch_path(suite, batch, index, leaf, path)
        with pytest.raises(InvalidProofError):
            witness_batch.verify_batch_path(suite, batch, index, bytes(32), path)
        with pytest.raises(InvalidProofError):
            witness_batch.verify_batch_path(suite, batch, size, leaf, path)


def test_signature_digest_binds_body_and_signature() -> None:
    pae = dsse.pae("application/vnd.provledger.witness-batch.v1+json", BATCH.encode())
    preimage = b"provledger/signature/v1\n" + len(pae).to_bytes(4, "big") + pae + b"signature"
    digest = witness_batch.signature_digest("blake3", BATCH.encode(), b"signature")
    assert digest == blake3(preimage).digest()
    others = {
        witness_batch.signature_digest("fips", BATCH.encode(), b"signature"),
        witness_batch.signature_digest("blake3", BATCH.encode(), b"signaturf"),
        witness_batch.signature_digest("blake3", BATCH.encode() + b"s", b"ignature"),
    }
    assert len(others | {digest}) == 4
