"""`--out` to what is no file: pipes, devices, links, standard output."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys

import orjson
import pytest

from provledger.keyset import KeySet
from tests.e2e.commands import Installation
from tests.e2e.test_journey import mutation


@pytest.fixture(scope="module")
def filled(shared: Installation) -> Installation:
    shared.run("append", "--tenant", "out", stdin=mutation())
    shared.run("keys", "jwks", "--out", "jwks.json")
    return shared


def raw(where: Installation, *arguments: str) -> tuple[int, bytes, str]:
    """Exit code, stdout and stderr of a command, without --json."""
    command = [sys.executable, "-m", "provledger_cli", *arguments, "--data-dir", "data"]
    done = subprocess.run(command, capture_output=True, cwd=where.work, check=False)
    return done.returncode, done.stdout, done.stderr.decode()


def verified(where: Installation, export: bytes) -> int:
    (where.work / "piped.ndjson").write_bytes(export)
    answer = where.run("verify", "piped.ndjson", "--keys", "jwks.json", data_dir=False)
    count: int = answer.json["receipts"]
    return count


def test_an_export_to_standard_output_is_nothing_but_the_export(filled: Installation) -> None:
    code, out, talk = raw(filled, "export", "--tenant", "out", "--out", "-")
    assert (code, verified(filled, out)) == (0, 2)
    assert "2 receipts of tenants/out/ledgers/main up to seq 1 in" in talk
    assert f"to standard output ({len(out):,} bytes)" in talk
    # The document is the answer, and goes where the answer goes.
    code, out, talk = raw(filled, "export", "--tenant", "out", "--out", "-", "--json")
    assert (code, verified(filled, out), json.loads(talk)["receipts"]) == (0, 2, 2)
    assert not (filled.work / "-").exists()


def test_an_export_that_fails_leaves_standard_output_empty(filled: Installation) -> None:
    code, out, talk = raw(filled, "export", "--tenant", "nobody", "--out", "-", "--json")
    assert (code, out) == (2, b"")
    assert '"error"' in talk


def test_a_proof_is_in_the_document_of_json(filled: Installation) -> None:
    filled.run("status", "--wait", "30")
    receipts = filled.run("list", "--tenant", "out").json["receipts"]
    name = receipts[0].get("name") or receipts[0]["id"]
    for form in ("cose", "tlog-proof"):
        told = filled.run("get", name, "--format", form).json
        code, proof, talk = raw(filled, "get", name, "--format", form)
        assert (code, talk) == (0, "")
        member = {"cose": "data_b64", "tlog-proof": "text"}[form]
        assert proof
        assert told.keys() == {"name", "format", member}
        assert (told["name"], told["format"]) == (name, form)
        written = filled.run("get", name, "--format", form, "--out", f"r.{form}").json
        proof = (filled.work / f"r.{form}").read_bytes()
        given = written.get("text", "").encode() or base64.b64decode(written["data_b64"])
        assert (given, written["file"]) == (proof, f"r.{form}")
        code, piped, talk = raw(filled, "get", name, "--format", form, "--out", "-", "--json")
        document = json.loads(talk)
        given = document.get("text", "").encode() or base64.b64decode(document["data_b64"])
        assert (code, piped) == (0, given)


def test_an_export_into_a_pipe(filled: Installation) -> None:
    pipe = filled.work / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        try:
            answer = filled.run("export", "--tenant", "out", "--out", "pipe")
            out, _ = reader.communicate(timeout=30)
        finally:
            reader.kill()
    assert verified(filled, out) == 2
    assert answer.json["bytes_written"] == len(out)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_link_to_a_device_stays(filled: Installation) -> None:
    link = filled.work / "null"
    link.symlink_to("/dev/null")
    filled.run("export", "--tenant", "out", "--out", "null", "--head-out", "null")
    filled.run("keys", "jwks", "--out", "null")
    assert link.is_symlink()


def test_a_directory_is_named(filled: Installation) -> None:
    (filled.work / "directory").mkdir()
    for verb in (("export", "--tenant", "out"), ("keys", "jwks"), ("get", "x", "--tenant", "out")):
        answer = filled.run(*verb, "--out", "directory", check=False)
        assert (answer.code, answer.json["error"]["message"]) == (2, "directory is a directory")


def test_keys_and_receipts_to_standard_output(filled: Installation) -> None:
    code, out, talk = raw(filled, "keys", "jwks", "--out", "-")
    assert (code, talk, bool(list(KeySet.parse(out.strip())))) == (0, "", True)
    receipt = filled.run("list", "--tenant", "out").json["receipts"][0]
    name = receipt.get("name") or receipt["id"]
    code, out, talk = raw(filled, "get", name, "--out", "-")
    assert (code, talk, orjson.loads(out)["id"]) == (0, "", name)
    code, out, _ = raw(filled, "export", "--tenant", "out", "--out", "x", "--head-out", "-")
    assert (code, "payloadType" in orjson.loads(out)) == (0, True)
    code, out, talk = raw(filled, "export", "--tenant", "out", "--out", "-", "--head-out", "-")
    assert (code, out, "only one" in talk) == (2, b"", True)
