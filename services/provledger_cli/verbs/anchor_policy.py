"""`provledger anchor policy`: what makes a checkpoint anchored; show it, try one, set one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from provledger_cli import output
from provledger_cli.failures import CommandError
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

_SOURCES = ("", "set for this tenant", "set for the log", "the service's settings", "none")


def policy(
    tenant: Annotated[
        str,
        typer.Option(
            "--tenant",
            envvar="PROVLEDGER_POLICY_TENANT",
            help="Tenant id; default: the log, and so all tenants without a policy of their own. "
            "A policy holds for what the tenant has in one log: for a tenant with a log of its "
            "own, say by --log which one is meant.",
            show_default=False,
        ),
    ] = "",
    set_file: Annotated[
        Path | None,
        typer.Option(
            "--set",
            envvar="PROVLEDGER_POLICY_FILE",
            metavar="FILE",
            help="Set the policy in this file (c2sp.org/tlog-policy, docs/formats/evidence.md).",
            show_default=False,
        ),
    ] = None,
    clear: Annotated[
        bool,
        typer.Option(
            "--clear",
            envvar="PROVLEDGER_POLICY_CLEAR",
            help="Take the policy back: the log's holds for the tenant again, or the settings'.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            envvar="PROVLEDGER_POLICY_DRY_RUN",
            help="With --set or --clear: check only, change nothing.",
        ),
    ] = False,
    expected_version: Annotated[
        int | None,
        typer.Option(
            "--expected-version",
            envvar="PROVLEDGER_POLICY_EXPECTED_VERSION",
            min=0,
            help="Change only if this is the newest version; 0: none was ever set.",
            show_default=False,
        ),
    ] = None,
    version: Annotated[
        int,
        typer.Option(
            "--version",
            envvar="PROVLEDGER_POLICY_VERSION",
            min=0,
            help="Show this earlier version instead of what holds now.",
            show_default=False,
        ),
    ] = 0,
    log: LogUidOption = "",
    data_dir: DataDirOption = None,
    endpoint: EndpointOption = None,
    timeout: TimeoutOption = 10.0,
    tls_cert: TLSCertOption = None,
    tls_key: TLSKeyOption = None,
    tls_ca: TLSCAOption = None,
    as_json: JSONOption = False,
) -> None:
    """Show the anchoring policy of a log or of a tenant in it; or set one, from now on.

    Every version is kept, with who set it. Setting needs no restart.

    Example: provledger anchor policy --tenant acme --set acme.policy --dry-run
    """
    from provledger_cli.connect import run_async, target

    output.use_json(as_json)
    if set_file is not None and clear:
        raise CommandError("--set and --clear exclude each other", hint="give one of them")
    if dry_run and set_file is None and not clear:
        raise CommandError("--dry-run of what?", hint="give --set FILE or --clear")
    text = "" if set_file is None else _read(set_file)
    where = target(
        data_dir, endpoint, first="anchor", tls_cert=tls_cert, tls_key=tls_key, tls_ca=tls_ca
    )
    name = f"tenants/{tenant}" if tenant else ""
    if set_file is None and not clear:
        found = run_async(_get(where, log, name, version, timeout))
    else:
        found = run_async(_set(where, log, name, text, expected_version, dry_run, timeout))
    if as_json:
        output.document(found)
    else:
        _show(found, dry_run=dry_run)


def _read(path: Path) -> str:
    from provledger.policy import MAX_POLICY_BYTES

    with path.open("rb") as file:
        data = file.read(MAX_POLICY_BYTES + 1)
    if not data:
        # An empty text is how a policy is taken back: nothing that a cut file should do.
        raise CommandError(f"{path} is empty", hint="--clear takes the policy back")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise CommandError(f"{path} is not UTF-8") from None


async def _get(
    where: Target, log: str, tenant: str, version: int, timeout_s: float
) -> dict[str, Any]:
    from provledger.api.anchor.v1 import anchor_pb2 as pb
    from provledger_cli.anchors import policy_log
    from provledger_cli.connect import Remote

    async with Remote(where, timeout_s=timeout_s) as remote:
        name = await policy_log(remote, log, tenant)
        request = pb.GetPolicyRequest(log=name, tenant=tenant, version=version)
        answer = await remote.call(remote.anchor.GetPolicy, request)
    found = _document(answer.policy)
    found["source"] = _SOURCES[answer.source]
    found["own_version"] = answer.own_version
    if not version:
        found["anchored_size"] = None if answer.anchored_size < 0 else answer.anchored_size
        found["tenants"] = list(answer.tenants)
    if answer.HasField("promise"):
        promise = answer.promise
        found["mode"] = "fail-closed" if promise.fail_closed else "fail-open"
        found["within_s"] = promise.within_s or None
        found["overdue"] = promise.overdue
    return found


async def _set(
    where: Target,
    log: str,
    tenant: str,
    text: str,
    expected_version: int | None,
    dry_run: bool,
    timeout_s: float,
) -> dict[str, Any]:
    from provledger.api.anchor.v1 import anchor_pb2 as pb
    from provledger_cli.anchors import policy_log
    from provledger_cli.connect import Remote

    request = pb.SetPolicyRequest(tenant=tenant, text=text, validate_only=dry_run)
    if expected_version is not None:
        request.expected_version = expected_version
    async with Remote(where, timeout_s=timeout_s) as remote:
        request.log = await policy_log(remote, log, tenant)
        answer = await remote.call(remote.anchor.SetPolicy, request)
    return {**_document(answer.policy), "dry_run": dry_run}


def _document(policy: Any) -> dict[str, Any]:
    return {
        "log": policy.log,
        "tenant": policy.tenant or None,
        "version": policy.version,
        "text": policy.text,
        "set_at_ns": str(policy.set_at_ns) if policy.set_at_ns else None,
        "set_by": policy.set_by or None,
    }


def _show(found: dict[str, Any], *, dry_run: bool) -> None:
    from provledger_cli.anchors import ago

    set_at = ago(int(found["set_at_ns"] or 0))
    rows = [
        ("of", found["tenant"] or found["log"]),
        ("from", found.get("source", "")),
        ("version", str(found["version"] or "")),
        ("set", f"{set_at} by {found['set_by']}" if set_at else ""),
        ("mode", found.get("mode", "")),
        ("within", f"{found['within_s']} s" if found.get("within_s") else ""),
        ("kept", "no: overdue" if found.get("overdue") else ""),
        ("tenants with their own", ", ".join(found.get("tenants", ()))),
    ]
    title = "Policy, checked only: nothing was changed" if dry_run else "Policy"
    output.show(output.card(title, rows))
    output.raw(found["text"].encode() or b"(none: every sink of the settings must hold it)\n")
