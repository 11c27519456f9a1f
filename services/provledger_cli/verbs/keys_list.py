"""`keys list`: the keys of the registry."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

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


class Purpose(StrEnum):
    """What keys may sign."""

    WITNESS = "witness"
    CHECKPOINT = "checkpoint"
    HEAD = "head"
    RECEIPT = "receipt"


def list_(
    purpose: Annotated[
        Purpose | None,
        typer.Option(
            "--purpose",
            envvar="PROVLEDGER_PURPOSE",
            help="Only keys of this purpose.",
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
    """List the keys of the registry, newest first.

    Example: keys list --purpose witness
    """
    from provledger_cli.ceremonies.registry import key_document, purpose_name, state_name, time_text
    from provledger_cli.connect import run_async, target

    output.use_json(as_json)
    where = target(
        data_dir, endpoint, first="keys", tls_cert=tls_cert, tls_key=tls_key, tls_ca=tls_ca
    )
    found = run_async(_list(where, purpose, timeout))
    if as_json:
        output.document({"keys": [key_document(key) for key in found]})
        return
    rows = [
        (
            key.kid,
            purpose_name(key),
            state_name(key),
            str(key.epoch or ""),
            time_text(key.not_before_ns),
            time_text(key.not_after_ns),
            key.uri,
        )
        for key in found
    ]
    columns = ["kid", "purpose", "state", "epoch>", "valid from", "valid until", "where"]
    output.show(output.table("Keys", columns, rows))


async def _list(where: Target, purpose: Purpose | None, timeout_s: float) -> list[keys_pb2.Key]:
    from provledger_cli.ceremonies.registry import list_keys
    from provledger_cli.connect import Remote

    async with Remote(where, timeout_s=timeout_s) as remote:
        return await list_keys(remote, purpose.value if purpose is not None else "")
