"""`provledger anchor retry`: have a sink asked now that waits after a failure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from provledger_cli import output
from provledger_cli.options import (
    DataDirOption,
    EndpointOption,
    JSONOption,
    OnlyLogUidOption,
    TimeoutOption,
    TLSCAOption,
    TLSCertOption,
    TLSKeyOption,
)

if TYPE_CHECKING:
    from provledger_cli.anchors import Retrying
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
    log: OnlyLogUidOption = "",
    data_dir: DataDirOption = None,
    endpoint: EndpointOption = None,
    timeout: TimeoutOption = 10.0,
    tls_cert: TLSCertOption = None,
    tls_key: TLSKeyOption = None,
    tls_ca: TLSCAOption = None,
    as_json: JSONOption = False,
) -> None:
    """Ask sinks now that failed and would wait, for instance after you repaired them.

    Without --log, those of the shared log and of each log of a tenant. Without this command they
    are asked again by themselves, at the latest about once a minute. A log that fails keeps no
    other from being asked; damaged ones are left out, and named.

    Example: provledger anchor retry
    """
    from provledger_cli.connect import run_async, target

    output.use_json(as_json)
    where = target(
        data_dir, endpoint, first="anchor", tls_cert=tls_cert, tls_key=tls_key, tls_ca=tls_ca
    )
    found = run_async(_retry(where, log, sink, timeout))
    if as_json:
        output.document(_document(found))
    else:
        _show(found)
    if found.failed:
        raise found.failed[0][1]


async def _retry(where: Target, log: str, sink: str, timeout_s: float) -> Retrying:
    from provledger_cli.anchors import retried
    from provledger_cli.connect import Remote

    async with Remote(where, timeout_s=timeout_s) as remote:
        return await retried(remote, log, sink)


def _document(found: Retrying) -> dict[str, Any]:
    return {
        "asked": _uris(found),
        "logs": [
            {"log": each.log, "tenant": each.tenant or None, "asked": list(each.sinks)}
            for each in found.asked
            if each.sinks
        ],
        "failed": [
            {"log": log, "reason": error.reason, "message": error.message}
            for log, error in found.failed
        ],
        "damaged": list(found.damaged),
    }


def _show(found: Retrying) -> None:
    from provledger_cli.anchors import SHOWN_LOGS

    for uri in _uris(found):
        logs = sum(uri in each.sinks for each in found.asked)
        output.show(
            f"asked now: {output.literal(uri)}" + (f", by {logs:,} logs" if logs > 1 else "")
        )
    if found.asked and not any(each.sinks for each in found.asked):
        output.show("no sink was waiting")
    for log, error in found.failed[:SHOWN_LOGS]:
        output.say(output.literal(f"{log}: {error.reason}: {error.message}"))
    for log in found.damaged[:SHOWN_LOGS]:
        name = output.literal(log)
        output.say(f"{name} was not asked: it is damaged (see `provledger anchor status`)")
    more = sum(max(0, len(each) - SHOWN_LOGS) for each in (found.failed, found.damaged))
    if more:
        output.say(f"and {more:,} more logs: --json has them all")


def _uris(found: Retrying) -> list[str]:
    """Each sink once: many logs have the same."""
    return list(dict.fromkeys(uri for each in found.asked for uri in each.sinks))
