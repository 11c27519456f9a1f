"""Options that several verbs share. Each has its twin in the environment.

No variable here begins with PROVLEDGER_KEYS_, _WITNESS_, _LEDGER_, _ANCHOR_ or _GATEWAY_: these
prefixes are the services' own settings, and services refuse variables there that they do not know.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from provledger_cli.failures import CommandError

SERVICES_PANEL = "Which services"


def finite(value: float | None) -> float | None:
    """Callback of an option: a number with which something is compared, or that has an end.

    Raises:
        typer.BadParameter: it is infinite, or none ("nan"), which no bound of an option keeps out.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value:g} is not a finite number.")
    return value


DataDirOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        rich_help_panel=SERVICES_PANEL,
        envvar="PROVLEDGER_DATA_DIR",
        help="Data directory of the services. Default: provledger in your own data directory.",
        show_default=False,
    ),
]

EndpointOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--endpoint",
        rich_help_panel=SERVICES_PANEL,
        envvar="PROVLEDGER_ENDPOINT",
        metavar="[SERVICE=]HOST:PORT",
        help="Services elsewhere, instead of those of the data directory: HOST:PORT of the one "
        "this command talks to first, and ledger=, keys=, anchor=, witness= for each of the "
        "others it needs. Repeatable. Beyond loopback it takes --tls-cert, --tls-key and --tls-ca; "
        "or plaintext:HOST:PORT, where something else encrypts the way. NAME@HOST:PORT where the "
        "certificate has another name than HOST, as at the end of a port-forward.",
        show_default=False,
    ),
]

TLSCertOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--tls-cert",
        rich_help_panel=SERVICES_PANEL,
        envvar="PROVLEDGER_TLS_CERT",
        help="PEM file: our certificate chain, for services elsewhere.",
        show_default=False,
    ),
]
TLSKeyOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--tls-key",
        rich_help_panel=SERVICES_PANEL,
        envvar="PROVLEDGER_TLS_KEY",
        help="PEM file: private key of our certificate.",
        show_default=False,
    ),
]
TLSCAOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--tls-ca",
        rich_help_panel=SERVICES_PANEL,
        envvar="PROVLEDGER_TLS_CA",
        help="PEM file: CAs whose certificates we accept.",
        show_default=False,
    ),
]

TenantOption: TypeAlias = Annotated[
    str,
    typer.Option("--tenant", envvar="PROVLEDGER_TENANT", help="Tenant id.", show_default=False),
]
LedgerOption: TypeAlias = Annotated[
    str, typer.Option("--ledger", envvar="PROVLEDGER_LEDGER", help="Ledger id.")
]
CreateLedgerOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--create-ledger",
        envvar="PROVLEDGER_CREATE_LEDGER",
        help="Make the tenant and the ledger if they are missing, on services elsewhere as well. "
        "On those of a data directory they are made without it.",
    ),
]
LogUidOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--log",
        envvar="PROVLEDGER_LOG_UID",
        metavar="UID",
        help="The log, by its uid in hex. Default: the anchor's default log.",
        show_default=False,
    ),
]
OnlyLogUidOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--log",
        envvar="PROVLEDGER_LOG_UID",
        metavar="UID",
        help="Only this log, by its uid in hex. Default: all of the anchor, also those of tenants.",
        show_default=False,
    ),
]
JSONOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--json", envvar="PROVLEDGER_JSON", help="Answer with one JSON document on stdout."
    ),
]
TimeoutOption: TypeAlias = Annotated[
    float,
    typer.Option(
        "--timeout",
        rich_help_panel=SERVICES_PANEL,
        envvar="PROVLEDGER_TIMEOUT",
        min=0.1,
        callback=finite,
        help="Seconds to go on trying when services do not answer.",
    ),
]


_PIN_FILE_BYTES = 256


def read_pin(text: str) -> bytes:
    """Read the thumbprint a key ledger is pinned by, 32 bytes; `text` may name a file with it.

    Raises:
        CommandError: it is not one.
    """
    if "/" in text or text.endswith(".pin"):
        with Path(text).open("r", encoding="ascii", errors="replace") as file:
            text = file.read(_PIN_FILE_BYTES).strip()
    if re.fullmatch(r"[0-9a-f]{64}", text) is None:
        raise CommandError(
            "--pin is not a thumbprint: 64 lower-case hex digits",
            hint="`up` wrote that of the recovery key to key-ledger.pin in the data directory",
        )
    return bytes.fromhex(text)
