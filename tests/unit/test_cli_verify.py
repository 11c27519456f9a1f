"""`provledger verify FILE`: offline, with exit codes and words that scripts can rely on."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from provledger import disclosure, jcs
from provledger.export import FOOTER_PREFIX
from provledger.printable import printable
from provledger.receipt import MAX_RECEIPT_BYTES, Opening
from tests.support.chain import Chain, key_set, mutation, sample_chain, with_changes
from tests.support.key_history import PIN, in_one_log, key_chain


@pytest.fixture(scope="module")
def chain() -> Chain:
    return sample_chain((20, 30))


@pytest.fixture
def work(tmp_path: Path, chain: Chain) -> Path:
    (tmp_path / "jwks.json").write_bytes(key_set().encode())
    (tmp_path / "export.ndjson").write_bytes(b"".join(chain.export()))
    (tmp_path / "head.json").write_bytes(chain.head() + b"\n")
    (tmp_path / "checkpoint.txt").write_bytes(chain.checkpoint())
    return tmp_path


def verify(work: Path, *arguments: str) -> tuple[int, Any, str]:
    """Run the command; (exit code, JSON document, stderr)."""
    done = subprocess.run(
        [sys.executable, "-m", "provledger_cli", "verify", *arguments, "--json"],
        cwd=work,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, json.loads(done.stdout), done.stderr


def in_words(work: Path, *arguments: str) -> tuple[int, list[str], str]:
    """Run the command for people; (exit code, lines, stderr)."""
    done = subprocess.run(
        [sys.executable, "-m", "provledger_cli", "verify", *arguments],
        cwd=work,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_a_good_export_holds(work: Path, chain: Chain) -> None:
    code, answer, _ = verify(work, "export.ndjson", "--keys", "jwks.json")
    assert code == 0
    assert answer["holds"] is True
    assert answer["receipts"] == 51
    assert answer["subject"] == chain.name
    outcomes = {check["check"]: check["outcome"] for check in answer["checks"]}
    assert outcomes["inclusion"] == "holds"
    assert outcomes["truncation"] == "not_checked"


def test_a_tenant_of_the_environment_does_not_disturb_a_file(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROVLEDGER_TENANT", "acme")
    monkeypatch.setenv("PROVLEDGER_LEDGER", "other")
    assert verify(work, "export.ndjson", "--keys", "jwks.json")[0] == 0


def test_a_head_obtained_elsewhere_settles_truncation(work: Path) -> None:
    code, answer, _ = verify(
        work, "export.ndjson", "--keys", "jwks.json", "--head", "head.json",
        "--checkpoint", "checkpoint.txt",
    )  # fmt: skip
    assert code == 0
    outcomes = {check["check"]: check["outcome"] for check in answer["checks"]}
    assert outcomes["truncation"] == "holds"


def test_a_compressed_export_holds_too(work: Path) -> None:
    (work / "export.gz").write_bytes(gzip.compress((work / "export.ndjson").read_bytes()))
    assert verify(work, "export.gz", "--keys", "jwks.json")[0] == 0


def test_a_flipped_byte_is_found_and_the_receipt_named(work: Path) -> None:
    lines = (work / "export.ndjson").read_bytes().splitlines(keepends=True)
    line = bytearray(lines[30])
    line[line.index(b'"entityId":"') + 12] ^= 1
    name = orjson.loads(lines[30])["id"]
    lines[30] = bytes(line)
    (work / "broken.ndjson").write_bytes(b"".join(lines))
    code, answer, _ = verify(work, "broken.ndjson", "--keys", "jwks.json")
    assert code == 1
    assert answer["holds"] is False
    assert (answer["receipt"], answer["line"]) == (name, 31)
    assert answer["finding"] == "payload_changed"


def test_a_key_set_from_before_a_rotation_is_named_as_what_may_be_wrong(
    work: Path, chain: Chain
) -> None:
    signed = chain.checkpoint(log_key="checkpoint-2")
    receipts = chain.receipts(log_key="checkpoint-2")
    (work / "newer.ndjson").write_bytes(b"".join(chain.export(receipts, signed=signed)))
    (work / "one.json").write_bytes(receipts[-1].encode())
    (work / "other.json").write_bytes(key_set(witness="witness-2").encode())
    for file, keys in (
        ("newer.ndjson", "jwks.json"),
        ("one.json", "jwks.json"),
        ("export.ndjson", "other.json"),
    ):
        code, answer, _ = verify(work, file, "--keys", keys)
        assert (code, answer["finding"]) == (1, "key_not_valid")
        assert "keys jwks" in answer["next"]
        assert "--pin" in answer["next"]
    _, shown, _ = in_words(work, "one.json", "--keys", "jwks.json")
    assert "may be older than the file" in "\n".join(shown)
    # A signature that does not verify is not for want of a key.
    changed = (work / "export.ndjson").read_bytes().replace(b"\\n52\\n", b"\\n53\\n")
    assert changed != (work / "export.ndjson").read_bytes()
    (work / "changed.ndjson").write_bytes(changed)
    code, answer, _ = verify(work, "changed.ndjson", "--keys", "jwks.json")
    assert (code, answer["finding"], answer.get("next")) == (1, "signature_changed", None)


def test_a_cut_off_export_does_not_hold(work: Path) -> None:
    lines = (work / "export.ndjson").read_bytes().splitlines(keepends=True)
    (work / "cut.ndjson").write_bytes(b"".join(lines[:-1]))
    code, answer, _ = verify(work, "cut.ndjson", "--keys", "jwks.json")
    assert (code, answer["finding"]) == (1, "truncated")


def test_an_export_that_stops_before_the_head_given_does_not_hold(work: Path, chain: Chain) -> None:
    (work / "short.ndjson").write_bytes(
        b"".join(chain.export(chain.receipts()[:40], head=None, signed=None))
    )
    code, answer, _ = verify(work, "short.ndjson", "--keys", "jwks.json", "--head", "head.json")
    assert (code, answer["finding"]) == (1, "truncated")


@pytest.mark.parametrize("option", ["--head", "--checkpoint"])
def test_held_file_that_is_none_is_could_not_tell(work: Path, option: str) -> None:
    """A download that failed is no tampering."""
    for data in (b"", b"garbage"):
        (work / "held").write_bytes(data)
        code, answer, _ = verify(work, "export.ndjson", "--keys", "jwks.json", option, "held")
        assert code == 2
        assert "held is no signed" in str(answer)


def test_one_receipt_is_held_against_what_is_given(work: Path, chain: Chain) -> None:
    receipts = chain.receipts()
    (work / "one.json").write_bytes(receipts[-1].encode())
    (work / "older.txt").write_bytes(chain.checkpoint(10))
    one = ("one.json", "--keys", "jwks.json")
    code, answer, _ = verify(work, *one, "--head", "head.json", "--checkpoint", "checkpoint.txt")
    assert (code, answer["holds"]) == (0, True)
    outcomes = {check["check"]: check["outcome"] for check in answer["checks"]}
    assert outcomes["head"] == outcomes["consistency"] == "holds"
    code, answer, _ = verify(work, *one, "--checkpoint", "older.txt")
    assert (code, answer["holds"]) == (2, None)
    (work / "first.json").write_bytes(receipts[0].encode())
    code, answer, _ = verify(work, "first.json", "--keys", "jwks.json", "--head", "head.json")
    assert (code, answer["holds"]) == (2, None)


def test_two_trees_of_one_size_do_not_hold_whichever_files_they_are_in(work: Path) -> None:
    """What differs is what others have in the log: each file holds by itself."""
    chain, fork = sample_chain((3,)), sample_chain((3,))
    chain.leaves.append(b"others")
    fork.leaves.append(b"theirs")
    receipt, other = chain.receipts()[-1], fork.receipts()[-1]
    two = with_changes(receipt, proofs=(*receipt.proofs, *other.proofs))
    for name, data in (
        ("x.ndjson", b"".join(chain.export())),
        ("one.json", receipt.encode()),
        ("two.json", two.encode()),
        ("good.ndjson", b"".join(chain.export())),
        ("fork.ndjson", b"".join(fork.export())),
        ("good.head", chain.head()),
        ("fork.head", fork.head()),
    ):
        (work / name).write_bytes(data)
    for file in ("x.ndjson", "one.json"):
        given = (file, "--keys", "jwks.json")
        good = ("--history", "good.ndjson", "--head", "good.head")
        assert verify(work, *given, *good)[0] == 0
        for more in (("--history", "fork.ndjson"), ("--head", "fork.head")):
            code, answer, _ = verify(work, *given, *more)
            assert (code, answer["holds"]) == (1, False), (file, more)
            assert answer["finding"] == "head_not_extending"
    code, answer, _ = verify(work, "two.json", "--keys", "jwks.json")
    assert (code, answer["finding"], answer["receipt"]) == (1, "head_not_extending", two.name)


def test_what_is_wrong_in_a_history_alone_is_no_fault_of_the_file(work: Path) -> None:
    """Only two that contradict each other tell that the file does not hold."""
    chain, fork = sample_chain((3, 1)), sample_chain((3, 1), seed="fork")
    receipts, proof = chain.receipts(), chain.consistency(3)
    forged = dataclasses.replace(proof, hashes=(bytes(32), *proof.hashes[1:]))
    two = dataclasses.replace(proof, checkpoint=fork.checkpoint(), hashes=())
    histories = {
        "a receipt gone": (chain.export([receipts[0], *receipts[2:]]), "chain", receipts[2].name),
        "the footer gone": (chain.export()[:-1], "truncation", receipts[-1].name),
        "a forged proof": (chain.export(consistency=[forged]), "consistency", receipts[-1].name),
        "two trees": (chain.export(consistency=[two]), "consistency", receipts[-1].name),
        "signed by nobody": (
            chain.export(signed=chain.checkpoint(log_key="nobody")),
            "checkpoint_signature",
            "",
        ),
    }
    (work / "one.json").write_bytes(receipts[-1].encode())
    given = ("one.json", "--keys", "jwks.json")
    assert verify(work, *given)[0] == 0
    for what, (lines, check, receipt) in histories.items():
        (work / "h.ndjson").write_bytes(b"".join(lines))
        code, answer, _ = verify(work, *given, "--history", "h.ndjson")
        assert (code, answer["holds"], answer["status"]) == (2, None, "unverified"), what
        assert (answer["check"], answer["receipt"], answer["line"]) == (check, "", None), what
        assert answer["history"]["file"] == "h.ndjson", what
        assert answer["history"]["receipt"] == receipt, what
        assert answer["message"].startswith("in the history h.ndjson, and not in what is verified")
        assert answer["next"], what
    (work / "h.ndjson").write_bytes(b"".join(histories["a receipt gone"][0]))
    code, said, _ = in_words(work, *given, "--history", "h.ndjson")
    assert (code, said[0]) == (2, "could not be told")
    assert f"h.ndjson: {receipts[2].name}" in said[1]
    assert "in the history" in said[1]
    assert "first broken receipt" not in str(said)


def test_pin_says_nothing_of_one_receipt(work: Path, chain: Chain) -> None:
    (work / "one.json").write_bytes(chain.receipts()[-1].encode())
    code, _, _ = verify(work, "one.json", "--keys", "jwks.json", "--pin", "00" * 32)
    assert code == 2


def test_pin_says_nothing_of_an_export_without_key_ledger(work: Path) -> None:
    """As it was written before there were key ledgers, or with --no-key-ledger."""
    pinned = ("export.ndjson", "--pin", PIN.hex())
    code, answer, _ = verify(work, *pinned)
    assert (code, answer["holds"], answer["status"]) == (2, None, "unverified")
    assert "--key-ledger FILE" in answer["next"]
    code, said, _ = in_words(work, *pinned)
    assert code == 2
    assert said[0] == "could not be told"


def test_key_ledger_must_be_the_one_that_is_asked_for(work: Path) -> None:
    chain, keys = sample_chain((3,)), key_chain()
    in_one_log(chain, keys)
    (work / "x.ndjson").write_bytes(b"".join(chain.export(key_ledger=keys.export())))
    pinned = ("x.ndjson", "--pin", PIN.hex())
    code, answer, _ = verify(work, *pinned)
    assert (code, answer["key_ledger_uid"]) == (0, keys.uid.hex())
    assert verify(work, *pinned, "--key-ledger-uid", keys.uid.hex())[0] == 0
    code, answer, _ = verify(work, *pinned, "--key-ledger-uid", "00" * 16)
    assert (code, answer["check"]) == (1, "key_ledger")
    # What is no uid, or says nothing without a pin, is no answer.
    assert verify(work, *pinned, "--key-ledger-uid", "abc")[0] == 2
    keyed = ("x.ndjson", "--keys", "jwks.json", "--key-ledger-uid", keys.uid.hex())
    assert verify(work, *keyed)[0] == 2


def test_a_receipt_says_as_of_when_its_keys_are_and_of_which_key_ledger(work: Path) -> None:
    chain, keys = sample_chain((3,)), key_chain()
    in_one_log(chain, keys)
    (work / "k.ndjson").write_bytes(b"".join(keys.export()))
    (work / "one.json").write_bytes(chain.receipts()[-1].encode())
    pinned = ("one.json", "--key-ledger", "k.ndjson", "--pin", PIN.hex())
    code, answer, _ = verify(work, *pinned)
    assert (code, answer["key_ledger_uid"]) == (0, keys.uid.hex())
    (found,) = [each for each in answer["checks"] if each["check"] == "key_ledger"]
    assert found["outcome"] == "holds"
    assert f"as of tree size {len(keys.leaves)} of {keys.origin}, 2025-" in found["detail"]
    # One that came later may be by a key that was revoked meanwhile.
    chain.append([mutation(9)])
    (work / "one.json").write_bytes(chain.receipts()[-1].encode())
    code, answer, _ = verify(work, *pinned)
    assert (code, answer["holds"], answer["finding"]) == (2, None, "not_placed")
    assert "export the key ledger anew" in answer["message"]


def test_a_key_that_an_older_key_ledger_does_not_have_yet_asks_for_a_newer_one(work: Path) -> None:
    chain, keys = sample_chain((3,)), key_chain()
    in_one_log(chain, keys)
    (work / "k.ndjson").write_bytes(b"".join(keys.export()))
    chain.append([mutation(9)], kid="witness-2")
    (work / "one.json").write_bytes(chain.receipts()[-1].encode())
    pinned = ("one.json", "--key-ledger", "k.ndjson", "--pin", PIN.hex())
    code, answer, _ = verify(work, *pinned)
    assert (code, answer["finding"]) == (1, "key_not_valid")
    assert "export it anew" in answer["next"]


def test_a_question_that_stays_open_is_could_not_tell(work: Path, chain: Chain) -> None:
    """A checkpoint the export has no proof from: neither reached nor missed."""
    (work / "old.txt").write_bytes(chain.checkpoint(10))
    code, answer, _ = verify(
        work, "export.ndjson", "--keys", "jwks.json", "--checkpoint", "old.txt"
    )
    assert code == 2
    assert answer["holds"] is None


@pytest.mark.parametrize("indented", [False, True])
def test_one_receipt_is_verified_alone(work: Path, chain: Chain, indented: bool) -> None:
    receipt = chain.receipts()[5]
    text = receipt.encode()
    if indented:
        text = json.dumps(orjson.loads(text), indent=2).encode()
    (work / "receipt.json").write_bytes(text)
    code, answer, _ = verify(work, "receipt.json", "--keys", "jwks.json")
    assert (code, answer["subject"], answer["receipts"]) == (0, receipt.name, 1)


def test_a_long_receipt_holds_however_much_a_pretty_printer_adds_to_it(work: Path) -> None:
    chain = sample_chain((1,))
    chain.append([("note", {"values": [1] * 250_000, "more": [[{"a": 2}]] * 60_000})])
    receipt = chain.receipts()[-1]
    text = json.dumps(orjson.loads(receipt.encode()), indent=4)
    assert len(text) > MAX_RECEIPT_BYTES
    (work / "pretty.json").write_text(text)
    code, answer, _ = verify(work, "pretty.json", "--keys", "jwks.json")
    assert (code, answer.get("subject")) == (0, receipt.name), answer
    # What is no JSON stays none, and what is changed is found.
    for old, new in (('"receiptType"', '"receiptT\nype"'), ("2\n", "3\n")):
        damaged = text.replace(old, new, 1)
        (work / "damaged.json").write_text(damaged)
        code, answer, _ = verify(work, "damaged.json", "--keys", "jwks.json")
        assert (code, answer["holds"]) == (1, False)


def test_a_receipt_without_proof_is_unverified_not_passed(work: Path, chain: Chain) -> None:
    (work / "receipt.json").write_bytes(chain.links[5][0].encode())
    code, answer, _ = verify(work, "receipt.json", "--keys", "jwks.json")
    assert (code, answer["status"], answer["holds"]) == (2, "unverified", None)


def test_a_receipt_whose_payload_was_taken_out_says_so(work: Path, chain: Chain) -> None:
    """Anybody can do that, without a key: it holds, and is not all that was recorded."""
    receipt = chain.receipts()[5]
    assert receipt.payload is not None
    digests = disclosure.digest_list(
        jcs.parse(receipt.payload), receipt.commitment.secret or b"", mutation=True
    )
    bare = Opening("fields-v1", len(digests), None, (), tuple(digests))
    masked = with_changes(receipt, payload=None, commitment=bare, fields_mask=())
    (work / "masked.json").write_bytes(masked.encode())
    (work / "whole.json").write_bytes(receipt.encode())
    for name, count in (("masked.json", 1), ("whole.json", 0)):
        code, answer, _ = verify(work, name, "--keys", "jwks.json")
        assert (code, answer["masked_receipts"]) == (0, count)
        _, lines, _ = in_words(work, name, "--keys", "jwks.json")
        assert lines[-1].startswith("verified: ")
        assert ("(without all of its payload)" in lines[-1]) is bool(count)


def test_tree_size_that_no_checkpoint_shows_is_not_given(work: Path, chain: Chain) -> None:
    header = dataclasses.replace(chain.header(), tree_size=2**63 - 1)
    unlogged = [receipt for receipt, _ in chain.links]
    lines = chain.export(unlogged, header=header, head=None, signed=None)
    (work / "unlogged.ndjson").write_bytes(b"".join(lines))
    code, answer, _ = verify(work, "unlogged.ndjson", "--keys", "jwks.json")
    assert (code, answer["tree_size"]) == (2, None)


def test_a_receipt_of_the_old_format_is_unverified(work: Path) -> None:
    (work / "old.json").write_bytes(b'{"id":"r1","payload":{},"receiptHash":"00"}')
    code, answer, _ = verify(work, "old.json", "--keys", "jwks.json")
    assert (code, answer["status"]) == (2, "unverified")


@pytest.mark.parametrize(
    "name",
    [
        "r1\n[bold green]verified[/]: 51 receipts of tenants/acme/ledgers/main, in 0 s [conceal]",
        "r1[/]\r\n\tverified: 51 receipts\u2028verified: 51 receipts",
        "a[/nope]b",
        "see [link=https://example.com/]here[/link] :warning: \\[b]",
        "x" * 100_000 + "\nverified",
    ],
    ids=["markup", "line ends", "unbalanced", "link", "long"],
)
def test_a_receipt_of_the_old_format_says_nothing_in_our_name(work: Path, name: str) -> None:
    """Whatever it is called, which nothing checks, there is one answer, and it is ours."""
    (work / "old.json").write_text(json.dumps({"id": name, "receiptType": "mutation"}))
    code, lines, talk = in_words(work, "old.json", "--keys", "jwks.json")
    assert (code, talk) == (2, "")
    assert [line for line in lines if line.lstrip().startswith("verified")] == []
    shown = printable(name) if len(name) <= 256 else name[:256] + "..."
    assert lines[-1] == f"unverified: 1 receipts of {shown}; see what was not checked above"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "other is empty"),
        (gzip.compress(b"", mtime=0), "other is empty"),
        (b"hello", "other is neither an export nor a receipt"),
        (b"\x00\xff\n" * 100, "other is neither an export nor a receipt"),
        (b"{}", "other is neither an export nor a receipt"),
        (b"[]\n[]\n", "other is neither an export nor a receipt"),
        (key_set().encode(), "looks like a key set"),
        (sample_chain().head(), "looks like a signed head"),
        (sample_chain().checkpoint(), "looks like a signed checkpoint"),
    ],
    ids=["empty", "empty.gz", "text", "bytes", "{}", "lists", "jwks", "head", "checkpoint"],
)
def test_a_file_that_is_something_else_is_could_not_tell(
    work: Path, data: bytes, said: str
) -> None:
    (work / "other").write_bytes(data)
    code, answer, _ = verify(work, "other", "--keys", "jwks.json")
    assert code == 2
    assert said in answer["error"]["message"]


def test_what_was_an_export_or_a_receipt_does_not_hold_whatever_was_done_to_it(
    work: Path, chain: Chain
) -> None:
    """Else a forger could turn an answer into the lack of one."""
    export = (work / "export.ndjson").read_bytes()
    receipt = chain.receipts()[5].encode()
    indented = json.dumps(orjson.loads(receipt), indent=2).encode()
    first, rest = export.split(b"\n", 1)
    damaged = {
        "the first bytes destroyed": b"\xff" * 9 + export[9:],
        "the first line destroyed": b"\xff" * len(first) + b"\n" + rest,
        "much before the receipts": b"\xff" * 20_000_000 + b"\n" + rest,
        "the first line gone": rest,
        "nothing but the beginning of an export": export[:5],
        "nothing but the beginning of a receipt": receipt[:5],
        "a receipt cut short": receipt[:-50],
        "a receipt without its beginning": receipt[50:],
        "an indented receipt, cut": indented[:200],
        "two receipts": receipt + b"\n" + receipt,
        "a receipt in a receipt": b'{"x":' + receipt + b"}",
    }
    for what, data in damaged.items():
        (work / "damaged").write_bytes(data)
        code, answer, _ = verify(work, "damaged", "--keys", "jwks.json")
        assert (code, answer["check"]) == (1, "format"), what


def test_a_compressed_export_that_was_cut_is_could_not_tell(work: Path) -> None:
    packed = gzip.compress((work / "export.ndjson").read_bytes())
    (work / "cut.gz").write_bytes(packed[: len(packed) // 2])
    code, answer, _ = verify(work, "cut.gz", "--keys", "jwks.json")
    assert code == 2
    assert "compressed data ends early" in answer["error"]["message"]


def test_what_was_found_stays_found_where_the_compressed_data_is_damaged_behind_it(
    work: Path, chain: Chain
) -> None:
    """Else whoever deletes a receipt would damage the file as well, for a milder answer."""
    lines = chain.export()
    gone = gzip.compress(b"".join([*lines[:10], *lines[11:]]))
    no_end = gzip.compress(b"".join([*lines[:-2], lines[-1]]))
    for name, data, line in (
        ("whole", gone, 11),
        ("cut", gone[:-3000], 11),
        ("trailer", gone[:-8] + bytes(8), 11),
        ("last one gone", no_end[:-8] + bytes(8), len(lines) - 1),
    ):
        (work / "damaged.gz").write_bytes(data)
        code, answer, _ = verify(work, "damaged.gz", "--keys", "jwks.json")
        assert (code, answer.get("line")) == (1, line), name


def test_an_export_whose_first_line_was_damaged_is_still_read_as_one(work: Path) -> None:
    data = bytearray((work / "export.ndjson").read_bytes())
    data[2] ^= 1
    (work / "broken.ndjson").write_bytes(data)
    code, answer, _ = verify(work, "broken.ndjson", "--keys", "jwks.json")
    assert (code, answer["line"]) == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["export.ndjson"], "--keys"),
        (["none.ndjson", "--keys", "jwks.json"], "cannot be read"),
        (["export.ndjson", "--keys", "none.json"], "none.json"),
        (["export.ndjson", "--keys", "export.ndjson"], "JWK Set"),
        ([], "nothing to verify"),
        (["export.ndjson", "--keys", "jwks.json", "--tenant", "acme"], "--tenant names"),
        (["export.ndjson", "--keys", "jwks.json", "--ledger", "main"], "--ledger names"),
    ],
)
def test_what_cannot_be_read_is_could_not_tell(work: Path, arguments: list[str], said: str) -> None:
    code, answer, talk = verify(work, *arguments)
    assert code == 2
    assert said in answer["error"]["message"] + answer["error"].get("next", "")
    assert "Traceback" not in talk


def test_verifying_a_file_imports_no_grpc_and_no_database(work: Path) -> None:
    program = (
        "import sys\n"
        "sys.argv = ['provledger', 'verify', 'export.ndjson', '--keys', 'jwks.json']\n"
        "from provledger_cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'grpc', 'google.protobuf', 'sqlalchemy', 'psycopg', 'sqlite3'}\n"
        "found = heavy & set(sys.modules)\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=work, check=True, capture_output=True)


def test_the_table_says_what_was_not_checked(work: Path) -> None:
    code, lines, _ = in_words(work, "export.ndjson", "--keys", "jwks.json")
    assert code == 0
    assert lines[-1].startswith("verified: 51 receipts")
    assert "not checked" in "\n".join(lines)
    assert FOOTER_PREFIX.decode() not in "\n".join(lines)


@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_a_reader_that_goes_away_does_not_mean_that_it_does_not_hold(
    work: Path, extra: list[str]
) -> None:
    """Exit code 1 is for what was found to be wrong."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as gone:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "provledger_cli", "verify", "export.ndjson"),
                *("--keys", "jwks.json", *extra),
            ],
            cwd=work,
            stdout=gone,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
