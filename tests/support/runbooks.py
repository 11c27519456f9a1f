"""The commands of a runbook, run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

RUNBOOKS = Path(__file__).resolve().parents[2] / "docs" / "runbooks"


def commands(name: str) -> Iterator[tuple[str, int]]:
    """Each command of the blocks of kind `console`, with its exit code: 0, or `# exit N` says."""
    text = (RUNBOOKS / f"{name}.md").read_text("utf-8")
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for line in filter(None, map(str.strip, block.splitlines())):
            assert line.startswith("$ "), line
            command, _, comment = line[2:].partition("   # exit ")
            yield command, int(comment or 0)


def run_all(name: str, work: Path, environment: Mapping[str, str]) -> list[str]:
    """Run a runbook's commands in a directory, each in a shell; their outputs.

    Asserts that each ends as the runbook says.
    """
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    own = {key: text for key, text in os.environ.items() if not key.startswith("PROVLEDGER_")}
    said = []
    for command, code in commands(name):
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=work,
            env={**own, "PATH": path, "COLUMNS": "200", **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        assert done.returncode == code, f"{command}: {done.stdout}{done.stderr}"
        said.append(done.stdout + done.stderr)
    return said
