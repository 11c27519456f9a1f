"""`verify --online` asks a store for locked copies, and believes nothing it was not shown."""

from __future__ import annotations

import dataclasses
import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from anchor_svc.sinks import PublishedCheckpoint
from anchor_svc.sinks.s3 import S3Sink
from provledger.checkpoint import parse
from provledger.errors import VerificationError
from provledger.note import parse as parse_note
from provledger.outside import ObjectLock, Outside, parse_object_lock
from provledger.receipt import Evidence, Receipt
from provledger.report import Check, Outcome, Status
from provledger.verify import verify_receipt
from provledger_cli.failures import CommandError
from provledger_cli.verifying.trust import ask_s3
from tests.support import peers
from tests.support.chain import key_set, sample_chain, with_changes

pytest.importorskip("boto3")


@pytest.fixture(params=["moto", "minio"], scope="module")
def store(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[str]:
    if request.param == "moto":
        with peers.moto_store() as url:
            yield url
    else:
        with peers.minio_store(tmp_path_factory.mktemp("minio")) as url:
            yield url


@pytest.fixture
def bucket() -> str:
    """What is locked in COMPLIANCE mode stays there: each test has its own."""
    return f"evidence-{secrets.token_hex(4)}"


@pytest.fixture
def client(store: str, bucket: str) -> Any:
    client = peers.s3_client(store)
    client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    return client


async def locked(client: Any, bucket: str, *, legal_hold: bool = False) -> Receipt:
    """A receipt whose checkpoint the sink has locked in the bucket."""
    receipt = sample_chain().receipts()[5]
    (proof,) = receipt.proofs
    stated = parse(parse_note(proof.checkpoint).text)
    checkpoint = PublishedCheckpoint(stated.origin, stated.size, stated.root, proof.checkpoint)
    sink = S3Sink("s3://evidence", bucket, "held" if legal_hold else "", lambda: client,
                  legal_hold=legal_hold)  # fmt: skip
    evidence = await sink.anchor(checkpoint)
    await sink.close()
    item = Evidence("s3://evidence", evidence.kind, 1, evidence.data)
    return with_changes(receipt, proofs=(dataclasses.replace(proof, evidence=(item,)),))


def lock_of(receipt: Receipt) -> ObjectLock:
    return parse_object_lock(receipt.proofs[0].evidence[0].evidence)


def ask(client: Any, lock: ObjectLock, receipt: Receipt) -> None:
    ask_s3(client)(lock, receipt.proofs[0].checkpoint)


@pytest.mark.parametrize("legal_hold", [False, True])
async def test_what_the_sink_locked_is_found_locked(
    client: Any, bucket: str, legal_hold: bool
) -> None:
    receipt = await locked(client, bucket, legal_hold=legal_hold)
    report = verify_receipt(receipt, key_set(), Outside(ask_store=ask_s3(client)))
    found = {result.check: result for result in report.results}[Check.OBJECT_LOCK]
    assert (found.outcome, report.status) == (Outcome.HOLDS, Status.VERIFIED)
    assert "says the store" in found.detail
    # A longer lock is as good as the one that was promised.
    lock = lock_of(receipt)
    ask(
        client, dataclasses.replace(lock, retain_until_unix_s=lock.retain_until_unix_s - 9), receipt
    )


async def test_what_the_store_says_otherwise_does_not_hold(client: Any, bucket: str) -> None:
    receipt = await locked(client, bucket, legal_hold=True)
    lock = lock_of(receipt)
    for changed, why in (
        ({"version_id": "00000000-0000-0000-0000-000000000000"}, "gone"),
        ({"key": "nowhere"}, "gone"),
        ({"bucket": "no-such-bucket"}, "gone"),
        ({"mode": "GOVERNANCE"}, "in mode COMPLIANCE"),
        ({"retain_until_unix_s": lock.retain_until_unix_s + 60}, "shorter time"),
    ):
        with pytest.raises(VerificationError, match=why):
            ask(client, dataclasses.replace(lock, **changed), receipt)
    with pytest.raises(VerificationError, match="another checkpoint"):
        ask_s3(client)(lock, b"another")
    place = {"Bucket": lock.bucket, "Key": lock.key, "VersionId": lock.version_id}
    client.put_object_legal_hold(**place, LegalHold={"Status": "OFF"})
    with pytest.raises(VerificationError, match="legal hold"):
        ask(client, lock, receipt)


async def test_a_copy_that_was_never_locked_does_not_hold(client: Any, bucket: str) -> None:
    receipt = await locked(client, bucket)
    put = client.put_object(Bucket=bucket, Key="plain", Body=receipt.proofs[0].checkpoint)
    lock = dataclasses.replace(lock_of(receipt), key="plain", version_id=put["VersionId"])
    # moto has no answer of its own for a lock that is not there; this is what S3 says.
    with pytest.raises(VerificationError, match="not locked any more"):
        ask(Says(client, "NoSuchObjectLockConfiguration"), lock, receipt)
    until = datetime.now(UTC) + timedelta(days=400)
    client.put_object_retention(
        Bucket=bucket,
        Key="plain",
        VersionId=put["VersionId"],
        Retention={"Mode": "GOVERNANCE", "RetainUntilDate": until},
    )
    with pytest.raises(VerificationError, match="mode GOVERNANCE"):
        ask(client, lock, receipt)


class Says:
    """A client that is shown objects without their locks; asked for those, the store says why."""

    def __init__(self, client: Any, code: str) -> None:
        self._client = client
        self._code = code

    def get_object(self, **place: str) -> Any:
        found = self._client.get_object(**place)
        return {name: each for name, each in found.items() if not name.startswith("ObjectLock")}

    def get_object_retention(self, **_: str) -> Any:
        from botocore.exceptions import ClientError

        raise ClientError({"Error": {"Code": self._code}}, "GetObjectRetention")


async def test_what_may_not_be_seen_is_not_known(client: Any, bucket: str) -> None:
    receipt = await locked(client, bucket)
    with pytest.raises(CommandError, match="AccessDenied to GetObjectRetention"):
        ask(Says(client, "AccessDenied"), lock_of(receipt), receipt)
    away = peers.s3_client("http://127.0.0.1:1")
    with pytest.raises(CommandError, match="cannot be asked"):
        ask(away, lock_of(receipt), receipt)


async def test_the_command_asks_the_store_that_the_environment_names(
    client: Any, bucket: str, store: str, tmp_path: Path
) -> None:
    receipt = await locked(client, bucket)
    (tmp_path / "r.json").write_bytes(receipt.encode())
    (tmp_path / "jwks.json").write_bytes(key_set().encode())
    command = [sys.executable, "-m", "provledger_cli", "verify", "r.json", "--keys", "jwks.json"]
    names = {name.upper(): text for name, text in peers.ROOT.items()} | {"AWS_REGION": "us-east-1"}
    environment = {**_environment(), **names, "AWS_ENDPOINT_URL_S3": store}
    done = subprocess.run(
        [*command, "--online", "--json"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        check=False,
    )
    answer = json.loads(done.stdout)
    assert done.returncode == 0, answer
    outcomes = {check["check"]: check["outcome"] for check in answer["checks"]}
    assert outcomes["object_lock"] == "holds"


def _environment() -> dict[str, str]:
    import os

    return {name: text for name, text in os.environ.items() if not name.startswith("PROVLEDGER_")}
