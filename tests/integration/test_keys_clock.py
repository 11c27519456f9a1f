"""The keys service does not say when a key begins by a clock that nobody shares."""

from __future__ import annotations

from pathlib import Path

import pytest

from provledger.api.keys.v1 import keys_pb2 as pb
from provledger.errors import UnavailableError
from provledger.rpc.channel import call
from tests.integration.test_keys_svc import keys_on

NOW_NS = 1_763_665_200_000_000_000


async def test_key_that_nobody_could_sign_with_yet_takes_no_place(tmp_path: Path) -> None:
    """Neither of a key that is revoked, which is then no longer there, nor by a rotation."""
    now_ns = [NOW_NS]
    url = f"sqlite:///{tmp_path / 'keys.sqlite3'}"
    async with keys_on(url, tmp_path, clock=lambda: now_ns[0]) as keys:
        await keys.create(**keys.make("witness-1"))
        held = keys.make("witness-2")
        await keys.rotate(**held, hold_pending=True)
        now_ns[0] += 3600 * 10**9
        report = pb.ReportSignerRequest(
            signer=pb.Signer(watcher="witness", instance="a", time_ns=NOW_NS)
        )
        await keys.ask("ReportSigner", report)
        replace = pb.RevokeKeyRequest(kid="witness-1", reason="stolen", replacement_kid="witness-2")
        commit = pb.CommitRotationRequest(kid="witness-2")
        rotate = pb.RotateKeyRequest(kid="witness-2", purpose=pb.KEY_PURPOSE_WITNESS)
        for method, request in (
            ("RevokeKey", replace),
            ("CommitRotation", commit),
            ("RotateKey", rotate),
        ):
            with pytest.raises(UnavailableError, match="keys service is 3600 s ahead") as caught:
                await call(getattr(keys.stub, method), request, timeout_s=20.0, idempotent=False)
            assert caught.value.reason == "CLOCK_SKEW"
        assert [key.kid for key in await keys.jwks()] == ["witness-1"]
        now_ns[0] = NOW_NS
        await keys.ask("ReportSigner", report)
        await keys.ask("RevokeKey", replace)
        active = [key.kid for key in await keys.jwks() if key.state == "active"]
        assert active == ["witness-2"]
