"""`provledger anchor sinks`: what each sink holds, and what is wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from provledger_cli import output
from provledger_cli.failures import DOES_NOT_HOLD
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
    from provledger_cli.anchors import Anchoring
    from provledger_cli.connect import Target


def sinks(
    log: OnlyLogUidOption = "",
    data_dir: DataDirOption = None,
    endpoint: EndpointOption = None,
    timeout: TimeoutOption = 10.0,
    tls_cert: TLSCertOption = None,
    tls_key: TLSKeyOption = None,
    tls_ca: TLSCAOption = None,
    as_json: JSONOption = False,
) -> None:
    """Show each sink: what it holds, its last evidence, its last error, and when it is asked again.

    A sink may take one log and refuse another. Without --log they are those of the shared log, and
    of each log of a tenant where one does not answer.

    Exit code 0: all answer. 1: one does not. 2: the anchor could not be asked.

    Example: provledger anchor sinks
    """
    from provledger_cli.connect import run_async, target

    output.use_json(as_json)
    where = target(
        data_dir, endpoint, first="anchor", tls_cert=tls_cert, tls_key=tls_key, tls_ca=tls_ca
    )
    found = run_async(_ask(where, log, timeout))
    if as_json:
        output.document(
            {**_document(found), "others": [_document(other) for other in found.others]}
        )
    else:
        _show(found)
    if not all(each.handing_on for each in (found, *found.others)):
        raise typer.Exit(DOES_NOT_HOLD)


async def _ask(where: Target, log: str, timeout_s: float) -> Anchoring:
    from provledger_cli.anchors import anchoring, log_name
    from provledger_cli.connect import Remote

    async with Remote(where, timeout_s=timeout_s) as remote:
        return await anchoring(remote, log_name(log))


def _document(found: Anchoring) -> dict[str, Any]:
    from provledger_cli.anchors import sink_document

    return {
        "log": found.log.name,
        "tenant": found.log.tenant or None,
        "held": found.held or None,
        "sinks": [sink_document(sink) for sink in found.sinks],
    }


def _show(found: Anchoring) -> None:
    from provledger_cli.anchors import SHOWN_LOGS

    _show_sinks(found)
    unwell = [other for other in found.others if not other.handing_on]
    for other in unwell[:SHOWN_LOGS]:
        rows = [("log", other.log.name), ("tenant", other.log.tenant)]
        output.show(output.card(other.log.origin, rows))
        _show_sinks(other)
    if len(unwell) > SHOWN_LOGS:
        output.show(f"and so for {len(unwell) - SHOWN_LOGS:,} more logs: --json has them all")


def _show_sinks(found: Anchoring) -> None:
    from provledger_cli.anchors import ago, state_of

    if found.held:
        output.show(f"[bold yellow]held[/]: {output.literal(found.held)}")
    for sink in found.sinks:
        evidence = f"{sink.evidence_kind}, {ago(sink.acknowledged_at_ns)}"
        error = f"{sink.last_error} ({sink.failures} in a row, {ago(sink.failed_at_ns)})"
        rows = [
            ("state", state_of(sink)),
            ("holds", f"{sink.tree_size:,}, {sink.lag:,} behind"),
            ("asked now", f"to take {sink.busy_tree_size:,}" if sink.busy_tree_size else ""),
            ("last evidence", evidence if sink.evidence_kind else "none yet"),
            ("last error", error if sink.last_error else ""),
            ("next try", ago(sink.next_try_at_ns)),
        ]
        output.show(output.card(sink.uri, rows))
    if not found.sinks:
        output.show("this log has no sinks")
