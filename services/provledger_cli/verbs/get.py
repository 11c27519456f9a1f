"""`provledger get`: fetch one receipt."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from provledger import names
from provledger_cli import output, placing
from provledger_cli.failures import DOES_NOT_HOLD, CommandError
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
    from provledger.client import AnchorState
    from provledger.receipt import Proof, Receipt
    from provledger_cli.connect import Target


def get(
    name: Annotated[
        str,
        typer.Argument(
            envvar="PROVLEDGER_RECEIPT",
            help="Full name, tenants/T/ledgers/L/receipts/ID, a bare ID with --tenant, or the file "
            "of a receipt that is to be fetched anew.",
            show_default=False,
        ),
    ],
    tenant: Annotated[
        str,
        typer.Option(
            "--tenant",
            envvar="PROVLEDGER_TENANT",
            help="Tenant id, for a bare receipt id.",
            show_default=False,
        ),
    ] = "",
    ledger: LedgerOption = "main",
    wait_anchored: Annotated[
        bool,
        typer.Option(
            "--wait-anchored",
            envvar="PROVLEDGER_WAIT_ANCHORED",
            help="Answer only once every sink holds a checkpoint that covers it.",
        ),
    ] = False,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint",
            envvar="PROVLEDGER_GET_CHECKPOINT",
            help="A checkpoint kept elsewhere: prove the receipt against this very one, so that it "
            "stands on it when a key is revoked.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            envvar="PROVLEDGER_OUT",
            help="Write the receipt to this file instead; - is stdout.",
            show_default=False,
        ),
    ] = None,
    form: Annotated[
        Literal["receipt", "tlog-proof", "cose"],
        typer.Option(
            "--format",
            envvar="PROVLEDGER_FORMAT",
            help="receipt; or its proof alone: tlog-proof, as c2sp.org/tlog-proof has it, or cose, "
            "a COSE receipt (RFC 9942). With --json these are in a document, as text and data_b64.",
        ),
    ] = "receipt",
    data_dir: DataDirOption = None,
    endpoint: EndpointOption = None,
    timeout: TimeoutOption = 60.0,
    tls_cert: TLSCertOption = None,
    tls_key: TLSKeyOption = None,
    tls_ca: TLSCAOption = None,
    as_json: JSONOption = False,
) -> None:
    """Fetch a receipt with the proofs that exist so far; --json or --out give the whole of it.

    What is written verifies with `provledger verify FILE --keys jwks.json`. Of a file, a masked
    receipt stays masked.

    Example: provledger get tenants/acme/ledgers/main/receipts/ID --wait-anchored --out r.json
    """
    from provledger_cli.connect import run_async, target
    from provledger_cli.verifying.receipts import show_receipt

    output.use_json(as_json, on_stdout=as_json or out is None)
    placing.claim(out)
    held = _held(name)
    full_name = _full_name(name, tenant, ledger) if held is None else held.name
    where = target(data_dir, endpoint, tls_cert=tls_cert, tls_key=tls_key, tls_ca=tls_ca)
    kept = None if checkpoint is None else checkpoint.read_bytes()
    receipt, state = run_async(_get(where, full_name, wait_anchored, kept, timeout))
    if held is not None:
        receipt = _joined(held, receipt, name)
    if held is not None and held.proofs and not receipt.proofs:
        raise CommandError(
            f"{full_name} came without a proof, and {name} has one",
            hint="the anchor may be away: keep the file, see `provledger status`, and run it again",
        )
    if form == "receipt":
        data = receipt.encode() + b"\n"
    elif form == "cose":
        data = run_async(_cose(where, receipt, timeout))
    else:
        data = _tlog_proof(receipt)
    if out is not None:
        placing.write(out, data)
        if not placing.is_stdout(out):
            output.say(f"wrote {output.literal(out)}")
    if as_json and form != "receipt":
        output.document(_document(receipt.name, form, data, out))
    elif as_json and not placing.is_stdout(out):
        # The receipt is JSON: it is the one document.
        output.raw(data)
    elif out is None and form == "receipt":
        show_receipt(receipt, state)
    elif out is None:
        output.raw(data)


def _document(name: str, form: str, data: bytes, out: Path | None) -> dict[str, str]:
    """A proof that is no JSON itself, in the document of --json."""
    # A tlog-proof is text, UTF-8 as the signed note in it.
    content = {"text": data.decode()} if form == "tlog-proof" else {"data_b64": _base64(data)}
    return {"name": name, "format": form, **content, **({"file": str(out)} if out else {})}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _held(name: str) -> Receipt | None:
    """The receipt in a file, if a file is named."""
    from provledger.receipt import MAX_RECEIPT_BYTES, Receipt, parse_receipt

    if not Path(name).is_file():
        return None
    with Path(name).open("rb") as file:
        receipt = parse_receipt(file.read(MAX_RECEIPT_BYTES + 1))
    if not isinstance(receipt, Receipt):
        raise CommandError("a receipt v0.1 has no proofs to fetch", hint="name one of v0.2")
    return receipt


def _joined(held: Receipt, fetched: Receipt, file: str) -> Receipt:
    """The receipt in a file, with the proofs that were fetched; a masked one stays so."""
    from provledger.errors import VerificationError
    from provledger.refresh import check_same

    try:
        check_same(held, fetched)
    except VerificationError as error:
        raise CommandError(
            f"the services hold another {held.name} than {file}",
            hint="verify the file with the keys you trust, and keep it",
            exit_code=DOES_NOT_HOLD,
        ) from error
    return replace(held, proofs=fetched.proofs)


def _tlog_proof(receipt: Receipt) -> bytes:
    from provledger.hashing import sha256, suite
    from provledger.outside import cosigned_checkpoint
    from provledger.tlog_proof import TlogProof, format_tlog_proof

    if suite(receipt.suite).tree is not sha256:
        raise CommandError(
            f"a tlog-proof is of a SHA-256 tree, and that of suite {receipt.suite} is none",
            hint="use the receipt itself, without --format",
        )
    proof = _proof(receipt)
    return format_tlog_proof(TlogProof(proof.log_index, proof.hashes, cosigned_checkpoint(proof)))


async def _cose(where: Target, receipt: Receipt, timeout_s: float) -> bytes:
    """The COSE receipt for a receipt's first proof, which must verify before it is written."""
    from provledger import checkpoint, note
    from provledger.api.anchor.v1 import anchor_pb2
    from provledger.api.keys.v1 import keys_pb2
    from provledger.cose_receipt import verify_cose_receipt
    from provledger.keyset import KeySet
    from provledger.rebuild import entry_of
    from provledger_cli.connect import Remote

    proof = _proof(receipt)
    size = checkpoint.parse(note.parse(proof.checkpoint).text).size
    async with Remote(where, timeout_s=timeout_s) as remote:
        request = anchor_pb2.GetCoseReceiptRequest(
            # The last part of an origin is the log's uid.
            log=f"logs/{proof.origin.rpartition('/')[2]}",
            log_index=proof.log_index,
            tree_size=size,
        )
        answer = await remote.call(remote.anchor.GetCoseReceipt, request)
        keys = await remote.call(remote.keys.GetJwks, keys_pb2.GetJwksRequest())
    known = KeySet.parse(keys.jwks)
    verify_cose_receipt(answer.receipt, entry_of(receipt), known, origin=proof.origin)
    data: bytes = answer.receipt
    return data


