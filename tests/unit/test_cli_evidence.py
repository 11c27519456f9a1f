"""Evidence beside what is verified that is no evidence at all: it could not be told (exit code 2).

A download that failed, or the wrong file, says nothing against what it was given for.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.chain import key_set, sample_chain
from tests.support.key_history import PIN, key_chain

CHAIN = sample_chain((2,))
OTHERS = pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "other is empty"),
        (gzip.compress(b"", mtime=0), "other is empty"),
        (b"hello", "other is no export"),
        (b"\x00\xff\n" * 100, "other is no export"),
        (key_set().encode(), "looks like a key set"),
        (CHAIN.checkpoint(), "looks like a signed checkpoint"),
        (CHAIN.receipts()[0].encode(), "looks like one receipt"),
        (json.dumps(json.loads(CHAIN.receipts()[0].encode()), indent=1).encode(), "one receipt"),
    ],
    ids=["empty", "empty.gz", "text", "bytes", "jwks", "checkpoint", "receipt", "indented"],
)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "jwks.json").write_bytes(key_set().encode())
    (tmp_path / "export.ndjson").write_bytes(b"".join(CHAIN.export()))
    return tmp_path


def told(work: Path, *arguments: str) -> tuple[int, Any]:
    """Run a command; (exit code, JSON document)."""
    done = subprocess.run(
        [sys.executable, "-m", "provledger_cli", *arguments, "--json"],
        cwd=work,
        env={**os.environ, "PROVLEDGER_DATA_DIR": str(work / "none")},
        capture_output=True,
        check=False,
    )
    return done.returncode, json.loads(done.stdout)


@OTHERS
@pytest.mark.parametrize("option", ["--history", "--key-ledger"])
def test_a_file_that_is_no_export_is_could_not_tell(
    work: Path, option: str, data: bytes, said: str
) -> None:
    (work / "other").write_bytes(data)
    trust = ("--pin", PIN.hex()) if option == "--key-ledger" else ("--keys", "jwks.json")
    code, answer = told(work, "verify", "export.ndjson", *trust, option, "other")
    assert code == 2
    assert said in answer["error"]["message"]
    assert "name an export" in answer["error"]["next"]


@OTHERS
def test_keys_are_not_rebuilt_from_what_is_no_export(work: Path, data: bytes, said: str) -> None:
    (work / "other").write_bytes(data)
    rebuild = ("keys", "rebuild", "other", "--pin", PIN.hex(), "--endpoint", "keys=127.0.0.1:1")
    code, answer = told(work, *rebuild)
    assert code == 2
    assert said in answer["error"]["message"]
    # Nor from an export that carries no key ledger, which is none of what is wrong with it.
    code, answer = told(work, *rebuild[:2], "export.ndjson", *rebuild[3:])
    assert code == 2
    assert "an export of the key ledger" in answer["error"]["next"]


def test_what_was_an_export_of_the_key_ledger_does_not_hold_whatever_was_done_to_it(
    work: Path,
) -> None:
    """Else a forger could turn an answer into the lack of one."""
    lines = key_chain().export()
    for damaged in ([b"\xff" * 9 + lines[0][9:], *lines[1:]], lines[1:], lines[:-1]):
        (work / "k.ndjson").write_bytes(b"".join(damaged))
        given = ("--pin", PIN.hex(), "--key-ledger", "k.ndjson")
        code, answer = told(work, "verify", "export.ndjson", *given)
        assert (code, answer["check"]) in {(1, "key_ledger"), (1, "truncation")}
