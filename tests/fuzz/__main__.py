"""Coverage-guided fuzzing of the decoders: `make fuzz ARGS='--each 60 receipt json'`.

Each target runs in a process of its own, under atheris (libFuzzer), one after another, and begins
from its corpus. They share `--seconds` in equal parts, or have `--each` of their own. What covers
more than that is kept in `corpus/` if `--keep` is given, as few inputs as cover it all. An input
that crashes a target, takes longer than 10 s or more than 1 GiB is kept in any case: it is a
regression test from then on. Exits with 1 if there was one, with 2 if nothing can be fuzzed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

MAX_KEPT = 24
MAX_KEPT_BYTES = 1024
FEW = 4
SLOWEST_S = 10
MOST_MB = 1024


def main() -> int:
    """Run targets in turn."""
    from tests.fuzz import seeds
    from tests.fuzz.targets import MAX_INPUT_BYTES, TARGETS

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="default: all of them")
    parser.add_argument("--seconds", type=int, default=600, help="for all targets together")
    parser.add_argument(
        "--each",
        type=int,
        metavar="SECONDS",
        help="for each target, instead of a part of --seconds",
    )
    parser.add_argument("--keep", action="store_true", help="add to the corpus what covers more")
    arguments = parser.parse_args()
    if arguments.seconds < 1 or (arguments.each is not None and arguments.each < 1):
        parser.error("--seconds and --each are at least 1")
    unknown = set(arguments.targets) - set(TARGETS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(TARGETS)}")
    if importlib.util.find_spec("atheris") is None:
        # Else each target would seem to be broken.
        print(
            "atheris is not installed here, and nothing was fuzzed: `make fuzz` installs it",
            file=sys.stderr,
        )
        return 2
    names = arguments.targets or list(TARGETS)
    each_s = max(1, arguments.each or arguments.seconds // len(names))
    broken = []
    for name in names:
        with tempfile.TemporaryDirectory() as scratch:
            work = Path(scratch) / "work"
            crashes = Path(scratch) / "crashes"
            start = Path(scratch) / "start"
            for path in (work, crashes, start):
                path.mkdir()
            for number, data in enumerate(seeds.inputs(name)):
                (start / f"{number:04}").write_bytes(data)
            options = [
                f"-max_total_time={each_s}",
                f"-timeout={SLOWEST_S}",
                f"-rss_limit_mb={MOST_MB}",
                f"-max_len={MAX_INPUT_BYTES}",
                f"-artifact_prefix={crashes}/",
                "-print_final_stats=1",
            ]
            done = _run(name, [*options, str(work), str(start)])
            found = [path.read_bytes() for path in crashes.iterdir()]
            executed = _stat(done.stderr, "number_of_executed_units")
            print(f"{name}: {executed} inputs in {each_s} s, {len(found)} of them break it")
            if found or done.returncode != 0:
                broken.append(name)
                print(done.stderr[-3000:])
                seeds.keep(name, [*seeds.found(name), *found])
            elif arguments.keep:
                seeds.keep(name, _fewest(name, seeds.found(name), work, Path(scratch)))
    if broken:
        print(f"broken: {', '.join(broken)}")
    return 1 if broken else 0


def _fewest(name: str, before: list[bytes], work: Path, scratch: Path) -> list[bytes]:
    """The inputs found now and before, less those that cover nothing of their own."""
    fewest = scratch / "fewest"
    old = scratch / "old"
    for path in (fewest, old):
        path.mkdir()
    for number, data in enumerate(before):
        (old / f"{number:04}").write_bytes(data)
    # Where all of them are long, the shortest will do: none at all would have found nothing.
    by_size = sorted(work.iterdir(), key=lambda path: (path.stat().st_size, path.name))
    for path in by_size[FEW:]:
        if path.stat().st_size > MAX_KEPT_BYTES:
            path.unlink()
    again = scratch / "again"
    again.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.fuzz.one {name} "$@"\n')
    again.chmod(0o700)
    _run(name, ["-merge=1", str(fewest), str(old), str(work)], again=again)
    kept = sorted(
        (path.read_bytes() for path in fewest.iterdir()), key=lambda data: (len(data), data)
    )
    # Of every length: short ones end at the first check, long ones at the last.
    step = max(1, -(-len(kept) // MAX_KEPT))
    return kept[step - 1 :: step]


def _run(
    name: str, options: list[str], again: Path | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {} if again is None else {"PROVLEDGER_FUZZ_AGAIN": str(again)}
    command = [sys.executable, "-m", "tests.fuzz.one", name, *options]
    return subprocess.run(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        errors="replace", check=False, env={**os.environ, **environment},
    )  # fmt: skip


def _stat(text: str, name: str) -> str:
    for line in text.splitlines():
        if name in line:
            return line.rpartition(":")[2].strip()
    return "?"


if __name__ == "__main__":
    sys.exit(main())
