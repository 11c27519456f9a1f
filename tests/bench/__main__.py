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
import timeit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import uvloop

from tests.bench import (
    anchor,
    endtoend,
    flood,
    growth,
    inprocess,
    kms,
    many,
    peers,
    profile,
    reading,
    tracing,
)
from tests.support.postgres import fresh_database, running_postgres

_LOOP = "sum(i * i for i in range(1000))"


def conditions() -> dict[str, Any]:
    """Say on what it was measured.

    How fast this interpreter is by itself: builds of one version differ by half, and so does this
    machine from hour to hour.
    """
    loops_us = [1000 * each for each in timeit.repeat(_LOOP, number=1000, repeat=20)]
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "python_build": platform.python_build()[1],
        "loop_of_1000_us": {"min": round(min(loops_us), 1), "max": round(max(loops_us), 1)},
        "machine": platform.machine(),
        "load_before": os.getloadavg()[0],
        "packages": {name: version(name) for name in ("grpcio", "cryptography", "sqlalchemy")},
    }


@contextmanager
def postgres() -> Iterator[str]:
    """Run a server that syncs as in production; yields the URL of an empty database."""
    with running_postgres(durable=True) as server, fresh_database(server) as url:
        yield url


def on_sqlite(folder: Path, full: bool) -> Any:
    """Everything together, on SQLite."""
    return uvloop.run(endtoend.run(folder, None, full=full))


def on_postgres(folder: Path, full: bool) -> Any:
    """Everything together, on PostgreSQL."""
    with postgres() as url:
        found = uvloop.run(endtoend.run(folder, url, full=full))
        return {**found, "peers": _compared(peers.run(url, full=full), found)}


def _compared(measured: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """Add how our batched and single appends compare with them."""
    batched = ours["batched_500"]["receipts_per_s"]
    single = ours["single_8_in_flight"]["receipts_per_s"]
    return {
        **measured,
        "batched_to_copy": round(batched / measured["copy_500"], 3),
        "batched_to_trigger": round(batched / measured["trigger_500"], 3),
        "single_8_to_trigger": round(single / measured["trigger_single_8"], 3),
    }


def traced(folder: Path, full: bool) -> Any:
    """Everything together on SQLite, without tracing and with it."""
    return uvloop.run(tracing.off_against_on(folder, 20_000 if full else 8_000))


def the_anchor(folder: Path, full: bool) -> Any:
    """The anchor alone, on both."""
    with postgres() as url:
        return {
            "sqlite": anchor.run(folder / "sqlite", None, full=full),
            "postgres": anchor.run(folder / "postgres", url, full=full),
        }


def grown(folder: Path, full: bool) -> Any:
    """One ledger at growing sizes, on both; the full one appends two million receipts."""
    found = {"sqlite": asyncio.run(growth.run(folder / "sqlite", None, full=full))}
    with postgres() as url:
        found["postgres"] = asyncio.run(growth.run(folder / "postgres", url, full=full))
    return found


def profiled(folder: Path, full: bool) -> Any:
    """Where the time of an append goes, on both."""
    with postgres() as url:
        return {
            "sqlite": uvloop.run(profile.run(folder / "sqlite", None)),
            "postgres": uvloop.run(profile.run(folder / "postgres", url)),
        }


def many_ledgers(folder: Path, full: bool) -> Any:
    """A thousand ledgers on one log, on both."""
    with postgres() as url:
        return {
            "sqlite": asyncio.run(many.run(folder / "sqlite", None)),
            "postgres": asyncio.run(many.run(folder / "postgres", url)),
        }


SECTIONS: dict[str, Callable[[Path, bool], Any]] = {
    "inprocess": lambda _folder, full: inprocess.run(full=full),
    "sqlite": on_sqlite,
    "postgres": on_postgres,
    "anchor": the_anchor,
    "kms": lambda folder, full: kms.run(folder, full=full),
    "tracing": traced,
    "reading": lambda folder, full: asyncio.run(reading.run(folder, full=full)),
    "growth": grown,
    "many": many_ledgers,
    "profile": profiled,
    "flood": lambda folder, full: uvloop.run(flood.run(folder, full=full)),
}
"""What can be measured, in order."""

PLOTS: dict[str, Callable[[Any], dict[str, str]]] = {"anchor": anchor.plots, "growth": growth.plots}
"""What is drawn of it."""

ONLY_WHEN_ASKED = frozenset({"growth", "many", "profile", "flood"})


def main() -> None:
    """Run what was asked for and print one JSON document."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--full", action="store_true", help="five times as much of everything")
    parser.add_argument("--only", choices=SECTIONS)
    parser.add_argument("--out", type=Path, help="write the JSON here as well")
    parser.add_argument("--plots", type=Path, help="write charts (SVG) to this folder")
    arguments = parser.parse_args()
    chosen = [arguments.only] if arguments.only else SECTIONS.keys() - ONLY_WHEN_ASKED
    result: dict[str, Any] = {"conditions": conditions()}
    with tempfile.TemporaryDirectory() as folder:
        for name, measure in SECTIONS.items():
            if name in chosen:
                result[name] = measure(Path(folder, name), arguments.full)
    if arguments.plots is not None:
        arguments.plots.mkdir(parents=True, exist_ok=True)
        for section, draw in PLOTS.items():
            for name, svg in draw(result[section]).items() if section in result else ():
                (arguments.plots / name).write_text(svg)
    text = json.dumps(result, indent=2)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
