"""`provledger status`: what runs, and how far it has got."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from provledger_cli import output
from provledger_cli.embedded import endpoints
from provledger_cli.failures import COULD_NOT_TELL, DOES_NOT_HOLD
from provledger_cli.options import (
    DataDirOption,
    EndpointOption,
    JSONOption,
    TLSCAOption,
    TLSCertOption,
    TLSKeyOption,
    finite,
)

if TYPE_CHECKING:
    from provledger.api.anchor.v1.anchor_pb2 import LostLog
    from provledger.client import Ledger
    from provledger.errors import StatusError
    from provledger_cli.anchoring import LogState
    from provledger_cli.ceremonies.not_begun import NotBegun
    from provledger_cli.connect import Remote, Target

_ALONE_S = 3.0
"""How long a ledger service without its anchor is asked for the end of its list."""


@dataclass(slots=True)
class _Found:
    """What was found.

    words: the health of each service.
    missing: why there may be more ledgers than these; None if there are not.
    unserved: logs that ledgers are in and that the anchor does not have, damaged ones apart.
    lost: logs that the anchor knows were published, and that are not in its database.
    early: active keys that nobody signs with before the clocks have come to where they begin.
    """

    words: dict[str, str]
    ledgers: list[Ledger] = field(default_factory=list)
    logs: list[LogState] = field(default_factory=list)
    unserved: list[str] = field(default_factory=list)
    lost: list[LostLog] = field(default_factory=list)
    early: list[NotBegun] = field(default_factory=list)
    missing: StatusError | None = None
    anchored: bool = False


def status(
    wait: Annotated[
        float,
        typer.Option(
            "--wait",
            envvar="PROVLEDGER_STATUS_WAIT",
            min=0.0,
            metavar="SECONDS",
            callback=finite,
            help="Wait so long until everything recorded is held by every sink.",
            show_default=False,
        ),
    ] = 0.0,
    data_dir: DataDirOption = None,
    endpoint: EndpointOption = None,
    tls_cert: TLSCertOption = None,
    tls_key: TLSKeyOption = None,
    tls_ca: TLSCAOption = None,
    as_json: JSONOption = False,
) -> None:
    """Show the services' health, the ledgers, the logs, and how much of them is anchored.

    Exit code 0: all services answer, no log is damaged or held, every ledger takes entries, and
    with --wait all is anchored. 1: one does not serve, is damaged, held, read only, too old or
    missing, has lost a log or does not serve one, or is not anchored in time, or a key has not
    begun by the clocks of who signs with it. 2: a service could not be reached, or nobody can say
    whether there are more ledgers.

    Example: provledger status --wait 30
    """
    from provledger_cli.anchoring import is_stale, well
    from provledger_cli.ceremonies import not_begun
    from provledger_cli.connect import run_async, target
    from provledger_cli.embedded import health

    output.use_json(as_json)
    where = target(
        data_dir, endpoint, tls_cert=tls_cert, tls_key=tls_key, tls_ca=tls_ca, must_run=False
    )
    found = run_async(_status(where, wait))
    if as_json:
        output.document(_document(where, found))
    else:
        _show(where, found.words, found.ledgers, found.logs)
        _show_lost(found.lost)
    for name in found.unserved:
        output.say(f"[bold]{output.literal(name)}[/] is not served: the anchor's own log says why")
    if health.UNREACHABLE in found.words.values():
        output.say("[bold]next:[/] start what is down with `provledger up`")
        raise typer.Exit(COULD_NOT_TELL)
    if health.NOT_SERVING in found.words.values():
        raise typer.Exit(DOES_NOT_HOLD)
    for log in found.logs:
        if log.damage is not None:
            what = "is damaged, and not served"
        elif log.held:
            what = "signs nothing after a restore"
        else:
            continue
        output.say(f"[bold]{output.literal(log.name)}[/] {what}: `provledger anchor status`")
    for ledger in found.ledgers:
        if ledger.read_only_reason:
            name, reason = output.literal(ledger.name), output.literal(ledger.read_only_reason)
            output.say(f"[bold]{name}[/] takes no entries: {reason}")
    for lost in found.lost:
        output.say(
            f"[bold]{output.literal(lost.name)}[/] was published, and is not in the anchor's "
            "database, which is older: docs/runbooks/stale-restore.md"
        )
    for early in found.early:
        output.say(f"{output.literal(early)}: {not_begun.RUNBOOK}")
    missing = found.missing
    if missing is not None:
        output.say(f"there may be more ledgers than are listed: {output.literal(missing)}")
    if wait and not found.anchored:
        output.say(f"not everything was anchored within {output.seconds(wait)}")
    stale = missing is not None and is_stale(missing)
    lacking = stale or found.unserved or found.lost or found.early
    broken = lacking or not well(found.ledgers, found.logs)
    if broken or (wait and not found.anchored):
        raise typer.Exit(DOES_NOT_HOLD)
    if missing is not None:
        raise typer.Exit(COULD_NOT_TELL)


async def _status(where: Target, wait_s: float) -> _Found:
    from provledger_cli.anchoring import all_logs, ledgers, wait_until_anchored, well
    from provledger_cli.anchors import lost_logs
    from provledger_cli.connect import Remote
    from provledger_cli.embedded import health

    if where.stopped:
        return _Found(dict.fromkeys(where.addresses, health.UNREACHABLE))
    found = _Found(await health.check_all(where.addresses, where.tls))
    serving = {name for name, word in found.words.items() if word == health.SERVING}
    async with Remote(where, timeout_s=max(10.0, wait_s)) as remote:
        if "keys" in serving:
            found.early = await _early(remote)
        if wait_s and {"ledger", "anchor"} <= serving:
            with output.progress("receipts") as bar:
                task = bar.add_task("anchoring", total=None)
                found.ledgers, _, found.anchored = await wait_until_anchored(
                    remote,
                    wait_s,
                    on_progress=lambda done, total: bar.update(task, completed=done, total=total),
                )
            if not found.anchored:
                _, found.missing = await ledgers(remote)
            found.logs = await all_logs(remote)
            found.unserved = _unserved(found)
            found.lost = await lost_logs(remote)
            return found
        if "ledger" in serving:
            # Without the anchor nobody can say whether these are all.
            alone_s = None if "anchor" in serving else _ALONE_S
            found.ledgers, found.missing = await ledgers(remote, alone_s)
        if "anchor" in serving:
            found.logs = await all_logs(remote)
            found.unserved = _unserved(found)
            found.lost = await lost_logs(remote)
    logged = all(ledger.logged_seq >= ledger.seq for ledger in found.ledgers)
    anchored = bool(found.logs) and all(log.all_anchored for log in found.logs)
    whole = well(found.ledgers, found.logs) and not (found.unserved or found.lost)
    whole = whole and found.missing is None
    found.anchored = anchored and logged and whole
    return found


async def _early(remote: Remote) -> list[NotBegun]:
    """As `not_begun`; nothing where a caller may not ask, or the service is older than that."""
    from provledger.errors import StatusError
    from provledger_cli.ceremonies.not_begun import not_begun

    with suppress(StatusError):
        return await not_begun(remote)
    return []


def _unserved(found: _Found) -> list[str]:
    from provledger_cli.anchoring import unserved

    damaged = {log.name for log in found.logs if log.damage is not None}
    return [name for name in unserved(found.ledgers, found.logs) if name not in damaged]


def _show(where: Target, words: dict[str, str], found: list[Ledger], logs: list[LogState]) -> None:
    known = endpoints.read(where.data_dir.endpoints) if where.embedded else None
    rows = []
    for name, address in where.addresses.items():
        service = known.services[name] if known else None
        restarts = str(service.restarts) if service else ""
        pid = str(service.pid or "") if service else ""
        rows.append((name, words[name], address, pid, restarts))
    columns = ["service", "health", "endpoint", "pid>", "restarts>"]
    output.show(output.table("Services", columns, rows))
    if found:
        output.show(
            output.table(
                "Ledgers",
                ["ledger", "receipts>", "logged>", "suite", "remarks"],
                [
                    (
                        ledger.name,
                        str(ledger.seq + 1),
                        str(ledger.logged_seq + 1),
                        ledger.suite,
                        ledger.read_only_reason,
                    )
                    for ledger in found
                ],
            )
        )
    held = []
    for log in logs:
        anchored = "no sinks" if log.anchored_size is None else str(log.anchored_size)
        row = (log.origin, str(log.tree_size), str(log.published_size), anchored)
        held.append(row if log.damage is None else (log.origin, "damaged", "", ""))
    if held:
        title = "Log" if len(held) == 1 else "Logs"
        output.show(
            output.table(title, ["origin", "size>", "published>", "held by all sinks>"], held)
        )


def _show_lost(lost: list[LostLog]) -> None:
    rows = [(each.name, each.where, str(each.tree_size or ""), each.reason) for each in lost]
    if rows:
        columns = ["log", "known to", "size>", "reason"]
        output.show(output.table("Logs that are not in the anchor's database", columns, rows))


def _services(where: Target, words: dict[str, str]) -> dict[str, dict[str, Any]]:
    """By name; of those that `up` started also the process, and how it has fared."""
    known = endpoints.read(where.data_dir.endpoints) if where.embedded else None
    document: dict[str, dict[str, Any]] = {}
    for name, address in where.addresses.items():
        document[name] = {"health": words[name], "endpoint": address}
        if known is not None:
            state = known.services[name]
            document[name] |= {
                "pid": state.pid or None,
                "restarts": state.restarts,
                "last_exit": state.last_exit,
            }
    return document


def _document(where: Target, found: _Found) -> dict[str, Any]:
    from provledger_cli.anchors import lost_document

    missing = found.missing
    return {
        "data_dir": str(where.data_dir.path) if where.embedded else None,
        "services": _services(where, found.words),
        "ledgers": [
            {
                "name": ledger.name,
                "uid": ledger.uid,
                "suite": ledger.suite,
                "seq": ledger.seq,
                "logged_seq": ledger.logged_seq,
                "receipt_hash": ledger.receipt_hash,
                "read_only_reason": ledger.read_only_reason,
                "log": ledger.log,
            }
            for ledger in found.ledgers
        ],
        # Why there may be more ledgers than these.
        "incomplete": None
        if missing is None
        else {"reason": missing.reason, "message": missing.message},
        # The shared one, and then all.
        "log": asdict(found.logs[0]) if found.logs else None,
        "logs": [asdict(log) for log in found.logs],
        "unserved_logs": found.unserved,
        "lost_logs": [lost_document(each) for each in found.lost],
        "keys_not_begun": [each.document() for each in found.early],
        "all_anchored": found.anchored,
    }
