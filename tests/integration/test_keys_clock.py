"""The keys service does not say when a key begins by a clock that nobody shares."""

from __future__ import annotations

from pathlib import Path

import pytest

from provledger.api.keys.v1 import keys_pb2 as pb
from provledger.errors import UnavailableError
from provledger.keyset import MAX_CLOCK_AHEAD_NS
from provledger.report import Check
from provledger.rpc.channel import call
from tests.integration.test_keys_svc import keys_on

NOW_NS = 1_763_665_200_000_000_000
HOUR_NS = 3600 * 10**9


async def test_key_that_nobody_could_sign_with_yet_takes_no_place(tmp_path: Path) -> None:
    """Neither of a key that is revoked, which is then no longer there, nor by a rotation."""
    now_ns = [NOW_NS]
    url = f"sqlite:///{tmp_path / 'keys.sqlite3'}"
    async with keys_on(url, tmp_path, clock=lambda: now_ns[0]) as keys:
        await keys.create(**keys.make("witness-1"))
        held = keys.make("witness-2")
        await keys.rotate(**held, hold_pending=True)
        now_ns[0] += HOUR_NS
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


async def test_key_that_would_end_before_what_it_signed_is_not_replaced(tmp_path: Path) -> None:
    """Without a key ledger, whose entry would say when the old key ends."""
    now_ns = [NOW_NS]
    url = f"sqlite:///{tmp_path / 'keys.sqlite3'}"
    async with keys_on(url, tmp_path, clock=lambda: now_ns[0]) as keys:
        await keys.create(**keys.make("witness-1"))
        await keys.rotate(**keys.make("witness-2"), hold_pending=True)
        signs = pb.SignerKey(purpose=pb.KEY_PURPOSE_WITNESS, kid="witness-1", epoch=1)
        # Somebody else on our machine agrees with us, and does not sign with that key.
        for signer in (
            pb.Signer(watcher="witness", instance="a", keys=[signs], time_ns=NOW_NS + HOUR_NS),
            pb.Signer(watcher="anchor", instance="b", time_ns=NOW_NS),
        ):
            await keys.ask("ReportSigner", pb.ReportSignerRequest(signer=signer))
        for method, request in (
            ("CommitRotation", pb.CommitRotationRequest(kid="witness-2")),
            (
                "RotateKey",
                pb.RotateKeyRequest(kid="witness-2", purpose=pb.KEY_PURPOSE_WITNESS),
            ),
        ):
            with pytest.raises(UnavailableError, match="3600 s behind those of all") as caught:
                await call(getattr(keys.stub, method), request, timeout_s=20.0, idempotent=False)
            assert caught.value.reason == "CLOCK_SKEW"
        assert [key.kid for key in await keys.jwks()] == ["witness-1"]
        now_ns[0] += HOUR_NS
        # Its report is an hour old by our clock, and no more counted, once that is set.
        await keys.ask("CommitRotation", pb.CommitRotationRequest(kid="witness-2"))
        states = {key.kid: (key.state, key.not_after_ns) for key in await keys.jwks()}
        assert states["witness-2"][0] == "active"
        assert (states["witness-1"][1] or 0) > now_ns[0]


async def test_what_a_clock_ahead_dates_counts_though_its_key_is_replaced(tmp_path: Path) -> None:
    """Who signs heard of the rotation at the end of its lease only, as far ahead as is taken."""
    url = f"sqlite:///{tmp_path / 'keys.sqlite3'}"
    async with keys_on(url, tmp_path, clock=lambda: NOW_NS) as keys:
        await keys.create(**keys.make("witness-1"))
        await keys.rotate(**keys.make("witness-2"))
        replaced = (await keys.jwks()).find(purpose="witness", kid="witness-1")
        lease_ns = 1500 * 10**6
        replaced.check_valid_at(NOW_NS + lease_ns + MAX_CLOCK_AHEAD_NS, check=Check.KEY_VALIDITY)
