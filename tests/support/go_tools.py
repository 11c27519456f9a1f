"""Programs in Go to hold our logs against: other people's, and a client made of Go's own packages.

Built once for each machine and version, into the user's cache, where Go is and the module proxy can
be reached; otherwise the test is skipped, and says why. Before the tests, CI runs

    python -m tests.support.go_tools

which builds all of them and never fails. A program that is there already can be named by
PROVLEDGER_TEST_LITEWITNESS and the like. MinIO takes minutes, longer than a test may: only that
command builds it, and without it its tests are skipped.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest

PROGRAMS: Final = {
    "helm": "helm.sh/helm/v3/cmd/helm@v3.17.3",
    "litewitness": "filippo.io/torchwood/cmd/litewitness@v0.6.1",
    "fsck": "github.com/transparency-dev/tessera/cmd/fsck@v1.0.4",
    # An S3 store that enforces Object Lock. It has no versions in Go's sense; this is a commit.
    "minio": "github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c",
}
"""By name, with the exact version."""

LARGE: Final = frozenset({"helm", "minio"})
"""What tests use but do not build: minutes each."""

OWN: Final = Path(__file__).parent / "go"
"""Sources of our own, around other people's packages."""

BUILD_S: Final = 900.0
"""How long one build may take. On two cores with nothing in any cache it is about a minute, and for
MinIO four and a half."""


class CannotBuildError(Exception):
    """Why there is no such program here."""


def program(name: str) -> str:
    """The path of one of `PROGRAMS`, or of our own; skips the test if it cannot be had."""
    try:
        return build(name)
    except CannotBuildError as error:
        pytest.skip(f"no {name}: {error}")


def build(name: str) -> str:
    """The same outside of tests.

    Raises:
        CannotBuildError: it cannot be had.
    """
    return _program(name, large=False)


@functools.cache
def _program(name: str, *, large: bool = True) -> str:
    given = os.environ.get(f"PROVLEDGER_TEST_{name.upper()}") or shutil.which(name)
    if name == "fsck":  # every Unix has another program of that name
        given = os.environ.get("PROVLEDGER_TEST_FSCK")
    if given:
        return given
    if name not in PROGRAMS:
        sources = b"".join(path.read_bytes() for path in sorted((OWN / name).iterdir()))
        path = _cache() / f"{name}@{hashlib.sha256(sources).hexdigest()[:16]}"
        return _build(path, ["go", "build", "-trimpath", "-o", "{out}", "."], OWN / name)
    package = PROGRAMS[name]
    path = _cache() / f"{name}@{package.rpartition('@')[2]}"
    if name in LARGE and not large and not path.exists():
        raise CannotBuildError("`python -m tests.support.go_tools` builds it, in some minutes")
    return _build(path, ["go", "install", "-trimpath", "-ldflags=-s -w", package], _cache())


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(base) / "provledger-tests"
    path.mkdir(parents=True, exist_ok=True)
    return path


def _build(path: Path, command: list[str], directory: Path) -> str:
    if path.exists():
        return str(path)
    if shutil.which("go") is None:
        raise CannotBuildError("Go is not installed")
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    # Several test processes may want it at once.
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return str(path)
        scratch.mkdir(exist_ok=True)
        try:
            subprocess.run(
                [word.format(out=scratch / "program") for word in command],
                # A toolchain of another version would be fetched in silence.
                env={**os.environ, "GOBIN": str(scratch), "GOTOOLCHAIN": "local"},
                cwd=directory,
                check=True,
                capture_output=True,
                text=True,
                timeout=BUILD_S,
            )
            (built,) = scratch.iterdir()
            built.replace(path)
        except subprocess.CalledProcessError as error:
            raise CannotBuildError(str(error.stderr).strip()[-200:]) from error
        except subprocess.TimeoutExpired as error:
            raise CannotBuildError(f"building it takes longer than {BUILD_S:.0f} s") from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return str(path)


def main() -> None:
    """Build what can be built, and say what cannot."""
    for name in (*PROGRAMS, "tlogclient", "coseverify", "manifests", "alertrules"):
        started_s = time.monotonic()
        try:
            where = _program(name)
        except CannotBuildError as error:
            where = f"cannot be had, its tests are skipped: {error}"
        sys.stdout.write(f"{name}: {where} ({time.monotonic() - started_s:.0f} s)\n")


if __name__ == "__main__":
    main()
