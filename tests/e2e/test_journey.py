"""A receipt's whole way, by the command line, over real services."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from provledger.client import AsyncClient, Client, Mutation
from provledger.cose_receipt import verify_cose_receipt
from provledger.errors import AlreadyExistsError, NotFoundError
from provledger.keyset import KeySet
from provledger.rebuild import entry_of
from provledger.receipt import Receipt, parse_receipt
from provledger.report import Status
from provledger.verify import verify_receipt
from tests.e2e.commands import Installation, exported, shipped_mutations


def mutation(**changes: Any) -> bytes:
    value = {
        "action": "UPDATE",
        "resource_type": "Account",
        "resource_id": "42",
        "actor_id": "tester",
        "previous_state": {"plan": "free"},
        "new_state": {"plan": "pro"},
    }
    return orjson.dumps(value | changes)


def endpoint(shared: Installation, service: str = "ledger") -> str:
    known = json.loads(shared.data.endpoints.read_text())
    return str(known["services"][service]["endpoint"])


def test_import_export_and_verify_offline(shared: Installation) -> None:
    lines = shipped_mutations()
    (shared.work / "five.ndjson.gz").write_bytes(gzip.compress(b"".join(lines)))
    first = shared.run("import", "five.ndjson.gz", "--tenant", "journey", "--batch", "64")
    assert (first.json["appended"], first.json["rejected"]) == (500, 0)
    assert "made ledger" in first.talk

    again = shared.run("import", "five.ndjson.gz", "--tenant", "journey")
    assert (again.json["appended"], again.json["repeated"]) == (0, 500)

    status = shared.run("status", "--wait", "30").json
    assert status["all_anchored"]
    assert status["log"]["anchored_size"] == status["log"]["tree_size"]

    out = ("--out", "j.ndjson.gz", "--head-out", "j-head.json", "--checkpoint-out", "j.checkpoint")
    done = shared.run("export", "--tenant", "journey", *out).json
    assert done["receipts"] == 501
    assert done["earlier_checkpoints"] >= 1
    shared.run("keys", "jwks", "--out", "jwks.json")
    trust = ("--keys", "jwks.json", "--head", "j-head.json", "--checkpoint", "j.checkpoint")
    verdict = shared.run("verify", "j.ndjson.gz", *trust, data_dir=False).json
    assert (verdict["holds"], verdict["receipts"]) == (True, 501)
    outcomes = {check["check"]: check["outcome"] for check in verdict["checks"]}
    assert outcomes["truncation"] == outcomes["consistency"] == "holds"

    # The chain has the lines in the order of the file, with what they said.
    plain = gzip.decompress((shared.work / "j.ndjson.gz").read_bytes())
    (shared.work / "j.ndjson").write_bytes(plain)
    receipts = exported(shared.work / "j.ndjson")
    assert receipts[0]["receiptType"] == "ledger.created"
    for line, receipt in zip(lines, receipts[1:], strict=True):
        given = orjson.loads(line)
        assert receipt["payload"]["mutationType"] == given["action"]
        assert receipt["payload"]["entityId"] == given["resource_id"]
        assert receipt["payload"]["newState"] == given.get("new_state")


def test_ledger_in_a_log_of_its_own_is_exported_and_verified(shared: Installation) -> None:
    with Client(endpoint(shared)) as client:
        ledger, made = client.create_ledger("loner", own_log=True)
        common, _ = client.create_ledger("sociable")
        assert made
        assert ledger.log_origin != common.log_origin
        draft = Mutation(
            action="CREATE",
            resource_type="Account",
            resource_id="1",
            actor_id="tester",
            actor_type="service",
            new_state=b'{"plan":"free"}',
        )
        client.append(ledger.name, draft)
    status = shared.run("status", "--wait", "30").json
    assert status["all_anchored"]
    assert status["logs"][0] == status["log"]
    sizes = {log["origin"]: (log["tree_size"], log["anchored_size"]) for log in status["logs"]}
    assert sizes[ledger.log_origin] == (3, 3)
    (known,) = [each for each in status["ledgers"] if each["name"] == ledger.name]
    assert known["log"] in {log["name"] for log in status["logs"][1:]}
    done = shared.run("export", "--tenant", "loner", "--out", "own.ndjson")
    assert (done.json["receipts"], done.json["key_events"] >= 1) == (2, True)
    shared.run("keys", "jwks", "--out", "own-jwks.json")
    # The key ledger that it carries is in the shared log: the pin is all that is needed.
    pin = (shared.data.path / "key-ledger.pin").read_text().strip()
    for trusted in (("--pin", pin), ("--keys", "own-jwks.json")):
        verdict = shared.run("verify", "own.ndjson", *trusted, data_dir=False).json
        assert (verdict["holds"], verdict["receipts"]) == (True, 2)
        assert verdict["origin"] == ledger.log_origin
    # Another root in the other log's checkpoint, at the end of the key ledger.
    lines = (shared.work / "own.ndjson").read_bytes().splitlines(keepends=True)
    place = next(i for i, line in enumerate(lines) if line.startswith(b'{"keyLedger":{"footer"'))
    checkpoint = orjson.loads(lines[place])["keyLedger"]["footer"]["checkpoint"]
    root = checkpoint.split("\n")[2].encode()
    lines[place] = lines[place].replace(root, bytes([root[0] ^ 1]) + root[1:], 1)
    (shared.work / "own-bad.ndjson").write_bytes(b"".join(lines))
    refused = shared.run("verify", "own-bad.ndjson", "--pin", pin, check=False, data_dir=False)
    assert refused.code == 1
    assert refused.json["check"] == "checkpoint_signature"


def test_a_flipped_byte_is_named(shared: Installation) -> None:
    shared.run("append", "--tenant", "flip", stdin=mutation(request_id="one"))
    shared.run("append", "--tenant", "flip", stdin=mutation(request_id="two"))
    shared.run("export", "--tenant", "flip", "--out", "flip.ndjson")
    shared.run("keys", "jwks", "--out", "jwks.json")
    lines = (shared.work / "flip.ndjson").read_bytes().splitlines(keepends=True)
    # The key ledger stands above the receipts.
    broken = next(place for place, line in enumerate(lines) if b'"plan":"pro"' in line)
    name = orjson.loads(lines[broken])["id"]
    lines[broken] = lines[broken].replace(b'"plan":"pro"', b'"plan":"pra"', 1)
    (shared.work / "flipped.ndjson").write_bytes(b"".join(lines))
    answer = shared.run(
        "verify", "flipped.ndjson", "--keys", "jwks.json", check=False, data_dir=False
    )
    assert answer.code == 1
    assert (answer.json["receipt"], answer.json["line"]) == (name, broken + 1)


def test_append_get_and_list(shared: Installation) -> None:
    answer = shared.run(
        "append", "--tenant", "small", "--request-id", "r-1", "--wait-anchored", stdin=mutation()
    )
    receipt = answer.json
    assert receipt["schema"] == "v0.2"
    assert receipt["proofs"][0]["evidence"]
    bare = receipt["id"].rpartition("/")[2]
    assert shared.run("get", bare, "--tenant", "small", "--out", "r.json").json == receipt
    assert orjson.loads((shared.work / "r.json").read_bytes()) == receipt
    shared.run("keys", "jwks", "--out", "jwks.json")
    assert shared.run("verify", "r.json", "--keys", "jwks.json", data_dir=False).json["holds"]

    # Its proof alone, as a COSE receipt.
    shared.run("get", bare, "--tenant", "small", "--format", "cose", "--out", "r.cose")
    keys = KeySet.parse((shared.work / "jwks.json").read_bytes())
    parsed = parse_receipt(orjson.dumps(receipt))
    assert isinstance(parsed, Receipt)
    proven = verify_cose_receipt((shared.work / "r.cose").read_bytes(), entry_of(parsed), keys)
    assert proven.origin == receipt["proofs"][0]["origin"]
    given = ("verify", "r.json", "--cose", "r.cose", "--keys", "jwks.json")
    told = shared.run(*given, data_dir=False).json
    assert (told["holds"], told["cose_receipt"]["log_index"]) == (True, proven.log_index)

    # The same request id gives the same receipt; with other content it is refused.
    again = shared.run("append", "--tenant", "small", "--request-id", "r-1", stdin=mutation())
    assert again.json["id"] == receipt["id"]
    other = mutation(new_state={"plan": "max"})
    refused = shared.run(
        "append", "--tenant", "small", "--request-id", "r-1", stdin=other, check=False
    )
    assert (refused.code, refused.json["error"]["reason"]) == (2, "REQUEST_ID_REUSED")

    found = shared.run("list", "--tenant", "small", "--resource-type", "Account").json
    assert [item["name"] for item in found["receipts"]] == [receipt["id"]]
    assert shared.run("list", "--tenant", "small", "--actor", "nobody").json["receipts"] == []
    about = shared.run("list", "--tenant", "small", "--about", "--limit", "0").json["receipts"]
    assert [(item["seq"], item["action"], item["resource_id"]) for item in about[1:]] == [
        (1, "UPDATE", "42")
    ]
    assert found["receipts"][0].items() < about[1].items()
    assert (about[1]["actor_id"], about[1]["request_id"]) == ("tester", "r-1")
    limited = shared.run("list", "--tenant", "small", "--limit", "1").json
    assert (len(limited["receipts"]), limited["more"]) == (1, True)
    since = ("--since", receipt["timestamp_iso"], "--until", "2200-01-01T00:00:00Z")
    assert len(shared.run("list", "--tenant", "small", *since).json["receipts"]) == 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"actor_id": ""}, "actor"),
        ({"action": "CREATE"}, "previous_state"),
        ({"new_state": {"plan": "free"}}, "state"),
        ({"resource_type": "a/b"}, "resource_type"),
        ({"diff": [{"op": "remove", "path": "/none"}]}, "diff"),
        ({"occurred_at": "yesterday"}, "occurred_at"),
    ],
)
def test_a_mutation_that_breaks_a_rule_is_refused_by_name(
    shared: Installation, changes: dict[str, Any], named: str
) -> None:
    answer = shared.run("append", "--tenant", "rules", stdin=mutation(**changes), check=False)
    assert answer.code == 2
    error = answer.json["error"]
    assert named in error["message"] + error.get("details", "")
    assert error["next"]


def test_bad_lines_are_rejected_alone(shared: Installation) -> None:
    good = mutation(resource_id="1"), mutation(resource_id="2")
    bad = [
        b'{"action":"UPDATE","action":"DELETE"}',
        mutation(colour="red"),
        mutation(resource_id=""),
        mutation(previous_state=None),
        mutation(new_state={"n": 2**53 + 1}),
    ]
    (shared.work / "bad.ndjson").write_bytes(b"\n".join([good[0], *bad, good[1]]))
    answer = shared.run("import", "bad.ndjson", "--tenant", "bad", check=False)
    assert answer.code == 1
    assert (answer.json["appended"], answer.json["rejected"]) == (2, 5)
    assert [item["line"] for item in answer.json["rejections"]] == [2, 3, 4, 5, 6]
    fields = [item["field"] for item in answer.json["rejections"]]
    assert fields[1] == "colour"
    assert fields[2] == "resource_id"
    assert all(item["reason"] and item["message"] for item in answer.json["rejections"])


def test_verify_against_the_running_services(shared: Installation) -> None:
    for number in range(3):
        shared.run("append", "--tenant", "live", stdin=mutation(resource_id=str(number)))
    verdict = shared.run("verify", "--tenant", "live").json
    assert verdict["holds"] is True
    assert verdict["receipts"] == verdict["stored_rows_checked"] == 4


def test_a_key_is_rotated_without_a_pause(shared: Installation) -> None:
    before = shared.run("append", "--tenant", "rotate", stdin=mutation(resource_id="1")).json
    answer = shared.run("rotate", "--kid", "witness-2", module="provledger_cli.keys_main").json
    assert (answer["key"]["kid"], answer["key"]["state"]) == ("witness-2", "active")
    assert answer["previous"]["kid"] == before["kid"]
    after = shared.run("append", "--tenant", "rotate", stdin=mutation(resource_id="2")).json
    assert after["kid"] == "witness-2"
    assert (shared.data.keys / "witness-2.pem").stat().st_mode & 0o077 == 0
    # Both receipts verify with the keys of now.
    assert shared.run("verify", "--tenant", "rotate").json["receipts"] == 3
    reused = shared.run("keys", "rotate", "--kid", before["kid"], check=False)
    assert (reused.code, "never used again" in reused.json["error"]["next"]) == (2, True)
    listed = shared.run("keys", "list", "--purpose", "witness").json["keys"]
    assert {key["kid"]: key["state"] for key in listed}["witness-2"] == "active"
    assert shared.run("keys", "show", "witness-2").json["jwk"]["kty"] == "OKP"


def test_services_elsewhere_are_reached_by_endpoint(shared: Installation) -> None:
    """Without the data directory nothing is made on the way: that is for its owner."""
    (shared.work / "one.ndjson").write_bytes(mutation())
    where = ("--endpoint", endpoint(shared), "--data-dir", "elsewhere")
    answer = shared.run(
        "import", "one.ndjson", "--tenant", "nowhere", *where, check=False, data_dir=False
    )
    assert (answer.code, "NOT_FOUND" in answer.json["error"]["reason"]) == (2, True)
    shared.run("append", "--tenant", "remote", stdin=mutation())
    keys = f"keys={endpoint(shared, 'keys')}"
    export = shared.run(
        "export", "--tenant", "remote", "--out", "remote.ndjson", *where, data_dir=False
    )
    assert "anchored or not" in export.talk
    assert shared.run("keys", "list", "--endpoint", keys, data_dir=False).json["keys"]


def test_the_blocking_client_over_real_services(shared: Installation) -> None:
    keys = endpoint(shared, "keys")
    with Client(endpoint(shared), keys_endpoint=keys) as client:
        ledger, created = client.create_ledger("client")
        assert created
        drafts = [
            Mutation(
                action="CREATE",
                resource_type="Item",
                resource_id=str(number),
                actor_id="tester",
                new_state={"n": number, "f": 1.5},
                request_id=f"c-{number}",
            )
            for number in range(50)
        ]
        streamed = list(client.append_stream(ledger.name, drafts[:30]))
        assert all(result.error is None for result in streamed)
        batch = client.append_batch(ledger.name, drafts, full=True)
        assert [result.repeated for result in batch] == [True] * 30 + [False] * 20
        last = batch[-1].summary
        assert last is not None
        receipt = client.wait_for_anchor(last.name, timeout_s=30)
        report = verify_receipt(receipt, client.jwks())
        assert report.status is Status.VERIFIED
        assert client.verify_range(ledger.name).checked_count == 51
        assert len(list(client.list_receipts(ledger.name, page_size=20))) == 51
        with pytest.raises(NotFoundError):
            client.append("tenants/nobody/ledgers/main", drafts[0])


async def test_the_asyncio_client_over_real_services(shared: Installation) -> None:
    draft = Mutation(
        action="CREATE",
        resource_type="Item",
        resource_id="1",
        actor_id="tester",
        new_state={},
        request_id="a-1",
    )
    async with AsyncClient(endpoint(shared)) as client:
        ledger, _ = await client.create_ledger("aclient", "second", suite="fips")
        receipt = await client.append(ledger.name, draft)
        assert receipt.suite == "fips"
        other = Mutation(
            action="CREATE",
            resource_type="Item",
            resource_id="2",
            actor_id="tester",
            new_state={},
            request_id="a-1",
        )
        with pytest.raises(AlreadyExistsError) as caught:
            await client.append(ledger.name, other)
        assert caught.value.reason == "REQUEST_ID_REUSED"
        await client.wait_for_anchor(receipt.name)
        head = await client.get_head(ledger.name)
        assert b"payloadType" in head.head


def test_make_demo_goes_all_the_way(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "provledger_cli.demo"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "names the broken receipt" in done.stdout
    assert "receipts/s" in done.stdout
