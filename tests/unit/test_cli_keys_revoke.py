"""`keys revoke`: what is given as a checkpoint is looked at before anything is changed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from provledger_cli.failures import CommandError
from provledger_cli.verbs.keys_revoke import _covered
from tests.support.chain import ORIGIN, key_set, sample_chain


class _Remote:
    """An installation with the keys of the sample chain."""

    keys = SimpleNamespace(GetJwks=None)

    async def call(self, rpc: Any, request: Any) -> Any:
        return SimpleNamespace(jwks=key_set().encode().decode())


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
