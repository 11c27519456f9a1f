"""`keys show`: one key of the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from provledger import names
from provledger_cli import output
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
    from provledger.api.keys.v1 import keys_pb2
    from provledger_cli.connect import Target


def show(
    kid: Annotated[
        str, typer.Argument(envvar="PROVLEDGER_KID", help="Key id.", show_default=False)
    ],
    data_dir: DataDirOption = None,
    endpoint: EndpointOption = None,
    timeout: TimeoutOption = 30.0,
    tls_cert: TLSCertOption = None,
    tls_key: TLSKeyOption = None,
    tls_ca: TLSCAOption = None,
    as_json: JSONOption = False,
) -> None:
    """Show one key: its purpose, state and validity, and its public half as JWK.

    Example: keys show witness-1
    """
    from provledger_cli.ceremonies.registry import key_document
    from provledger_cli.connect import run_async, target

    output.use_json(as_json)
    names.check_kid(kid)
    where = target(
        data_dir, endpoint, first="keys", tls_cert=tls_cert, tls_key=tls_key, tls_ca=tls_ca
    )
    key = run_async(_show(where, kid, timeout))
    value = {**key_document(key), "jwk": orjson.loads(key.jwk)}
    if as_json:
        output.document(value)
        return
    value["thumbprint"] = key.thumbprint.hex()
    value["jwk"] = key.jwk.decode()
    output.show(output.card("", [(name, str(text or "")) for name, text in value.items()]))


async def _show(where: Target, kid: str, timeout_s: float) -> keys_pb2.Key:
    from provledger.api.keys.v1 import keys_pb2
    from provledger_cli.connect import Remote

    async with Remote(where, timeout_s=timeout_s) as remote:
        request = keys_pb2.GetKeyRequest(name=f"keys/{kid}")
        response: keys_pb2.GetKeyResponse = await remote.call(remote.keys.GetKey, request)
        return response.key
