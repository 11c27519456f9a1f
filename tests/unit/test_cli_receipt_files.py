"""The receipts in a file: one that a pretty printer has spread over lines is read as it stands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from provledger.receipt import MAX_RECEIPT_BYTES
from provledger_cli.sources import LineSource
from provledger_cli.verifying.receipt_files import receipts_of
from tests.support.chain import sample_chain


class Line(bytes):
    """A line that counts how often any of them was measured from Python."""

    measured = 0

    def __len__(self) -> int:
        Line.measured += 1
        return super().__len__()


def test_a_receipt_over_many_lines_is_read_and_each_measured_a_few_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = sample_chain((1,))
    chain.append([("note", {"rows": [[row] for row in range(400)]})])
    receipt = chain.receipts()[-1]
    text = json.dumps(orjson.loads(receipt.encode()), indent=1)
    (tmp_path / "pretty.json").write_text(text)
    read = LineSource.lines

    def lines(self: LineSource) -> Iterator[bytes]:
        return map(Line, read(self))

    monkeypatch.setattr(LineSource, "lines", lines)
    monkeypatch.setattr(Line, "measured", 0)
    assert list(receipts_of(tmp_path / "pretty.json")) == [receipt]
    count = text.count("\n")
    assert count > 1_200
    assert Line.measured <= 4 * count


def test_a_receipt_is_no_longer_for_the_space_in_it(tmp_path: Path) -> None:
    receipt = sample_chain().receipts()[5]
    text = json.dumps(orjson.loads(receipt.encode()), indent=60_000)
    assert len(text) > MAX_RECEIPT_BYTES
    (tmp_path / "pretty.json").write_text(text)
    assert list(receipts_of(tmp_path / "pretty.json")) == [receipt]
