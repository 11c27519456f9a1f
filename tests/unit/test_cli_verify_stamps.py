"""`provledger verify FILE --tsa-cert`: whose timestamps are believed."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from provledger import timestamp
from provledger.receipt import Evidence
from provledger_cli.failures import CommandError
from provledger_cli.verifying.trust import outside
from tests.support import peers
from tests.support.chain import key_set, sample_chain, with_changes

NAMES = ("a", "b")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A receipt stamped by two authorities, their certificates, and a policy that asks for both."""
    folder = tmp_path_factory.mktemp("stamps")
    receipt = sample_chain().receipts()[2]
    proof = receipt.proofs[0]
    message = timestamp.imprint_message(proof.checkpoint, proof.origin)
    evidence = []
    for name in NAMES:
        made = peers.OpenSSLAuthority(folder / f"tsa-{name}")
        own, chain = made.cert.read_bytes(), made.chain.read_bytes()
        (folder / f"{name}.pem").write_bytes(own)
        (folder / f"{name}-chain.pem").write_bytes(chain)
        request = timestamp.build_request(message)
        reply = made.answer("", request.der)[2]
        data = timestamp.encode_evidence(request, reply, timestamp.Authority.from_pem(own, chain))
        evidence.append(Evidence(f"sink:{name}", "rfc3161", 1, data))
    stamped = dataclasses.replace(proof, evidence=tuple(evidence))
    (folder / "receipt.json").write_bytes(with_changes(receipt, proofs=(stamped,)).encode())
    (folder / "jwks.json").write_bytes(key_set().encode())
    (folder / "policy").write_text("sink a sink:a\nsink b sink:b\ngroup g all a b\nquorum g\n")
    return folder


def verify(work: Path, *names: str) -> tuple[int, dict[str, Any]]:
    """Run the command with a policy of both sinks, believing these authorities."""
    options = [
        option
        for name in names
        for option in ("--tsa-cert", f"{name}.pem", "--tsa-chain", f"{name}-chain.pem")
    ]
    done = subprocess.run(
        [sys.executable, "-m", "provledger_cli", "verify", "receipt.json", "--keys", "jwks.json",
         "--policy", "policy", *options, "--json"],
        cwd=work, capture_output=True, text=True, check=False,
    )  # fmt: skip
    answer = json.loads(done.stdout)
    return done.returncode, {check["check"]: check for check in answer["checks"]}


def test_two_authorities_meet_a_quorum_of_two_sinks(work: Path) -> None:
    code, checks = verify(work, *NAMES)
    assert code == 0
    assert checks["timestamp_token"]["outcome"] == "holds"
    assert checks["cosigner_quorum"]["detail"] == "a, b"


@pytest.mark.parametrize("name", NAMES)
def test_one_of_them_is_believed_alone(work: Path, name: str) -> None:
    code, checks = verify(work, name)
    assert code == 2
    assert checks["timestamp_token"]["outcome"] == "holds"
    assert checks["cosigner_quorum"]["detail"] == f"not met: it has {name}"


def test_without_the_extra_nothing_is_said_of_the_tokens(work: Path) -> None:
    """They are as good as they were: that nobody can look at them here is no answer."""
    program = (
        "import sys\n"
        "sys.modules['rfc3161_client'] = None\n"
        "from provledger_cli.main import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "verify", "receipt.json", "--keys", "jwks.json",
         "--tsa-cert", "a.pem", "--tsa-chain", "a-chain.pem", "--json"],
        cwd=work, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "provledger[timestamp]" in json.loads(done.stdout)["error"]["message"]


def test_a_certificate_that_cannot_be_read_is_named_with_what_is_wanted(work: Path) -> None:
    for certificate, chain in (("jwks.json", "a-chain.pem"), ("a.pem", "jwks.json")):
        with pytest.raises(CommandError, match="--tsa-cert") as caught:
            outside(None, [work / certificate], [work / chain], online=False)
        assert certificate in caught.value.message
        assert "jwks --out" not in caught.value.hint
        assert "PEM" in caught.value.hint


@pytest.mark.parametrize(("certs", "chains"), [(["a.pem"], []), ([], ["a-chain.pem"])])
def test_certificate_and_chain_belong_together(
    work: Path, certs: list[str], chains: list[str]
) -> None:
    with pytest.raises(CommandError, match="belong together"):
        outside(
            None, [work / name for name in certs], [work / name for name in chains], online=False
        )
