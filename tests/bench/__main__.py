"""`make bench`: measure, write JSON, assert nothing.

make bench ARGS="--full --out build/bench.json"
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.bench import anchor, endtoend, inprocess
from tests.support.postgres import fresh_database, running_postgres


def conditions() -> dict[str, Any]:
    """Say on what it was measured."""
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "load_before": os.getloadavg()[0],
        "packages": {name: version(name) for name in ("grpcio", "cryptography", "sqlalchemy")},
    }


def main() -> None:
    """Run what was asked for and print one JSON document."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--full", action="store_true", help="five times as much of everything")
    parser.add_argument("--only", choices=["inprocess", "sqlite", "postgres", "anchor"])
    parser.add_argument("--out", type=Path, help="write the JSON here as well")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"conditions": conditions()}
    if arguments.only in (None, "inprocess"):
        result["inprocess"] = inprocess.run(full=arguments.full)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.only in (None, "sqlite"):
            work = endtoend.run(Path(folder, "sqlite"), None, full=arguments.full)
            result["sqlite"] = asyncio.run(work)
        if arguments.only in (None, "postgres"):
            with running_postgres(durable=True) as server, fresh_database(server) as url:
                work = endtoend.run(Path(folder, "postgres"), url, full=arguments.full)
                result["postgres"] = asyncio.run(work)
        if arguments.only in (None, "anchor"):
            with running_postgres(durable=True) as server, fresh_database(server) as url:
                result["anchor"] = {
                    "sqlite": anchor.run(Path(folder, "anchor"), None, full=arguments.full),
                    "postgres": anchor.run(Path(folder, "anchor-pg"), url, full=arguments.full),
                }
    text = json.dumps(result, indent=2)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