def _proof(receipt: Receipt) -> Proof:
    if not receipt.proofs:
        raise CommandError(
            "the receipt came without a proof", hint="wait for one with --wait-anchored"
        )
    return receipt.proofs[0]


def _full_name(name: str, tenant: str, ledger: str) -> str:
    if "/" in name:
        names.parse_receipt_name(name)
        return name
    if not tenant:
        raise CommandError(
            f"{name!r} is a bare receipt id", hint="add --tenant, or give the full name"
        )
    full_name = names.receipt_name(names.ledger_name(tenant, ledger), name)
    names.parse_receipt_name(full_name)
    return full_name


async def _get(
    where: Target, name: str, wait_anchored: bool, checkpoint: bytes | None, timeout_s: float
) -> tuple[Receipt, AnchorState]:
    """The receipt, and how far it has got: that is asked for only where no proof shows it."""
    from provledger.client import AnchorState
    from provledger_cli.connect import Remote
    from provledger_cli.verifying.receipts import proven_against

    async with Remote(where, timeout_s=timeout_s) as remote:
        if wait_anchored:
            receipt = await remote.client.wait_for_anchor(name)
        else:
            receipt = await remote.client.get_receipt(name)
        if checkpoint is not None:
            receipt = await proven_against(remote, receipt, checkpoint)
        if receipt.proofs:
            return receipt, AnchorState.LOGGED
        return receipt, (await remote.client.get_summary(name)).anchor_state
