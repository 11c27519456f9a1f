"""Where nobody can be told how a command came out, or a name is no text: still no exit code 1."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from provledger_cli import output

NAME = os.fsdecode(b"b\xfcro.ndjson")  # Latin-1
OWN_EXITS = """
import sys
from provledger_cli import failures

def app():
    {}

failures.run(app)
"""


def run(
    directory: Path, *arguments: str, redirection: str = "", code: str = ""
) -> subprocess.CompletedProcess[bytes]:
    """A command, started by a shell in a directory."""
    start = ["-c", code] if code else ["-m", "provledger_cli", *arguments]
    command = shlex.join([sys.executable, *start])
    return subprocess.run(
        ["sh", "-c", os.fsencode(f"{command} {redirection}")],
        cwd=directory, capture_output=True, check=False, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        ["verify", NAME],
        ["verify", NAME, "--keys", NAME],
        ["import", "-", "--tenant", "t", "--data-dir", NAME],
        ["backup", "--out", "x.tar", "--data-dir", NAME],
        ["restore", NAME, "--data-dir", "new"],
        ["load", "--baseline", NAME],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_name_that_is_not_utf8_is_told_as_it_is_spelled(
    tmp_path: Path, arguments: list[str]
) -> None:
    done = run(tmp_path, *arguments, "--json")
    assert done.returncode == 2, done.stderr.decode()
    assert b"fault of ours" not in done.stderr
    assert rb"b\udcfcro" in done.stderr
    assert r"b\udcfcro" in json.loads(done.stdout)["error"]["message"]


def test_what_is_done_to_such_a_name_is_told(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    output.document({"files": [{"name": NAME, NAME: (1, b"\xff")}], "of": "bü\n"})
    told = json.loads(capsysbinary.readouterr().out)
    spelled = r"b\udcfcro.ndjson"
    assert told == {"files": [{"name": spelled, spelled: [1, "ff"]}], "of": "bü\n"}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize(
    ("arguments", "redirection"),
    [
        (["verify", "missing"], "2>/dev/full"),
        (["verify", "missing", "--json"], ">/dev/full"),
        (["verify", "missing", "--json"], ">/dev/full 2>&1"),
        (["verify", "--nonsense"], "2>/dev/full"),
        (["down", "--json", "--data-dir", "."], ">/dev/full"),
        (["--version"], ">/dev/full"),
    ],
)
def test_on_a_full_disk_it_could_not_be_told(
    tmp_path: Path, arguments: list[str], redirection: str
) -> None:
    done = run(tmp_path, *arguments, redirection=redirection)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("sys.exit(1)", 1),
        ("print('buffered'); sys.exit(1)", 1),
        ("return", 0),
        ("import typer; app = typer.Typer(); app.command()(lambda: input()); app([])", 2),
    ],
    ids=["does not hold", "and is told", "holds", "no input where some was asked for"],
)
def test_an_exit_code_is_that_of_the_verb(tmp_path: Path, body: str, code: int) -> None:
    done = run(tmp_path, code=OWN_EXITS.format(body), redirection="</dev/null")
    assert done.returncode == code, done.stderr.decode()


def test_wrong_usage_is_told_to_nobody(tmp_path: Path) -> None:
    """The reader of a pipe is gone before it is told."""
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "provledger_cli", "verify", "--nonsense"],
            cwd=tmp_path, stderr=write, stdout=subprocess.DEVNULL, check=False, timeout=120,
        )  # fmt: skip
    finally:
        os.close(write)
    assert done.returncode == 2


SHOWN = """
from provledger_cli import failures, output

def app():
    output.show(output.table("ünï", ["nä"], [["b\\U0001f600"]]))
    output.show(output.card("", [("who", "ä\\U0001f600")]))
    output.show("recorded as ü\\U0001f600")

failures.run(app)
"""


@pytest.mark.parametrize(
    ("environment", "spelled"),
    [
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, rb"\xfc\U0001f600"),
        ({"PYTHONIOENCODING": "latin-1"}, b"\xfc\\U0001f600"),
        ({"PYTHONIOENCODING": "utf-8"}, "ü\U0001f600".encode()),
    ],
    ids=["C", "Latin-1", "UTF-8"],
)
def test_what_stdout_has_no_letters_for_is_spelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], spelled: bytes
) -> None:
    """What was done is done: the answer does not fail for a name in it."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "shown.py").write_text(SHOWN, "utf-8")
    done = run(tmp_path, code="exec(open('shown.py', encoding='utf-8').read())")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"recorded as " + spelled in done.stdout


WAITS = """
from provledger_cli import failures, output

def app():
    with output.progress("receipts") as bar:
        bar.update(bar.add_task("verifying", total=2), completed=1)

failures.run(app)
"""


@pytest.mark.parametrize("forced", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_no_bar_is_drawn_into_a_pipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forced: str
) -> None:
    """Colours may be asked for there, as CI does; nobody asks for a cursor that moves."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(forced, "1")
    done = run(tmp_path, code=WAITS)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_bar_is_drawn_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = os.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-c", WAITS], stderr=theirs, check=False, timeout=120
        )
        assert (done.returncode, b"verifying" in os.read(ours, 65536)) == (0, True)
    finally:
        os.close(ours)
        os.close(theirs)
