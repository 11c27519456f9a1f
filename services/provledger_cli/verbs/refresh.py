"""`provledger refresh`: an old receipt or export gets proofs against a newer checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from provledger_cli import output, placing
from provledger_cli.failures import DOES_NOT_HOLD
from provledger_cli.options import (
    DataDirOption,
    EndpointOption,
    JSONOption,
    TimeoutOption,
    TLSCAOption,
    TLSCertOption,
    TLSKeyOption,
)

if TYPE_CHECKING:
    from provledger.keyset import KeySet
    from provledger.receipt import Receipt
    from provledger_cli.connect import Target


def refresh(
    file: Annotated[
        Path,
        typer.Argument(
            envvar="PROVLEDGER_REFRESH_FILE",
            help="A receipt, or an export (plain or .gz).",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            envvar="PROVLEDGER_REFRESH_OUT",
            help="File to write, or - for standard output. Default: the same one, replaced when "
            "the new one is whole.",
            show_default=False,
        ),
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(
            "--keys",
            envvar="PROVLEDGER_REFRESH_JWKS",
            help="JWK Set with the public keys you trust. Default: what the keys service "
            "publishes.",
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
    """Replace the proofs of a receipt, or of an export, by ones that lead to a newer checkpoint.

    Every other byte of a receipt stays, and a masked one stays masked. The newer checkpoint is
    proven to extend the old one, and what is written is verified before. An export is made anew, up
    to the ledger's present end; every receipt of the old one must be in it unchanged, and it must
    reach the old one's checkpoint and head, which it carries on. One that holds masked receipts is
    refused: the new one would show what was taken out.

    Exit code 0: written. 1: what the services have is not what you hold. 2: it could not be done.

    Example: provledger refresh receipt.json --keys jwks.json
    """
    from provledger.errors import VerificationError
    from provledger.export import is_export
    from provledger.keyset import MAX_JWKS_BYTES, KeySet
    from provledger_cli.connect import run_async, target
    from provledger_cli.sources import LineSource
    from provledger_cli.verifying import verdicts

    output.use_json(as_json)
    placing.claim(out)
    trusted = None
    if keys is not None:
        with keys.open("rb") as opened:
            trusted = KeySet.parse(opened.read(MAX_JWKS_BYTES + 1))
    with LineSource(file, max_line_bytes=1 << 20) as source:
        whole = is_export(next(source.lines(), b""))
    where = target(data_dir, endpoint, tls_cert=tls_cert, tls_key=tls_key, tls_ca=tls_ca)
    try:
        if whole:
            from provledger_cli.transfer.refreshing import refresh_export

            done = refresh_export(where, file, out or file, trusted, timeout)
        else:
            done = run_async(_refresh_receipt(where, file, out or file, trusted, timeout))
    except VerificationError as error:
        if as_json:
            output.document(verdicts.failure_document(error))
        else:
            verdicts.show_failure(error)
        raise typer.Exit(DOES_NOT_HOLD) from None
    if as_json:
        output.document(done)
    else:
        output.show(
            f"{done['receipts']:,} receipts in {output.literal(done['file'])}, proven against the "
            f"checkpoint of size {done['tree_size']:,}"
        )


async def _refresh_receipt(
    where: Target, file: Path, out: Path, keys: KeySet | None, timeout_s: float
) -> dict[str, Any]:
    from provledger import checkpoint as checkpoints
    from provledger import note
    from provledger.keyset import KeySet
    from provledger.refresh import check_same, refreshed
    from provledger.verify import Verifier
    from provledger_cli.connect import Remote
    from provledger_cli.verifying.receipt_files import receipts_of
    from provledger_cli.verifying.receipts import unproved

    (held,) = receipts_of(file)
    async with Remote(where, timeout_s=timeout_s) as remote:
        fetched = await remote.client.get_receipt(held.name)
        check_same(held, fetched)
        if not fetched.proofs:
            raise await unproved(remote, held.name)
        newer = fetched.proofs[0]
        size = checkpoints.parse(note.parse(newer.checkpoint).text).size
        consistency = await _consistency(remote, held, newer.origin, size)
        if keys is None:
            keys = KeySet.parse(await remote.client.jwks())
    found, report = refreshed(held, newer, consistency, Verifier(keys))
    placing.write(out, found.encode() + b"\n")
    return {
        "file": str(out),
        "receipts": 1,
        "tree_size": size,
        "origin": newer.origin,
        "status": report.status.value,
    }


async def _consistency(remote: Any, held: Receipt, origin: str, size: int) -> list[bytes]:
    """The proof from the checkpoint that is held to the newer one; none where none is needed."""
    from provledger import checkpoint as checkpoints
    from provledger import note
    from provledger.api.anchor.v1 import anchor_pb2

    old = [proof for proof in held.proofs if proof.origin == origin]
    if not old:
        return []
    old_size = checkpoints.parse(note.parse(old[0].checkpoint).text).size
    if old_size >= size:
        return []
    log = f"logs/{origin.rpartition('/')[2]}"
    request = anchor_pb2.GetConsistencyProofRequest(log=log, old_size=old_size, new_size=size)
    return list((await remote.call(remote.anchor.GetConsistencyProof, request)).hashes)
