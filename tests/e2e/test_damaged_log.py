"""A tenant's own log that is damaged, and the runbook for it, command by command."""

from __future__ import annotations

import pytest

from tests.e2e.commands import Installation, shipped_mutations
from tests.support.runbooks import run_all
from tests.support.tiled import flip

TILE = "tile/0/000"


@pytest.mark.timeout(400)
def test_the_runbook_of_a_damaged_log_does_what_it_says(own: Installation) -> None:
    own.settings = {"PROVLEDGER_LEDGER_OWN_LOG_TENANTS": "acme"}
    lines = shipped_mutations()
    (own.work / "m.ndjson").write_bytes(b"".join(lines[:300]))
    own.run("up")
    own.run("import", "m.ndjson", "--tenant", "acme")
    own.run("append", "--tenant", "other", stdin=lines[0])
    before = own.run("status", "--wait", "60").json
    assert [log["damage"] for log in before["logs"]] == [None, None]
    shared, mine = (log["name"] for log in before["logs"])
    own.run("backup", "--out", "backup.tar.gz")
    own.run("down")
    log = mine.removeprefix("logs/")
    tile = own.data.tiles / "logs" / log / TILE
    tile.write_bytes(flip(tile.read_bytes(), 40))

    own.run("up")
    found = own.run("anchor", "status", check=False)
    assert found.code == 1
    assert (found.json["log"], found.json["state"], found.json["well"]) == (
        shared,
        "serving",
        False,
    )
    (damaged,) = found.json["damaged"]
    assert (damaged["log"], damaged["tenant"]) == (mine, "tenants/acme")
    assert (damaged["reason"], damaged["tile"]) == ("ROOT_MISMATCH", TILE)
    alone = own.run("anchor", "status", "--log", log, check=False)
    assert (alone.code, alone.json["state"]) == (1, "damaged")
    assert alone.json["damaged"] == [damaged]
    well = own.run("anchor", "status", "--log", shared.removeprefix("logs/")).json
    assert (well["well"], well["damaged"]) == (True, [])
    # The other tenant notices nothing; what is in that log is not called anchored.
    own.run("append", "--tenant", "other", stdin=lines[1])
    refused = own.run("append", "--tenant", "acme", stdin=lines[300], check=False)
    assert (refused.code, refused.json["error"]["reason"]) == (1, "ROOT_MISMATCH")
    status = own.run("status", check=False)
    assert (status.code, status.json["all_anchored"]) == (1, False)
    assert [each["damage"] for each in status.json["logs"]] == [None, damaged]
    assert {each["health"] for each in status.json["services"].values()} == {"serving"}

    environment = {
        "PROVLEDGER_DATA_DIR": str(own.data.path),
        "LOG": log,
        "TILE": TILE,
        **own.settings,
    }
    said = run_all("damaged-log", own.work, environment)
    assert mine in said[0]
    assert TILE in said[2]
    after = own.run("status").json
    assert [each["damage"] for each in after["logs"]] == [None, None]
    own.run("append", "--tenant", "acme", stdin=lines[300])
    assert own.run("status", "--wait", "60").json["logs"][1]["tree_size"] == 303
