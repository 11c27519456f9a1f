"""The JWK Set stays one that verifiers read: rotations end before it is full."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from provledger.api.keys.v1 import keys_pb2 as pb
from provledger.errors import FailedPreconditionError
from tests.integration.test_keys_svc import Keys, keys_on

# Which is less than two keys take, and more than one.
LESS_THAN_TWO = 400


@pytest.fixture
async def keys(tmp_path: Path) -> AsyncIterator[Keys]:
    async with keys_on(f"sqlite:///{tmp_path / 'keys.sqlite3'}", tmp_path) as opened:
        await opened.create(**opened.make("witness-1"))
        await opened.rotate(**opened.make("witness-2"))
        yield opened


async def test_no_key_is_rotated_in_where_only_revocations_have_room(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keys_svc.room.ROTATED_BYTES", LESS_THAN_TWO)
    made = keys.make("witness-3")
    with pytest.raises(FailedPreconditionError, match="kept for revocations") as caught:
        await keys.rotate(**made)
    assert caught.value.reason == "TOO_MANY_KEYS"
    # What was done before is not refused, and a key may wait for one that is to be replaced.
    assert (await keys.rotate(kid="witness-2")).key.state == pb.KEY_STATE_ACTIVE
    await keys.rotate(**made, hold_pending=True)
    with pytest.raises(FailedPreconditionError, match="kept for revocations"):
        await keys.ask("CommitRotation", pb.CommitRotationRequest(kid="witness-3"))
    revoked = pb.RevokeKeyRequest(kid="witness-2", reason="stolen", replacement_kid="witness-3")
    await keys.ask("RevokeKey", revoked)
    states = {key.kid: key.state for key in await keys.jwks()}
    assert states == {"witness-1": "draining", "witness-2": "revoked", "witness-3": "active"}


async def test_it_is_said_beforehand(
    keys: Keys, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("keys_svc.room.WARNED_BYTES", LESS_THAN_TWO)
    await keys.rotate(**keys.make("witness-3"))
    warned = [each for each in caplog.records if each.getMessage() == "keys.jwks_large"]
    assert [each.levelname for each in warned] == ["WARNING"]


async def test_a_key_set_that_verifiers_refuse_is_not_given_out(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keys_svc.room.MAX_JWKS_BYTES", LESS_THAN_TWO)
    with pytest.raises(FailedPreconditionError, match="verify with --pin") as caught:
        await keys.jwks()
    assert caught.value.reason == "TOO_MANY_KEYS"
