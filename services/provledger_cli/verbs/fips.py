"""`provledger fips status`: what FIPS mode would be on this machine, tried out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer

from provledger.fips import launch
from provledger_cli import output
from provledger_cli.failures import DOES_NOT_HOLD, CommandError
from provledger_cli.options import JSONOption
from provledger_cli.wiring import command_line

_TIMEOUT_S: Final = 120.0


def application(arguments: Sequence[str] = ()) -> typer.Typer:
    """The group with its one verb, whatever the arguments ask for."""
    return command_line(
        "fips",
        "FIPS mode: what is inside the module, and what is not.",
        arguments,
        {"status": "fips:status"},
    )


def status(
    fail_kat: Annotated[
        str,
        typer.Option(
            "--fips-fail-kat",
            envvar="PROVLEDGER_FIPS_FAIL_KAT",
            metavar="NAME",
            help="Make this self-test fail, to see what a service would do.",
            show_default=False,
        ),
    ] = "",
    as_json: JSONOption = False,
) -> None:
    """Enter FIPS mode in a process of its own and say what was found there.

    That is what a service does when it is started with PROVLEDGER_FIPS=1; services that run already
    are not asked. Exit code 0: all was asserted and tested. 1: a self-test failed. 2: FIPS mode
    cannot be had here.

    Example: provledger fips status
    """
    output.use_json(as_json)
    wanted = launch.requested()
    found = _try_out(fail_kat)
    if as_json:
        output.document({"requested": wanted, **found})
        return
    _show(wanted, found)


def _try_out(fail_kat: str) -> dict[str, Any]:
    """Run the report in FIPS mode; raises CommandError with what it says if that fails."""
    # Here, since it brings cryptography, which takes its time.
    from provledger.fips.selftest import PAIRWISE

    if fail_kat == PAIRWISE:
        raise CommandError(
            f"--fips-fail-kat={PAIRWISE} has nothing to fail here, where no key is opened",
            hint=f"a service that signs takes it: python -m witness_svc --fips-fail-kat={PAIRWISE}",
        )
    environ = {**os.environ, launch.FIPS_ENV: "1", "PROVLEDGER_FIPS_FAIL_KAT": fail_kat}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "provledger.fips.launch", "provledger.fips.report"],
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CommandError("FIPS mode did not come up in time") from None
    if done.returncode == 0:
        report: dict[str, Any] = json.loads(done.stdout)
        return report
    said = done.stderr.decode("utf-8", "replace").strip()
    message = said.splitlines()[-1] if said else f"ended with {done.returncode}"
    message = message.removeprefix("provledger provledger.fips.report: ")
    if done.returncode == DOES_NOT_HOLD:
        raise CommandError(
            message,
            hint="keep services stopped; reinstall openssl-provider-fips and try again",
            exit_code=DOES_NOT_HOLD,
        )
    raise CommandError(message, hint="docs/fips.md says how to install the provider")


def _show(wanted: bool, found: dict[str, Any]) -> None:
    module = found["module"]
    output.show(
        output.card(
            "FIPS mode",
            [
                ("module", f"{module['name']} {module['version']}"),
                ("asked for here", "yes (PROVLEDGER_FIPS)" if wanted else "no"),
                ("self-tests", f"{len(found['tests'])} passed"),
                ("Ed25519", "offered as approved" if found["ed25519_approved"] else "not offered"),
                ("suites", ", ".join(found["suites"])),
                ("new keys", ", ".join(f"{k}: {v}" for k, v in found["algorithms"].items())),
            ],
        )
    )
    rows = [
        (item["user"], item["library"], item["provider_version"] or "same file", item["md5"])
        for item in found["libcryptos"]
    ]
    output.show(output.table("Libcryptos", ["used by", "library", "provider", "MD5"], rows))
    for title in ("inside", "outside"):
        output.show(f"{title.capitalize()} the module:")
        output.show("\n".join(f"  {line}" for line in found[title]))
    output.show(found["validation"])
