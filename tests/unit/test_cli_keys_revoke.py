"""`keys revoke`: what is given as a checkpoint is looked at before anything is changed."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from provledger.errors import FailedPreconditionError
from provledger.keyset import CoveredCheckpoint, KeySet, KeyState
from provledger_cli.failures import CommandError
from provledger_cli.verbs.keys_revoke import _covered, _stands
from tests.support.chain import ORIGIN, key_set, sample_chain


class _Remote:
    """An installation with the keys of the sample chain, or others."""

    keys = SimpleNamespace(GetJwks=None)

    def __init__(self, published: KeySet | None = None) -> None:
        self.published = published or key_set()

    async def call(self, rpc: Any, request: Any) -> Any:
        return SimpleNamespace(jwks=self.published.encode().decode())


async def covered(data: bytes) -> list[Any]:
    return await _covered(_Remote(), [data])  # type: ignore[arg-type]


async def test_what_is_no_checkpoint_is_refused_and_where_they_come_from_is_said() -> None:
    chain = sample_chain()
    (found,) = await covered(chain.checkpoint())
    assert (found.origin, found.size) == (ORIGIN, len(chain.leaves))
    for data in (key_set().encode(), b"", b"\xff", chain.checkpoint(log_key="stranger")):
        with pytest.raises(CommandError, match="not a checkpoint of this installation") as caught:
            await covered(data)
        assert "a sink holds" in caught.value.hint
        assert "--checkpoint-out" in caught.value.hint


async def test_what_stands_is_what_the_registry_publishes_whatever_was_asked_for() -> None:
    (key,) = key_set().for_purpose("witness")
    covered = (CoveredCheckpoint(ORIGIN, 7, bytes(32)),)
    revoked = replace(key, state=KeyState.REVOKED, revocation_reason="stolen", covered=covered)
    for published, stands in (
        (KeySet([revoked]), [{"origin": ORIGIN, "size": "7"}]),
        (KeySet([replace(revoked, covered=())]), []),
        (key_set(), []),
    ):
        assert await _stands(_Remote(published), key.kid) == stands  # type: ignore[arg-type]


class _TooLarge(_Remote):
    """One with more keys than a JWK Set holds."""

    async def call(self, rpc: Any, request: Any) -> Any:
        raise FailedPreconditionError("TOO_MANY_KEYS", "the JWK Set has 15728641 bytes")


async def test_too_many_keys_for_a_set_keep_none_from_being_revoked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    full: Any = _TooLarge()
    assert await _covered(full, []) == []
    assert await _stands(full, "witness-1") is None
    assert "what stands of witness-1 cannot be told: the JWK Set has" in capsys.readouterr().err
    with pytest.raises(FailedPreconditionError):
        await _covered(full, [sample_chain().checkpoint()])
