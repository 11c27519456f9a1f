"""Published proof bundles of c2sp.org/tlog-proof."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from provledger.errors import TlogProofError
from provledger.tlog_proof import format_tlog_proof, parse_tlog_proof
from tests.conformance import vectors

FILE = "tlog-proof/format.json"


def _accepted(data: Any) -> list[tuple[str, Any]]:
    return [(str(number), case) for number, case in enumerate(data["accept"])]


def _rejected(data: Any) -> list[tuple[str, Any]]:
    return [(str(number), case) for number, case in enumerate(data["reject"])]


@pytest.mark.parametrize("case", vectors.cases(FILE, _accepted))
def test_accepted_both_ways(case: Any) -> None:
    text = case["text"].encode()
    proof = parse_tlog_proof(text)
    assert proof.index == case["index"]
    assert [base64.b64encode(item).decode() for item in proof.hashes] == case["hashes_b64"]
    assert proof.checkpoint == case["checkpoint"].encode()
    extra = case["extra_b64"]
    assert proof.extra == (None if extra is None else base64.b64decode(extra))
    assert format_tlog_proof(proof) == text


@pytest.mark.parametrize("case", vectors.cases(FILE, _rejected))
def test_rejected(case: str) -> None:
    with pytest.raises(TlogProofError):
        parse_tlog_proof(case.encode())
