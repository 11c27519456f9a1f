"""`verify` of exports of several sizes: memory that does not grow, every core, progress."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from provledger.verify_pool import ALONE_LINES, cores
from tests.support.chain import Chain, key_set

FLUSH = 250
# Both keep every process busy, with as many pieces under way as there ever are.
SMALL = ALONE_LINES + 2_000
LARGE = ALONE_LINES + 7_000


@dataclass(frozen=True)
class Seen:
    own_kib: int
    workers_kib: dict[str, int]
    shown: str


def export_of(receipts: int, path: Path) -> int:
    """Write the export of a ledger of so many receipts; its size in bytes."""
    chain = Chain()
    state = {f"field{n:02}": f"{n}" * 40 for n in range(15)}
    for first in range(1, receipts, FLUSH):
        count = min(FLUSH, receipts - first)
        payloads = [{**state, "number": first + n} for n in range(count)]
        chain.append([("evidence.load", payload) for payload in payloads])
    with path.open("wb") as file:
        file.writelines(chain.export())
    return path.stat().st_size


def verified(export: Path, keys: Path) -> Seen:
    """Verify an export as at a terminal, and watch."""
    found = export.with_suffix(".watched")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "tests.e2e.watching", str(found)]
    process = subprocess.Popen(
        [*command, "verify", str(export), "--keys", str(keys)],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "160"},
    )
    os.close(theirs)
    shown = b""
    try:
        while data := os.read(ours, 65536):
            shown += data
    except OSError:
        pass  # So a terminal ends whose last writer is gone.
    finally:
        os.close(ours)
    text = shown.decode("utf-8", "replace")
    assert process.wait(120) == 0, text[-2000:]
    return Seen(**json.loads(found.read_text()), shown=text)


@pytest.mark.skipif(cores() == 1, reason="with one core, one process does it all")
def test_verify_streams_on_every_core_and_says_how_far_it_is(tmp_path: Path) -> None:
    keys = tmp_path / "jwks.json"
    keys.write_bytes(key_set().encode())
    seen = {}
    sizes = {}
    for receipts in (SMALL, LARGE):
        export = tmp_path / f"{receipts}.ndjson"
        sizes[receipts] = export_of(receipts, export)
        seen[receipts] = verified(export, keys)
        assert len(seen[receipts].workers_kib) == cores()
    # To keep the lines alone would cost as much as the files differ by.
    more_kib = (sizes[LARGE] - sizes[SMALL]) / 1024
    assert more_kib > 16 * 1024
    small, large = seen[SMALL], seen[LARGE]
    assert large.own_kib - small.own_kib < more_kib / 4
    assert max(large.workers_kib.values()) - max(small.workers_kib.values()) < more_kib / 4
    counts = [int(each.replace(",", "")) for each in re.findall(r"([\d,]+) receipts", large.shown)]
    assert len(set(counts)) > 2
    assert counts == sorted(counts)
