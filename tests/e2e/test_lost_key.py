"""The witness's key file is gone: what else there is serves, and by it the key is replaced."""

from __future__ import annotations

import asyncio

import pytest

from provledger.client import AsyncClient, CallPolicy, Mutation
from provledger.errors import UnavailableError
from provledger.retry import NO_RETRY
from provledger_cli.embedded import endpoints
from provledger_cli.embedded.datadir import PIN_FILE
from tests.e2e.commands import Installation, shipped_mutations


async def why_not_appended(own: Installation) -> str:
    """The reason with which a mutation is refused, asked by a client that is in a hurry."""
    draft = Mutation(
        action="CREATE", resource_type="Item", resource_id="1", actor_id="tester", new_state={}
    )
    known = endpoints.read(own.data.endpoints)
    assert known is not None
    policy = CallPolicy(retry=NO_RETRY)
    async with AsyncClient(known.services["ledger"].endpoint, policy=policy) as client:
        with pytest.raises(UnavailableError) as caught:
            await client.append("tenants/before/ledgers/main", draft)
    return caught.value.reason


@pytest.mark.timeout(480)
def test_a_lost_witness_key_is_replaced_while_the_others_serve(own: Installation) -> None:
    own.run("up")
    (own.work / "m.ndjson").write_bytes(b"".join(shipped_mutations()[:5]))
    own.run("import", "m.ndjson", "--tenant", "before")
    own.run("down")
    (own.data.keys / "witness-1.pem").unlink()
    lost = own.run("up", "--timeout", "20", check=False)
    assert (lost.code, "witness" in lost.json["error"]["message"]) == (2, True)
    assert "left running" in lost.json["error"]["next"]
    health = own.run("status", check=False)
    answering = {name: each["health"] for name, each in health.json["services"].items()}
    assert (health.code, answering.pop("witness")) == (2, "unreachable")
    assert set(answering.values()) == {"serving"}, "the ledger service among them"
    assert len(own.run("list", "--tenant", "before").json["receipts"]) == 6
    assert asyncio.run(why_not_appended(own)) == "WITNESS_UNAVAILABLE"
    assert [each["kid"] for each in own.run("keys", "list", "--purpose", "witness").json["keys"]]
    recovery = str(own.data.keys / "recovery-1.pem")
    revoke = ("keys", "revoke", "witness-1", "--reason", "lost", "--replace-by", "witness-2")
    own.run(*revoke, "--recovery-key", recovery)
    own.run("up")
    own.run("import", "m.ndjson", "--tenant", "after")
    own.run("export", "--tenant", "after", "--out", "y.ndjson")
    pin = str(own.data.path / PIN_FILE)
    assert own.run("verify", "y.ndjson", "--pin", pin, data_dir=False).json["status"] == "verified"
