"""`provledger anchor retry`: have a sink asked now that waits after a failure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from provledger_cli import output
from provledger_cli.options import (
    DataDirOption,
    EndpointOption,
    JSONOption,
    LogUidOption,
    TimeoutOption,
    TLSCAOption,
    TLSCertOption,
    TLSKeyOption,
)

if TYPE_CHECKING:
    from provledger_cli.connect import Target


def retry(
    sink: Annotated[
        str,
        typer.Argument(
            envvar="PROVLEDGER_RETRY_SINK",
            metavar="[URI]",
            help="The sink, as `provledger anchor sinks` names it. Default: all that wait.",
            show_default=False,
        ),
    ] = "",
    log: LogUidOption = "",
    data_dir: DataDirOption = None,
    endpoint: EndpointOption = None,
    timeout: TimeoutOption = 10.0,
    tls_cert: TLSCertOption = None,
    tls_key: TLSKeyOption = None,
    tls_ca: TLSCAOption = None,
    as_json: JSONOption = False,
) -> None:
    """Ask sinks now that failed and would wait, for instance after you repaired them.

    Without it they are asked again by themselves, at the latest about once a minute.

    Example: provledger anchor retry
    """
    from provledger_cli.connect import run_async, target

    output.use_json(as_json)
    where = target(
        data_dir, endpoint, first="anchor", tls_cert=tls_cert, tls_key=tls_key, tls_ca=tls_ca
    )
    asked = run_async(_retry(where, log, sink, timeout))
    if as_json:
        output.document({"asked": asked})
    else:
        output.show("\n".join(f"asked now: {uri}" for uri in asked) or "no sink was waiting")


async def _retry(where: Target, log: str, sink: str, timeout_s: float) -> list[str]:
    from provledger.api.anchor.v1 import anchor_pb2 as pb
    from provledger_cli.anchors import log_name
    from provledger_cli.connect import Remote

    async with Remote(where, timeout_s=timeout_s) as remote:
        request = pb.RetrySinkRequest(log=log_name(log), sink=sink)
        return list((await remote.call(remote.anchor.RetrySink, request)).sinks)
