"""Running commands as anybody would, and small files to feed them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provledger_cli.embedded.datadir import DataDir

SERVICES = ("keys", "witness", "anchor", "ledger")


@dataclass(frozen=True)
class Answer:
    """How a command ended: exit code, its JSON document (None if there was none), its talk."""

    code: int
    json: Any
    talk: str


class Installation:
    """A data directory, and the commands that use it. Relative paths begin in `work`."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.settings: dict[str, str] = {}
        """More variables for every command, and so for the services that `up` starts."""
        self.data = DataDir.at(work / "data")

    def run(
        self,
        *arguments: str,
        check: bool = True,
        stdin: bytes = b"",
        module: str = "provledger_cli",
        data_dir: bool = True,
    ) -> Answer:
        """Run a command with --json to its end; unless told otherwise it must succeed."""
        done = subprocess.run(
            self._command(arguments, module, data_dir),
            input=stdin,
            capture_output=True,
            cwd=self.work,
            env=_environment() | self.settings,
            check=False,
            timeout=120,
        )
        talk = done.stderr.decode()
        answer = Answer(
            done.returncode, json.loads(done.stdout) if done.stdout.strip() else None, talk
        )
        assert "Traceback" not in talk, talk
        if check:
            assert answer.code == 0, f"{arguments}: {answer}"
        return answer

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command with --json and leave it running."""
        return subprocess.Popen(
            self._command(arguments, "provledger_cli", True),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.work,
            env=_environment() | self.settings,
        )

    def _command(self, arguments: tuple[str, ...], module: str, data_dir: bool) -> list[str]:
        where = ["--data-dir", "data"] if data_dir else []
        return [sys.executable, "-m", module, *arguments, *where, "--json"]

    def pid(self, service: str) -> int:
        """Pid of a service that runs."""
        known = json.loads(self.data.endpoints.read_text())
        pid: int = known["services"][service]["pid"]
        return pid

    def kill(self, service: str) -> None:
        """Kill a service without warning."""
        os.kill(self.pid(service), signal.SIGKILL)


def _environment() -> dict[str, str]:
    own = {name: text for name, text in os.environ.items() if not name.startswith("PROVLEDGER_")}
    return {**own, "COLUMNS": "200"}


def shipped_mutations() -> list[bytes]:
    """The 500 lines that come with the command."""
    from importlib import resources

    path = resources.files("provledger_cli") / "data" / "demo-mutations.ndjson"
    return path.read_bytes().splitlines(keepends=True)


def exported(path: Path) -> list[dict[str, Any]]:
    """The receipts of an export, without those of the key ledger it carries."""
    lines = path.read_bytes().splitlines()[1:-1]
    return [json.loads(line) for line in lines if not line.startswith(b'{"keyLedger"')]
