"""`provledger verify --cose`: COSE receipts offline, with exit codes that scripts can rely on."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from provledger import merkle
from provledger.cose_receipt import (
    cose_signature,
    encode_cose_receipt,
    protected_header,
    signed_bytes,
)
from provledger.jwk import Algorithm
from provledger.keyset import KeyPurpose, KeySet, KeyState, VerificationKey
from provledger.rebuild import entry_of
from provledger.receipt import MAX_RECEIPT_BYTES
from tests.support.chain import key_set, mutation, private_key, sample_chain
from tests.support.key_history import PIN, in_one_log, key_chain

CHAIN = sample_chain()
SEQ = 5


def keys(**changes: Any) -> bytes:
    """The keys of the chain, and one of purpose `receipt`."""
    own = VerificationKey.from_public_key(
        private_key("receipt-1").public_key(),
        kid="receipt-1",
        purpose=KeyPurpose.RECEIPT,
        **changes,
    )
    return KeySet([*key_set(), own]).encode()


def cose(
    seq: int, origin: str = CHAIN.origin, leaves: list[bytes] = CHAIN.leaves, index: int = -1
) -> bytes:
    """The COSE receipt of a receipt's entry, in the tree of all leaves."""
    if index < 0:
        index = CHAIN.receipts()[seq].proofs[0].log_index
    hashes = merkle.leaf_hashes(leaves)
    size = len(hashes)
    protected = protected_header(Algorithm.ED25519, "receipt-1", origin, size)
    message = signed_bytes(protected, merkle.root_of_hashes(hashes))
    signature = cose_signature(Algorithm.ED25519, private_key("receipt-1").sign(message))
    path = tuple(merkle.inclusion_proof(hashes, index))
    return encode_cose_receipt(protected, signature, size, index, path)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    receipt = CHAIN.receipts()[SEQ]
    (tmp_path / "r.json").write_bytes(receipt.encode())
    (tmp_path / "entry").write_bytes(entry_of(receipt))
    (tmp_path / "r.cose").write_bytes(cose(SEQ))
    (tmp_path / "jwks.json").write_bytes(keys())
    return tmp_path


