"""`provledger export`: a whole ledger in one file that verifies offline."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from provledger import names
from provledger_cli import output, placing
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
    from provledger_cli.connect import Target
    from provledger_cli.transfer.exporting import Exported, Plan


def export(
    tenant: TenantOption,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            envvar="PROVLEDGER_OUT",
            help="File to write; compressed if its name ends in .gz. - is standard output.",
            show_default=False,
        ),
    ],
    ledger: LedgerOption = "main",
    wait: Annotated[
        bool,
        typer.Option(
            "--wait/--no-wait",
            envvar="PROVLEDGER_EXPORT_WAIT",
            help="Wait until all that is recorded now is anchored, for at most --timeout.",
        ),
    ] = True,
    earlier: Annotated[
        int,
        typer.Option(
            "--earlier",
            envvar="PROVLEDGER_EXPORT_EARLIER",
            min=0,
            max=4096,
            help="Earlier checkpoints to prove consistent with the newest.",
        ),
    ] = 256,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(
            "--checkpoint",
            envvar="PROVLEDGER_EXPORT_CHECKPOINT",
            help="A checkpoint kept elsewhere, to be proved consistent as well. Repeatable.",
            show_default=False,
        ),
    ] = None,
    key_ledger: Annotated[
        bool | None,
        typer.Option(
            "--key-ledger/--no-key-ledger",
            envvar="PROVLEDGER_EXPORT_KEY_LEDGER",
            help="Put in the key ledger, as of the same moment: a verifier then needs its pin, "
            "and no key set. Default: wherever the anchor can be asked, for which services "
            "elsewhere take --endpoint anchor=HOST:PORT as well.",
            show_default=False,
        ),
    ] = None,
    head_out: Annotated[
        Path | None,
        typer.Option(
            "--head-out",
            envvar="PROVLEDGER_EXPORT_HEAD_OUT",
            help="Write the signed head here as well, to be kept elsewhere.",
            show_default=False,
        ),
    ] = None,
    checkpoint_out: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint-out",
            envvar="PROVLEDGER_EXPORT_CHECKPOINT_OUT",
            help="Write the signed checkpoint here as well, to be kept elsewhere.",
            show_default=False,
        ),
    ] = None,
    data_dir: DataDirOption = None,
    endpoint: EndpointOption = None,
    timeout: TimeoutOption = 60.0,
    tls_cert: TLSCertOption = None,
    tls_key: TLSKeyOption = None,
    tls_ca: TLSCAOption = None,
    as_json: JSONOption = False,
) -> None:
    """Write all receipts of a ledger, with proofs, checkpoints and the signed head, to one file.

    Verify it anywhere with `provledger verify FILE --pin THUMBPRINT`, by the key ledger it carries,
    or with --keys jwks.json. A head or checkpoint kept in
    another place later shows that an export was cut short: --head-out, --checkpoint-out.

    The file appears when it is whole. Killed, it leaves a file .NAME. with twelve digits beside it,
    which holds payloads and is closed to others; the next export to the same name removes it.

    Of a log that is known to be too old (RESTORED_BEHIND) the file is an archive without a head;
    with --head-out, that is exit code 2, and nothing is written there.

    Exit code 0: written. 1: what is stored does not hold, or a --checkpoint is of another history
    of this log or of more than it has, or the log did not sign it. 2: it could not be done, or the
    registry does not have the key that signed a --checkpoint.

    Example: provledger export --tenant acme --out acme.ndjson.gz
    """
    from provledger_cli.connect import run_async, target

    output.use_json(as_json)
    placing.claim(out, head_out, checkpoint_out)
    where = target(data_dir, endpoint, tls_cert=tls_cert, tls_key=tls_key, tls_ca=tls_ca)
    known = [path.read_bytes() for path in checkpoint or ()]
    name = names.ledger_name(tenant, ledger)
    done, plan = run_async(
        _export(where, name, out, timeout if wait else 0.0, timeout, earlier, known, key_ledger)
    )
    for path, data in ((head_out, plan.head), (checkpoint_out, plan.checkpoint)):
        if path is not None and data is not None:
            placing.write(path, data)
    headless = head_out is not None and plan.head is None
    if as_json and not headless:
        output.document({"file": str(out), **asdict(done)})
    elif not as_json:
        _show(done, name, out)
    if headless:
        raise CommandError(
            f"{head_out} was not written: the log of {name} is older than what was anchored, and "
            "signs no head",
            hint="all else is written; what to do with such a copy: docs/runbooks/stale-restore.md",
        )


def _show(done: Exported, name: str, out: Path) -> None:
    place = "standard output" if placing.is_stdout(out) else output.literal(out)
    output.show(
        f"{done.receipts:,} receipts of {output.literal(name)} up to seq {done.last_seq:,} "
        f"in {output.seconds(done.seconds)} to {place} ({done.bytes_written:,} bytes)\n"
        f"against the checkpoint of size {done.tree_size:,}, which extends "
        f"{done.earlier_checkpoints:,} earlier ones; with {done.key_events:,} key events"
    )


async def _export(
    where: Target,
    name: str,
    out: Path,
    wait_s: float,
    timeout_s: float,
    earlier: int,
    known: list[bytes],
    key_ledger: bool | None,
) -> tuple[Exported, Plan]:
    """key_ledger: None for where it can be had."""
    from provledger.key_events import LEDGER_NAME as KEY_LEDGER_NAME
    from provledger_cli.connect import Remote
    from provledger_cli.transfer.exporting import prepare, write_export
    from provledger_cli.transfer.own_chain import OwnChain

    async with Remote(where, timeout_s=timeout_s) as remote:
        if not remote.has("anchor"):
            if known:
                raise CommandError(
                    "without the anchor, no --checkpoint can be proved",
                    hint="add --endpoint anchor=HOST:PORT, or leave --checkpoint out",
                )
            # The key ledger's own export carries none.
            wanted = key_ledger is not False and name != KEY_LEDGER_NAME
            if wanted and key_ledger:
                raise CommandError(
                    "without the anchor, the key ledger cannot be put in",
                    hint="add --endpoint anchor=HOST:PORT, or leave --key-ledger out: a verifier "
                    "then needs --keys",
                )
            left_out = "; the key ledger is left out: verify needs --keys" if wanted else ""
            output.say(
                "without --endpoint anchor=HOST:PORT, the newest checkpoint is taken, anchored or "
                f"not, and no earlier ones are proved{left_out}"
            )
        with output.progress("receipts") as bar:
            task = bar.add_task("anchoring", total=None)
            plan = await prepare(
                remote,
                name,
                wait_s=wait_s,
                earlier=earlier,
                known_checkpoints=known,
                key_ledger=key_ledger is not False,
                on_wait=lambda done, total: bar.update(task, completed=done, total=total),
            )
            chain = OwnChain(plan)
            exported = await write_export(
                remote,
                plan,
                out,
                lambda done, total: bar.update(
                    task, description="exporting", completed=done, total=total
                ),
                check=chain.check,
                at_end=chain.end,
            )
            return exported, plan
