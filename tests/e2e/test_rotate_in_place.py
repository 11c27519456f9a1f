"""`keys rotate` makes the new key where the old one is: AWS, Google Cloud, a token, a file."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.commands import Installation, exported, shipped_mutations
from tests.support import softhsm

NO_PROBE = ("--no-probe", "--timeout", "60")
pytestmark = pytest.mark.skipif(softhsm.missing() != "", reason=softhsm.missing())


@pytest.fixture
def places(own: Installation, tmp_path: Path) -> Iterator[tuple[Any, Any, softhsm.SoftHSM]]:
    """Fakes of AWS and Google, and a real token; the services can reach all three."""
    pytest.importorskip("boto3", reason="needs boto3: pip install 'provledger[aws]'")
    pytest.importorskip("google.cloud.kms_v1", reason="pip install 'provledger[gcp]'")
    from tests.support.fake_aws_kms import FakeAWSKMS
    from tests.support.fake_gcp_kms import FakeGCPKMS

    hsm = softhsm.plain()
    with FakeAWSKMS() as aws, FakeGCPKMS() as gcp:
        own.settings = {
            "AWS_ENDPOINT_URL_KMS": aws.url,
            "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "example",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": str(tmp_path / "none"),
            "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
            "NO_PROXY": "127.0.0.1",
            "PROVLEDGER_GCP_KMS_ENDPOINT": gcp.endpoint,
            "SOFTHSM2_CONF": str(hsm.path / "softhsm2.conf"),
        }
        yield aws, gcp, hsm


def rotate(own: Installation, kid: str, *more: str) -> dict[str, Any]:
    """Rotate the witness key; the new one."""
    key: dict[str, Any] = own.run("keys", "rotate", "--kid", kid, *NO_PROBE, *more).json["key"]
    assert key["state"] == "active"
    return key


def refused(own: Installation, kid: str, *more: str) -> str:
    """Rotate where it cannot be; what is said."""
    answer = own.run("keys", "rotate", "--kid", kid, *NO_PROBE, *more, check=False)
    assert answer.code == 2
    return json.dumps(answer.json) + answer.talk


def append(own: Installation, kid: str) -> None:
    """Have the key of now sign some receipts."""
    (own.work / "m.ndjson").write_bytes(b"".join(shipped_mutations()[:5]))
    own.run("import", "m.ndjson", "--tenant", "t", "--ledger", kid)
    own.run("export", "--tenant", "t", "--ledger", kid, "--out", "x.ndjson")
    pin = ("--pin", str(own.data.path / "key-ledger.pin"))
    assert own.run("verify", "x.ndjson", *pin, data_dir=False).json["status"] == "verified"
    assert {each["kid"] for each in exported(own.work / "x.ndjson")} == {kid}


@pytest.mark.timeout(400)
def test_each_provider_makes_the_next_key_beside_the_current_one(
    own: Installation, places: tuple[Any, Any, softhsm.SoftHSM]
) -> None:
    aws, gcp, hsm = places
    token = f"e2e-{time.time_ns()}"
    hsm.make_token(token)
    own.run("up")
    # A typo makes nothing; with --create the key is made where it is said.
    assert "w2" in refused(own, "w2", "--uri", hsm.uri(token, "w2"))
    rotate(own, "w2", "--uri", hsm.uri(token, "w2"), "--create")
    assert "object=w3;id=" in rotate(own, "w3")["uri"]
    append(own, "w3")

    # From one provider to the next by the URI alone; the answer to the next key is lost.
    first = f"gcp-kms:{gcp.add_key('EC_SIGN_ED25519')}"
    assert rotate(own, "w4", "--uri", first)["uri"] == first
    gcp.fail_next("lost")
    assert rotate(own, "w5")["uri"] == first[:-1] + "2"
    assert len(gcp.versions) == 2
    append(own, "w5")

    disabled = f"aws-kms:{aws.add_key('ECC_NIST_EDWARDS25519', state='Disabled')}"
    assert "enable-key" in refused(own, "w6", "--uri", disabled)
    rotate(own, "w6", "--uri", f"aws-kms:{aws.add_key('ECC_NIST_EDWARDS25519')}")
    aws.denied = {"CreateKey"}
    assert "kms:CreateKey" in refused(own, "w7")
    aws.denied = set()
    aws.fail_next("lost")
    rotate(own, "w7")
    # Killed after the key was made, before it was registered.
    aws.latency_s, made = 0.2, len(aws.keys)
    started = own.start("keys", "rotate", "--kid", "w8", *NO_PROBE)
    wait_until(lambda: len(aws.keys) > made)
    started.send_signal(signal.SIGKILL)
    started.communicate()
    aws.latency_s = 0.0
    known = {key["kid"] for key in own.run("keys", "list").json["keys"]}
    rotate(own, "w8")
    assert ("w8" in known, len(aws.keys)) == (False, made + 1)
    append(own, "w8")

    # Away from a provider that is gone, by the recovery key.
    aws.latency_s = 60.0
    revoke = ("keys", "revoke", "w8", "--reason", "provider gone", "--replace-by", "w9")
    assert own.run(*revoke, "--uri", "local:w9.pem", "--create").json["replaced_by"] == "w9"
    append(own, "w9")


def wait_until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)
