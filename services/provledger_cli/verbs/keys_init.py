"""`keys init`: the first keys of an installation whose services run elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from provledger_cli import output, placing
from provledger_cli.failures import CommandError
from provledger_cli.options import (
    DataDirOption,
    EndpointOption,
    JSONOption,
    TimeoutOption,
    TLSCAOption,
    TLSCertOption,
    TLSKeyOption,
)

if TYPE_CHECKING:
    from provledger_cli.ceremonies.first_keys import FirstKeys
    from provledger_cli.connect import Target


def init(
    witness: Annotated[
        str,
        typer.Option(
            "--witness",
            envvar="PROVLEDGER_FIRST_WITNESS",
            metavar="URI",
            help="Key that signs statements.",
            show_default=False,
        ),
    ],
    checkpoint: Annotated[
        str,
        typer.Option(
            "--checkpoint",
            envvar="PROVLEDGER_FIRST_CHECKPOINT",
            metavar="URI",
            help="Key that signs checkpoints.",
            show_default=False,
        ),
    ],
    head: Annotated[
        str,
        typer.Option(
            "--head",
            envvar="PROVLEDGER_FIRST_HEAD",
            metavar="URI",
            help="Key that signs heads.",
            show_default=False,
        ),
    ],
    recovery: Annotated[
        str,
        typer.Option(
            "--recovery",
            envvar="PROVLEDGER_FIRST_RECOVERY",
            metavar="URI",
            help="Key that can replace every other one. It signs once, now; keep it offline.",
            show_default=False,
        ),
    ],
    receipt: Annotated[
        str,
        typer.Option(
            "--receipt",
            envvar="PROVLEDGER_FIRST_RECEIPT",
            metavar="URI",
            help="Key that signs COSE receipts, if there are to be any.",
            show_default=False,
        ),
    ] = "",
    key_dir: Annotated[
        Path | None,
        typer.Option(
            "--key-dir",
            envvar="PROVLEDGER_FIRST_KEY_DIR",
            help="Directory where the paths of local: keys begin, here and in the services. "
            "Default: keys in the data directory.",
            show_default=False,
        ),
    ] = None,
    pin_out: Annotated[
        Path | None,
        typer.Option(
            "--pin-out",
            envvar="PROVLEDGER_FIRST_PIN_OUT",
            help="File for the thumbprint that verifiers pin.",
            show_default=False,
        ),
    ] = None,
    data_dir: DataDirOption = None,
    endpoint: EndpointOption = None,
    timeout: TimeoutOption = 60.0,
    tls_cert: TLSCertOption = None,
    tls_key: TLSKeyOption = None,
    tls_ca: TLSCAOption = None,
    as_json: JSONOption = False,
) -> None:
    """Register an installation's first keys, and begin its key ledger. `up` does it by itself.

    The keys must be there: this command opens each, sends its public half, and has the recovery
    key endorse the beginning of the key ledger. Running it again changes nothing; it names the pin
    then if it can open the recovery key, and fails if that is another. With a ledger= endpoint it
    first makes sure that the registry is new, and not lost; nothing is registered before the ledger
    service has said so.

    Example: keys init --witness URI --checkpoint URI --head URI --recovery URI --endpoint H:P
    """
    from provledger_cli.connect import run_async, target

    output.use_json(as_json)
    placing.claim(pin_out)
    where = target(
        data_dir, endpoint, first="keys", tls_cert=tls_cert, tls_key=tls_key, tls_ca=tls_ca
    )
    uris = {"witness": witness, "checkpoint": checkpoint, "head": head}
    if receipt:
        uris["receipt"] = receipt
    done = run_async(_init(where, uris, recovery, key_dir, timeout))
    if done.pin is None and pin_out is not None:
        raise CommandError(
            f"no pin is written, for what it is made from is not here: {done.unopened}",
            hint="there are keys, and nothing was changed; run it again with the recovery key",
        )
    pin = None if done.pin is None else done.pin.hex()
    if pin is not None and pin_out is not None:
        placing.write(pin_out, f"{pin}\n".encode())
    if as_json:
        output.document({"registered": list(done.registered), "pin": pin})
        return
    output.show(
        f"registered {output.literal(', '.join(done.registered))}"
        if done.registered
        else "nothing to do: there are keys"
    )
    output.show(
        f"what verifiers pin is not said: {output.literal(done.unopened)}"
        if pin is None
        else f"verifiers pin the key ledger by {pin}"
    )


async def _init(
    where: Target, uris: dict[str, str], recovery: str, key_dir: Path | None, timeout_s: float
) -> FirstKeys:
    from provledger_cli.ceremonies.first_keys import begin
    from provledger_cli.connect import Remote

    async with Remote(where, timeout_s=timeout_s) as remote:
        return await begin(remote, uris, recovery, key_dir or where.data_dir.keys)
