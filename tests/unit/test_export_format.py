"""Header and footer of an export, each by itself: what they may hold, and what reading takes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from provledger import jcs
from provledger.errors import ReceiptFormatError
from provledger.export import MAX_CONSISTENCY_PROOFS, parse_footer, parse_header
from provledger_cli.failures import CommandError
from provledger_cli.file_kinds import refuse_others
from tests.support.chain import sample_chain

LINES = sample_chain().export()
HEADER, FOOTER = LINES[0], LINES[-1]
EMPTY_ARRAYS = b"[" + b"[]," * 500_000 + b"[]]"


def peak_bytes(read: Callable[[], object]) -> int:
    """Return what reading takes of memory at its most; what is read must be refused."""
    tracemalloc.start()
    try:
        with pytest.raises((ReceiptFormatError, CommandError)):
            read()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("parse", "line"),
    [
        (parse_header, b'{"export":' + EMPTY_ARRAYS + b"}\n"),
        (parse_header, HEADER.replace(b'"suite":"blake3"', b'"suite":' + EMPTY_ARRAYS)),
        (parse_header, HEADER.replace(b'"v":"1"', b'"w":' + EMPTY_ARRAYS)),
        (parse_footer, b'{"footer":' + EMPTY_ARRAYS + b"}\n"),
        (parse_footer, FOOTER.replace(b'"consistency":[]', b'"consistency":' + EMPTY_ARRAYS)),
        (
            parse_footer,
            FOOTER.replace(
                b'"consistency":[]',
                b'"consistency":[' + b'{"checkpoint":"","hashes":[]},' * 300_000 + b"{}]",
            ),
        ),
    ],
    ids=["header", "in the header", "unknown", "footer", "in the footer", "proofs"],
)
def test_line_that_is_none_takes_no_more_than_its_own_length(
    parse: Callable[[bytes], object], line: bytes
) -> None:
    """What can be packed to nothing must not fill the memory: empty arrays took thirty times it."""
    assert len(line) > 1_000_000
    assert peak_bytes(lambda: parse(line)) < 2 * len(line)


def test_file_of_another_kind_takes_no_more_than_its_own_length() -> None:
    line = b'{"x":' + EMPTY_ARRAYS + b"}\n"
    assert peak_bytes(lambda: refuse_others(Path("other"), [line])) < 2 * len(line)


@pytest.mark.parametrize("name", ["treeSize", "createdAtNs"])
@pytest.mark.parametrize("number", ["9" * 30, str(2**63), "-1", "+1", "01", "", "x", "9" * 5000])
def test_number_in_a_header_is_one_from_0_to_2_63(name: str, number: str) -> None:
    members = jcs.parse(HEADER)
    members["export"][name] = number
    with pytest.raises(ReceiptFormatError):
        parse_header(jcs.encode(members) + b"\n")
    members["export"][name] = str(2**63 - 1)
    parse_header(jcs.encode(members) + b"\n")


def test_footer_counts_up_to_2_63() -> None:
    members = jcs.parse(FOOTER)
    members["footer"]["count"] = str(2**63)
    with pytest.raises(ReceiptFormatError):
        parse_footer(jcs.encode(members) + b"\n")


def test_footer_with_as_many_proofs_as_there_may_be_is_read() -> None:
    proof = {"checkpoint": "log\n1\n", "hashes": ["A" * 43 + "="] * 64}
    members = jcs.parse(FOOTER)
    members["footer"]["consistency"] = [proof] * MAX_CONSISTENCY_PROOFS
    assert len(parse_footer(jcs.encode(members) + b"\n").consistency) == MAX_CONSISTENCY_PROOFS
    members["footer"]["consistency"].append(proof)
    with pytest.raises(ReceiptFormatError, match="more than 4096 proofs"):
        parse_footer(jcs.encode(members) + b"\n")


def test_a_head_too_long_to_be_one_is_refused_unread() -> None:
    members = jcs.parse(FOOTER)
    members["footer"]["head"] = "AAAA" * 30_000
    with pytest.raises(ReceiptFormatError, match="head of more than"):
        parse_footer(jcs.encode(members) + b"\n")


def test_newer_version_is_named_as_what_it_may_be() -> None:
    for parse, line in ((parse_header, HEADER), (parse_footer, FOOTER)):
        with pytest.raises(ReceiptFormatError, match="newer"):
            parse(line.replace(b'"v":"1"', b'"v":"2"'))
