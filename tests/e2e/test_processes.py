"""The services as processes: started, found, killed, started again, stopped."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from provledger_cli.embedded import running
from provledger_cli.embedded.datadir import is_locked
from tests.e2e.commands import SERVICES, Installation, exported

LINES = 4000


def until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"{what}: not within {timeout_s} s"
        time.sleep(0.02)


def write_lines(path: Path, count: int = LINES) -> None:
    with path.open("wb") as file:
        for number in range(count):
            value = {
                "action": "CREATE",
                "resource_type": "Item",
                "resource_id": str(number),
                "actor_id": "tester",
                "new_state": {"number": number, "text": "x" * 50},
            }
            file.write(orjson.dumps(value) + b"\n")


@pytest.mark.faults
def test_killing_each_service_during_an_import_loses_and_doubles_nothing(
    own: Installation,
) -> None:
    own.run("up")
    write_lines(own.work / "many.ndjson")
    lines = (own.work / "many.ndjson").read_bytes().splitlines(keepends=True)
    arguments = ("--tenant", "killed", "--batch", "50", "--source", "many.ndjson")
    importing = own.start("import", "-", *arguments)
    assert importing.stdin is not None
    share = LINES // len(SERVICES)
    for number, service in enumerate(SERVICES):
        importing.stdin.write(b"".join(lines[number * share : (number + 1) * share]))
        importing.stdin.flush()
        until(lambda: own.pid(service) > 0, f"{service} runs")  # noqa: B023
        own.kill(service)
        own.run("up")
        assert importing.poll() is None
    out, talk = importing.communicate(timeout=90)
    assert importing.returncode == 0, talk.decode()
    first = json.loads(out)
    assert first["appended"] + first["repeated"] == LINES

    again = own.run("import", "many.ndjson", "--tenant", "killed").json
    assert (again["appended"], again["repeated"]) == (0, LINES)
    own.run("export", "--tenant", "killed", "--out", "killed.ndjson")
    own.run("keys", "jwks", "--out", "jwks.json")
    verdict = own.run("verify", "killed.ndjson", "--keys", "jwks.json", data_dir=False).json
    assert (verdict["holds"], verdict["receipts"]) == (True, LINES + 1)
    ids = [receipt["payload"]["entityId"] for receipt in exported(own.work / "killed.ndjson")[1:]]
    assert sorted(ids, key=int) == [str(number) for number in range(LINES)]
    status = own.run("status").json
    assert {service["health"] for service in status["services"].values()} == {"serving"}


@pytest.mark.faults
def test_an_import_that_is_killed_goes_on_where_it_was(shared: Installation) -> None:
    write_lines(shared.work / "resumed.ndjson")
    importing = shared.start("import", "resumed.ndjson", "--tenant", "resumed", "--batch", "20")

    def some_are_there() -> bool:
        answer = shared.run("list", "--tenant", "resumed", "--limit", "60", check=False)
        return answer.code == 0 and len(answer.json["receipts"]) == 60

    until(some_are_there, "some lines are recorded")
    importing.kill()
    importing.communicate()
    again = shared.run("import", "resumed.ndjson", "--tenant", "resumed").json
    assert again["appended"] + again["repeated"] == LINES
    assert again["repeated"] >= 60
    assert shared.run("verify", "--tenant", "resumed").json["receipts"] == LINES + 1


def test_up_is_idempotent_and_down_leaves_nothing_running(
    own: Installation, shared: Installation
) -> None:
    first = own.run("up").json
    assert not first["already_running"]
    # Two data directories run side by side.
    there = shared.run("up").json["services"].values()
    here = first["services"].values()
    assert not {service["endpoint"] for service in here} & {
        service["endpoint"] for service in there
    }
    names = [each["name"] for each in own.run("status").json["ledgers"]]
    assert names in ([], ["tenants/system/ledgers/keys"])

    own.kill("ledger")
    second = own.run("up").json
    assert second["already_running"]
    was, is_ = first["services"], second["services"]
    assert is_["ledger"]["pid"] != was["ledger"]["pid"]
    assert is_["ledger"]["endpoint"] == was["ledger"]["endpoint"]
    assert is_["keys"] == was["keys"]

    assert own.run("down").json["stopped"] is True
    assert not is_locked(own.data.services_lock)
    assert own.run("down").json["stopped"] is False
    down = own.run("status", check=False)
    assert down.code == 2
    assert {service["health"] for service in down.json["services"].values()} == {"unreachable"}


def test_up_starts_everything_that_a_down_at_work_stops(own: Installation) -> None:
    """`up`'s two steps: the first finds a supervisor, which ends before the second."""
    before = own.run("up").json
    keys = before["services"]["keys"]["pid"]
    # It is the last that is stopped, and so holds its supervisor up.
    os.kill(keys, signal.SIGSTOP)
    stopping = own.start("down")
    until(lambda: own.pid("ledger") == 0, "it is being stopped")
    supervising = running.ensure_supervisor(own.data)
    assert supervising.process is None
    os.kill(keys, signal.SIGCONT)
    after = asyncio.run(
        running.wait_until_serving(own.data, supervising, lambda count: None, timeout_s=90.0)
    )
    assert after.supervisor_pid != before["supervisor_pid"]
    assert supervising.is_ours(after.supervisor_pid)
    stopping.communicate(timeout=120)
    assert stopping.returncode == 0
    assert own.run("status").code == 0
    own.run("down")
    assert supervising.process is not None
    supervising.process.wait(60)


