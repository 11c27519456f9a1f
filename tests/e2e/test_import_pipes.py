"""`import` from standard input and pipes: nothing is lost for want of a name."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys

import orjson
import pytest

from tests.e2e.commands import Installation
from tests.e2e.test_processes import until


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


def recorded(where: Installation, tenant: str) -> int:
    answer = where.run("list", "--tenant", tenant, check=False)
    # The first receipt is the ledger's own.
    return len(answer.json["receipts"]) - 1 if answer.code == 0 else 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_lines_are_recorded_as_they_come_and_a_signal_ends_the_wait(
    shared: Installation, number: signal.Signals
) -> None:
    tenant = f"waits-{number.name.lower()}"
    importing = shared.start("import", "-", "--tenant", tenant, "--source", "log")
    assert importing.stdin is not None
    for data, so_far in ((line(1) + line(2), 2), (line(3), 3)):
        importing.stdin.write(data)
        importing.stdin.flush()
        until(lambda: recorded(shared, tenant) == so_far, "what came is recorded")  # noqa: B023
        assert importing.poll() is None
    # The beginning of a line is none.
    importing.stdin.write(line(4)[:-5])
    importing.stdin.flush()
    importing.send_signal(number)
    assert importing.wait(10) == 2
    assert importing.stdout is not None
    assert importing.stderr is not None
    answer, talk = json.loads(importing.stdout.read()), importing.stderr.read().decode()
    assert (answer["complete"], answer["appended"], answer["unanswered"]) == (False, 3, [])
    assert "interrupted after line 3" in talk
    assert "same lines from the first on" in talk
    assert "Traceback" not in talk
    importing.stdin.close()
    whole = b"".join(line(each) for each in range(1, 5))
    again = shared.run("import", "-", "--tenant", tenant, "--source", "log", stdin=whole)
    assert (again.json["appended"], again.json["repeated"]) == (1, 3)


def test_a_signal_ends_an_import_that_has_had_no_line(shared: Installation) -> None:
    importing = shared.start("import", "-", "--tenant", "mute", "--source", "log")
    assert importing.stderr is not None
    assert b"made ledger" in importing.stderr.readline()
    importing.send_signal(signal.SIGINT)
    _, talk = importing.communicate(timeout=30)
    assert (importing.returncode, b"interrupted" in talk) == (2, True), talk.decode()


def test_a_compressed_pipe_is_read_to_its_end(shared: Installation) -> None:
    packed = gzip.compress(b"".join(line(each) for each in range(1, 4)))
    answer = shared.run("import", "-", "--tenant", "packed", "--source", "x", stdin=packed)
    assert answer.json["appended"] == 3
    cut = shared.run(
        "import", "-", "--tenant", "packed", "--source", "y", stdin=packed[:-4], check=False
    )
    assert (cut.code, "damaged" in cut.talk) == (2, True)


def test_a_signal_ends_the_import_of_a_file_between_two_lines(shared: Installation) -> None:
    with (shared.work / "long.ndjson").open("wb") as file:
        file.writelines(line(each) for each in range(1, 20_001))
    given = ("import", "long.ndjson", "--tenant", "long", "--batch", "20")
    importing = shared.start(*given)
    until(lambda: recorded(shared, "long") > 0, "some are there")
    importing.send_signal(signal.SIGINT)
    out, talk = importing.communicate(timeout=30)
    answer = json.loads(out)
    assert (importing.returncode, answer["complete"]) == (2, False), talk.decode()
    assert answer["appended"] == answer["lines"] < 20_000
    assert answer["unanswered"] == []
