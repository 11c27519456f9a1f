"""`provledger notary`: run a cosigner for the logs of others."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from provledger_cli.failures import CommandError
from provledger_cli.options import JSONOption


def notary(
    name: Annotated[
        str,
        typer.Option(
            "--name",
            envvar="PROVLEDGER_NOTARY_NAME",
            help="Name of the cosigner's keys: a URL without scheme that is yours.",
            show_default=False,
        ),
    ],
    data_dir: Annotated[
        Path,
        typer.Option(
            "--data-dir",
            envvar="PROVLEDGER_NOTARY_DATA_DIR",
            help="Directory of its keys, made at the first start, and its database.",
            show_default=False,
        ),
    ],
    logs: Annotated[
        Path,
        typer.Option(
            "--logs",
            envvar="PROVLEDGER_NOTARY_LOGS",
            help="Policy file (c2sp.org/tlog-policy) whose log lines are the logs it cosigns.",
            show_default=False,
        ),
    ],
    host: Annotated[
        str,
        typer.Option(
            "--host",
            envvar="PROVLEDGER_NOTARY_HOST",
            help="Address to listen on. Anything but loopback needs TLS.",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", envvar="PROVLEDGER_NOTARY_PORT", help="Port to listen on.")
    ] = 7005,
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            "--tls-cert",
            envvar="PROVLEDGER_NOTARY_TLS_CERT",
            help="PEM file: our certificate chain.",
            show_default=False,
        ),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(
            "--tls-key",
            envvar="PROVLEDGER_NOTARY_TLS_KEY",
            help="PEM file: private key of our certificate.",
            show_default=False,
        ),
    ] = None,
    accept_empty_database: Annotated[
        bool,
        typer.Option(
            "--accept-empty-database",
            envvar="PROVLEDGER_NOTARY_ACCEPT_EMPTY_DATABASE",
            help="For one start: keys that were there before begin with an empty database, since "
            "nothing was ever cosigned with them.",
        ),
    ] = False,
    vkeys: Annotated[
        bool,
        typer.Option(
            "--vkeys",
            envvar="PROVLEDGER_NOTARY_SHOW_VKEYS",
            help="Print the verifier keys that others put into their policies, and exit.",
        ),
    ] = False,
    as_json: JSONOption = False,
) -> None:
    """Run a notary: a cosigner (c2sp.org/tlog-witness) for the logs of others.

    It cosigns a checkpoint only if it extends the one it cosigned before, so that no log it knows
    can show two histories. Two organisations that run one each can notarise for each other.
    Needs the extra: provledger[gateway].

    Example: provledger notary --name notary.example.org --data-dir notary --logs logs.policy
    """
    settings = {
        "name": name,
        "data_dir": str(data_dir),
        "logs": str(logs),
        "host": host,
        "port": str(port),
    }
    if accept_empty_database:
        settings["accept_empty_database"] = "true"
    if tls_cert is not None:
        settings["tls_cert"] = str(tls_cert)
    if tls_key is not None:
        settings["tls_key"] = str(tls_key)
    environment = {key: value for key, value in os.environ.items() if key != _SHOW}
    environment |= {f"PROVLEDGER_NOTARY_{key.upper()}": value for key, value in settings.items()}
    command = [sys.executable, "-m", "notary_svc"]
    command += ["--vkeys"] * vkeys + ["--json"] * as_json
    try:
        # In our place: signals and the exit status are the notary's own.
        os.execve(sys.executable, command, environment)  # noqa: S606
    except OSError as error:
        raise CommandError(f"the notary cannot be started: {error.strerror}") from error


_SHOW = "PROVLEDGER_NOTARY_SHOW_VKEYS"
