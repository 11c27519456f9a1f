"""What `status` says, and ends with, of services that answer and are not well all the same."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from provledger.api.anchor.v1 import anchor_pb2 as pb
from provledger.api.keys.v1 import keys_pb2
from provledger.client import Ledger
from provledger.errors import FailedPreconditionError, StatusError, UnavailableError
from provledger.keyset import KeyPurpose, KeySet, VerificationKey
from provledger_cli import connect
from provledger_cli.embedded import health
from provledger_cli.main import application

BEGINS_NS = 1_763_665_200 * 10**9
OWN = "logs/0a"
NOBODY_KNOWS = UnavailableError("ANCHOR_NOT_ASKED", "the anchor is away")
BEHIND = FailedPreconditionError("LEDGER_BEHIND_ANCHOR", "one is missing")


@dataclass
class Services:
    """A ledger service and an anchor, in place of a `Remote`.

    log: the one that the ledger is in.
    end: what comes in place of the end of the list of ledgers.
    lost: a log that was published, and that the anchor's database does not have.
    behind_s: by how much the witness's clock is behind the start of its key, seconds.
    """

    log: str = ""
    end: StatusError | None = None
    lost: pb.LostLog | None = None
    behind_s: int = 0

    def __post_init__(self) -> None:
        self.client = self
        self.anchor = SimpleNamespace(GetLog=self.get_log, ListLogs=self.list_logs)
        self.keys = SimpleNamespace(GetJwks=self.get_jwks, ListSigners=self.list_signers)

    async def __aenter__(self) -> Services:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def call(self, method: Any, request: Any, **_: Any) -> Any:
        return method(request)

    async def list_ledgers(self, **_: Any) -> AsyncIterator[Ledger]:
        yield Ledger(
            name="tenants/acme/ledgers/main",
            uid=bytes(16),
            suite="blake3",
            log_origin="o",
            seq=0,
            receipt_hash=bytes(32),
            logged_seq=0,
            created_at_ns=0,
            read_only_reason="",
            log=self.log,
        )
        if self.end is not None:
            raise self.end

    def get_log(self, request: pb.GetLogRequest) -> pb.GetLogResponse:
        log = pb.Log(name="logs/00", tree_size=1, published_size=1, anchored_size=1)
        return pb.GetLogResponse(log=log)

    def list_logs(self, request: pb.ListLogsRequest) -> pb.ListLogsResponse:
        return pb.ListLogsResponse(lost_logs=[self.lost] if self.lost else [])

    def get_jwks(self, request: keys_pb2.GetJwksRequest) -> keys_pb2.GetJwksResponse:
        key = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()
        witness = VerificationKey.from_public_key(
            key, kid="w2", purpose=KeyPurpose.WITNESS, epoch=2, not_before_ns=BEGINS_NS
        )
        # Nothing that this one signs is dated.
        other = Ed25519PrivateKey.from_private_bytes(bytes([1] * 32)).public_key()
        checkpoint = VerificationKey.from_public_key(
            other, kid="c1", purpose=KeyPurpose.CHECKPOINT, not_before_ns=BEGINS_NS
        )
        return keys_pb2.GetJwksResponse(jwks=KeySet([witness, checkpoint]).encode())

    def list_signers(self, request: keys_pb2.ListSignersRequest) -> keys_pb2.ListSignersResponse:
        used = [
            keys_pb2.SignerKey(purpose=keys_pb2.KEY_PURPOSE_WITNESS, kid="w2", epoch=2),
            keys_pb2.SignerKey(purpose=keys_pb2.KEY_PURPOSE_CHECKPOINT, kid="c1", epoch=1),
        ]
        time_ns = BEGINS_NS - self.behind_s * 10**9
        signer = keys_pb2.Signer(watcher="witness", instance="a", keys=used, time_ns=time_ns)
        return keys_pb2.ListSignersResponse(signers=[signer])


def status(
    monkeypatch: pytest.MonkeyPatch, services: Services, *asked: str
) -> tuple[int, Any, str]:
    """Exit code, document and talk of `status` of those services, which all answer."""

    async def all_serve(addresses: Any, tls: Any) -> dict[str, str]:
        return dict.fromkeys(addresses, health.SERVING)

    monkeypatch.setattr(connect, "Remote", lambda where, *, timeout_s: services)
    monkeypatch.setattr(health, "check_all", all_serve)
    options = [text for each in asked for text in ("--endpoint", f"{each}=127.0.0.1:1")]
    answer = CliRunner().invoke(application(), ["status", *options, "--json"])
    return answer.exit_code, json.loads(answer.stdout), answer.stderr


@pytest.mark.parametrize(("end", "expected"), [(NOBODY_KNOWS, 2), (BEHIND, 1)])
def test_a_list_that_may_lack_ledgers_is_not_all_well(
    monkeypatch: pytest.MonkeyPatch, end: StatusError, expected: int
) -> None:
    code, found, talk = status(monkeypatch, Services(end=end), "ledger")
    assert (code, len(found["ledgers"])) == (expected, 1)
    assert found["incomplete"] == {"reason": end.reason, "message": end.message}
    assert "there may be more ledgers" in talk


def test_a_log_that_the_anchor_does_not_have_is_not_all_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code, found, talk = status(monkeypatch, Services(log=OWN), "ledger", "anchor")
    assert (code, found["unserved_logs"], found["all_anchored"]) == (1, [OWN], False)
    assert f"{OWN} is not served" in talk


def test_a_log_that_was_published_and_is_not_stored_is_not_all_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost = pb.LostLog(name=OWN, where="file:///sink", tree_size=4, reason="RESTORED_BEHIND")
    code, found, talk = status(monkeypatch, Services(lost=lost), "anchor")
    assert (code, found["all_anchored"]) == (1, False)
    assert found["lost_logs"] == [
        {"name": OWN, "where": "file:///sink", "tree_size": 4, "reason": "RESTORED_BEHIND"}
    ]
    assert f"{OWN} was published" in talk


def test_a_key_that_nobody_signs_with_yet_is_not_all_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Made while the clock was ahead: every service serves, and nothing can be appended."""
    services = Services(behind_s=3600)
    code, found, talk = status(monkeypatch, services, "ledger", "anchor", "keys")
    assert code == 1
    assert found["keys_not_begun"] == [
        {
            "kid": "w2",
            "purpose": "witness",
            "not_before_ns": str(BEGINS_NS),
            "behind_s": 3600,
            "signer": "witness",
        }
    ]
    assert "w2, the active witness key, begins 2025-11-20T19:00:00Z, 3600 s ahead" in talk
    assert "kms-rotate.md" in talk


@pytest.mark.parametrize("behind_s", [-3600, 300])
def test_a_key_that_is_signed_with_is_well(monkeypatch: pytest.MonkeyPatch, behind_s: int) -> None:
    services = Services(behind_s=behind_s)
    code, found, _ = status(monkeypatch, services, "ledger", "anchor", "keys")
    assert (code, found["keys_not_begun"]) == (0, [])


def test_a_list_that_is_whole_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    code, found, _ = status(monkeypatch, Services(), "ledger", "anchor")
    assert (code, found["incomplete"], found["unserved_logs"]) == (0, None, [])
    assert (found["all_anchored"], found["lost_logs"]) == (True, [])
