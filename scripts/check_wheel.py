"""Builds the sdist and, from it, the wheel; installs the wheel alone in a new environment; runs it.

Proves what an editable install cannot: that everything the services need at run time (migrations,
demonstration data, generated code) is packaged, that the declared dependencies suffice, and that
nothing of the tests or tools slipped in. Versions are those of constraints.txt.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
PACKAGES = (
    "provledger",
    "keys_svc",
    "witness_svc",
    "ledger_svc",
    "anchor_svc",
    "gateway_svc",
    "notary_svc",
    "provledger_cli",
)
SOURCES = ("libs/common", "services")
SMOKE_TEST = """
import importlib, importlib.metadata, pkgutil, sys
OPTIONAL = (
    "boto3", "botocore", "google.api_core", "google.cloud",
    "opentelemetry.exporter", "opentelemetry.sdk",
    "asn1crypto", "pkcs11", "rfc3161_client", "starlette", "uvicorn",
)
for name in sys.argv[1:]:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        last = module.name.rpartition(".")[2]
        parts = module.name.split(".")
        # Migrations are run by Alembic, inside an environment that it sets up.
        if last == "__main__" or "migrations" in parts:
            continue
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith(OPTIONAL):
                raise
            print(f"  {module.name}: needs an extra ({error.name})")
print("  imported", importlib.metadata.version("provledger"), *sys.argv[1:])
"""


def run(*command: str | Path) -> None:
    """Runs `command` away from the repository, so that only what is installed can be imported."""
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run(
        command,
        cwd=tempfile.gettempdir(),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"{done.stdout}{done.stderr}\n{Path(command[0]).name}: exit {done.returncode}")
    for line in done.stdout.splitlines():
        if line.startswith("  imported") or "needs an extra" in line:
            print(line)


def expected_files() -> set[str]:
    """Paths inside the wheel of every file that belongs to one of our packages."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *SOURCES],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=True,
    )
    expected = set()
    for name in listed.stdout.splitlines():
        for source in SOURCES:
            inside = name.removeprefix(f"{source}/")
            if inside != name and inside.split("/")[0] in PACKAGES and (REPO / name).exists():
                expected.add(inside)
    return expected


def check_contents(wheel: Path) -> None:
    """Exits if the wheel lacks a file of our packages or holds one that is not of them."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not re.match(r"[^/]+\.dist-info/", name)}
    expected = expected_files()
    if missing := sorted(expected - names):
        sys.exit(f"{wheel.name} lacks: {', '.join(missing)}")
    if surplus := sorted(names - expected):
        sys.exit(f"{wheel.name} should not hold: {', '.join(surplus)}")
    print(f"  {wheel.name}: {len(names)} files, {wheel.stat().st_size // 1024} KiB")


def main() -> None:
    """Builds, inspects, installs and runs the wheel."""
    with tempfile.TemporaryDirectory(prefix="provledger-wheel-") as scratch:
        dist, environment = Path(scratch, "dist"), Path(scratch, "venv")
        print("Building the sdist and the wheel ...", flush=True)
        run(sys.executable, "-m", "build", "--outdir", dist, REPO)
        (wheel,) = dist.glob("*.whl")
        check_contents(wheel)
        print("Installing the wheel alone ...", flush=True)
        venv.create(environment, with_pip=True)
        python = environment / "bin" / "python"
        pip = (python, "-m", "pip", "--disable-pip-version-check")
        run(*pip, "install", "--quiet", "-c", REPO / "constraints.txt", wheel)
        run(*pip, "check")
        run(python, "-c", SMOKE_TEST, *PACKAGES)
        for command in ("provledger", "keys"):
            run(environment / "bin" / command, "--help")
            print(f"  {command} --help: ok")


if __name__ == "__main__":
    main()