def test_a_copy_in_which_nothing_runs_is_not_taken_for_its_original(
    own: Installation, shared: Installation
) -> None:
    own.data.make()
    own.data.endpoints.write_bytes(shared.data.endpoints.read_bytes())
    listed = own.run("list", "--tenant", "nobody", check=False)
    assert listed.code == 2
    assert "nothing runs in" in listed.json["error"]["message"]
    status = own.run("status", check=False)
    assert (status.code, status.json["ledgers"]) == (2, [])
    assert {service["health"] for service in status.json["services"].values()} == {"unreachable"}


def test_services_end_with_a_supervisor_that_is_killed(own: Installation) -> None:
    before = own.run("up").json
    os.kill(before["supervisor_pid"], signal.SIGKILL)
    until(lambda: not is_locked(own.data.services_lock), "all services end")
    after = own.run("up").json
    assert after["supervisor_pid"] != before["supervisor_pid"]


def test_up_in_the_foreground_stops_on_ctrl_c(own: Installation) -> None:
    process = own.start("up", "--foreground")
    until(lambda: own.run("status", check=False).code == 0, "everything serves")
    process.send_signal(signal.SIGINT)
    out, talk = process.communicate(timeout=30)
    assert process.returncode == 0, talk.decode()
    assert json.loads(out)["data_dir"] == str(own.data.path)
    assert not is_locked(own.data.services_lock)


def test_a_service_that_cannot_start_shows_the_end_of_its_log(own: Installation) -> None:
    own.data.make()
    (own.data.databases / "keys.sqlite3").write_bytes(b"this is no database" * 100)
    answer = own.run("up", "--timeout", "2", check=False)
    assert answer.code == 2
    assert "keys" in answer.json["error"]["message"]
    assert "keys.log" in answer.json["error"]["details"]
    assert not is_locked(own.data.services_lock)


def test_settings_that_cannot_be_are_told_at_once(own: Installation) -> None:
    answer = own.run("up", "--sink", "s3://bucket/x?mode=NONE", check=False)
    assert answer.code == 2
    assert "anchor cannot start with its settings" in answer.json["error"]["message"]
    assert "mode must be COMPLIANCE" in answer.json["error"]["details"]
    # What was given is kept until something else is.
    assert "--sink" in answer.json["error"]["next"]
    own.run("up", "--sink", (own.work / "elsewhere").as_uri())


def test_what_is_no_sink_is_told_before_anything_is_made(own: Installation) -> None:
    answer = own.run("up", "--sink", "carrier-pigeon:coop", check=False)
    assert answer.code == 2
    assert "carrier-pigeon" in answer.json["error"]["message"]
    own.run("up")


@pytest.mark.postgres
def test_one_postgresql_database_serves_all_services(
    own: Installation, postgres_database_url: str
) -> None:
    elsewhere = own.work / "elsewhere"
    elsewhere.mkdir()
    own.run("up", "--database-url", postgres_database_url, "--sink", elsewhere.as_uri())
    write_lines(own.work / "lines.ndjson", 300)
    assert own.run("import", "lines.ndjson", "--tenant", "pg").json["appended"] == 300
    assert own.run("verify", "--tenant", "pg").json["receipts"] == 301
    assert list(elsewhere.rglob("*.checkpoint"))
    assert not list(own.data.anchors.iterdir())
    other = own.run("up", "--database-url", "postgresql+psycopg://x@y/z", check=False)
    assert other.code == 2
    own.run("down")
    # From the first time on, the data directory knows its database and sinks.
    again = own.run("up").json
    assert (again["database"], again["sinks"]) == ("postgresql", [elsewhere.as_uri()])
    assert own.run("import", "lines.ndjson", "--tenant", "pg").json["repeated"] == 300
