"""`provledger list`: receipts of a ledger, filtered."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

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
    from provledger.client import ReceiptFilter, ReceiptSummary
    from provledger_cli.connect import Target

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
    data_dir: DataDirOption = None,
    endpoint: EndpointOption = None,
    timeout: TimeoutOption = 60.0,
    tls_cert: TLSCertOption = None,
    tls_key: TLSKeyOption = None,
    tls_ca: TLSCAOption = None,
    as_json: JSONOption = False,
) -> None:
    """List receipts of one ledger in the order of its chain. Conditions are joined by AND.

    What a receipt is about, and who did it, is in the receipt itself: `provledger get NAME`, or
    `provledger export` for many.

    Example: provledger list --tenant acme --resource-type Version --resource-id redis/8.8.2
    """
    from provledger.client import ReceiptFilter
    from provledger_cli.connect import run_async, target

    output.use_json(as_json)
    where = target(data_dir, endpoint, tls_cert=tls_cert, tls_key=tls_key, tls_ca=tls_ca)
    condition = ReceiptFilter(
        resource_type=resource_type,
        resource_id=resource_id,
        actor_id=actor,
        receipt_type=receipt_type,
        start_t_ns=_time_ns(since, "--since"),
        end_t_ns=_time_ns(until, "--until"),
    )
    name = names.ledger_name(tenant, ledger)
    found, more = run_async(_list(where, name, condition, limit, timeout))
    if as_json:
        output.document({"ledger": name, "more": more, "receipts": [_row(item) for item in found]})
        return
    rows = [
        (
            str(item.seq),
            names.timestamp_iso(item.t_ns),
            item.receipt_type,
            item.anchor_state.value,
            item.name.rpartition("/")[2],
        )
        for item in found
    ]
    output.show(output.table(name, ["seq>", "time", "type", "state", "receipt"], rows))
    if more:
        output.say("there are more: raise --limit, or narrow it down")


async def _list(
    where: Target, ledger: str, condition: ReceiptFilter, limit: int, timeout_s: float
) -> tuple[list[ReceiptSummary], bool]:
    from provledger_cli.connect import Remote

    found: list[ReceiptSummary] = []
    async with Remote(where, timeout_s=timeout_s) as remote:
        page_size = min(limit + 1, 1000) if limit else 1000
        async for item in remote.client.list_summaries(ledger, condition, page_size=page_size):
            if limit and len(found) == limit:
                return found, True
            found.append(item)
    return found, False


def _row(item: ReceiptSummary) -> dict[str, Any]:
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
    }


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
