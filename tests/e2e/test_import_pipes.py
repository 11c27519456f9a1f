"""`import` from standard input and pipes: nothing is lost for want of a name."""

from __future__ import annotations

import subprocess
import sys

import orjson

from tests.e2e.commands import Installation


def line(number: int, **changes: object) -> bytes:
    value = {
        "action": "CREATE",
        "resource_type": "Item",
        "resource_id": str(number),
        "actor_id": "tester",
        "new_state": {"number": number},
    }
    return orjson.dumps(value | changes) + b"\n"


def test_a_pipe_without_a_name_is_refused(shared: Installation) -> None:
    """It would share its request ids with every other pipe."""
    answer = shared.run("import", "-", "--tenant", "nameless", stdin=line(1), check=False)
    assert answer.code == 2
    assert answer.json["appended"] == 0
    assert "line 1 has no request_id" in answer.talk
    assert "--source" in answer.talk
    assert "run the same command again" not in answer.talk


def test_equal_lines_of_two_pipes_are_recorded_twice(shared: Installation) -> None:
    given = ("import", "-", "--tenant", "pipes", "--source")
    for name in ("monday", "tuesday"):
        assert shared.run(*given, name, stdin=line(1)).json["appended"] == 1
    assert shared.run(*given, "monday", stdin=line(1)).json["repeated"] == 1
    own = line(1, request_id="own-1")
    assert shared.run("import", "-", "--tenant", "pipes", stdin=own).json["appended"] == 1


def test_process_substitution_is_a_pipe_too(shared: Installation) -> None:
    command = f"{sys.executable} -m provledger_cli import <(cat) --tenant pipes --data-dir data"
    done = subprocess.run(
        ["bash", "-c", command], input=line(1), capture_output=True, cwd=shared.work, check=False
    )
    assert (done.returncode, b"--source" in done.stderr) == (2, True)


def test_files_of_one_name_are_told_apart_by_source(shared: Installation) -> None:
    for place, number in (("a", 1), ("b", 2)):
        (shared.work / place).mkdir()
        (shared.work / place / "same.ndjson").write_bytes(line(number))
    given = ("--tenant", "samename")
    shared.run("import", "a/same.ndjson", *given)
    refused = shared.run("import", "b/same.ndjson", *given, check=False)
    assert refused.code == 1
    assert refused.json["rejections"][0]["reason"] == "REQUEST_ID_REUSED"
    assert "--source" in refused.talk
    again = shared.run("import", "b/same.ndjson", *given, "--source", "b/same.ndjson")
    assert again.json["appended"] == 1