def verify(work: Path, *arguments: str) -> tuple[int, Any]:
    """Run the command; (exit code, JSON document, None if there was none)."""
    done = subprocess.run(
        [sys.executable, "-m", "provledger_cli", "verify", *arguments, "--json"],
        cwd=work,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout.strip() else None


def test_a_cose_receipt_holds_beside_a_receipt_and_for_an_entry(work: Path) -> None:
    expected = {
        "outcome": "holds",
        "kid": "receipt-1",
        "origin": CHAIN.origin,
        "tree_size": len(CHAIN.leaves),
        "log_index": CHAIN.receipts()[SEQ].proofs[0].log_index,
    }
    code, answer = verify(work, "r.json", "--cose", "r.cose", "--keys", "jwks.json")
    assert (code, answer["holds"], answer["cose_receipt"]) == (0, True, expected)
    assert {check["check"] for check in answer["checks"]} >= {"inclusion", "witness_signature"}
    code, answer = verify(work, "--entry", "entry", "--cose", "r.cose", "--keys", "jwks.json")
    assert (code, answer["holds"], answer["cose_receipt"]) == (0, True, expected)


def test_evidence_that_an_entry_cannot_be_held_against_is_refused(work: Path) -> None:
    (work / "head.json").write_bytes(CHAIN.head())
    (work / "checkpoint.txt").write_bytes(CHAIN.checkpoint())
    (work / "policy").write_text("quorum none\n")
    options = ("--cose", "r.cose", "--keys", "jwks.json")
    for more in (
        ("--head", "head.json"),
        ("--checkpoint", "checkpoint.txt"),
        ("--policy", "policy"),
        ("--pin", "00" * 32),
    ):
        code, answer = verify(work, "--entry", "entry", *options, *more)
        assert (code, answer.get("holds")) == (2, None), more
    code, answer = verify(work, "r.json", *options, "--checkpoint", "checkpoint.txt")
    assert (code, answer["holds"]) == (0, True)
    code, answer = verify(work, "r.json", *options, "--head", "head.json")
    assert (code, answer["holds"]) == (2, None)


def test_what_does_not_hold_is_said_by_exit_code_one(work: Path) -> None:
    options = ("--cose", "r.cose", "--keys", "jwks.json")
    (work / "r.cose").write_bytes(cose(SEQ + 1))  # of another entry
    for subject in (("r.json",), ("--entry", "entry")):
        code, answer = verify(work, *subject, *options)
        assert (code, answer["holds"], answer["check"]) == (1, False, "cose_receipt")
    (work / "r.cose").write_bytes(cose(SEQ, "log.test/other"))
    code, answer = verify(work, "r.json", *options)
    assert (code, answer["holds"]) == (1, False)
    (work / "r.cose").write_bytes(cose(SEQ))
    (work / "jwks.json").write_bytes(keys(state=KeyState.REVOKED))
    code, answer = verify(work, "--entry", "entry", *options)
    assert (code, answer["holds"]) == (1, False)


def test_a_receipt_that_is_cut_off_does_not_hold_beside_a_cose_receipt_either(work: Path) -> None:
    path = work / "r.json"
    path.write_bytes(path.read_bytes()[:-40])
    for more in ((), ("--cose", "r.cose")):
        code, document = verify(work, "r.json", "--keys", "jwks.json", *more)
        assert (code, document["holds"], document["check"]) == (1, False, "format")


def test_two_proofs_of_one_log_that_contradict_each_other_do_not_hold(work: Path) -> None:
    """Whoever has the receipt key can sign any tree; here are two beside each other."""
    options = ("--cose", "r.cose", "--keys", "jwks.json")
    index = CHAIN.receipts()[SEQ].proofs[0].log_index
    entry = CHAIN.leaves[index]
    other = [b"x"] * len(CHAIN.leaves)
    moved, same_place = [*other], [*other]
    moved[index + 1] = same_place[index] = entry
    cases = (
        (cose(SEQ, leaves=moved, index=index + 1), "proof_invalid"),
        (cose(SEQ, leaves=[*moved, b"y"], index=index + 1), "proof_invalid"),
        (cose(SEQ, leaves=same_place), "head_not_extending"),
    )
    for data, finding in cases:
        (work / "r.cose").write_bytes(data)
        code, answer = verify(work, "r.json", *options)
        assert (code, answer["holds"]) == (1, False)
        assert (answer["check"], answer["finding"]) == ("cose_receipt", finding)
        assert answer["receipt"] == CHAIN.receipts()[SEQ].name
        # By itself each is a good receipt of the entry.
        assert verify(work, "--entry", "entry", *options)[0] == 0


def test_proofs_of_two_sizes_agree_on_the_place_and_a_history_on_the_tree(work: Path) -> None:
    options = ("--cose", "r.cose", "--keys", "jwks.json")
    size = CHAIN.receipts()[SEQ].proofs[0].log_index + 1
    (work / "r.json").write_bytes(CHAIN.receipts(size)[SEQ].encode())
    (work / "history.ndjson").write_bytes(b"".join(CHAIN.export()))
    assert verify(work, "r.json", *options, "--history", "history.ndjson")[0] == 0
    (work / "r.cose").write_bytes(cose(SEQ, leaves=[*CHAIN.leaves[:-1], b"another"]))
    assert verify(work, "r.json", *options)[0] == 0
    code, answer = verify(work, "r.json", *options, "--history", "history.ndjson")
    assert (code, answer["check"], answer["finding"]) == (1, "cose_receipt", "head_not_extending")


def test_a_proof_of_another_tree_than_a_history_or_key_ledger_shows_does_not_hold(
    work: Path,
) -> None:
    """A log that signed two trees of one size, with the receipt in the same one as the proof."""
    chain, fork, keyed = sample_chain(), sample_chain(), key_chain(first={"receipt-1": "receipt"})
    in_one_log(chain, keyed)
    fork.leaves = [*chain.leaves[:-1], b"another"]
    entry = fork.receipts()[SEQ]
    index = entry.proofs[0].log_index
    for name, data in (
        ("r.json", entry.encode()),
        ("older.json", chain.receipts(index + 1)[SEQ].encode()),
        ("r.cose", cose(SEQ, leaves=fork.leaves, index=index)),
        ("good.cose", cose(SEQ, leaves=chain.leaves, index=index)),
        ("history.ndjson", b"".join(chain.export())),
        ("keys.ndjson", b"".join(keyed.export())),
    ):
        (work / name).write_bytes(data)
    history = ("--keys", "jwks.json", "--history", "history.ndjson")
    key_ledger = ("--key-ledger", "keys.ndjson", "--pin", PIN.hex())
    for options in (history, key_ledger):
        for subject in (("older.json",), ("--entry", "entry")):
            code, answer = verify(work, *subject, "--cose", "good.cose", *options)
            assert (code, answer["holds"]) == (0, True), (subject, options, answer)
        for subject in (("r.json",), ("older.json",), ("--entry", "entry")):
            code, answer = verify(work, *subject, "--cose", "r.cose", *options)
            assert (code, answer["finding"]) == (1, "head_not_extending"), (subject, options)


def test_an_entry_says_as_of_when_its_keys_are(work: Path) -> None:
    chain, keyed = sample_chain(), key_chain(first={"receipt-1": "receipt"})
    in_one_log(chain, keyed)
    index = chain.receipts()[SEQ].proofs[0].log_index
    (work / "keys.ndjson").write_bytes(b"".join(keyed.export()))
    (work / "r.cose").write_bytes(cose(SEQ, leaves=chain.leaves, index=index))
    options = ("--cose", "r.cose", "--key-ledger", "keys.ndjson", "--pin", PIN.hex())
    code, answer = verify(work, "--entry", "entry", *options)
    assert (code, answer["key_ledger_uid"]) == (0, keyed.uid.hex())
    (found,) = answer["checks"]
    assert (found["check"], found["outcome"]) == ("key_ledger", "holds")
    assert f"as of tree size {len(chain.leaves)} of " in found["detail"]
    # It is in the log after the end of the key ledger.
    chain.append([mutation(9)])
    (work / "entry").write_bytes(chain.leaves[-1])
    (work / "r.cose").write_bytes(cose(0, leaves=chain.leaves, index=len(chain.leaves) - 1))
    code, answer = verify(work, "--entry", "entry", *options)
    assert (code, answer["finding"]) == (2, "not_placed")


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gz"])
def test_an_export_beside_a_cose_receipt_is_refused_for_what_it_is(
    work: Path, pack: Callable[[bytes], bytes]
) -> None:
    options = ("--cose", "r.cose", "--keys", "jwks.json")
    (work / "export").write_bytes(pack(b"".join(CHAIN.export())))
    code, answer = verify(work, "export", *options)
    assert code == 2
    assert "goes with one receipt" in answer["error"]["message"]
    assert "export is an export" in answer["error"]["next"]
    (work / "r.json").write_bytes(pack((work / "r.json").read_bytes()))
    assert verify(work, "r.json", *options)[0] == 0


def test_what_cannot_be_told_is_exit_code_two(work: Path) -> None:
    (work / "bad.cose").write_bytes(b"no receipt")
    (work / "none.json").write_bytes(key_set().encode())
    for arguments in (
        ("r.json", "--cose", "bad.cose", "--keys", "jwks.json"),
        ("r.json", "--cose", "missing.cose", "--keys", "jwks.json"),
        ("--entry", "entry", "--cose", "r.cose"),
        ("--entry", "entry", "--keys", "jwks.json"),
        ("--cose", "r.cose", "--keys", "jwks.json"),
        ("r.json", "--entry", "entry", "--cose", "r.cose", "--keys", "jwks.json"),
    ):
        code, answer = verify(work, *arguments)
        assert code == 2, (arguments, answer)
        assert answer is None or not answer.get("holds")


def test_a_receipt_over_lines_is_taken_however_much_a_pretty_printer_adds_to_it(
    work: Path,
) -> None:
    options = ("--cose", "r.cose", "--keys", "jwks.json")
    receipt = json.loads((work / "r.json").read_bytes())
    for indent in (2, 60_000):
        (work / "pretty.json").write_text(json.dumps(receipt, indent=indent))
        code, answer = verify(work, "pretty.json", *options)
        assert (code, answer["holds"]) == (0, True), indent
    assert (work / "pretty.json").stat().st_size > MAX_RECEIPT_BYTES
