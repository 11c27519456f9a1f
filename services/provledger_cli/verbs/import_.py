"""`provledger import`: record a file of mutations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from provledger_cli import output
from provledger_cli.failures import COULD_NOT_TELL, DOES_NOT_HOLD, CommandError
from provledger_cli.options import (
    CreateLedgerOption,
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
    from provledger_cli.sources import LineSource
    from provledger_cli.transfer.importing import Progress, Rejection
    from provledger_cli.transfer.lines import RequestIds

# How long a line from a pipe waits for others to share a call with.
_LINGER_S: Final = 0.5
_SHOWN_GAPS: Final = 20


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
    create_ledger: CreateLedgerOption = False,
    data_dir: DataDirOption = None,
    endpoint: EndpointOption = None,
    timeout: TimeoutOption = 120.0,
    tls_cert: TLSCertOption = None,
    tls_key: TLSKeyOption = None,
    tls_ca: TLSCAOption = None,
    as_json: JSONOption = False,
) -> None:
    """Record each line of a file as a mutation; running it again appends nothing twice.

    Lines are known again by their request_id, else by their number and the name of their source,
    under import.key of the data directory; with --endpoint, that of whoever runs the command.
    Lines of a pipe are recorded as they come. Ctrl-C or SIGTERM ends it when what was read is.
    A line that is refused is counted and named, and loses nothing else; the exit code is 1 then.
    On the services of a data directory, a missing tenant and ledger are made; elsewhere, with
    --create-ledger.

    Example: provledger import mutations.ndjson.gz --tenant acme
    """
    from provledger_cli.connect import run_async, target
    from provledger_cli.sources import LineSource
    from provledger_cli.transfer.lines import MAX_LINE_BYTES

    output.use_json(as_json)
    where = target(data_dir, endpoint, tls_cert=tls_cert, tls_key=tls_key, tls_ca=tls_ca)
    options = {"batch_items": batch, "in_flight": in_flight, "limit": limit}
    # Opened here, where Ctrl-C ends the wait for whoever is to write into a pipe.
    with LineSource(file, max_line_bytes=MAX_LINE_BYTES) as lines:
        progress, name, failure = run_async(
            _import(where, lines, tenant, ledger, source, timeout, options, create_ledger)
        )
    _show(progress, name, as_json, complete=failure is None)
    if progress.unanswered:
        output.say(f"recorded or not, it is not known: {_gaps(progress)}")
    if failure is not None:
        from provledger_cli.failures import report

        report(failure)
        if not isinstance(failure, CommandError):  # These say themselves what to do.
            output.say(f"[bold]next:[/] {_again(lines)}")
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
    lines: LineSource,
    tenant: str,
    ledger: str,
    source: str,
    timeout_s: float,
    options: dict[str, int],
    create_ledger: bool,
) -> tuple[Progress, str, Exception | None]:
    from provledger.errors import ProvledgerError
    from provledger_cli.connect import Remote
    from provledger_cli.stopping import run_until_signal
    from provledger_cli.tenancy import ensure_ledger
    from provledger_cli.transfer.importing import Progress, run_import
    from provledger_cli.transfer.lines import no_request_ids

    failure: Exception | None = None
    told_by = source or lines.name
    ids = _request_ids(where, told_by) if told_by else no_request_ids
    async with Remote(where, timeout_s=timeout_s) as remote:
        name = await ensure_ledger(remote, tenant, ledger, create=create_ledger)
        progress = Progress()
        with output.progress("receipts", counted=False) as bar:
            total = options["limit"] or lines.size_bytes or None
            task = bar.add_task("importing", total=total, done=0)

            def advance() -> None:
                done = progress.lines if options["limit"] else lines.position_bytes
                bar.update(task, completed=done, done=progress.recorded)

            work = run_import(
                remote,
                name,
                lines.lines(),
                ids,
                linger_s=None if lines.is_file else _LINGER_S,
                progress=progress,
                on_progress=advance,
                **options,
            )
            try:
                if await run_until_signal(work, lines.stop):
                    failure = CommandError(
                        f"interrupted after line {progress.lines:,}", hint=_again(lines)
                    )
            except ProvledgerError as error:
                failure = error
            finally:
                lines.stop()
            advance()
    return progress, name, failure


def _request_ids(where: Target, source: str) -> RequestIds:
    """The ids of the lines of a source; a key that is made for them here, and not by the services
    that they go to, is told: it is lost with this home, as in a container."""
    from provledger_cli.transfer.lines import request_ids

    file = where.data_dir.import_key_file
    made = not file.exists()
    key = where.data_dir.import_key()
    if made and not where.embedded:
        output.say(
            f"made [bold]{output.literal(file)}[/], by which lines without a request_id are known "
            "again: without it, the same import appends them once more. Keep it, or name a "
            "directory that lasts with --data-dir"
        )
    return request_ids(key, source)


def _again(lines: LineSource) -> str:
    what = "" if lines.name else " and give it the same lines from the first on"
    return f"run the same command again{what}: it goes on and appends nothing twice"


def _gaps(progress: Progress) -> str:
    """The lines without an answer, for people."""
    gaps = progress.gaps()
    shown = [f"{first}" if first == last else f"{first}-{last}" for first, last in gaps]
    more = ", ..." if len(shown) > _SHOWN_GAPS else ""
    return f"{len(progress.unanswered):,} lines: {', '.join(shown[:_SHOWN_GAPS])}{more}"


def _show(progress: Progress, ledger: str, as_json: bool, *, complete: bool) -> None:
    seconds = progress.seconds
    rate = progress.recorded / seconds if seconds > 0 else 0.0
    if as_json:
        output.document(_document(progress, ledger, complete, seconds, rate))
        return
    output.show(
        f"{'' if complete else 'stopped early: '}{progress.appended:,} appended, "
        f"{progress.repeated:,} there already, {progress.rejected:,} rejected "
        f"in {output.seconds(seconds)} ({rate:,.0f}/s) to {output.literal(ledger)}"
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
        "unanswered": progress.gaps(),
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
