"""`provledger list`: receipts of a ledger, filtered."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from provledger import names
from provledger_cli import output
from provledger_cli.failures import CommandError
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
    from provledger.client import AsyncClient, ReceiptFilter, ReceiptSummary
    from provledger.statement import Statement
    from provledger_cli.connect import Target

    _Found: TypeAlias = tuple[ReceiptSummary, Statement | None]

# Times are nanoseconds in 64 bits.
_END_S = 2**63 // 1_000_000_000
_FRACTION = re.compile(r"\.(\d+)")


def list_(
    tenant: TenantOption,
    ledger: LedgerOption = "main",
    resource_type: Annotated[
        str,
        typer.Option(
            "--resource-type",
            envvar="PROVLEDGER_LIST_RESOURCE_TYPE",
            help="Only about this type of resource.",
            show_default=False,
        ),
    ] = "",
    resource_id: Annotated[
        str,
        typer.Option(
            "--resource-id",
            envvar="PROVLEDGER_LIST_RESOURCE_ID",
            help="Only about this resource; needs --resource-type.",
            show_default=False,
        ),
    ] = "",
    actor: Annotated[
        str,
        typer.Option(
            "--actor",
            envvar="PROVLEDGER_LIST_ACTOR",
            help="Only by this declared actor.",
            show_default=False,
        ),
    ] = "",
    receipt_type: Annotated[
        str,
        typer.Option(
            "--type",
            envvar="PROVLEDGER_LIST_TYPE",
            help="Only of this receipt type, such as mutation.",
            show_default=False,
        ),
    ] = "",
    since: Annotated[
        str,
        typer.Option(
            "--since",
            envvar="PROVLEDGER_LIST_SINCE",
            help="Only recorded at or after this RFC 3339 time.",
            show_default=False,
        ),
    ] = "",
    until: Annotated[
        str,
        typer.Option(
            "--until",
            envvar="PROVLEDGER_LIST_UNTIL",
            help="Only recorded before this RFC 3339 time.",
            show_default=False,
        ),
    ] = "",
    limit: Annotated[
        int,
        typer.Option(
            "--limit", envvar="PROVLEDGER_LIST_LIMIT", min=0, help="At most so many; 0 means all."
        ),
    ] = 50,
    about: Annotated[
        bool,
        typer.Option(
            "--about",
            envvar="PROVLEDGER_LIST_ABOUT",
            help="Show also what was done, to what and by whom; whole receipts are read for that.",
        ),
    ] = False,
    data_dir: DataDirOption = None,
    endpoint: EndpointOption = None,
    timeout: TimeoutOption = 60.0,
    tls_cert: TLSCertOption = None,
    tls_key: TLSKeyOption = None,
    tls_ca: TLSCAOption = None,
    as_json: JSONOption = False,
) -> None:
    """List receipts of one ledger in the order of its chain. Conditions are joined by AND.

    Example: provledger list --tenant acme --resource-type Version --resource-id redis/8.8.2

    Example: provledger list --tenant acme --actor billing-job --about --limit 0 --json
    """
    from provledger.client import ReceiptFilter
    from provledger_cli.connect import run_async, target

    output.use_json(as_json)
    condition = ReceiptFilter(
        resource_type=resource_type,
        resource_id=resource_id,
        actor_id=actor,
        receipt_type=receipt_type,
        start_t_ns=_time_ns(since, "--since"),
        end_t_ns=_end_ns(until),
    )
    where = target(data_dir, endpoint, tls_cert=tls_cert, tls_key=tls_key, tls_ca=tls_ca)
    name = names.ledger_name(tenant, ledger)
    found, more = run_async(_list(where, name, condition, limit, timeout, about=about))
    if as_json:
        output.document({"ledger": name, "more": more, "receipts": [_row(*item) for item in found]})
        return
    columns = ["seq>", "time", "type", "state", "receipt"]
    if about:
        columns[4:4] = ["action", "resource", "actor"]
    output.show(output.table(name, columns, [_cells(*item) for item in found]))
    if more:
        output.say("there are more: raise --limit, or narrow it down")


async def _list(
    where: Target,
    ledger: str,
    condition: ReceiptFilter,
    limit: int,
    timeout_s: float,
    *,
    about: bool,
) -> tuple[list[_Found], bool]:
    from provledger_cli.connect import Remote

    found: list[_Found] = []
    async with Remote(where, timeout_s=timeout_s) as remote:
        page_size = min(limit + 1, 1000) if limit else 1000
        read = _whole if about else _summaries
        async for item in read(remote.client, ledger, condition, page_size):
            if limit and len(found) == limit:
                return found, True
            found.append(item)
    return found, False


async def _summaries(
    client: AsyncClient, ledger: str, condition: ReceiptFilter, page_size: int
) -> AsyncIterator[_Found]:
    async for item in client.list_summaries(ledger, condition, page_size=page_size):
        yield item, None


async def _whole(
    client: AsyncClient, ledger: str, condition: ReceiptFilter, page_size: int
) -> AsyncIterator[_Found]:
    from provledger.client.paging import Pages
    from provledger.statement import parse_statement

    pages = Pages()
    while pages.more:
        page = await client.list_page(
            ledger, condition, page_size=page_size, page_token=pages.token
        )
        pages.turn(page.next_page_token, len(page.receipts))
        for summary, receipt in zip(page.summaries, page.receipts, strict=True):
            yield summary, parse_statement(receipt.statement)


def _cells(item: ReceiptSummary, statement: Statement | None) -> tuple[str, ...]:
    about: tuple[str, ...] = ()
    if statement is not None:
        # As they are: an id may begin or end with a slash.
        parts = (statement.resource_type, statement.resource_id)
        resource = "/".join(part for part in parts if part)
        about = (statement.action, resource, statement.actor_id)
    return (
        str(item.seq),
        names.timestamp_iso(item.t_ns),
        item.receipt_type,
        item.anchor_state.value,
        *about,
        item.name.rpartition("/")[2],
    )


def _row(item: ReceiptSummary, statement: Statement | None) -> dict[str, Any]:
    about = {} if statement is None else _about(statement)
    return {
        "name": item.name,
        "receipt_type": item.receipt_type,
        "seq": item.seq,
        "t_ns": str(item.t_ns),
        "time": names.timestamp_iso(item.t_ns),
        "previous_hash": item.previous_hash,
        "payload_hash": item.payload_hash,
        "receipt_hash": item.receipt_hash,
        "kid": item.kid,
        "anchor_state": item.anchor_state.value,
        **about,
    }


def _about(statement: Statement) -> dict[str, str]:
    return {
        "action": statement.action,
        "resource_type": statement.resource_type,
        "resource_id": statement.resource_id,
        "actor_id": statement.actor_id,
        "principal": statement.principal,
        "request_id": statement.request_id,
    }


def _end_ns(text: str) -> int:
    """As `_time_ns`. The first moment of 1970 is refused: 0 means any to the service."""
    end_ns = _time_ns(text, "--until")
    if text and not end_ns:
        raise CommandError(f"--until {text!r}: nothing is recorded before 1970")
    return end_ns


def _time_ns(text: str, option: str) -> int:
    """Unix nanoseconds of an RFC 3339 time, 0 for ""."""
    if not text:
        return 0
    names.check_rfc3339(text, option)
    # datetime knows microseconds only, so the decimals are taken apart.
    whole, fraction = text.upper().replace("Z", "+00:00"), ""
    if match := _FRACTION.search(whole):
        fraction = match[1]
        whole = whole.replace(match[0], "", 1)
    try:
        seconds = int(datetime.fromisoformat(whole).timestamp())
    except (ValueError, OverflowError):
        raise CommandError(f"{option} {text!r} is not a time we can use") from None
    if not 0 <= seconds < _END_S:
        raise CommandError(f"{option} {text!r} is before 1970 or after 2261")
    return seconds * 1_000_000_000 + int(fraction.ljust(9, "0"))
