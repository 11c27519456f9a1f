"""`provledger anchor status`: how far a log is, and how far its sinks are."""

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


def status(
    log: OnlyLogUidOption = "",
    data_dir: DataDirOption = None,
    endpoint: EndpointOption = None,
    timeout: TimeoutOption = 10.0,
    tls_cert: TLSCertOption = None,
    tls_key: TLSKeyOption = None,
    tls_ca: TLSCAOption = None,
    as_json: JSONOption = False,
) -> None:
    """Show a log's sizes, what its policies promise, and how its sinks are.

    Without --log that is the shared log, and each log of a tenant that is not well; and it names
    every log that was found damaged and is not served.

    Exit code 0: every sink answers, every promise is kept and no log is damaged. 1: not so. 2: the
    anchor could not be asked.

    Example: provledger anchor status
    """
    from provledger_cli.connect import run_async, target

    output.use_json(as_json)
    where = target(
        data_dir, endpoint, first="anchor", tls_cert=tls_cert, tls_key=tls_key, tls_ca=tls_ca
    )
    found = run_async(_ask(where, log, timeout))
    if as_json:
        output.document(_document(found))
    else:
        _show(found)
    if not found.well:
        raise typer.Exit(DOES_NOT_HOLD)


async def _ask(where: Target, log: str, timeout_s: float) -> Anchoring:
    from provledger_cli.anchors import anchoring, log_name
    from provledger_cli.connect import Remote

    async with Remote(where, timeout_s=timeout_s) as remote:
        return await anchoring(remote, log_name(log))


def _promises(found: Anchoring) -> list[dict[str, Any]]:
    log = found.log
    rows = [("", log.anchored_size, log.policy)] if log.HasField("policy") else []
    rows += [(each.tenant, each.anchored_size, each.policy) for each in log.tenants]
    return [
        {
            "tenant": tenant or None,
            "anchored_size": size,
            "mode": "fail-closed" if policy.fail_closed else "fail-open",
            "within_s": policy.within_s or None,
            "overdue": policy.overdue,
        }
        for tenant, size, policy in rows
    ]


def _document(found: Anchoring) -> dict[str, Any]:
    from provledger_cli.anchors import damage_document

    return {
        **_log_document(found),
        "damaged": [damage_document(each) for each in found.damaged],
        "others": [_log_document(each) for each in found.others],
    }


def _log_document(found: Anchoring) -> dict[str, Any]:
    from provledger_cli.anchors import damage_document, sink_document

    log = found.log
    return {
        "log": log.name,
        "origin": log.origin,
        "tenant": log.tenant or None,
        "state": "damaged" if damage_document(log) else "serving",
        "vkey": log.vkey or None,
        "tree_size": log.tree_size,
        "published_size": log.published_size,
        "anchored_size": None if log.anchored_size < 0 else log.anchored_size,
        "held": found.held or None,
        "promises": _promises(found),
        "sinks": [sink_document(sink) for sink in found.sinks],
        "well": found.well,
    }


def _show(found: Anchoring) -> None:
    from provledger_cli.anchors import SHOWN_LOGS

    if found.log not in found.damaged:
        _show_log(found)
    unwell = [other for other in found.others if not other.well]
    for other in unwell[:SHOWN_LOGS]:
        _show_log(other)
    if len(unwell) > SHOWN_LOGS:
        output.show(f"and {len(unwell) - SHOWN_LOGS:,} more logs are not well: --json has them all")
    if found.others:
        well = len(found.others) - len(unwell)
        output.show(f"logs of tenants: {well:,} of {len(found.others):,} are well")
    if found.damaged:
        output.show(
            output.table(
                "Damaged logs, which are not served",
                ["log", "tenant", "reason", "what is wrong"],
                [
                    (log.name, log.damage.tenant, log.damage.reason, log.damage.message)
                    for log in found.damaged
                ],
            )
        )
        output.say("[bold]next:[/] docs/runbooks/damaged-log.md")


def _show_log(found: Anchoring) -> None:
    from provledger_cli.anchors import state_of

    log = found.log
    anchored = "no sinks" if log.anchored_size < 0 else f"{log.anchored_size:,}"
    rows = [
        ("log", log.name),
        ("tenant", log.tenant),
        ("verifier key", log.vkey),
        ("signed", f"{log.tree_size:,}"),
        ("published", f"{log.published_size:,}"),
        ("anchored", anchored),
        ("held", found.held),
    ]
    for each in _promises(found):
        within = f" within {each['within_s']} s" if each["within_s"] else ""
        kept = "overdue" if each["overdue"] else "kept"
        who = each["tenant"] or "log"
        rows.append((f"policy of {who}", f"{each['mode']}{within}: {kept}"))
    output.show(output.card(log.origin, rows))
    output.show(
        output.table(
            "Sinks",
            ["sink", "state", "holds>", "lag>"],
            [
                (sink.uri, state_of(sink), f"{sink.tree_size:,}", f"{sink.lag:,}")
                for sink in found.sinks
            ],
        )
    )
