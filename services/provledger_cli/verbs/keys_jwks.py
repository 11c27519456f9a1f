"""`keys jwks`: what a verifier needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from provledger_cli import output, placing
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
    from provledger_cli.connect import Target


def jwks(
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            envvar="PROVLEDGER_OUT",
            help="Write it to this file instead of stdout; - is stdout.",
            show_default=False,
        ),
    ] = None,
    data_dir: DataDirOption = None,
    endpoint: EndpointOption = None,
    timeout: TimeoutOption = 30.0,
    tls_cert: TLSCertOption = None,
    tls_key: TLSKeyOption = None,
    tls_ca: TLSCAOption = None,
    as_json: JSONOption = False,
) -> None:
    """Write the JWK Set with all public keys, retired ones included, that verification needs.

    A verifier must have it from you by a way it trusts; it changes with every rotation.

    Example: keys jwks --out jwks.json
    """
    from provledger_cli.connect import run_async, target

    output.use_json(as_json, on_stdout=as_json or out is None)
    placing.claim(out)
    where = target(
        data_dir, endpoint, first="keys", tls_cert=tls_cert, tls_key=tls_key, tls_ca=tls_ca
    )
    text = run_async(_jwks(where, timeout)) + b"\n"
    if out is None or placing.is_stdout(out):
        # The set is JSON: with or without --json it is the one document.
        output.raw(text)
        return
    placing.write(out, text)
    if as_json:
        output.document({"file": str(out)})
    else:
        output.say(f"wrote {output.literal(out)}")


async def _jwks(where: Target, timeout_s: float) -> bytes:
    from provledger.api.keys.v1 import keys_pb2
    from provledger_cli.connect import Remote

    async with Remote(where, timeout_s=timeout_s) as remote:
        request = keys_pb2.GetJwksRequest()
        response: keys_pb2.GetJwksResponse = await remote.call(remote.keys.GetJwks, request)
        return response.jwks
