"""`provledger append`: record one mutation from standard input."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import typer

from provledger.errors import StatusError
from provledger_cli import output
from provledger_cli.failures import CommandError, advice, report
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
    from provledger.client import AnchorState
    from provledger.receipt import Receipt
    from provledger_cli.connect import Target

# What a service says of a mutation that it did not take, and will not take as it is.
_REFUSED: Final = frozenset(
    {"INVALID_ARGUMENT", "ALREADY_EXISTS", "NOT_FOUND", "PERMISSION_DENIED", "UNAUTHENTICATED"}
)


@dataclass(slots=True)
class _Attempt:
    """How far an append got, for whoever has to say so when it ends early.

    request_id: "" until it was sent. From then on it may be recorded.
    receipt: what the service answered, durable since.
    anchored: every sink is known to hold a checkpoint that covers it.
    """

    request_id: str = ""
    receipt: Receipt | None = None
    anchored: bool = False


def append(
    tenant: TenantOption,
    ledger: LedgerOption = "main",
    request_id: Annotated[
        str,
        typer.Option(
            "--request-id",
            envvar="PROVLEDGER_REQUEST_ID",
            help="Makes it safe to run this again: the same id gives the same receipt. Default: "
            "the request_id in the mutation, or a new UUID.",
            show_default=False,
        ),
    ] = "",
    wait_anchored: Annotated[
        bool,
        typer.Option(
            "--wait-anchored",
            envvar="PROVLEDGER_WAIT_ANCHORED",
            help="Answer only once every sink holds a checkpoint that covers it.",
        ),
    ] = False,
    create_ledger: CreateLedgerOption = False,
    data_dir: DataDirOption = None,
    endpoint: EndpointOption = None,
    timeout: TimeoutOption = 60.0,
    tls_cert: TLSCertOption = None,
    tls_key: TLSKeyOption = None,
    tls_ca: TLSCAOption = None,
    as_json: JSONOption = False,
) -> None:
    """Record one mutation, read as JSON from standard input; it is durable when this returns.

    The form is that of a line of `import`. With --json the receipt itself is the answer.

    Example: provledger append --tenant acme < mutation.json
    """
    from provledger_cli.connect import run_async, target
    from provledger_cli.transfer.lines import MAX_LINE_BYTES
    from provledger_cli.verifying.receipts import show_receipt

    output.use_json(as_json)
    if sys.stdin is None:
        raise CommandError("standard input is closed", hint="give it a mutation to read")
    if sys.stdin.isatty():
        output.say("reading a mutation from the keyboard; end it with Ctrl-D")
    data = sys.stdin.buffer.read(MAX_LINE_BYTES + 1)
    if len(data) > MAX_LINE_BYTES:
        raise CommandError(
            f"the mutation is longer than {MAX_LINE_BYTES} bytes", hint="send less at once"
        )
    where = target(data_dir, endpoint, tls_cert=tls_cert, tls_key=tls_key, tls_ca=tls_ca)
    attempt = _Attempt()
    try:
        receipt, state, repeated = run_async(
            _append(
                where,
                tenant,
                ledger,
                data,
                request_id,
                wait_anchored,
                timeout,
                attempt,
                create_ledger=create_ledger,
            )
        )
        if as_json:
            output.raw(receipt.encode() + b"\n")
            return
        output.show("known already, the same receipt again" if repeated else "recorded")
        show_receipt(receipt, state)
    except (Exception, KeyboardInterrupt) as error:
        if not attempt.request_id:
            raise
        raise typer.Exit(_report(error, attempt)) from None


def _report(error: Exception | KeyboardInterrupt, attempt: _Attempt) -> int:
    """Say what went wrong after the mutation was sent, and what became of it; the exit code."""
    failure = CommandError("interrupted") if isinstance(error, KeyboardInterrupt) else error
    about = {"request_id": attempt.request_id}
    if attempt.receipt is not None:
        name = attempt.receipt.name
        wait = "" if attempt.anchored else " --wait-anchored"
        hint = (
            f"it is recorded as {name}{wait and ', not anchored yet'}: provledger get {name}{wait}"
        )
        return report(failure, hint=hint, about=about | {"receipt": name})
    if isinstance(failure, StatusError) and failure.code in _REFUSED:
        return report(failure, about=about)
    general = advice(failure) if isinstance(failure, StatusError) else ""
    again = (
        f"it may be recorded: run it again with --request-id {attempt.request_id}, which appends "
        "nothing twice"
    )
    return report(failure, hint=f"{general}; {again}" if general else again, about=about)


async def _append(
    where: Target,
    tenant: str,
    ledger: str,
    data: bytes,
    request_id: str,
    wait_anchored: bool,
    timeout_s: float,
    attempt: _Attempt,
    *,
    create_ledger: bool = False,
) -> tuple[Receipt, AnchorState, bool]:
    from provledger.client.answers import check_recorded
    from provledger.client.convert import receipt_from_pb, summary_from_pb
    from provledger.client.drafts import new_request_id
    from provledger_cli.connect import Remote
    from provledger_cli.tenancy import ensure_ledger
    from provledger_cli.transfer.lines import draft_from_line

    draft = draft_from_line(data.strip(), request_id or new_request_id())
    if request_id:
        draft.request_id = request_id
    async with Remote(where, timeout_s=timeout_s) as remote:
        name = await ensure_ledger(remote, tenant, ledger, create=create_ledger)
        attempt.request_id = draft.request_id
        response = await remote.append(name, draft)
        check_recorded(response.receipt, draft, name)
        attempt.receipt = receipt = receipt_from_pb(response.receipt)
        if wait_anchored:
            receipt = await remote.client.wait_for_anchor(receipt.name)
            attempt.anchored = True
        state = summary_from_pb(response.receipt).anchor_state
        return receipt, state, response.repeated_request
