"""Key events that are longer than what a key's provider takes to sign at once."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from provledger import kms
from provledger.jwk import jwk_from_public_key, thumbprint_of
from provledger.key_events import (
    MAX_EVENT_BYTES,
    Endorsement,
    EventType,
    KeyEvent,
    KeyRef,
    LogSize,
    SignedEvent,
    digest_pae,
    parse_signed,
    verify_endorsement,
    whole_pae,
)
from provledger.key_history import replay
from provledger.keyset import KeyState
from provledger.kms import pkcs11
from provledger.kms.base import Signer
from provledger.kms.errors import KMSMessageTooLongError
from provledger.kms.signing import sign_key_event
from tests.integration.test_kms_aws import ED25519, aws, environment  # noqa: F401
from tests.support.fake_aws_kms import FakeAWSKMS
from tests.unit.test_key_events import C1, GENESIS, H1, R1, W1, about, signed


def sizes(logs: int) -> tuple[LogSize, ...]:
    return tuple(LogSize(f"provledger.example/{n:032x}", 1_000_000 + n) for n in range(logs))


def rotated(signer: Signer, logs: int) -> KeyEvent:
    return KeyEvent(
        event=EventType.ROTATED,
        at_ns=200,
        kid="checkpoint-2",
        thumbprint=thumbprint_of(signer.public_key),
        purpose="checkpoint",
        genesis=GENESIS.digest(),
        epoch=2,
        not_before_ns=300,
        previous=KeyRef(C1.kid, C1.thumbprint),
        sizes=sizes(logs),
    )


@pytest.fixture
async def signer(aws: FakeAWSKMS, tmp_path: Path) -> AsyncIterator[Signer]:  # noqa: F811
    opened = await kms.open_signer(f"aws-kms:{aws.add_key(ED25519)}", tmp_path)
    yield opened
    await opened.close()


async def test_checkpoint_key_in_aws_is_rotated_and_retired_whatever_the_number_of_logs(
    signer: Signer,
) -> None:
    """As many as an anchor has at most."""
    event = rotated(signer, 1001)
    thumbprint = thumbprint_of(signer.public_key)
    created = KeyEvent(
        event=EventType.CREATED,
        at_ns=200,
        kid=event.kid,
        thumbprint=thumbprint,
        purpose="checkpoint",
        genesis=GENESIS.digest(),
        uri=signer.uri,
        jwk=jwk_from_public_key(signer.public_key),
    )
    retired = about(EventType.RETIRED, C1, "checkpoint", not_after_ns=900, sizes=sizes(1001))
    events = [signed(GENESIS, W1, C1, H1, R1)]
    for each in (created, event, retired):
        sig = await sign_key_event(signer, each)
        by = (Endorsement(event.kid, thumbprint, sig),)
        events.append(SignedEvent(each, by if each is retired else (C1.endorse(each), *by)))
    assert all(len(each.encode()) < MAX_EVENT_BYTES for each in events)
    keys = replay([parse_signed(each.encode()) for each in events], R1.thumbprint).keys
    assert (keys["checkpoint-1"].state, keys["checkpoint-2"].state) == (
        KeyState.RETIRED,
        KeyState.ACTIVE,
    )


async def test_event_that_aws_takes_is_sent_whole(aws: FakeAWSKMS, signer: Signer) -> None:  # noqa: F811
    """The bytes of before: older verifiers know no others."""
    longest = next(n for n in range(100, 0, -1) if len(_whole(rotated(signer, n))) <= 4096)
    for logs, expected in ((0, whole_pae), (longest, whole_pae), (longest + 1, digest_pae)):
        body = rotated(signer, logs).encode()
        verify_endorsement(
            signer.public_key, await sign_key_event(signer, rotated(signer, logs)), body
        )
        assert base64.b64decode(aws.signed[-1]["Message"]) == expected(body)


def _whole(event: KeyEvent) -> bytes:
    return whole_pae(event.encode())


async def test_message_that_cloud_kms_does_not_take_is_refused_before_asking(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("google.cloud.kms_v1", reason="needs google-cloud-kms")
    from tests.support.fake_gcp_kms import FakeGCPKMS

    with FakeGCPKMS() as fake:
        monkeypatch.setenv("PROVLEDGER_GCP_KMS_ENDPOINT", fake.endpoint)
        signer = await kms.open_signer(f"gcp-kms:{fake.add_key('EC_SIGN_ED25519')}", tmp_path)
        for logs, expected in ((700, whole_pae), (900, digest_pae)):
            event = rotated(signer, logs)
            sig = await sign_key_event(signer, event)
            verify_endorsement(signer.public_key, sig, event.encode())
            assert fake.signed[-1].data == expected(event.encode())
        with pytest.raises(KMSMessageTooLongError, match="at most 65536 bytes"):
            await signer.sign(bytes(65_537))
        assert len(fake.signed) == 2
        await signer.close()


def test_token_that_refuses_the_length_says_so() -> None:
    """CloudHSM, for one, signs at most 16,000 bytes with Ed25519."""
    library = pytest.importorskip("pkcs11", reason="needs python-pkcs11")

    class Key:
        def sign(self, message: bytes, mechanism: Any) -> bytes:
            if len(message) > 16_000:
                raise library.DataLenRange
            return bytes(64)

    uri: Any = type("URI", (), {"uri": "pkcs11:token=a"})
    assert pkcs11._sign_whole(Key(), uri, bytes(16_000)) == bytes(64)
    with pytest.raises(KMSMessageTooLongError, match="does not sign 16001 bytes"):
        pkcs11._sign_whole(Key(), uri, bytes(16_001))
