"""`provledger verify`: does it hold? Offline for a file, or against the running services."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from provledger_cli import output
from provledger_cli.failures import CommandError
from provledger_cli.options import (
    DataDirOption,
    EndpointOption,
    JSONOption,
    LedgerOption,
    TimeoutOption,
    TLSCAOption,
    TLSCertOption,
    TLSKeyOption,
)

if TYPE_CHECKING:
    from provledger.keyset import KeySet
    from provledger_cli.connect import Target
    from provledger_cli.verifying.checking import Trusted, Verdict


def verify(
    context: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(
            envvar="PROVLEDGER_VERIFY_FILE",
            help="An export, plain or .gz, or one receipt as JSON; - is standard input.",
            show_default=False,
        ),
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(
            "--keys",
            envvar="PROVLEDGER_VERIFY_JWKS",
            help="JWK Set with the public keys you trust.",
            show_default=False,
        ),
    ] = None,
    head: Annotated[
        Path | None,
        typer.Option(
            "--head",
            envvar="PROVLEDGER_VERIFY_HEAD",
            help="A signed head obtained elsewhere, which the ledger must reach.",
            show_default=False,
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint",
            envvar="PROVLEDGER_VERIFY_CHECKPOINT",
            help="A signed checkpoint obtained elsewhere, which the ledger must reach.",
            show_default=False,
        ),
    ] = None,
    key_ledger: Annotated[
        Path | None,
        typer.Option(
            "--key-ledger",
            envvar="PROVLEDGER_VERIFY_KEY_LEDGER",
            help="An export of the ledger keys of tenant system, or one that carries it: the keys "
            "come from there, verified from --pin on. A JWK Set given as well must say the same. "
            "Export it after FILE: by an older one it could not be told, unless FILE or --history "
            "carries one that is newer. In another tree than FILE, it must meet --policy, "
            "--tsa-cert and --online itself.",
            show_default=False,
        ),
    ] = None,
    pin: Annotated[
        str,
        typer.Option(
            "--pin",
            envvar="PROVLEDGER_KEY_PIN",
            metavar="JKT",
            help="RFC 7638 thumbprint, in hex, of a key that the key ledger's genesis names, or a "
            "file (*.pin) with it. "
            "Exports carry the key ledger, so that they need no --keys.",
            show_default=False,
        ),
    ] = "",
    key_ledger_uid: Annotated[
        str,
        typer.Option(
            "--key-ledger-uid",
            envvar="PROVLEDGER_VERIFY_KEY_LEDGER_UID",
            metavar="UID",
            help="With --pin: which ledger the key ledger must be, as --json gives it and others "
            "see it. One genesis can begin several, and a second one can leave events out.",
            show_default=False,
        ),
    ] = "",
    history: Annotated[
        Path | None,
        typer.Option(
            "--history",
            envvar="PROVLEDGER_VERIFY_HISTORY",
            help="A newer export of the same log, to show that an older file's checkpoint belongs "
            "to the history that a revocation covers. Of its receipts nothing is taken, and one "
            "that a revocation leaves uncovered is no fault of FILE. With --pin, what its key "
            "ledger says of the keys counts as well.",
            show_default=False,
        ),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            "--policy",
            envvar="PROVLEDGER_VERIFY_POLICY",
            help="Policy (c2sp.org/tlog-policy) that the cosignatures of a file must meet.",
            show_default=False,
        ),
    ] = None,
    tsa_cert: Annotated[
        list[Path] | None,
        typer.Option(
            "--tsa-cert",
            envvar="PROVLEDGER_VERIFY_TSA_CERT",
            help="PEM file: certificate of a timestamp authority you trust. Repeatable: tokens of "
            "others count for nothing.",
            show_default=False,
        ),
    ] = None,
    tsa_chain: Annotated[
        list[Path] | None,
        typer.Option(
            "--tsa-chain",
            envvar="PROVLEDGER_VERIFY_TSA_CHAIN",
            help="PEM file: the certificates above it, up to a root. Repeatable: all are taken "
            "together.",
            show_default=False,
        ),
    ] = None,
    online: Annotated[
        bool,
        typer.Option(
            "--online",
            envvar="PROVLEDGER_VERIFY_ONLINE",
            help="Ask the store (S3, by the credentials boto3 finds) for the locked copies.",
        ),
    ] = False,
    cose: Annotated[
        Path | None,
        typer.Option(
            "--cose",
            envvar="PROVLEDGER_VERIFY_COSE",
            help="A COSE receipt (RFC 9942) of the receipt in FILE, or of --entry, which must hold "
            "as well.",
            show_default=False,
        ),
    ] = None,
    entry: Annotated[
        Path | None,
        typer.Option(
            "--entry",
            envvar="PROVLEDGER_VERIFY_ENTRY",
            help="Instead of FILE, with --cose: an entry, as the bytes that were logged.",
            show_default=False,
        ),
    ] = None,
    tenant: Annotated[
        str,
        typer.Option(
            "--tenant",
            envvar="PROVLEDGER_TENANT",
            help="Without a file: verify a ledger of this tenant against the running services.",
            show_default=False,
        ),
    ] = "",
    ledger: LedgerOption = "main",
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs",
            envvar="PROVLEDGER_VERIFY_JOBS",
            min=0,
            max=256,
            help="Processes that check receipts; 0: one for each core, once there are 2,048.",
        ),
    ] = 0,
    data_dir: DataDirOption = None,
    endpoint: EndpointOption = None,
    timeout: TimeoutOption = 60.0,
    tls_cert: TLSCertOption = None,
    tls_key: TLSKeyOption = None,
    tls_ca: TLSCAOption = None,
    as_json: JSONOption = False,
) -> None:
    """Check every receipt of an export, or one receipt, offline; or a ledger where it is stored.

    A file is verified with the keys you give and nothing else: no service, database or network,
    unless --online says so. With --pin, the keys are those of the key ledger that the export
    carries, replayed from its pinned genesis. What --policy, --tsa-cert, --online, --head and
    --checkpoint ask for must be there and hold. A COSE receipt of one entry is checked with --cose.
    With --tenant, the services recompute every stored row, and then every receipt is fetched and
    verified here, with the registry's keys unless --keys gives others.

    Exit code 0: it holds. 1: something does not, and the first broken receipt is named. 2: it
    could not be told, for want of evidence or because something could not be read: a file that is
    empty or of another kind, a .gz that was cut off or damaged, or a --history in which something
    does not hold.

    Example: provledger verify acme.ndjson.gz --keys jwks.json --head head.json
    """
    from provledger.errors import VerificationError
    from provledger_cli.options import read_pin
    from provledger_cli.verifying import checking, verdicts

    output.use_json(as_json)
    if file is not None or entry is not None:
        _refuse_ledger(context)
    started_s = time.monotonic()
    outside_head, outside_checkpoint = _read_held(head, checkpoint)
    known = None if keys is None else _read_keys(keys)
    try:
        from provledger_cli.verifying.trust import outside

        believed = outside(policy, tsa_cert or [], tsa_chain or [], online=online)
        trusted = checking.Trusted(
            known,
            read_pin(pin) if pin else None,
            key_ledger_uid=_read_uid(key_ledger_uid, pin),
            outside=believed,
            jobs=jobs,
        )
        if key_ledger is not None:
            trusted = checking.replayed(trusted, key_ledger)
        if history is not None:
            trusted = checking.with_history(trusted, history)
        if cose is not None or entry is not None:
            verdict = _cose(file, entry, cose, trusted, outside_head, outside_checkpoint)
        elif file is not None:
            verdict = _offline(file, trusted, outside_head, outside_checkpoint)
        elif tenant:
            from provledger_cli.connect import target

            where = target(data_dir, endpoint, tls_cert=tls_cert, tls_key=tls_key, tls_ca=tls_ca)
            verdict = _against_services(
                where, tenant, ledger, trusted, outside_head, outside_checkpoint, timeout
            )
        else:
            raise CommandError(
                "nothing to verify was given",
                hint="name a file (with --keys), or a ledger with --tenant",
            )
    except VerificationError as error:
        hint = verdicts.advice(error, pinned=bool(pin), given=key_ledger is not None)
        if as_json:
            output.document(verdicts.failure_document(error, hint))
        else:
            verdicts.show_failure(error, hint)
        raise typer.Exit(verdicts.failure_code(error)) from None
    if as_json:
        output.document(verdicts.document(verdict, time.monotonic() - started_s))
    else:
        verdicts.show(verdict, time.monotonic() - started_s)
    if verdict.exit_code:
        raise typer.Exit(verdict.exit_code)


def _refuse_ledger(context: typer.Context) -> None:
    """Else who names a ledger beside a file would take what holds for a yes to that name."""
    for option in ("tenant", "ledger"):
        source = context.get_parameter_source(option)
        if source is not None and source.name.lower() == "commandline":
            raise CommandError(
                f"--{option} names a ledger where it is stored, and does not go with a file",
                hint="leave it out; the answer says of which ledger the file is",
            )


def _read_held(head: Path | None, checkpoint: Path | None) -> tuple[bytes | None, bytes | None]:
    """What is held from elsewhere; CommandError for a file that is something else."""
    from provledger.errors import InputError
    from provledger.held import check_readable

    envelope = None if head is None else head.read_bytes().strip()
    signed = None if checkpoint is None else checkpoint.read_bytes()
    path, name = head, "signed head"
    try:
        check_readable(head=envelope)
        path, name = checkpoint, "signed checkpoint"
        check_readable(checkpoint=signed)
    except InputError as error:
        raise CommandError(
            f"{path} is no {name}: {error}", hint="was it fetched whole? get it again"
        ) from error
    return envelope, signed


def _cose(
    file: Path | None,
    entry: Path | None,
    cose: Path | None,
    trusted: Trusted,
    head: bytes | None,
    checkpoint: bytes | None,
) -> Verdict:
    from provledger_cli.verifying.cose import verify_entry_and_cose, verify_receipt_and_cose

    if cose is None or (file is None) == (entry is None):
        raise CommandError(
            "--cose goes with one receipt, or with --entry",
            hint="name the receipt's file, or the entry's; an export holds many",
        )
    if entry is not None:
        if head is not None or checkpoint is not None:
            raise CommandError(
                "an entry alone cannot be held against a head or a checkpoint",
                hint="verify the whole receipt, or an export, against it",
            )
        return verify_entry_and_cose(entry, cose, trusted)
    assert file is not None  # noqa: S101 - just looked at
    return verify_receipt_and_cose(file, cose, trusted, head=head, checkpoint=checkpoint)


def _read_uid(text: str, pin: str) -> bytes:
    """The uid of the key ledger, 16 bytes; empty if none is given."""
    from provledger.names import UID_BYTES

    if not text:
        return b""
    if not pin:
        raise CommandError("--key-ledger-uid needs --pin", hint="give both, or --keys")
    # `bytes.fromhex` passes over blanks, and of nothing but blanks it makes a uid that none asks.
    if re.fullmatch(rf"[0-9a-fA-F]{{{2 * UID_BYTES}}}", text) is None:
        raise CommandError(f"--key-ledger-uid is not {UID_BYTES} bytes in hex")
    return bytes.fromhex(text)


def _read_keys(path: Path) -> KeySet:
    from provledger.keyset import MAX_JWKS_BYTES, KeySet

    with path.open("rb") as file:
        return KeySet.parse(file.read(MAX_JWKS_BYTES + 1))


def _offline(file: Path, trusted: Trusted, head: bytes | None, checkpoint: bytes | None) -> Verdict:
    from provledger_cli.verifying import checking

    size_bytes = file.stat().st_size if str(file) != "-" and file.exists() else None
    with output.progress("receipts", counted=False) as bar:
        task = bar.add_task("verifying", total=size_bytes, done=0)
        verdict = checking.verify_file(
            file,
            trusted,
            head=head,
            checkpoint=checkpoint,
            on_progress=lambda position, count: bar.update(task, completed=position, done=count),
        )
        bar.update(task, completed=size_bytes or 0, done=verdict.receipts)
    return verdict


def _against_services(
    where: Target,
    tenant: str,
    ledger: str,
    trusted: Trusted,
    head: bytes | None,
    checkpoint: bytes | None,
    timeout_s: float,
) -> Verdict:
    from provledger import names
    from provledger_cli.transfer.live import verify_ledger

    name = names.ledger_name(tenant, ledger)
    with output.progress("receipts") as bar:
        stored = bar.add_task("stored rows", total=None)
        fetched = bar.add_task("receipts", total=None)
        return verify_ledger(
            where,
            name,
            trusted,
            head=head,
            checkpoint=checkpoint,
            timeout_s=timeout_s,
            on_rows=lambda done, total: bar.update(stored, completed=done, total=total),
            on_receipts=lambda done, total: bar.update(fetched, completed=done, total=total),
        )
