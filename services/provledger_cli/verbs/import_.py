"""`provledger import`: record a file of mutations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from provledger_cli import output
from provledger_cli.failures import COULD_NOT_TELL, DOES_NOT_HOLD, CommandError
from provledger_cli.options import (
    DataDirOption,
    EndpointOption,
    JSONOption,
    LedgerOption,
    TenantOption,
    TimeoutOption,
    TLSCAOption,
    TLSCertOption,
    TLSKeyOption,
)

if TYPE_CHECKING:
    from provledger_cli.connect import Target
    from provledger_cli.importing import Progress, Rejection


def import_(
    file: Annotated[
        Path,
        typer.Argument(
            envvar="PROVLEDGER_IMPORT_FILE",
            help="NDJSON file, may be compressed with gzip; - is standard input, and needs "
            "--source unless each line has a request_id.",
            show_default=False,
        ),
    ],
    tenant: TenantOption,
    ledger: LedgerOption = "main",
    batch: Annotated[
        int,
        typer.Option(
            "--batch", envvar="PROVLEDGER_IMPORT_BATCH", min=1, max=1000, help="Lines in one call."
        ),
    ] = 1000,
    in_flight: Annotated[
        int,
        typer.Option(
            "--in-flight",
            envvar="PROVLEDGER_IMPORT_IN_FLIGHT",
            min=1,
            max=64,
            help="Calls on their way at once. Lines about the same resource always stay in order; "
            "1 keeps all lines in order even if a call is lost.",
        ),
    ] = 2,
    limit: Annotated[
        int,
        typer.Option(
            "--limit",
            envvar="PROVLEDGER_IMPORT_LIMIT",
            min=0,
            help="Read only so many lines; 0 means all.",
        ),
    ] = 0,
    source: Annotated[
        str,
        typer.Option(
            "--source",
            envvar="PROVLEDGER_IMPORT_SOURCE",
            help="Name that tells these lines from others, for those without a request_id: the "
            "same lines again under the same name append nothing, other lines need another. "
            "Default: the file's name, without its directory; standard input and pipes have none.",
            show_default=False,
        ),
    ] = "",
    data_dir: DataDirOption = None,
    endpoint: EndpointOption = None,
    timeout: TimeoutOption = 120.0,
    tls_cert: TLSCertOption = None,
    tls_key: TLSKeyOption = None,
    tls_ca: TLSCAOption = None,
    as_json: JSONOption = False,
) -> None:
    """Record each line of a file as a mutation; running it again appends nothing twice.

    Lines are known again by their request_id, else by their number and the name of their source.
    A line that is refused is counted and named, and loses nothing else; the exit code is 1 then.
    On the services of a data directory, a missing tenant and ledger are made.

    Example: provledger import mutations.ndjson.gz --tenant acme
    """
    from provledger_cli.connect import run_async, target

    output.use_json(as_json)
    where = target(data_dir, endpoint, tls_cert=tls_cert, tls_key=tls_key, tls_ca=tls_ca)
    options = {"batch_items": batch, "in_flight": in_flight, "limit": limit}
    progress, name, failure = run_async(
        _import(where, file, tenant, ledger, source, timeout, options)
    )
    _show(progress, name, as_json, complete=failure is None)
    if failure is not None:
        from provledger_cli.failures import report

        report(failure)
        if not isinstance(failure, CommandError):  # These say themselves what to do.
            output.say(
                "[bold]next:[/] run the same command again: it goes on and appends nothing twice"
            )
        raise typer.Exit(COULD_NOT_TELL)
    if not source and any(item.reason == "REQUEST_ID_REUSED" for item in progress.rejections):
        output.say(
            "[bold]next:[/] if another file of this name was imported before: run it again with "
            "--source and a name of its own"
        )
    if progress.rejected:
        raise typer.Exit(DOES_NOT_HOLD)


async def _import(
    where: Target,
    file: Path,
    tenant: str,
    ledger: str,
    source: str,
    timeout_s: float,
    options: dict[str, int],
) -> tuple[Progress, str, Exception | None]:
    from provledger.errors import ProvledgerError
    from provledger_cli.connect import Remote
    from provledger_cli.importing import Progress, run_import
    from provledger_cli.lines import MAX_LINE_BYTES, no_request_ids, request_ids
    from provledger_cli.sources import LineSource
    from provledger_cli.tenancy import ensure_ledger

    failure: Exception | None = None
    with LineSource(file, max_line_bytes=MAX_LINE_BYTES) as lines:
        told_by = source or lines.name
        ids = request_ids(where.data_dir.import_key(), told_by) if told_by else no_request_ids
        async with Remote(where, timeout_s=timeout_s) as remote:
            name = await ensure_ledger(remote, tenant, ledger)
            progress = Progress()
            with output.progress("receipts", counted=False) as bar:
                total = options["limit"] or lines.size_bytes or None
                task = bar.add_task("importing", total=total, done=0)

                def advance() -> None:
                    done = progress.lines if options["limit"] else lines.position_bytes
                    bar.update(task, completed=done, done=progress.recorded)

                try:
                    await run_import(
                        remote,
                        name,
                        lines.lines(),
                        ids,
                        progress=progress,
                        on_progress=advance,
                        **options,
                    )
                except ProvledgerError as error:
                    failure = error
                advance()
    return progress, name, failure


def _show(progress: Progress, ledger: str, as_json: bool, *, complete: bool) -> None:
    seconds = progress.seconds
    rate = progress.recorded / seconds if seconds > 0 else 0.0
    if as_json:
        output.document(_document(progress, ledger, complete, seconds, rate))
        return
    output.show(
        f"{'' if complete else 'stopped early: '}{progress.appended:,} appended, "
        f"{progress.repeated:,} there already, {progress.rejected:,} rejected "
        f"in {output.seconds(seconds)} ({rate:,.0f}/s) to {ledger}"
    )
    if progress.rejections:
        output.show(_rejections(progress.rejections, progress.rejected))


def _rejections(rejections: list[Rejection], count: int) -> Any:
    title = f"Rejected (first {len(rejections)} of {count})"
    rows = [(str(item.line), item.field, item.reason, item.message) for item in rejections]
    return output.table(title, ["line>", "field", "reason", "message"], rows)


def _document(
    progress: Progress, ledger: str, complete: bool, seconds: float, rate: float
) -> dict[str, Any]:
    return {
        "ledger": ledger,
        "complete": complete,
        "lines": progress.lines,
        "appended": progress.appended,
        "repeated": progress.repeated,
        "rejected": progress.rejected,
        "seconds": round(seconds, 3),
        "receipts_per_second": round(rate, 1),
        "rejections": [
            {
                "line": item.line,
                "field": item.field,
                "reason": item.reason,
                "message": item.message,
            }
            for item in progress.rejections
        ],
    }
