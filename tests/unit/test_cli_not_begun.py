"""What commands say of an active key that begins ahead of the clock of who signs with it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from provledger.api.keys.v1 import keys_pb2 as pb
from provledger.keyset import KeyPurpose, KeySet, VerificationKey
from provledger_cli.ceremonies import ceremony
from provledger_cli.failures import CommandError


async def test_a_rotation_under_a_key_that_has_not_begun_does_not_say_that_it_signs() -> None:
    """Nobody witnesses the event of the new key, and the clock is right: it was ahead before."""
    begins_ns = 1_763_665_200 * 10**9
    old = VerificationKey.from_public_key(
        Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key(),
        kid="witness-1",
        purpose=KeyPurpose.WITNESS,
        not_before_ns=begins_ns,
    )
    event = pb.KeyEvent(type=pb.KEY_EVENT_TYPE_CREATED, kid="witness-2")
    rotated = pb.KeyEvent(type=pb.KEY_EVENT_TYPE_ROTATED, kid="witness-2")
    used = pb.SignerKey(purpose=pb.KEY_PURPOSE_WITNESS, kid="witness-1", epoch=1)
    now_ns = begins_ns - 3600 * 10**9
    answers = {
        "GetJwks": pb.GetJwksResponse(jwks=KeySet([old]).encode()),
        "ListKeyEvents": pb.ListKeyEventsResponse(
            events=[
                pb.JournaledKeyEvent(event=event, state=pb.KEY_EVENT_STATE_SEALED),
                pb.JournaledKeyEvent(event=rotated, state=pb.KEY_EVENT_STATE_PROPOSED),
            ]
        ),
        "ListSigners": pb.ListSignersResponse(
            signers=[pb.Signer(watcher="witness", instance="a", keys=[used], time_ns=now_ns)]
        ),
    }

    async def call(method: str, request: Any) -> Any:
        return answers[method]

    remote: Any = SimpleNamespace(
        call=call, keys=SimpleNamespace(**{name: name for name in answers})
    )
    with pytest.raises(CommandError) as caught:
        await ceremony.wait_until_active(remote, "witness-2", -1.0, lambda _: None)
    assert "signs on" not in caught.value.hint
    assert "witness-1, the active witness key, begins 2025-11-20T19:00:00Z" in caught.value.hint
